"""The command line reference, `docs/cli.md`, generated from the click commands.

python tests/cli_reference.py            writes it
python tests/cli_reference.py --check    says whether it is up to date
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from dsmoe_eval.cli import main as dsmoe_eval

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """# Command line

This page is generated from the commands by `python tests/cli_reference.py`.
The option `--help` of a command prints the same.

Exit codes, unless a command says otherwise ([all of them](runs.md#exit-codes)):
0 is success, 1 is a negative result, 3 is a request that could not be done,
4 is an error in the program, 130 is an interruption.
"""


def commands(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    """Yield the context of every command below a group, in the order of `--help`."""
    if not isinstance(command, click.Group):
        yield context
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from commands(child, click.Context(child, parent=context, info_name=name))


def options(context: click.Context) -> list[str]:
    """Return the table of a command's options; nothing if it has only `--help`."""
    records = [
        parameter.get_help_record(context)
        for parameter in context.command.get_params(context)
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts
    ]
    rows = [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in filter(None, records)]
    return ["\n".join(["| option | meaning |", "|---|---|", *rows])] if rows else []


def section(context: click.Context) -> str:
    """Return the Markdown of one command."""
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## {context.command_path}", f"```text\n{usage}\n```", _prose(command.help or "")]
    parts += options(context)
    if command.epilog:
        examples = [line.strip() for line in command.epilog.split("\n")]
        shown = "\n".join(line for line in examples if line not in ("", "\b"))
        parts.append(f"Examples:\n\n```sh\n{shown}\n```")
    return "\n\n".join(parts)


def _prose(text: str) -> str:
    """Join the lines of each paragraph, which are broken for a terminal, and escape Markdown."""
    paragraphs = (" ".join(block.split()) for block in text.split("\n\n"))
    return re.sub(r"([*_<])", r"\\\1", "\n\n".join(paragraphs))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def page() -> str:
    """Return the whole page."""
    context = click.Context(dsmoe_eval, info_name="dsmoe-eval")
    found = list(commands(dsmoe_eval, context))
    listed = "\n".join(
        f"- [`{one.command_path}`](#{one.command_path.replace(' ', '-')}):"
        f" {_prose((one.command.help or '').partition(chr(10) * 2)[0])}"
        for one in found
    )
    common = [
        "Options before the name of the command, such as `dsmoe-eval --log-level warning run lab`:",
        *options(context),
    ]
    return "\n\n".join([HEAD.strip(), listed, *common, *map(section, found)]) + "\n"


def main() -> None:
    """Write the page or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/cli.md is out of date; run: python tests/cli_reference.py")


if __name__ == "__main__":
    main()
