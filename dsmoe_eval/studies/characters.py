"""Text in the 27 characters of text8, a to z and the space, of several domains."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from ..errors import UserError
from ..registry import load_suite
from ..tasks.texts import TextDocument, read_text_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END = "<pad>", "<end>"
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def character_tokenizer(longest: int) -> PreTrainedTokenizerFast:
    """Build a tokenizer whose tokens are the characters of text8.

    As in text8 (Mahoney 2011) letters lose their accents and become small, digits are written as
    words, and all else is one space.

    Args:
        longest: the most tokens that its model reads.
    """
    from transformers import PreTrainedTokenizerFast

    tokens = [PAD, END, " ", *string.ascii_lowercase]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    words = [normalizers.Replace(str(at), f" {word} ") for at, word in enumerate(_DIGITS)]
    rest = normalizers.Replace(Regex("[^a-z]+"), " ")
    simpler = [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence([*simpler, *words, rest, normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True, slots=True)
class CharacterText:
    """Documents to train on, and others to measure on.

    Attributes:
        trained: [characters], the documents that are trained on, each after an `END`.
        held_out: the characters of each other document, after an `END`.
        domains: the domain of each of these.
    """

    trained: Tensor
    held_out: tuple[Tensor, ...]
    domains: tuple[str, ...]


def character_text(suite_name: str, tokenizer: PreTrainedTokenizerFast) -> CharacterText:
    """Read a suite's documents: those of its identification split are kept for measuring.

    Raises:
        UserError: the suite has no documents with splits.
    """
    given = load_suite(suite_name).documents
    if given is None or given.split is None:
        raise UserError(
            f"suite {suite_name!r} has no documents with splits, such as suite smol has"
        )
    documents = read_text_file(given.file)
    held_out = [one for one in documents if one.split == given.split]
    trained = _characters([one for one in documents if one.split != given.split], tokenizer)
    return CharacterText(
        trained=torch.cat(trained),
        held_out=tuple(_characters(held_out, tokenizer)),
        domains=tuple(one.domain for one in held_out),
    )


def _characters(
    documents: Sequence[TextDocument], tokenizer: PreTrainedTokenizerFast
) -> list[Tensor]:
    encoded = tokenizer([one.text for one in documents], verbose=False)["input_ids"]
    return [torch.tensor([tokenizer.eos_token_id, *ids]) for ids in encoded]
