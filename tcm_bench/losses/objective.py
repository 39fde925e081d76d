"""What training minimizes: a base loss plus TCM on the same pairs."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tcm_bench.losses.pairs import Pairs, UnusableBatch
from tcm_bench.losses.tcm import TCM


class Objective(nn.Module):
    """Base loss plus TCM over one shared similarity matrix, reported term by term.

    Args:
        base: Maps :class:`~tcm_bench.losses.pairs.Pairs` to a scalar.
        tcm: The regularizer; weights 0 for the baseline.
    """

    def __init__(self, base: nn.Module, tcm: TCM) -> None:
        super().__init__()
        self.base = base
        self.tcm = tcm

    def forward(
        self, embeddings: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Terms of a batch.

        Args:
            embeddings: Unit-norm rows; half types are taken to float32.
            labels: Class of each row.

        Returns:
            ``loss`` with its graph. Without: ``base`` and ``tcm``, which add up to it;
            ``tcm_positive`` and ``tcm_negative``, the mean violations before their weights;
            ``hard_positives`` and ``hard_negatives``, the shares of the batch's pairs of each kind that violate their
            margin (0 where there are no pairs).

        Raises:
            UnusableBatch: If a row's norm is not 1 within 1e-2, or a term is not finite.
        """
        pairs = Pairs(embeddings, labels, check=False)
        base = self.base(pairs)
        tcm = self.tcm.terms(pairs)
        terms = {
            "loss": base + tcm.loss,
            "base": base.detach(),
            "tcm": tcm.loss.detach(),
            "tcm_positive": tcm.positive.detach(),
            "tcm_negative": tcm.negative.detach(),
            "hard_positives": _share(tcm.hard_positives, pairs.positive).to(base.dtype),
            "hard_negatives": _share(tcm.hard_negatives, pairs.negative).to(base.dtype),
        }
        # Asked once for all of it, because each answer makes this process wait for a GPU.
        values = torch.stack([term.detach() for term in terms.values()])
        if not bool(values.isfinite().all() & pairs.is_unit.all()):
            known = dict(zip(terms, values.tolist(), strict=True))
            pairs.check(known)
            raise UnusableBatch("the loss is not finite though every embedding is", known)
        return terms


def _share(unordered: Int[Tensor, ""], pairs: Bool[Tensor, "batch batch"]) -> Float[Tensor, ""]:
    """Of the pairs, each of which stands twice in its mask."""
    return 2 * unordered / pairs.sum().clamp(min=1)
