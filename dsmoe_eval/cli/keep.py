"""The command `keep`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import UserError
from .main import data_option, loading_options, main, progress_console, report_options
from .terminal import echo


@main.command("keep")
@click.argument("model")
@click.option("--suite", required=True, help="Suite: a name or YAML file.")
@click.option(
    "--methods", default="reap,frequency,risk-difference", show_default=True,
    help="Methods that rank experts, with commas between them: see `dsmoe-eval list methods`.",
)  # fmt: skip
@click.option(
    "--keep", default="75,50,25", show_default=True,
    help="Per cent of each layer's experts that are kept, with commas between them.",
)  # fmt: skip
@click.option(
    "--draws", type=click.IntRange(min=1), default=3, show_default=True,
    help="Draws of the control, as many random experts of each layer.",
)  # fmt: skip
@click.option(
    "--role", type=click.Choice(["target", "non-target"]), default="target", show_default=True,
    help="Role of the tasks that are answered.",
)  # fmt: skip
@click.option("--domain", multiple=True, help="Domain [all with such tasks]; may be repeated.")
@click.option("--items", type=click.IntRange(min=2), help="At most N test items per task [all].")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the draws [0].")
@report_options
@data_option
@loading_options
@click.option("--device", help="A torch device, or auto [the first GPU, else cpu].")
def keep_command(model: str, out: Path | None, as_json: bool, **rest: Any) -> None:
    """Measure what each domain's answers lose when the layers of MODEL keep only some experts.

    Experts are ranked for each domain on its identification text; the answers are those of the test
    split.
    """
    from ..engines.load import load_engine
    from ..reports import keep_page, render_keep
    from ..studies import KeepGrid, keep_curves

    grid = KeepGrid(
        methods=_methods(rest["methods"]), shares=_shares(rest["keep"]), draws=rest["draws"],
        role=rest["role"], domains=rest["domain"], items=rest["items"], seed=rest["seed"],
    )  # fmt: skip
    engine = load_engine(
        model, device=rest["device"], dtype=rest["dtype"],
        attn_implementation=rest["attn_implementation"],
    )  # fmt: skip
    result = keep_curves(
        engine, rest["suite"], grid, data=rest["data"], root=rest["observations"],
        console=progress_console(),
    )  # fmt: skip
    page = None if out is None else render_keep(result, out)
    if as_json:
        echo(json.dumps(result))
    else:
        echo(keep_page(result) if page is None else page)


def _methods(text: str) -> tuple[str, ...]:
    from ..experts import get_method

    methods = tuple(dict.fromkeys(one.strip() for one in text.split(",")))
    try:
        for name in methods:
            get_method(name)
    except ValueError as error:
        raise UserError(f"--methods: {error}") from error
    return methods


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(one.strip().removesuffix("%")) / 100 for one in text.split(","))
    except ValueError:
        shares = ()
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UserError(f"--keep {text!r} is no list of per cent, such as 75,50,25")
    return shares
