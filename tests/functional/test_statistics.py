import math

import pytest
from scipy.stats import ttest_rel

from tcm_bench.functional.statistics import paired_difference


def test_interval_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.30265."""
    mean, low, high = paired_difference([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert mean == pytest.approx(2)
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_interval_is_scipys(confidence):
    base, tcm = [0.31, 0.29, 0.35, 0.30], [0.25, 0.27, 0.24, 0.29]
    expected = ttest_rel(tcm, base).confidence_interval(confidence)
    assert paired_difference(base, tcm, confidence)[1:] == pytest.approx((expected.low, expected.high))


def test_what_the_seeds_share_cancels():
    assert paired_difference([1.0, 5.0, 9.0], [2.0, 6.0, 10.0]) == (1.0, 1.0, 1.0)


def test_one_seed_has_a_difference_and_no_interval():
    mean, low, high = paired_difference([0.5], [0.25])
    assert mean == -0.25
    assert math.isnan(low)
    assert math.isnan(high)
    assert all(math.isnan(value) for value in paired_difference([], []))


def test_unpaired_seeds_and_impossible_confidence_are_refused():
    with pytest.raises(ValueError, match="2 seeds and tcm 1"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="confidence must be in"):
        paired_difference([1.0], [1.0], confidence=95.0)
