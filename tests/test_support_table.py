"""The table of supported models says what tests said, and nothing where there was no test."""

import pytest

from dsmoe_eval.registry import load_model_card

from . import support_table

XML = """<testsuites><testsuite>
<testcase classname="tests.steering.test_architectures" name="test_probe[olmoe-1b-7b-float32]"/>
<testcase classname="tests.steering.test_architectures" name="test_probe[olmoe-1b-7b-bfloat16]"/>
<testcase classname="tests.steering.test_architectures" name="test_intervention[olmoe-1b-7b-force]">
  <properties><property name="outcome" value="refused"/></properties></testcase>
<testcase classname="tests.engines.vllm.test_steered_vllm" name="test_base_is_transformers[olmoe]">
  {vllm}</testcase>
</testsuite></testsuites>"""


@pytest.fixture
def tests(tmp_path):
    def read(vllm=""):
        path = tmp_path / "tests.xml"
        path.write_text(XML.replace("{vllm}", vllm))
        return support_table.outcomes([path])

    return read


def test_cells(tests):
    card = load_model_card("olmoe-1b-7b")
    said = {column: support_table.cell(tests(), column, card) for column in support_table.COLUMNS}
    assert {k: v for k, v in said.items() if v != "-"} == {
        "probe": "yes", "force": "refused", "vLLM": "yes",
    }  # fmt: skip


@pytest.mark.parametrize("bad", ["<failure/>", "<error/>", "<skipped/>"])
def test_what_did_not_pass_is_not_supported(tests, bad):
    found = tests(bad)
    assert support_table.cell(found, "vLLM", load_model_card("olmoe-1b-7b")) == "FAILED"
    assert support_table.cell(found, "vLLM", load_model_card("qwen1.5-moe-a2.7b")) == "-"
    assert "FAILED" in support_table.table(found)
