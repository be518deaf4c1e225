"""The table of supported models in `docs/models.md`, made from nothing but the outcomes of tests.

    make support                             runs those tests and writes the table
    python tests/support_table.py --check    says whether the table is what the last run showed

A cell is what its tests passed with: "yes", or the word that they recorded as `outcome`. A cell
without a test is "-", and one with a failed test stops the table from being written.
"""

from __future__ import annotations

import argparse
import re
import sys
import xml.etree.ElementTree as ElementTree  # our own pytest's files
from pathlib import Path

from dsmoe_eval.cards import ModelCard
from dsmoe_eval.registry import builtin_names, load_model_card

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models.md"
REPORTS = [ROOT / "out" / f"tests-{part}.xml" for part in ("core", "rest", "slow", "vllm")]
BEGIN, END = "<!-- made by make support -->", "<!-- end -->"
KINDS = ("reweight", "bias", "amplify", "force", "mask")
# Column -> (module, test, its parameters), where {card} and {vllm} stand for the row's.
COLUMNS = {
    "card": [("test_models", r"\w+", r"{card}.*")],
    "probe": [("test_architectures", "test_probe", r"{card}-\w+")],
    **{kind: [("test_architectures", "test_intervention", f"{{card}}-{kind}")] for kind in KINDS},
    "capture": [("test_architectures", "test_capture", "{card}")],
    "vLLM": [
        (
            "test_steered_vllm",
            "test_base_is_transformers|test_steered_is_the_definition",
            r"{vllm}(-\w+)?",
        ),
        ("test_steered_vllm", "test_{vllm}_runs_in_bfloat16", None),
    ],
    "bake": [("test_baking", "test_bake|test_bake_refused", "{card}")],
}


def outcomes(paths: list[Path]) -> dict[tuple[str, str], str]:
    """(module, test with parameters) -> what came of it, of all tests in pytest's XML files."""
    found = {}
    for path in paths:
        for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314
            bad = any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
            words = [p.get("value") for p in case.iter("property") if p.get("name") == "outcome"]
            module = str(case.get("classname")).rpartition(".")[2]
            found[module, str(case.get("name"))] = "FAILED" if bad else (words or ["yes"])[0]
    return found


def cell(tests: dict[tuple[str, str], str], column: str, card: ModelCard) -> str:
    """What the tests of one column say of one model."""
    size = card.name.removeprefix("gpt-oss")
    row = {"card": re.escape(card.name), "vllm": card.architecture}
    if card.architecture == "gpt_oss":
        row["vllm"] += size
    said = set()
    for module, test, parameters in COLUMNS[column]:
        name = f"({test})" + (rf"\[{parameters}\]" if parameters else "")
        wanted = re.compile(name.replace("{card}", row["card"]).replace("{vllm}", row["vllm"]))
        said |= {word for (m, n), word in tests.items() if m == module and wanted.fullmatch(n)}
    return "FAILED" if "FAILED" in said else ", ".join(sorted(said)) or "-"


def table(tests: dict[tuple[str, str], str]) -> str:
    """The table in Markdown."""
    lines = [f"| model | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    cards = sorted(map(load_model_card, builtin_names("models")), key=lambda c: c.parameters.total)
    for card in cards:
        cells = [cell(tests, column, card) for column in COLUMNS]
        lines.append(f"| {card.hub_id} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    # `make support` runs the slow ones with the rest; what was not run is missed in the table.
    made = table(outcomes([path for path in REPORTS if path.is_file()]))
    if "FAILED" in made:
        sys.exit(f"{made}\n\nsome of these tests failed; docs/models.md is left as it is")
    text = f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}"
    if check and text != PAGE.read_text(encoding="utf-8"):
        sys.exit(f"{made}\n\ndocs/models.md says something else; run: make support")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
