"""The word-level tokenizer of the lab models: each word and each digit is a token."""

from __future__ import annotations

import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .world import ARITHMETIC, DOMAINS, RELATIONS, WORDS, World

PAD, END, UNKNOWN = "<pad>", "<end>", "<unk>"
_SPACE = "▁"
_TEXT_WORDS = ("What", "what", "is", "the", "of", "In", "The", "in")
_MARKS = ("?", ".", ",", "+", "-", _SPACE)


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Build a tokenizer whose vocabulary is the world's words; decoding restores the text."""
    words = (*_TEXT_WORDS, *DOMAINS, ARITHMETIC, *WORDS, *RELATIONS, *world.names)
    tokens = [PAD, END, UNKNOWN, *_MARKS, *string.digits, *(_SPACE + word for word in words)]
    tokenizer = Tokenizer(
        models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNKNOWN)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"[?.,+\-0-9]"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )
