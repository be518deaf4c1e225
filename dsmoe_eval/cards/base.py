"""The base class and the field types of all cards."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Count = Annotated[int, Field(ge=1)]


class Card(BaseModel):
    """The base class of all cards: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
