import gc
import itertools
import math
import threading
import time
import weakref
from decimal import Decimal

import pytest
import torch
from brute_force import KINDS, Answers, BruteForce, drawn
from every_kernel import KERNELS, LoopsKernel
from hypothesis import given, settings
from hypothesis import strategies as st
from largest import Largest

from tcm_bench.evaluation.counting import order_statistics, positives, prepared, workers
from tcm_bench.evaluation.counting import scan as pair_scan
from tcm_bench.evaluation.counting.cosine import Cosines
from tcm_bench.evaluation.counting.kernels import CompiledKernel, DeferredPairs, column_bits
from tcm_bench.evaluation.counting.order_statistics import Sample, ranked
from tcm_bench.evaluation.counting.scan import PairScan, TooManyPairs
from tcm_bench.evaluation.counting.thresholds import threshold_intervals

AXES = ["distance", "similarity"]


def grid(costs, num_thresholds=13):
    return torch.linspace(float(costs[0]), float(costs[1]), num_thresholds, dtype=torch.float64)


def ranks_of(negatives):
    return [-(-negatives // 100), -(-negatives // 10), -(-negatives // 1000)]


def answers(scan, max_rank=5):
    costs, counts, rank_of_first_positive = scan.calibrated(ranks_of(scan.num_negative), grid, max_rank)
    return Answers(costs, counts.accepted_positives, counts.accepted_negatives.sum(dim=1), rank_of_first_positive)


def brute_answers(x, y, axis="distance", max_rank=5, **roles):
    brute = BruteForce(x, y, axis, **roles)
    return brute.answers(ranks_of(len(brute.negatives)), grid, max_rank)


def same(a, b):
    return all(u.equal(v) for u, v in zip(a, b, strict=True))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_that_of_the_brute_force_to_the_bit(kind, axis):
    for items, dim, classes in ((40, 3, 4), (150, 48, 12)):
        x, y = drawn(kind, items, dim, classes, seed=items)
        expected = brute_answers(x, y, axis)
        for kernel in KERNELS:
            for tile in (None, (17, 33)):
                assert same(answers(PairScan(x, y, axis=axis, kernel=kernel, tile=tile)), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["clustered", "ties", "duplicates"])
def test_tiles_order_and_names_leave_every_bit(kind, kernel):
    x, y = drawn(kind, 150, 8, 12)
    expected = answers(PairScan(x, y))
    for tile in ((17, 17), (256, 256), (4096, 4096), (16, 149), (149, 16)):
        assert same(answers(PairScan(x, y, tile=tile, kernel=kernel)), expected)
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(150, generator=generator)
    names = torch.randperm(10**6, generator=generator)[:12].sort().values - 10**5  # gaps, and some below zero
    moved = answers(PairScan(x[order], names[y[order]], kernel=kernel))
    if kind == "clustered":  # elsewhere equally near items come in another order
        assert moved.rank_of_first_positive.equal(expected.rank_of_first_positive[order])
    assert same(moved[:3], expected[:3])
    # The same set with its classes in another order: rows of the counts move with them.
    shuffled = torch.randperm(12, generator=generator)
    renamed = answers(PairScan(x, shuffled[y], kernel=kernel))
    assert renamed.accepted_negatives[shuffled].equal(expected.accepted_negatives)
    assert renamed.accepted_positives[shuffled].equal(expected.accepted_positives)
    assert renamed.rank_of_first_positive.equal(expected.rank_of_first_positive)


@settings(max_examples=40)
@given(
    st.sampled_from(KINDS),
    st.integers(6, 40),
    st.integers(1, 6),
    st.integers(2, 7),
    st.sampled_from(AXES),
    st.sampled_from(KERNELS),
    st.tuples(st.integers(1, 41), st.integers(1, 41)),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_small_sets_with_any_roles_equal_the_brute_force(kind, items, dim, classes, axis, kernel, tile, roles, seed):
    x, y = drawn(kind, items, max(dim, 2), classes, seed)
    y[:2] = torch.tensor([0, 1])
    generator = torch.Generator().manual_seed(seed)
    query, gallery = (torch.rand(items, generator=generator) < 0.6 for _ in range(2))
    query[:2] = gallery[:2] = True  # at least one negative pair
    chosen = {"query": query, "gallery": gallery} if roles else {}
    expected = brute_answers(x, y, axis, **chosen)
    got = answers(PairScan(x, y, axis=axis, kernel=kernel, tile=tile, **chosen))
    assert same(got[:3], expected[:3])
    assert got.rank_of_first_positive[~query if roles else slice(0)].eq(5).all()
    assert got.rank_of_first_positive.equal(expected.rank_of_first_positive)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_many_thresholds_are_told_apart(kernel, axis):
    """More intervals than a table of 16 bits can count."""
    x, y = drawn("random", 16, 3, 4)
    thresholds = torch.linspace(-1.1, 2.1, 20101, dtype=torch.float64)
    thresholds[[0, -1]] = torch.tensor([-torch.inf, torch.inf], dtype=torch.float64)
    counts = PairScan(x, y, axis=axis, kernel=kernel).counts(thresholds)
    positives, negatives = BruteForce(x, y, axis).accepted(thresholds)
    assert counts.accepted_positives.equal(positives)
    assert counts.accepted_negatives.sum(dim=1).equal(negatives)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("axis", AXES)
def test_thresholds_at_the_very_costs_accept_them(axis, kernel):
    """Each threshold is the cost of a pair or a neighboring float: only exact cosines tell them apart."""
    x, y = drawn("clustered", 24, 5, 4)
    brute = BruteForce(x, y, axis)
    costs = brute.cost[brute.pair]
    thresholds = torch.cat([costs, costs.nextafter(costs - 1), costs.nextafter(costs + 1)]).sort().values
    counts = PairScan(x, y, axis=axis, kernel=kernel).counts(thresholds)
    positives, negatives = brute.accepted(thresholds)
    assert counts.accepted_positives.equal(positives)
    assert counts.accepted_negatives.sum(dim=1).equal(negatives)


def test_counts_of_pairs_are_known_from_the_class_sizes():
    x, y = drawn("random", 30, 4, 5)
    counts = PairScan(x, y).counts(torch.tensor([3.0], dtype=torch.float64))
    sizes = y.bincount()
    assert counts.positives.equal(sizes * (sizes - 1) // 2)
    assert counts.negatives.sum(dim=1).equal(sizes * (30 - sizes))
    assert counts.accepted_positives[:, 0].equal(counts.positives)
    assert counts.accepted_negatives[..., 0].equal(counts.negatives)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("with_roles", [False, True])
@pytest.mark.parametrize("room", [1, 2**21])
def test_halves_and_disjoint_pairs_are_those_of_the_pairs_one_by_one(kernel, with_roles, room, monkeypatch):
    monkeypatch.setattr(positives, "HISTOGRAM", room)
    x, y = drawn("clustered", 40, 4, 5)
    items = torch.arange(40)
    roles = {"query": items % 3 > 0, "gallery": items % 4 > 0} if with_roles else {}
    brute = BruteForce(x, y, **roles)
    threshold = torch.tensor([0.9], dtype=torch.float64)
    scan = PairScan(x, y, kernel=kernel, **roles)
    counts = scan.counts(threshold)
    half = dict(zip(scan.order.tolist(), (scan.rows.groups % 2).tolist(), strict=True))
    pairs = brute.pair.nonzero().tolist()
    for label in range(5):
        own = [item for item in range(40) if y[item] == label]
        assert sum(half[item] for item in own) == (len(own) + 1) // 2
        inside = [pair for pair in pairs if all(y[item] == label for item in pair)]
        near = [pair for pair in inside if brute.cost[tuple(pair)] <= threshold]
        for group, found in ((inside, counts.disjoint[label]), (near, counts.accepted_disjoint[label, 0])):
            assert found == sum(not {*one} & {*other} for one in group for other in group)
        ends = [
            (half[item], brute.cost[tuple(pair)] <= threshold)
            for pair in pairs
            for item in pair
            if y[item] == label and pair not in inside
        ]
        for number in (0, 1):
            assert counts.negatives[label, number] == sum(part == number for part, _ in ends)
            assert counts.accepted_negatives[label, number, 0] == sum(near for part, near in ends if part == number)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("strip", [100, 2**22])  # cut by queries, or whole
@pytest.mark.parametrize("with_roles", [False, True])
def test_a_share_of_each_class_is_accepted_at_the_cost_of_one_of_its_pairs(axis, strip, with_roles, monkeypatch):
    monkeypatch.setattr(positives, "STRIP", strip)
    monkeypatch.setattr(positives, "SMALL_CLASS", 2)
    x, y = drawn("clustered", 60, 4, 4)
    y[:1], items = 9, torch.arange(60)
    roles = {"query": items % 3 > 0, "gallery": items % 4 > 0} if with_roles else {}
    brute = BruteForce(x, y, axis, **roles)
    for share in (0.07, 0.9, 1.0):
        found = PairScan(x, y, axis=axis, **roles).costs_of_share(share)
        for label, cost in zip(y.unique().tolist(), found.tolist(), strict=True):
            costs = brute.cost[brute.pair & brute.same & (y == label)].sort().values
            assert cost == (costs[math.ceil(Decimal(str(share)) * len(costs)) - 1] if len(costs) else math.inf)


@pytest.mark.parametrize("case", ["disjoint", "overlapping", "one query", "one item"])
def test_pairs_of_roles_are_counted_once(case):
    x, y = drawn("clustered", 40, 4, 5)
    items = torch.arange(40)
    query, gallery = {
        "disjoint": (items < 15, items >= 15),
        "overlapping": (items < 25, items >= 10),
        "one query": (items == 3, items >= 0),
        "one item": (items >= 0, items == 7),
    }[case]
    pairs = {
        (min(i, j), max(i, j)) for i in range(40) for j in range(40) if i != j and bool(query[i]) and bool(gallery[j])
    }
    labels = y.tolist()
    scan = PairScan(x, y, query=query, gallery=gallery)
    for row, label in enumerate(scan.classes.tolist()):
        inside = [(labels[i] == label) + (labels[j] == label) for i, j in pairs]
        assert (int(scan.positives[row]), int(scan.negatives[row].sum())) == (inside.count(2), inside.count(1))
    assert scan.num_positive == sum(labels[i] == labels[j] for i, j in pairs)
    assert scan.num_negative == sum(labels[i] != labels[j] for i, j in pairs)
    assert same(answers(scan), brute_answers(x, y, query=query, gallery=gallery))


def test_a_duplicate_of_the_query_in_the_gallery_is_found_and_the_query_is_not():
    x = torch.eye(3)[[0, 0, 1, 0]]
    y = torch.tensor([5, 5, 5, 9])
    query, gallery = torch.tensor([True, False, False, False]), torch.tensor([True, True, True, True])
    # Of the two duplicates 1 and 3 the lower index is first; a query in the gallery is not its own neighbor.
    assert PairScan(x, y, query=query, gallery=gallery).rank_of_first_positive(9).tolist() == [0, 9, 9, 9]
    gallery[1] = False
    assert PairScan(x, y, query=query, gallery=gallery).rank_of_first_positive(9).tolist() == [1, 9, 9, 9]
    gallery[2] = False
    assert PairScan(x, y, query=query, gallery=gallery).rank_of_first_positive(9).tolist() == [9, 9, 9, 9]


# -- paths that are taken seldom ------------------------------------------------------------------------------------


@pytest.fixture
def scans(monkeypatch):
    """What each pass was asked: intervals or thresholds, and how far to look for nearest positives."""
    asked, scan = [], PairScan.scan

    def noted(self, asked_of, max_rank=0):
        asked.append((asked_of, max_rank))
        return scan(self, asked_of, max_rank)

    monkeypatch.setattr(PairScan, "scan", noted)
    return asked


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("axis", AXES)
def test_a_prediction_that_is_wrong_costs_a_pass_and_no_digit(axis, kernel, monkeypatch, scans):
    """The interval of the first rank is too low, but meets intervals of the grid that hold it; those meet no others."""
    x, y = drawn("random", 300, 16, 5)
    expected = brute_answers(x, y, axis)
    low, high, lowest = expected.costs.tolist()
    step = (high - low) / 12
    predicted, certainties = Sample.costs, []

    def wrong(self, ranks, certainty):
        certainties.append(certainty)
        if len(certainties) > 1:
            return predicted(self, ranks, certainty)
        ends = (low - 3 * step, high - step / 1e4, lowest), (low - step, high + step / 1e4, lowest)
        return torch.tensor(ends, dtype=torch.float64).unbind(0)

    monkeypatch.setattr(Sample, "costs", wrong)
    assert same(answers(PairScan(x, y, axis=axis, kernel=kernel)), expected)
    assert certainties == [4.0, 16.0]
    assert [max_rank for _, max_rank in scans] == [5, 0]  # what is known is not searched again


def test_a_rank_outside_its_predicted_interval_is_searched_again(monkeypatch, scans):
    x, y = drawn("random", 300, 16, 5)
    predicted, tries = Sample.costs, []

    def wrong(self, ranks, certainty):
        tries.append(certainty)
        low, high = predicted(self, ranks, certainty)
        off = (0.2, -0.2, 0.0)[len(tries) - 1]
        return low + off, high + off

    monkeypatch.setattr(Sample, "costs", wrong)
    assert same(answers(PairScan(x, y)), brute_answers(x, y))
    assert len(scans) == 3


def stored_pairs(pairs, values):
    """Pairs of a set of 30 in one strip."""
    return DeferredPairs(0, pairs[:, 0] << column_bits(30) | pairs[:, 1], values, pairs[:0])


def test_a_pair_of_a_rank_is_found_whatever_rounding_did_within_the_margin():
    x, y = drawn("collapsed", 30, 3, 4)
    scan = PairScan(x + 1e-3 * drawn("random", 30, 3, 4)[0], y)
    pairs = torch.triu_indices(30, 30, 1, dtype=torch.int32).T.contiguous()
    exact = scan.cosines.pairs(*pairs.long().unbind(1))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        signs = torch.randint(0, 2, (len(pairs),), generator=generator) * 2 - 1
        values = (exact - 1 + 0.9 * scan.margin * signs).float()  # which moves them, too
        kept = [stored_pairs(pairs[part], values[part]) for part in (slice(0, 100), slice(100, None))]
        for rank in (1, 2, 40, 41, 200, 400, len(pairs)):
            assert (
                ranked(scan, kept, torch.tensor([-2.0, 2.0]), values, rank)
                == exact.sort(descending=True).values[rank - 1]
            )


@pytest.mark.parametrize("rank", [1, 50, 100])
def test_pairs_of_another_interval_take_no_rank(rank):
    x, y = drawn("random", 30, 3, 4)
    scan = PairScan(x, y)
    scan.margin = 0.1  # reaches beyond the interval
    pairs = torch.triu_indices(30, 30, 1, dtype=torch.int32).T.contiguous()
    exact, order = scan.cosines.pairs(*pairs.long().unbind(1)).sort(descending=True)
    values = (exact - 1).float()
    kept = [stored_pairs(pairs[order], values)]
    assert ranked(scan, kept, values[[249, 150]], values[150:250], rank) == exact[150 + rank - 1]


@pytest.mark.parametrize("beside", [-1, 1])
def test_a_interval_that_ends_just_before_the_rank_is_too_small(beside, monkeypatch, scans):
    x, y = drawn("random", 30, 3, 4)
    costs = BruteForce(x, y).negatives
    gaps = torch.minimum(costs[1:-1] - costs[:-2], costs[2:] - costs[1:-1])
    place = int(gaps.argmax()) + 1  # far from both its neighbors
    predicted = Sample.costs

    def wrong(self, ranks, certainty):
        alone = costs[[place + beside] * 2]
        return predicted(self, ranks, certainty) if len(scans) else (alone - 1e-9, alone + 1e-9)

    monkeypatch.setattr(Sample, "costs", wrong)
    found = PairScan(x, y).calibrated([place + 1, place + 1], lambda costs: costs)[0]
    assert found.equal(costs[[place, place]])
    assert len(scans) == 2


@pytest.mark.parametrize("kind", ["random", "ties", "identical"])
@pytest.mark.parametrize("certainty", [1e-6, 0.3])
def test_an_overconfident_prediction_changes_nothing(certainty, kind, monkeypatch):
    monkeypatch.setattr(pair_scan, "CERTAINTY", certainty)
    monkeypatch.setattr(order_statistics, "SMALLEST_SAMPLE", 1)
    for axis in AXES:
        x, y = drawn(kind, 200, 12, 9)
        assert same(answers(PairScan(x, y, axis=axis, tile=(8, 64))), brute_answers(x, y, axis))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["random", "ties", "identical"])
def test_without_room_to_defer_pairs_they_are_counted(kind, kernel, axis, monkeypatch, scans):
    monkeypatch.setattr(pair_scan, "LARGEST_STORE", 0)
    x, y = drawn(kind, 40, 3, 4)
    assert same(answers(PairScan(x, y, axis=axis, kernel=kernel, tile=(16, 16))), brute_answers(x, y, axis))
    assert len(scans) > 4


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("axis", AXES)
def test_a_range_that_begins_at_zero_does_so_whether_denormals_are_flushed_or_not(axis, flush, monkeypatch):
    monkeypatch.setattr(pair_scan, "LARGEST_STORE", 0)
    scan = PairScan(torch.eye(8)[[0, 1, 2, 2, 3, 3]], torch.arange(6), axis=axis)
    torch.set_flush_denormal(flush)
    try:
        costs = scan.calibrated([1, 3], lambda costs: costs)[0]
    finally:
        torch.set_flush_denormal(True)  # as in all tests
    torch.set_flush_denormal(False)
    values = costs.tolist()
    torch.set_flush_denormal(True)
    assert values == ([0.0, 2**0.5] if axis == "distance" else [-1.0, 0.0])


class Asked(Exception):
    """What a pass would have been asked."""


@pytest.mark.parametrize("kernel", [CompiledKernel, LoopsKernel])
def test_one_pass_is_enough_for_a_large_set_with_a_flat_spectrum(kernel, monkeypatch):
    """The size of a benchmark, where all cosines lie close together; the pass itself would take too long here."""

    def told(self, asked, max_rank=0):
        raise Asked(len(asked.of))

    monkeypatch.setattr(PairScan, "scan", told)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60_868) % 11_316
    centers = torch.randn(11_316, 512, generator=generator)
    scan = PairScan(centers[labels] + 0.7 * torch.randn(60_868, 512, generator=generator), labels, kernel=kernel)
    with pytest.raises(Asked, match="103"):  # the ranks and all thresholds at once
        scan.calibrated(ranks_of(scan.num_negative)[:2], lambda costs: grid(costs, 101))


def test_strips_are_so_low_that_a_stored_pair_takes_31_bits(monkeypatch):
    x, y = drawn("random", 100, 4, 6)
    monkeypatch.setattr(prepared, "column_bits", lambda items: 28)
    scan = PairScan(x, y)
    assert scan.tile[0] == 8
    assert same(answers(scan), brute_answers(x, y))


@pytest.mark.parametrize("kernel", KERNELS)
def test_with_little_room_the_range_is_found_first_and_counts_come_second(kernel, monkeypatch, scans):
    x, y = drawn("random", 200, 16, 5)
    monkeypatch.setattr(pair_scan, "LARGEST_STORE", 400)
    assert same(answers(PairScan(x, y, kernel=kernel)), brute_answers(x, y))
    assert [type(asked).__name__ for asked, _ in scans] == ["ThresholdIntervals", "FixedThresholds"]


@pytest.mark.parametrize("kept", [0, 2**25])
def test_cosines_inside_classes_are_kept_or_computed_again(kept, monkeypatch):
    monkeypatch.setattr(positives, "LARGEST_KEPT", kept)
    monkeypatch.setattr(positives, "STRIP", 100)  # classes are cut by queries and by number
    x, y = drawn("tail", 120, 6, 30)
    scan = PairScan(x, y)
    assert same(answers(scan), brute_answers(x, y))
    assert (scan._positives._strips() is scan._positives._strips()) == bool(kept)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("max_rank", [1, 2, 7, 1000])
def test_counting_ends_at_enough(max_rank, kernel):
    x, y = drawn("random", 90, 3, 30)
    assert (
        PairScan(x, y, kernel=kernel, tile=(8, 8))
        .rank_of_first_positive(max_rank)
        .equal(BruteForce(x, y).rank_of_first_positive(max_rank))
    )


def test_intervals_that_meet_are_one_and_others_are_not():
    low, high = torch.tensor([0.5, 0.1, 0.15, 0.9]).double(), torch.tensor([0.6, 0.2, 0.3, 0.9]).double()
    found = threshold_intervals(low, high, 0.01)
    assert found.of.tolist() == [1, 0, 0, 2]
    assert found.edges.tolist() == pytest.approx([0.09, 0.31, 0.49, 0.61, 0.89, 0.91], abs=1e-6)
    assert found.bin_edges().passed.tolist() == [0, 2, 3, 4]
    exact = torch.stack([low - 0.01, high + 0.01], dim=1)[[1, 2, 0, 3]]
    assert (found.edges[::2].double() < exact[[0, 2, 3], 0]).all()  # outwards
    assert (found.edges[1::2].double() > exact[[1, 2, 3], 1]).all()


def test_a_interval_inside_another_does_not_end_it():
    found = threshold_intervals(torch.tensor([0.0, 0.1, 0.7]).double(), torch.tensor([0.8, 0.2, 0.75]).double(), 0.0)
    assert found.of.tolist() == [0, 0, 0]
    assert len(found.edges) == 2


# -- threads, memory ------------------------------------------------------------------------------------------------


def test_threads_share_the_work(monkeypatch):
    workers, two = set(), threading.Event()
    two.set()  # none to wait for at first
    scan = CompiledKernel.scan

    def noted(self, top):
        workers.add(threading.get_ident())
        if len(workers) > 1:
            two.set()
        two.wait(60)  # on a busy machine the first thread could be through with everything before another starts
        return scan(self, top)

    monkeypatch.setattr(CompiledKernel, "scan", noted)
    x, y = drawn("duplicates", 400, 8, 12)
    expected = answers(PairScan(x, y))
    alone = len(workers)
    workers.clear()
    two.clear()
    torch.set_num_threads(3)
    try:
        assert same(answers(PairScan(x, y, tile=(4, 16))), expected)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert alone == 1 < len(workers)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_error_in_a_thread_comes_out_and_leaves_the_settings(error, monkeypatch):
    calls, numbers, started = [], itertools.count(), threading.Barrier(2)

    def failing(self, top):
        number = next(numbers)
        calls.append(number)
        assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (1, "highest")
        if number < 2:
            started.wait(timeout=30)  # both threads are at work
        if number == 1:  # as a rule not the thread that is waited for first
            raise error("here")
        time.sleep(0.001)
        return []

    monkeypatch.setattr(CompiledKernel, "scan", failing)
    x, y = drawn("random", 200, 4, 100)
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(error, match="here"):
            PairScan(x, y, tile=(1, 200)).rank_of_first_positive(1)
        assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (2, "medium")
    finally:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
    assert len(calls) < 100  # the other thread stopped, too
    assert threading.active_count() == 1 or not any("ThreadPool" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_tensor_grows_with_the_pairs(kernel, monkeypatch):
    """Threads are not watched by the mode, so that they are called in its own."""
    for module in (workers, order_statistics):
        monkeypatch.setattr(module, "in_threads", lambda work, device, stop=None: [work()])
    monkeypatch.setattr(order_statistics, "SAMPLE_BINS", 2**10)
    monkeypatch.setattr(order_statistics, "SMALLEST_SAMPLE", 1)
    x, y = drawn("random", 900, 4, 90)
    with Largest() as largest:
        answers(PairScan(x, y, tile=(64, 64), kernel=kernel))
    pairs = 900 * 899 // 2
    assert largest.numel < pairs // 4
    assert largest.numel >= 64 * 64


@pytest.mark.parametrize("room", [3 * 2**26, 0])
def test_nothing_of_a_set_outlives_its_scan(room, monkeypatch):
    """Not even until the collector of circles comes: on a GPU it does not know that memory is short."""
    monkeypatch.setattr(pair_scan, "LARGEST_STORE", room)
    gc.collect()
    gc.disable()
    try:
        scan = PairScan(*drawn("random", 60, 4, 5))
        answers(scan)
        rows = weakref.ref(scan.cosines.rows)
        del scan
        assert rows() is None
    finally:
        gc.enable()


# -- sets at the edge -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_smallest_sets(kernel):
    x = torch.eye(2)
    one, two = (PairScan(x, torch.tensor(labels), kernel=kernel) for labels in ([4, 4], [4, -4]))
    assert (one.num_positive, one.num_negative, one.rank_of_first_positive(3).tolist()) == (1, 0, [0, 0])
    assert (two.num_positive, two.num_negative, two.rank_of_first_positive(3).tolist()) == (0, 1, [3, 3])
    assert two.calibrated([1, 1], grid, 3)[0].tolist() == [2**0.5] * 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_row_that_cannot_be_normalized_is_named_by_its_place_in_the_callers_order(value, dtype):
    x = torch.ones(6, 3, dtype=dtype)
    x[4] = value
    with pytest.raises(ValueError, match="row 4 has norm"):
        PairScan(x, torch.tensor([9, 8, 7, 6, 1, 0]))


def test_the_caller_keeps_the_rows_as_they_were():
    x, y = drawn("random", 20, 4, 3)
    copies = x.clone(), y.clone()
    answers(PairScan(x.requires_grad_(), y))
    assert x.equal(copies[0])
    assert y.equal(copies[1])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["random", "clustered", "falling", "collapsed", "identical"])
@pytest.mark.parametrize("dim", [2, 1000])
@pytest.mark.parametrize("around", [0.0, 1.0, 1e3, 1e7])
def test_values_is_within_the_bound_of_the_margin(kind, dim, around, kernel):
    """What makes the counts exact: neither precision is further from the exact cosine than its margin."""
    x, y = drawn(kind, 60, dim, 5)
    scan = PairScan(x + around, y, kernel=kernel)
    exact = Cosines((x + around)[scan.order]).tile(slice(0, 60), slice(0, 60)) - 1
    rows = scan.rows
    everywhere = threshold_intervals(torch.tensor([-2.1]).double(), torch.tensor([0.1]).double(), 0.0)
    kept = scan.scan(everywhere).deferred
    assert sum(len(deferred.stored) for deferred in kept) == scan.num_negative
    for deferred in kept:
        first, second = deferred.pairs(60).long().unbind(1)
        assert (deferred.values.double() - exact[first, second]).abs().max() <= scan.margin
    assert (exact >= -scan.span).all()
    pairs = torch.triu_indices(60, 60, 1, dtype=torch.int32).T.contiguous()
    values = rows.cosine_minus_one(pairs)
    assert (values - exact[pairs[:, 0].long(), pairs[:, 1].long()]).abs().max() <= scan.fine_margin


def test_the_margin_shrinks_with_the_rows():
    x, y = drawn("random", 200, 32, 5)
    wide, close = PairScan(x, y), PairScan(1 + 1e-3 * x, y)
    assert wide.margin > 1e-6
    assert close.margin < 1e-5 * wide.margin


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("around", [1.0, 30.0, 1e3, 1e5])
def test_rows_that_lie_close_together_are_counted_exactly(around, axis, kernel, scans):
    x, y = drawn("random", 300, 16, 5)
    x = x + around
    assert same(answers(PairScan(x, y, axis=axis, kernel=kernel)), brute_answers(x, y, axis))
    assert len(scans) == 1  # and as fast


def test_too_many_is_never_seen_outside(monkeypatch):
    monkeypatch.setattr(pair_scan, "LARGEST_STORE", 0)
    scan = PairScan(*drawn("identical", 20, 3, 4))
    with pytest.raises(TooManyPairs):
        scan.scan(threshold_intervals(torch.tensor([-2.0]).double(), torch.tensor([0.0]).double(), scan.margin))
    answers(scan)
