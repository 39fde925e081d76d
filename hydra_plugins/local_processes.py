"""Hydra's launcher for this machine. Under `hydra_plugins`, because Hydra takes launchers from there only."""

import os
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from multiprocessing import resource_tracker
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from tcm_bench.process import cores, hold_ctrl_c

LAST_WORDS_S = 3  # after Ctrl-C, which reaches the processes as well: they write down how far they are


class LocalProcesses(Launcher):
    """Jobs in `n_jobs` processes, each of which may die without the others.

    The launcher of hydra-joblib-launcher has all jobs in one pool, and a process that is killed, as the system does
    when memory runs out, takes the pool with it. Here each process is a pool of its own: the job dies alone and is not
    repeated, and the next one gets a new process. How a job runs in its process is that launcher's own code.
    """

    def __init__(self, n_jobs: int) -> None:
        """Take the number of processes, at least 1."""
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives to every launcher."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job once; what a job that died was is told by what it left in its folder.

        Args:
            job_overrides: Overrides of each job.
            initial_job_idx: Number of the first.

        Returns:
            What each job returned, in their order; None in place of a value if its process died.
        """
        from hydra_plugins.hydra_joblib_launcher._core import execute_job  # joblib: only for who launches
        from joblib.externals.loky import ProcessPoolExecutor
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        resource_tracker.ensure_running()  # here, because starting it undoes `hold_ctrl_c` (in Python 3.11 to 3.13)
        state = Singleton.get_state()
        n_jobs = min(self.n_jobs, len(job_overrides))
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(job_overrides)):
            waiting.put(number)
        returned: dict[int, JobReturn] = {}
        pools: dict[int, Any] = {}

        def work(slot: int) -> None:
            """One job after the other, in a process of this slot's own."""
            hold_ctrl_c()  # the main thread gets it, and each job when it is ready for it
            while (number := _next(waiting)) is not None:
                if slot not in pools:
                    pools[slot] = ProcessPoolExecutor(max_workers=1, env=_shared_threads(n_jobs))
                overrides, place = job_overrides[number], initial_job_idx + number
                context, config, task = self.hydra_context, self.config, self.task_function
                try:
                    job = pools[slot].submit(execute_job, place, overrides, context, config, task, state)
                    returned[number] = job.result()
                except TerminatedWorkerError:
                    del pools[slot]
                    returned[number] = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)

        with ThreadPoolExecutor(n_jobs) as slots:
            running = [slots.submit(work, slot) for slot in range(n_jobs)]
            try:
                for ended in as_completed(running):
                    ended.result()
            except BaseException:
                while _next(waiting) is not None:
                    pass
                try:
                    wait(running, timeout=LAST_WORDS_S)
                finally:  # also after a second Ctrl-C
                    for pool in list(pools.values()):
                        pool.shutdown(wait=False, kill_workers=True)
                raise
        for pool in pools.values():
            pool.shutdown()
        return [returned[number] for number in sorted(returned)]


def _next(waiting: "queue.SimpleQueue[int]") -> int | None:
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return None


def _shared_threads(processes: int) -> dict[str, str]:
    """Settings by which numerical libraries share the cores, where the user has not set them."""
    from joblib.parallel import ParallelBackendBase

    share = str(max(cores() // processes, 1))
    return {name: os.environ.get(name, share) for name in ParallelBackendBase.MAX_NUM_THREADS_VARS}
