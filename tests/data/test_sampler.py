import itertools
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tcm_bench.data.sampler import ClassBalancedSampler, drawable_batch


def long_tail(classes, images, seed=0):
    """Labels in random order, class sizes from 2 to hundreds."""
    rng = np.random.default_rng(seed)
    share = rng.pareto(1.2, classes) + 0.2
    sizes = np.maximum(2, (share / share.sum() * images).astype(int))
    return rng.permutation(np.repeat(np.arange(classes), sizes))


def epoch(sampler, number=0):
    sampler.set_epoch(number)
    return list(sampler)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=2, max_size=25).filter(lambda sizes: sizes[-1] > 0),
    classes_per_batch=st.integers(1, 6),
    images_per_class=st.integers(2, 6),
    batches=st.integers(1, 30),
    seed=st.integers(0, 2**40),
)
def test_any_class_sizes_give_full_and_fair_batches(sizes, classes_per_batch, images_per_class, batches, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    drawable = [cls for cls, size in enumerate(sizes) if size >= 2]
    assume(len(drawable) >= 2)
    classes_per_batch, images_per_class = drawable_batch(
        labels, np.arange(len(sizes)), classes_per_batch, images_per_class
    )
    size = classes_per_batch * images_per_class
    sampler = ClassBalancedSampler(
        labels,
        classes_per_batch=classes_per_batch,
        images_per_class=images_per_class,
        batches_per_epoch=batches,
        seed=seed,
    )
    class_draws, image_draws = Counter(dict.fromkeys(drawable, 0)), Counter()
    drawn = epoch(sampler)
    assert len(drawn) == len(sampler) == batches
    for batch in drawn:
        assert len(batch) == len(set(batch)) == size
        shares = Counter(labels[batch].tolist())
        assert set(shares) <= set(drawable)
        full = {cls: min(sizes[cls], images_per_class) for cls in shares}
        assert all(shares[cls] <= full[cls] for cls in shares)
        short = [cls for cls in shares if shares[cls] < full[cls]]
        assert len(short) <= 2  # the class that fills the batch up, and the one that spares it a lone image
        if 1 in shares.values():
            assert size % 2 == 1
            assert sorted(shares.values())[1:] == [2] * (len(shares) - 1)
        class_draws.update(shares.keys())
        image_draws.update(batch)
    assert max(class_draws.values()) - min(class_draws.values()) <= 1
    for cls in drawable:
        draws = [image_draws[row] for row in np.flatnonzero(labels == cls)]
        assert max(draws) - min(draws) <= 1


def test_equal_classes_give_equal_shares():
    labels = np.repeat(np.arange(10), 7)
    for batch in epoch(ClassBalancedSampler(labels, classes_per_batch=5, images_per_class=4)):
        assert sorted(Counter(labels[batch]).values()) == [4] * 5


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_together_are_one_rank(world_size):
    labels = long_tail(60, 1000)
    arguments = {"classes_per_batch": 8, "images_per_class": 4, "seed": 3}
    whole = epoch(ClassBalancedSampler(labels, **arguments), 5)
    parts = [
        epoch(ClassBalancedSampler(labels, **arguments, rank=rank, world_size=world_size), 5)
        for rank in range(world_size)
    ]
    assert [list(itertools.chain(*part)) for part in zip(*parts, strict=True)] == whole
    assert {len(batch) for part in parts for batch in part} == {32 // world_size}


def test_an_epoch_depends_on_seed_and_number_only():
    labels = long_tail(60, 1000)

    def sampler(seed=0):
        return ClassBalancedSampler(labels, classes_per_batch=8, images_per_class=4, seed=seed)

    used = sampler()
    first = epoch(used, 0)
    assert epoch(used, 2) == epoch(sampler(), 2)  # the epochs before leave no trace
    assert epoch(used, 0) == first
    interrupted = iter(used)
    next(interrupted)
    assert list(used) == first
    assert epoch(used, 1) != first
    assert epoch(sampler(seed=1), 0) != first


def test_a_card_carried_over_lies_anywhere_in_the_new_deck():
    # 7 images by threes: the third draw takes the last card of the first deck and two others, and five
    # remain, that card among them. The fourth draw takes three of the five.
    sampler = ClassBalancedSampler(np.zeros(7, dtype=int), classes_per_batch=1, images_per_class=3, batches_per_epoch=4)
    again = 0
    for number in range(2000):
        first, second, third, fourth = map(set, epoch(sampler, number))
        assert not first & second
        (carried,) = third - first - second
        again += carried in fourth
    assert again / 2000 == pytest.approx(3 / 5, abs=0.045)  # four standard deviations


def test_first_draws_are_uniform_over_classes_and_images():
    labels = np.repeat(np.arange(5), [2, 4, 6, 8, 20])
    sampler = ClassBalancedSampler(labels, classes_per_batch=2, images_per_class=2, batches_per_epoch=1)
    draws = Counter(row for number in range(4000) for batch in epoch(sampler, number) for row in batch)
    sizes = np.bincount(labels)
    for row, label in enumerate(labels):
        assert draws[row] / 4000 == pytest.approx(2 / 5 * 2 / sizes[label], abs=0.04)


def test_length_is_one_pass_unless_told():
    labels = np.repeat(np.arange(10), 7)
    arguments = {"classes_per_batch": 4, "images_per_class": 4}
    assert len(ClassBalancedSampler(labels, **arguments)) == 70 // 16
    assert len(ClassBalancedSampler(labels, **arguments, batches_per_epoch=9)) == 9
    some = ClassBalancedSampler(labels, **arguments, classes=np.array([0, 2, 4, 6, 8]))
    assert len(some) == 35 // 16
    assert set(labels[np.concatenate(epoch(some))]) == {0, 2, 4, 6, 8}


def test_it_is_a_batch_sampler():
    labels = np.repeat(np.arange(4), 3)
    sampler = ClassBalancedSampler(labels, classes_per_batch=2, images_per_class=3)
    loaded = [batch.tolist() for batch in DataLoader(range(12), batch_sampler=sampler)]
    assert loaded == epoch(sampler)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=2, max_size=12).filter(lambda sizes: sum(n >= 2 for n in sizes) >= 2),
    classes_per_batch=st.integers(2, 70),
    images_per_class=st.integers(2, 12),
)
def test_a_fitted_batch_can_be_drawn_is_no_larger_and_holds_two_classes(sizes, classes_per_batch, images_per_class):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    classes, images = drawable_batch(labels, np.unique(labels), classes_per_batch, images_per_class)
    assert 2 <= classes <= classes_per_batch
    assert 2 <= images <= images_per_class
    sampler = ClassBalancedSampler(labels, classes_per_batch=classes, images_per_class=images, batches_per_epoch=3)
    for batch in epoch(sampler):
        assert len(set(labels[batch])) >= 2
    drawable = [size for size in sizes if size >= 2]
    if sum(min(size, images_per_class) for size in drawable) >= classes_per_batch * images_per_class:
        assert (classes, images) == (classes_per_batch, images_per_class)
    else:  # nothing larger could be drawn
        assert sum(min(size, images) for size in drawable) < (classes + 1) * images or classes == classes_per_batch


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([10] * 41, (41, 4)),
        ([4] * 20 + [2] * 21, (30, 4)),  # 20 x 4 + 21 x 2 images
        ([3] * 10, (10, 3)),
        ([9, 2], (2, 2)),  # with more of each one class would fill the batch alone
        ([9, 2, 1, 1], (2, 2)),
    ],
)
def test_the_batch_fitted_to_small_sets(sizes, expected):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    assert drawable_batch(labels, np.arange(len(sizes)), 64, 4) == expected


def test_one_class_makes_no_batch():
    with pytest.raises(ValueError, match=r"at least two classes with at least two images each, the data have 1"):
        drawable_batch(np.repeat([0, 1, 2], [9, 1, 1]), np.arange(3), 64, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes_per_batch": 9}, "9 x 4 = 36 images cannot be drawn.* 8 classes .* give 29 .* at most 7"),
        ({"classes_per_batch": 1, "images_per_class": 40}, "lower images_per_class or add images"),
        ({"images_per_class": 1}, "to hold a positive pair, got 2 x 1"),
        ({"classes_per_batch": 0}, "to hold a positive pair, got 0 x 4"),
        ({"batches_per_epoch": 0}, "batches_per_epoch must be at least 1"),
        ({"world_size": 3}, "8 images cannot be cut into equal parts for rank 0 of 3"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    labels = np.repeat(np.arange(9), [4, 4, 4, 4, 4, 4, 3, 2, 1])
    with pytest.raises(ValueError, match=message):
        ClassBalancedSampler(labels, **{"classes_per_batch": 2, "images_per_class": 4, **arguments})


def test_a_batch_of_a_large_table_takes_well_under_a_millisecond():
    sampler = ClassBalancedSampler(long_tail(5690, 325_846), classes_per_batch=64, images_per_class=4)
    start = time.process_time()
    batches = sum(1 for _ in itertools.islice(sampler, 500))
    assert batches == 500
    assert (time.process_time() - start) / batches < 0.8e-3  # 0.1 ms when the machine is idle
