"""The command that serves a model and its profiles."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UserError
from .main import main
from .terminal import echo

if TYPE_CHECKING:
    from ..engines.vllm.catalog import Catalog

_EXAMPLES = """\b
  dsmoe-eval serve lab-poly --profiles out/lab/profiles
  dsmoe-eval serve allenai/OLMoE-1B-7B-0924 --name olmoe --profiles profiles -- --max-model-len 4096
"""


@main.command("serve", epilog=_EXAMPLES)
@click.argument("model")
@click.argument("vllm_options", metavar="[-- VLLM_OPTIONS...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--profiles", type=click.Path(path_type=Path),
              help="Folder of profiles (*.json): NAME.json becomes the model MODEL:NAME.",
)  # fmt: skip
@click.option("--name", help="Name of the model in requests [MODEL; of a folder its name].")
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address at which the server listens; any other needs an API key.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
              help="Port; 0 takes a free one.")  # fmt: skip
@click.option("--api-key-file", type=click.Path(path_type=Path),
              help="File with the key that requests must have [$VLLM_API_KEY].")  # fmt: skip
@click.option("--max-profiles", type=click.IntRange(1, 4096), default=64, show_default=True,
              help="Number of profiles that can be loaded at once.")  # fmt: skip
def serve_command(
    model: str,
    vllm_options: tuple[str, ...],
    profiles: Path | None,
    name: str | None,
    host: str,
    port: int,
    api_key_file: Path | None,
    max_profiles: int,
) -> None:
    """Serve MODEL by vLLM's OpenAI-compatible server, with profiles as further models.

    A request asks for MODEL, or for MODEL:NAME, which is MODEL steered by the profile NAME.
    Requests of different profiles are computed together. Options of vllm serve follow after two
    dashes.
    """
    from ..engines.vllm.catalog import read_profiles
    from ..engines.vllm.serving import Serving, serve

    if api_key_file is not None:
        os.environ["VLLM_API_KEY"] = _read_key(api_key_file)
    serving = Serving(
        model=model,
        name=name or (Path(model).resolve().name if Path(model).is_dir() else model),
        profiles=[] if profiles is None else read_profiles(profiles),
        most=max_profiles,
        host=host,
        port=port,
        options=vllm_options,
    )
    serve(serving, announce)


def _read_key(path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the API key cannot be read ({error})") from error
    if not key or len(key.split()) != 1:
        raise UserError(f"{path}: must have one line, the API key")
    return key


def announce(address: str, catalog: Catalog) -> None:
    """Print the address, the models, and a request as an example."""
    models = [catalog.model, *map(catalog.model_name, catalog.profiles)]
    key = ' -H "Authorization: Bearer $VLLM_API_KEY"' if os.environ.get("VLLM_API_KEY") else ""
    body = {"model": models[-1], "prompt": "1 + 1 =", "max_tokens": 8, "temperature": 0}
    echo(f"serving at {address}/v1: {', '.join(models)}")
    echo(f"  curl {address}/v1/completions{key} -H 'Content-Type: application/json' \\\n"
         f"    -d {shlex.quote(json.dumps(body))}")  # fmt: skip
    echo("end it with Ctrl-C")
