"""A run of a model that is asked in its chat template."""

import json
import shutil

import pytest
import yaml
from rich.console import Console

from dsmoe_eval.engines.lm import EngineLM
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.registry import find_card
from dsmoe_eval.results.cells import read_cell
from dsmoe_eval.runs import run

TEMPLATE = "{% for m in messages %}In {{ m.role }} law, {{ m.content }}{% endfor %}"


@pytest.fixture
def chatting(tmp_path):
    folder = tmp_path / "chatting"
    shutil.copytree(EMBEDDED_MODELS["lab-poly"], folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


@pytest.fixture
def plan(tmp_path):
    content = yaml.safe_load(find_card("plans", "lab").read_text())
    content |= {"targets": ["math"], "variants": ["base", "contrast", "sft-lora"]}
    content["tuning"] = {"expert_counts": [2], "strengths": {"bias": [1.0]}}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("asked", ["auto", "plain"])
def test_questions_stand_in_the_template_or_none(plan, chatting, tmp_path, monkeypatch, asked):
    plan.write_text(plan.read_text() + f"prompt: {asked}\n")
    encoded, encode = [], EngineLM.tok_encode

    def noting(lm, text, *rest, **options):
        encoded.append(text)
        return encode(lm, text, *rest, **options)

    monkeypatch.setattr(EngineLM, "tok_encode", noting)
    settings = {"limit": 3, "device": "cpu", "model": chatting, "console": Console(quiet=True)}
    folder = run(str(plan), tmp_path / "run", **settings)
    questions = [text for text in encoded if "?" in text]
    in_template = [text for text in questions if text.startswith("In user law, ")]
    assert questions
    assert len(in_template) == (len(questions) if asked == "auto" else 0)
    result = json.loads(folder.comparisons.read_text())
    formats = {
        read_cell(folder, cell)["identity"]["prompt_format"]
        for arm in result["arms"] for cell in arm["cells"].values()
    }  # fmt: skip
    assert formats == {"chat" if asked == "auto" else "plain"}


def test_case_06_a_run_names_the_end_of_thinking(plan, chatting, tmp_path):
    content = yaml.safe_load(plan.read_text()) | {"variants": ["base", "contrast"]}
    plan.write_text(yaml.safe_dump(content | {"think_end_token": "keeper"}))
    settings = {"limit": 3, "device": "cpu", "model": chatting, "console": Console(quiet=True)}
    folder = run(str(plan), tmp_path / "run", **settings)
    result = json.loads(folder.comparisons.read_text())
    formats = {
        read_cell(folder, cell)["identity"]["prompt_format"]
        for arm in result["arms"] for cell in arm["cells"].values()
    }  # fmt: skip
    assert formats == {"chat, thinking up to keeper"}
