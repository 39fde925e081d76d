"""The article's claims: what is sure is judged, and chance is not."""

from itertools import pairwise

import numpy as np
import pytest

from tcm_bench.report.claims import claims, summed_up
from tcm_bench.report.fold import fold

SEEDS = range(3)


@pytest.fixture
def judged(run):
    """Verdicts by number; takes for each comparison and seed R@1 and OPIS without TCM and with it."""

    def judge(values, *, tcms=("none", "paper"), **told):
        """Of an array of comparisons x seeds x arms x (R@1, OPIS)."""
        runs = [
            run(tcm, seed=seed, loss=f"loss{number}", recall_at_1=float(recall), opis=float(opis), **told)
            for number, seeds in enumerate(values)
            for seed, arms in enumerate(seeds)
            for tcm, (recall, opis) in zip(tcms, arms, strict=True)
        ]
        return {claim.number: claim for claim in claims(fold(runs), runs)}

    return judge


def values(comparisons, seeds, change, noise=0.0, rng=None):
    """All baselines alike; TCM changes (R@1, OPIS) by so much; noise is of each seed and arm, relative."""
    found = np.tile([0.7, 0.02], (comparisons, seeds, 2, 1))
    found[:, :, 1] += change
    drawn = (rng or np.random.default_rng(0)).standard_normal(found.shape)
    return found * (1 + noise * drawn)


def test_sure_changes_hold_and_their_contrary_fails(judged):
    better = judged(values(4, 3, (0.02, -0.01), 1e-4))
    assert (better["C1"].verdict, better["C2"].verdict) == ("holds", "holds")
    assert "surely better in 4 of 4" in better["C1"].found
    worse = judged(values(4, 3, (-0.02, 0.01), 1e-4))
    assert (worse["C1"].verdict, worse["C2"].verdict, worse["C4"].verdict) == ("fails", "fails", "fails")


def test_one_comparison_that_is_surely_worse_is_enough_for_opis_and_not_for_recall(judged):
    of_all = values(16, 3, (0.02, -0.01), 1e-4)
    of_all[5, :, 1] = values(1, 3, (-0.02, 0.01), 1e-4)[0, :, 1]
    found = judged(of_all)
    assert (found["C1"].verdict, found["C2"].verdict) == ("fails", "holds")


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_judge_nothing(judged, seeds):
    for sign in (1, -1):
        found = judged(values(4, seeds, (0.02 * sign, -0.01 * sign), 1e-4), threshold={"threshold_high": 1.2})
        assert {claim.verdict for claim in found.values()} == {"not enough data"}
        assert "4 with fewer than 3 seeds" in found["C1"].found


def test_a_comparison_that_is_missing_keeps_the_others_from_holding(run):
    runs = [
        run(tcm, seed=seed, loss=f"loss{number}", opis=0.02 - 0.01 * (tcm == "paper") + 1e-5 * seed * (tcm == "paper"))
        for number in range(3)
        for seed in SEEDS
        for tcm in ("none", "paper")
    ]
    assert claims(fold(runs), runs)[0].verdict == "holds"
    lost = [one for one in runs if one.choices["loss"] != "loss1" or one.choices["tcm"] == "none"]
    assert claims(fold(lost), lost)[0].verdict == "not enough data"


def test_different_data_in_the_arms_are_not_judged(run):
    runs = [
        run(
            tcm, seed=seed, opis=0.02 - 0.01 * (tcm == "paper") + 1e-5 * seed * (tcm == "paper"), row={"data_hash": tcm}
        )
        for seed in SEEDS
        for tcm in ("none", "paper")
    ]
    assert claims(fold(runs), runs)[0].verdict == "not enough data"


def test_chance_alone_leads_to_a_verdict_in_few_of_many_draws(judged):
    """Nothing differs but by noise: one draw in twenty is expected to find something."""
    rng = np.random.default_rng(7)
    found = [judged(values(8, 3, (0, 0), 0.1, rng)) for _ in range(20)]
    for number in ("C1", "C2", "C4", "C5"):
        assert sum(one[number].verdict != "not enough data" for one in found) <= 3


def test_accuracy_and_consistency_part_where_the_more_accurate_is_surely_less_consistent(judged):
    both = values(4, 3, (0.01, -0.005), 1e-4)
    ladder = np.arange(4)[:, None, None] * 0.02
    parted = both.copy()
    parted[..., 0] += ladder
    parted[..., 1] += ladder / 4
    assert judged(parted)["C4"].verdict == "holds"
    assert "of 6 pairs among 4 baselines in 6 the surely more accurate is surely the less" in judged(parted)["C4"].found
    agreeing = both.copy()
    agreeing[..., 0] += ladder
    agreeing[..., 1] += 0.02 - ladder / 4
    assert judged(agreeing)["C4"].verdict == "fails"


def test_a_sweep_of_baselines_alone_is_asked_for_its_part(run):
    places = [(number, seed) for number in range(4) for seed in SEEDS]
    runs = [
        run("none", seed=seed, loss=f"loss{number}", recall_at_1=0.6 + number * step, opis=0.02 + 0.1 * number * step)
        for number, seed in places
        for step in [0.05 + 1e-4 * seed]
    ]
    (found,) = [claim for claim in claims(fold(runs), runs) if claim.number == "C4"]
    assert "of 6 pairs among 4 baselines in 6 the surely more accurate is surely the less consistent" in found.found
    assert found.verdict == "not enough data"  # there is no TCM


def test_baselines_measured_in_different_ways_are_not_compared(run):
    runs = [
        run("none", seed=seed, recall_at_1=0.6 + 0.05 * number + 1e-4 * seed * number,
            opis=0.02 + 0.01 * number + 1e-5 * seed * number, threshold={"far_bounds": [0.001, 0.1 * (number + 1)]})
        for number in range(4) for seed in SEEDS
    ]  # fmt: skip
    (found,) = [claim for claim in claims(fold(runs), runs) if claim.number == "C4"]
    assert "no data set has 4 baselines" in found.found


def test_no_runs_at_all_settle_nothing():
    found = claims(fold([]), [])
    assert {claim.verdict for claim in found} == {"not enough data"}
    assert summed_up(found) == "Of the article's claims C1, C2, C3, C4, C5 are not settled by these runs."
    assert summed_up(found[:1]) == "Of the article's claims C1 is not settled by these runs."


def test_baselines_on_other_draws_of_the_classes_are_not_compared(run):
    runs = [
        run("none", seed=seed, loss=f"loss{number}", recall_at_1=0.6 + 0.05 * number + 1e-4 * seed * number,
            opis=0.02 + 0.01 * number + 1e-5 * seed * number, row={"data_hash": str(number)})
        for number in range(4) for seed in SEEDS
    ]  # fmt: skip
    (found,) = [claim for claim in claims(fold(runs), runs) if claim.number == "C4"]
    assert "no data set has 4 baselines" in found.found


def test_the_cost_is_that_of_a_step_and_of_pairs_that_can_be_compared(run):
    def of(slower, number, **row):
        return [
            run(tcm, seed=seed, row={"step_s": 0.1 * (slower if tcm == "paper" else 1), "wall_s": 9.0, **row})
            for seed in range(number)
            for tcm in ("none", "paper")
        ]

    def verdict(runs):
        (claim,) = [claim for claim in claims(fold(runs), runs) if claim.number == "C3"]
        return claim.verdict

    assert verdict(of(1.04, 6)) == "holds"
    assert verdict(of(1.2, 6)) == "fails"
    assert verdict(of(1.04, 3)) == "not enough data"
    assert verdict(of(1.04, 6, step_s=None)) == "not enough data"
    other_threads = [
        one if number % 2 else one.model_copy(update={"threads": 2}) for number, one in enumerate(of(1, 6))
    ]
    assert verdict(other_threads) == "not enough data"


def test_the_spread_of_thresholds_is_measured_in_widths_of_the_calibration_range(run):
    def verdict(spread, high):
        runs = [
            run(
                tcm, seed=seed, loss=f"loss{number}",
                threshold_spread_tar_90pct=(spread if tcm == "paper" else 0.2) + 1e-4 * seed,
                threshold={"threshold_low": 0.5, "threshold_high": high if tcm == "paper" else 0.7},
            )
            for number in range(3) for seed in SEEDS for tcm in ("none", "paper")
        ]  # fmt: skip
        (claim,) = [claim for claim in claims(fold(runs), runs) if claim.number == "C5"]
        return claim.verdict

    assert verdict(0.1, 0.7) == "holds"
    assert verdict(0.1, 0.55) == "fails"  # all distances shrank, and these by less


def test_each_setting_of_tcm_is_judged_and_many_are_a_search(run):
    def of(kinds):
        return [
            run(tcm, seed=seed, opis=0.02 + 0.005 * number + 1e-5 * seed * number)
            for seed in SEEDS
            for number, tcm in zip((0, -1, 1, 2, 3, 4, 5), ("none", *kinds), strict=False)
        ]

    two = of(("chosen", "paper"))
    found = {claim.number: claim.verdict for claim in claims(fold(two), two)}
    assert (found["C1 chosen"], found["C1 paper"]) == ("holds", "fails")
    assert summed_up(claims(fold(two), two)).startswith("Of the article's claims C1 chosen holds; C1 paper")
    many = of([f"kind{number}" for number in range(5)])
    assert {claim.verdict for claim in claims(fold(many), many)} == {"not enough data"}
    assert all("tcm-bench choose" in claim.found for claim in claims(fold(many), many))


def test_claims_come_in_order(judged):
    numbers = [*judged(values(2, 3, (0, 0), 0.01))]
    assert numbers == ["C1", "C2", "C3", "C4", "C5"]
    assert all(one < other for one, other in pairwise(numbers))
