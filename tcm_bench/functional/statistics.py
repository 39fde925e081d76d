"""Paired comparison over seeds."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student


def paired_difference(
    base: Sequence[float], tcm: Sequence[float], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of ``tcm - base`` over seeds and its two-sided Student t interval.

    The seeds are paired because a seed fixes initialization and batches of both arms; what they
    share cancels in the difference.

    Args:
        base: One value a seed, without TCM.
        tcm: The same seeds in the same order, with TCM.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        ``(mean, low, high)``; with fewer than two seeds the bounds are NaN, with none the mean too.

    Raises:
        ValueError: If the lengths differ or ``confidence`` is outside (0, 1).

    Example:
        >>> paired_difference([0.5, 0.75], [0.25, 0.5])
        (-0.25, -0.25, -0.25)
    """
    if len(base) != len(tcm):
        raise ValueError(f"base has {len(base)} seeds and tcm {len(tcm)}, they must be the same seeds")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    difference = np.asarray(tcm, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    seeds = len(difference)
    mean = float(difference.mean()) if seeds else float("nan")
    if seeds < 2:
        return mean, float("nan"), float("nan")
    standard_error = float(difference.std(ddof=1)) / seeds**0.5
    half_width = float(student.ppf((1 + confidence) / 2, seeds - 1)) * standard_error
    return mean, mean - half_width, mean + half_width
