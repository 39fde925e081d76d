"""A set as it is counted: sorted by class, in every precision, with the error bound of each.

The items of each class are dealt at random to two halves, and pairs of two classes are counted for each half: how far
the halves differ says how far a class's counts would move with other items (`tcm_bench.evaluation.noise`).
"""

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcm_bench.evaluation.counting import halves
from tcm_bench.evaluation.counting.cosine import Cosines, cosine_error
from tcm_bench.evaluation.counting.kernels import CompiledKernel, HalvesKernel, Rows, column_bits
from tcm_bench.evaluation.counting.tensor_kernel import TensorKernel
from tcm_bench.evaluation.counting.thresholds import FixedThresholds
from tcm_bench.evaluation.counting.workers import Processes
from tcm_bench.evaluation.settings import Cost
from tcm_bench.unit_norm import row_norms

Kernel = type[CompiledKernel] | type[TensorKernel]

BLOCK = 2**8  # rows


class PreparedSet:
    """Embeddings, labels and roles, ready to be counted; the arguments are those of `scan.PairScan`.

    Attributes:
        axis: What a pair's cost is.
        classes: The distinct labels in increasing order, int64.
        sizes: Items of each.
        starts: The first row of each, where rows are sorted by class.
        order: The caller's row of each row here.
        cosines: The exact cosines, which decide what nothing else does.
        rows: What the kernel multiplies.
        margin: How far a cosine minus one in float32 lies from the exact one, at most.
        fine_margin: The same in float64 of rows in float32.
        span: No cosine minus one lies further below 0, up to rounding.
        positives: Pairs inside each class.
        negatives: Pairs with exactly one end in each half of it.
        num_positive: All pairs of one class.
        num_negative: All pairs of two classes.
    """

    def __init__(
        self,
        embeddings: Float[Tensor, "items dim"],
        labels: Int[Tensor, " items"],
        *,
        axis: Cost = "distance",
        query: Bool[Tensor, " items"] | None = None,
        gallery: Bool[Tensor, " items"] | None = None,
        tile: tuple[int, int] | None = None,
        group: dist.ProcessGroup | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        row_norms(embeddings, torch.float64)  # here, before sorting: an error names a row by the caller's index
        self.axis, self.num_items, self.processes = axis, len(labels), Processes(group)
        self.kernel: Kernel = kernel or _kernel_for(embeddings.device)
        height, width = tile or self.kernel.tile
        self.tile = min(height, 2 ** (31 - column_bits(len(labels)))), width  # a place in a strip takes 31 bits
        self.classes, dense, self.sizes = labels.long().unique(return_inverse=True, return_counts=True)
        self.order = dense.argsort(stable=True)
        dense, ends = dense[self.order], self.sizes.cumsum(0)
        self.starts = ends - self.sizes
        groups = 2 * dense + self._halves(dense)
        everyone = torch.ones_like(dense, dtype=torch.bool)
        is_query, is_searched = (everyone if role is None else role[self.order] for role in (query, gallery))
        self.cosines = Cosines(embeddings[self.order])
        self._round(groups, ends[dense], is_query.to(torch.int8) + 2 * is_searched.to(torch.int8))
        self._count_all(groups, is_query, is_searched)

    def fixed(self, thresholds: Float[Tensor, " thresholds"]) -> FixedThresholds:
        """Thresholds, costs in increasing order, with the margins of this set."""
        return FixedThresholds(thresholds, self.axis, self.margin, self.fine_margin)

    def in_callers_order(self, values: Tensor) -> Tensor:
        """One value for each of the caller's rows, from one for each row here."""
        result = torch.empty_like(values)
        result[self.order] = values
        return result

    def _halves(self, dense: Tensor) -> Int[Tensor, " items"]:
        """0 or 1 at random for each row, so that a class has as many of both, or one more of the second."""
        dealt = torch.randperm(len(dense), generator=torch.Generator().manual_seed(0)).to(dense.device)
        dealt = dealt[dense[dealt].argsort(stable=True)]  # the rows of each class in a random order
        halves = torch.empty_like(dense)
        halves[dealt] = (
            torch.arange(len(dense), device=dense.device) - self.starts[dense] >= self.sizes[dense] // 2
        ).long()
        return halves

    def _round(self, groups: Tensor, later: Tensor, roles: Tensor) -> None:
        """Rows in float32, and how far what is multiplied from them may be off."""
        single, half = _less_the_common(self.cosines.rows)
        square, dim = 2 * float(half.max()) if len(half) else 2.0, single.shape[1]
        factors, error = self.kernel.factors(single, square**0.5)
        self.rows = Rows(single, factors, half, groups.int(), later.int(), roles)
        # Intervals must be the same to the bit, also where processors differ.
        square, error = self.processes.largest(half.new_tensor([square, error])).tolist()
        self.margin = error + cosine_error(dim)
        # In float64 only the rows are rounded, by 2^-24 of their norm at most, so that a product moves by less than
        # 2^-23 of the square of the longest. Twice that leaves room for the rounding of its sum.
        self.fine_margin = square * 2.0**-22 + cosine_error(dim)
        self.span = min(2.0, 2 * square + self.margin)

    def _count_all(self, groups: Tensor, is_query: Tensor, is_searched: Tensor) -> None:
        """How many pairs there are, from the sizes of the halves alone."""
        halves = [
            groups[role].bincount(minlength=2 * len(self.sizes)).view(-1, 2)
            for role in (is_query, is_searched, is_query & is_searched)
        ]
        queries, searched, both = (half.sum(dim=1, keepdim=True) for half in halves)
        # Ordered pairs of a query and another item, less those that two items in both roles form twice.
        self.positives = (queries * searched - both - both * (both - 1) // 2)[:, 0]
        self.negatives = (
            halves[0] * (searched.sum() - searched)
            + halves[1] * (queries.sum() - queries)
            - halves[2] * (both.sum() - both)
        )
        self.num_positive, self.num_negative = int(self.positives.sum()), int(self.negatives.sum()) // 2


def _kernel_for(device: torch.device) -> Kernel:
    if device.type != "cpu":
        return TensorKernel
    return HalvesKernel if halves.available() else CompiledKernel


def _less_the_common(rows: Float[Tensor, "items dim"]) -> tuple[Float[Tensor, "items dim"], Float[Tensor, " items"]]:
    """Unit rows less their mean, if that shortens the longest, in float32, and half the square of what is left."""
    common = rows.mean(dim=0) if len(rows) else rows.new_zeros(rows.shape[1])
    if not len(rows) or float((rows @ common).min()) * 2 <= float(common.square().sum()):
        common = torch.zeros_like(common)
    single, half = torch.empty_like(rows, dtype=torch.float32), rows.new_empty(len(rows))
    for part, out, norm in zip(rows.split(BLOCK), single.split(BLOCK), half.split(BLOCK), strict=True):
        rest = part - common
        # Products of tiny numbers would be denormal, and slow.
        out.copy_(torch.nn.functional.hardshrink(rest, 1e-18))
        norm.copy_(rest.square().sum(dim=1) / 2)
    return single, half
