"""How an evaluation is made: the one record of all that decides its numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from tcm_bench.results.old_names import renamed

Axis = Literal["distance", "similarity"]
Ranking = Literal["mean", "pointwise"]


@dataclass(frozen=True)
class Settings:
    """How an evaluation is made; conventions are those of :mod:`tcm_bench.evaluation.threshold`.

    Attributes:
        ks: Numbers of neighbors inspected, each at least 1; beyond ``items - 1`` all others are.
        axis: Threshold axis.
        far_bounds: Pooled false accept rates at the ends of the calibration range, ``0 < low < high <= 1``.
        num_thresholds: Points of the grid over the range, both ends included, at least 2.
        c: Weight of sensitivity against specificity in the utility, above 0.
        eps: Share of the classes called worst, in (0, 1).
        ranking: Whether these are chosen once, by mean utility, or at each threshold.
        far_levels: False accept rates in (0, 1] at which the true accept rate is wanted.

    Raises:
        ValueError: With one sentence that names the setting, if one is outside its range.
    """

    ks: tuple[int, ...] = (1, 2, 4, 8)
    axis: Axis = "distance"
    far_bounds: tuple[float, float] = (0.01, 0.1)
    num_thresholds: int = 101
    c: float = 1.0
    eps: float = 0.1
    ranking: Ranking = "mean"
    far_levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Take lists as tuples, and refuse what is outside its range."""
        for name in ("ks", "far_bounds", "far_levels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, known in (("axis", get_args(Axis)), ("ranking", get_args(Ranking))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, got {value!r}")
        if len(self.far_bounds) != 2 or not 0 < self.far_bounds[0] < self.far_bounds[1] <= 1:
            raise ValueError(f"far_bounds must be two rates with 0 < low < high <= 1, got {self.far_bounds}")
        if self.num_thresholds < 2:
            raise ValueError(f"num_thresholds must be at least 2, got {self.num_thresholds}")
        if not self.c > 0:
            raise ValueError(f"c must be above 0, got {self.c}")
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must be in (0, 1), got {self.eps}")
        if any(k < 1 for k in self.ks):
            raise ValueError(f"k must be at least 1, got {list(self.ks)}")
        if any(not 0 < far <= 1 for far in self.far_levels):
            raise ValueError(f"far_levels must be rates in (0, 1], got {list(self.far_levels)}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        """From plain values by name, as files hold them, also those of earlier versions; others are passed over."""
        found = renamed(values)
        return cls(**{field.name: found[field.name] for field in fields(cls) if field.name in found})

    def recorded(self) -> dict[str, Any]:
        """As plain values, what is stored with an evaluation and must be the same for two that are compared."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in plain.items() if name not in ("ks", "far_levels")}
