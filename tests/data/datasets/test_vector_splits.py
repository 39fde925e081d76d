"""People's own vectors: read as they are, or refused with one sentence."""

import hashlib

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file

import tcm_bench.runs.naming  # noqa: F401  registers the resolvers that the configuration uses
from tcm_bench.data.datasets.vectors import vector_splits

FEATURES = np.arange(24, dtype=np.float64).reshape(12, 2)
LABELS = np.array([7, 7, 3, 3, 9, 9, 1, 1, 5, 5, 8, 8])
GIVEN = np.array(["train"] * 6 + ["test"] * 6)


@pytest.fixture
def write(tmp_path):
    """Writes arrays to a file and returns its path."""

    def file(**arrays):
        np.savez(tmp_path / "my.npz", **arrays)
        return tmp_path / "my.npz"

    return file


def test_a_given_split_is_kept(write):
    splits = vector_splits(write(features=FEATURES, labels=LABELS, split=GIVEN))
    assert splits.train.class_names == ["3", "7", "9"]
    assert splits.train.labels.tolist() == [1, 1, 0, 0, 2, 2]
    assert splits.test.class_names == ["1", "5", "8"]
    assert splits.test.features.dtype == np.float32
    np.testing.assert_array_equal(splits.test.features, FEATURES[6:])


def test_without_a_split_classes_are_drawn_by_seed(write):
    file = write(features=FEATURES, labels=LABELS)
    splits = vector_splits(file)
    assert len(splits.train.class_names) == len(splits.test.class_names) == 3
    assert {*splits.train.class_names, *splits.test.class_names} == {str(label) for label in LABELS}
    for table in (splits.train, splits.test):
        for vector, label in zip(table.features, table.labels, strict=True):
            assert str(LABELS[int(vector[0]) // 2]) == table.class_names[label]
    drawn = {tuple(vector_splits(file, seed=seed).test.class_names) for seed in range(20)}
    assert len(drawn) > 5
    assert vector_splits(file, seed=3).test.class_names == vector_splits(file, seed=3).test.class_names
    assert len(vector_splits(file, test_share=0.34).test.class_names) == 2


def test_string_labels_and_half_precision(write):
    names = np.array([f"class {label}" for label in LABELS])
    splits = vector_splits(write(features=FEATURES.astype(np.float16), labels=names, split=GIVEN))
    assert splits.train.class_names == ["class 3", "class 7", "class 9"]
    np.testing.assert_array_equal(splits.train.features, FEATURES[:6])


def test_safetensors_hold_the_same(tmp_path, write):
    tensors = {
        "features": torch.from_numpy(FEATURES).bfloat16(),
        "labels": torch.from_numpy(LABELS),
        "split": torch.tensor([0] * 6 + [1] * 6),
    }
    save_file(tensors, tmp_path / "my.safetensors")
    ours = vector_splits(tmp_path / "my.safetensors")
    theirs = vector_splits(write(features=FEATURES, labels=LABELS, split=GIVEN))
    for one, other in ((ours.train, theirs.train), (ours.test, theirs.test)):
        np.testing.assert_array_equal(one.features, other.features)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_the_fingerprint_follows_content_and_split(write):
    first = vector_splits(write(features=FEATURES, labels=LABELS)).fingerprint
    assert vector_splits(write(features=FEATURES, labels=LABELS), seed=1).fingerprint != first
    assert vector_splits(write(features=FEATURES + 1, labels=LABELS)).fingerprint != first
    assert vector_splits(write(features=FEATURES, labels=LABELS)).fingerprint == first


NAN = np.where(np.arange(24).reshape(12, 2) == 5, np.nan, FEATURES)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"features": FEATURES}, "no array 'labels', it has features; put it there, or give .*data.labels"),
        ({"labels": LABELS}, "holds no array 'embeddings' or 'features', it has labels"),
        ({"features": FEATURES[:, 0], "labels": LABELS}, r"features must be numbers of shape .* got float64 \(12,\)"),
        ({"features": FEATURES.astype(str), "labels": LABELS}, "features must be numbers"),
        ({"features": FEATURES[:0], "labels": LABELS[:0]}, r"features must be .* got float64 \(0, 2\)"),
        (
            {"features": FEATURES, "labels": LABELS[:5]},
            r"labels must be 12 whole numbers or strings, .* got int64 \(5,\)",
        ),
        ({"features": FEATURES, "labels": LABELS * 0.5}, "labels must be 12 whole numbers or strings, .* got float64"),
        ({"features": FEATURES, "labels": LABELS.astype(object)}, "is not a .npz file of plain arrays"),
        ({"features": NAN, "labels": LABELS}, "must be finite in float32, row 2 is not"),
        ({"features": FEATURES * 1e300, "labels": LABELS}, "must be finite in float32, row 0 is not"),
        ({"features": FEATURES, "labels": LABELS * 0}, "the train split needs at least 2 classes, got 1"),
        ({"features": FEATURES, "labels": LABELS, "split": GIVEN[::-1][:5]}, "split must hold 'train' or 'test'"),
        ({"features": FEATURES, "labels": LABELS, "split": np.array(["val"] * 12)}, r"with \['val'\]"),
        (
            {"features": FEATURES, "labels": LABELS, "split": np.array(["train"] * 12)},
            "the test split needs at least 2",
        ),
        (
            {"features": FEATURES, "labels": np.roll(LABELS, 1), "split": GIVEN},
            "2 classes are in train and in test, for example '8'",
        ),
    ],
)
def test_a_wrong_file_is_one_sentence(write, arrays, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        vector_splits(write(**arrays))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("my.npz", b"PK not a zip"), ("my.npz", b""), ("my.safetensors", b"\x08nothing"), ("my.csv", b"1,2,3\n")],
)
def test_what_is_no_such_file_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        ValueError, match=r"is not a \.(npz|safetensors) file of plain arrays|must end in .safetensors, .npz or .npy"
    ):
        vector_splits(tmp_path / name)


def test_an_array_alone_needs_a_file_of_labels(tmp_path, write):
    np.save(tmp_path / "my.npy", FEATURES)
    (tmp_path / "labels.txt").write_text("\n".join(map(str, LABELS)))
    with pytest.raises(ValueError, match="no array 'labels'"):
        vector_splits(tmp_path / "my.npy")
    ours = vector_splits(tmp_path / "my.npy", labels=tmp_path / "labels.txt")
    theirs = vector_splits(write(features=FEATURES, labels=LABELS))
    for one, other in ((ours.train, theirs.train), (ours.test, theirs.test)):
        np.testing.assert_array_equal(one.features, other.features)
        assert one.class_names == other.class_names
    hashes = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("my.npy", "labels.txt")]
    vector_splits(tmp_path / "my.npy", labels=tmp_path / "labels.txt", sha256="".join(hashes))
    (tmp_path / "labels.txt").write_text("\n".join(map(str, LABELS + 1)))
    with pytest.raises(ValueError, match="is expected"):
        vector_splits(tmp_path / "my.npy", labels=tmp_path / "labels.txt", sha256="".join(hashes))


def test_embeddings_are_another_name_and_may_be_whole_numbers(write):
    one = vector_splits(write(embeddings=FEATURES.astype(np.int16), labels=LABELS, split=GIVEN)).test
    assert one.features.dtype == np.float32
    np.testing.assert_array_equal(one.features, FEATURES[6:])


def test_queries_and_gallery_are_those_of_the_test_side(write):
    query = np.arange(12) % 2 == 0
    splits = vector_splits(write(features=FEATURES, labels=LABELS, split=GIVEN, query=query, gallery=~query))
    assert splits.train.query is None
    np.testing.assert_array_equal(splits.test.query, query[6:])
    np.testing.assert_array_equal(splits.test.gallery, ~query[6:])


def test_a_missing_or_altered_file_is_one_sentence(write, tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*: set data.file"):
        vector_splits(tmp_path / "none.npz")
    file = write(features=FEATURES, labels=LABELS)
    vector_splits(file, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"where 0000.* is expected"):
        vector_splits(file, sha256="0" * 64)


def test_a_share_outside_its_range_is_refused(write):
    with pytest.raises(ValueError, match="test_share must be between 0 and 1, got 1"):
        vector_splits(write(features=FEATURES, labels=LABELS), test_share=1.0)


def test_the_option_switches_the_backbone_off(root):
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=["data=features", "data.file=my.npz"])
    assert cfg.model.backbone == {}
    assert cfg.data.splits.file == "my.npz"
