"""SupAP: a bound of average precision whose gradient does not fade where a negative is far ahead."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcm_bench.losses.pairs import Pairs
from tcm_bench.losses.smooth_rank import mean_over_queries, relevant_items


def supap(pairs: Pairs, *, temperature: float = 0.01, margin: float = 0.05, slope: float = 100.0) -> Float[Tensor, ""]:
    r"""An upper bound of one minus the mean average precision of the batch's queries.

    .. math:: 1 - \frac{1}{|Q|} \sum_{q \in Q} \frac{1}{|P_q|} \sum_{x \in P_q}
              \frac{r_{qx}}{r_{qx} + \sum_{z \notin P_q} H(s_{qz} - s_{qx})}, \qquad
              H(t) = \sigma\big(\min(t, \delta) / \tau\big) + \tfrac{1}{2} [t \ge 0] + \rho \max(t - \delta, 0)

    with :math:`r` the rank among the query's class, counted and without gradient. :math:`H` is at least 1 for a
    negative that is ahead of a positive, hence the bound (but for positives that tie exactly), and goes on growing
    where a sigmoid is flat. As in
    :func:`~tcm_bench.losses.smooth_ap.smooth_ap` the query is retrieved with its class, and any composition is taken.
    Memory is batch x (largest class) x batch.

    Args:
        pairs: The batch.
        temperature: :math:`\tau`, the sigmoid's width in units of cosine, above 0.
        margin: :math:`\delta`, from which on :math:`H` grows linearly, a difference of cosines.
        slope: :math:`\rho`, per unit of cosine.

    Returns:
        A scalar in [0, 1].

    References:
        Ramzi et al., Robust and Decomposable Average Precision for Image Retrieval, NeurIPS 2021, arXiv:2110.01445.
        The line continues the sigmoid here; in the authors' code it starts at 0 instead of at the margin.
    """
    members = relevant_items(pairs.similarity, ~pairs.negative)
    among_class = members.similarity.detach().where(members.real, -torch.inf)
    rank_in_class = (among_class.unsqueeze(1) >= members.similarity.unsqueeze(2)).sum(dim=2)
    negatives = pairs.similarity.where(pairs.negative, -torch.inf)
    ahead = negatives.unsqueeze(1) - members.similarity.unsqueeze(2)
    negatives_ahead = ahead.clamp(max=margin).div(temperature).sigmoid().sum(dim=2)
    negatives_ahead = negatives_ahead + slope * (ahead - margin).relu().sum(dim=2) + 0.5 * (ahead >= 0).sum(dim=2)
    precision = (rank_in_class / (rank_in_class + negatives_ahead)).where(members.real, 0.0)
    average_precision = precision.sum(dim=1) / members.real.sum(dim=1)
    scored = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    return mean_over_queries(1 - average_precision, scored)


class SupAP(nn.Module):
    """SupAP with its settings and, if there is one, a term that calibrates cosines across queries; see :func:`supap`.

    Args:
        temperature: Above 0.
        margin: At least 0.
        slope: At least 0.
        calibration: From the pairs to a scalar, which is added. The authors' is TCM with other margins.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        temperature: float = 0.01,
        margin: float = 0.05,
        slope: float = 100.0,
        calibration: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        for name, value in (("margin", margin), ("slope", slope)):
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        self.settings = {"temperature": temperature, "margin": margin, "slope": slope}
        self.calibration = calibration

    def forward(self, pairs: Pairs) -> Float[Tensor, ""]:
        """The loss of a batch."""
        loss = supap(pairs, **self.settings)
        return loss if self.calibration is None else loss + self.calibration(pairs)
