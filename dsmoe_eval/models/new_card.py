"""A model card that is written from a model's files, and what no file of the model says.

Weights are not needed: structure and sizes are read from the model that the configuration builds on
no device, the scoring rule from a small random one, on which steering is probed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ..cards import ModelCard
from ..cards.models import BITS
from ..errors import UserError
from ..files import read_limited
from ..registry import builtin_names, load_model_card
from ..steering import Scoring
from .architecture import Architecture, read_architecture, weightless
from .card_yaml import to_yaml
from .folder_checks import of_model, read_config
from .loading import fingerprint, identify_model, load_tokenizer, model_config
from .miniature import miniature
from .places import config_place
from .probing import ModelProbe, probe_model
from .prompt_format import MARKERS, names_of_model, template_turn, thinking_end
from .remote_code import allow_remote_code, code_hash, has_code

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Values = dict[str, object]
_ANSWER_TOKENS = 32_768
"""The limit for reasoning of the embedded cards; vendors name none."""
_NOT_ARCHITECTURE = re.compile(
    r"_.*|.*_token_id|architectures|auto_map|dtype|torch_dtype|model_type|transformers_version|"
    r"quantization_config|use_cache|initializer_range|id2label|label2id|problem_type|return_dict|"
    r"is_encoder_decoder|chunk_size_feed_forward|output_.*"
)
"""Keys of a config.json that do not define the architecture."""


@dataclass(frozen=True, slots=True)
class NewCard:
    """A model card, what it leaves open, and the outcome of the probes on a small random model.

    Attributes:
        unknown: key of the card, such as `parameters.published`, -> why its value is not known; it
            is then null or a guess.
    """

    card: ModelCard
    unknown: Mapping[str, str]
    probe: ModelProbe

    def to_yaml(self) -> str:
        """Return the card as YAML, with a comment on each line that is not known."""
        return to_yaml(self.card, self.unknown)

    def to_dict(self) -> Values:
        """Return the report for `--json`."""
        card = self.card.model_dump(mode="json")
        return {"card": card, "unknown": dict(self.unknown), "probe": self.probe.to_dict()}


def new_card(name: str, remote_code: str | None = None) -> NewCard:
    """Write the card of a model from its configuration, tokenizer and template, and probe it.

    Args:
        name: a hub id, a model folder, with weights or without, or the path of a config.json.
        remote_code: the architecture whose code may be taken from the model's files.

    Raises:
        UserError: the model cannot be read, or transformers has no code for it.
        SteeringError: the model has no router that can be steered.
    """
    place = config_place(name)
    if remote_code is not None:
        allow_remote_code(name, place, remote_code)
    config, raw = model_config(name, place), read_config(name, place)
    text, content = _text_part(config, raw)
    small = miniature(text)
    found = read_architecture(of_model(f"model {name!r}", lambda: weightless(text)))
    probe = probe_model(small, identify_model(f"{name}, random", "random", small))
    unknown: dict[str, str] = {}
    values = {
        "name": card_name(name),
        **_identity(place, config, raw, found, unknown),
        "architecture": text.model_type,
        "transformers": remote_code is None,
        "config": _architecture_keys(content, text, unknown),
        **_structure(found, text.num_hidden_layers, probe.scoring, unknown),
        **_format(place, text, unknown),
        **_precision(raw, unknown),
        "notes": _notes(text, config, found),
        "sources": _sources(place, config, remote_code),
    }
    unknown["licence"] = "see the model's page"
    unknown["parameters.published"] = "the vendor's counts, with their source"
    try:
        card = ModelCard.model_validate(values)
    except ValidationError as error:
        raise UserError(
            f"model {name!r}: a card cannot describe it ({_said(error)}); it is probed by "
            "`dsmoe-eval probe`, which needs no card"
        ) from error
    _check_size(place, card, unknown)
    return NewCard(card, unknown, probe)


def _said(error: ValidationError) -> str:
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ")


def card_name(name: str) -> str:
    """Return the name of a model's card: the end of its hub id or folder, in small letters.

    A card of this name is found in a folder `models`.
    """
    path = Path(name)
    folder = path.parent if path.name == "config.json" else path
    last = (names_of_model(str(folder)) if folder.is_dir() else [name])[-1].rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._+-]", "-", last).lstrip("._+-").lower() or "model"


def _text_part(
    config: PreTrainedConfig, raw: Mapping[str, object]
) -> tuple[PreTrainedConfig, Mapping[str, object]]:
    """Return the part of a configuration that is a causal language model, and its JSON."""
    text = config.get_text_config()
    if text is config or not has_code(text.model_type):
        return config, raw
    parts = (raw[key] for key in raw if getattr(config, key, None) is text)
    part = next(parts, None)
    return text, part if isinstance(part, Mapping) else text.to_diff_dict()


def _identity(
    place: str,
    config: PreTrainedConfig,
    raw: Mapping[str, object],
    found: Architecture,
    unknown: dict[str, str],
) -> Values:
    hub_id = next((name for name in names_of_model(place) if name.count("/") == 1), None)
    if hub_id is None:
        unknown["hub_id"] = "the model was read from a folder"
    classes = raw.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else None
    if named is None:
        unknown["class_name"] = "config.json names no architectures; vLLM goes by this name"
    cards = map(load_model_card, builtin_names("models"))
    return {
        "hub_id": hub_id,
        "revision": _revision(place, config),
        "class_name": str(named or found.class_name),
        "steered_in_paper": any(one.steered_in_paper and one.hub_id == hub_id for one in cards),
    }


def _architecture_keys(
    content: Mapping[str, object], text: PreTrainedConfig, unknown: dict[str, str]
) -> Values:
    """Return the keys of a config.json that define the architecture."""
    kept = {key: one for key, one in content.items() if not _NOT_ARCHITECTURE.fullmatch(key)}
    infinite = [key for key, one in kept.items() if not _finite(one)]
    if infinite:
        unknown["config"] = f"a card has no infinite numbers; left out: {', '.join(infinite)}"
    finite = {key: one for key, one in kept.items() if key not in infinite}
    return {"num_hidden_layers": text.num_hidden_layers, **finite}


def _finite(value: object) -> bool:
    if isinstance(value, Mapping):  # transformers writes infinity as {"__float__": "Infinity"}
        return "__float__" not in value and all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _structure(
    found: Architecture, layers: int, scoring: Scoring | None, unknown: dict[str, str]
) -> Values:
    shared = [round(one, 4) for one in found.shared_experts] or [0.0]
    if len(shared) > 1:
        unknown["shared_experts"] = f"layers differ: {', '.join(map(str, shared))}"
    if not found.shared_experts:
        unknown["shared_experts"] = "router and experts are parts of the layer itself"
    if layers != found.layers:
        unknown["dense_layers"] = (
            f"config.json counts {layers} layers, and the model has {found.layers}"
        )
    if scoring is None or scoring.function == "other":
        unknown["routing"] = "the function from logits to scores is neither softmax nor sigmoid"
    return {
        "parameters": {"total": found.total, "active": found.active},
        "experts": found.experts,
        "top_k": found.top_k,
        "shared_experts": int(shared[-1]) if shared[-1].is_integer() else shared[-1],
        "dense_layers": [one for one in range(layers) if one not in found.moe_layers],
        "routing": {
            "function": scoring.function if scoring else "other",
            "renormalised": bool(scoring and scoring.renormalised),
            "correction_bias": bool(scoring and scoring.correction_bias),
            "native_bias": found.native_bias,
            "groups": scoring.groups.count if scoring and scoring.groups else 1,
        },
    }


def _format(place: str, text: PreTrainedConfig, unknown: dict[str, str]) -> Values:
    """Return the prompt format and the marks of thinking, which only the tokenizer shows."""
    if Path(place).is_dir() and not any(Path(place).glob("tokenizer*")):
        unknown["format"] = "there are no files of a tokenizer; base, chat or reasoning"
        return {"format": "base"}
    try:
        tokenizer = load_tokenizer(place)
    except UserError as error:
        unknown["format"] = f"base, chat or reasoning: {error}"
        return {"format": "base"}
    if tokenizer.chat_template is None:
        return {"format": "base"}
    try:
        turn = template_turn(tokenizer) or ""
    except UserError as error:
        unknown["format"] = str(error)
        return {"format": "chat"}
    end, written = thinking_end(tokenizer)
    if written and end not in turn:
        context = getattr(text, "max_position_embeddings", None) or 2 * _ANSWER_TOKENS
        unknown["answer_tokens"] = "a choice; vendors seldom name the most"
        if MARKERS[end] not in turn:
            unknown["format"] = "the template has marks of thinking, but does not open it"
        return {
            "format": "reasoning",
            "think_start_token": MARKERS[end],
            "think_end_token": end,
            "answer_tokens": max(1, min(_ANSWER_TOKENS, context // 2)),
        }
    unknown["format"] = "base models may have the template of their chat siblings"
    if written:
        unknown["format"] = f"the template can let the model think, but by default writes {end}"
    elif end:
        unknown["format"] = f"the tokenizer has {end}, which the template does not write"
    return {"format": "chat"}


def _precision(raw: Mapping[str, object], unknown: dict[str, str]) -> Values:
    """Return the precision of the published weights, by what config.json says of it."""
    parts = [raw, *(one for one in raw.values() if isinstance(one, Mapping))]
    named = (part.get(key) for part in parts for key in ("dtype", "torch_dtype"))
    dtype = str(next(filter(None, named), None)).removeprefix("torch.")
    if dtype not in BITS:
        unknown["weights"] = "config.json names no precision of theirs"
        dtype = "bfloat16"
    quantised = raw.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
    if method == "mxfp4":
        return {"weights": dtype, "expert_weights": "mxfp4"}
    if method == "fp8":
        unknown["weights"] = "in part: embeddings, norms and routers have more bits"
        return {"weights": "float8"}
    if quantised:
        unknown["weights"] = f"they are quantised by {method}, for which a card has no name"
    return {"weights": dtype}


def _check_size(place: str, card: ModelCard, unknown: dict[str, str]) -> None:
    """Compare the files of the weights, where there are any, with the size that the card gives."""
    gib = sum(file.stat().st_size for file in Path(place).glob("*.safetensors")) / 2**30
    if gib and not math.isclose(gib, card.weights_gib, rel_tol=0.01):
        unknown["weights"] = f"the files hold {gib:.2f} GiB, the card gives {card.weights_gib:.2f}"


def _notes(text: PreTrainedConfig, config: PreTrainedConfig, found: Architecture) -> str | None:
    notes = []
    if text is not config:
        notes.append(f"The language model inside a {config.model_type}; other parts are left out.")
    if found.unrouted:
        layers = ", ".join(map(str, found.unrouted))
        notes.append(f"In layers {layers} no router chooses the experts: they cannot be steered.")
    return " ".join(notes) or None


def _revision(place: str, config: PreTrainedConfig) -> str | None:
    """Return the commit of a hub model, also of a folder in the hub's cache."""
    whole = Path(place).resolve()
    if whole.parent.name == "snapshots":
        return whole.name
    if Path(place).is_dir():
        return getattr(config, "_commit_hash", None)
    return fingerprint(place, config)


def _sources(place: str, config: PreTrainedConfig, remote_code: str | None) -> list[str]:
    from transformers import __version__ as release

    file, where = Path(place) / "config.json", "the hub's config.json, at the revision above"
    if file.is_file():
        digest = sha256(read_limited(file, 10**7)).hexdigest()
        where = f"{file.resolve().parent.name}/config.json, SHA-256 {digest}"
    code = f"transformers {release}" if remote_code is None else code_hash(config)
    return [
        f"config: {where}",
        f"parameters, layers, experts: counted on the model that this config builds; code: {code}",
        "routing: measured on a small random model of this config",
    ]
