"""The settings in a checkpoint's generation_config.json: ends of text and decoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import UserError
from ..experts.tokenizer import Tokenizer
from ..tasks.decoding import LIMITS, SAMPLING, SHAPING, Decoding, read_decoding

FILE = "generation_config.json"
_NO_DECODING = (
    *LIMITS, "max_length", "eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id",
    "transformers_version", "use_cache", "cache_implementation", "cache_config", "max_cache_len",
    "return_dict_in_generate", "compile_config", "disable_compile", "prefill_chunk_size",
)  # fmt: skip
"""Keys that change no token: tasks set the limits, the others concern memory and output."""


@dataclass(frozen=True, slots=True)
class ModelGeneration:
    """A model's ends of text and decoding settings.

    Attributes:
        ends: tokens that end a text, including the tokenizer's end-of-text token.
        decoding: the file's settings that have an effect; a task's settings take precedence.
    """

    ends: tuple[int, ...] = ()
    decoding: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.decoding.items())

    def used(self, mode: str) -> Mapping[str, object]:
        """Return the settings that apply: none in mode `task`, all in mode `model`.

        Raises:
            UserError: one of them is not implemented.
        """
        if mode == "task":
            return {}
        try:
            read_decoding(self.decoding)
        except UserError as error:
            raise UserError(f"decoding: model, {FILE}: {error}; or take decoding: task") from error
        return self.decoding


def model_generation(config: Mapping[str, object], tokenizer: Tokenizer) -> ModelGeneration:
    """Read ends of text and settings from the result of `GenerationConfig.to_diff_dict`."""
    ends = config.get("eos_token_id")
    both = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
    off = Decoding().model_dump()
    said = {
        name: value
        for name, value in config.items()
        if name not in _NO_DECODING
        and not name.startswith(("_", "output_"))
        and not (value is None or value is False or value in ([], off.get(name)))
        and (name in SHAPING or value is True or value not in (0, 1))
    }
    if not said.get("do_sample"):
        said = {name: value for name, value in said.items() if name not in SAMPLING}
    return ModelGeneration(tuple(sorted(map(int, both))), said)
