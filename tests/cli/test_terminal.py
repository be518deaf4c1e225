"""How a command ends: one sentence, an exit code that is no verdict, no control character."""

import ast
import re
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest

import dsmoe_eval
from dsmoe_eval.cli import main
from dsmoe_eval.cli.terminal import stop_by
from dsmoe_eval.errors import UserError, printable
from dsmoe_eval.progress import progress_bar

PACKAGE = Path(dsmoe_eval.__file__).parent


@pytest.fixture
def ends(monkeypatch, capsys):
    """Run a command that raises; gives the exit code and the lines on stderr."""

    def call(error, *options, inside=None):
        @click.command("list")
        @click.argument("words", nargs=-1)
        def fail(words):
            if inside is None:
                raise error
            inside()

        monkeypatch.setitem(main.commands, "list", fail)
        with pytest.raises(SystemExit) as stop:
            main([*options, "list", "x\x1b[31m"])
        return stop.value.code, capsys.readouterr().err.splitlines()

    return call


class OddError(Exception):
    """An error that nobody foresaw."""


def trace_of(message):
    return Path(re.search(r"the trace is in (\S+\.log)", message)[1])


@pytest.mark.parametrize(
    "error", [OddError("why \x1b[2J"), KeyError("x"), RecursionError(), ValueError("\n\n")]
)
def test_case_14_a_bug_ends_in_one_sentence_with_code_4_and_a_log_file(ends, error):
    code, lines = ends(error)
    assert code == 4
    (message,) = lines
    assert message.startswith("dsmoe-eval: list x\\x1b[31m: an error in the program")
    assert type(error).__name__ in message
    assert "please report it" in message
    path = trace_of(message)
    assert "Traceback (most recent call last)" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0  # it may quote data
    path.unlink()


def test_case_14_the_sentence_names_the_stage(ends):
    from rich.console import Console

    def inside():
        with progress_bar(Console(quiet=True), "tune arms", 1):
            raise OddError

    code, lines = ends(None, inside=inside)
    assert code == 4
    assert "list x\\x1b[31m, stage 'tune arms': an error" in lines[-1]
    trace_of(lines[-1]).unlink()


def test_case_14_without_room_for_a_log_the_trace_is_shown(ends, monkeypatch):
    monkeypatch.setattr(
        "tempfile.NamedTemporaryFile", lambda *_, **__: (_ for _ in ()).throw(OSError)
    )
    code, lines = ends(OddError("\x1b"))
    assert code == 4
    assert any(line.startswith("Traceback") for line in lines)
    assert "the trace is above" in lines[-1]
    assert "\x1b" not in "".join(lines)


def chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "the memory does not suffice"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "--limit"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
            "the memory does not suffice",
        ),
        (ImportError("x.so: failed to map segment from shared object"), "the memory"),
        (chained(ValueError("x"), MemoryError()), "the memory does not suffice"),
        (OSError(28, "No space left on device"), "list x\\x1b[31m: No space left on device; free"),
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device; free some"),
        (PermissionError(13, "Permission denied", "a"), "a: Permission denied"),
        (UserError("a \x1b[31m b\nc"), "dsmoe-eval: a \\x1b[31m b c"),
    ],
)
def test_case_14_what_is_no_bug_ends_with_code_3(ends, error, words):
    code, lines = ends(error)
    assert (code, len(lines)) == (3, 1)
    assert words in lines[0]
    assert "Traceback" not in lines[0]


@pytest.mark.parametrize(
    ("command", "goes_on"),
    [
        ("run smol", True),
        ("--log-level info identify m --text t", True),
        ("--log-level=error stability m", True),
        ("lab train lab-smol --text t", True),
        ("simsmoe --seeds 1", True),
        ("regress old new --plan controls", True),
        ("influence m --suite lab", True),
        ("keep m --suite lab", False),
        ("lab train lab-poly", False),
        ("existence m --out run", False),
        ("--log-level debug similarity m", False),
    ],
)
def test_an_interrupted_command_says_whether_it_goes_on(capsys, command, goes_on):
    with pytest.raises(SystemExit) as stop:
        stop_by(KeyboardInterrupt(), command.split())
    assert stop.value.code == 130
    said = capsys.readouterr().err
    assert ("start the same command again to go on" in said) == goes_on
    assert ("nothing was kept" in said) != goes_on


def test_case_14_debug_shows_the_trace(ends):
    code, lines = ends(UserError("x \x1b"), "--log-level", "debug")
    assert code == 3
    assert lines[0].startswith("Traceback")
    assert "\x1b" not in "".join(lines)


PROBE_TWICE = """
import resource
from dsmoe_eval.cli import main
probe = ["probe", "lab-poly", "--device", "cpu"]
main(probe)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used, used))
main(probe)
"""


@pytest.mark.slow
def test_case_14_a_limit_of_memory_is_said(tmp_path):
    """A real limit: the process may take no more than it had when everything was imported."""
    command = [sys.executable, "-c", PROBE_TWICE]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 3, done.stderr
    assert "the memory does not suffice" in done.stderr


def test_case_16_text_is_printed_without_commands_to_the_terminal():
    assert printable("a\x1b[31m\x07\x9b\r\u202eb\ud800") == "a\\x1b[31m\\x07\\x9b\\r\\u202eb\\ud800"
    assert printable("tab\tline\n é 中 👩‍🔬") == "tab\tline\n é 中 👩‍🔬"


def test_case_16_a_warning_quotes_no_control_character(ends):
    def inside():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("data \x1b[2J", UserWarning, stacklevel=1)
        raise UserError("x")

    with pytest.warns(UserWarning, match="data"):
        ends(None, inside=inside)
    before = warnings.formatwarning
    ends(None, inside=inside)
    assert warnings.formatwarning is before


def test_case_16_commands_print_through_one_function():
    """`terminal.echo` escapes; rich's tables and lines take `Text` of what `printable` made."""
    for path in PACKAGE.joinpath("cli").glob("*.py"):
        calls = [
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        ]
        assert "print" not in calls, path
        if path.name not in ("terminal.py", "main.py"):
            assert "click.echo" not in calls, path


def test_case_16_hostile_names_are_escaped_by_every_command(tmp_path, capsys):
    hostile = "m\x1b]0;x\x07[red]"
    folder = tmp_path / hostile
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "\\u001b[31m"}')
    (folder / "plan.yaml").write_text('"\\e[31m": 1\n')
    (folder / "p.json").write_text('{"\\u001b[31m": 1}')
    for arguments in (
        ["probe", str(folder)],
        ["run", str(folder / "plan.yaml")],
        ["probe", "lab-poly", "--profile", str(folder / "p.json")],
        ["compare", str(folder), str(folder)],
        ["report", str(folder)],
        ["run", f"no{hostile}"],
        [f"fly{hostile}"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 3
        streams = capsys.readouterr()
        assert "\x1b" not in streams.out + streams.err
        assert "\\x1b" in streams.err
        assert len(streams.err.splitlines()) == 1
