"""The numerical noise of a run: base against base where the same texts are in other batches."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..engines.lm import EngineLM
from ..tasks.loading import LoadedTask

NOISE_ITEMS = 8
"""The most items of a task that are scored again."""


def batch_noise(
    lm: EngineLM, task: LoadedTask, samples: pd.DataFrame
) -> dict[str, float | int] | None:
    """Score a few items again, one item in a batch, and compare with a cell's rows.

    Args:
        lm: the model in the state in which it answered.
        task: the task.
        samples: the rows of the cell, one per item, with their `loglikelihoods`.

    Returns:
        `items`, the number of items that were scored again, spread over the task; `flipped`, the
        number of those with another likeliest option; `median_difference` of log-likelihoods,
        absolute, in nats. None where no answer is chosen by log-likelihood.
    """
    if task.card.is_text or not any(map(len, samples["loglikelihoods"])):
        return None
    chosen = np.unique(np.linspace(0, len(samples) - 1, NOISE_ITEMS).astype(int)).tolist()
    flipped, differences = 0, []
    for index in chosen:
        first = np.array(samples["loglikelihoods"].iloc[index])
        texts = [one.args for one in task.requests if one.doc_id == index][: len(first)]
        again = np.array([value for value, _ in lm.score_again(texts)])
        flipped += int(first.argmax() != again.argmax())
        differences += np.abs(again - first).tolist()
    median = float(np.median(differences))
    return {"items": len(chosen), "flipped": flipped, "median_difference": median}
