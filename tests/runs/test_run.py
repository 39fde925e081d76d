"""The life of a run, on real runs: heads on small vectors, and small networks from pixels."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from answers import answer
from composition import composition
from digits import write_digits
from safetensors.numpy import load_file
from vectors import SMALL, command, head, wait_for, write_vectors

from tcm_bench.process import PREEMPTED
from tcm_bench.report.circle import circle_figure
from tcm_bench.report.comparison import write_comparison
from tcm_bench.report.source import Source
from tcm_bench.results import ledger
from tcm_bench.runs import run as run_module
from tcm_bench.runs.build import ConfigurationError
from tcm_bench.runs.experiment import put_together
from tcm_bench.runs.run import execute, main, summary


@pytest.fixture(scope="session")
def vectors(tmp_path_factory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors"))


def composed(output: Path, *overrides: str):
    words = [*SMALL, f"paths.output_dir={output}", *overrides]
    return composition(*words)


def run(output: Path, *overrides: str) -> tuple[ledger.Result, Path]:
    cfg, chosen = composed(output, *overrides)
    return execute(cfg, chosen), Path(cfg.run_dir)


@pytest.fixture(scope="module")
def usual(tmp_path_factory, vectors) -> tuple[ledger.Result, Path]:
    """The row and the folder of a head's run, as it is without any further word."""
    return run(tmp_path_factory.mktemp("usual"), *head(vectors))


def test_classes_held_out_are_measured_at_the_end(tmp_path, vectors, usual):
    """By the same scores, whatever the last epoch's validation said, and also by a run that was resumed after it."""
    result, run_dir = run(tmp_path, *head(vectors), "data.loader.validation_classes=4")
    assert result.counts["validation_classes"] == 4
    assert result.counts["shared_classes"] == 0
    last = (run_dir / "history.csv").read_text().splitlines()
    history = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    for name in ("recall_at_1", "opis", "opis_10pct", "opis_corrected"):
        assert result.metrics[f"{name}_val"] == pytest.approx(float(history[f"val/{name}"]))
    assert not [name for name in usual[0].metrics if name.endswith("_val")]


def test_a_run_leaves_a_complete_folder(usual):
    result, run_dir = usual
    names = {path.name for path in run_dir.iterdir()}
    assert {
        "config.yaml",
        "history.csv",
        "result.json",
        "test_embeddings.safetensors",
        "weights.safetensors",
    } <= names
    assert not {"last.ckpt", "running.json"} & names
    stored = json.loads((run_dir / "result.json").read_text())
    assert stored["status"] == "finished"
    assert stored["run_id"] == run_dir.name
    assert stored["choices"] == {
        "data": "features",
        "backbone": "none",
        "loss": "smooth_ap",
        "tcm": "paper",
        "seed": 0,
        "trainer.max_epochs": "2",
        "data.loader.batches_per_epoch": "5",
        "data.file": "mine.npz",  # the name, not the path
        "data.loader.classes_per_batch": "8",
        "model.head.embedding_dim": "16",
    }
    assert stored["schema_version"] == ledger.SCHEMA_VERSION
    assert ledger.science_hash(stored["science"]) == stored["run_id"]
    assert stored["science"]["model"]["head"]["embedding_dim"] == 16
    assert {"recall_at_1", "opis", "opis_10pct"} <= set(stored["metrics"])
    for name, (low, high) in stored["intervals"].items():
        assert 0 <= low <= stored["metrics"][name] <= high
    assert {"recall_at_1", "recall_at_8", "opis", "opis_10pct"} <= set(stored["intervals"])
    assert {"recall_at_1_before", "recall_at_1_seen", "opis_seen", "opis_10pct_seen"} <= set(stored["metrics"])
    assert {"axis", "threshold_low", "threshold_high", "far_bounds", "num_thresholds", "c", "eps", "ranking"} <= set(
        stored["threshold"]
    )
    assert stored["counts"]["test_classes"] == 12
    assert 0 < stored["step_s"] < stored["wall_s"]
    assert stored["peak_mem_gib"] > 0
    assert stored["versions"]["torch"] == torch.__version__
    assert stored["selection"] == "last epoch"
    history = (run_dir / "history.csv").read_text().splitlines()
    assert len(history) == 3  # a header and two epochs
    assert {"epoch", "lr", "train/loss", "train/base", "train/tcm", "train/hard_positives"} <= set(
        history[0].split(",")
    )
    assert result.data_hash


def test_stored_embeddings_give_the_stored_metrics_by_brute_force(usual):
    result, run_dir = usual
    stored = load_file(run_dir / "test_embeddings.safetensors")
    assert stored["embeddings"].dtype == np.float32
    assert stored["labels"].dtype == stored["indices"].dtype == np.int64
    assert stored["indices"].tolist() == list(range(120))
    rows, labels = stored["embeddings"].tolist(), stored["labels"].tolist()
    pairs = reference.pair_table(rows, labels)
    low, high = reference.calibration_range(pairs)
    thresholds = reference.grid(low, high, 101)
    curves = reference.utility_curves(pairs, labels, thresholds)
    assert result.metrics["recall_at_1"] == reference.recall_at_k(rows, labels, 1)
    assert result.threshold["threshold_low"] == pytest.approx(low, rel=1e-12)
    assert result.threshold["threshold_high"] == pytest.approx(high, rel=1e-12)
    assert result.metrics["opis"] == pytest.approx(reference.opis(curves, thresholds), rel=1e-9)
    assert result.metrics["opis_10pct"] == pytest.approx(reference.eps_opis(curves, thresholds), rel=1e-9)


def test_the_same_run_twice_gives_the_same_numbers_and_a_finished_one_is_not_repeated(tmp_path, vectors, usual):
    first, run_dir = usual
    shutil.copytree(run_dir, tmp_path / "runs" / run_dir.name)
    again, other_dir = run(tmp_path, *head(vectors))
    assert again == first  # the very row, start time included: nothing ran
    forced, _ = run(tmp_path, *head(vectors), "force=true")
    assert forced.wall_s != first.wall_s
    assert forced.metrics == first.metrics
    for name in ("history.csv", "test_embeddings.safetensors", "weights.safetensors"):
        assert (run_dir / name).read_bytes() == (other_dir / name).read_bytes()


def test_the_toy_is_a_closed_set_and_says_so(tmp_path):
    sizes = {"train": {"3": 9, "1": 8}, "test": {"5": 9, "0": 8}}
    toy = [
        *["+experiment=mnist_toy", f"data.root={write_digits(tmp_path, sizes, side_px=28)}", "trainer.max_epochs=1"],
        *["data.splits.images_per_class=4", "data.splits.test_images_per_class=4", "machine.threads=1"],
        *["data.loader.classes_per_batch=4", "data.loader.images_per_class=4", "machine.accelerator=cpu"],
    ]
    rows = []
    for arm in ("none", "chosen"):
        cfg, chosen = composition(*toy, f"tcm={arm}", f"paths.output_dir={tmp_path}", "machine.progress=false")
        rows.append(execute(cfg, chosen))
        assert rows[-1].status == "finished"
        counts = rows[-1].counts
        assert [counts[name] for name in ("train_classes", "test_classes", "shared_classes")] == [4, 4, 4]
        assert load_file(Path(cfg.run_dir) / ledger.EMBEDDINGS)["embeddings"].shape == (16, 2)
    assert "unseen images of classes that were trained on (a closed set): R@1" in summary(rows[0], tmp_path)
    _, table, _ = write_comparison(rows, tmp_path / "report", "toy")
    assert "\n## Unseen images of classes that were trained on (a closed set)\n" in table.read_text()
    figure = circle_figure(*(Source("run", tmp_path / "runs" / row.run_id) for row in rows))
    assert figure.get_suptitle().startswith(
        "Unseen images of classes that were trained on (a closed set): mnist_closed"
    )


def test_a_bare_environment_runs_to_the_same_numbers_and_logs_into_its_folder(tmp_path, vectors, usual):
    result, run_dir = usual
    bare = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TMPDIR": str(tmp_path)}  # no HOME, no terminal, no UTF-8
    output = tmp_path / "bare"
    done = subprocess.run(
        command(output, *head(vectors)), env=bare, umask=0o077, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = ledger.read_result(output / "runs" / run_dir.name)
    assert found is not None
    assert found.metrics == result.metrics
    assert "unseen classes: R@1" in (output / "runs" / run_dir.name / "run.log").read_text()


def test_an_experiment_of_ones_own_lies_anywhere(tmp_path, vectors):
    group = tmp_path / "mine" / "experiment"
    group.mkdir(parents=True)
    (group / "quick.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /loss: rs_at_k\nmodel:\n  head: {embedding_dim: 8}\n"
    )
    words = ["--config-dir", "mine", f"paths.output_dir={tmp_path}", "machine.threads=1", *SMALL]
    words += ["data=features", f"data.file={vectors}"]
    ran = answer(main, [*words, "+experiment=quick"], tmp_path)
    assert ran.status == 0, ran.stderr
    (row,) = ledger.results(tmp_path.glob("runs/*"))
    assert (row.choices["loss"], row.choices["experiment"]) == ("rs_at_k", "quick")
    assert row.science["model"]["head"]["embedding_dim"] == 8
    ran = answer(main, [*words, "+experiment=qick"], tmp_path)
    assert (ran.status, ran.stderr) == (2, "error: there is no experiment=qick; did you mean 'quick'?\n")


def test_margin_setting_changes_the_run_and_leaves_its_start(tmp_path, vectors):
    base, base_dir = run(tmp_path, *head(vectors), "tcm=none")
    tcm, tcm_dir = run(tmp_path, *head(vectors), "tcm=paper")
    assert base.run_id != tcm.run_id
    assert base.comparison_id == tcm.comparison_id
    assert base.metrics["recall_at_1_before"] == tcm.metrics["recall_at_1_before"]
    assert (base_dir / "weights.safetensors").read_bytes() != (tcm_dir / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("loss", "backbone"),
    [
        ("smooth_ap", "resnet_small"),
        ("rs_at_k", "vit_small_scratch"),
        ("contrastive", "vit_small_scratch"),
        ("proxy_anchor", "resnet_small"),
    ],
)
def test_small_networks_train_from_pixels(tmp_path, loss, backbone):
    small = [
        "data.splits.images_per_class=2",
        "data.loader.classes_per_batch=8",
        "data.loader.images_per_class=2",
    ]
    small += ["data.loader.seen_classes=20", "trainer.max_epochs=1", "data.loader.batches_per_epoch=2"]
    small += [f"model/backbone={backbone}", f"loss={loss}", "model.freeze=none", "machine.threads=1"]
    result, _ = run(tmp_path, *small)
    assert result.status == "finished"
    assert 0 < result.metrics["recall_at_1"] < 1
    assert result.network["architecture"]


def test_a_class_that_is_held_out_has_no_proxy(tmp_path, vectors):
    for held_out, proxies in ((0, 12), (3, 9)):
        cfg, _ = composed(tmp_path, *head(vectors), "loss=proxy_anchor", f"data.loader.validation_classes={held_out}")
        assert put_together(cfg)[0].objective.base.loss.proxies.shape == (proxies, 16)


def test_another_draw_of_the_classes_is_another_run_that_tests_on_others(tmp_path):
    small = ["data.splits.images_per_class=4", "data.loader.seen_classes=20", "trainer.max_epochs=1"]
    small += ["data.loader.batches_per_epoch=1", "data.loader.classes_per_batch=8", "data.loader.images_per_class=2"]
    small += ["model/backbone=resnet_small", "model.freeze=none", "machine.threads=1"]
    runs = [run(tmp_path, *small, f"data.split_seed={seed}")[0] for seed in ("null", 0, 1)]
    assert len({result.run_id for result in runs}) == len({result.data_hash for result in runs}) == 3
    assert len({result.metrics["recall_at_1_before"] for result in runs}) == 3  # of the same network
    assert len({result.counts["test_classes"] for result in runs}) == 1


def test_a_failed_run_leaves_its_reason_and_the_next_attempt_replaces_it(tmp_path, vectors, caplog):
    with pytest.raises(ValueError, match="at least two classes"):
        run(tmp_path, *head(vectors), "data.loader.validation_classes=11")
    (row,) = ledger.results(tmp_path.glob("runs/*"))
    assert row.status == "failed"
    assert "the data have 1: add images" in row.reason
    with pytest.raises(ValueError, match="at least two classes"):
        run(tmp_path, *head(vectors), "data.loader.validation_classes=11")  # tried again, not skipped


def test_declared_class_count_is_checked(tmp_path, vectors):
    with pytest.raises(ConfigurationError, match=r"12 training classes where data\.num_train_classes=99"):
        run(tmp_path, *head(vectors), "data.num_train_classes=99")


def test_a_backbone_that_vectors_pass_by_is_refused(tmp_path, vectors):
    with pytest.raises(ConfigurationError, match="model/backbone would name a network that is not used"):
        run(tmp_path, *head(vectors), "model/backbone=resnet_small")


def test_an_edit_of_ones_own_loss_is_another_run(tmp_path, vectors, monkeypatch):
    """In the current directory and in another one on PYTHONPATH; both may change."""
    code, library = tmp_path / "code", tmp_path / "library"
    code.mkdir()
    library.mkdir()
    loss = "from tcm_bench.losses.smooth_ap import SmoothAP\n\nclass Loss(SmoothAP):\n    pass\n"
    (code / "own_here.py").write_text(loss)
    (library / "own_there.py").write_text(loss)
    monkeypatch.syspath_prepend(library)

    def trained(module: str) -> str:
        words = [*head(vectors), f"loss._target_={module}.Loss", f"trusted_packages=[{module}]"]
        ran = answer(main, command(tmp_path, *words)[2:], code)
        assert ran.status == 0, ran.stderr
        return ran.stderr

    for folder, module in ((code, "own_here"), (library, "own_there")):
        assert f"loss={module}.Loss" in trained(module)
        assert "already finished" in trained(module)
        (folder / f"{module}.py").write_text(loss.replace("pass", "temperature_of_mine = 1"))
        assert "already finished" not in trained(module)
    rows = list(ledger.results(tmp_path.glob("runs/*")))
    assert len({row.run_id for row in rows}) == 4
    assert sorted(row.choices["loss"] for row in rows) == ["own_here.Loss"] * 2 + ["own_there.Loss"] * 2


def test_another_share_of_worst_classes_is_reported_by_its_name(tmp_path, vectors):
    result, run_dir = run(tmp_path, *head(vectors), "metrics.evaluation.eps=0.25", "metrics.evaluation.ks=[2]")
    text = summary(result, run_dir)
    assert f"25%-OPIS {1000 * result.metrics['opis_25pct']:.2f}e-3" in text
    assert f"R@2 {100 * result.metrics['recall_at_2']:.2f} %" in text
    assert "undefined" not in text


def test_a_run_that_another_process_is_at_is_left_alone(tmp_path, vectors, monkeypatch):
    monkeypatch.setattr(run_module, "LOCK_WAIT_S", 0.1)
    cfg, _ = composed(tmp_path, *head(vectors))
    holder = (
        "import sys, time; from pathlib import Path; from filelock import FileLock; "
        "from tcm_bench.results import ledger; "
        "d = Path(sys.argv[1]); d.mkdir(parents=True); ledger.write_progress(d, 'train'); "
        "lock = FileLock(d / '.lock'); lock.acquire(); print('held', flush=True); time.sleep(3600)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, cfg.run_dir], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ConfigurationError, match=rf"process {other.pid} on .* is at the run {cfg.run_id}"):
            execute(cfg, {})
        other.kill()


FROM_VECTORS = ["trainer.max_epochs=15", "data.loader.batches_per_epoch=20"]
FROM_PIXELS = [
    *["data=kanji", "data.splits.images_per_class=4", "data.loader.seen_classes=10", "data.loader.classes_per_batch=8"],
    *["data.loader.images_per_class=2", "model/backbone=resnet_small", "model.freeze=none", "trainer.max_epochs=4"],
    *["machine.num_workers=2", "machine.threads=1", "callbacks.checkpoint.every_min=0"],
]


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        ("vectors", signal.SIGTERM),
        ("pixels", signal.SIGKILL),  # with workers, who have read ahead
    ],
)
def test_a_run_stopped_in_training_resumes_to_the_numbers_of_one_never_stopped(tmp_path, vectors, source, sent):
    words = [*head(vectors), *FROM_VECTORS] if source == "vectors" else FROM_PIXELS
    whole, whole_dir = run(tmp_path / "whole", *words)
    cut_dir = tmp_path / "cut" / "runs" / whole.run_id
    started = subprocess.Popen(
        command(tmp_path / "cut", *words), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with started as process:
        wait_for(lambda: _epochs(cut_dir) >= 2, process)
        os.killpg(process.pid, sent)  # as Slurm does, also those that read images
        said = process.stderr.read()
    if sent == signal.SIGKILL:
        assert ledger.state(cut_dir) == "stale"
    else:
        assert process.returncode == PREEMPTED, said
        assert said == f"stopped by {sent.name}; the same command goes on from here\n"
        assert ledger.read_result(cut_dir).reason == f"stopped by {sent.name}"
    assert _epochs(cut_dir) < _epochs(whole_dir)
    resumed, _ = run(tmp_path / "cut", *words)
    assert resumed.metrics == whole.metrics
    for name in ("history.csv", "weights.safetensors", "test_embeddings.safetensors"):
        assert (cut_dir / name).read_bytes() == (whole_dir / name).read_bytes()


def test_ctrl_c_leaves_a_row_and_status_130(tmp_path, vectors):
    longer = [*head(vectors), "trainer.max_epochs=4000", "data.loader.batches_per_epoch=20"]
    with subprocess.Popen(command(tmp_path, *longer), stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: any(_epochs(d) >= 1 for d in tmp_path.glob("runs/*")), process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.endswith("interrupted; the same command goes on from here\n")
    (row,) = ledger.results(tmp_path.glob("runs/*"))
    assert row.status == "interrupted"
    assert row.reason


def _epochs(run_dir: Path) -> int:
    history = run_dir / "history.csv"
    return len(history.read_text().splitlines()) - 1 if history.exists() else 0


def test_missing_data_is_one_sentence_before_anything_starts(tmp_path):
    ran = answer(main, command(tmp_path, "data.root=/nowhere", "logger=wandb")[2:])
    assert ran.status == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: ")
    assert "/nowhere" in line
    assert not list(tmp_path.glob("runs/*"))


def test_a_run_whose_training_made_recall_worse_says_so(tmp_path, vectors):
    result, run_dir = run(tmp_path, *head(vectors))
    told = "training made R@1 worse: try a lower optim.optimizer.lr"
    for before, is_told in ((result.metrics["recall_at_1"] + 0.05, True), (result.metrics["recall_at_1"], False)):
        changed = result.model_copy(update={"metrics": result.metrics | {"recall_at_1_before": before}})
        assert (told in summary(changed, run_dir)) == is_told
