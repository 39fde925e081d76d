"""What scores are called and how they are shown: titles, units, directions. Fractions everywhere else."""

import re
from collections.abc import Iterable
from typing import NamedTuple

RANGE_END = r"_far_([\d.]+e-?\d+)$"  # of the name of a score that is not of the headline's calibration range


class Score(NamedTuple):
    """How a score is shown: `value * scale`, in `unit`.

    Attributes:
        name: In rows, files and logs.
        title: For people.
        unit: `%`, or `e-3` for thousandths.
        scale: From the stored fraction to the unit.
        relative: Whether a change is given in percent of the base; otherwise in the unit.
        higher_is_better: Its direction.
    """

    name: str
    title: str
    unit: str
    scale: int
    relative: bool
    higher_is_better: bool

    def is_better(self, change: float) -> bool | None:
        """Whether a change is for the better; None if there is none.

        Example:
            >>> score("recall_at_1").is_better(-0.1), score("opis").is_better(-0.1), score("opis").is_better(0.0)
            (False, True, None)
        """
        return (change > 0) is self.higher_is_better if change else None

    def shown(self, value: float | None, digits: int) -> str:
        """A value of it with its title and unit.

        Example:
            >>> score("recall_at_1").shown(0.5, 1), score("opis").shown(0.0123, 1), score("opis").shown(None, 1)
            ('R@1 50.0 %', 'OPIS 12.3e-3', 'OPIS undefined')
        """
        if value is None:
            return f"{self.title} undefined"
        return f"{self.title} {value * self.scale:.{digits}f}{' %' if self.unit == '%' else self.unit}"


def arrow(change: float) -> str:
    """Up, down, or neither."""
    return "↑" if change > 0 else "↓" if change < 0 else "="


def score(name: str) -> Score:
    """How the score of this name is shown.

    Example:
        >>> [score(name).title for name in ("recall_at_1", "opis", "opis_12_5pct", "tar_at_far_0_1pct", "map_at_r")]
        ['R@1', 'OPIS', '12.5%-OPIS', 'TAR at FAR 0.1%', 'map at r']
        >>> [score(name).title for name in ("opis_corrected", "opis_10pct_far_1e-3", "threshold_spread_tar_90pct")]
        ['OPIS less noise', '10%-OPIS to FAR 1e-3', 'spread of thresholds at TAR 90%']
    """
    range_end = re.search(RANGE_END, name)
    kind = name[: range_end.start()] if range_end else name
    title = kind.replace("recall_at_", "R@").replace("tar_at_far_", "TAR at FAR ")
    title = title.replace("threshold_spread", "spread of thresholds at").replace("tar_", "TAR ").replace("far_", "FAR ")
    title = re.sub(r"(?<=\d)_(?=\d)", ".", title).replace("pct", "%").replace("_", " ")
    inconsistency = kind.startswith(("opis", "threshold_spread"))
    if kind.startswith("opis"):
        share = title.removeprefix("opis").strip()
        title = {"": "OPIS", "corrected": "OPIS less noise"}.get(share, f"{share}-OPIS")
    if range_end:
        title += f" to FAR {range_end[1]}"
    unit, scale = ("e-3", 1000) if inconsistency else ("%", 100)
    better = not inconsistency and kind != "noise_floor"
    return Score(name, title, unit, scale, relative=inconsistency, higher_is_better=better)


def compared(names: Iterable[str]) -> tuple[str, ...]:
    """The scores that runs are compared by, of those that were measured: one R@k, OPIS, and OPIS of the worst classes.

    R@k is that of the smallest k; OPIS of the worst comes once for each share of the classes that was called worst.

    Example:
        >>> compared(["recall_at_1", "recall_at_2", "opis", "opis_20pct", "opis_20pct_seen"])
        ('recall_at_1', 'opis', 'opis_20pct')
        >>> compared([])
        ('recall_at_1', 'opis', 'opis_10pct')
    """
    measured = list(dict.fromkeys(names))
    ks = [int(found[1]) for name in measured if (found := re.fullmatch(r"recall_at_(\d+)", name))]
    worst = [name for name in measured if re.fullmatch(r"opis_[\d_]+pct", name)]
    return (f"recall_at_{min(ks, default=1)}", "opis", *(worst or ["opis_10pct"]))


def details(names: Iterable[str]) -> tuple[str, ...]:
    """Of the scores that were measured those that say what a change of OPIS is made of, in the order to show them.

    Example:
        >>> details(["recall_at_1", "opis", "opis_far_1e-3", "opis_corrected", "tar_at_far_1pct", "opis_seen"])
        ('opis_corrected', 'opis_far_1e-3', 'tar_at_far_1pct')
    """
    kinds = (
        *("opis_corrected", "noise_floor", f"opis{RANGE_END}", "mean_utility"),
        *(r"tar_at_far_[\d_]+pct", r"threshold_spread_\w+pct"),
    )
    measured = list(dict.fromkeys(names))
    return tuple(name for kind in kinds for name in measured if re.fullmatch(kind, name))
