"""The rows of two cells of one task, paired item by item."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import UserError
from .cells import answer_rates
from .paired import Answers, Rates, WholeAnswers


def pair_items(base: pd.DataFrame, other: pd.DataFrame, task: str) -> pd.DataFrame:
    """Pair the rows of base, or of a control, with those of another variant on the same items.

    Returns:
        One row per item; the columns of the first with suffix `_a`, of the second with `_b`.

    Raises:
        UserError: an item is on one side only, which must not happen within one run.
    """
    merged = base.merge(
        other, on="item", how="outer", suffixes=("_a", "_b"), validate="one_to_one", indicator=True
    )
    alone = int((merged["_merge"] != "both").sum())
    if alone:
        raise UserError(f"task {task!r}: {alone} item(s) were answered by one variant only")
    return merged


def compare_answers(paired: pd.DataFrame) -> Answers | None:
    """Return the rates of generated answers; None where nothing was generated."""
    generated = paired[paired["tokens_a"].str.len() > 0]
    if generated.empty:
        return None
    a, b = (Rates.model_validate(answer_rates(generated, f"_{side}")) for side in "ab")
    whole = generated[_is_whole(generated, "a") & _is_whole(generated, "b")]
    delta = float((whole["score_b"] - whole["score_a"]).mean()) if len(whole) else None
    return Answers(
        a=a,
        b=b,
        n=len(generated),
        count=int(generated["tokens_a"].str.len().sum()),
        both_whole=WholeAnswers(n=len(whole), delta=delta),
    )


def _is_whole(generated: pd.DataFrame, side: str) -> pd.Series[bool]:
    return ~(generated[f"truncated_{side}"].map(np.any) | generated[f"invalid_{side}"].map(np.any))


Column = NDArray[np.generic]


def columns_of(paired: pd.DataFrame) -> tuple[Column, Column, Column]:
    """Return the scores of the two variants and the items' clusters, each of shape (items,)."""
    a, b, clusters = (paired[name].to_numpy() for name in ("score_a", "score_b", "cluster_a"))
    return a, b, clusters
