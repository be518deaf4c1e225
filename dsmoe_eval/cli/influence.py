"""The command `influence`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .experts import given_text, text_options
from .main import (
    data_option,
    given_sites,
    loading_options,
    main,
    progress_console,
    report_options,
    sites_options,
)
from .terminal import echo


@main.command("influence")
@click.argument("model")
@text_options
@click.option(
    "--form", type=click.Choice(["exact", "gradient"]), default="exact", show_default=True,
    help="Let the routers select again, or take the gradient while no selection changes.",
)  # fmt: skip
@click.option(
    "--channel", type=click.Choice(["logit", "weight", "score"]), default="logit",
    show_default=True, help="What is raised: logits, weights, or correction biases.",
)  # fmt: skip
@click.option(
    "--step", type=click.FloatRange(min=0, min_open=True), default=0.5, show_default=True,
    help="With --form exact: by how much an expert is raised.",
)  # fmt: skip
@click.option(
    "--unit", type=click.Choice(["sigma", "odds"]), default="sigma", show_default=True,
    help="Unit of the step: sigma is the spread of each layer's logits over experts.",
)  # fmt: skip
@click.option(
    "--phase", type=click.Choice(["prompt", "generated"]), default="prompt", show_default=True,
    help="Of tasks with generated answers: the right answers, or the model's own that are right.",
)  # fmt: skip
@click.option(
    "--chat-template", is_flag=True, help="Wrap each question in the model's chat template."
)
@report_options
@data_option
@click.option("--limit", type=click.IntRange(min=1), help="Smoke test: at most N texts per task.")
@sites_options
@loading_options
@click.option("--device", help="A torch device, or auto [the first GPU, else cpu].")
def influence_command(model: str, out: Path | None, as_json: bool, **rest: Any) -> None:
    """Compute what raising each expert of MODEL does to right answers and to text, by domain.

    One forward and backward pass gives all experts.
    """
    from ..engines.load import load_engine
    from ..reports import influence_page, render_influence
    from ..studies import Shift, influence_study
    from ..tasks.identification import identification_text

    shift = Shift(rest["form"], rest["channel"], rest["step"], rest["unit"])
    sites = given_sites(rest["sites"], rest["block"])
    shift.check(sites)
    text = identification_text(given_text(rest), rest["limit"], rest["data"], answered=True)
    engine = load_engine(
        model, device=rest["device"], dtype=rest["dtype"],
        attn_implementation=rest["attn_implementation"], sites=sites,
    )  # fmt: skip
    result = influence_study(
        engine, text, shift, chat=rest["chat_template"], generated=rest["phase"] == "generated",
        root=rest["observations"], console=progress_console(),
    )  # fmt: skip
    page = None if out is None else render_influence(result, out)
    if as_json:
        echo(json.dumps(result))
    else:
        echo(influence_page(result) if page is None else page)
