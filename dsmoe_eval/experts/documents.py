"""Identification texts as tokens, with a mask of the tokens that are counted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .tokenizer import Tokenizer, written_starts

Phase = Literal["prompt", "generated"]


@dataclass(frozen=True, slots=True)
class Document:
    """One identification text.

    Attributes:
        domain: the subject of the text.
        tokens: all tokens of the model's input, with special and template tokens.
        kept: whether each token is counted: true for tokens of the text itself, not for those of
            a chat template, nor for special ones.
        prompt_length: number of tokens before the model's answer; all if there is no answer.
        group: name of the text that this is a chunk of: all chunks of one text are counted as one
            document; empty if it is a whole text.
    """

    domain: str
    tokens: tuple[int, ...]
    kept: tuple[bool, ...]
    prompt_length: int
    group: str = ""


def encode_documents(
    tokenizer: Tokenizer,
    texts: Mapping[str, Sequence[str]],
    *,
    chat_template: bool = False,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Document, ...]:
    """Encode texts by domain as documents, in the given order.

    Args:
        tokenizer: a tokenizer of transformers.
        texts: domain -> its texts (questions without answers).
        chat_template: whether to wrap each text as a user message in the tokenizer's chat template,
            whose tokens are not counted.
        groups: domain -> the group of each of its texts (see `Document`); None: no text is a chunk.

    Raises:
        ValueError: a domain has no text, a text is too short to have a loss or has no token that
            is counted, or the tokenizer has no template or cannot report which tokens are the
            text's.
    """
    encode = _encode_message if chat_template else _encode_plain
    documents = []
    for domain, members in texts.items():
        if not members:
            raise ValueError(f"domain {domain!r} has no identification text")
        for text, group in zip(members, _groups(groups, domain, len(members)), strict=True):
            tokens, kept = encode(tokenizer, text)
            if len(tokens) < 2 or not any(kept):
                raise ValueError(
                    f"the identification text {text!r:.60} of {domain!r} has fewer than two "
                    "tokens, or none that is not special"
                )
            documents.append(Document(domain, tokens, kept, len(tokens), group))
    return tuple(documents)


def _groups(groups: Mapping[str, Sequence[str]] | None, domain: str, count: int) -> Sequence[str]:
    return ("",) * count if groups is None else groups[domain]


def group_numbers(documents: Sequence[Document]) -> tuple[int, ...]:
    """Number the groups of documents from 0, by first appearance; a whole text is its only one."""
    numbers: dict[object, int] = {}
    return tuple(
        numbers.setdefault((one.domain, one.group) if one.group else index, len(numbers))
        for index, one in enumerate(documents)
    )


def with_answer(document: Document, answer: Sequence[int]) -> Document:
    """Append the model's answer to a document.

    The last generated token is left out: no engine feeds it back, so it is never routed.
    """
    routed = tuple(answer[:-1])
    return replace(
        document,
        tokens=document.tokens + routed,
        kept=document.kept + (True,) * len(routed),
    )


def documents_hash(documents: Sequence[Document]) -> str:
    """Compute the first 16 hex digits of the SHA-256 of all fields of the documents, in order."""
    digest = hashlib.sha256()
    for document in documents:
        fields = (document.domain, document.tokens, document.kept, document.prompt_length)
        digest.update(repr((*fields, document.group) if document.group else fields).encode())
    return digest.hexdigest()[:16]


def _encode_plain(tokenizer: Tokenizer, text: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    encoded = tokenizer(text, return_special_tokens_mask=True)
    kept = tuple(not special for special in encoded["special_tokens_mask"])
    return tuple(encoded["input_ids"]), kept


def _encode_message(tokenizer: Tokenizer, text: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template; identify without `chat_template`")
    message = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    content = text.strip()  # templates may strip a message
    start = rendered.find(content)
    if start < 0 or rendered.find(content, start + 1) >= 0:
        raise ValueError(f"the chat template does not contain the text {text!r:.60} exactly once")
    try:
        special = not rendered.startswith(written_starts(tokenizer))
        encoded = tokenizer(rendered, add_special_tokens=special, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise ValueError(
            "this tokenizer cannot report which tokens are the text's; identify without "
            "`chat_template`"
        ) from error
    end = start + len(content)

    def inside(first: int, last: int) -> bool:
        """Return whether most of a token is in the text; it may include the space before it."""
        return bool(2 * (min(last, end) - max(first, start)) > last - first)

    kept = tuple(inside(first, last) for first, last in encoded["offset_mapping"])
    return tuple(encoded["input_ids"]), kept
