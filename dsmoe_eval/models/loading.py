"""Loads a model and says exactly which one it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..cards import ModelCard
from ..errors import UserError
from ..experts.tokenizer import Tokenizer
from ..lab import EMBEDDED_MODELS
from ..registry import builtin_names, load_model_card
from ..steering import ModelIdentity, SteeringError, find_routers, model_router_hash

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory with its tokenizer and identity."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    identity: ModelIdentity

    @property
    def dtype(self) -> str:
        """Such as `float32`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def experts_implementation(self) -> str:
        """How transformers computes the experts; an axis on which numbers may differ."""
        return str(getattr(self.model.config, "_experts_implementation", None))


@dataclass(frozen=True, slots=True)
class Reader:
    """A causal language model, MoE or not, that reads text and says which tokens mattered."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    fingerprint: str


def load_reader(name: str, device: str | None = None) -> Reader:
    """Load any causal language model, by the rules of `load_model`.

    Raises:
        UserError: as `load_model`, but for "no MoE".
    """
    place, model, tokenizer = _load(name, device)
    return Reader(model, tokenizer, fingerprint(place, model.config))


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of anything that `load_model` takes, without its weights.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer

    place = locate(name)
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"tokenizer of {name!r} cannot be loaded: {_first_line(error)}") from error
    return tokenizer


def load_model(name: str, device: str | None = None) -> LoadedModel:
    """Load an embedded model, a card's, a local folder, or a hub id.

    Safetensors only, and no remote code: a folder's or hub model's `auto_map` is not followed, so
    that the classes are those of transformers.

    Args:
        name: `lab-poly`, the name of a model card, a folder with `config.json`, or
            `organisation/model`.
        device: a torch device; by default the first GPU, or the CPU where there is none. `auto`
            spreads the model over all devices that there are, as accelerate sees fit.

    Raises:
        UserError: nothing of that name, not a model folder, no safetensors, no code for it in
            transformers, or no MoE.
    """
    place, model, tokenizer = _load(name, device)
    try:
        identity = identify_model(name, fingerprint(place, model.config), model)
    except SteeringError as error:
        raise UserError(f"model {name!r}: {error}") from error
    return LoadedModel(model, tokenizer, identity)


def _load(name: str, device: str | None) -> tuple[str, PreTrainedModel, Tokenizer]:
    """Where it is, the model, its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = locate(name)
    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    spread = target == "auto"
    try:
        torch.empty(0, device="cpu" if spread else target)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {target!r} is not to be had here: {_first_line(error)}") from error
    try:
        _check_known(name, place)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            place,
            dtype="auto",
            trust_remote_code=False,
            use_safetensors=True,
            device_map="auto" if spread else None,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model {name!r} cannot be loaded: {_first_line(error)}") from error
    return place, (model if spread else model.to(target)).eval(), tokenizer


def model_folder(name: str) -> Path:
    """The folder with the files of a model that `load_model` takes; a hub model's is its snapshot.

    Raises:
        UserError: nothing of that name.
    """
    place = locate(name)
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(place, allow_patterns=["*.json", "*.safetensors", "*.txt"]))


def bare_config(name: str) -> PreTrainedConfig | None:
    """The configuration behind a name that comes without weights, or None where there are weights.

    Args:
        name: of a model card; a `config.json`; or a folder that holds one and no safetensors.

    Raises:
        UserError: the file is no configuration, or transformers has no code for its architecture.
    """
    from transformers import AutoConfig

    path = Path(name)
    if name in builtin_names("models"):
        return card_config(load_model_card(name))
    folder = path.parent if path.name == "config.json" and path.is_file() else path
    if not (folder / "config.json").is_file() or (
        folder is path and any(folder.glob("*.safetensors"))
    ):
        return None
    try:
        _check_known(name, str(folder))
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / 'config.json'}: {_first_line(error)}") from error


def count_parameters(name: str) -> int | None:
    """How many parameters transformers' model has; None where transformers has no code for it.

    No weights are read. What a checkpoint packs, such as MXFP4, counts as what it stands for.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(locate(name), trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError):
        return None
    return sum(int(parameter.numel()) for parameter in model.parameters())


def card_config(card: ModelCard) -> PreTrainedConfig:
    """The transformers configuration that a model card describes.

    Raises:
        UserError: transformers has no code for its architecture.
    """
    from transformers import AutoConfig

    if not card.transformers:
        raise _unknown(card.name, card.architecture)
    return AutoConfig.for_model(card.architecture, **card.config)


def identify_model(name: str, fingerprint: str, model: PreTrainedModel) -> ModelIdentity:
    """The identity of a model in memory.

    Raises:
        SteeringError: it has no routers that can be steered.
    """
    routers = find_routers(model)
    return ModelIdentity(
        name=name,
        fingerprint=fingerprint,
        routers=model_router_hash(routers),
        layers=tuple(router.layer for router in routers),
        experts=routers[0].experts,
    )


def _check_known(name: str, place: str) -> None:
    """Refuse an architecture that transformers does not carry before anything else complains."""
    from transformers import PreTrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = PreTrainedConfig.get_config_dict(place)[0].get("model_type")
    if model_type is not None and model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise _unknown(name, model_type)


def _unknown(name: str, architecture: str) -> UserError:
    return UserError(
        f"model {name!r}: transformers has no code for architecture {architecture!r}, and remote "
        "code is not run; vLLM may carry it: take `engine: vllm` in the plan, or VllmEngine"
    )


def locate(name: str) -> str:
    """The folder or hub id that `name` stands for.

    Raises:
        UserError: neither an embedded model, nor a card's, nor a model folder, nor a hub id.
    """
    if name in EMBEDDED_MODELS:
        return str(EMBEDDED_MODELS[name])
    if name in builtin_names("models"):
        return load_model_card(name).hub_id
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: a folder without config.json is no model")
        return str(folder)
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise UserError(
            f"model {name!r}: no such folder, and not a hub id (organisation/model); embedded: "
            f"{', '.join(EMBEDDED_MODELS)}"
        )
    return name


def fingerprint(place: str, config: PreTrainedConfig) -> str:
    """The hub commit of `config`, or the hash of the folder's configuration and weights."""
    commit = getattr(config, "_commit_hash", None)
    if commit:
        return str(commit)
    digest = hashlib.sha256()
    for path in sorted([Path(place) / "config.json", *Path(place).glob("*.safetensors")]):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
