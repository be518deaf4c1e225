"""Identification texts as the model sees them, and which of their tokens count."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .tokenizer import Tokenizer

Phase = Literal["prompt", "generated"]


@dataclass(frozen=True, slots=True)
class Document:
    """One identification text.

    Attributes:
        domain: the subject that it belongs to.
        tokens: all that the model is given, special and template tokens too.
        kept: of each token, whether it counts: tokens that the text itself gave, not those of a
            chat template, nor special ones.
        prompt_length: tokens before the model's own answer; all of them where there is none.
    """

    domain: str
    tokens: tuple[int, ...]
    kept: tuple[bool, ...]
    prompt_length: int


def encode_documents(
    tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]], *, chat_template: bool = False
) -> tuple[Document, ...]:
    """Texts by domain as documents, in the order given.

    Args:
        tokenizer: of transformers.
        texts: domain -> its texts (questions without answers).
        chat_template: present each text as a user's message in the tokenizer's own template, whose
            tokens then do not count.

    Raises:
        ValueError: a domain has no text, a text is too short to have a loss or holds nothing that
            counts, or the tokenizer has no template or cannot tell which tokens the text gave.
    """
    encode = _encode_message if chat_template else _encode_plain
    documents = []
    for domain, members in texts.items():
        if not members:
            raise ValueError(f"domain {domain!r} has no identification text")
        for text in members:
            tokens, kept = encode(tokenizer, text)
            if len(tokens) < 2 or not any(kept):
                raise ValueError(
                    f"the identification text {text!r:.60} of {domain!r} has fewer than two "
                    "tokens, or none that is not special"
                )
            documents.append(Document(domain, tokens, kept, len(tokens)))
    return tuple(documents)


def with_answer(document: Document, answer: Sequence[int]) -> Document:
    """The document followed by the model's own answer.

    The last generated token is left out: no engine feeds it back, so it is never routed.
    """
    routed = tuple(answer[:-1])
    return replace(
        document,
        tokens=document.tokens + routed,
        kept=document.kept + (True,) * len(routed),
    )


def documents_hash(documents: Sequence[Document]) -> str:
    """First 16 hex digits of the SHA-256 over domains, tokens and what counts, in order."""
    digest = hashlib.sha256()
    for one in documents:
        digest.update(repr((one.domain, one.tokens, one.kept, one.prompt_length)).encode())
    return digest.hexdigest()[:16]


def _encode_plain(tokenizer: Tokenizer, text: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    encoded = tokenizer(text, return_special_tokens_mask=True)
    kept = tuple(not special for special in encoded["special_tokens_mask"])
    return tuple(encoded["input_ids"]), kept


def _encode_message(tokenizer: Tokenizer, text: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template; identify without one")
    message = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    content = text.strip()  # templates may strip a message
    start = rendered.find(content)
    if start < 0 or rendered.find(content, start + 1) >= 0:
        raise ValueError(f"the chat template does not show the text {text!r:.60} exactly once")
    try:
        encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise ValueError(
            "this tokenizer cannot tell which tokens the text gave; identify without the template"
        ) from error
    end = start + len(content)

    def inside(first: int, last: int) -> bool:
        """Most of the token; one may hold the space before the text too."""
        return bool(2 * (min(last, end) - max(first, start)) > last - first)

    kept = tuple(inside(first, last) for first, last in encoded["offset_mapping"])
    return tuple(encoded["input_ids"]), kept
