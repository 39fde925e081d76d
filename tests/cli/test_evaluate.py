"""`tcm-bench evaluate` and `compare`, against plain loops over all pairs."""

import json
import math
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import reference
import torch
from command_line import numbers, sentence, tcm_bench
from safetensors.torch import save_file

from tcm_bench.results import ledger

rng = np.random.default_rng(4)
LABELS = np.append(rng.integers(6, size=35), 11)  # the last class has a single item
ROWS = (rng.normal(size=(12, 4))[LABELS] + 0.7 * rng.normal(size=(36, 4))).astype(np.float32)
ROWS[20] = ROWS[3]
WIDE = ("--far-bounds", "0.1", "0.6", "--num-thresholds", "9", "--eps", "0.3", "--k", "1,2,8")


def npz(path, **changes):
    arrays = {"embeddings": ROWS, "labels": LABELS} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def has_disjoint_pairs(label, query, gallery):
    """Whether two pairs of a class share no item."""
    own = [i for i in range(36) if LABELS[i] == label]
    pairs = [{i, j} for i in own for j in own if i < j and ((query[i] and gallery[j]) or (query[j] and gallery[i]))]
    return any(not one & other for one in pairs for other in pairs)


def brute(axis="distance", query=None, gallery=None):
    """Everything by the definitions; a pair is a query and an item of the gallery, whichever comes first."""
    query, gallery = (np.ones(36, bool) if role is None else role for role in (query, gallery))
    labels, cosines = LABELS.tolist(), reference.cosines(ROWS.astype(float).tolist())
    pairs = [
        (reference.distance(cosines[i][j]) if axis == "distance" else cosines[i][j], labels[i], labels[j])
        for i in range(36)
        for j in range(i + 1, 36)
        if (query[i] and gallery[j]) or (query[j] and gallery[i])
    ]
    low, high = reference.calibration_range(pairs, (0.1, 0.6), axis)
    grid = reference.grid(low, high, 9)
    kept = [label for label in sorted(set(labels)) if any(a == b == label for _, a, b in pairs)]
    points = [[reference.operating_point(pairs, label, t, axis) for t in grid] for label in kept]
    curves = [[reference.utility(*point) for point in points_of_class] for points_of_class in points]
    values = {"threshold_low": low, "threshold_high": high}
    values |= {"opis": reference.opis(curves, grid), "opis_30pct": reference.eps_opis(curves, grid, 0.3)}
    for k in (1, 2, 8):
        hits = 0
        for i in np.flatnonzero(query):
            others = sorted((j for j in np.flatnonzero(gallery) if j != i), key=lambda j: (-cosines[i][j], j))
            hits += any(labels[j] == labels[i] for j in others[:k])
        values[f"recall_at_{k}"] = hits / query.sum()
    counts = {
        "images": 36,
        "queries": int(query.sum()),
        "classes": len(set(labels)),
        "singletons": len(set(labels)) - len(kept),
        "noise_unknown": sum(not has_disjoint_pairs(label, query, gallery) for label in kept),
        "coarse": sum(sum((a == label) != (b == label) for _, a, b in pairs) < 1000 for label in kept),
        "positive_pairs": sum(a == b for _, a, b in pairs),
        "negative_pairs": sum(a != b for _, a, b in pairs),
    }
    return values, counts


def agrees(found, expected):
    values, counts = expected
    assert found["counts"] == counts
    for name, value in values.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    assert found["opis_far_1e-3"] is None  # of 630 pairs none can be one of 1,000
    assert found["reason"].startswith("opis_far_1e-3: degenerate calibration range: both false accept rates are")
    assert "opis_far_1e-2" not in found["reason"]


@pytest.mark.parametrize("axis", ["distance", "similarity"])
def test_the_numbers_are_those_of_plain_loops(tmp_path, axis):
    found = numbers("evaluate", npz(tmp_path / "x.npz"), *WIDE, "--axis", axis, "--tar-at-far", "0.25,0.001")
    agrees(found, brute(axis))
    assert set(found) >= {"tar_at_far_25pct", "tar_at_far_0_1pct", "standard_errors", "intervals", "settings"}
    for name in ("recall_at_1", "opis", "opis_30pct"):
        low, high = found["intervals"][name]
        assert low < found[name] < high
        assert 0 < found["standard_errors"][name] < high - low
    assert found["settings"]["far_bounds"] == [0.1, 0.6]


def test_queries_and_gallery_that_differ(tmp_path):
    query, gallery = rng.random((2, 36)) < 0.6
    for roles in ({"query": query, "gallery": gallery}, {"query": query}, {"gallery": gallery}):
        agrees(numbers("evaluate", npz(tmp_path / "x.npz", **roles), *WIDE), brute(**roles))


def test_every_kind_of_file_gives_the_same(tmp_path):
    expected = numbers("evaluate", npz(tmp_path / "x.npz"), *WIDE)
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "y.txt").write_text("\n".join(map(str, LABELS)))
    tensors = {"embeddings": torch.from_numpy(ROWS), "labels": torch.from_numpy(LABELS)}
    save_file({**tensors, "indices": torch.arange(36)}, tmp_path / "x.safetensors")
    features = npz(tmp_path / "features.npz", embeddings=None, features=ROWS)
    names = npz(tmp_path / "names.npz", labels=np.array([f"class {label:02}" for label in LABELS]))
    for words in (
        [tmp_path / "x.npy", "--labels", tmp_path / "y.txt"],
        [tmp_path / "x.safetensors"],
        [names],
        [features],
    ):
        found = numbers("evaluate", *words, *WIDE, "--threads", 1, "--device", "cpu")
        assert found | {"source": ""} == expected | {"source": ""}


@pytest.fixture
def outputs(tmp_path):
    """A finished run, one that stored nothing, and their weights."""
    for run_id in ("aa0000000000", "ab0000000000"):
        folder = tmp_path / "outputs" / "runs" / run_id
        folder.mkdir(parents=True)
        save_file({"head": torch.zeros(1)}, folder / ledger.WEIGHTS)
    tensors = {"embeddings": torch.from_numpy(ROWS), "labels": torch.from_numpy(LABELS), "indices": torch.arange(36)}
    save_file(tensors, tmp_path / "outputs" / "runs" / "aa0000000000" / ledger.EMBEDDINGS)
    return tmp_path / "outputs"


@pytest.mark.parametrize("by", ["id", "prefix", "folder", "weights"])
def test_a_run_is_evaluated_by_its_stored_embeddings(outputs, by):
    folder = outputs / "runs" / "aa0000000000"
    given = {"id": folder.name, "prefix": "aa", "folder": folder, "weights": folder / ledger.WEIGHTS}[by]
    found = numbers("evaluate", given, *WIDE, "--output-dir", outputs)
    agrees(found, brute())
    assert found["source"] == str(folder / ledger.EMBEDDINGS)


def test_runs_without_embeddings_and_unknown_ones_are_a_sentence(outputs):
    stored_nothing = r"holds no test_embeddings.safetensors, which a run stores when it finishes; .*force=true"
    for given in ("ab", outputs / "runs" / "ab0000000000" / ledger.WEIGHTS):
        assert re.search(stored_nothing, sentence("evaluate", given, "--output-dir", outputs))
    assert "there is no run 'zz'" in sentence("evaluate", "zz", "--output-dir", outputs)
    assert "there is no file zz.npz" in sentence("evaluate", "zz.npz", "--output-dir", outputs)
    assert "the start of 2 runs" in sentence("evaluate", "a", "--output-dir", outputs)


def test_what_is_stored_is_what_is_printed(tmp_path):
    out = tmp_path / "new" / "folder"
    printed = numbers("evaluate", npz(tmp_path / "x.npz", labels=LABELS.astype(str)), *WIDE, "--out", out)
    for name in ("source", "settings_of", "settings_given"):
        del printed[name]
    assert json.loads((out / "evaluation.json").read_text()) == printed
    classes = pq.read_table(out / "classes.parquet").to_pydict()
    assert classes["label"] == sorted(set(map(str, LABELS)))
    assert sum(classes["hits_at_8"]) == round(36 * printed["recall_at_8"])
    curves = pq.read_table(out / "curves.parquet")
    assert len(curves) == 9 * 7
    assert len(curves["utility"].drop_null()) == 9 * 6


def test_without_json_a_person_can_read_it(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    values, _ = brute()
    done = tcm_bench("evaluate", npz(tmp_path / "x.npz"), *WIDE, "--tar-at-far", "0.25", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "36 images of 7 classes;" in done.stdout
    assert re.search(rf"^R@1, % +{100 * values['recall_at_1']:.2f} +\d+\.\d\d +\d+\.\d\d to ", done.stdout, re.M)
    assert re.search(rf"^30%-OPIS, e-3 +{1000 * values['opis_30pct']:.3f} ", done.stdout, re.M)
    assert re.search(r"^TAR at FAR 25%, % +\d", done.stdout, re.M)
    assert (
        f"distance {values['threshold_low']:.4f} to {values['threshold_high']:.4f}, where 0.1 to 0.6 of" in done.stdout
    )
    assert "not in OPIS: 1" in done.stdout
    assert "other training seeds are not in them" in done.stdout
    assert done.stdout.endswith(f"written: {tmp_path}\n")


def test_what_is_undefined_is_null_and_says_why(tmp_path):
    file = npz(tmp_path / "x.npz", labels=np.zeros(36, int))
    found = numbers("evaluate", file)
    assert found["recall_at_1"] == 1
    assert {found[name] for name in ("opis", "opis_10pct", "threshold_low", "threshold_high")} == {None}
    assert "no negative pair" in found["reason"]
    done = tcm_bench("evaluate", file)
    assert re.search(r"^OPIS, e-3 +– +– +–", done.stdout, re.M)
    assert "undefined: no negative pair" in done.stdout


def changed(row, value):
    rows = ROWS.copy()
    rows[row] = value
    return rows


@pytest.mark.parametrize(
    ("arrays", "words", "expected"),
    [
        ({"embeddings": None}, (), "holds no array 'embeddings'"),
        ({"labels": None}, (), "holds no array 'labels'"),
        ({"labels": LABELS[:-1]}, (), "labels must be 36"),
        ({"embeddings": changed(3, math.nan)}, (), "row 3 has norm nan"),
        ({"embeddings": changed(5, 0)}, (), "row 5 has norm 0.0"),
        ({"embeddings": ROWS[:1], "labels": LABELS[:1]}, (), "at least two items, got 1"),
        ({"embeddings": ROWS[0]}, (), "of shape (items, dimensions)"),
        ({"embeddings": ROWS.astype(int)}, (), "must be floating point"),
        ({}, ("--device", "tpu"), "there is no device 'tpu'; give cpu or cuda"),
        ({}, ("--device", "cuda:99"), "there is no cuda:99 here"),
        ({}, ("--k", "1,x"), "--k needs numbers with commas between them, got '1,x'"),
        ({}, ("--k", ""), "--k needs numbers"),
        ({}, ("--k", "0"), "k must be at least 1"),
        ({}, ("--tar-at-far", "2"), "far_levels must be rates"),
        ({}, ("--far-bounds", "0.5", "0.1"), "far_bounds must be two rates"),
        ({}, ("--num-thresholds", "1"), "num_thresholds must be at least 2"),
        ({}, ("--eps", "1"), "eps must be in (0, 1)"),
        ({}, ("--labels", "none.txt"), "there is no file none.txt"),
    ],
)
def test_what_cannot_be_evaluated_is_a_sentence(tmp_path, arrays, words, expected):
    said = sentence("evaluate", npz(tmp_path / "x.npz", **arrays), *words)
    assert expected in said
    assert words or f"{tmp_path / 'x.npz'}" in said


def test_a_pickle_is_refused(tmp_path):
    torch.save({"embeddings": torch.from_numpy(ROWS), "labels": torch.from_numpy(LABELS)}, tmp_path / "x.pt")
    assert "is a pickle, which may run any code" in sentence("evaluate", tmp_path / "x.pt")
    (tmp_path / "x.pt").rename(tmp_path / "x.npy")
    assert "is not an .npy file" in sentence("evaluate", tmp_path / "x.npy")
    file = npz(tmp_path / "x.npz", labels=LABELS.astype(object))
    assert "Object arrays cannot be loaded" in sentence("evaluate", file)


def test_two_evaluations_are_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    better = npz(tmp_path / "better.npz", embeddings=ROWS + 0.3 * np.eye(4, dtype="f4").repeat(3, axis=0)[LABELS])
    first = numbers("evaluate", npz(tmp_path / "x.npz"), *WIDE, "--out", tmp_path / "runs" / "aa0000000000")
    second = numbers("evaluate", better, *WIDE, "--out", tmp_path / "b")
    words = ("compare", "aa", tmp_path / "b", "--output-dir", tmp_path)
    found = numbers(*words)
    assert list(found["scores"]) == ["recall_at_1", "recall_at_2", "recall_at_8", "opis", "opis_30pct"]
    for name, row in found["scores"].items():
        assert (row["base"], row["other"]) == (first[name], second[name])
        assert row["difference"] == pytest.approx(second[name] - first[name])
        assert row["interval"][0] <= row["interval"][1]
    row = found["scores"]["recall_at_2"]
    assert (
        0 < row["standard_error"] < first["standard_errors"]["recall_at_2"] + second["standard_errors"]["recall_at_2"]
    )
    done = tcm_bench(*words)
    line = re.search(r"^R@1, % +(\S+) +(\S+) +([+-]\S+) +(\S+) +([+-]\S+) to ([+-]\S+)", done.stdout, re.M)
    assert float(line[3]) == pytest.approx(float(line[2]) - float(line[1]), abs=0.011)
    fewer = npz(tmp_path / "fewer.npz", embeddings=ROWS[:-1], labels=LABELS[:-1])
    numbers("evaluate", fewer, *WIDE, "--out", tmp_path / "c")
    assert "not measured on the same test set" in sentence("compare", tmp_path / "b", tmp_path / "c")
    assert "there is no evaluation in" in sentence("compare", tmp_path / "b", tmp_path)
