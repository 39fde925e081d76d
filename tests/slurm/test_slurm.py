"""Sweeps on a real Slurm: two nodes on this machine, whose jobs are preempted, requeued and killed.

Where Slurm is not installed these are skipped: `scripts/slurm_on_one_machine install` (Debian, as root) does that.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from vectors import command, head, wait_for, write_vectors

from tcm_bench.results import ledger
from tcm_bench.results.standing import standing
from tcm_bench.runs.naming import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "scripts" / "slurm_on_one_machine"
LONG = ["trainer.max_epochs=6", "data.loader.batches_per_epoch=200"]
SLURM = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "-m"]

pytestmark = [
    pytest.mark.skipif(
        not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))),
        reason="Slurm is not installed; as root on Debian `scripts/slurm_on_one_machine install` does it",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SCRIPT, "start", folder], check=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patched.setenv("OMP_NUM_THREADS", "1")
        patched.setenv("MASTER_ADDR", "127.0.0.1")  # no name server knows the nodes
        yield
        subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture
def slurm(cluster):
    """Both nodes, idle: whatever a test leaves behind is not the next one's."""
    yield
    for how in ([], ["--signal=KILL"]):
        told("scancel", *how, "--partition=low,high")
    until(lambda: not queue())
    until(lambda: steps() == 0)
    done(["scontrol", "update", "nodename=one,two", "state=resume"])  # refused if both are up


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors"))


def runs(output: Path) -> list[Path]:
    return sorted((output / "runs").glob("*/"))


def rows(output: Path) -> dict[str, ledger.Result]:
    return {row.run_id: row for row in ledger.results(runs(output))}


def in_training(run_dir: Path) -> bool:
    found = standing(run_dir)
    return found.state == "running" and found.stage == "train" and found.done > 20


def epochs(run_dir: Path) -> int:
    return (standing(run_dir).epoch or -1) + 1


def told(*words: object) -> str:
    """What a command prints."""
    return subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, text=True, check=True).stdout


def done(words: list[str]) -> subprocess.CompletedProcess[str]:
    """A command that has ended, however."""
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=150)


def queue() -> dict[str, str]:
    """State of each job, by its name in the array."""
    return dict(line.split() for line in told("squeue", "--noheader", "--array", "--format=%i %T").splitlines())


def until(condition) -> None:
    end = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < end, queue()
        time.sleep(0.1)


def steps() -> int:
    """How many steps of jobs have a process left: each has a daemon until then."""
    return done(["sh", "-c", "cat /proc/[0-9]*/comm"]).stdout.splitlines().count("slurmstepd")


def same_numbers(found: dict[str, ledger.Result], expected: dict[str, ledger.Result]) -> bool:
    return {k: row.metrics for k, row in found.items()} == {k: row.metrics for k, row in expected.items()}


def was_noticed(run_dir: Path) -> bool:
    row = ledger.read_result(run_dir)
    return row is not None and row.reason == "stopped by SIGUSR2"


def test_jobs_that_are_requeued_and_killed_come_to_the_numbers_of_undisturbed_ones(slurm, tmp_path, vectors):
    grid = ["tcm=none,paper", "seed=0", "sweep_name=tiny", *head(vectors), *LONG]
    ran = done(command(tmp_path / "here", *grid, "-m"))
    assert ran.returncode == 0, ran.stderr

    output = tmp_path / "slurm"
    words = command(output, *grid, *SLURM)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as sweep:
        wait_for(lambda: sum(map(in_training, runs(output))) == 2, sweep)
        both = [run_dir for run_dir in runs(output) if in_training(run_dir)]
        at = {run_dir: ledger.read_progress(run_dir) for run_dir in both}
        job = min(name for name, state in queue().items() if state == "RUNNING")
        told("scancel", "--signal=USR2", job)  # what comes before the end of a job's time
        wait_for(lambda: any(map(was_noticed, both)), sweep)
        requeued, other = sorted(both, key=was_noticed, reverse=True)
        assert (requeued / ledger.CHECKPOINT).exists()
        os.kill(at[other].pid, signal.SIGKILL)  # as the system does when memory runs out
        wait_for(lambda: ledger.state(other) == "stale", sweep)
        stderr = sweep.communicate(timeout=240)[1]
    assert sweep.returncode == 1
    states = {run_dir: ledger.state(run_dir) for run_dir in runs(output)}
    assert sorted(states.values()) == ["finished", "stale"], stderr
    assert states[other] == "stale"
    assert f"killed in the middle, as the system does when memory runs out: {other.name}" in stderr

    again = done(words)
    assert again.returncode == 0, again.stderr
    assert "1 jobs are put into Slurm's queue" in again.stderr
    assert same_numbers(rows(output), rows(tmp_path / "here"))
    tables = [(folder / "report" / "tiny.csv").read_bytes() for folder in (output, tmp_path / "here")]
    assert tables[0] == tables[1]


def test_a_preempted_job_and_one_whose_node_goes_down_are_slurms_to_requeue(slurm, tmp_path, vectors):
    grid = ["tcm=none,paper", "seed=0", "sweep_name=tiny", *head(vectors), *LONG]
    left = done(command(tmp_path, *grid, *SLURM, "hydra.launcher.wait=false"))
    assert left.returncode == 0, left.stderr
    assert "`tcm-bench status tiny` shows how far they are" in left.stderr

    until(lambda: sum(map(in_training, runs(tmp_path))) == 2)
    told("sbatch", "--partition=high", "--nodes=2", "--ntasks-per-node=2", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: len(rows(tmp_path)) == 2)
    assert {row.reason for row in rows(tmp_path).values()} == {"stopped by SIGTERM"}
    assert all((run_dir / ledger.CHECKPOINT).exists() for run_dir in runs(tmp_path))
    until(lambda: any(map(in_training, runs(tmp_path))))
    job = min(name for name, state in queue().items() if state == "RUNNING")
    node = told("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    told("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    until(lambda: queue()[job] != "RUNNING")
    until(lambda: steps() == 0)  # a node that comes back with a job still on it is drained when it gets it again
    told("scontrol", "update", f"nodename={node}", "state=resume")
    until(lambda: not queue())
    assert {row.status for row in rows(tmp_path).values()} == {"finished"}


def test_processes_on_two_nodes_go_on_together_after_a_requeue_within_an_epoch(slurm, tmp_path, vectors):
    ddp = ["machine=ddp", "machine.accelerator=cpu", "machine.num_workers=0"]
    here, on_two_nodes = "hydra.launcher.ntasks_per_node=2", "hydra.launcher.nodes=2"
    longer = [*head(vectors), "trainer.max_epochs=4", "data.loader.batches_per_epoch=200", "sweep_name=shared"]
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "requeued"
    ran = done(command(undisturbed, *longer, *ddp, here, *SLURM))
    assert ran.returncode == 0, ran.stderr
    words = command(output, *longer, *ddp, on_two_nodes, *SLURM)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as sweep:
        wait_for(lambda: any(in_training(run_dir) and epochs(run_dir) >= 1 for run_dir in runs(output)), sweep)
        (job,) = queue()
        assert set(told("squeue", "--noheader", f"--jobs={job}", "--format=%D").split()) == {"2"}
        told("scancel", "--signal=USR2", job)
        wait_for(lambda: len(rows(output)) == 1, sweep)
        (row,) = rows(output).values()
        assert row.status == "interrupted"
        stderr = sweep.communicate(timeout=240)[1]
    assert sweep.returncode == 0, stderr
    assert same_numbers(rows(output), rows(undisturbed))
    (one,), (other,) = runs(output), runs(undisturbed)
    for name in ("weights.safetensors", ledger.HISTORY):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_sweep_that_is_launched_again_while_it_waits_in_a_full_queue_is_not_queued_twice(slurm, tmp_path, vectors):
    alone = ["--parsable", "--partition=high", "--nodes=2", "--ntasks-per-node=2", "--output=/dev/null"]
    others = told("sbatch", *alone, "--wrap=sleep 600").strip()
    until(lambda: queue()[others] == "RUNNING")
    words = command(tmp_path, "tcm=none,paper", "seed=0", *head(vectors), *SLURM, "hydra.launcher.wait=false")
    at_once = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told_by = [command.communicate(timeout=150)[1] for command in at_once]
    assert [command.returncode for command in at_once] == [0, 0], told_by
    put = [re.search(r"(\d) jobs are put into Slurm's queue(, 2 have been there)?", text) for text in told_by]
    assert sorted((one[1], bool(one[2])) for one in put if one) == [("0", True), ("2", False)], told_by
    waiting = {job: state for job, state in queue().items() if job != others}
    assert list(waiting.values()) == ["PENDING"] * 2
    told("scancel", others)
    until(lambda: not queue())
    assert {row.status for row in rows(tmp_path).values()} == {"finished"}
    assert len(rows(tmp_path)) == 2


def test_the_batch_script_is_queued_again_where_its_runs_are(slurm, tmp_path, vectors):
    _, _, *words = command(
        tmp_path, *head(vectors), *LONG, "tcm=none,paper", "sweep_name=tiny", "hydra/launcher=joblib"
    )
    script = [PROJECT_ROOT / "scripts" / "train.sbatch", *words, "machine.jobs=2", "-m"]
    told("sbatch", f"--chdir={PROJECT_ROOT}", f"--output={tmp_path / 'out'}", "--cpus-per-task=2", *script)
    until(lambda: sum(map(in_training, runs(tmp_path))) == 2)
    (job,) = queue()
    told("scancel", "--signal=USR2", job)
    until(lambda: len(rows(tmp_path)) == 2)
    assert {row.reason for row in rows(tmp_path).values()} == {"stopped by SIGUSR2"}
    until(lambda: not queue())
    assert {row.status for row in rows(tmp_path).values()} == {"finished"}, (tmp_path / "out").read_text()


def test_a_refusal_of_slurms_is_a_sentence(slurm, tmp_path, vectors):
    ran = done(command(tmp_path, *head(vectors), "tcm=none,paper", *SLURM, "hydra.launcher.partition=nosuch"))
    assert ran.returncode == 1, ran.stderr
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert "Slurm takes no jobs" in line
    assert "invalid partition specified: nosuch" in line
