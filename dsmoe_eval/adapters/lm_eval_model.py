"""lm-eval's model `dsmoe`: base and steered models on lm-eval's command line.

    dsmoe-lm-eval --model dsmoe --model_args pretrained=NAME,profile=PATH --tasks ...

is `lm-eval` with this model registered; every other model and option is the same. lm-eval 0.4.13
does not search installed packages for models. Versions that do so load this model by the entry
point `lm_eval.models` and do not need the command `dsmoe-lm-eval`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

# Once any model is registered, lm-eval no longer registers its built-in models.
import lm_eval.models  # noqa: F401
import torch
from lm_eval.api.registry import register_model

from ..engines.lm import Arranged
from ..engines.requests import Answer, Request
from ..engines.transformers.lm import TransformersLM
from ..errors import UserError, printable
from ..models.loading import LoadedModel
from ..models.prompt_format import prompt_format
from ..steering import Profile, SteeringError
from ..tasks.language_model import Advance, LogLikelihood, unwatched
from .steered_model import SteeredModel

_MODEL_ARGUMENTS = ("pretrained", "profile", "device", "batch_tokens", "think_end_token")

_OWNER = "dsmoe: whose answers these are"
"""Key of a response cache under which its model is recorded; lm-eval's keys are hashes."""


@register_model("dsmoe")
class SteeredLM(TransformersLM):
    """lm-eval's LM of a model and a profile: log-likelihoods, rolling ones, greedy generation.

    Args:
        pretrained: as for `load_model`; or a model in memory, which several LMs may share.
        profile: a profile or its path; by default the base model answers.
        device: as for `load_model`; not for a model in memory.
        batch_tokens: limit of tokens per forward pass, padding included.
        batch_size: refused, except for lm-eval's default.
        max_batch_size: refused.
        think_end_token: text or token id that ends the thinking, as of lm-eval's `hf`; by default
            as the model's card or its tokenizer says.

    Raises:
        UserError: the model cannot be loaded, or a batch size is given.
        SteeringError: the profile cannot be read, is of another model, or has no meaning on it.
        ProbeError: the profile changes nothing (see `SteeredModel`).
    """

    def __init__(
        self,
        pretrained: str | LoadedModel,
        profile: str | Path | Profile | None = None,
        device: str | None = None,
        batch_tokens: int = 8192,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        think_end_token: str | int | None = None,
    ) -> None:
        if str(batch_size or 1) != "1" or max_batch_size is not None:
            raise UserError("model dsmoe has no batch size; --model_args batch_tokens=N sets one")
        self.steered = _steered(pretrained, profile, device)
        loaded = self.steered.loaded
        # lm-eval itself puts questions into the chat template, where its user wants that.
        answers = prompt_format(loaded.identity.name, loaded.tokenizer, "plain", think_end_token)
        super().__init__(loaded, int(batch_tokens), answers)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> SteeredLM:
        """Build the LM from lm-eval's command line; its results are then named by the profile.

        lm-eval names results and their folder by `delta` (weights on top of a model) rather than
        `pretrained` if it is set; without it, results of the base and the steered model would have
        the same name. lm-eval's default device is the first GPU even on a machine without GPUs.

        Raises:
            UserError: `pretrained` is missing, or an argument is not one of the class.
        """
        unknown = sorted({*arg_dict} - {*_MODEL_ARGUMENTS})
        if unknown or "pretrained" not in arg_dict:
            raise UserError(
                f"--model_args of model dsmoe: {', '.join(unknown) or 'no pretrained=NAME'}; "
                f"there are {', '.join(_MODEL_ARGUMENTS)}"
            )
        options = {name: value for name, value in (additional_config or {}).items() if value}
        if options.get("device") == "cuda:0" and not torch.cuda.is_available():
            del options["device"]
        lm = cls(**{**options, **arg_dict})
        if lm.steered.profile is not None:
            arg_dict["delta"] = lm.steered.name
        return lm

    def get_model_info(self) -> dict[str, object]:
        """Return the model's identity for the `config` of lm-eval's results."""
        profile = self.steered.profile
        return {
            "model_name": self.steered.name,
            "model_sha": self.loaded.identity.fingerprint,
            "model_dtype": self.loaded.dtype,
            "experts_implementation": self.loaded.experts_implementation,
            "profile": None if profile is None else profile.id,
            "intervention": None if profile is None else profile.intervention.model_dump(),
        }

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Bind lm-eval's response cache to this model and profile; its keys are only requests.

        Raises:
            UserError: the cache has answers of another or of an unknown model.
        """
        super().set_cache_hook(cache_hook)
        cache = getattr(cache_hook, "dbdict", None)
        if cache is None:
            return
        mine = self.steered.fingerprint
        if self.format.think_end:
            mine += f", thinking up to {self.format.marker}"
        if len(cache) == 0:
            cache[_OWNER] = mine
        owner = cache.get(_OWNER)
        if owner != mine:
            raise UserError(
                f"{cache.filename}: this response cache is of {owner or 'an unknown model'}, and "
                f"{mine} is to answer; give each its own --use_cache"
            )

    def _score(self, arranged: Arranged, advance: Advance = unwatched) -> list[LogLikelihood]:
        with self.steered.answering():
            return super()._score(arranged, advance)

    def _answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Answer]]]:
        with self.steered.answering():
            yield from super()._answer(requests)


def main() -> None:
    """Run `dsmoe-lm-eval`: lm-eval's command line with `--model dsmoe` registered."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except (UserError, SteeringError) as error:
        click.echo(f"dsmoe-lm-eval: {printable(str(error))}", err=True)
        sys.exit(3)


def _steered(
    pretrained: str | LoadedModel, profile: str | Path | Profile | None, device: str | None
) -> SteeredModel:
    if isinstance(pretrained, str) and not isinstance(profile, Profile):
        return SteeredModel.open(pretrained, profile, device)
    if isinstance(pretrained, str):
        pretrained = SteeredModel.open(pretrained, device=device).loaded
    elif device is not None:
        raise UserError(f"device {device!r}: the model is in memory already")
    chosen = Profile.load(Path(profile)) if isinstance(profile, str | Path) else profile
    return SteeredModel(pretrained, chosen)
