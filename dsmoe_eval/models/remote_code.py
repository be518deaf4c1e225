"""Code that comes with a model: refused, unless its architecture was allowed by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .conversion import CONVERTIBLE
from .folder_checks import of_model, read_config
from .revisions import from_hub

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_CLASSES = ("AutoConfig", "AutoModelForCausalLM")
_OWN_FILE = re.compile(r"\w+(-\w+)*\.\w+")
"""A class of a file beside config.json. transformers also takes paths, and other repositories."""


def check_code(name: str, config: Mapping[str, object]) -> None:
    """Check that transformers has code for the architecture of a model, or was given it here.

    Args:
        name: the model's name, for the message.
        config: the content of its config.json.

    Raises:
        UserError: there is no code, or only code that comes with the model and was not allowed.
    """
    architecture = str(config.get("model_type", ""))
    if architecture and not has_code(architecture):
        raise unknown(name, architecture, _references(config))


def unknown(name: str, architecture: str, references: Mapping[str, str] | None = None) -> UserError:
    """Return the error of a model for which transformers has no code.

    Args:
        name: the model's name.
        architecture: its `model_type`.
        references: classes of transformers -> the remote code that config.json names for them.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    lacks = "causal language model" if architecture in CONFIG_MAPPING_NAMES else "code"
    code = (references or {}).get("AutoModelForCausalLM")
    remote = "remote code is not run"
    if code:
        remote = (
            f"its config.json names {code}, code that comes with the model: remote code is not run "
            "unless it is allowed by name; read it, then give --remote-code "
            f"{architecture} to `probe` or `new-card`"
        )
    way = "vLLM may carry it: take `engine: vllm` and `learner: vllm` in the plan, or SteeredVllm"
    if architecture == CONVERTIBLE:
        way = (
            f"`dsmoe-eval convert {name} --output FOLDER` writes the same model in Qwen2-MoE's form"
        )
    return UserError(
        f"model {name!r}: transformers has no {lacks} for architecture {architecture!r}, and "
        f"{remote}; {way}"
    )


def allow_remote_code(name: str, place: str, architecture: str) -> None:
    """Import the code that comes with a model, for this process, if it has the allowed name.

    The classes are registered with transformers. From then on the model is like any other.

    Args:
        name: the model's name, for the messages.
        place: its folder or hub id.
        architecture: the `model_type` that the user allows.

    Raises:
        UserError: the model has another architecture, transformers has code for it, its config.json
            names no code, or code of other folders, or the code cannot be imported.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = read_config(name, place)
    found, references = str(config.get("model_type", "")), _references(config)
    if found != architecture:
        raise UserError(
            f"model {name!r}: its architecture is {found!r}, not {architecture!r}, which "
            "--remote-code allows; give the name that config.json has as model_type"
        )
    if has_code(found):
        raise UserError(
            f"model {name!r}: transformers has code for {found!r}, which is used instead of the "
            "model's; leave --remote-code out"
        )
    if not set(_CLASSES) <= set(references):
        raise UserError(
            f"model {name!r}: auto_map in its config.json does not name code for both "
            f"{' and '.join(_CLASSES)}, so there is no remote code to allow"
        )
    outside = [references[one] for one in _CLASSES if not _OWN_FILE.fullmatch(references[one])]
    if outside:
        raise UserError(
            f"model {name!r}: auto_map in its config.json names {outside[0]!r:.100}, and only a "
            "class of a file beside config.json is run, as FILE.Class; put the file there, and "
            "name it so"
        )

    def register() -> None:
        kinds = [
            get_class_from_dynamic_module(references[one], **from_hub(place)) for one in _CLASSES
        ]
        AutoConfig.register(found, kinds[0], exist_ok=True)
        AutoModelForCausalLM.register(*kinds, exist_ok=True)

    of_model(f"model {name!r}: its remote code", register)


def code_hash(config: PreTrainedConfig) -> str:
    """Return the file of the code that builds a configuration's model, and its SHA-256."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    file = Path(inspect.getfile(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]))
    return f"{file.name}, SHA-256 {sha256(file.read_bytes()).hexdigest()}"


def has_code(architecture: str) -> bool:
    """Return whether transformers has a causal model of that name, or was given it here."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (
        architecture in CONFIG_MAPPING
        and CONFIG_MAPPING[architecture] in MODEL_FOR_CAUSAL_LM_MAPPING
    )


def _references(config: Mapping[str, object]) -> Mapping[str, str]:
    """Return the remote code that a config.json names for classes of transformers."""
    named = config.get("auto_map")
    if not isinstance(named, Mapping):
        return {}
    return {str(key): code for key, code in named.items() if isinstance(code, str)}
