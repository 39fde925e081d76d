"""Another draw of which classes train and which test."""

import numpy as np
import pytest

from tcm_bench.data.redraw import redrawn
from tcm_bench.data.table import FeatureTable, ImageArray, Splits


def table(kind: type, names: list[str], sizes: list[int], **roles: np.ndarray):
    """Items whose content is ten times the number of their class's name, and their place in it; for both kinds."""
    labels = np.repeat(np.arange(len(names)), sizes)
    content = np.concatenate([10 * int(name) + np.arange(size) for name, size in zip(names, sizes, strict=True)])
    shaped = content[:, None].astype(np.float32) if kind is FeatureTable else content[:, None, None].astype(np.uint8)
    return kind(labels, names, shaped, **roles)


def content(one) -> np.ndarray:
    if isinstance(one, FeatureTable):
        return one.features[:, 0].astype(int)
    return np.array([one.picture(row).pixels()[0, 0, 0] for row in range(len(one))])


@pytest.mark.parametrize("kind", [ImageArray, FeatureTable])
def test_every_item_stays_in_its_class_and_every_class_is_on_one_side(kind):
    splits = Splits(
        table(kind, ["10", "11", "12", "13"], [3, 4, 2, 2]), table(kind, ["20", "21", "22"], [2, 5, 3]), "these"
    )
    everything = sorted([*content(splits.train), *content(splits.test)])
    trained = []
    for seed in (*range(12), 10**6, 10**6 + 1):
        drawn = redrawn(splits, seed)
        assert (drawn.train.num_classes, drawn.test.num_classes) == (4, 3)
        assert sorted([*content(drawn.train), *content(drawn.test)]) == everything
        for side in (drawn.train, drawn.test):
            assert [int(side.class_names[label]) for label in side.labels] == (content(side) // 10).tolist()
        again, other = redrawn(splits, seed), redrawn(splits, seed + 1)
        assert again.train.class_names == drawn.train.class_names
        assert again.fingerprint == drawn.fingerprint != other.fingerprint
        trained.append(frozenset(drawn.train.class_names))
    assert len(set(trained)) > 8
    assert frozenset.union(*trained) == frozenset(["10", "11", "12", "13", "20", "21", "22"])
    assert not frozenset.intersection(*trained)
    assert trained[-1] != trained[-2]
    others = Splits(splits.train, splits.test, "those")
    assert redrawn(others, 0).fingerprint != redrawn(splits, 0).fingerprint


@pytest.mark.parametrize("role", ["query", "gallery"])
def test_roles_go_with_the_items_and_a_table_without_them_has_all(role):
    mask = np.array([True, False, True, False])
    splits = Splits(
        table(FeatureTable, ["1", "2"], [2, 2]), table(FeatureTable, ["3", "4"], [2, 2], **{role: mask}), "these"
    )
    drawn = redrawn(splits, 1)
    for side in (drawn.train, drawn.test):
        assert side.roles()[role].tolist() == [item < 30 or item % 10 == 0 for item in content(side)]
        assert side.roles()[{"query": "gallery", "gallery": "query"}[role]] is None
