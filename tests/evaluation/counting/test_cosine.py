import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcm_bench.evaluation.counting import cosine
from tcm_bench.evaluation.counting.cosine import Cosines, exact_products, product_error


def whole(x):
    return Cosines(x).tile(slice(0, len(x)), slice(0, len(x)))


def dot(a, b):
    return math.fsum(u * v for u, v in zip(a, b, strict=True))


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 41), st.integers(0, 2**31))
def test_bits_do_not_depend_on_the_tile_or_the_place(items, dim, side, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(items, dim, dtype=torch.float64, generator=generator)
    similarity, cosines = whole(x), Cosines(x)
    for top in range(0, items, side):
        for left in range(0, items, side):
            rows, columns = slice(top, top + side), slice(left, left + side)
            assert cosines.tile(rows, columns).equal(similarity[rows, columns])
    order = torch.randperm(items, generator=generator)
    assert whole(x[order]).equal(similarity[order][:, order])
    assert similarity.equal(similarity.T)
    first, second = torch.randint(items, (2, 50), generator=generator)
    assert cosines.pairs(first, second).equal(similarity[first, second])


def test_pairs_are_taken_in_parts(monkeypatch):
    monkeypatch.setattr(cosine, "PAIRS_AT_ONCE", 7)
    x = torch.randn(9, 33, generator=torch.Generator().manual_seed(0))
    first, second = torch.randint(9, (2, 40), generator=torch.Generator().manual_seed(1))
    assert Cosines(x).pairs(first, second).equal(whole(x)[first, second])
    assert Cosines(x).pairs(first[:0], second[:0]).shape == (0,)


def test_equal_rows_have_equal_bits_where_a_plain_product_differs():
    x = torch.randn(500, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    similarity = whole(x)
    assert similarity[:, :500].equal(similarity[:, 500:])


def test_a_batch_of_blocks_has_the_bits_of_each():
    x = torch.nn.functional.normalize(torch.randn(3, 5, 40, dtype=torch.float64), dim=2)
    assert exact_products(x, x).equal(torch.stack([exact_products(block, block) for block in x]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_cosine_is_that_of_the_rows_as_given(dtype):
    x = torch.randn(20, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = (x.double() / x.double().norm(dim=1, keepdim=True)).tolist()
    expected = torch.tensor([[dot(a, b) for b in rows] for a in rows], dtype=torch.float64)
    assert whole(x).dtype == torch.float64
    torch.testing.assert_close(whole(x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_every_product_is_exact_at_the_largest_dimension(spread):
    """Aligned rows are the worst case of the bound on partial sums: no term cancels another."""
    noise = torch.rand(2, cosine.LARGEST_DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coarse, fine = cosine._split(Cosines(1 / 3 + spread * noise).rows)
    for left, right in ((coarse, coarse), (torch.cat([coarse, fine], dim=1), torch.cat([fine, coarse], dim=1))):
        exact = [[dot(a, b) for b in right.tolist()] for a in left.tolist()]
        assert (left @ right.T).tolist() == exact
        assert (left.flip(1) @ right.flip(1).T).tolist() == exact


def adversarial(kind, dim):
    """Rows whose float32 products are as wrong as they come."""
    generator = torch.Generator().manual_seed(dim)
    x = torch.rand(6, dim, dtype=torch.float64, generator=generator)
    signs = torch.ones(dim, dtype=torch.float64)
    signs[1::2] = -1
    if kind == "aligned":  # no term cancels another, all partial sums grow
        x = 1 + 1e-3 * x
    if kind == "alternating":  # everything cancels
        x = (1 + 1e-3 * x) * torch.where(torch.arange(6)[:, None] < 3, signs, 1.0)
    if kind == "rounded down":  # the same rounding in every entry: errors of the rows add up
        x = torch.full((6, dim), 1 / 3, dtype=torch.float64)
    if kind == "wide":  # entries from 1 down to where products would be denormal
        x = 10 ** (-30 * x)
    if kind == "one and many":  # a large term first, then many that each round away
        x = 1e-4 * (1 + x) / dim**0.5
        x[:, 0] = 1
    return x


@pytest.mark.parametrize("kind", ["random", "aligned", "alternating", "rounded down", "wide", "one and many"])
@pytest.mark.parametrize("dim", [1, 2, 3, 8, 100, 512, 4096])
def test_no_order_of_a_float32_product_leaves_the_bound(kind, dim):
    x = Cosines(adversarial(kind, dim)).rows
    exact, bound, single = whole(x), product_error(dim, 2.0**-24), x.float()
    one_by_one = torch.zeros(6, 6)
    for term in single.T:  # the worst order there is
        one_by_one += term[:, None] * term
    halves = sum(part @ part.T for part in single.split(max(1, dim // 3), dim=1))
    for product in (single @ single.T, one_by_one, single.flip(1) @ single.flip(1).T, halves):
        assert (product.double() - exact).abs().max() <= bound


def test_the_bound_is_no_larger_than_it_must_be():
    """Each term is just too small to change the running sum: half of the bound is reached, a third would be wrong."""
    dim = 4096
    x = torch.full((1, dim), (0.49 * 2**-24) ** 0.5, dtype=torch.float64)
    x[0, 0] = (1 - float(x[0, 1:].square().sum())) ** 0.5
    total = torch.zeros(())
    for term in Cosines(x).rows.float()[0]:
        total += term * term
    assert 1 / 3 < (1 - float(total)) / product_error(dim, 2.0**-24) < 1


def test_autocast_does_not_round():
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    expected = whole(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert whole(x).equal(expected)


def test_too_many_dimensions_are_refused():
    with pytest.raises(ValueError, match="16385 dimensions, at most 16384"):
        Cosines(torch.ones(1, cosine.LARGEST_DIM + 1, dtype=torch.float64))


def test_rows_keep_no_graph():
    assert not Cosines(torch.eye(3).requires_grad_()).rows.requires_grad
