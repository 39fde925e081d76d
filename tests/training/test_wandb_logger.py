"""W&B's real client, offline, read back; and all the ways in which it may be away."""

import csv
import gc
import getpass
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import wandb
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from training.offline_run import read_offline_run, records
from vectors import command, head, wait_for
from wandb_server import wandb_server

import tcm_bench.training.wandb_logger as logger_module
from tcm_bench.runs.naming import PROJECT_ROOT, SCIENCE, science
from tcm_bench.runs.watchers import _same_everywhere
from tcm_bench.training.module import RetrievalModule
from tcm_bench.training.wandb_logger import wandb_logger

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

TERMS = ("loss", "base", "tcm", "hard_positives", "hard_negatives", "lr")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """No key, no settings: W&B as on a fresh machine, and a new background process of it."""
    wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)  # nor may it be put back, for whoever comes next in this process
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(logger_module, "INIT_S", 1)
    yield monkeypatch
    wandb.teardown()
    gc.collect()  # W&B does not wait for the process that it ends, which Python warns of


def stored(folder):
    """Every offline run below a folder, oldest first. W&B's process writes the end of a file just after `finish`."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_ctime)
    until = time.monotonic() + 60
    while None in [read_offline_run(file).exit_code for file in files] and time.monotonic() < until:
        time.sleep(0.01)
    return [read_offline_run(file) for file in files]


def test_each_run_of_a_process_is_a_run_of_its_own_with_all_that_a_reader_needs(tmp_path, run):
    own = ["logger=wandb", f"logger.wandb.tags=[first,{'x' * 70}]", "sweep_name=tiny"]
    for tcm, job_type in (("none", "base"), ("paper", "tcm")):
        result, run_dir = run(tmp_path, *own, f"tcm={tcm}")
        (found,) = stored(run_dir)
        assert found.run.run_id == result.run_id
        assert found.run.project == "tcm_bench"
        assert found.run.run_group == "features_none_smooth_ap"
        assert found.run.job_type == job_type
        assert list(found.run.tags) == ["first", "x" * 64, "features", "none", "smooth_ap", tcm, "seed=0"]
        names = {"data": "features", "backbone": "none", "loss": "smooth_ap", "tcm": tcm, "seed": 0}
        assert names.items() <= found.config.items()
        assert found.config["run_id"] == result.run_id
        assert found.config["comparison_id"] == result.comparison_id
        assert found.config["sweep_name"] == "tiny"
        assert found.config["science"]["tcm"]["positive_weight"] == (tcm == "paper")
        assert found.config["science"]["data"]["splits"]["test_share"] == 0.5
        assert set(found.config["science"]) == set(SCIENCE)
        assert "file" not in found.config["science"]["data"]  # no path of this machine goes to a server
        assert str(tmp_path) not in str(found.config)
        assert "<" not in str(found.config["science"])  # nor what stands for one
        for told in ("versions", "git", "data_hash", "network"):
            assert found.config[told] == getattr(result, told)
        assert steps(found) == [4, 9]
        assert all({f"train/{term}" for term in TERMS} <= set(row) for row in epochs(found))
        assert not any(name.startswith(("test/", "seen/")) for row in found.history for name in row)
        assert {"recall_at_1", "recall_at_1_before", "opis", "opis_10pct_seen"} <= set(result.metrics)
        for ours, value in result.metrics.items():
            # Undefined is null: of so few pairs the stricter ranges are.
            assert found.summary[ours] == (value if value is None else pytest.approx(value, rel=1e-12))
        for told in ("status", "reason", "counts", "threshold", "wall_s", "started", "selection"):
            assert found.summary[told] == getattr(result, told)
        assert found.exit_code == 0


def test_of_images_the_weights_behind_the_network_are_told_and_no_setting_of_the_machine(tmp_path):
    """Composed only: what a backbone's node says of this machine is left out, and its weights are named."""
    words = [f"paths.data_dir={tmp_path}", f"data.root={tmp_path}", "machine.num_workers=3"]
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", words)
    told = _same_everywhere(science(cfg), OmegaConf.to_container(cfg, resolve=True))
    assert str(tmp_path) not in str(told)
    assert "<" not in str(told)
    assert "num_workers" not in told["data"]["loader"]
    weights = science(cfg)["model"]["backbone"]["weights"]
    assert told["model"]["backbone"]["weights"] == {key: value for key, value in weights.items() if key != "file"}
    assert weights["sha256"]


@pytest.mark.parametrize(
    ("end", "status", "exit_code", "reason"),
    [
        (RuntimeError("out of luck"), "failed", 1, "RuntimeError: out of luck"),
        (KeyboardInterrupt(), "interrupted", 255, "stopped by Ctrl-C or a signal"),
    ],
    ids=["failed", "ctrl-c"],
)
def test_an_attempt_that_came_to_no_end_says_why_and_the_next_goes_on_under_the_same_id(
    tmp_path, run, monkeypatch, end, status, exit_code, reason
):
    from tcm_bench.training.callbacks import ProgressFile

    def ended(self, trainer, *args):
        if trainer.global_step == 8:
            raise end

    with monkeypatch.context() as patched:
        patched.setattr(ProgressFile, "on_train_batch_end", ended)
        with pytest.raises(type(end)):
            run(tmp_path, "logger=wandb")
    (run_dir,) = (tmp_path / "runs").iterdir()
    (first,) = stored(run_dir)
    assert first.exit_code == exit_code
    assert (first.summary["status"], first.summary["reason"]) == (status, reason)
    assert steps(first) == [4]
    result, run_dir = run(tmp_path, "logger=wandb")
    (second,) = stored(run_dir)  # the whole, in place of its beginning
    assert first.run.run_id == second.run.run_id == result.run_id
    assert second.exit_code == 0
    assert (second.summary["status"], second.summary["reason"]) == ("finished", None)
    assert steps(second) == [4, 9]
    assert epochs(second)[:1] == epochs(first)
    run(tmp_path, "logger=wandb", "force=true")
    (only,) = stored(run_dir)  # done again means that what was recorded of it is void
    assert steps(only) == [4, 9]


def test_a_run_that_is_killed_and_goes_on_is_one_run_with_its_whole_history_and_the_best_of_it(tmp_path, run, vectors):
    """By a signal that nobody can answer, to W&B's own process as well, which then has written nothing down."""
    validated = ["data.loader.validation_classes=4", "trainer.check_val_every_n_epoch=2"]
    words = [*head(vectors), "trainer.max_epochs=60", "data.loader.batches_per_epoch=10", *validated, "logger=wandb"]
    alone = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # of the tests before
    with subprocess.Popen(command(tmp_path, *words), env=alone, start_new_session=True) as process:
        wait_for(lambda: len(history(tmp_path)) >= 9, process)
        os.killpg(process.pid, signal.SIGKILL)
    assert 9 <= len(history(tmp_path)) < 60
    result, run_dir = run(tmp_path, *words)
    (found,) = stored(run_dir)
    assert found.run.run_id == result.run_id
    assert found.exit_code == 0
    rows = epochs(found)
    assert [row["epoch"] for row in rows] == [*range(60)]
    assert steps(found) == [row["_step"] for row in rows] == [*range(9, 600, 10)]
    told = history(tmp_path)
    for name in ("train/loss", "train/hard_positives", "train/hard_negatives"):
        assert [row[name] for row in rows] == pytest.approx([float(row[name]) for row in told], rel=1e-12)
    for name, best in (("val/recall_at_1", max), ("val/opis", min)):
        values = [float(row[name]) for row in told if row[name]]
        assert [row[name] for row in rows if name in row] == pytest.approx(values, rel=1e-12)
        assert len(values) == 30
        assert found.summary[name] == {best.__name__: pytest.approx(best(values), rel=1e-12)}
    assert found.summary["train/loss"] == rows[-1]["train/loss"]
    assert found.summary["opis"] == pytest.approx(result.metrics["opis"], rel=1e-12)


def test_a_run_that_came_to_no_end_in_its_test_has_its_whole_history_when_it_is_tested_again(
    tmp_path, run, monkeypatch
):
    """Nothing is trained any more, so nothing else tells of it."""
    with monkeypatch.context() as patched:
        patched.setattr(RetrievalModule, "test_step", lambda *_: (_ for _ in ()).throw(RuntimeError("out of luck")))
        with pytest.raises(RuntimeError):
            run(tmp_path, "logger=wandb")
    _, run_dir = run(tmp_path, "logger=wandb")
    (found,) = stored(run_dir)
    assert steps(found) == [4, 9]
    assert found.exit_code == 0


def test_curves_are_drawn_over_epochs(tmp_path, run):
    _, run_dir = run(tmp_path, "logger=wandb")
    (found,) = stored(run_dir)
    axes = {metric.glob_name or metric.name: metric.step_metric for metric in found.metrics}
    assert axes == {
        "epoch": "",
        "trainer/global_step": "",
        **dict.fromkeys(("train/*", "val/*", "val/recall_at_1", "val/opis"), "epoch"),
    }


def test_pictures_tables_and_artefacts_are_kept_with_the_run(tmp_path, run):
    _, run_dir = run(tmp_path, "logger=wandb", "logger.wandb.classes_shown=5", "logger.wandb.log_weights=true")
    (found,) = stored(run_dir)
    shown = {name: value for row in found.history for name, value in row.items()}
    assert not any(name.startswith("retrieval") for name in shown)  # of vectors there is nothing to see
    (files,) = run_dir.glob("wandb/offline-run-*/files")
    (picture,) = shown["utility/filenames"]
    with Image.open(files / picture) as image:
        assert image.size == (600, 480)
    table = json.loads((files / shown["utility_table/path"]).read_text())
    assert table["columns"] == ["class", "threshold", "sensitivity", "specificity", "utility"]
    assert len(table["data"]) == 5 * 21
    kept = {artifact.type: artifact for artifact in found.artifacts}
    assert set(kept) == {"run_table", "config", "code", "model"}
    contents = {kind: {entry.path: entry.local_path for entry in one.manifest.contents} for kind, one in kept.items()}
    assert set(contents["config"]) == {"config.yaml"}
    told = Path(contents["config"]["config.yaml"]).read_text()
    assert OmegaConf.to_container(OmegaConf.create(told))["paths"]["cache_dir"] == "${paths.output_dir}/cache"
    assert contents["model"] == {"weights.safetensors": str(run_dir / "weights.safetensors")}
    sources = {path.relative_to(PROJECT_ROOT).as_posix() for path in (PROJECT_ROOT / "tcm_bench").rglob("*.py")}
    assert set(contents["code"]) == sources
    for name in ("tcm_bench/losses/tcm.py", "tcm_bench/__init__.py"):
        assert Path(contents["code"][name]).read_bytes() == (PROJECT_ROOT / name).read_bytes()


def test_nothing_that_is_uploaded_names_this_machine_its_folders_or_its_secrets(tmp_path, bare, run):
    """But for the places where W&B itself finds, here, what it is to upload, and words that were typed."""
    bare.setenv("WANDB_MODE", "offline")
    bare.setenv("WANDB_API_KEY", secret := "c0ffee" * 7)
    _, run_dir = run(tmp_path, "logger=wandb")
    (file,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    stored(run_dir)
    sent = [path.read_bytes() for path in (file.parent / "files").rglob("*") if path.is_file()]
    for record in records(file.read_bytes()):
        for entry in record.artifact.manifest.contents:
            sent.append(Path(entry.local_path).read_bytes())
            entry.local_path = ""
        sent.append(record.SerializeToString())
    for private in (str(PROJECT_ROOT), sys.executable, secret, getpass.getuser() + "@"):
        assert not any(private.encode() in one for one in sent), private
    assert not any(record.run.host or record.environment.host for record in records(file.read_bytes()))


def epochs(found):
    """The rows of an epoch's end; W&B's own clock left out."""
    rows = [row for row in found.history if "train/loss" in row]
    return [{name: value for name, value in row.items() if name not in ("_timestamp", "_runtime")} for row in rows]


def steps(found):
    return [row["trainer/global_step"] for row in found.history if "trainer/global_step" in row]


def history(output):
    """The rows of `history.csv` of the only run; none if it has not begun."""
    rows = []
    for file in output.glob("runs/*/history.csv"):
        with file.open() as text:
            rows += csv.DictReader(text)
    return rows


def test_a_run_that_fails_before_training_is_marked_too(tmp_path, run):
    with pytest.raises(ValueError, match="99 is"):
        run(tmp_path, "logger=wandb", "data.num_train_classes=99")
    (run_dir,) = (tmp_path / "runs").iterdir()
    (found,) = stored(run_dir)
    assert found.exit_code == 1
    assert "data.num_train_classes=99" in found.summary["reason"]


def logger(folder, run_id="0123456789ab", **options):
    return wandb_logger("p", run_id, folder, group="g", job_type="base", tags=["t"], **options)


def record_and_read(folder, **options):
    watcher = logger(folder, **options)
    watcher.log_metrics({"x": 0.5}, step=1)
    watcher.conclude({}, 0)
    (found,) = stored(folder)
    assert [row["x"] for row in found.history] == [0.5]
    assert found.exit_code == 0


def test_without_a_key_a_run_is_offline_and_nobody_is_asked(tmp_path, bare):
    bare.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    bare.setattr(logger_module, "_reachable", lambda *_: pytest.fail("a server was looked for"))
    record_and_read(tmp_path / "auto")
    record_and_read(tmp_path / "online", mode="online")


def test_wandb_mode_decides_unless_the_configuration_does(tmp_path, bare):
    bare.setenv("WANDB_MODE", "disabled")
    logger(tmp_path / "none").conclude({}, 0)
    assert stored(tmp_path / "none") == []
    record_and_read(tmp_path / "some", mode="offline")


@pytest.mark.parametrize("word", ["", "offlin"])
def test_a_mode_that_wandb_does_not_know_is_not_regarded(tmp_path, bare, caplog, word):
    bare.setenv("WANDB_MODE", word)
    record_and_read(tmp_path)
    assert ("WANDB_MODE=offlin is not regarded" in caplog.text) == bool(word)


def test_the_older_word_for_offline_is_understood(tmp_path, bare):
    bare.setattr(logger_module, "obstacle", lambda: pytest.fail("a server was looked for"))
    bare.setenv("WANDB_MODE", "dryrun")
    record_and_read(tmp_path)


def test_an_artefact_that_is_lost_takes_nothing_else_with_it(tmp_path, bare, caplog):
    watcher = logger(tmp_path, mode="offline")
    watcher.keep("tcm_bench", "code", lambda: {"train.py": tmp_path / "nowhere.py"})
    assert "the artefact tcm_bench was not kept" in caplog.text
    assert not watcher.lost
    watcher.log_metrics({"train/loss": 1.0}, 1)
    watcher.conclude({}, 0)
    (found,) = stored(tmp_path)
    assert found.history


def test_a_server_that_cannot_be_reached_or_is_silent_or_refuses_the_key_means_offline_within_seconds(tmp_path, bare):
    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_):
            pass

    refusing = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=refusing.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        bare.setenv("WANDB_API_KEY", "a" * 40)
        for name, port in (
            ("closed", closed.getsockname()[1]),
            ("refusing", refusing.server_port),
            ("silent", silent.getsockname()[1]),
        ):
            bare.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
            wandb.teardown()
            record_and_read(tmp_path / name)
    refusing.shutdown()
    refusing.server_close()


def test_online_a_run_goes_on_behind_what_the_server_has_and_forced_it_begins_anew(tmp_path, bare):
    bare.setenv("WANDB_API_KEY", "a" * 40)
    scores = {4: 0.5, 9: 0.75, 14: 0.625}
    with wandb_server() as server:
        bare.setenv("WANDB_BASE_URL", server.url)
        for known, exit_code, options, sent in (
            ([4, 9], 255, {}, [(0, 4), (1, 9)]),
            ([4, 9, 14], 0, {}, [(2, 14)]),  # place in the history, and step
            ([4], 1, {"fresh": True}, [(0, 4)]),
        ):
            watcher = logger(tmp_path, **options)
            assert not watcher.experiment.offline
            for step in known:
                watcher.log_metrics({"val/recall_at_1": scores[step], "val/opis": -scores[step]}, step)
                watcher.log_metrics({"train/loss": 1.0}, step)
            watcher.conclude({"status": "any"}, exit_code)
            assert not watcher.lost
            assert [(place, line["_step"]) for place, line in server.lines] == sent
            server.lines.clear()
            summary = json.loads(server.summaries["0123456789ab"])
            best = max(scores[step] for step in known)
            assert summary["val/recall_at_1"] == {"max": best}
            assert summary["val/opis"] == {"min": -best}
            assert server.exit_codes["0123456789ab"] == exit_code


def test_a_client_that_dies_takes_nothing_with_it_and_the_next_run_gets_a_new_one(tmp_path, bare, caplog):
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    bare.setenv("WANDB_MODE", "offline")
    bare.setattr(subprocess, "Popen", Noted)
    watcher = logger(tmp_path / "lost")
    for process in started:
        process.kill()
    until = time.monotonic() + 30
    while not watcher.lost and time.monotonic() < until:
        watcher.log_metrics({"x": 1.0}, step=1)
        time.sleep(0.05)
    watcher.conclude({}, 0)
    assert [record.levelname for record in caplog.records if "W&B was lost" in record.message] == ["WARNING"]
    record_and_read(tmp_path / "next")


def test_where_nothing_can_be_written_the_run_goes_on_without(tmp_path, bare, run, monkeypatch, caplog):
    def broken(*_, **__):
        raise OSError("no space left on device")

    working = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **how: (working if how["settings"].mode == "disabled" else broken)(**how))
    result, _ = run(tmp_path, "logger=wandb", "logger.wandb.mode=offline")
    assert result.status == "finished"
    assert "no offline run could be started (no space left on device)" in caplog.text
