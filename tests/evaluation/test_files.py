import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import reference
import torch

from tcm_bench.evaluation import files as evaluation_files
from tcm_bench.evaluation.bootstrap import PerClass, class_bootstrap
from tcm_bench.evaluation.evaluate import evaluate
from tcm_bench.evaluation.files import CLASSES, CURVES, SUMMARY, difference, read_evaluation, summary, write_evaluation

SETTINGS = {"axis": "distance", "far_bounds": (0.1, 0.6), "num_thresholds": 7, "c": 1.0, "eps": 0.3, "ranking": "mean"}


def table(seed=0, items=30, classes=5):
    """Clusters; the last class, labeled 90, has a single item."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(items) % classes
    labels[-1] = 90
    centers = torch.randn(91, 4, generator=torch.Generator().manual_seed(7))
    return centers[labels] + 0.8 * torch.randn(items, 4, generator=generator), labels


def evaluated(seed=0, ks=(1, 2), **changes):
    return evaluate(
        *table(seed), ks=ks, far_levels=(0.2,), further_far_bounds=((0.05, 0.3),), **{**SETTINGS, **changes}
    )


def test_the_files_hold_what_plain_loops_count(tmp_path):
    found = evaluated()
    x, y = table()
    rows, labels = x.tolist(), y.tolist()
    write_evaluation(found, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == [CLASSES, CURVES, SUMMARY]
    pairs = reference.pair_table(rows, labels)
    classes = pq.read_table(folder / CLASSES).to_pylist()
    assert [row["label"] for row in classes] == sorted(set(labels))
    assert sum(row["hits_at_1"] for row in classes) == round(reference.recall_at_k(rows, labels, 1) * 30)
    assert sum(row["hits_at_2"] for row in classes) == round(reference.recall_at_k(rows, labels, 2) * 30)
    for row in classes:
        label = row["label"]
        assert row["images"] == row["queries"] == labels.count(label)
        assert row["positives"] == sum(a == b == label for _, a, b in pairs)
        assert row["negatives"] == sum((a == label) != (b == label) for _, a, b in pairs)
    thresholds = reference.grid(*reference.calibration_range(pairs, (0.1, 0.6)), 7)
    utilities = reference.utility_curves(pairs, labels, thresholds)
    means = [reference.range_mean(curve, thresholds) for curve in utilities]
    assert [row["mean_utility"] for row in classes[:-1]] == pytest.approx(means)
    assert classes[-1]["mean_utility"] is None
    curves = pq.read_table(folder / CURVES).to_pylist()
    assert len(curves) == 6 * 7
    for number, row in enumerate(curves):
        label, threshold = row["label"], thresholds[number % 7]
        assert label == classes[number // 7]["label"]
        assert row["threshold"] == pytest.approx(threshold)
        near = [(a, b) for value, a, b in pairs if value <= row["threshold"]]
        assert row["accepted_positives"] == sum(a == b == label for a, b in near)
        assert row["accepted_negatives"] == sum((a == label) != (b == label) for a, b in near)
        if label == 90:
            assert row["sensitivity"] is row["utility"] is None
        else:
            sensitivity, specificity = reference.operating_point(pairs, label, row["threshold"])
            assert (row["sensitivity"], row["specificity"]) == pytest.approx((sensitivity, specificity))
            assert row["utility"] == pytest.approx(utilities[number // 7][number % 7])


def test_the_summary_has_the_names_of_a_runs_row(tmp_path):
    found = evaluated()
    numbers = write_evaluation(found, tmp_path)
    assert json.loads((tmp_path / SUMMARY).read_text()) == numbers == summary(found)
    assert numbers["recall_at_2"] == float(found.recall[1])
    assert (numbers["opis"], numbers["opis_30pct"]) == (found.consistency.opis, found.consistency.eps_opis)
    assert (numbers["threshold_low"], numbers["threshold_high"]) == (
        found.consistency.threshold_low,
        found.consistency.threshold_high,
    )
    assert numbers["tar_at_far_20pct"] == found.tar_at_far[0.2]
    assert numbers["reason"] is None
    errors = class_bootstrap(PerClass.of(found))
    for name, estimate in (("opis", errors["opis"]), ("opis_30pct", errors["eps_opis"])):
        assert numbers["standard_errors"][name] == estimate.standard_error
        assert numbers["intervals"][name] == [estimate.low, estimate.high]
    assert numbers["counts"] == {
        "images": 30, "queries": 30, "classes": 6, "singletons": 1, "noise_unknown": 0, "coarse": 0,
        "positive_pairs": found.consistency.num_positive_pairs, "negative_pairs": found.consistency.num_negative_pairs,
    }  # fmt: skip
    assert numbers["settings"] == {**SETTINGS, "far_bounds": [0.1, 0.6], "further_far_bounds": [[0.05, 0.3]]}


def test_an_evaluation_of_an_earlier_version_is_read_by_todays_names(tmp_path):
    numbers = write_evaluation(evaluated(), tmp_path)
    old = {"threshold_low": "d_min", "threshold_high": "d_max", "tar_at_far_20pct": "tpr_at_far_20pct"}
    then = {old.get(name, name): value for name, value in numbers.items()}
    then["settings"] = {name.replace("num_thresholds", "steps"): v for name, v in numbers["settings"].items()}
    (tmp_path / SUMMARY).write_text(json.dumps(then))
    assert read_evaluation(tmp_path).numbers == numbers


def test_what_is_undefined_is_null_and_has_a_reason(tmp_path):
    one_class = evaluate(table()[0], torch.zeros(30, dtype=torch.int64), far_levels=(0.2,), **SETTINGS)
    numbers = write_evaluation(one_class, tmp_path)
    assert "NaN" not in (tmp_path / SUMMARY).read_text()
    assert numbers["recall_at_1"] == 1
    assert {
        numbers[name] for name in ("opis", "opis_30pct", "threshold_low", "threshold_high", "tar_at_far_20pct")
    } == {None}
    assert "no negative pair" in numbers["reason"]
    assert numbers["intervals"]["opis"] == [None, None]
    (row,) = pq.read_table(tmp_path / CLASSES).to_pylist()
    assert (row["images"], row["hits_at_1"], row["mean_utility"]) == (30, 30, None)
    stored = read_evaluation(tmp_path)
    assert stored.per_class.utilities.shape == (1, 7)
    nobody = evaluate(*table(), query=torch.zeros(30, dtype=torch.bool), **SETTINGS)
    numbers = summary(nobody)
    assert numbers["recall_at_1"] is None
    assert numbers["reason"].endswith("recall: there is no query")


@pytest.mark.parametrize("changes", [{}, {"ks": ()}, {"axis": "similarity", "ranking": "pointwise"}])
def test_what_is_read_back_gives_the_same_errors(tmp_path, changes):
    found = evaluated(**changes)
    numbers = write_evaluation(found, tmp_path)
    stored = read_evaluation(tmp_path)
    assert stored.numbers == numbers
    assert stored.labels.tolist() == found.classes.tolist()
    expected = class_bootstrap(PerClass.of(found))
    assert class_bootstrap(stored.per_class) == expected
    assert numbers["standard_errors"]["opis_30pct"] == expected["eps_opis"].standard_error


def test_the_difference_is_paired_and_named(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_evaluation(evaluated(seed), tmp_path / name)
    a, b = read_evaluation(tmp_path / "a"), read_evaluation(tmp_path / "b")
    found = difference(a, b)
    assert list(found) == ["recall_at_1", "recall_at_2", "opis", "opis_30pct"]
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(b.numbers[name] - a.numbers[name])
        assert estimate.low <= estimate.high
    assert all(estimate == (0, 0, 0, 0) for estimate in difference(a, a).values())


def test_what_cannot_be_compared_is_a_sentence(tmp_path):
    found = evaluated()
    names = np.array(list("abcdef"))
    write_evaluation(found, tmp_path / "a")
    write_evaluation(found, tmp_path / "named", labels=names)
    write_evaluation(evaluated(axis="similarity"), tmp_path / "similarity")
    write_evaluation(evaluate(*(part[:29] for part in table()), **SETTINGS), tmp_path / "fewer")
    a = read_evaluation(tmp_path / "a")
    assert read_evaluation(tmp_path / "named").labels.tolist() == names.tolist()
    with pytest.raises(ValueError, match=r"same test set: 6 and 6 classes, of which 12 are in one only$"):
        difference(a, read_evaluation(tmp_path / "named"))
    with pytest.raises(ValueError, match=r"6 and 5 classes, of which 1 are in one only$"):
        difference(a, read_evaluation(tmp_path / "fewer"))
    with pytest.raises(ValueError, match=r"with axis distance and .* with similarity; evaluate both in one way$"):
        difference(a, read_evaluation(tmp_path / "similarity"))


def test_missing_and_damaged_files_are_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"no evaluation in .*; `tcm-bench evaluate FILE_OR_RUN --out .*` stores"):
        read_evaluation(tmp_path)
    for name in (SUMMARY, CLASSES, CURVES):
        write_evaluation(evaluated(), tmp_path)
        (tmp_path / name).write_text("{}")
        with pytest.raises(ValueError, match=r"^the evaluation in .* is damaged \(.*\); evaluate once more$"):
            read_evaluation(tmp_path)
    write_evaluation(evaluated(), tmp_path)
    pq.write_table(pq.read_table(tmp_path / CURVES).slice(0, 20), tmp_path / CURVES)
    with pytest.raises(ValueError, match="is damaged"):
        read_evaluation(tmp_path)


def test_a_stop_in_the_middle_leaves_no_evaluation_and_no_partial_file(tmp_path, monkeypatch):
    write_evaluation(evaluated(0), tmp_path)
    before = (tmp_path / CURVES).read_bytes()
    real = evaluation_files.parquet.write_table

    def stopped(table, path, **options):
        real(table, path, **options)
        if "curves" in path.name:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

    monkeypatch.setattr(evaluation_files.parquet, "write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_evaluation(evaluated(1), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CLASSES, CURVES]
    assert (tmp_path / CURVES).read_bytes() == before
