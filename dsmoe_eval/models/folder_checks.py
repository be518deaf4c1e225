"""Checks of a model's files before anything large is read, built or allocated."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from ..errors import EvalWarning, UserError, one_line, out_of_memory
from ..files import read_limited
from .revisions import from_hub

T = TypeVar("T")

_RANGES = {
    "num_hidden_layers": (1, 1_000),
    "n_layer": (0, 1_000),
    "n_layers": (0, 1_000),
    "num_layers": (0, 1_000),
    "num_attention_heads": (1, 10_000),
    "num_key_value_heads": (1, 10_000),
    "hidden_size": (1, 1_000_000),
    "d_model": (1, 1_000_000),
    "n_embd": (1, 1_000_000),
    "head_dim": (1, 1_000_000),
    "intermediate_size": (1, 10_000_000),
    "moe_intermediate_size": (1, 10_000_000),
    "shared_expert_intermediate_size": (0, 10_000_000),
    "vocab_size": (1, 100_000_000),
    "num_experts": (0, 100_000),
    "num_local_experts": (0, 100_000),
    "n_routed_experts": (0, 100_000),
    "num_experts_per_tok": (0, 100_000),
}
"""The least and the most of common sizes: no model is near, and memory is not at risk."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_DEEPEST = 20
_MOST_BYTES = 10_000_000


def of_model(name: str, make: Callable[[], T]) -> T:
    """Call transformers on a model's files, and turn any error into one sentence.

    Args:
        name: the model and perhaps the file, with which the sentence begins.
        make: reads or builds something of the model.

    Raises:
        UserError: `make` failed for another reason than a lack of memory.
    """
    try:
        return make()
    except UserError:
        raise
    except Exception as error:  # given a damaged file, a library may raise anything
        if out_of_memory(error):
            raise
        raise UserError(
            f"{name} cannot be loaded: {reason(error)}; check its files, or download them again"
        ) from error


def reason(error: BaseException) -> str:
    """Return an error's text on one line, where transformers' words would mislead in others."""
    words = one_line(error)
    if "ignore_mismatched_sizes" in words:  # an option of transformers, not of ours
        words = "its weights have other shapes than config.json says"
    if isinstance(error, KeyError):
        words = f"{words} is missing or not known"
    return words


def read_config(name: str, place: str) -> Mapping[str, object]:
    """Read a model's configuration, and check that its sizes, nested ones included, are plausible.

    Args:
        name: the model's name, for the messages.
        place: its folder or hub id.

    Raises:
        UserError: it cannot be read, is no object, its `model_type` is no name, or a size is no
            whole number, or outside of any model's range.
    """
    from transformers import PreTrainedConfig

    path = Path(place) / "config.json"
    if Path(place).is_dir():
        config = of_model(str(path), lambda: json.loads(read_limited(path, _MOST_BYTES)))
        where = str(path)
    else:
        where = f"model {name!r}: config.json"
        config = of_model(where, lambda: PreTrainedConfig.get_config_dict(**from_hub(place))[0])
    if not isinstance(config, Mapping):
        raise UserError(
            f"{where}: is a {type(config).__name__}, and a model's configuration is an object; "
            "download it again"
        )
    if not isinstance(config.get("model_type", ""), str):
        raise UserError(
            f"{where}: model_type is {config['model_type']!r:.60}, and should be a name; download "
            "the file again"
        )
    for part in _parts(config):
        _check_sizes(where, part)
    return config


def _parts(config: Mapping[str, object], depth: int = 0) -> Iterator[Mapping[str, object]]:
    yield config
    if depth < _DEEPEST:
        for value in config.values():
            if isinstance(value, Mapping):
                yield from _parts(value, depth + 1)


def _check_sizes(where: str, config: Mapping[str, object]) -> None:
    for name, (least, most) in _RANGES.items():
        value = config.get(name)
        if value is None or (isinstance(value, list) and value):  # a list has a value per layer
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise UserError(
                f"{where}: {name} is {value!r:.60}, and should be a whole number from {least:,} to "
                f"{most:,}; download the file again"
            )
    chosen = config.get("num_experts_per_tok")
    for name in _EXPERTS:
        experts = config.get(name)
        if isinstance(chosen, int) and isinstance(experts, int) and 0 < experts < chosen:
            raise UserError(
                f"{where}: num_experts_per_tok is {chosen}, more than {name}, {experts}; download "
                "the file again"
            )


def check_weights(folder: Path) -> None:
    """Check the headers and lengths of a folder's weights; no weight is read.

    Raises:
        UserError: a file is cut off, as by an interrupted download, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise UserError(
                f"{path}: cut off or damaged ({reason(error)}); download it again"
            ) from error


def check_loaded(name: str, found: Mapping[str, Collection[str]]) -> None:
    """Check that the files have all weights of a loaded model, and warn of those left over.

    Args:
        name: the model, with which the messages begin.
        found: transformers' loading info: names of weights in `missing_keys`, `unexpected_keys`.

    Raises:
        UserError: the files lack a weight, so that it was drawn at random.
    """
    way = "check num_hidden_layers in config.json, or download all files again"
    if found["missing_keys"]:
        raise UserError(
            f"{name}: its files lack {_some(found['missing_keys'])}, which would be random; {way}"
        )
    if found["unexpected_keys"]:
        warnings.warn(
            f"{name}: its files hold {_some(found['unexpected_keys'])}, which transformers does "
            f"not use: the model may be cut; {way}",
            EvalWarning,
            stacklevel=3,
        )


def _some(names: Collection[str]) -> str:
    first = min(names)
    return f"the weight {first}" if len(names) == 1 else f"{len(names)} weights, such as {first}"
