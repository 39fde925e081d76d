import json
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tcm_bench.data.datasets import vectors
from tcm_bench.data.datasets.vectors import vector_set

ROWS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
LABELS = np.array([40, 7, 7, 40, 7, 9])
DENSE, CLASSES = [2, 0, 0, 2, 0, 1], [7, 9, 40]


def check(found, classes=CLASSES, dtype=torch.float32):
    assert found.vectors.dtype == dtype
    torch.testing.assert_close(found.vectors, torch.from_numpy(ROWS).to(dtype), rtol=0, atol=0)
    assert found.labels.tolist() == DENSE
    assert found.labels.dtype == torch.int64
    assert found.classes.tolist() == classes


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_every_floating_point_array_is_taken_as_it_is(tmp_path, dtype):
    rows = ROWS.astype(np.float16).astype(dtype)
    np.savez(tmp_path / "x.npz", embeddings=rows, labels=LABELS.astype(np.uint16))
    np.save(tmp_path / "x.npy", np.asfortranarray(rows))
    np.save(tmp_path / "y.npy", LABELS)
    for found in (vector_set(tmp_path / "x.npz"), vector_set(tmp_path / "x.npy", tmp_path / "y.npy")):
        assert found.vectors.dtype == getattr(torch, f"float{8 * rows.dtype.itemsize}")
        assert found.vectors.tolist() == rows.tolist()
        assert found.labels.tolist() == DENSE
        assert found.classes.tolist() == CLASSES


def test_safetensors_may_hold_bfloat16_and_roles(tmp_path):
    query = torch.tensor([True, False, True, True, True, True])
    tensors = {"embeddings": torch.from_numpy(ROWS).bfloat16(), "labels": torch.from_numpy(LABELS)}
    save_file({**tensors, "query": query, "indices": torch.arange(6)}, tmp_path / "x.safetensors")
    found = vector_set(tmp_path / "x.safetensors")
    check(found, dtype=torch.bfloat16)
    assert found.query.tolist() == query.tolist()
    assert found.gallery is None


@pytest.mark.parametrize(
    ("name", "text", "classes"),
    [
        ("y.txt", "40\n7\n7\n40\n7\n9\n", [7, 9, 40]),
        ("y.txt", "c\na\na\nc\na\nb", ["a", "b", "c"]),
        ("y.txt", "9\n007\n007\n9\n007\n7", ["007", "7", "9"]),
        ("y.csv", "path,label\na,40\nb,7\nc,7\nd,40\ne,7\nf,9\n", [7, 9, 40]),
        ("y.csv", "label\nred fox\nNA\nNA\nred fox\nNA\nnull\n", ["NA", "null", "red fox"]),
    ],
)
def test_labels_of_a_file_of_their_own(tmp_path, name, text, classes):
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / name).write_text(text)
    check(vector_set(tmp_path / "x.npy", tmp_path / name), classes)


def test_strings_are_classes_too_and_given_labels_come_first(tmp_path):
    np.savez(tmp_path / "x.npz", embeddings=ROWS, labels=np.array(list("caacab")))
    check(vector_set(tmp_path / "x.npz"), ["a", "b", "c"])
    (tmp_path / "y.txt").write_text("40\n7\n7\n40\n7\n9\n")
    check(vector_set(tmp_path / "x.npz", tmp_path / "y.txt"))


def test_features_are_another_name_for_embeddings(tmp_path):
    check(vector_set(write(tmp_path, features=ROWS, labels=LABELS)))
    save_file({"features": torch.from_numpy(ROWS), "labels": torch.from_numpy(LABELS)}, tmp_path / "x.safetensors")
    check(vector_set(tmp_path / "x.safetensors"))


def test_tensors_may_name_their_classes(tmp_path):
    check(vector_set(named(tmp_path, ["a", "b", "c"])), ["a", "b", "c"])


def test_labels_are_not_needed_by_everybody(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    found = vector_set(tmp_path / "x.npy", needs_labels=False)
    assert found.vectors.tolist() == ROWS.tolist()
    assert found.labels is None


def test_an_npy_file_is_mapped_and_never_written_to(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    np.save(tmp_path / "y.npy", LABELS)
    found = vector_set(tmp_path / "x.npy", tmp_path / "y.npy")
    found.vectors[0] = 0
    assert np.load(tmp_path / "x.npy").tolist() == ROWS.tolist()
    assert isinstance(vectors._array(tmp_path / "x.npy"), np.memmap)


class Malicious:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def write(folder, **arrays):
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


def torch_saved(folder, name):
    torch.save({"embeddings": Malicious(), "labels": Malicious()}, folder / name)
    return folder / name


def pickled(folder, name):
    (folder / name).write_bytes(pickle.dumps(Malicious()))
    return folder / name


def text(folder, name):
    (folder / name).write_text("no array")
    return folder / name


def npy_under_the_name_of_an_npz(folder):
    np.save(folder / "x.npy", ROWS)
    return (folder / "x.npy").rename(folder / "x.npz")


def named(folder, names):
    """Labels 0, 1, ... of a file that holds no strings, and the names they stand for."""
    tensors = {"embeddings": torch.from_numpy(ROWS), "labels": torch.tensor(DENSE)}
    save_file(tensors, folder / "x.safetensors", {"classes": json.dumps(names)})
    return folder / "x.safetensors"


OBJECTS = np.array([Malicious()] * 6, dtype=object)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda d: d / "none.npz", "there is no file"),
        (lambda d: d / "none.npy", "there is no file"),
        (lambda d: text(d, "x.h5"), "must end in .safetensors, .npz or .npy"),
        (lambda d: torch_saved(d, "x.pt"), "is a pickle, which may run any code"),
        (lambda d: torch_saved(d, "last.ckpt"), "in place of its checkpoint"),
        (lambda d: torch_saved(d, "x.npz"), "holds no array 'embeddings'"),
        (lambda d: torch_saved(d, "x.npy"), "is not an .npy file of one plain array"),
        (lambda d: torch_saved(d, "x.safetensors"), "is not a .safetensors file of plain arrays"),
        (lambda d: pickled(d, "x.npz"), "is not a .npz file of plain arrays"),
        (lambda d: pickled(d, "x.npy"), "is not an .npy file of one plain array"),
        (lambda d: text(d, "x.npz"), "is not a .npz file of plain arrays"),
        (lambda d: text(d, "x.safetensors"), "is not a .safetensors file of plain arrays"),
        (lambda d: write(d, embeddings=OBJECTS, labels=LABELS), "Object arrays cannot be loaded"),
        (lambda d: write(d, embeddings=ROWS, labels=OBJECTS), "Object arrays cannot be loaded"),
        (lambda d: write(d, labels=LABELS), "holds no array 'embeddings'"),
        (lambda d: write(d, embeddings=ROWS), "holds no array 'labels', it has embeddings; put it there"),
        (lambda d: write(d, embeddings=ROWS, features=ROWS, labels=LABELS), "holds both 'embeddings' and 'features'"),
        (lambda d: write(d, arr_0=ROWS, labels=LABELS), "no array 'embeddings' or 'features', it has arr_0, labels"),
        (lambda d: write(d, features=ROWS.astype(int), labels=LABELS), "features must be floating point"),
        (lambda d: write(d, embeddings=ROWS[:0], labels=LABELS[:0]), "got float32 (0, 3)"),
        (lambda d: npy_under_the_name_of_an_npz(d), "it is a single array, which ends in .npy"),
        (lambda d: named(d, ["fox"]), "labels must count the (1,) names"),
        (lambda d: write(d, embeddings=ROWS, labels=LABELS[:5]), "labels must be 6 whole numbers or strings"),
        (lambda d: write(d, embeddings=ROWS, labels=LABELS / 1), "got float64 (6,)"),
        (lambda d: write(d, embeddings=ROWS[0], labels=LABELS), "of shape (items, dimensions), got float32 (3,)"),
        (lambda d: write(d, embeddings=ROWS.astype(int), labels=LABELS), "got int64 (6, 3)"),
        (lambda d: write(d, embeddings=ROWS, labels=LABELS, query=LABELS), "query must be 6 booleans, got int64 (6,)"),
        (lambda d: write(d, embeddings=ROWS, labels=LABELS, gallery=LABELS[:2] > 0), "gallery must be 6 booleans"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(tmp_path, make, expected):
    with pytest.raises(ValueError, match=re.escape(expected)) as refused:
        vector_set(make(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("y.txt", "1\n2\n", "y.txt: labels must be 6"),
        ("y.txt", "1\n\n1\n1\n1\n1\n", "label 1 (counted from 0) is empty"),
        ("y.csv", "name\n1\n", "is not a CSV file with a column 'label'"),
        ("y.csv", "", "is not a CSV file with a column 'label'"),
        ("y.txt", "1\n2\n".encode("utf-16"), "y.txt is no text in UTF-8 (byte 0): save it as UTF-8"),
        ("y.txt", "1\n2\n".encode("utf-16-le"), "y.txt is no text in UTF-8 (byte 1 is 0): save it as UTF-8"),
        ("y.csv", "label\n1\n".encode("utf-16"), "y.csv is no text in UTF-8 (byte 0): save it as UTF-8"),
        ("y.txt", bytes(range(256)), "y.txt is no text in UTF-8"),
        ("y.csv", bytes(range(200, 256)), "y.csv is no text in UTF-8"),
        ("y.csv", "label,label\n1,1\n", "y.csv is not a CSV file with a column 'label' (it has 2;"),
        ("y.json", "[]", "must end in .npy, .txt or .csv"),
        ("y.npy", "x", "is not an .npy file"),
    ],
)
def test_labels_that_cannot_be_read_are_a_sentence(tmp_path, name, content, expected):
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=re.escape(expected)) as refused:
        vector_set(tmp_path / "x.npy", tmp_path / name)
    assert "\n" not in str(refused.value)
