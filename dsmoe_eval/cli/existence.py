"""The command `existence`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .experts import given_text, text_options
from .main import (
    data_option,
    given_sites,
    loading_options,
    main,
    progress_console,
    sites_options,
)
from .terminal import echo

if TYPE_CHECKING:
    from ..studies.influence import FormName
    from ..studies.results import Basis


@main.command("existence")
@click.argument("model", nargs=-1, required=True)
@text_options
@click.option(
    "--by", type=click.Choice(["counts", "influence", "both"]), default="counts", show_default=True,
    help="Experts are specific by use, by what raising them does to the text, or by each of both.",
)  # fmt: skip
@click.option(
    "--form", type=click.Choice(["exact", "gradient"]), default="exact", show_default=True,
    help="With influence: let the routers select again, or take the gradient.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Folder [out/existence/<model>].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option(
    "--permutations", type=click.IntRange(min=99), default=9999, show_default=True,
    help="Shuffles of the documents' labels.",
)  # fmt: skip
@click.option(
    "--controls", type=click.IntRange(min=1), default=3, show_default=True,
    help="Models with random weights, and as many with shuffled routers; p >= 1 / (N + 1).",
)  # fmt: skip
@data_option
@click.option("--limit", type=click.IntRange(min=2), help="Smoke test: at most N texts per task.")
@sites_options
@loading_options
@click.option("--device", help="A torch device, or auto [the first GPU, else cpu].")
def existence_command(
    model: tuple[str, ...], out: Path | None, as_json: bool, by: str, form: FormName, **rest: Any
) -> None:
    """Test which experts of MODEL are specific to a domain of a suite, beside control models.

    Several MODELs are checkpoints of one model, in the order of its training: folders, or revisions
    of a hub model (NAME@REVISION). Then the number of specific experts along training is shown.
    """
    from ..reports import render_emergence, render_existence_maps
    from ..studies import emergence, existence_maps

    chosen: dict[str, tuple[Basis, ...]] = {
        "counts": ("counts",), "influence": ("influence",), "both": ("counts", "influence"),
    }  # fmt: skip
    bases = chosen[by]
    console = progress_console()
    test = partial(
        existence_maps, source=given_text(rest), bases=bases, form=form,
        permutations=rest["permutations"], controls=rest["controls"], limit=rest["limit"],
        device=rest["device"], console=console, data=rest["data"], dtype=rest["dtype"],
        attn_implementation=rest["attn_implementation"],
        sites=given_sites(rest["sites"], rest["block"]),
    )  # fmt: skip
    folder = out or Path("out") / "existence" / Path(model[0]).name
    if len(model) == 1:
        maps = test(model[0])
        content: object = maps.content()
        page = render_existence_maps(maps, folder)
    else:
        content = found = emergence(
            model, test, None if by == "counts" else form,
            lambda label: console.print(f"checkpoint {label}", highlight=False),
        )  # fmt: skip
        page = render_emergence(found, folder)
    if as_json:
        echo(json.dumps(content))
        return
    echo(page.read_text(encoding="utf-8").partition("\n## ")[0].strip())
    echo(f"\nreport: {page}")
