"""The README and docs/: links resolve, commands parse, runnable snippets run, nothing is missing.

A comment before a fenced block says what is done with it:

    <!-- runnable -->         runs in the quick set; a page's blocks share a folder, in their order
    <!-- runnable, slow -->   runs with the slow tests
    <!-- runnable, vllm -->   runs with test-full's vLLM tests, after the page's quick blocks
    <!-- output -->           is what the runnable block before it prints
"""

from __future__ import annotations

import ast
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml

from dsmoe_eval.cards import Card, Plan, Policy, Rule, Suite, Task, Variant
from dsmoe_eval.cards.policies import Metric
from dsmoe_eval.cli import main
from dsmoe_eval.cli.terminal import LEVELS
from dsmoe_eval.experts import all_methods
from dsmoe_eval.registry import builtin_names
from dsmoe_eval.steering.profile import InterventionKind
from dsmoe_eval.variants import all_variants

from . import cli_reference

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
README_BYTES = 7_000
FENCE = re.compile(r"(?:<!-- (?P<mark>[\w, ]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block; `mark` is the comment before it."""

    page: str
    mark: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.text.replace("\\\n", " ").split("\n") if line.strip()]


def read_blocks(path: Path) -> list[Block]:
    name = str(path.relative_to(ROOT))
    fences = FENCE.finditer(path.read_text(encoding="utf-8"))
    return [Block(name, f["mark"] or "", f["language"], f["text"]) for f in fences]


BLOCKS = [block for path in PAGES for block in read_blocks(path)]


def words_of(line: str) -> list[str]:
    """The words of the first simple command of a shell line, after `- run:` of a workflow."""
    lexer = shlex.shlex(line.strip().removeprefix("- run: "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    ends = [i for i, word in enumerate(words) if set(word) <= set("|&;<>()")]
    return words[: ends[0]] if ends else words


def shell_commands() -> Iterator[tuple[str, list[str]]]:
    for block in BLOCKS:
        for line in block.lines if block.language in ("sh", "yaml") else []:
            ours = line.strip().removeprefix("- run: ").startswith("dsmoe-eval ")
            if (block.language == "sh" or ours) and (words := words_of(line)):
                yield block.page, words


SHELL = list(shell_commands())
COMMANDS = sorted({(p, shlex.join(w[1:])) for p, w in SHELL if w[0] == "dsmoe-eval"})
MENTIONED = sorted(
    {
        (str(path.relative_to(ROOT)), words)
        for path in PAGES
        for words in re.findall(r"`dsmoe-eval ([^`]+)`", FENCE.sub("", path.read_text("utf-8")))
    }
)


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The click command that words begin with, and the rest of the words."""
    command: click.Command = main
    if words[:1] == ["--log-level"]:
        assert words[1] in LEVELS
        words = words[2:]
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_shown_parses(page, line, monkeypatch):
    monkeypatch.setenv("DSMOE_EVAL_DATA", "")  # which parsing `--data` sets
    monkeypatch.setattr("dsmoe_eval.cli.copying._local", str)  # parsing reads what is at a URL
    command, words = resolve(shlex.split(line))
    if words in (["--help"], ["--version"]):
        return
    assert not isinstance(command, click.Group), f"{page}: no command {words[:1]}"
    command.make_context(command.name, words)  # raises what the user would read


@pytest.mark.parametrize(("page", "line"), MENTIONED)
def test_every_command_mentioned_exists(page, line):
    command, words = resolve(line.split())
    options = {name for parameter in command.params for name in parameter.opts}
    given = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
    assert given <= options | {"--help"}, f"{page}: {given - options} is no option of {line}"
    assert command is not main or not words, f"{page}: no command {words[:1]}"


def test_commands_are_shown():
    assert len(COMMANDS) > 40


def test_make_targets_and_scripts_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page, words in SHELL:
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert all(f"\n{target}:" in makefile or "test-" in target for target in targets), words
        if words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), f"{page}: {words[1]}"


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def links(path: Path) -> list[str]:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.S)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_anchors_resolve(path):
    for link in links(path):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme():
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        path = todo.pop()
        reached.add(path)
        targets = {(path.parent / link.partition("#")[0]).resolve() for link in links(path)}
        todo += [t for t in targets if t in PAGES and t not in reached]
    assert reached == set(PAGES)


def test_readme_is_short_and_has_the_two_commands():
    readme = (ROOT / "README.md").read_bytes()
    assert len(readme) <= README_BYTES
    for target in ("lab", "test"):
        assert f"\nmake {target}" in readme.decode()
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_command_line_reference_is_up_to_date():
    assert cli_reference.PAGE.read_text(encoding="utf-8") == cli_reference.page()


def card_of(content: dict[str, object]) -> type[Card] | None:
    """The card that a YAML block shows, by its keys; None for a fragment or something else."""
    keys = {"rules": Policy, "tasks": Suite, "kind": Variant, "variants": Plan}
    return next((card for key, card in keys.items() if key in content), None)


CARDS = [
    (block.page, card, content)
    for block in BLOCKS
    if block.language == "yaml" and (card := card_of(content := yaml.safe_load(block.text)))
]


@pytest.mark.parametrize(("page", "card", "content"), CARDS)
def test_every_card_shown_is_valid(page, card, content):
    card.model_validate(content)


def test_each_kind_of_card_is_shown():
    assert {card for _, card, _ in CARDS} == {Plan, Policy, Suite, Variant}


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.page
)
def test_what_python_examples_import_is_there(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("dsmoe_eval"):
            module = importlib.import_module(str(node.module))
            assert [a.name for a in node.names if not hasattr(module, a.name)] == []


EXPLAINED = {
    "variants.md": list(all_variants()),
    "identification.md": list(all_methods()),
    "steering.md": list(get_args(InterventionKind)),
    "runs.md": list(Plan.model_fields),
    "suites.md": [*Suite.model_fields, *Task.model_fields, *builtin_names("suites")],
    "gates.md": [*get_args(Metric), *Rule.model_fields],
}


def explained_in(page: str) -> set[str]:
    """What the first cells of a page's tables name."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    cells = re.findall(r"^\|([^|]*)\|", text, re.M)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize(("page", "name"), [(p, n) for p, ns in EXPLAINED.items() for n in ns])
def test_every_name_has_a_row_in_a_table(page, name):
    assert name in explained_in(page)


def test_citation_names_the_package_as_it_is():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{citation["version"]}"' in pyproject
    assert f'license = "{citation["license"]}"' in pyproject


def run_block(block: Block) -> str:
    """Run a block in this process, since every new one would import torch again; what it prints."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        if block.language == "python":
            exec(compile(block.text, block.page, "exec"), {"__name__": "snippet"})  # noqa: S102
        for line in block.lines if block.language == "sh" else []:
            words = words_of(line)
            assert words[0] == "dsmoe-eval", f"{block.page}: only our commands run: {line}"
            main(words[1:])
    return printed.getvalue()


def squeezed(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.split("\n") if line.strip()]


def run_blocks(blocks: list[Block], marks: set[str]) -> None:
    printed = ""
    for block in blocks:
        if block.mark in marks:
            printed = run_block(block)
        elif block.mark == "output" and printed:
            expected, lines = squeezed(block.text), squeezed(printed)
            assert [line for line in expected if line not in lines] == [], printed
            printed = ""


def pages_with(mark: str) -> list[str]:
    return sorted({block.page for block in BLOCKS if block.mark == mark})


@pytest.mark.parametrize("page", pages_with("runnable"))
def test_quick_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(read_blocks(ROOT / page), {"runnable"})


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("runnable, slow"))
def test_slow_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(read_blocks(ROOT / page), {"runnable", "runnable, slow"})


@pytest.mark.vllm
@pytest.mark.full
@pytest.mark.parametrize("page", pages_with("runnable, vllm"))
def test_vllm_snippets_run(page, tmp_path, monkeypatch):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    monkeypatch.chdir(tmp_path)
    blocks = read_blocks(ROOT / page)
    run_blocks(blocks, {"runnable"})
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    for block in blocks:
        if block.mark == "runnable, vllm":
            command = [sys.executable, "-c", block.text]
            done = subprocess.run(  # noqa: S603
                command, env=os.environ | settings, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr[-3000:]


def test_marks_are_known():
    known = {"", "output", "runnable", "runnable, slow", "runnable, vllm"}
    assert {block.mark for block in BLOCKS} <= known
    assert pages_with("runnable")
    assert pages_with("runnable, slow")
    assert pages_with("runnable, vllm")
