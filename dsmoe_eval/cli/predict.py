"""The command `predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .main import data_option, loading_options, main, progress_console, report_options
from .terminal import echo


@main.command("predict")
@click.argument("profile", type=click.Path(path_type=Path))
@click.option("--suite", required=True, help="Name or YAML file of the suite.")
@click.option("--model", help="Model to steer [the profile's].")
@click.option(
    "--prompt", type=click.Choice(["auto", "plain", "chat"]), default="auto", show_default=True,
    help="Whether questions use the chat template.",
)  # fmt: skip
@report_options
@data_option
@click.option("--limit", type=click.IntRange(min=1), help="Smoke test: at most N items per task.")
@loading_options
@click.option("--device", help="A torch device, or auto [the first GPU, else cpu].")
def predict_command(
    profile: Path, suite: str, out: Path | None, as_json: bool, **rest: Any
) -> None:
    """Compute the gain that PROFILE is expected to have, before a test is run.

    The identification split predicts it; the tuning split shows up to which strength that holds. Of
    the test split it is computed how small a gain its items could show.
    """
    from ..engines.load import load_engine
    from ..reports import prediction_page, render_prediction
    from ..steering import Profile
    from ..studies.prediction import predict_profile
    from ..studies.questions import load_questions

    chosen = Profile.load(profile)
    questions = load_questions(suite, chosen, rest["limit"], rest["data"])
    engine = load_engine(
        rest["model"] or chosen.model.name, device=rest["device"], dtype=rest["dtype"],
        attn_implementation=rest["attn_implementation"], sites=chosen.sites,
    )  # fmt: skip
    found = predict_profile(
        engine, chosen, questions, prompt=rest["prompt"], root=rest["observations"],
        console=progress_console(),
    )  # fmt: skip
    page = None if out is None else render_prediction(found, out)
    if as_json:
        echo(json.dumps(found.to_dict()))
    else:
        echo(prediction_page(found) if page is None else page)
