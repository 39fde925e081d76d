"""W&B's real client, offline, read back; and all the ways in which it may be away."""

import gc
import http.server
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import wandb
from engine.offline_run import read_offline_run

from tcm_bench.engine import wandb_run
from tcm_bench.engine.wandb_run import wandb_logger

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

TERMS = ("loss", "base", "tcm", "hard_positives", "hard_negatives", "lr")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """No key, no settings: W&B as on a fresh machine, and a new background process of it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(wandb_run, "INIT_S", 1)
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()
    gc.collect()  # W&B does not wait for the process that it ends, which Python warns of


def stored(folder):
    """Every offline run below a folder, oldest first. W&B's process writes the end of a file just after `finish`."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_ctime)
    until = time.monotonic() + 10
    while None in [read_offline_run(file).exit_code for file in files] and time.monotonic() < until:
        time.sleep(0.01)
    return [read_offline_run(file) for file in files]


def test_each_run_of_a_process_is_a_run_of_its_own_with_all_that_a_reader_needs(tmp_path, run):
    for tcm, job_type in (("none", "base"), ("paper", "tcm")):
        result, run_dir = run(tmp_path, "logger=wandb", f"tcm={tcm}", "logger.wandb.tags=[first]")
        (found,) = stored(run_dir)
        assert found.run.run_id == result.run_id
        assert found.run.project == "tcm_bench"
        assert found.run.run_group == "features_none_smooth_ap"
        assert found.run.job_type == job_type
        assert list(found.run.tags) == ["first", "features", "none", "smooth_ap", tcm]
        assert found.config["tcm"]["positive_weight"] == (tcm == "paper")
        assert found.config["seed"] == 0
        assert found.config["comparison_id"] == result.comparison_id
        assert found.config["data"]["file"] == "<file>"  # no path of this machine goes to a server
        epochs = [row for row in found.history if "train/loss" in row]
        assert [row["trainer/global_step"] for row in epochs] == [4, 9]
        assert all({f"train/{term}" for term in TERMS} <= set(row) for row in epochs)
        for ours in ("recall_at_1", "opis", "opis_10pct"):
            assert found.summary[f"test/{ours}"] == pytest.approx(result.metrics[ours], rel=1e-12)
        assert found.exit_code == 0


def test_a_failed_run_is_marked_and_its_second_attempt_goes_on_under_the_same_id(tmp_path, run, monkeypatch):
    from tcm_bench.engine.callbacks import ProgressFile

    class Killed(RuntimeError):
        pass

    def killed(self, trainer, *args):
        if trainer.global_step == 8:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(ProgressFile, "on_train_batch_end", killed)
        with pytest.raises(Killed):
            run(tmp_path, "logger=wandb")
    result, run_dir = run(tmp_path, "logger=wandb")
    first, second = sorted(stored(run_dir), key=lambda found: found.exit_code, reverse=True)
    assert first.run.run_id == second.run.run_id == result.run_id
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert [row["trainer/global_step"] for row in first.history] == [4]
    assert [row["trainer/global_step"] for row in second.history] == [9, 10]  # epoch 2, test
    run(tmp_path, "logger=wandb", "force=true")
    (only,) = stored(run_dir)  # done again means that what was recorded of it is void
    assert len(only.history) == 3


def logger(folder, run_id="0123456789ab", **options):
    return wandb_logger("p", run_id, folder, group="g", job_type="base", tags=["t"], **options)


def record_and_read(folder, **options):
    began = time.monotonic()
    watcher = logger(folder, **options)
    took = time.monotonic() - began
    watcher.log_metrics({"x": 0.5}, step=1)
    watcher.finish(0)
    (found,) = stored(folder)
    assert [row["x"] for row in found.history] == [0.5]
    assert found.exit_code == 0
    return took


def test_without_a_key_a_run_is_offline_and_nobody_is_asked(tmp_path, bare):
    bare.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    assert record_and_read(tmp_path / "auto") < 5
    assert record_and_read(tmp_path / "online", mode="online") < 5


def test_wandb_mode_decides_unless_the_configuration_does(tmp_path, bare):
    bare.setenv("WANDB_MODE", "disabled")
    logger(tmp_path / "none").finish(0)
    assert stored(tmp_path / "none") == []
    record_and_read(tmp_path / "some", mode="offline")


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


def test_a_client_that_dies_takes_nothing_with_it_and_the_next_run_gets_a_new_one(tmp_path, bare, caplog):
    bare.setenv("WANDB_MODE", "offline")
    watcher = logger(tmp_path / "lost")
    for process in subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.split():
        if b"wandb-core" in Path(f"/proc/{process}/cmdline").read_bytes():
            os.kill(int(process), signal.SIGKILL)
    until = time.monotonic() + 30
    while not watcher.lost and time.monotonic() < until:
        watcher.log_metrics({"x": 1.0}, step=1)
        time.sleep(0.05)
    watcher.finish(0)
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
