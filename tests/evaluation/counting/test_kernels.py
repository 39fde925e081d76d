import pytest
import torch
from brute_force import drawn
from every_kernel import KERNELS

from tcm_bench.evaluation.counting import kernels
from tcm_bench.evaluation.counting.kernels import CompiledKernel, Questions
from tcm_bench.evaluation.counting.scan import PairScan


def scan_of(items=40, **roles):
    """Rows sorted by class, as a kernel gets them."""
    return PairScan(*drawn("random", items, 4, 6), **roles)


def asked(rows, edges=(), near=torch.inf, nearer=torch.inf, enough=3):
    """Questions at cosines."""
    items = len(rows.classes)
    return Questions(torch.tensor(edges) - 1, torch.full((items,), near - 1), torch.full((items,), nearer - 1), enough)


def multiplied_by(kernel, rows):
    """The same rows as the kernel takes them."""
    return rows._replace(factors=kernel.factors(rows.single, 1.0)[0])


def pairs_of(aside, rows):
    """Stored pairs as lists of two rows."""
    return aside.pairs(len(rows.classes)).tolist()


def cosines_of(rows):
    """All of them in float32."""
    product = rows.single @ rows.single.T
    return product - rows.half.float()[:, None] - rows.half.float() + 1


def read(kernel, rows, questions, tile):
    """Everything a kernel says about all tiles: histogram, ahead, stored pairs with values, doubtful pairs."""
    reader, asides = kernel(multiplied_by(kernel, rows), questions, tile), []
    for top in range(0, len(rows.classes), tile[0]):
        asides += reader.scan(top)
    stored = {
        tuple(pair): value + 1
        for aside in asides
        for pair, value in zip(pairs_of(aside, rows), aside.values.tolist(), strict=True)
    }
    doubtful = sorted(tuple(pair) for aside in asides for pair in aside.doubtful.tolist())
    assert len(stored) == sum(len(aside.stored) for aside in asides)
    return reader.histogram, reader.ahead, stored, doubtful


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("tile", [(7, 5), (16, 64), (64, 16)])
def test_a_pair_of_two_classes_is_counted_or_put_aside_once(kernel, tile):
    rows = scan_of().rows
    edges = (-0.5, -0.3, 0.2, 0.4)
    histogram, _, stored, _ = read(kernel, rows, asked(rows, edges), tile)
    cosine = cosines_of(rows)
    expected, aside = torch.zeros_like(histogram), {}
    for i in range(40):
        for j in range(i + 1, 40):
            value = float(cosine[i, j])
            below = sum(value >= edge for edge in edges)
            if rows.classes[i] == rows.classes[j] or not below:
                continue
            if below % 2:
                aside[i, j] = value
            else:
                expected[rows.classes[i], below // 2] += 1
                expected[rows.classes[j], below // 2] += 1
    assert histogram.equal(expected)
    assert histogram.dtype == torch.int64
    assert stored == pytest.approx(aside, abs=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("with_roles", [False, True])
def test_an_item_before_the_nearest_positive_is_certain_or_doubtful(kernel, with_roles):
    items = torch.arange(40)
    roles = {"query": items % 3 > 0, "gallery": items % 4 > 0} if with_roles else {}
    rows = scan_of(**roles).rows
    _, ahead, _, doubtful = read(kernel, rows, asked(rows, near=0.5, nearer=0.8, enough=1000), (9, 13))
    cosine = cosines_of(rows)
    allowed = (rows.classes[:, None] != rows.classes) & rows.meet(slice(None), slice(None))
    assert ahead.equal((allowed & (cosine > 0.8)).sum(dim=1))
    assert ahead.dtype == torch.int64
    assert doubtful == [tuple(pair) for pair in (allowed & (cosine >= 0.5) & (cosine <= 0.8)).nonzero().tolist()]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_very_edge_belongs_to_what_lies_above_it(kernel):
    x = torch.eye(2)[[0, 0, 1]]
    rows = PairScan(x, torch.tensor([0, 1, 2])).rows
    rows = rows._replace(single=x, half=torch.full_like(rows.half, 0.5))  # nothing taken off: nothing is rounded
    histogram, _, stored, _ = read(kernel, rows, asked(rows, (-0.5, 0.0, 1.0, 2.0)), (2, 2))
    assert histogram.tolist() == [[0, 1, 0], [0, 1, 0], [0, 2, 0]]  # at the end of a zone: above it
    assert stored == {(0, 1): 1.0}  # at its beginning: inside
    near = read(kernel, rows, asked(rows, near=1.0, nearer=1.0), (2, 2))
    assert near[3] == [(0, 1), (1, 0)]  # at `near`: doubtful; at `nearer`: not yet certain
    assert near[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_query_is_followed_beyond_enough(kernel):
    rows = scan_of(100).rows
    _, ahead, _, doubtful = read(kernel, rows, asked(rows, near=-2.0, nearer=-1.5, enough=3), (4, 4))
    assert ((ahead >= 3) & (ahead < 3 + 8)).all()  # it ends within the tile
    assert not doubtful


@pytest.mark.parametrize("room", [1, 3 * 12 - 1])  # a tile would fit but for one pair
def test_full_buffers_are_emptied_in_between(room, monkeypatch):
    rows = scan_of(100).rows
    questions = asked(rows, (-2.0, 2.0), near=-2.0, nearer=2.0)
    monkeypatch.setattr(kernels, "PAIRS_ASIDE", room)
    reader, emptied = CompiledKernel(multiplied_by(CompiledKernel, rows), questions, (3, 4)), 0
    pairs, doubts = [], []
    for top in range(0, 100, 3):
        for aside in reader.scan(top):
            emptied += 1
            pairs += pairs_of(aside, rows)
            doubts += aside.doubtful.tolist()
    different = (rows.classes[:, None] != rows.classes).nonzero().tolist()
    assert sorted(doubts) == different
    assert sorted(pairs) == [pair for pair in different if pair[0] < pair[1]]
    assert emptied > 100


@pytest.mark.parametrize("kernel", KERNELS)
def test_counts_go_beyond_32_bits(kernel):
    rows = scan_of().rows
    questions = asked(rows, (-1.9, -1.8), near=-2.0, nearer=-1.5, enough=2**40)
    reader, fresh = (kernel(multiplied_by(kernel, rows), questions, (64, 64)) for _ in range(2))
    reader.histogram += 2**31 - 1
    reader.ahead += 2**31 - 1
    for each in (reader, fresh):
        list(each.scan(0))
    assert (fresh.histogram[:, 1] > 0).all()
    assert (reader.histogram - fresh.histogram).eq(2**31 - 1).all()
    assert (reader.ahead - fresh.ahead).eq(2**31 - 1).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sample_counts_the_negative_pairs_in_even_cells(kernel):
    items = torch.arange(40)
    rows = scan_of(query=items % 3 > 0, gallery=items % 4 > 0).rows
    first, second = slice(3, 28), slice(8, 40)
    histogram = torch.zeros(101, dtype=torch.int64)
    kernel.sample(rows, first, second, 2.0, histogram)
    expected = torch.zeros_like(histogram)
    for i in range(40)[first]:
        for j in range(40)[second]:
            met = (rows.roles[i] & 1 and rows.roles[j] & 2) or (rows.roles[j] & 1 and rows.roles[i] & 2)
            if met and rows.classes[i] != rows.classes[j]:
                expected[int((float(cosines_of(rows)[i, j]) + 1) * 50)] += 1
    assert histogram.equal(expected)


def test_closeness_of_pairs_is_in_double_precision():
    rows = scan_of().rows
    pairs = torch.randint(40, (500, 2), dtype=torch.int32)
    product = rows.single.double() @ rows.single.double().T
    exact = (product - rows.half[:, None] - rows.half)[pairs[:, 0].long(), pairs[:, 1].long()]
    assert rows.closeness(pairs).dtype == torch.float64
    torch.testing.assert_close(rows.closeness(pairs), exact, rtol=0, atol=1e-15)
    assert rows.closeness(pairs[:0]).shape == (0,)
