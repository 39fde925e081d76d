"""RS@k: a surrogate of Recall@k with sigmoids in place of steps."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcm_bench.losses.pairs import Pairs
from tcm_bench.losses.smooth_rank import mean_over_queries, relevant_items, smooth_rank


def rs_at_k(
    pairs: Pairs,
    *,
    ks: Sequence[int] = (1, 2, 4, 8, 16),
    rank_temperature: float = 0.01,
    count_temperature: float = 1.0,
) -> Float[Tensor, ""]:
    r"""One minus the soft recall, averaged over the batch's queries and over ``ks``.

    .. math:: 1 - \frac{1}{|Q| |K|} \sum_{q \in Q} \sum_{k \in K}
              \frac{\min\big(k, \sum_{x \in P_q} \sigma((k - r_{qx}) / \tau_c)\big)}{\min(k, |P_q|)},
              \qquad r_{qx} = 1 + \sum_{z \ne x, z \ne q} \sigma\big((s_{qz} - s_{qx}) / \tau_r\big)

    The query is removed: it is neither ranked nor does it stand before the others. The authors'
    code leaves it in every rank, so that the nearest positive has rank 2 there. Even so the loss
    of a perfect batch is not 0, because the outer sigmoid gives an item of rank exactly ``k`` only
    one half.

    Any composition is taken: a query needs another item of its class and one of another class to
    be scored, the mean is over those that have both, and a batch without one gives 0. Memory is
    batch x (largest class) x batch.

    Args:
        pairs: The batch.
        ks: The ``k`` averaged over, each at least 1.
        rank_temperature: :math:`\tau_r`, in units of cosine, above 0.
        count_temperature: :math:`\tau_c`, in units of rank, above 0.

    Returns:
        A scalar in [0, 1].

    References:
        Patel et al., Recall@k Surrogate Loss with Large Batches and Similarity Mixup, CVPR 2022,
        arXiv:2108.11179.
    """
    similarity = pairs.similarity
    itself = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    positives = relevant_items(similarity, pairs.positive)
    others = similarity.masked_fill(itself, -torch.inf)
    rank = smooth_rank(positives.similarity, others, temperature=rank_temperature)
    k = torch.cat([rank.new_full((1,), k) for k in ks])  # a tensor of a list would be waited for on a GPU
    retrieved = ((k - rank.unsqueeze(2)) / count_temperature).sigmoid() * positives.real.unsqueeze(2)
    num_positives = positives.real.sum(dim=1, keepdim=True)
    recall = retrieved.sum(dim=1).minimum(k) / k.minimum(num_positives.clamp(min=1))
    scored = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    return mean_over_queries(1 - recall.mean(dim=1), scored)


class RSAtK(nn.Module):
    """RS@k with its settings; see :func:`rs_at_k`.

    Raises:
        ValueError: If ``ks`` is empty or has a value below 1, or a temperature is not above 0.
    """

    def __init__(
        self,
        ks: Sequence[int] = (1, 2, 4, 8, 16),
        rank_temperature: float = 0.01,
        count_temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not ks or min(ks) < 1:
            raise ValueError(f"ks must hold at least one k, each at least 1, got {list(ks)}")
        for name, temperature in (("rank", rank_temperature), ("count", count_temperature)):
            if not temperature > 0:
                raise ValueError(f"{name}_temperature must be above 0, got {temperature}")
        self.ks = tuple(ks)
        self.rank_temperature = rank_temperature
        self.count_temperature = count_temperature

    def forward(self, pairs: Pairs) -> Float[Tensor, ""]:
        """The loss of a batch."""
        return rs_at_k(
            pairs,
            ks=self.ks,
            rank_temperature=self.rank_temperature,
            count_temperature=self.count_temperature,
        )
