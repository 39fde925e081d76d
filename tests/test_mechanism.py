"""The idea end to end: trained on the same data, TCM makes one threshold fit the training classes.

The problem has crowded and sparse regions: six groups of ten classes in which distances, between
classes as within them, shrink down to a tenth. A ranking loss is content as soon as each region is
in order by its own scale, so that a threshold that suits one is wrong for another; TCM asks for
the same two cosines everywhere. A linear head is enough to provide them, though not at once: while
crowded regions still unfold, and where noise differs between classes for no such reason, TCM need
not lower OPIS.
"""

from functools import cache

import pytest
import torch

from tcm_bench.evaluation.evaluate import evaluate
from tcm_bench.evaluation.retrieval import recall_at_k
from tcm_bench.losses.objective import Objective
from tcm_bench.losses.rs_at_k import RSAtK
from tcm_bench.losses.smooth_ap import SmoothAP
from tcm_bench.losses.tcm import TCM
from tcm_bench.unit_norm import unit_norm

GROUPS, CLASSES_PER_GROUP, ITEMS_PER_CLASS, DIM = 6, 10, 8, 32
CLASSES = GROUPS * CLASSES_PER_GROUP
CLASSES_PER_BATCH, ITEMS_PER_BATCH, STEPS = 24, 4, 200
SEEDS = (0, 1, 2)
LARGEST_RATIO = 0.6  # measured over ten seeds: 0.05 to 0.63 each, below 0.35 in the mean; flipped 4.5 and more


class Flipped(TCM):
    """TCM with the wrong sign."""

    def terms(self, pairs):
        right = super().terms(pairs)
        return right._replace(loss=-right.loss)


BASES = {"smooth_ap": SmoothAP, "rs_at_k": RSAtK}
ARMS = {"none": lambda: TCM(positive_weight=0.0, negative_weight=0.0), "tcm": TCM, "flipped": Flipped}


def problem(seed):
    """Features and labels."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, DIM, generator=generator)

    scale = 0.1 ** torch.linspace(1, 0, GROUPS)
    centers = noise(GROUPS)[:, None] + scale[:, None, None] * noise(GROUPS, CLASSES_PER_GROUP)
    labels = torch.arange(CLASSES).repeat_interleave(ITEMS_PER_CLASS)
    width = 1.2 * scale.repeat_interleave(CLASSES_PER_GROUP)[labels, None]
    features = 2 * noise() + centers.flatten(0, 1)[labels] + width * noise(len(labels))
    return unit_norm(features), labels


@cache
def trained(base, arm, seed):
    """OPIS and recall at 1 of the training classes after training a linear head."""
    features, labels = problem(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = torch.nn.Linear(DIM, DIM)
    objective = Objective(BASES[base](), ARMS[arm]())
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for _ in range(STEPS):
        chosen = torch.randperm(CLASSES, generator=generator)[:CLASSES_PER_BATCH]
        items = torch.stack([torch.randperm(ITEMS_PER_CLASS, generator=generator)[:ITEMS_PER_BATCH] for _ in chosen])
        rows = (chosen[:, None] * ITEMS_PER_CLASS + items).flatten()
        optimizer.zero_grad()
        objective(unit_norm(head(features[rows])), labels[rows])["loss"].backward()
        optimizer.step()
    embeddings = head(features).detach().double()
    return evaluate(embeddings, labels).consistency.opis, float(recall_at_k(embeddings, labels))


def makes_thresholds_consistent(base, arm):
    """The criterion: lower OPIS with every seed, and far lower on average."""
    pairs = [(trained(base, "none", seed)[0], trained(base, arm, seed)[0]) for seed in SEEDS]
    lower = all(after < before for before, after in pairs)
    return lower and sum(after for _, after in pairs) < LARGEST_RATIO * sum(before for before, _ in pairs)


@pytest.mark.parametrize("base", BASES)
def test_tcm_lowers_opis_on_the_training_classes(base):
    assert makes_thresholds_consistent(base, "tcm")


@pytest.mark.parametrize("base", BASES)
def test_tcm_keeps_retrieval(base):
    for seed in SEEDS:
        before, after = trained(base, "none", seed)[1], trained(base, "tcm", seed)[1]
        assert after > before - 0.05


@pytest.mark.parametrize("base", BASES)
def test_tcm_with_a_flipped_sign_fails_the_same_criterion(base):
    assert not makes_thresholds_consistent(base, "flipped")


def test_the_same_seed_gives_the_same_numbers():
    assert trained.__wrapped__("smooth_ap", "tcm", 0) == trained("smooth_ap", "tcm", 0)
