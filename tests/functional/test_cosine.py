import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcm_bench.functional import cosine
from tcm_bench.functional.cosine import CosineTiles


def whole(x):
    return CosineTiles(x)(slice(0, len(x)), slice(0, len(x)))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 41), st.integers(0, 2**31))
def test_float64_bits_do_not_depend_on_the_tile_or_the_place(items, dim, chunk, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(items, dim, dtype=torch.float64, generator=generator)
    similarity, tiles = whole(x), CosineTiles(x)
    for top in range(0, items, chunk):
        for left in range(0, items, chunk):
            rows, columns = slice(top, top + chunk), slice(left, left + chunk)
            assert tiles(rows, columns).equal(similarity[rows, columns])
    order = torch.randperm(items, generator=generator)
    assert whole(x[order]).equal(similarity[order][:, order])
    assert similarity.equal(similarity.T)


def test_equal_rows_have_equal_bits_where_a_plain_product_differs():
    x = torch.randn(500, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    similarity = whole(x)
    assert similarity[:, :500].equal(similarity[:, 500:])


def dot(a, b):
    return math.fsum(u * v for u, v in zip(a, b, strict=True))


def test_float64_is_the_cosine_to_1e_13():
    x = torch.randn(20, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = (x / x.norm(dim=1, keepdim=True)).tolist()
    expected = torch.tensor([[dot(a, b) for b in rows] for a in rows], dtype=torch.float64)
    torch.testing.assert_close(whole(x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_every_product_is_exact_at_the_largest_dimension(spread):
    """Aligned rows are the worst case of the bound on partial sums: no term cancels another."""
    noise = torch.rand(2, cosine.LARGEST_DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for left, right in CosineTiles(1 / 3 + spread * noise).parts:
        exact = [[dot(a, b) for b in right.tolist()] for a in left.tolist()]
        assert (left @ right.T).tolist() == exact
        assert (left.flip(1) @ right.flip(1).T).tolist() == exact


def test_float32_is_the_plain_product():
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole(x), whole(x.double()), rtol=0, atol=1e-6)
    assert whole(x).dtype == torch.float64


def test_autocast_does_not_round():
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = whole(x)
    torch.testing.assert_close(inside, whole(x.double()), rtol=0, atol=1e-6)


def test_too_many_dimensions_are_refused():
    with pytest.raises(ValueError, match="16385 dimensions"):
        CosineTiles(torch.ones(1, cosine.LARGEST_DIM + 1, dtype=torch.float64))
