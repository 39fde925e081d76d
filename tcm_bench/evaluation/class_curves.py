"""The utility of every class over pooled false accept rates, an axis that all networks share."""

from dataclasses import dataclass
from math import ceil, log10

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcm_bench.evaluation.counting.scan import PairScan
from tcm_bench.evaluation.settings import Settings
from tcm_bench.evaluation.threshold import utility

FEWEST_PAIRS = 10  # that a rate must be of, to be shown


@dataclass(frozen=True, eq=False)
class ClassCurves:
    """Utilities of the classes that have a positive pair.

    Attributes:
        rates: Pooled false accept rates, increasing.
        thresholds: Cosines that have them, decreasing.
        labels: Of the classes, increasing.
        utilities: Of each class at each rate, in [0, 1].
    """

    rates: Float[Tensor, " rates"]
    thresholds: Float[Tensor, " rates"]
    labels: Int[Tensor, " classes"]
    utilities: Float[Tensor, "classes rates"]


def class_curves(
    embeddings: Float[Tensor, "items dim"],
    labels: Int[Tensor, " items"],
    *,
    bounds: tuple[float, float],
    points: int = 61,
    c: float = Settings.c,
    query: Bool[Tensor, " items"] | None = None,
    gallery: Bool[Tensor, " items"] | None = None,
) -> ClassCurves:
    """Utility of each class at thresholds of evenly spaced logarithms of the pooled false accept rate.

    Args:
        embeddings: Rows of any norm but 0.
        labels: Class of each row.
        bounds: First and last rate; the first is raised to what the pairs can show.
        points: Number of rates.
        c: Weight of sensitivity against specificity.
        query: Which rows are queries; by default all.
        gallery: Which rows are searched; by default all.

    Raises:
        ValueError: If there are too few pairs of two classes to show the last rate.
    """
    scan = PairScan(embeddings, labels, axis="similarity", query=query, gallery=gallery)
    least = max(bounds[0], FEWEST_PAIRS / max(scan.num_negative, 1))
    if least >= bounds[1]:
        raise ValueError(f"{scan.num_negative} pairs of two classes are too few to show a FAR of {bounds[1]:g}")
    rates = torch.logspace(log10(least), log10(bounds[1]), points, dtype=torch.float64)
    found = scan.calibrated([ceil(rate * scan.num_negative) for rate in rates.tolist()], lambda costs: costs)
    kept, negatives = scan.positives > 0, found.counts.negatives.sum(dim=1)[:, None]
    sensitivity = found.counts.accepted_positives.double() / found.counts.positives[:, None]
    specificity = 1 - found.counts.accepted_negatives.sum(dim=1).double() / negatives
    return ClassCurves(
        rates=rates,
        thresholds=-found.costs.cpu(),
        labels=scan.classes[kept].cpu(),
        utilities=utility(sensitivity[kept], specificity[kept], c=c).cpu(),
    )
