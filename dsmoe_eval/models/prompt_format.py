"""How a model wants to be asked: plain text or its chat template, and where its thinking ends."""

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
    """Of one model.

    Attributes:
        chat: a prompt stands in the tokenizer's chat template, as one message of the user.
        think_start: what may stand before the thinking.
        think_end: tokens behind the last of which the answer is; stop strings count there only.
        answer_tokens: where that is more than a task grants: what the model needs to think.
    """

    chat: bool = False
    think_start: str = ""
    think_end: tuple[int, ...] = ()
    answer_tokens: int | None = None

    @property
    def name(self) -> str:
        """For a cell's identity."""
        thinking = f", thinking in up to {self.answer_tokens} tokens" if self.think_end else ""
        return ("chat" if self.chat else "plain") + thinking


PLAIN = PromptFormat()
"""Prompts as tasks have them; the whole text is the answer."""


def prompt_format(model: str, tokenizer: Tokenizer, asked: Asked = "auto") -> PromptFormat:
    """By the model's card and its tokenizer.

    Args:
        model: as for `load_model`. A card is of that name or hub id, or of that folder's name;
            without one nothing is known of the model.
        tokenizer: the model's.
        asked: `auto` takes the chat template where there is one, unless the card says that the
            model is a base model: some of those come with the template of their chat siblings.

    Raises:
        UserError: `chat`, and there is no template.
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
