import pytest
import torch
from brute_force import drawn
from every_kernel import KERNELS

from tcm_bench.evaluation.counting import kernels
from tcm_bench.evaluation.counting.kernels import CompiledKernel, ScanRequest
from tcm_bench.evaluation.counting.scan import PairScan


def scan_of(items=40, **roles):
    """Rows sorted by class, as a kernel gets them."""
    return PairScan(*drawn("random", items, 4, 6), **roles)


def asked(rows, edges=(), maybe_above=torch.inf, surely_above=torch.inf, max_rank=3):
    """ScanRequest at cosines."""
    items = len(rows.groups)
    return ScanRequest(
        torch.tensor(edges) - 1, torch.full((items,), maybe_above - 1), torch.full((items,), surely_above - 1), max_rank
    )


def multiplied_by(kernel, rows):
    """The same rows as the kernel takes them."""
    return rows._replace(factors=kernel.factors(rows.single, 1.0)[0])


def pairs_of(deferred, rows):
    """Stored pairs as lists of two rows."""
    return deferred.pairs(len(rows.groups)).tolist()


def cosines_of(rows):
    """All of them in float32."""
    product = rows.single @ rows.single.T
    return product - rows.half.float()[:, None] - rows.half.float() + 1


def read(kernel, rows, request, tile):
    """Everything a kernel says about all tiles: histogram, ranks, stored pairs with values, doubtful pairs."""
    reader, deferred = kernel(multiplied_by(kernel, rows), request, tile), []
    for top in range(0, len(rows.groups), tile[0]):
        deferred += reader.scan(top)
    stored = {
        tuple(pair): value + 1
        for deferred in deferred
        for pair, value in zip(pairs_of(deferred, rows), deferred.values.tolist(), strict=True)
    }
    doubtful = sorted(tuple(pair) for deferred in deferred for pair in deferred.doubtful.tolist())
    assert len(stored) == sum(len(deferred.stored) for deferred in deferred)
    return reader.histogram, reader.rank_of_first_positive, stored, doubtful


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("tile", [(7, 5), (16, 64), (64, 16)])
def test_a_pair_of_two_classes_is_counted_or_deferred_once(kernel, tile):
    rows = scan_of().rows
    edges = (-0.5, -0.3, 0.2, 0.4)
    histogram, _, stored, _ = read(kernel, rows, asked(rows, edges), tile)
    cosine = cosines_of(rows)
    expected, deferred = torch.zeros_like(histogram), {}
    for i in range(40):
        for j in range(i + 1, 40):
            value = float(cosine[i, j])
            below = sum(value >= edge for edge in edges)
            if rows.later[i] == rows.later[j] or not below:
                continue
            if below % 2:
                deferred[i, j] = value
            else:
                expected[rows.groups[i], below // 2] += 1
                expected[rows.groups[j], below // 2] += 1
    assert histogram.equal(expected)
    assert histogram.dtype == torch.int64
    assert stored == pytest.approx(deferred, abs=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("with_roles", [False, True])
def test_an_item_before_the_nearest_positive_is_certain_or_doubtful(kernel, with_roles):
    items = torch.arange(40)
    roles = {"query": items % 3 > 0, "gallery": items % 4 > 0} if with_roles else {}
    rows = scan_of(**roles).rows
    _, rank_of_first_positive, _, doubtful = read(
        kernel, rows, asked(rows, maybe_above=0.5, surely_above=0.8, max_rank=1000), (9, 13)
    )
    cosine = cosines_of(rows)
    allowed = (rows.later[:, None] != rows.later) & rows.meet(slice(None), slice(None))
    assert rank_of_first_positive.equal((allowed & (cosine > 0.8)).sum(dim=1))
    assert rank_of_first_positive.dtype == torch.int64
    assert doubtful == [tuple(pair) for pair in (allowed & (cosine >= 0.5) & (cosine <= 0.8)).nonzero().tolist()]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_very_edge_belongs_to_what_lies_above_it(kernel):
    x = torch.eye(2)[[0, 0, 1]]
    rows = PairScan(x, torch.tensor([0, 1, 2])).rows
    rows = rows._replace(single=x, half=torch.full_like(rows.half, 0.5))  # nothing taken off: nothing is rounded
    histogram, _, stored, _ = read(kernel, rows, asked(rows, (-0.5, 0.0, 1.0, 2.0)), (2, 2))
    assert histogram[1::2].tolist() == [[0, 1, 0], [0, 1, 0], [0, 2, 0]]  # at the end of an interval: above it
    assert not histogram[::2].any()  # of one item the second half has it
    assert stored == {(0, 1): 1.0}  # at its beginning: inside
    maybe_above = read(kernel, rows, asked(rows, maybe_above=1.0, surely_above=1.0), (2, 2))
    assert maybe_above[3] == [(0, 1), (1, 0)]  # at `maybe_above`: doubtful; at `surely_above`: not yet certain
    assert maybe_above[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_query_is_followed_beyond_enough(kernel):
    rows = scan_of(100).rows
    _, rank_of_first_positive, _, doubtful = read(
        kernel, rows, asked(rows, maybe_above=-2.0, surely_above=-1.5, max_rank=3), (4, 4)
    )
    assert ((rank_of_first_positive >= 3) & (rank_of_first_positive < 3 + 8)).all()  # it ends within the tile
    assert not doubtful


@pytest.mark.parametrize("room", [1, 3 * 12 - 1])  # a tile would fit but for one pair
def test_full_buffers_are_emptied_in_between(room, monkeypatch):
    rows = scan_of(100).rows
    request = asked(rows, (-2.0, 2.0), maybe_above=-2.0, surely_above=2.0)
    monkeypatch.setattr(kernels, "PAIRS_DEFERRED", room)
    reader, emptied = CompiledKernel(multiplied_by(CompiledKernel, rows), request, (3, 4)), 0
    pairs, doubts = [], []
    for top in range(0, 100, 3):
        for deferred in reader.scan(top):
            emptied += 1
            pairs += pairs_of(deferred, rows)
            doubts += deferred.doubtful.tolist()
    different = (rows.later[:, None] != rows.later).nonzero().tolist()
    assert sorted(doubts) == different
    assert sorted(pairs) == [pair for pair in different if pair[0] < pair[1]]
    assert emptied > 100


@pytest.mark.parametrize("kernel", KERNELS)
def test_counts_go_beyond_32_bits(kernel):
    rows = scan_of().rows
    request = asked(rows, (-1.9, -1.8), maybe_above=-2.0, surely_above=-1.5, max_rank=2**40)
    reader, fresh = (kernel(multiplied_by(kernel, rows), request, (64, 64)) for _ in range(2))
    reader.histogram += 2**31 - 1
    reader.rank_of_first_positive += 2**31 - 1
    for each in (reader, fresh):
        list(each.scan(0))
    assert (fresh.histogram[:, 1] > 0).all()
    assert (reader.histogram - fresh.histogram).eq(2**31 - 1).all()
    assert (reader.rank_of_first_positive - fresh.rank_of_first_positive).eq(2**31 - 1).all()


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
            if met and rows.later[i] != rows.later[j]:
                expected[int((float(cosines_of(rows)[i, j]) + 1) * 50)] += 1
    assert histogram.equal(expected)


def test_the_cosine_minus_one_of_pairs_is_in_double_precision():
    rows = scan_of().rows
    pairs = torch.randint(40, (500, 2), dtype=torch.int32)
    product = rows.single.double() @ rows.single.double().T
    exact = (product - rows.half[:, None] - rows.half)[pairs[:, 0].long(), pairs[:, 1].long()]
    assert rows.cosine_minus_one(pairs).dtype == torch.float64
    torch.testing.assert_close(rows.cosine_minus_one(pairs), exact, rtol=0, atol=1e-15)
    assert rows.cosine_minus_one(pairs[:0]).shape == (0,)
