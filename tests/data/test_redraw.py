"""Other halves of the same classes."""

import numpy as np
import pytest

from tcm_bench.data.redraw import redrawn
from tcm_bench.data.table import FeatureTable, ImageArray, Splits


def table(kind: type, names: list[str], sizes: list[int], **roles: np.ndarray):
    """Items whose content is the number of their class's name, in both kinds of tables."""
    labels = np.repeat(np.arange(len(names)), sizes)
    content = np.repeat([int(name) for name in names], sizes)
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
    train_classes = set()
    for seed in range(8):
        drawn = redrawn(splits, seed)
        assert (drawn.train.num_classes, drawn.test.num_classes) == (4, 3)
        assert len(drawn.train) + len(drawn.test) == 21
        for half in (drawn.train, drawn.test):
            assert [int(half.class_names[label]) for label in half.labels] == content(half).tolist()
        train_classes.add(tuple(drawn.train.class_names))
        assert redrawn(splits, seed).fingerprint == drawn.fingerprint != redrawn(splits, seed + 1).fingerprint
        assert redrawn(splits, seed).train.class_names == drawn.train.class_names
    assert len(train_classes) > 4


def test_roles_go_with_the_items_and_a_table_without_them_has_all():
    query = np.array([True, False, True, False])
    splits = Splits(
        table(FeatureTable, ["1", "2"], [2, 2]), table(FeatureTable, ["3", "4"], [2, 2], query=query), "these"
    )
    drawn = redrawn(splits, 1)
    for half in (drawn.train, drawn.test):
        expected = [c < 3 or row % 2 == 0 for row, c in enumerate(content(half))]  # the first of two is the query
        assert half.query.tolist() == expected
        assert half.gallery is None
