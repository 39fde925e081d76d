import math

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcm_bench.evaluation.evaluate import evaluate
from tcm_bench.evaluation.threshold import (
    eps_opis,
    num_worst,
    operating_curves,
    opis,
    utility,
)

AXES = ["distance", "similarity"]
WIDE = (0.1, 0.6)  # of a small set, so that the range holds many pairs


def threshold_consistency(x, y, **settings):
    return evaluate(x, y, ks=(), **settings).consistency


def table(seed, items=26, dim=4, classes=6, noise=0.6):
    """Clusters of uneven size and spread; the last class is a singleton."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (items,), generator=generator)
    labels[-1] = classes
    centers = torch.randn(classes + 1, dim, dtype=torch.float64, generator=generator)
    spread = noise * (labels + 1).double()[:, None] / classes
    return centers[labels] + spread * torch.randn(items, dim, dtype=torch.float64, generator=generator), labels


def circle(*degrees):
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("ranking", ["mean", "pointwise"])
@pytest.mark.parametrize("seed", range(3))
def test_everything_matches_the_brute_force(seed, axis, ranking):
    x, y = table(seed)
    bounds, num_thresholds, c, eps = WIDE, 23, 1.7, 0.3
    result = threshold_consistency(
        x, y, axis=axis, far_bounds=bounds, num_thresholds=num_thresholds, c=c, eps=eps, ranking=ranking, tile=(10, 7)
    )
    labels = y.tolist()
    pairs = reference.pair_table(x.tolist(), labels, axis)
    low, high = reference.calibration_range(pairs, bounds, axis)
    grid = reference.grid(low, high, num_thresholds)
    curves = reference.utility_curves(pairs, labels, grid, c, axis)
    assert (result.threshold_low, result.threshold_high) == pytest.approx((low, high), rel=1e-12)
    assert result.thresholds.tolist() == pytest.approx(grid, rel=1e-12)
    torch.testing.assert_close(result.utilities, torch.tensor(curves).double(), rtol=0, atol=1e-7)
    assert result.opis == pytest.approx(reference.opis(curves, grid), rel=1e-9)
    assert result.eps_opis == pytest.approx(reference.eps_opis(curves, grid, eps, ranking), rel=1e-9)
    assert result.reason is None
    kept = [label for label in sorted(set(labels)) if labels.count(label) > 1]
    assert result.classes.tolist() == kept
    assert result.singletons == len(set(labels)) - len(kept) >= 1
    assert result.num_negative_pairs == sum(a != b for _, a, b in pairs)
    assert result.num_positive_pairs == sum(a == b for _, a, b in pairs)


def test_defaults_are_the_papers():
    x, y = table(0, items=60)
    pairs = reference.pair_table(x.tolist(), y.tolist())
    low, high = reference.calibration_range(pairs, (0.01, 0.1))
    grid = reference.grid(low, high, 101)
    curves = reference.utility_curves(pairs, y.tolist(), grid)
    result = threshold_consistency(x, y)
    assert result.opis == pytest.approx(reference.opis(curves, grid), rel=1e-9)
    assert result.eps_opis == pytest.approx(reference.eps_opis(curves, grid, 0.1), rel=1e-9)


@pytest.mark.parametrize("axis", AXES)
def test_opis_by_hand(axis):
    """Angles 0, 60 | 90, 180; bounds 1/4 and 3/4 of the four negatives; three thresholds.

    Negatives at 30, 90, 120, 180 degrees: the range ends at 30 and 120. At its ends both classes
    agree (utility 0 and 2/5). In the middle class 0 (60 degrees) is accepted and class 1 (90) is
    not: specificity 3/4, utilities 2 * 3/4 / (7/4) = 6/7 and 0, variance 9/49, gap 36/49. The
    trapezoid weighs the middle by one half.
    """
    result = threshold_consistency(
        circle(0, 60, 90, 180),
        torch.tensor([0, 0, 1, 1]),
        axis=axis,
        far_bounds=(0.25, 0.75),
        num_thresholds=3,
        eps=0.5,
    )
    ends = {"distance": (2 * math.sin(math.pi / 12), 3**0.5), "similarity": (-0.5, 0.75**0.5)}
    assert (result.threshold_low, result.threshold_high) == pytest.approx(ends[axis])
    curves = [[0, 6 / 7, 2 / 5], [0, 0, 2 / 5]]
    if axis == "similarity":
        curves = [curve[::-1] for curve in curves]
    torch.testing.assert_close(result.utilities, torch.tensor(curves).double())
    assert result.opis == pytest.approx(9 / 98)
    assert result.eps_opis == pytest.approx(18 / 49)


def test_operating_curves_match_the_definition():
    x, y = table(5)
    x, y = x[y < 6], y[y < 6]
    thresholds = torch.linspace(0, 2, 9, dtype=torch.float64)
    for axis in AXES:
        grid = thresholds if axis == "distance" else thresholds - 1
        curves = operating_curves(x, y, grid, axis=axis, tile=(7, 9))
        pairs = reference.pair_table(x.tolist(), y.tolist(), axis)
        for row, label in enumerate(curves.classes.tolist()):
            for step, threshold in enumerate(grid.tolist()):
                sensitivity, specificity = reference.operating_point(pairs, label, threshold, axis)
                assert curves.sensitivity[row, step] == sensitivity
                assert curves.specificity[row, step] == specificity


@pytest.mark.parametrize(("axis", "tight", "loose"), [("distance", 0.0, 2**0.5), ("similarity", 1.0, 0.0)])
def test_pairs_exactly_at_the_threshold_are_accepted(axis, tight, loose):
    x = torch.eye(2, dtype=torch.float64)[[0, 0, 1, 1]]
    for threshold, specificity in ((tight, 1.0), (loose, 0.0)):
        curves = operating_curves(
            x, torch.tensor([0, 0, 1, 1]), torch.tensor([threshold], dtype=torch.float64), axis=axis
        )
        assert curves.sensitivity.tolist() == [[1.0]] * 2
        assert curves.specificity.tolist() == [[specificity]] * 2


@pytest.mark.parametrize("axis", AXES)
def test_the_range_is_made_of_the_pairs_that_define_it(axis):
    """At an end exactly ceil(f * negatives) negative pairs are accepted: the very pair is, no more are."""
    x, y = table(1, items=50)
    result = threshold_consistency(x, y, axis=axis, far_bounds=(0.05, 0.2))
    curves = operating_curves(x, y, result.thresholds, axis=axis)
    accepted = (curves.accepted_negatives.sum(dim=0) // 2).tolist()
    ends = [math.ceil(f * result.num_negative_pairs - 1e-9) for f in (0.05, 0.2)]
    assert [accepted[0], accepted[-1]] == (ends if axis == "distance" else ends[::-1])


def test_the_rank_of_a_bound_reads_it_as_a_decimal():
    """0.07 * 100 is 7.000000000000001 in floats; the rate 0.07 is reached by 7 of 100 pairs all the same."""
    x = circle(*range(1, 21))
    y = torch.arange(20) // 10  # 100 negative pairs, distances 1 .. 19 degrees with multiplicity
    pairs = sorted(v for v, a, b in reference.pair_table(x.tolist(), y.tolist()) if a != b)
    found = threshold_consistency(x, y, far_bounds=(0.07, 0.28))
    assert (found.threshold_low, found.threshold_high) == pytest.approx((pairs[6], pairs[27]), rel=1e-12)
    assert pairs[6] != pytest.approx(pairs[5 - 1], rel=1e-6)
    assert num_worst(100, 0.07) == 7
    assert num_worst(11, 0.1) == 2
    assert num_worst(10, 0.1) == 1


@settings(max_examples=10)
@given(st.integers(2, 6), st.integers(2, 5), st.sampled_from(AXES), st.integers(1, 40), st.integers(0, 2**31))
def test_result_is_bounded_and_blind_to_tiles_order_rotation_and_names(classes, per_class, axis, side, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(classes).repeat_interleave(per_class)
    x = torch.randn(len(y), 5, dtype=torch.float64, generator=generator)
    order = torch.randperm(len(y), generator=generator)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator)).Q
    names = torch.randperm(100, generator=generator)[:classes].sort().values

    def score(x, y, tile=None):
        return threshold_consistency(x, y, axis=axis, far_bounds=WIDE, eps=0.3, tile=tile)

    whole = score(x, y)
    assert 0 <= whole.opis <= 0.25
    assert not whole.eps_opis > 1
    for same_bits in (score(x, y, (side, 9)), score(x[order], y[order]), score(x[order], names[y[order]], (9, side))):
        assert (same_bits.threshold_low, same_bits.threshold_high) == (whole.threshold_low, whole.threshold_high)
        assert same_bits.utilities.equal(whole.utilities)
        assert same_bits.opis == whole.opis
        assert same_bits.eps_opis == whole.eps_opis or math.isnan(whole.eps_opis)
    turned = score(x @ rotation, y)
    assert turned.opis == pytest.approx(whole.opis, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("side", [7, 31, 64, 1000])
def test_tiles_give_the_same_bits_and_counts(side):
    x, y = table(3, items=90, dim=130)
    whole = threshold_consistency(x, y)
    tiled = threshold_consistency(x, y, tile=(side, side))
    assert (tiled.threshold_low, tiled.threshold_high, tiled.opis) == (
        whole.threshold_low,
        whole.threshold_high,
        whole.opis,
    )
    thresholds = whole.thresholds
    assert all(
        a.equal(b)
        for a, b in zip(
            operating_curves(x, y, thresholds, tile=(side, side)).counts,
            operating_curves(x, y, thresholds).counts,
            strict=True,
        )
    )


def test_repeated_images_tie_as_the_definition_says():
    x, y = table(2, items=12, classes=3)
    x, y = x.repeat(3, 1), y.roll(1).repeat(3)
    result = threshold_consistency(x, y, far_bounds=WIDE, num_thresholds=11, eps=0.4, tile=(5, 5))
    pairs = reference.pair_table(x.tolist(), y.tolist())
    low, high = reference.calibration_range(pairs, WIDE)
    grid = reference.grid(low, high, 11)
    curves = reference.utility_curves(pairs, y.tolist(), grid)
    assert (result.threshold_low, result.threshold_high) == pytest.approx((low, high), rel=1e-12)
    assert result.opis == pytest.approx(reference.opis(curves, grid), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_type_is_scored_as_the_numbers_it_holds(dtype):
    x, y = table(4, items=60)
    rounded = x.to(dtype)
    low, high = threshold_consistency(rounded, y), threshold_consistency(rounded.double(), y)
    assert (low.threshold_low, low.threshold_high, low.opis, low.eps_opis) == (
        high.threshold_low,
        high.threshold_high,
        high.opis,
        high.eps_opis,
    )
    assert low.opis == pytest.approx(threshold_consistency(x, y).opis, rel=0.1)


def test_axes_give_different_numbers():
    x, y = table(6, items=60)
    a, b = (threshold_consistency(x, y, axis=axis).opis for axis in AXES)
    assert a != pytest.approx(b, rel=1e-3)


def test_utility_by_hand():
    sensitivity = torch.tensor([[0.0, 1.0, 0.5, 0.0]], dtype=torch.float64)
    specificity = torch.tensor([[0.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    assert utility(sensitivity, specificity)[0].tolist() == pytest.approx([0, 1, 2 / 3, 0])
    # c = 2: 5 * 0.5 / (4 * 1 + 0.5)
    assert float(utility(sensitivity, specificity, c=2.0)[0, 2]) == pytest.approx(5 / 9)


def test_integrals_are_trapezoids_over_the_length_of_the_range():
    thresholds = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    curves = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    # variances 0, 1/4, 1/4: (1/8 + 2/4) / 3
    assert float(opis(curves, thresholds)) == pytest.approx(0.625 / 3)
    # gaps 0, 1, 1: (1/2 + 2) / 3
    assert float(eps_opis(curves, thresholds, eps=0.5)) == pytest.approx(2.5 / 3)


def test_the_worst_classes_are_ranked_by_mean_or_at_each_threshold():
    thresholds = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    curves = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    # trapezoid means 3/4, 1/2, 1 (the plain ones tie): class 1 is worst, gaps 1/2, -1, 0
    assert float(eps_opis(curves, thresholds, eps=0.3)) == pytest.approx((0.25 / 2 + 1 + 0) / 2)
    # at each threshold: gaps -1, -1, 0
    assert float(eps_opis(curves, thresholds, eps=0.3, ranking="pointwise")) == pytest.approx(0.75)


def test_of_equally_bad_classes_the_lower_label_is_worst():
    thresholds = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    curves = torch.tensor([[0.0, 0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.25, 0.25, 0.0], [0.0, 1.0, 1.0, 1.0, 0.0]]).double()
    gap = curves[0] - curves[1:].mean(dim=0)
    assert float(eps_opis(curves, thresholds)) == pytest.approx(float(gap.square().sum()) / 4)


DEGENERATE = [
    ("one class", torch.eye(4), [0, 0, 0, 0], "no negative pair"),
    ("singletons", torch.eye(4), [0, 1, 2, 3], "no positive pair"),
    ("all negatives equally far", torch.eye(4), [0, 0, 1, 1], "degenerate calibration range"),
    ("collapsed", torch.ones(4, 2), [0, 0, 1, 1], "degenerate calibration range"),
]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(("x", "labels", "reason"), [case[1:] for case in DEGENERATE], ids=[c[0] for c in DEGENERATE])
def test_what_cannot_be_scored_is_nan_with_a_reason(x, labels, reason, axis):
    result = threshold_consistency(x.double(), torch.tensor(labels), axis=axis)
    assert math.isnan(result.opis)
    assert math.isnan(result.eps_opis)
    assert result.reason is not None
    assert reason in result.reason


def test_without_a_rest_only_eps_opis_is_nan():
    result = threshold_consistency(circle(0, 60, 90), torch.tensor([0, 0, 1]), far_bounds=(0.5, 1.0))
    assert result.opis == 0.0
    assert math.isnan(result.eps_opis)
    assert "eps_opis" in str(result.reason)
    assert result.singletons == 1


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("far_bounds", (0.1, 0.1)),
        ("far_bounds", (0.0, 0.1)),
        ("far_bounds", (0.1, 1.1)),
        ("num_thresholds", 1),
        ("c", 0.0),
        ("eps", 0.0),
        ("eps", 1.0),
    ],
)
def test_arguments_outside_their_range_are_refused(argument, value):
    with pytest.raises(ValueError, match=argument):
        threshold_consistency(circle(0, 60, 90, 180), torch.tensor([0, 0, 1, 1]), **{argument: value})


def test_a_row_that_is_not_finite_is_named():
    x = circle(0, 60, 90, 180)
    x[2] = torch.nan
    with pytest.raises(ValueError, match="row 2"):
        threshold_consistency(x, torch.tensor([0, 0, 1, 1]))
