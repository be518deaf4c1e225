"""The decoding of answers: every generation setting of a task acts, or is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..cards import MAX_NEW_TOKENS
from ..errors import UserError

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""lm-eval's names for the most tokens of an answer; the first of them that is set counts."""
SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "min_p")
SHAPING = (
    "repetition_penalty", "no_repeat_ngram_size", "min_length", "min_new_tokens", "bad_words_ids",
    "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
)  # fmt: skip
"""Settings that change logits before the likeliest token is taken or one is drawn."""

Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(ge=0)]


class Decoding(BaseModel):
    """Generation settings by the names and with the meaning of transformers.

    A default means that the setting is off. `top_k` may also be -1, which is off as in vLLM;
    `top_p: 0` is the likeliest token. Beams other than 1 are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    until: tuple[str, ...] = ()
    max_gen_toks: Annotated[int, Field(ge=1)] = MAX_NEW_TOKENS
    do_sample: bool | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Share = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Share = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    no_repeat_ngram_size: Size = 0
    min_length: Size = 0
    min_new_tokens: Size = 0
    bad_words_ids: tuple[tuple[Size, ...], ...] = ()
    suppress_tokens: tuple[Size, ...] = ()
    begin_suppress_tokens: tuple[Size, ...] = ()
    forced_bos_token_id: Size | None = None
    forced_eos_token_id: Size | tuple[Size, ...] | None = None
    num_beams: Literal[1] = 1

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, given: Mapping[str, object]) -> Mapping[str, object]:
        settings = {name: value for name, value in given.items() if value is not None}
        limits = [settings.pop(name) for name in LIMITS if name in settings]
        until = settings.get("until", ())
        settings["until"] = [until] if isinstance(until, str) else until
        return {**settings, "max_gen_toks": limits[0]} if limits else settings

    @property
    def drawn_at(self) -> float | None:
        """The temperature; None if the likeliest token is taken.

        `do_sample` alone is temperature 1, as in transformers.
        """
        hot = 1.0 if self.do_sample else 0.0
        temperature = hot if self.temperature is None else self.temperature
        greedy = self.do_sample is False or temperature == 0 or self.top_p == 0
        return None if greedy else temperature

    @property
    def shaping(self) -> tuple[tuple[str, object], ...]:
        """Name and value of each of `SHAPING` that is on."""
        return tuple(
            self.model_dump(mode="json", include={*SHAPING}, exclude_defaults=True).items()
        )

    def describe(self, samples: int = 1) -> str:
        """Describe all but the end of an answer, for a cell's identity."""
        words = "greedy"
        if self.drawn_at is not None:
            words = f"{samples} samples at temperature {self.drawn_at:g}"
            words += f", top-p {self.top_p:g}" if self.top_p < 1 else ""
            words += f", top-k {self.top_k}" if self.top_k > 0 else ""
            words += f", min-p {self.min_p:g}" if self.min_p else ""
        return ", ".join([words, *(f"{name} {value}" for name, value in self.shaping)])


def read_decoding(
    settings: Mapping[str, object], defaults: Mapping[str, object] | None = None
) -> Decoding:
    """Check generation settings.

    Args:
        settings: those of a task.
        defaults: those that act where the task sets nothing.

    Raises:
        UserError: a setting is not known, or has a value that has no meaning.
    """
    try:
        return Decoding.model_validate({**(defaults or {}), **settings})
    except ValidationError as error:
        fault = error.errors()[0]
        name, value = fault["loc"][0], fault["input"]
        known = f"there are {', '.join(Decoding.model_fields)}"
        reason = known if fault["type"] == "extra_forbidden" else fault["msg"]
        raise UserError(
            f"the generation setting {name}: {value!r:.60} cannot be met ({reason}); change it, or "
            "leave it out"
        ) from error


def task_decoding(task: str | None, settings: Mapping[str, object]) -> Decoding:
    """Check the generation settings of a task that is named.

    Raises:
        UserError: as `read_decoding`, with the task's name.
    """
    try:
        return read_decoding(settings)
    except UserError as error:
        raise UserError(f"task {task!r}: {error}") from error
