import pickle

import numpy as np
import pytest

from tcm_bench.data.table import FeatureTable, Paths

NAMES = ["a/b.jpg", "é/ü \udce9.jpg", "", "/elsewhere/c.jpg"]


def test_paths_start_at_the_root_unless_they_are_absolute():
    paths = Paths("/root", NAMES)
    assert list(paths) == ["/root/a/b.jpg", "/root/é/ü \udce9.jpg", "/root/", "/elsewhere/c.jpg"]
    assert [paths.name(row) for row in range(4)] == NAMES
    assert (paths[-1], paths[np.int64(1)]) == ("/elsewhere/c.jpg", "/root/é/ü \udce9.jpg")
    assert list(paths[1:3]) == list(paths)[1:3]
    assert list(pickle.loads(pickle.dumps(paths))) == list(paths)  # as a spawned worker gets it
    assert list(Paths("/root", [])) == []
    for row in (4, -5):
        with pytest.raises(IndexError):
            paths[row]


def test_a_path_of_two_is_refused():
    with pytest.raises(ValueError, match="a path of /root holds the character NUL"):
        Paths("/root", ["a\0b"])


def test_masks_are_bool_and_one_for_each_item():
    labels, features = np.array([0, 0, 1]), np.zeros((3, 2), dtype=np.float32)
    mask = np.array([True, False, True])
    assert FeatureTable(labels, ["a", "b"], features).gallery is None
    assert FeatureTable(labels, ["a", "b"], features, query=mask).query is mask
    for wrong in (mask[:2], mask.astype(np.int64)):
        with pytest.raises(ValueError, match=r"gallery must be bool of shape \(3,\), got"):
            FeatureTable(labels, ["a", "b"], features, gallery=wrong)
