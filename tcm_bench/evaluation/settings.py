"""How an evaluation is made: one record of all that decides its numbers."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from tcm_bench.evaluation.evaluate import check_settings


@dataclass(frozen=True)
class Settings:
    """How an evaluation is made; see :func:`tcm_bench.evaluation.evaluate.evaluate`."""

    ks: tuple[int, ...] = (1, 2, 4, 8)
    axis: Literal["distance", "similarity"] = "distance"
    far_bounds: tuple[float, float] = (0.01, 0.1)
    steps: int = 101
    c: float = 1.0
    eps: float = 0.1
    ranking: Literal["mean", "pointwise"] = "mean"
    far_levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is outside its range."""
        check_settings(**asdict(self))

    @classmethod
    def of(cls, found: dict[str, Any]) -> "Settings":
        """From plain values by name; others are passed over."""
        known = {field.name: found[field.name] for field in fields(cls) if field.name in found}
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in known.items()}
        return cls(**plain)

    def recorded(self) -> dict[str, Any]:
        """What is stored with an evaluation, and must be the same for two that are compared."""
        return {name: value for name, value in asdict(self).items() if name not in ("ks", "far_levels")}
