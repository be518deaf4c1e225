"""The README claims nothing that a command in it does not show."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from dsmoe_eval.cli import main
from dsmoe_eval.variants import all_variants

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def _command(words):
    """The click command that a line of words names, and the words after its name."""
    command = main
    while isinstance(command, click.Group):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    return command, words


FENCED = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
INDENTED = "\n".join(line[4:] for line in README.split("\n") if line.startswith("    "))
LINES = re.findall(r"^dsmoe-eval ([^#\n]+)", f"{FENCED}\n{INDENTED}", re.MULTILINE)


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_names_a_command_and_its_options(line):
    command, words = _command(line.replace("[", " ").replace("]", " ").split())
    known = {option for parameter in command.params for option in parameter.opts}
    given = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
    assert given <= known, f"{given - known} is no option of {command.name}"


def test_there_are_command_lines():
    assert len(LINES) >= 8


def test_every_variant_is_explained():
    for name in all_variants():
        assert f"| `{name}` |" in README


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_make_has_the_two_commands():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("lab", "test"):
        assert f"    make {target}" in README
        assert f"\n{target}:" in makefile


STEER_EXAMPLE, VLLM_EXAMPLE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The profile that the README's own command makes."""
    identify = re.findall(r"^dsmoe-eval (identify .* -o profile.json)$", FENCED, re.MULTILINE)[0]
    path = tmp_path_factory.mktemp("readme") / "profile.json"
    main(identify.replace("profile.json", str(path)).split())
    return path


def _run(example, **environment):
    command = [sys.executable, "-c", example]
    settings = {"env": os.environ | environment, "cwd": ROOT, "text": True}
    done = subprocess.run(command, capture_output=True, check=False, **settings)  # noqa: S603
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_python_example_runs(profile):
    said = _run(STEER_EXAMPLE.replace('"profile.json"', repr(str(profile))))
    assert said.startswith("What is the sign of the cell? ")


@pytest.mark.vllm
def test_the_vllm_example_runs(profile):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    example = VLLM_EXAMPLE.replace("path/to/model", "lab-poly").replace(
        ", tensor_parallel_size=2", ", max_model_len=64"
    )
    load = f"from dsmoe_eval.steering import Profile\nprofile = Profile.load({str(profile)!r})\n"
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    assert "(1, " in _run(f"{load}{example}print(tuple(rows.shape))", **settings)
