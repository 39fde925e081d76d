"""Hydra's launcher for a Slurm cluster, by submitit. Under `hydra_plugins`, where Hydra looks for launchers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from tcm_bench.runs.launching import JobLauncher

LONGEST_ARRAY = 1000  # Slurm's own default allows one more
POLL_S = 5
TRIES = 3  # of asking what is in the queue before jobs are submitted


class SlurmJobs(JobLauncher):
    """An array of jobs, each a run; who submits them may leave, as runs write down in their folders how far they are.

    Before a job's time is up Slurm sends SIGUSR2: the run writes a checkpoint at its next step, and submitit, which
    alone does so, puts the job into the queue again. SIGTERM means that Slurm itself will requeue the job (another one
    preempts it) or that someone has cancelled it: the run writes a checkpoint and waits to be killed.
    """

    def __init__(self, *, wait: bool, requeues: int, python: str | None, more: Any, **parameters: Any) -> None:
        """Take `conf/hydra/launcher/slurm.yaml`."""
        self.wait, self.requeues, self.python = wait, requeues, python
        plain = OmegaConf.to_container(OmegaConf.create(parameters), resolve=True)
        assert isinstance(plain, dict)
        self.parameters = {str(key): value for key, value in plain.items() if value is not None}
        self.parameters["srun_args"] = ["--kill-on-bad-exit=1", *self.parameters.get("srun_args", ())]
        self.more = dict(more)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit every job that is neither done nor at work, and wait until none of these is in Slurm's queue any more.

        Args:
            job_overrides: Overrides of each job.
            initial_job_idx: Number of the first.

        Returns:
            For each job that it is over, whatever became of it: that is told by what it left in its folder.
        """
        from tcm_bench.runs.sweep import say  # which has the terminal

        planned = self.begin(initial_job_idx, len(job_overrides))
        order = sorted(range(len(planned)), key=lambda number: (-planned[number].gpu_hours, planned[number].comparison))
        jobs = {
            planned[n].run_id: Job(*self.arguments(initial_job_idx + n, job_overrides[n]))
            for n in order
            if not planned[n].is_taken
        }
        ids = self._put_into_queue(jobs) if jobs else []
        if self.wait:
            try:
                # Also for one that Slurm only clears away, as it does for seconds before it queues a job again.
                while ids and ((queue := _queue()) is None or not queue.keys().isdisjoint(ids)):
                    time.sleep(POLL_S)
            except KeyboardInterrupt:
                say(f"the jobs go on without this command; `scancel {' '.join(self._names(ids))}` ends them")
                raise
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]

    def _put_into_queue(self, jobs: Mapping[str, "Job"]) -> list[str]:
        """Submit jobs but for those of which the queue has one already, of the same sweep launched twice, say.

        Returns:
            Slurm's name of the job of each run.
        """
        from tcm_bench.files import locked, write_atomic
        from tcm_bench.runs.sweep import say

        self._folder().mkdir(mode=0o700, parents=True, exist_ok=True)  # who writes there has code run here
        with locked(self._folder() / ".lock", lambda: say("another command submits jobs: waiting for it")):
            queue = _asked_again()
            noted = {run: job for run, job in self._noted().items() if job in queue}
            earlier = [job for run, job in noted.items() if run in jobs]
            new = {run: job for run, job in jobs.items() if run not in noted}
            for submitted in self._submitted(new):  # an array
                noted.update(submitted)
                write_atomic(self._notes, json.dumps(noted))
        of_runs = [noted[run] for run in jobs]
        arrays = ",".join(sorted(set(map(_array, of_runs))))
        told = f"{len(new)} jobs are put into Slurm's queue" + (f", {len(earlier)} have been there" if earlier else "")
        say(f"{told}: `squeue --jobs={arrays}`, logs in {self._folder()}")
        return of_runs

    @property
    def _notes(self) -> Path:
        """Where the name of each run's job stands, for whoever submits next."""
        return self._folder() / "queued.json"

    def _noted(self) -> dict[str, str]:
        """Slurm's names of the jobs that were submitted, by their runs.

        Raises:
            ValueError: If the file is damaged.
        """
        try:
            return dict(json.loads(self._notes.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(
                f"{self._notes} is damaged: remove it when no job of these runs is in Slurm's queue any more"
            ) from error

    def _names(self, ids: Sequence[str]) -> list[str]:
        """What to cancel: arrays as a whole, but those of which another command waits for a part."""
        others = {_array(job) for job in self._noted().values() if job not in ids}
        return sorted({job if _array(job) in others else _array(job) for job in ids})

    def _folder(self) -> Path:
        return Path(self.config.paths.results_dir).absolute() / "slurm"

    def _submitted(self, jobs: Mapping[str, "Job"]) -> Iterator[dict[str, str]]:
        """Submit jobs as arrays of the allowed length; for each array Slurm's names of its jobs, by runs.

        Raises:
            ValueError: If Slurm is not there or refuses.
        """
        if not jobs:
            return
        try:
            from submitit import SlurmExecutor
            from submitit.core.utils import FailedJobError
        except ImportError as error:
            raise ValueError(
                "hydra/launcher=slurm needs submitit: `make setup EXTRAS=cpu,dev,slurm` installs it"
            ) from error
        begun = 0
        try:
            executor = SlurmExecutor(self._folder() / "%j", max_num_timeout=self.requeues, python=self.python)
            executor.update_parameters(**self.parameters, stderr_to_stdout=True, additional_parameters=self.more)
            runs = list(jobs)
            for start in range(0, len(runs), LONGEST_ARRAY):
                # Of one job submitit makes no array; its number is then the job's.
                of_array = runs[start : start + LONGEST_ARRAY]
                with executor.batch():
                    submitted = [executor.submit(jobs[run]) for run in of_array]
                begun += len(submitted)
                yield {run: str(job.job_id) for run, job in zip(of_array, submitted, strict=True)}
        except (FailedJobError, subprocess.SubprocessError, ValueError) as error:
            after = f" (after {begun} of {len(jobs)})" if begun else ""
            raise ValueError(f"Slurm takes no jobs{after}: {' '.join(str(error).split())}") from error
        except RuntimeError as error:  # there is no srun here
            raise ValueError(f"hydra/launcher=slurm: {error}") from error


class Job:
    """One run, as it is called on a node."""

    def __init__(self, *arguments: Any) -> None:
        """Take what a job of hydra-joblib-launcher takes, and note where one's own code may lie."""
        self.arguments = arguments
        self.folder = str(Path.cwd())

    def __call__(self) -> Any:
        """Run it; on a notice of Slurm's leave a checkpoint and the rest to whom it belongs."""
        from hydra_plugins.hydra_joblib_launcher._core import execute_job

        from tcm_bench.process import NOTICE, Preempted

        sys.path.append(self.folder)
        requeue: Any = signal.getsignal(signal.SIGUSR2)  # submitit's
        NOTICE.listen()
        try:
            return execute_job(*self.arguments)
        except (Preempted, KeyboardInterrupt):  # the latter of a run that starts over each time
            if NOTICE.given is None:
                raise
            return _leave(requeue, NOTICE.given)

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again: the same, as the run itself knows where to go on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _leave(requeue: Callable[[int, Any], None], given: str | None) -> None:
    """End a job that has been given notice, here or in another of its processes."""
    while given == "SIGTERM":  # Slurm's to decide: it kills soon
        signal.pause()  # until a signal comes, of which Slurm sends several
    requeue(signal.SIGUSR2, None)  # ends the process, if it is the first of the job


def _queue() -> dict[str, str] | None:
    """States of this user's jobs by Slurm's names, each of an array by itself; None if it does not answer."""
    asked = ["squeue", "--noheader", "--all", "--array", "--format=%i %t", f"--user={os.getuid()}"]
    mine = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}  # one's own filters
    ran = subprocess.run(asked, capture_output=True, text=True, check=False, env=mine)
    if ran.returncode:
        return None
    return dict(line.split() for line in ran.stdout.splitlines())


def _asked_again() -> set[str]:
    """Slurm's names of this user's jobs that have not ended, from a controller that may be busy.

    Raises:
        ValueError: If it does not answer.
    """
    if shutil.which("squeue") is None:  # submitting says so
        return set()
    for _ in range(TRIES):
        if (queue := _queue()) is not None:
            return {job for job, state in queue.items() if state != "CG"}  # which only clears away what has ended
        time.sleep(POLL_S)
    raise ValueError("Slurm does not answer (squeue), so nobody knows what is in its queue: try again later")


def _array(job: str) -> str:
    return job.partition("_")[0]
