"""The base class and the field types of all cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Count = Annotated[int, Field(ge=1)]


class Card(BaseModel):
    """The base class of all cards: immutable, and an unknown key is an error.

    Attributes:
        RENAMED: former keys of this card, each with its present spelling for the error message.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    RENAMED: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_former_keys(cls, content: object) -> object:
        if isinstance(content, Mapping):
            for old in cls.RENAMED.keys() & content.keys():
                raise ValueError(f"the key `{old}` is now {cls.RENAMED[old]}")
        return content
