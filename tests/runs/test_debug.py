"""The debug modes: a run end to end, or a batch learned by heart, and in no case a result."""

import csv

import numpy as np
import pytest
from answers import answer
from hydra import compose, initialize_config_dir
from vectors import head, write_vectors

import tcm_bench.runs.experiment  # noqa: F401 - here once, instead of in every fork
from tcm_bench.data.table import FeatureTable, ImageArray, Splits
from tcm_bench.report.fold import fold
from tcm_bench.results import ledger
from tcm_bench.runs.debug import few
from tcm_bench.runs.naming import PROJECT_ROOT
from tcm_bench.runs.run import main

PIXELS = ["model/backbone=resnet_small", "model.freeze=none", "machine.threads=1"]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    return write_vectors(tmp_path_factory.mktemp("vectors"))


def train(output, *words):
    """The real command; returns what it said and the rows of its debug runs."""
    ran = answer(main, [f"paths.output_dir={output}", "machine.accelerator=cpu", "machine.progress=false", *words])
    assert ran.status == 0, ran.stderr
    return ran.stderr, list(ledger.results(output.glob("debug/runs/*")))


def test_fast_takes_one_step_from_end_to_end_and_leaves_no_result(tmp_path, vectors):
    said, (row,) = train(tmp_path, *head(vectors), "debug=fast", "data.loader.validation_classes=2")
    assert "no result: trained on 20 images of 10 classes" in said  # two of them held out
    run_dir = tmp_path / "debug" / "runs" / row.run_id
    (epoch,) = csv.DictReader((run_dir / "history.csv").read_text().splitlines())
    assert int(epoch["step"]) == 1
    assert "val/recall_at_1" in epoch
    assert row.counts["test_images"] == 16
    assert (run_dir / "weights.safetensors").exists()

    assert (row.status, row.choices["debug"]) == ("debug", "fast")
    assert {path.name for path in tmp_path.iterdir()} == {"debug"}  # nothing where results and the cache lie
    comparisons = fold([row])
    assert not comparisons.settings
    assert comparisons.rows["opis_tcm"].isna().all()
    assert "debug, of a few classes only, so no result" in comparisons.notes[0]

    _, (again,) = train(tmp_path, *head(vectors), "debug=fast", "data.loader.validation_classes=2")
    assert again.wall_s != row.wall_s  # run again, not passed over as finished
    train(tmp_path, *head(vectors), "trainer.max_epochs=1", "data.loader.batches_per_epoch=1")
    (real,) = ledger.results(tmp_path.glob("runs/*"))
    assert real.status == "finished"
    assert real.run_id != row.run_id
    assert real.counts["test_images"] == 120


def test_a_sweep_is_tried_as_a_whole_apart_from_the_real_one(tmp_path, vectors):
    _, rows = train(tmp_path, "-m", *head(vectors), "tcm=none,paper", "sweep_name=both", "debug=fast")
    assert [row.status for row in rows] == ["debug", "debug"]
    assert {path.name for path in tmp_path.iterdir()} == {"debug"}
    table = (tmp_path / "debug" / "report" / "both.csv").read_text()
    (line,) = csv.DictReader(table.splitlines())
    assert not line["opis_base"]
    assert not line["opis_tcm"]


@pytest.mark.parametrize("words", [["data=quickdraw"], PIXELS], ids=["frozen", "from pixels"])
def test_fast_takes_the_default_data(tmp_path, words):
    _, (row,) = train(tmp_path, "debug=fast", "machine.threads=1", *words)
    assert row.counts["train_images"] == row.counts["test_images"] == 16
    assert row.counts["train_classes"] == row.counts["test_classes"] == 8


@pytest.mark.parametrize("mode", ["vectors", "pixels"])
def test_overfit_learns_a_batch_by_heart_and_says_so(tmp_path, vectors, mode):
    words = head(vectors) if mode == "vectors" else [*PIXELS, "trainer.max_epochs=40"]
    said, (row,) = train(tmp_path, "debug=overfit", *words)
    run_dir = tmp_path / "debug" / "runs" / row.run_id
    losses = [float(line["train/loss"]) for line in csv.DictReader((run_dir / "history.csv").read_text().splitlines())]
    assert losses[-1] < losses[0] / 2
    assert row.metrics["recall_at_1_seen"] == 1
    assert "it falls" in said
    assert "R@1 on these images 100.00 %: learned by heart" in said
    assert row.counts["train_images"] == 32
    assert not (run_dir / "last.ckpt").exists()


def test_overfit_says_so_if_nothing_is_learned(tmp_path, vectors):
    said, _ = train(tmp_path, "debug=overfit", *head(vectors), "trainer.max_epochs=2", "optim.optimizer.lr=1e-30")
    assert "it does not fall" in said
    assert "not learned by heart: take more steps" in said


def test_overfit_sees_the_same_pixels_in_every_step_and_they_are_not_augmented(tmp_path):
    still = [*PIXELS, "trainer.max_epochs=3", "optim.optimizer.lr=1e-30"]  # only pixels can move the loss
    seen = {}
    for augment in ("false", "true"):
        output = tmp_path / augment
        _, (row,) = train(output, "debug=overfit", f"debug.augment={augment}", *still)
        history = (output / "debug" / "runs" / row.run_id / "history.csv").read_text()
        seen[augment] = [float(line["train/loss"]) for line in csv.DictReader(history.splitlines())]
        assert seen[augment] == pytest.approx([seen[augment][0]] * 3, rel=1e-4)
    assert seen["false"][0] != pytest.approx(seen["true"][0], rel=1e-2)


@pytest.mark.parametrize("words", [["debug=fast"], ["+debug=fast"]])
def test_a_mode_wins_over_an_experiment_and_gives_way_to_the_command_line(words, tmp_path):
    group = tmp_path / "mine" / "experiment"
    group.mkdir(parents=True)
    (group / "own.yaml").write_text(
        "# @package _global_\ndata: {loader: {batches_per_epoch: 7}}\ntrainer: {max_steps: 9}\n"
    )
    own = ["--config-dir", "mine", "--cfg", "job", "--package", "trainer"]
    for order in ([*words, "+experiment=own"], ["+experiment=own", *words]):
        assert "max_steps: 1\n" in answer(main, [*own, *order], tmp_path).stdout
        assert "max_steps: 1\n" in answer(main, [*order, *own], tmp_path).stdout  # options may come last
        assert "max_steps: 5\n" in answer(main, [*own, *order, "trainer.max_steps=5"], tmp_path).stdout


def test_a_part_of_the_test_set_is_refused_in_a_file_too(tmp_path, vectors):
    group = tmp_path / "mine" / "experiment"
    group.mkdir(parents=True)
    (group / "own.yaml").write_text("# @package _global_\ntrainer: {limit_test_batches: 1}\n")
    ran = answer(main, ["--config-dir", "mine", "+experiment=own", *head(vectors)], tmp_path)
    assert (ran.status, ran.stderr.count("\n")) == (2, 1)
    assert "trainer.limit_test_batches would measure a part of the test set" in ran.stderr


def test_without_a_mode_nothing_is_of_debug():
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        plain, none, fast = (compose("config", words) for words in ([], ["+debug=none"], ["+debug=fast"]))
    assert plain == none
    assert plain.run_id != fast.run_id
    assert fast.run_dir == f"{plain.paths.output_dir}/debug/runs/{fast.run_id}"


def features(labels, **roles):
    labels = np.asarray(labels)
    rows = np.arange(len(labels), dtype=np.float32)[:, None]
    return FeatureTable(labels, [f"class {name}" for name in range(labels.max() + 1)], rows, **roles)


def images(labels):
    labels = np.asarray(labels)
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    return ImageArray(labels, [f"other {name}" for name in range(labels.max() + 1)], pixels)


def test_few_takes_classes_that_have_as_many_and_the_first_of_their_items():
    train = features([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])
    found = few(Splits(train, images([1, 0, 1, 0, 1, 2]), "mark"), 2, 3)
    assert found.train.class_names == ["class 2", "class 3"]
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.train.features.ravel().tolist() == [3, 4, 5, 6, 7, 8]
    assert found.test.class_names == ["other 0", "other 1"]
    assert found.test.labels.tolist() == [1, 0, 1, 0, 1]
    assert [found.test.picture(row).pixels()[0, 0, 0] for row in range(5)] == [0, 1, 2, 3, 4]
    assert found.fingerprint not in ("mark", few(Splits(train, images([0, 0]), "mark"), 2, 2).fingerprint)


def test_few_keeps_queries_and_what_they_are_searched_among():
    query = np.array([True, True, False, False, False, True, False, False])
    table = features([0, 0, 0, 0, 1, 1, 1, 1], query=query, gallery=~query)
    found = few(Splits(features([0, 0]), images([0, 0]), "a"), 2, 2)
    assert found.train.query is None
    found = few(Splits(images([0, 0]), table, "a"), 2, 1).test
    assert found.features.ravel().tolist() == [0, 2, 4, 5]
    assert found.query.tolist() == [True, False, False, True]
    assert (found.gallery != found.query).all()
