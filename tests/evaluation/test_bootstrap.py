import math
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from scipy.stats import ttest_rel

from tcm_bench.evaluation import bootstrap
from tcm_bench.evaluation.bootstrap import (
    PerClass,
    class_bootstrap,
    class_difference,
    multiplicities,
    paired_difference,
)
from tcm_bench.evaluation.evaluate import evaluate


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


def sample(seed=0, classes=12, steps=5, ranking="mean", eps=0.3, close=1.0):
    """Random classes; the first has no positive pair, the second no query."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(1, 9, (classes,), generator=generator)
    queries[1] = 0
    share = torch.rand(classes, 2, generator=generator).sort(dim=1).values
    utilities = 0.5 + close * (torch.rand(classes, steps, dtype=torch.float64, generator=generator) - 0.5)
    utilities[0] = torch.nan
    utilities[4] = utilities[7]  # a tie
    thresholds = torch.linspace(0.9, 1.3, steps, dtype=torch.float64)
    return PerClass((1, 2), queries, (share * queries[:, None]).long(), utilities, thresholds, eps, ranking)


def scores(given, classes_of_recall, classes_of_curves):
    """The scores of a list of classes, each as often as it is in it, in plain loops."""
    thresholds = given.places.tolist()
    curves = [given.utilities[i].tolist() for i in sorted(classes_of_curves)]
    queries = sum(int(given.queries[i]) for i in classes_of_recall)
    return {
        "recall_at_1": sum(int(given.hits[i, 0]) for i in classes_of_recall) / queries,
        "recall_at_2": sum(int(given.hits[i, 1]) for i in classes_of_recall) / queries,
        "opis": reference.opis(curves, thresholds),
        "eps_opis": reference.eps_opis(curves, thresholds, given.eps, given.ranking),
    }


def drawn(given, resamples, seed):
    """The same of every resample."""
    with_query = given.queries.nonzero()[:, 0].tolist()
    with_curve = [i for i in range(len(given.queries)) if not given.utilities[i].isnan().any()]
    found = []
    for of_recall, of_curves in zip(
        torch.cat([*multiplicities(len(with_query), resamples, seed)]).int().tolist(),
        torch.cat([*multiplicities(len(with_curve), resamples, seed)]).int().tolist(),
        strict=True,
    ):
        found.append(
            scores(
                given,
                [i for i, times in zip(with_query, of_recall, strict=True) for _ in range(times)],
                [i for i, times in zip(with_curve, of_curves, strict=True) for _ in range(times)],
            )
        )
    return found


@pytest.mark.parametrize("ranking", ["mean", "pointwise"])
@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_the_bootstrap_is_that_of_plain_loops(ranking, eps):
    given = sample(ranking=ranking, eps=eps)
    found = class_bootstrap(given, resamples=60, confidence=0.9, seed=3)
    every = scores(given, [0, *range(2, 12)], range(1, 12))
    assert set(found) == set(every)
    for name, estimate in found.items():
        values = np.array([one[name] for one in drawn(given, 60, 3)])
        expected = (every[name], values.std(ddof=1), *np.quantile(values, [0.05, 0.95]))
        assert tuple(estimate) == pytest.approx(expected, rel=1e-9, abs=1e-12), name
        assert estimate.standard_error > 0


@pytest.mark.parametrize("ranking", ["mean", "pointwise"])
def test_the_paired_bootstrap_draws_the_same_classes_for_both(ranking):
    base, other = sample(0, ranking=ranking), sample(1, ranking=ranking)
    other = replace(other, queries=base.queries, hits=other.hits.minimum(base.queries[:, None]))
    found = class_difference(base, other, resamples=40, seed=5)
    pairs = list(zip(drawn(base, 40, 5), drawn(other, 40, 5), strict=True))
    for name, estimate in found.items():
        values = np.array([second[name] - first[name] for first, second in pairs])
        expected = (values.std(ddof=1), *np.quantile(values, [0.025, 0.975]))
        assert tuple(estimate[1:]) == pytest.approx(expected, rel=1e-9, abs=1e-12), name
        assert estimate.value == class_bootstrap(other)[name].value - class_bootstrap(base)[name].value


def test_two_classes_by_hand():
    """Both drawn twice with probability 1/4 each: R@1 is 0, 1/2 or 1; OPIS 0, 1/4 or 0; eps-OPIS 0, 1 or 0."""
    curves = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    given = PerClass((1,), torch.tensor([2, 2]), torch.tensor([[0], [2]]), curves, torch.tensor([0.0, 0.5, 1.0]))
    found = class_bootstrap(given, resamples=20_000)
    assert found["recall_at_1"] == pytest.approx((0.5, 0.125**0.5, 0, 1), rel=0.02)
    assert found["opis"] == pytest.approx((0.25, 0.125, 0, 0.25), rel=0.02)
    assert found["eps_opis"] == pytest.approx((1, 0.5, 0, 1), rel=0.02)


def test_what_classes_share_cancels_in_the_paired_difference():
    base = sample()
    base = replace(base, queries=torch.full_like(base.queries, 8), hits=base.hits.clamp(max=7))
    better = replace(base, hits=base.hits + 1)
    found = class_difference(base, better)["recall_at_1"]
    assert found == pytest.approx((1 / 8, 0, 1 / 8, 1 / 8), abs=1e-12)
    assert class_bootstrap(base)["recall_at_1"].standard_error > 0.03


def test_unequal_queries_weigh_by_number():
    """The recall of a draw is hits over queries, not the mean of the classes' recalls."""
    curves = torch.full((2, 2), torch.nan)
    given = PerClass((1,), torch.tensor([1, 99]), torch.tensor([[1], [0]]), curves, torch.tensor([0.0, 1.0]))
    found = class_bootstrap(given)["recall_at_1"]
    assert found.value == pytest.approx(0.01)
    assert (found.low, found.high) == (0, 1)


def test_an_evaluation_gives_its_own_numbers():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(9, (60,), generator=generator)
    labels[-1] = 20
    x = torch.randn(21, 4, generator=generator)[labels] + 0.7 * torch.randn(60, 4, generator=generator)
    found = evaluate(x, labels, ks=(1, 4), far_bounds=(0.1, 0.5), eps=0.25, ranking="pointwise")
    errors = class_bootstrap(PerClass.of(found), resamples=50)
    assert [errors[f"recall_at_{k}"].value for k in (1, 4)] == pytest.approx(found.recall.tolist())
    assert errors["opis"].value == pytest.approx(found.consistency.opis, rel=1e-12)
    assert errors["eps_opis"].value == pytest.approx(found.consistency.eps_opis, rel=1e-12)
    assert PerClass.of(found).utilities[-1].isnan().all()  # the singleton


def test_draws_depend_on_the_seed_alone(monkeypatch):
    given = sample()
    found = class_bootstrap(given, resamples=50)
    monkeypatch.setattr(bootstrap, "AT_ONCE", 7 * 12)
    in_blocks = class_bootstrap(given, resamples=50)
    assert all(in_blocks[name] == pytest.approx(found[name], rel=1e-12) for name in found)
    assert class_bootstrap(given, resamples=50, seed=1)["opis"].standard_error != found["opis"].standard_error
    assert all(weights.sum(dim=1).eq(12).all() for weights in multiplicities(12, 50, 0))


def test_no_digit_is_lost_where_all_curves_lie_together():
    wide, close = (class_bootstrap(sample(close=scale), resamples=50)["opis"] for scale in (1.0, 2.0**-20))
    assert np.array(close) * 2.0**40 == pytest.approx(np.array(wide), rel=1e-6)
    same = replace(sample(), utilities=torch.full((12, 5), 0.3, dtype=torch.float64))
    assert class_bootstrap(same)["opis"] == (0, 0, 0, 0)


def test_what_is_undefined_is_nan():
    given = sample()
    nothing = torch.full_like(given.utilities, torch.nan)
    found = class_bootstrap(replace(given, utilities=nothing, queries=given.queries * 0))
    assert len(found) == 4
    assert np.isnan(np.array(list(found.values()))).all()
    single = (values[2:3] for values in (given.queries, given.hits, given.utilities))
    one = class_bootstrap(PerClass((1, 2), *single, given.places))
    assert one["opis"].value == 0
    assert one["recall_at_1"].value == int(given.hits[2, 0]) / int(given.queries[2])
    assert np.isnan([one[name][1:] for name in ("recall_at_1", "opis", "eps_opis")]).all()
    degenerate = class_bootstrap(replace(given, places=torch.ones_like(given.places)))
    assert np.isnan([degenerate["opis"], degenerate["eps_opis"]]).all()
    assert np.isfinite(degenerate["recall_at_1"]).all()


def test_other_test_sets_and_impossible_settings_are_refused():
    given = sample()
    with pytest.raises(ValueError, match="not measured on the same test set: 12 and 11 classes"):
        class_difference(given, sample(classes=11))
    with pytest.raises(ValueError, match="11 and 12 utility curves"):
        class_difference(given, replace(given, utilities=given.utilities.nan_to_num(0)))
    with pytest.raises(ValueError, match="at least two resamples, got 1"):
        class_bootstrap(given, resamples=1)
    with pytest.raises(ValueError, match="confidence must be in"):
        class_bootstrap(given, confidence=95.0)


def test_the_interval_covers_the_population_about_as_often_as_it_says():
    """Classes whose recall and curve vary; the population's score is that of very many of them."""
    rng = np.random.default_rng(0)
    thresholds = torch.linspace(0, 1, 4, dtype=torch.float64)

    def tested(classes):
        level = rng.beta(4, 2, size=classes)
        hits = torch.from_numpy(rng.binomial(10, level))[:, None]
        curves = torch.from_numpy(np.clip(level[:, None] + 0.1 * rng.normal(size=(classes, 4)), 0, 1))
        return PerClass((1,), torch.full((classes,), 10), hits, curves, thresholds)

    truth = {name: found.value for name, found in class_bootstrap(tested(200_000), resamples=2).items()}
    trials, covered = 150, dict.fromkeys(truth, 0)
    values, errors = {name: [] for name in truth}, {name: [] for name in truth}
    for _ in range(trials):
        for name, found in class_bootstrap(tested(100), resamples=200).items():
            covered[name] += found.low <= truth[name] <= found.high
            values[name].append(found.value)
            errors[name].append(found.standard_error)
    for name in ("recall_at_1", "opis", "eps_opis"):
        assert 0.87 <= covered[name] / trials <= 0.99, (name, covered)
        assert np.mean(errors[name]) == pytest.approx(np.std(values[name]), rel=0.2), name
