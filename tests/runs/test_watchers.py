"""What loggers are told and shown, read back from their files; of W&B's only what is seen of images."""

import csv
import time

import numpy as np
import pytest
from answers import answer
from composition import composition
from killed import killed_at
from PIL import Image
from training.offline_run import read_offline_run
from vectors import SMALL, command, head, write_vectors

from tcm_bench.data.table import FeatureTable
from tcm_bench.runs import checks, shown
from tcm_bench.runs.experiment import put_together
from tcm_bench.runs.run import execute, main

PIXELS = [
    *["data=kanji", "data.splits.images_per_class=4", "data.loader.seen_classes=10", "data.loader.classes_per_batch=8"],
    *["data.loader.images_per_class=2", "model/backbone=resnet_small", "machine.threads=1", "machine.num_workers=0"],
]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    return head(write_vectors(tmp_path_factory.mktemp("vectors")))


def run(output, *words):
    cfg, chosen = composition(*SMALL, f"paths.output_dir={output}", "sweep_name=tiny", *words)
    result = execute(cfg, chosen)
    return result, output / "runs" / result.run_id


def read(file):
    with file.open() as text:
        return list(csv.DictReader(text))


def numbers(row):
    return {name: float(value) for name, value in row.items() if value}


def test_csv_has_the_whole_history_of_a_run_that_was_killed_and_what_it_came_to(tmp_path, vectors):
    words = [*vectors, "data.loader.validation_classes=4", "trainer.max_epochs=3", "logger=csv"]
    with killed_at(13):
        run(tmp_path, *words)
    result, run_dir = run(tmp_path, *words)
    *rows, last = map(numbers, read(run_dir / "csv" / "metrics.csv"))
    for told in map(numbers, read(run_dir / "history.csv")):
        step, rate = told.pop("step"), told.pop("lr")
        told |= {"step": step - 1, "train/lr": rate}
        logged = {}
        for row in rows:
            logged |= row if row["step"] == step - 1 else {}
        assert {name: value for name, value in logged.items() if value == value} == pytest.approx(
            {name: value for name, value in told.items() if value == value}
        )
    assert [row["epoch"] for row in rows if "train/loss" in row] == [0, 1, 2]
    assert last["opis"] == pytest.approx(result.metrics["opis"])
    assert last["recall_at_1_before"] == pytest.approx(result.metrics["recall_at_1_before"])
    assert (last["counts.test_images"], last["wall_s"]) == (result.counts["test_images"], result.wall_s)
    config = (run_dir / "csv" / "hparams.yaml").read_text()
    for line in (f"run_id: {result.run_id}", "sweep_name: tiny", "status: finished", f"data_hash: {result.data_hash}"):
        assert line in config.splitlines()
    assert str(tmp_path) not in config
    run(tmp_path, *words, "force=true")
    assert len(read(run_dir / "csv" / "metrics.csv")) == 7  # a validation and an epoch three times, and the end


def test_tensorboard_has_the_same_once_and_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    words = [
        *PIXELS,
        "model.freeze=none",
        "data.loader.batches_per_epoch=2",
        "trainer.max_epochs=3",
        "logger=tensorboard",
    ]
    with killed_at(6):
        run(tmp_path, *words)
    result, run_dir = run(tmp_path, *words)
    found = accumulator.EventAccumulator(str(run_dir / "tensorboard"), {"images": 0}).Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [1, 3, 5]
    told = [float(row["train/loss"]) for row in read(run_dir / "history.csv")]
    assert [event.value for event in found.Scalars("train/loss")] == pytest.approx(told)
    assert found.Scalars("opis")[-1].value == pytest.approx(result.metrics["opis"])
    assert {"retrieval", "utility"} <= {tag.partition("/")[0] for tag in found.Tags()["images"]}
    assert f"run_id: {result.run_id}" in (run_dir / "tensorboard" / "hparams.yaml").read_text().splitlines()


def test_wandb_has_neighbors_of_images_also_where_a_head_sees_features_and_the_classes_are_drawn_anew(tmp_path):
    words = [*PIXELS, "model.freeze=backbone", "data.split_seed=1"]
    cfg, _ = composition(*SMALL, f"paths.output_dir={tmp_path}", *words)
    _, parts = put_together(cfg)
    assert isinstance(parts.data.splits.test, FeatureTable)
    assert np.array_equal(parts.test_images.labels, parts.data.splits.test.labels)
    assert parts.test_images.class_names == parts.data.splits.test.class_names
    _, run_dir = run(tmp_path, *words, "logger=wandb", "logger.wandb.queries_shown=3")
    (file,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    wait = time.monotonic() + 60
    while read_offline_run(file).exit_code is None and time.monotonic() < wait:
        time.sleep(0.01)
    logged = {name: value for row in read_offline_run(file).history for name, value in row.items()}
    assert [caption.partition(":")[0] for caption in logged["retrieval/captions"]] == [
        parts.test_images.class_names[label] for label in parts.test_images.labels[[0, 240, 479]]
    ]
    for picture in logged["retrieval/filenames"]:
        with Image.open(file.parent / "files" / picture) as image:
            assert image.size == (6 * shown.SIDE_PX + shown.FRAME_PX, shown.SIDE_PX)


def test_without_tensorboard_a_run_is_refused_in_one_sentence(tmp_path, vectors, monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    ran = answer(main, command(tmp_path, *vectors, "logger=tensorboard")[2:])
    assert ran.status == 2
    assert ran.stderr == (
        "error: logger=tensorboard needs TensorBoard: `make setup EXTRAS=cpu,dev,tensorboard` installs it\n"
    )
    assert not list(tmp_path.glob("runs/*"))


def test_what_cannot_be_shown_is_a_warning(tmp_path, vectors, monkeypatch, caplog):
    def broken(*_):
        raise OSError("no fonts")

    monkeypatch.setattr(shown, "curves_table", broken)
    result, _ = run(tmp_path, *vectors, "logger=wandb")
    assert result.status == "finished"
    assert [record.levelname for record in caplog.records if "no fonts" in record.message] == ["WARNING"]
