"""Several calibration ranges from one pass, the axis of the false accept rate, and each class's own thresholds."""

import math

import pytest
import reference
import torch

from tcm_bench.evaluation.counting.scan import PairScan
from tcm_bench.evaluation.evaluate import evaluate
from tcm_bench.evaluation.own_thresholds import spread
from tcm_bench.evaluation.settings import Settings

RANGES = ((0.01, 0.05), (0.02, 0.2), (0.001, 0.01))  # apart, overlapping, meeting


def table(items=150, classes=12, seed=0, dim=5):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (items,), generator=generator)
    return torch.randn(classes, dim, generator=generator)[y] + torch.randn(items, dim, generator=generator), y


@pytest.fixture
def passes(monkeypatch):
    """The passes over all pairs that are made."""
    made, scan = [], PairScan.scan
    monkeypatch.setattr(PairScan, "scan", lambda self, *asked: made.append(asked) or scan(self, *asked))
    return made


@pytest.mark.parametrize("axis", ["distance", "similarity", "far"])
def test_each_range_has_the_numbers_it_would_have_alone_from_one_pass(axis, passes):
    x, y = table()
    found = evaluate(x, y, axis=axis, far_bounds=(0.05, 0.5), further_far_bounds=RANGES, num_thresholds=11)
    assert len(passes) == 1
    for bounds, one in zip(((0.05, 0.5), *RANGES), found.ranges, strict=True):
        alone = evaluate(x, y, axis=axis, far_bounds=bounds, further_far_bounds=(), num_thresholds=11).consistency
        assert (one.opis, one.eps_opis, one.opis_corrected) == (alone.opis, alone.eps_opis, alone.opis_corrected)
        assert one.thresholds.equal(alone.thresholds)
        assert one.utilities.equal(alone.utilities)
    scores = found.scores()
    assert scores["opis"] == found.consistency.opis
    assert scores["opis_far_5e-2"] == found.ranges[1].opis
    assert scores["opis_10pct_far_2e-1"] == found.ranges[2].eps_opis
    assert scores["opis_corrected_far_1e-2"] == found.ranges[3].opis_corrected


@pytest.mark.parametrize("transform", [lambda d: d, lambda d: d**3, lambda d: -math.exp(-5 * d)])
def test_on_the_far_axis_only_the_order_of_the_pairs_counts(transform):
    """The same number from plain loops over any rising function of the distance."""
    x, y = table(60, 6)
    low, high, points = 0.02, 0.3, 9
    pairs = [(transform(d), a, b) for d, a, b in reference.pair_table(x.tolist(), y.tolist())]
    negatives = sorted(value for value, a, b in pairs if a != b)
    rates = [low * (high / low) ** (i / (points - 1)) for i in range(points)]
    thresholds = [negatives[math.ceil(rate * len(negatives) - 1e-9) - 1] for rate in rates]
    utilities = [
        [reference.utility(*reference.operating_point(pairs, label, threshold)) for threshold in thresholds]
        for label in range(6)
    ]
    expected = reference.opis(utilities, [math.log10(rate) for rate in rates])
    found = evaluate(x, y, axis="far", far_bounds=(low, high), num_thresholds=points, further_far_bounds=())
    assert found.consistency.opis == pytest.approx(expected, rel=1e-9)
    assert (found.consistency.threshold_low, found.consistency.threshold_high) == pytest.approx(
        [sorted(d for d, a, b in reference.pair_table(x.tolist(), y.tolist()) if a != b)[
            negatives.index(threshold)] for threshold in (thresholds[0], thresholds[-1])]
    )  # fmt: skip


def test_classes_with_too_few_negatives_for_a_range_stay_and_are_counted():
    x, y = table(40, 4)
    query = torch.ones(40, dtype=torch.bool)
    gallery = y != 0
    gallery[(y == 0).nonzero()[:2, 0]] = True  # class 0 has two items in the gallery and is asked for by few
    query[(y == 0).nonzero()[2:, 0]] = False
    found = evaluate(x, y, query=query, gallery=gallery, far_bounds=(0.01, 0.1), further_far_bounds=((1e-3, 1e-2),))
    per_class = PairScan(x, y, query=query, gallery=gallery).negatives.sum(dim=1)
    for bounds, one in zip(found.settings.ranges, found.ranges, strict=True):
        assert one.coarse == int((per_class * bounds[1] < 1).sum())
        assert len(one.utilities) == 4
    assert found.counts()["coarse"] == found.ranges[1].coarse > found.ranges[0].coarse == 0


@pytest.mark.parametrize("axis", ["distance", "similarity"])
def test_a_class_s_own_thresholds_are_those_of_its_pairs(axis):
    x, y = table(300, 8)
    found = evaluate(x, y, axis=axis, num_thresholds=401, far_bounds=(0.01, 0.5), further_far_bounds=((1e-4, 0.01),))
    sign = -1 if axis == "similarity" else 1
    pairs = [(sign * value, a, b) for value, a, b in reference.pair_table(x.tolist(), y.tolist(), axis)]
    for label in range(8):
        positives = sorted(cost for cost, a, b in pairs if a == b == label)
        negatives = sorted(cost for cost, a, b in pairs if (a == label) != (b == label))
        own = {name: float(costs[label]) for name, costs in found.own_thresholds.items()}
        assert own["tar_90pct"] == pytest.approx(positives[math.ceil(0.9 * len(positives)) - 1])
        assert own["far_1pct"] == pytest.approx(negatives[math.ceil(0.01 * len(negatives)) - 1], abs=0.02)
    assert found.scores()["threshold_spread_tar_90pct"] == spread(found.own_thresholds["tar_90pct"])


def test_the_spread_is_that_of_the_middle_classes_or_unknown():
    known = torch.arange(11.0, dtype=torch.float64)
    assert spread(known) == 8
    known[0] = -torch.inf
    assert spread(known) == 8
    known[1] = -torch.inf
    assert math.isnan(spread(known))
    assert math.isnan(spread(torch.full((3,), torch.nan, dtype=torch.float64)))


@pytest.mark.parametrize("axis", ["distance", "similarity", "far"])
def test_a_range_that_few_pairs_cannot_show_is_undefined_and_says_so(axis):
    x, y = table(40, 10)
    found = evaluate(x, y, axis=axis, far_bounds=(0.1, 0.5), further_far_bounds=((1e-4, 1e-3),))
    assert found.consistency.reason is None
    assert math.isnan(found.scores()["opis_far_1e-3"])
    assert found.reason.startswith("opis_far_1e-3: degenerate calibration range: both false accept rates are reached")


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ([(0.1, 0.01)], "further_far_bounds must be two rates"),
        ([(0.1,)], "further_far_bounds must be two rates"),
        ([(1e-4, 1e-2), (1e-3, 1e-2)], "further_far_bounds must end at different rates"),
    ],
)
def test_impossible_ranges_are_refused(further, message):
    with pytest.raises(ValueError, match=message):
        Settings(further_far_bounds=further)
