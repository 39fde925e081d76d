"""Smooth-AP: average precision with sigmoids in place of steps."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcm_bench.losses.pairs import Pairs
from tcm_bench.losses.smooth_rank import mean_over_queries, relevant_items, smooth_rank


def smooth_ap(pairs: Pairs, *, temperature: float = 0.01) -> Float[Tensor, ""]:
    r"""One minus the mean soft average precision of the batch's queries.

    .. math:: 1 - \frac{1}{|Q|} \sum_{q \in Q} \frac{1}{|P_q|} \sum_{x \in P_q}
              \frac{r^P_{qx}}{r_{qx}}, \qquad
              r_{qx} = 1 + \sum_{z \ne x} \sigma\big((s_{qz} - s_{qx}) / \tau\big)

    with :math:`r` the rank in the whole batch and :math:`r^P` that among the class alone. As in
    the authors' code the query belongs to its own class :math:`P_q` and is retrieved with it, a
    relevant item at similarity 1 that every rank counts.

    Any composition is taken: a query needs another item of its class and one of another class to
    be scored, the mean is over those that have both, and a batch without one gives 0. Memory is
    batch x (largest class) x batch.

    Args:
        pairs: The batch.
        temperature: :math:`\tau`, the sigmoid's width in units of cosine, above 0.

    Returns:
        A scalar in [0, 1]; about 0 when every class is perfectly clustered.

    References:
        Brown et al., Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval, ECCV 2020,
        arXiv:2007.12163.
    """
    similarity = pairs.similarity
    members = relevant_items(similarity, ~pairs.negative)
    among_class = members.similarity.where(members.real, -torch.inf)
    rank = smooth_rank(members.similarity, similarity, temperature=temperature)
    rank_in_class = smooth_rank(members.similarity, among_class, temperature=temperature)
    precision = (rank_in_class / rank).where(members.real, torch.zeros_like(rank))
    average_precision = precision.sum(dim=1) / members.real.sum(dim=1)
    scored = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    return mean_over_queries(1 - average_precision, scored)


class SmoothAP(nn.Module):
    """Smooth-AP with its temperature; see :func:`smooth_ap`.

    Raises:
        ValueError: If ``temperature`` is not above 0.
    """

    def __init__(self, temperature: float = 0.01) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature

    def forward(self, pairs: Pairs) -> Float[Tensor, ""]:
        """The loss of a batch."""
        return smooth_ap(pairs, temperature=self.temperature)
