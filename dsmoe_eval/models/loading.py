"""Loading of models and tokenizers, and the exact identity of a model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..cards import ModelCard
from ..errors import UserError
from ..experts.tokenizer import Tokenizer
from ..lab import EXPERTS_ON_A_CPU
from ..registry import builtin_names, load_model_card
from ..steering import EXPERTS, ModelIdentity, Sites, SteeringError, find_sites, sites_hash
from .chat_templates import guard_template
from .expert_dtypes import check_one_dtype
from .folder_checks import check_loaded, check_weights, of_model, read_config, reason
from .places import locate
from .remote_code import check_code, unknown
from .revisions import commit_of, from_hub, split_revision

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory with its tokenizer and identity.

    Attributes:
        attn_implementation: the method of computing attention, if one was named.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    identity: ModelIdentity
    attn_implementation: str | None = None

    @property
    def dtype(self) -> str:
        """The name of the model's dtype, such as `float32`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def experts_implementation(self) -> str:
        """The method by which transformers computes the experts; results may differ by it."""
        return str(getattr(self.model.config, "_experts_implementation", None))


@dataclass(frozen=True, slots=True)
class SaliencyModel:
    """A causal language model, MoE or not, from which token saliency is computed."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    fingerprint: str


def load_saliency_model(name: str, device: str | None = None) -> SaliencyModel:
    """Load any causal language model by the rules of `load_model`.

    Raises:
        UserError: as `load_model`, except for "no MoE".
    """
    place, model, tokenizer = _load(name, device)
    return SaliencyModel(model, tokenizer, fingerprint(place, model.config))


def load_tokenizer(name: str) -> Tokenizer:
    """Load the tokenizer of a model that `load_model` accepts, without the weights.

    Raises:
        UserError: the model has no tokenizer.
    """
    return _tokenizer(name, locate(name))


def _tokenizer(name: str, place: str) -> Tokenizer:
    from transformers import AutoTokenizer

    what = f"model {name!r}: its tokenizer"
    found = of_model(
        what, lambda: AutoTokenizer.from_pretrained(**from_hub(place), trust_remote_code=False)
    )
    if set(found.get_vocab().values()) <= set(found.all_special_ids):
        raise UserError(
            f"model {name!r}: its files hold no tokenizer, or an empty one; add tokenizer.json and "
            "tokenizer_config.json from where the model comes from"
        )
    tokenizer: Tokenizer = found
    guard_template(tokenizer, name)
    return tokenizer


def load_model(
    name: str,
    device: str | None = None,
    experts_implementation: str | None = None,
    *,
    dtype: str | None = None,
    attn_implementation: str | None = None,
    sites: Sites = EXPERTS,
) -> LoadedModel:
    """Load a model by its embedded name, model card, local folder or hub id.

    Only safetensors are read and no remote code is run: the `auto_map` of a folder or hub model is
    ignored, so that the classes are those of transformers.

    Args:
        name: `lab-poly`, `lab-smol`, the name of a model card, a folder with `config.json`, or
            `organisation/model`, also `organisation/model@revision` with a commit, branch or tag.
        device: a torch device, on which the weights are read directly; by default the first GPU,
            or the CPU if there is no GPU. With `auto`, accelerate distributes the model over all
            available devices.
        experts_implementation: the method by which transformers computes the experts, such as
            `eager`; by default as transformers chooses, but for `EXPERTS_ON_A_CPU`.
        dtype: such as `bfloat16`; by default the checkpoint's.
        attn_implementation: the method by which transformers computes attention, such as `sdpa`;
            by default as transformers chooses.
        sites: the units that are counted and steered: experts, or neurons of a dense model.

    Raises:
        UserError: there is no model of that name or revision, the folder is no model folder, there
            are no safetensors, transformers has no code for the model or does not compute it so,
            its experts come in a coarser dtype than the rest, or it has no units of that kind.
    """
    place, model, tokenizer = _load(name, device, dtype, attn_implementation)
    try:
        identity = identify_model(name, fingerprint(place, model.config), model, sites)
    except SteeringError as error:
        raise UserError(f"model {name!r}: {error}") from error
    if sites.kind == EXPERTS.kind:
        check_one_dtype(f"model {name!r}", model)
    if model.device.type == "cpu":
        experts_implementation = experts_implementation or EXPERTS_ON_A_CPU.get(name)
    if experts_implementation is not None:
        _compute_experts(name, model, experts_implementation)
    return LoadedModel(model, tokenizer, identity, attn_implementation)


def _compute_experts(name: str, model: PreTrainedModel, implementation: str) -> None:
    try:
        model.set_experts_implementation(implementation)
    except ValueError as error:
        raise UserError(
            f"model {name!r}: its experts cannot be computed by {implementation!r} "
            f"({reason(error)}); leave `experts_implementation` out of the plan"
        ) from error


def _check_attention(name: str, config: PreTrainedConfig, implementation: str) -> None:
    """Check that transformers computes a model's attention so, before its weights are read."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(
                config, trust_remote_code=False, attn_implementation=implementation
            )
    except (ImportError, ValueError) as error:
        raise UserError(
            f"model {name!r}: its attention cannot be computed by {implementation!r} "
            f"({reason(error)}); leave `attn_implementation` out"
        ) from error


def _load(
    name: str,
    device: str | None,
    dtype: str | None = None,
    attn_implementation: str | None = None,
) -> tuple[str, PreTrainedModel, Tokenizer]:
    """Load a model; return its location, the model and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    place = locate(name)
    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    spread = target == "auto"
    try:
        torch.empty(0, device="cpu" if spread else target)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {target!r} is not available ({reason(error)}); name another with --device"
        ) from error
    config = model_config(name, place)
    check_weights(Path(place))
    if attn_implementation is not None:
        _check_attention(name, config, attn_implementation)
    tokenizer = _tokenizer(name, place)
    model, found = of_model(
        f"model {name!r}",
        lambda: AutoModelForCausalLM.from_pretrained(
            **from_hub(place),
            dtype=dtype or "auto",
            trust_remote_code=False,
            use_safetensors=True,
            # Straight onto the device, as nothing may move a quantized model afterwards.
            device_map=None if target == "cpu" else target,
            attn_implementation=attn_implementation,
            output_loading_info=True,
        ),
    )
    check_loaded(f"model {name!r}", found)
    return place, model.eval(), tokenizer


def model_folder(name: str) -> Path:
    """Return the folder with a model's files; for a hub model, download its snapshot.

    Args:
        name: as for `load_model`.

    Raises:
        UserError: there is no model of that name.
    """
    place = locate(name)
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download

    patterns, (hub_id, revision) = ["*.json", "*.safetensors", "*.txt"], split_revision(place)
    return of_model(
        f"model {name!r}",
        lambda: Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns)),
    )


def bare_config(name: str) -> PreTrainedConfig | None:
    """Return the configuration of a name without weights, or None if there are weights.

    Args:
        name: a model card's name or YAML file, a `config.json`, or a folder with `config.json` and
            without safetensors.

    Raises:
        UserError: the file is no configuration, or transformers has no code for its architecture.
    """
    path = Path(name)
    is_card = path.suffix in {".yaml", ".yml"} and not path.is_dir()
    if name in builtin_names("models") or is_card:
        return card_config(load_model_card(name))
    folder = path.parent if path.name == "config.json" and path.is_file() else path
    if not (folder / "config.json").is_file() or (
        folder is path and any(folder.glob("*.safetensors"))
    ):
        return None
    return model_config(name, str(folder))


def card_config(card: ModelCard) -> PreTrainedConfig:
    """Return the transformers configuration that a model card describes.

    Raises:
        UserError: transformers has no code for its architecture.
    """
    from transformers import AutoConfig

    if not card.transformers:
        raise unknown(card.name, card.architecture)
    return of_model(
        f"model card {card.name!r}: its config",
        lambda: AutoConfig.for_model(card.architecture, **card.config),
    )


def identify_model(
    name: str, fingerprint: str, model: PreTrainedModel, sites: Sites = EXPERTS
) -> ModelIdentity:
    """Return the identity of a model in memory.

    Raises:
        SteeringError: the model has no units of this kind that can be steered.
    """
    found = find_sites(model, sites)
    return ModelIdentity(
        name=name,
        fingerprint=fingerprint,
        routers=sites_hash(found),
        layers=tuple(site.layer for site in found),
        experts=found[0].experts,
        sites=sites,
    )


def model_config(name: str, place: str) -> PreTrainedConfig:
    """Read a configuration; refuse an architecture without code before less clear errors occur.

    Args:
        name: the model's name, for the messages.
        place: its folder or hub id.

    Raises:
        UserError: it cannot be read, or transformers has no code for its architecture.
    """
    from transformers import AutoConfig

    check_code(name, read_config(name, place))
    path = Path(place) / "config.json"
    return of_model(
        str(path) if path.is_file() else f"model {name!r}: config.json",
        lambda: AutoConfig.from_pretrained(**from_hub(place), trust_remote_code=False),
    )


def fingerprint(place: str, config: PreTrainedConfig) -> str:
    """Return the hub commit of `config`, or a hash of the folder's configuration and weights."""
    commit = getattr(config, "_commit_hash", None)  # of transformers before 5.19
    if commit:
        return str(commit)
    if not Path(place).is_dir():
        return of_model(f"model {place!r}: its commit", lambda: commit_of(place))
    digest = hashlib.sha256()
    for path in sorted([Path(place) / "config.json", *Path(place).glob("*.safetensors")]):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
