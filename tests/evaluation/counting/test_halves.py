import numpy as np
import pytest
import torch
from numba import njit

from tcm_bench.evaluation.counting import halves
from tcm_bench.evaluation.counting.cosine import halves_error

BLOCKS = [np.int32, *[np.uint32] * halves.available()]  # by loops, and by the instruction where there is one


@njit(nogil=True)
def multiplied(factors, top, bottom, left, right, room):
    return halves.multiply(halves.strip(factors, top, bottom), factors, left, right, room)


def products(rows, kind, top=0, bottom=None, left=0, right=None):
    """Products of two ranges of float32 rows by their halves, and the largest norms of low half and rest."""
    bottom, right = bottom or len(rows), right or len(rows)
    blocks = halves.empty_blocks(*rows.shape)
    low, rest = halves.pack(rows, blocks)
    room = np.full((bottom - top + 31) // 32 * 32 * ((right - left + 31) // 32 * 32), np.nan, dtype=np.float32)
    found = multiplied(blocks.view(kind), top, bottom, left, right, room)
    return found[: bottom - top, : right - left], low, rest


def split(rows):
    """High and low halves by torch's rounding, as float32."""
    x = torch.from_numpy(rows)
    high = x.bfloat16().float()
    return high.numpy(), (x - high).bfloat16().float().numpy()


def one_by_one(rows):
    """All products with every sum rounded in the order that the instruction's definition gives."""
    dim = -(-rows.shape[1] // 32) * 32
    high, low = (np.pad(part, ((0, 0), (0, dim - rows.shape[1]))) for part in split(rows))
    total = np.zeros((len(rows), len(rows)), dtype=np.float32)
    for begin in range(0, dim, 32):
        for left, right in ((high, high), (high, low), (low, high)):
            even, odd = np.zeros_like(total), np.zeros_like(total)
            for k in range(begin, begin + 32, 2):
                even += left[:, None, k] * right[:, k]
                odd += left[:, None, k + 1] * right[:, k + 1]
            total += even + odd
    return total


def rows_of(kind, items, dim):
    """Rows of norm 1 at most whose products are as wrong as they come."""
    generator = torch.Generator().manual_seed(dim)
    x = torch.randn(items, dim, dtype=torch.float64, generator=generator)
    if kind == "aligned":  # nothing cancels
        x = 1 + 0.1 * x
    if kind == "low":  # every low half is as large as it can be, and exact
        x = torch.full_like(x, 1 + 127 / 2**15)
    if kind == "rest":  # and so is what the halves leave
        x = torch.full_like(x, 1 + 2**-8 - 2**-15 + 2**-17 - 2**-23)
    if kind == "wide":  # down to what a product flushes to zero
        x = 10 ** (-25 * x.abs().clamp(max=1))
    if kind == "one and many":
        x = 1e-3 * (1 + x.abs()) / dim**0.5
        x[:, 0] = 1
    power = np.ceil(np.log2(float(x.norm(dim=1).max())))  # of two: it moves no bit
    return (x / 2.0 ** max(0.0, power)).float().numpy()


KINDS = ["random", "aligned", "low", "rest", "wide", "one and many"]


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("dim", [1, 33, 160])
def test_sums_are_rounded_in_the_order_that_the_bound_rests_upon(dim, blocks):
    for kind in ("random", "aligned", "one and many"):
        rows = rows_of(kind, 40, dim)
        assert np.array_equal(products(rows, blocks)[0], one_by_one(rows))


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 31, 32, 33, 512, 2048])
def test_no_product_leaves_the_bound(kind, dim, blocks):
    rows = rows_of(kind, 6, dim)
    found, low, rest = products(rows, blocks)
    exact = rows.astype(np.float64) @ rows.T.astype(np.float64)
    largest = float(np.linalg.norm(rows.astype(np.float64), axis=1).max())
    assert np.abs(found - exact).max() <= halves_error(dim, largest, low, rest)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("kind", ["low", "rest"])
def test_the_bound_is_no_larger_than_it_must_be(kind, blocks):
    rows = rows_of(kind, 2, 16)
    found, low, rest = products(rows, blocks)
    exact = rows.astype(np.float64) @ rows.T.astype(np.float64)
    bound = halves_error(16, float(np.linalg.norm(rows.astype(np.float64), axis=1).max()), low, rest)
    assert np.abs(found - exact).max() > 0.8 * bound


def test_norms_are_those_of_what_is_left():
    rows = rows_of("random", 50, 70)
    _, low, rest = products(rows, np.int32)
    high_half, low_half = (part.astype(np.float64) for part in split(rows))
    assert low == pytest.approx(np.linalg.norm(low_half, axis=1).max(), rel=1e-12)
    assert rest == pytest.approx(np.linalg.norm(rows - high_half - low_half, axis=1).max(), rel=1e-12)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize(("top", "bottom", "left", "right"), [(7, 72, 32, 100), (0, 1, 0, 1), (99, 100, 96, 100)])
def test_a_strip_begins_at_any_row_and_ends_anywhere(top, bottom, left, right, blocks):
    rows = rows_of("random", 100, 40)
    whole = products(rows, blocks)[0].copy()
    assert np.array_equal(products(rows, blocks, top, bottom, left, right)[0], whole[top:bottom, left:right])
