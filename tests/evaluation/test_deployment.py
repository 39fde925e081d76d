"""A threshold chosen on some classes and judged on others, against pair-by-pair counting and known populations."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from tcm_bench.evaluation.deployment import CONFIDENCE, Rate, deploy


def population(classes: int, items: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes of unequal spread, drawn anew for each seed from one population."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(classes, 1, generator=generator) * 0.8 + 0.3
    return drawn(torch.full((classes,), items), spread, generator)


def of_two_sizes(classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One class in seven has 30 items and a large spread, and with that most of the pairs; the others have 3."""
    generator = torch.Generator().manual_seed(seed)
    is_large = torch.rand(classes, generator=generator) < 1 / 7
    spread = torch.rand(classes, 1, generator=generator) * 0.3 + torch.where(is_large, 1.0, 0.3)[:, None]
    return drawn(torch.where(is_large, 30, 3), spread, generator)


def drawn(sizes: torch.Tensor, spread: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(len(sizes)).repeat_interleave(sizes)
    centers = torch.randn(len(sizes), 8, generator=generator)
    return centers[labels] + spread[labels] * torch.randn(len(labels), 8, generator=generator), labels


POPULATIONS = {"equal": lambda classes, seed: population(classes, 5, seed), "two sizes": of_two_sizes}


def reliability(draw: Callable, rate: Rate, wanted: float, classes: int, trials: int) -> tuple[float, float]:
    """How often intervals hold a population's threshold, and how long they are against what would be right.

    Args:
        draw: A sample of so many classes of the population, by a seed.
        rate: Which rate is wanted.
        wanted: Its value.
        classes: That the threshold is chosen by.
        trials: Samples.

    Returns:
        Coverage; and the median length over that of a normal interval by the spread of the thresholds themselves.
    """
    true = deploy(*draw(1200, 10**6), rate=rate, wanted=wanted, share=0.99).threshold
    found = [deploy(*draw(2 * classes, seed), rate=rate, wanted=wanted, seed=seed) for seed in range(trials)]
    right = 2 * 1.96 * np.std([one.threshold for one in found])
    covered = np.mean([one.low <= true <= one.high for one in found])
    return float(covered), float(np.median([one.high - one.low for one in found]) / right)


def pairs(embeddings: torch.Tensor, labels: torch.Tensor, of: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of the pairs of one class, and of two, among the items of these classes."""
    kept = torch.isin(labels, of)
    rows, labels = torch.nn.functional.normalize(embeddings[kept].double()), labels[kept]
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    cosines, same = (rows[first] * rows[second]).sum(dim=1), labels[first] == labels[second]
    return cosines[same].numpy(), cosines[~same].numpy()


@pytest.mark.parametrize(("rate", "wanted"), [("far", 0.01), ("far", 0.2), ("frr", 0.05), ("frr", 0.4)])
@pytest.mark.parametrize("axis", ["similarity", "distance"])
def test_the_threshold_is_that_of_the_pairs_of_the_calibration_classes(rate, wanted, axis):
    embeddings, labels = population(30, 6, seed=1)
    found = deploy(embeddings, labels, rate=rate, wanted=wanted, axis=axis)
    assert len(found.calibration) == len(found.judged) == 15
    assert not set(found.calibration.tolist()) & set(found.judged.tolist())
    positive, negative = pairs(embeddings, labels, found.calibration)
    if rate == "far":
        cosine = np.sort(negative)[::-1][int(np.ceil(wanted * len(negative))) - 1]
    else:
        cosine = np.sort(positive)[::-1][int(np.ceil((1 - wanted) * len(positive))) - 1]
    shown = cosine if axis == "similarity" else np.sqrt(2 - 2 * cosine)
    assert found.threshold == pytest.approx(shown, abs=1e-12)
    assert found.low <= found.threshold <= found.high
    # And what it does to the others.
    slack = 1e-12 if rate == "frr" else 0
    positive, negative = pairs(embeddings, labels, found.judged)
    assert found.far == pytest.approx((negative >= cosine - slack).mean())
    assert found.frr == pytest.approx((positive < cosine - slack).mean())


def test_each_class_is_judged_by_its_own_pairs():
    embeddings, labels = population(12, 5, seed=2)
    found = deploy(embeddings, labels, rate="far", wanted=0.1)
    rows = torch.nn.functional.normalize(embeddings.double())
    judged = torch.isin(labels, found.judged)
    for label, far, frr in zip(found.judged, found.class_far, found.class_frr, strict=True):
        own, others = rows[labels == label], rows[judged & (labels != label)]
        assert far == pytest.approx(float((own @ others.T >= found.threshold).double().mean()))
        first, second = torch.triu_indices(5, 5, 1)
        rejected = (own[first] * own[second]).sum(dim=1) < found.threshold
        assert frr == pytest.approx(float(rejected.double().mean()))
    assert torch.equal(found.class_rate, found.class_far)


@pytest.mark.parametrize(("rate", "wanted"), [("far", 0.05), ("frr", 0.1)])
@pytest.mark.parametrize("kind", POPULATIONS)
def test_intervals_hold_the_populations_threshold_as_often_as_they_say(kind, rate, wanted):
    """The study is `tests/benchmarks/thresholds.py`."""
    covered, length = reliability(POPULATIONS[kind], rate, wanted, classes=40, trials=100)
    assert covered > CONFIDENCE - 0.07
    assert 0.7 < length < 2


@pytest.mark.parametrize(("rate", "wanted"), [("far", 0.1), ("frr", 0.1)])
def test_the_ends_are_where_the_wanted_rate_less_and_more_the_jackknifes_error_is_reached(rate, wanted):
    embeddings, labels = of_two_sizes(60, seed=7)
    found = deploy(embeddings, labels, rate=rate, wanted=wanted)

    def cosines(of: torch.Tensor) -> np.ndarray:
        return np.sort(pairs(embeddings, labels, of)[rate == "far"])[::-1]

    def accepted(of: torch.Tensor) -> float:
        return float((cosines(of) >= found.threshold - 1e-12).mean())

    share = wanted if rate == "far" else 1 - wanted
    sizes = torch.bincount(labels)[found.calibration].double()
    held = sizes * (sizes.sum() - sizes) if rate == "far" else sizes * (sizes - 1)
    without = np.array([accepted(found.calibration[found.calibration != one]) for one in found.calibration])
    error = np.sqrt((len(without) - 1) / len(without) * ((without - without.mean()) ** 2).sum())
    freedom = float(held.sum() ** 2 / (held**2).sum()) - 1
    moved = stats.t.ppf(0.975, freedom) * error / (share * (1 - share))
    odds = np.log(share / (1 - share))
    every = cosines(found.calibration)
    for end, at in ((found.high, odds - moved), (found.low, odds + moved)):
        rank = int(np.ceil(len(every) / (1 + np.exp(-at))))
        assert end == pytest.approx(every[rank - 1], abs=1e-12)


def test_an_end_beyond_all_pairs_is_infinite():
    few = deploy(*population(6, 10, seed=0), rate="far", wanted=0.04)
    assert np.isfinite([few.low, few.threshold]).all()
    assert few.high == np.inf
    two = deploy(*population(4, 30, seed=0), rate="far", wanted=0.1, axis="distance")
    assert (two.low, two.high) == (-np.inf, np.inf)  # no pair is without the one, or the other
    assert np.isfinite(two.threshold)


@pytest.mark.parametrize("rate", ["far", "frr"])
@pytest.mark.parametrize("items", range(2, 20))
def test_the_rate_that_is_recommended_is_accepted(rate, items):
    embeddings, labels = population(20, items, seed=5)
    with pytest.raises(ValueError, match="cannot be seen") as refused:
        deploy(embeddings, labels, rate=rate, wanted=1e-5)
    (recommended,) = re.findall(r"a rate of at least (\S+)", str(refused.value)) or [None]
    if recommended is None:
        assert "10 pairs of one class" in str(refused.value)  # which are all that are needed
    else:
        deploy(embeddings, labels, rate=rate, wanted=float(recommended))


def test_the_same_seed_gives_the_same_split_and_another_another():
    embeddings, labels = population(20, 5, seed=3)
    first, again, other = (deploy(embeddings, labels, rate="far", wanted=0.05, seed=seed) for seed in (0, 0, 1))
    assert (first.threshold, first.low, first.high) == (again.threshold, again.low, again.high)
    assert first.calibration.tolist() != other.calibration.tolist()


def test_queries_and_gallery_are_kept_apart():
    embeddings, labels = population(20, 6, seed=4)
    query = torch.arange(len(labels)) % 2 == 0
    found = deploy(embeddings, labels, rate="far", wanted=0.05, query=query, gallery=~query)
    calibration = torch.isin(labels, found.calibration)
    rows = torch.nn.functional.normalize(embeddings.double())
    asked, searched = rows[calibration & query], rows[calibration & ~query]
    other = labels[calibration & query][:, None] != labels[calibration & ~query]
    accepted = ((asked @ searched.T) >= found.threshold)[other].double().mean()
    assert accepted == pytest.approx(0.05, abs=0.001)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"rate": "far", "wanted": 1e-5},
            r"FAR 1e-05 cannot be seen in 1125 pairs of two.* at least 1000000",
        ),
        ({"rate": "frr", "wanted": 0.01}, r"FRR 0\.01 cannot be seen in 100 pairs of one class"),
        ({"rate": "far", "wanted": 0.0}, "must lie between 0 and 1, got 0"),
        ({"rate": "far", "wanted": 0.1, "share": 1.0}, "share of classes to choose by must lie between 0 and 1"),
        ({"rate": "far", "wanted": 0.1, "share": 0.99}, r"20 of 20 classes would choose the threshold and 0 judge it"),
    ],
)
def test_what_cannot_be_chosen_is_a_sentence(asked, sentence):
    with pytest.raises(ValueError, match=sentence):
        deploy(*population(20, 5, seed=5), **asked)


@pytest.mark.parametrize("rate", ["far", "frr"])
def test_the_wanted_rate_is_reached_on_the_classes_that_choose(rate):
    assert deploy(*population(20, 8, seed=5), rate=rate, wanted=0.2).reached == pytest.approx(0.2, abs=0.005)


def test_two_classes_choose_and_two_judge():
    with pytest.raises(ValueError, match="2 of 3 classes would choose the threshold and 1 judge it; two of each"):
        deploy(*population(3, 5, seed=5), rate="far", wanted=0.5)
    assert len(deploy(*population(4, 5, seed=5), rate="far", wanted=0.5).judged) == 2


def test_queries_without_an_item_of_another_class_cannot_be_judged_by():
    embeddings, labels = population(4, 5, seed=5)
    chosen = deploy(embeddings, labels, rate="far", wanted=0.5).calibration
    one = labels[~torch.isin(labels, chosen)][0]
    gallery = torch.isin(labels, chosen) | (labels == one)
    with pytest.raises(ValueError, match="has an item of another to be told from"):
        deploy(embeddings, labels, rate="far", wanted=0.5, query=gallery, gallery=gallery)


def test_classes_of_a_single_item_cannot_be_judged_by():
    with pytest.raises(ValueError, match="none has two items"):
        deploy(torch.randn(40, 4), torch.arange(40), rate="far", wanted=0.1)
