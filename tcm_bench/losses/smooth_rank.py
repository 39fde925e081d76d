"""Differentiable ranks of each query's positives, without a batch^3 tensor."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Retrieved(NamedTuple):
    """The relevant items of each query, padded to the largest number of them.

    Attributes:
        similarity: Cosine of the query with each of its relevant items.
        real: False where a query has fewer.
    """

    similarity: Float[Tensor, "queries relevant"]
    real: Bool[Tensor, "queries relevant"]


def relevant_items(similarity: Float[Tensor, "queries items"], relevant: Bool[Tensor, "queries items"]) -> Retrieved:
    """Gather each query's relevant items into a padded table, in the order of the items."""
    most = int(relevant.sum(dim=1).amax()) if relevant.numel() else 0
    # a stable descending sort of the mask puts the relevant columns first
    columns = relevant.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    return Retrieved(similarity.gather(1, columns), relevant.gather(1, columns))


def smooth_rank(
    ranked: Float[Tensor, "queries relevant"],
    items: Float[Tensor, "queries items"],
    *,
    temperature: float,
) -> Float[Tensor, "queries relevant"]:
    r"""Soft rank of each ranked item among ``items``, which it is one of; 1 is the best.

    .. math:: r_{qx} = 1 + \sum_{z \ne x} \sigma\big((s_{qz} - s_{qx}) / \tau\big)

    The item itself is not masked: it adds the constant :math:`\sigma(0) = 1/2`, without gradient,
    which is taken off. An item of similarity ``-inf`` counts for nothing. One tensor of queries x
    relevant x items is kept for the backward pass and nothing larger is ever made.

    Args:
        ranked: Similarity of the query with the items to rank.
        items: Similarity of the query with everything it may retrieve.
        temperature: Width of the sigmoid in units of similarity, above 0.

    Returns:
        Ranks, at least 1 and at most the number of finite items.

    Example:
        >>> smooth_rank(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.9, 0.5, 0.1]]), temperature=0.01)
        tensor([[1., 3.]])
    """
    ahead = (items.unsqueeze(1) - ranked.unsqueeze(2)).div_(temperature).sigmoid_()
    return 0.5 + ahead.sum(dim=2)


def mean_over_queries(losses: Float[Tensor, " queries"], scored: Bool[Tensor, " queries"]) -> Float[Tensor, ""]:
    """Mean over the scored queries; 0 with a graph if there is none."""
    return losses.where(scored, torch.zeros_like(losses)).sum() / scored.sum().clamp(min=1)
