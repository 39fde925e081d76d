"""What files of earlier versions call things, so that they stay readable."""

from collections.abc import Mapping
from functools import cache
from typing import Any

NEW = {"d_min": "threshold_low", "d_max": "threshold_high", "steps": "num_thresholds"}


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values by today's names.

    Example:
        >>> renamed({"d_min": 0.9, "tpr_at_far_1pct": 0.5, "opis": 0.01})
        {'threshold_low': 0.9, 'tar_at_far_1pct': 0.5, 'opis': 0.01}
    """
    return {_today(name): value for name, value in values.items()}


@cache  # thousands of rows have the same
def _today(name: str) -> str:
    return NEW.get(name, name.replace("tpr_at_far_", "tar_at_far_"))
