"""The toy's reader: the same classes on both sides, and no image on both."""

import numpy as np
import pytest
from digits import write_digits

from tcm_bench.data.datasets.closed_set import closed_set
from tcm_bench.data.redraw import redrawn
from tcm_bench.data.table import FeatureTable, Splits

SIZES = {"train": {"9": 7, "1": 8}, "test": {"5": 9, "0": 7}}  # images of each class in each archive


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), SIZES)


def grays(table):
    return {name: table.images[table.labels == n][:, 0, 0, 0].tolist() for n, name in enumerate(table.class_names)}


def test_each_class_is_on_both_sides_and_each_image_on_one(folder):
    splits = closed_set(folder, test_images_per_class=2, images_per_class=3)
    assert splits.closed_set
    assert splits.train.class_names == splits.test.class_names == ["0", "1", "5", "9"]
    assert grays(splits.train) == {"0": [0, 1, 2], "1": [20, 21, 22], "5": [100, 101, 102], "9": [180, 181, 182]}
    assert grays(splits.test) == {"0": [5, 6], "1": [26, 27], "5": [107, 108], "9": [185, 186]}


def test_all_images_are_trained_on_but_those_for_the_test(folder):
    splits = closed_set(folder, test_images_per_class=2)
    assert [len(group) for group in grays(splits.train).values()] == [5, 6, 7, 5]
    for name, tested in grays(splits.test).items():
        assert not set(tested) & set(grays(splits.train)[name])
    assert splits.fingerprint != closed_set(folder, test_images_per_class=3).fingerprint


def test_images_that_do_not_suffice_for_both_sides_are_refused(folder):
    assert len(closed_set(folder, test_images_per_class=5).train) == 11
    with pytest.raises(ValueError, match=r"has 7 images, which do not give data\.splits\.images_per_class=6 to train"):
        closed_set(folder, test_images_per_class=2, images_per_class=6)
    with pytest.raises(ValueError, match=r"has 7 images"):
        closed_set(folder, test_images_per_class=6)
    for few in ({"test_images_per_class": 1}, {"test_images_per_class": 2, "images_per_class": 1}):
        with pytest.raises(ValueError, match="must be at least 2"):
            closed_set(folder, **few)


def test_only_a_set_that_says_so_may_share_classes():
    def table(*names):
        return FeatureTable(np.arange(len(names)), names, np.zeros((len(names), 2), dtype=np.float32))

    with pytest.raises(ValueError, match="an open-world split must be disjoint by class"):
        Splits(table("a", "b"), table("b"), "x")
    assert Splits(table("a", "b"), table("b"), "x", closed_set=True).closed_set
    with pytest.raises(ValueError, match="'c' is not in train"):
        Splits(table("a", "b"), table("b", "c"), "x", closed_set=True)


def test_a_closed_set_has_no_classes_to_draw(folder):
    with pytest.raises(ValueError, match=r"data\.split_seed draws .* a closed set has all on both sides"):
        redrawn(closed_set(folder, test_images_per_class=2), seed=0)
