"""Threshold-consistent margin (TCM): a regularizer on the hard pairs of a batch."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tcm_bench.losses.pairs import Pairs


class TCMTerms(NamedTuple):
    """What TCM finds in a batch.

    Attributes:
        loss: Weighted sum of the two terms.
        positive: Mean violation of the hard positives, before its weight; 0 if there is none.
        negative: Mean violation of the hard negatives, before its weight; 0 if there is none.
        hard_positives: Unordered positive pairs at or below their margin.
        hard_negatives: Unordered negative pairs at or above theirs.
    """

    loss: Float[Tensor, ""]
    positive: Float[Tensor, ""]
    negative: Float[Tensor, ""]
    hard_positives: Int[Tensor, ""]
    hard_negatives: Int[Tensor, ""]


def tcm_terms(
    pairs: Pairs,
    *,
    positive_margin: float = 0.9,
    negative_margin: float = 0.5,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
) -> TCMTerms:
    r"""Mean margin violation of the hard positives plus that of the hard negatives.

    .. math:: \lambda^+ \, \mathrm{mean}_{s \le m^+, s \in P} (m^+ - s)
              + \lambda^- \, \mathrm{mean}_{s \ge m^-, s \in N} (s - m^-)

    Only pairs on the wrong side of a margin count and each side is averaged over its own, so the
    loss does not fade as easy pairs come to dominate. A side without hard pairs is exactly 0 and
    keeps the graph. With both weights 0 this is the baseline: same code, and the terms still
    report how far the batch is from the margins.

    Args:
        pairs: The batch.
        positive_margin: :math:`m^+`, a cosine; positives at or below it are hard.
        negative_margin: :math:`m^-`, a cosine; negatives at or above it are hard.
        positive_weight: :math:`\lambda^+`.
        negative_weight: :math:`\lambda^-`.

    References:
        Zhang et al., ICLR 2024, arXiv:2307.04047.

    Example:
        >>> pairs = Pairs(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]]), torch.tensor([0, 0, 1]))
        >>> terms = tcm_terms(pairs)  # cosines: 0.8 positive; 0.6 and 0.96 negative
        >>> round(terms.positive.item(), 4), round(terms.negative.item(), 4)
        (0.1, 0.28)
    """
    similarity = pairs.similarity
    positive, hard_positives = _hard_mean(positive_margin - similarity, pairs.positive)
    negative, hard_negatives = _hard_mean(similarity - negative_margin, pairs.negative)
    loss = positive_weight * positive + negative_weight * negative
    return TCMTerms(loss, positive, negative, hard_positives, hard_negatives)


def _hard_mean(violation: Tensor, chosen: Bool[Tensor, "batch batch"]) -> tuple[Tensor, Tensor]:
    """Mean of the violations not below 0 among the chosen pairs, each once, and their number."""
    hard = (chosen & (violation >= 0)).triu(diagonal=1)
    count = hard.sum()
    return violation.where(hard, torch.zeros_like(violation)).sum() / count.clamp(min=1), count


class TCM(nn.Module):
    """TCM with its margins and weights; see :func:`tcm_terms`.

    Raises:
        ValueError: If a margin is outside [-1, 1] or a weight is negative.
    """

    def __init__(
        self,
        positive_margin: float = 0.9,
        negative_margin: float = 0.5,
        positive_weight: float = 1.0,
        negative_weight: float = 1.0,
    ) -> None:
        super().__init__()
        for name, margin in (("positive", positive_margin), ("negative", negative_margin)):
            if not -1 <= margin <= 1:
                raise ValueError(f"{name}_margin is a cosine and must be in [-1, 1], got {margin}")
        if not negative_margin < positive_margin:
            raise ValueError(
                f"positive_margin must be above negative_margin, got {positive_margin} and {negative_margin}"
            )
        for name, weight in (("positive", positive_weight), ("negative", negative_weight)):
            if not weight >= 0:
                raise ValueError(f"{name}_weight must be at least 0, got {weight}")
        self.settings = {
            "positive_margin": positive_margin,
            "negative_margin": negative_margin,
            "positive_weight": positive_weight,
            "negative_weight": negative_weight,
        }

    def terms(self, pairs: Pairs) -> TCMTerms:
        """The loss and all that it is made of."""
        return tcm_terms(pairs, **self.settings)

    def forward(self, pairs: Pairs) -> Float[Tensor, ""]:
        """The weighted loss alone."""
        return self.terms(pairs).loss
