"""Several tests at once."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values for their number by Holm's step-down method.

    Rejecting where the adjusted value is at most alpha keeps the probability of any false
    rejection at alpha or less, however the tests depend on each other: Holm (1979),
    Scandinavian Journal of Statistics 6:65-70.

    Args:
        p_values: Shape (m,), raw p-values in [0, 1]; may be empty.

    Returns:
        Shape (m,), the adjusted p-values in the same order.

    Raises:
        ValueError: If the input is not one-dimensional, or a value is NaN or not in [0, 1].
    """
    raw = np.asarray(p_values, dtype=np.float64)
    if raw.ndim != 1:
        raise ValueError(f"p_values has shape {raw.shape}; give shape (m,), one value per test.")
    valid = (raw >= 0) & (raw <= 1)
    if not valid.all():
        raise ValueError(
            f"p_values holds {raw[~valid][0]}; leave out tests without a p-value in [0, 1]."
        )
    if raw.size == 0:
        return raw
    # statsmodels takes a second or so to import, and most callers have no family of tests.
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(raw, method="holm")[1], dtype=np.float64)
