"""The prompt format of a model: plain text or chat template, and the end of its thinking."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import TemplateError

from ..cards import ModelCard
from ..errors import UserError
from ..experts.tokenizer import Tokenizer
from ..registry import builtin_names, load_model_card, search_card
from .revisions import split_revision

Asked = Literal["auto", "plain", "chat"]

MARKERS = {
    "<|channel|>final<|message|>": "<|channel|>analysis<|message|>",  # gpt-oss, harmony
    "<channel|>": "<|channel>thought",  # Gemma 4
    "<|END_THINKING|>": "<|START_THINKING|>",  # Cohere
    "<|end_of_thought|>": "<|begin_of_thought|>",
    "<|inner_suffix|>": "<|inner_prefix|>",  # Apertus
    "</seed:think>": "<seed:think>",
    "</mm:think>": "<mm:think>",  # MiniMax
    "\u25c1/think\u25b7": "\u25c1think\u25b7",  # Kimi-VL
    "[/THINK]": "[THINK]",  # Magistral
    "</think>": "<think>",
    "</thinking>": "<thinking>",
    "</thought>": "<thought>",
    "</reasoning>": "<reasoning>",
}
"""End of thinking -> its beginning, as published models write them."""

_PIECE = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|\u25c1[^\u25b7\s]+\u25b7")
_QUESTION = "dsmoe"


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """The prompt format of one model.

    Attributes:
        chat: whether a prompt is put into the tokenizer's chat template, as one user message.
        think_start: text that may precede the thinking.
        think_end: the tokens that end the thinking. The answer follows the last of them, and stop
            strings count only in the answer.
        answer_tokens: the limit that the model needs for thinking, if larger than a task's limit.
        marker: the text of `think_end`.
        turn: the model thinks after prompts with this end, the chat template's; None: after all.
    """

    chat: bool = False
    think_start: str = ""
    think_end: tuple[int, ...] = ()
    answer_tokens: int | None = None
    marker: str = ""
    turn: str | None = None

    @property
    def name(self) -> str:
        """The description of the format in a cell's identity."""
        thinking = ""
        if self.think_end and (self.chat or self.turn is None):
            limit = self.answer_tokens
            thinking = f"up to {self.marker}" if limit is None else f"in up to {limit} tokens"
        return ("chat" if self.chat else "plain") + (thinking and f", thinking {thinking}")

    def thinks_after(self, prompt: str) -> bool:
        """Return whether the model may think before it answers this prompt."""
        return bool(self.think_end) and (self.turn is None or prompt.endswith(self.turn))


PLAIN = PromptFormat()
"""The format without a chat template, in which the whole completion is the answer."""


def prompt_format(
    model: str,
    tokenizer: Tokenizer,
    asked: Asked = "auto",
    think_end_token: str | int | None = None,
    beside: Path | None = None,
) -> PromptFormat:
    """Choose the prompt format by the model's card and its tokenizer.

    Where thinking ends is known from `think_end_token`, else from the card, else from the
    tokenizer's chat template or its special tokens.

    Args:
        model: as for `load_model`. A card belongs to the model if it has that name or hub id, or
            the name of the folder or of the hub's snapshot.
        tokenizer: the model's tokenizer.
        asked: `auto` takes the chat template if there is one, unless the card says that the model
            is a base model: some base models come with the template of their chat siblings.
        think_end_token: text or token id that ends the thinking; the model is then taken to think
            after every prompt, and with an empty text after none.
        beside: a file beside whose folder `models` the user's cards are.

    Raises:
        UserError: the request is `chat` and the tokenizer has no chat template, or it has no
            tokens for `think_end_token`.
    """
    card = _card(model, beside)
    there = getattr(tokenizer, "chat_template", None) is not None
    if asked == "chat" and not there:
        raise UserError(
            f"model {model!r}: its tokenizer has no chat template; take `prompt: plain`"
        )
    chat = asked == "chat" or (
        asked == "auto" and there and (card is None or card.format != "base")
    )
    limit = None if card is None else card.answer_tokens
    turn = template_turn(tokenizer) if there else None
    if think_end_token is not None:
        ends, end = _named(think_end_token, tokenizer)
        return PromptFormat(chat, MARKERS.get(end, ""), ends, limit if ends else None, end)
    if card is not None and card.think_end_token is not None:
        start, end = card.think_start_token or "", card.think_end_token
    else:
        end = "" if card is not None or turn is None else thinking_end(tokenizer)[0]
        start = MARKERS.get(end, "")
    if not end:
        return PromptFormat(chat)
    ends = tuple(tokenizer.encode(end, add_special_tokens=False))
    return PromptFormat(chat, start, ends, limit, end, turn)


def _named(marker: str | int, tokenizer: Tokenizer) -> tuple[tuple[int, ...], str]:
    """Return tokens and text of the end of thinking that a user names, as lm-eval's `hf` does."""
    if str(marker).isdigit():
        if int(marker) >= len(tokenizer):
            raise UserError(
                f"think_end_token: there is no token {marker} of {len(tokenizer)}; give the text "
                "that ends the thinking"
            )
        return (int(marker),), tokenizer.decode([int(marker)])
    ends = tuple(tokenizer.encode(str(marker), add_special_tokens=False)) if marker else ()
    if marker and not ends:
        raise UserError(
            f"think_end_token: the tokenizer gives no token for {marker!r}; give the text that "
            "ends the thinking"
        )
    return ends, str(marker)


def template_turn(tokenizer: Tokenizer) -> str | None:
    """Return what the chat template writes between a question and the answer, if anything."""
    asked = [{"role": "user", "content": _QUESTION}]
    try:
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError, KeyError, AttributeError):
        return None  # the first question raises it, with the reason
    return str(text).rpartition(_QUESTION)[2] or None


def thinking_end(tokenizer: Tokenizer) -> tuple[str, bool]:
    """Return the text that ends thinking, and whether the chat template contains it or its start.

    If the template does not, the text is among the added tokens; it is "" if there is none.
    """
    template, added = str(tokenizer.chat_template), tokenizer.get_added_vocab()
    in_template = (end for end, start in MARKERS.items() if start in template or end in template)
    in_tokens = (end for end in MARKERS if all(piece in added for piece in _PIECE.findall(end)))
    written = next(in_template, "")
    return written or next(in_tokens, ""), bool(written)


def _card(model: str, beside: Path | None) -> ModelCard | None:
    """Return the card of the model's name: the user's (see `search_card`), or a built-in one."""
    names = names_of_model(model)
    short = dict.fromkeys(name.rpartition("/")[2] for name in names)
    for name in dict.fromkeys([*short, *map(str.casefold, short)]):
        path = search_card("models", name, beside)
        if path is not None:
            return load_model_card(str(path))
    known = {name.casefold() for name in names}
    cards = (load_model_card(name) for name in builtin_names("models"))
    ids = ((card, (card.hub_id or "").casefold()) for card in cards)
    return next((card for card, id_ in ids if known & {id_, id_.partition("/")[2]}), None)


def names_of_model(model: str) -> list[str]:
    """Return the names of a model: the given one; of a folder, its name and the hub's id."""
    folder = Path(model)
    if not folder.is_dir():
        return [split_revision(model)[0]]
    whole = folder.resolve()
    names = [folder.name, whole.name]
    if whole.parent.name == "snapshots":  # of the hub's cache: models--ORGANISATION--NAME
        names.append(whole.parent.parent.name.removeprefix("models--").replace("--", "/", 1))
    return list(filter(None, names))
