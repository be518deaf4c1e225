"""The prompt format of a model: plain text or chat template, and the end of its thinking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..cards import ModelCard
from ..errors import UserError
from ..experts.tokenizer import Tokenizer
from ..registry import builtin_names, load_model_card

Asked = Literal["auto", "plain", "chat"]


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """The prompt format of one model.

    Attributes:
        chat: whether a prompt is put into the tokenizer's chat template, as one user message.
        think_start: text that may precede the thinking.
        think_end: the tokens that end the thinking. The answer follows the last of them, and stop
            strings count only in the answer.
        answer_tokens: the limit that the model needs for thinking, if larger than a task's limit.
    """

    chat: bool = False
    think_start: str = ""
    think_end: tuple[int, ...] = ()
    answer_tokens: int | None = None

    @property
    def name(self) -> str:
        """The description of the format in a cell's identity."""
        thinking = f", thinking in up to {self.answer_tokens} tokens" if self.think_end else ""
        return ("chat" if self.chat else "plain") + thinking


PLAIN = PromptFormat()
"""The format without a chat template, in which the whole completion is the answer."""


def prompt_format(model: str, tokenizer: Tokenizer, asked: Asked = "auto") -> PromptFormat:
    """Choose the prompt format by the model's card and its tokenizer.

    Args:
        model: as for `load_model`. A card belongs to the model if it has that name or hub id, or
            the folder's name; without a card, thinking is not recognised.
        tokenizer: the model's tokenizer.
        asked: `auto` takes the chat template if there is one, unless the card says that the model
            is a base model: some base models come with the template of their chat siblings.

    Raises:
        UserError: the request is `chat` and the tokenizer has no chat template.
    """
    card = _card(model)
    there = getattr(tokenizer, "chat_template", None) is not None
    if asked == "chat" and not there:
        raise UserError(f"model {model!r}: its tokenizer has no chat template")
    chat = asked == "chat" or (
        asked == "auto" and there and (card is None or card.format != "base")
    )
    if card is None or card.think_end_token is None:
        return PromptFormat(chat)
    marker = tokenizer.encode(card.think_end_token, add_special_tokens=False)
    return PromptFormat(chat, card.think_start_token or "", tuple(marker), card.answer_tokens)


def _card(model: str) -> ModelCard | None:
    cards = (load_model_card(known) for known in builtin_names("models"))
    folder = Path(model).name.casefold() if Path(model).is_dir() else None
    return next((card for card in cards if _is_of(card, model, folder)), None)


def _is_of(card: ModelCard, model: str, folder: str | None) -> bool:
    return model in (card.name, card.hub_id) or folder in (
        card.name,
        card.hub_id.partition("/")[2].casefold(),
    )
