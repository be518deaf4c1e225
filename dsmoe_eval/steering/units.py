"""What the units of a profile are: experts, or neurons of dense FFNs, one by one or in blocks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Sites(BaseModel):
    """The units that are counted, chosen and steered in each layer.

    Attributes:
        kind: the routed experts of a mixture of experts, or the neurons of a dense model's FFNs.
        block: the number of neighbouring neurons that are one unit; 1 for experts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["experts", "neurons"] = "experts"
    block: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _check(self) -> Sites:
        if self.kind == "experts" and self.block > 1:
            raise ValueError("blocks are of neurons; experts have none")
        return self

    @property
    def noun(self) -> str:
        """The word for the units, in the plural."""
        return self.kind if self.block == 1 else f"blocks of {self.block} neurons"


EXPERTS = Sites()
"""The units of a mixture of experts."""
