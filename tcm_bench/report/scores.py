"""What scores are called and how they are shown: titles, units, directions. Fractions everywhere else."""

import re
from collections.abc import Iterable
from typing import NamedTuple


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

    def shown(self, value: float | None, digits: int) -> str:
        """A value of it with its title and unit.

        Example:
            >>> score("recall_at_1").shown(0.5, 1), score("opis").shown(0.0123, 1), score("opis").shown(None, 1)
            ('R@1 50.0 %', 'OPIS 12.3e-3', 'OPIS undefined')
        """
        if value is None:
            return f"{self.title} undefined"
        return f"{self.title} {value * self.scale:.{digits}f}{' %' if self.unit == '%' else self.unit}"


def score(name: str) -> Score:
    """How the score of this name is shown.

    Example:
        >>> [score(name).title for name in ("recall_at_1", "opis", "opis_12_5pct", "tar_at_far_0_1pct", "map_at_r")]
        ['R@1', 'OPIS', '12.5%-OPIS', 'TAR at FAR 0.1%', 'map at r']
    """
    title = name.replace("recall_at_", "R@").replace("tar_at_far_", "TAR at FAR ")
    title = re.sub(r"(?<=\d)_(?=\d)", ".", title).replace("pct", "%").replace("_", " ")
    inconsistency = name.startswith("opis")
    if inconsistency:
        title = "OPIS" if name == "opis" else f"{title.removeprefix('opis ')}-OPIS"
    unit, scale = ("e-3", 1000) if inconsistency else ("%", 100)
    return Score(name, title, unit, scale, relative=inconsistency, higher_is_better=not inconsistency)


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
