"""How an evaluation is made: the one record of all that decides its numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from tcm_bench.results.old_names import renamed

Axis = Literal["distance", "similarity", "far"]
Cost = Literal["distance", "similarity"]
Ranking = Literal["mean", "pointwise"]


@dataclass(frozen=True)
class Settings:
    """How an evaluation is made; conventions are those of :mod:`tcm_bench.evaluation.threshold`.

    Attributes:
        ks: Numbers of neighbors inspected, each at least 1; beyond ``items - 1`` all others are.
        axis: What OPIS is averaged over: the threshold as a distance or as a cosine; or the logarithm of the pooled
            false accept rate, which no monotone transform of the similarity changes.
        far_bounds: Pooled false accept rates at the ends of the calibration range, ``0 < low < high <= 1``.
        further_far_bounds: Those of further ranges for which OPIS is wanted too, each with its own high end.
        num_thresholds: Points of the grid over each range, both ends included, at least 2.
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
    further_far_bounds: tuple[tuple[float, float], ...] = ((1e-4, 1e-3), (1e-3, 1e-2))
    num_thresholds: int = 101
    c: float = 1.0
    eps: float = 0.1
    ranking: Ranking = "mean"
    far_levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Take lists as tuples, and refuse what is outside its range."""
        for name in ("ks", "far_bounds", "far_levels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "further_far_bounds", tuple(tuple(bounds) for bounds in self.further_far_bounds))
        for name, known in (("axis", get_args(Axis)), ("ranking", get_args(Ranking))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, got {value!r}")
        for name, bounds in (
            ("far_bounds", self.far_bounds),
            *(("further_far_bounds", b) for b in self.further_far_bounds),
        ):
            if len(bounds) != 2 or not 0 < bounds[0] < bounds[1] <= 1:
                raise ValueError(f"{name} must be two rates with 0 < low < high <= 1, got {bounds}")
        highs = [high for _, high in self.further_far_bounds]
        if len({*highs}) < len(highs):
            raise ValueError(f"further_far_bounds must end at different rates, which name their scores, got {highs}")
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

    @property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """The bounds of all calibration ranges, the headline's first."""
        return self.far_bounds, *self.further_far_bounds

    @property
    def cost(self) -> Cost:
        """What a pair is accepted by."""
        return "similarity" if self.axis == "similarity" else "distance"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        """From plain values by name, as files hold them, also those of earlier versions; others are passed over."""
        found = renamed(values)
        return cls(**{field.name: found[field.name] for field in fields(cls) if field.name in found})

    def recorded(self) -> dict[str, Any]:
        """As plain values, what is stored with an evaluation beside the names of its scores."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        plain["further_far_bounds"] = [list(bounds) for bounds in self.further_far_bounds]
        return {name: value for name, value in plain.items() if name not in ("ks", "far_levels")}

    def of_headline(self) -> dict[str, Any]:
        """As `recorded`, what must be the same for two evaluations whose headline scores are compared."""
        return {name: value for name, value in self.recorded().items() if name != "further_far_bounds"}
