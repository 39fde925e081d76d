"""A threshold chosen on some classes and judged on others, against pair-by-pair counting and known populations."""

import numpy as np
import pytest
import torch

from tcm_bench.evaluation.deployment import CONFIDENCE, deploy


def population(classes: int, items: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes of unequal spread, drawn anew for each seed from one population."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, 8, generator=generator)
    spread = torch.rand(classes, 1, generator=generator) * 0.8 + 0.3
    labels = torch.arange(classes).repeat_interleave(items)
    return centers[labels] + spread[labels] * torch.randn(classes * items, 8, generator=generator), labels


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
def test_intervals_hold_the_populations_threshold_as_often_as_they_say(rate, wanted):
    """By a bootstrap that weighs a pair of two classes like one of a single class it is 78 % for the first."""
    embeddings, labels = population(1200, 5, seed=10**6)
    true = deploy(embeddings, labels, rate=rate, wanted=wanted, share=0.99).threshold
    trials = [deploy(*population(80, 5, seed), rate=rate, wanted=wanted, seed=seed) for seed in range(100)]
    covered = np.mean([found.low <= true <= found.high for found in trials])
    assert abs(covered - CONFIDENCE) < 0.08


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
            r"FAR of 1e-05 cannot be seen in 1125 pairs of two.* at least 1000000",
        ),
        ({"rate": "frr", "wanted": 0.01}, r"FRR of 0\.01 cannot be seen in 100 pairs of one class"),
        ({"rate": "far", "wanted": 0.0}, "must lie between 0 and 1, got 0"),
        ({"rate": "far", "wanted": 0.1, "share": 1.0}, "share of classes to choose by must lie between 0 and 1"),
        ({"rate": "far", "wanted": 0.1, "share": 0.99}, "20 classes are too few"),
    ],
)
def test_what_cannot_be_chosen_is_a_sentence(asked, sentence):
    with pytest.raises(ValueError, match=sentence):
        deploy(*population(20, 5, seed=5), **asked)


def test_classes_of_a_single_item_cannot_be_judged_by():
    with pytest.raises(ValueError, match="none has two items"):
        deploy(torch.randn(40, 4), torch.arange(40), rate="far", wanted=0.1)
