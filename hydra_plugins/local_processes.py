"""Hydra's launcher for this machine. Under `hydra_plugins`, because Hydra takes launchers from there only."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from multiprocessing import resource_tracker
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from tcm_bench.process import NOTICES, Preempted, cores, hold_ctrl_c, keep_to_cores
from tcm_bench.runs.launching import JobLauncher

LAST_WORDS_S = 3  # after Ctrl-C, which reaches the processes as well: they write down how far they are


class LocalProcesses(JobLauncher):
    """Jobs in `n_jobs` processes, each of which may die without the others.

    The launcher of hydra-joblib-launcher has all jobs in one pool, and a process that is killed, as the system does
    when memory runs out, takes the pool with it. Here each process is a pool of its own: the job dies alone and is not
    repeated, and the next one gets a new process. How a job runs in its process is that launcher's own code.

    Each process has its share of the cores, and a GPU of its own as far as there are enough. After a job that failed
    on a GPU it is a new process, as a fault of CUDA lasts as long as the process. The two arms of a comparison run one
    after the other in the same process, so that the first comparisons are known early. A scheduler's notice is passed
    on to the processes, whose runs write a checkpoint.
    """

    def __init__(self, n_jobs: int, accelerator: str = "auto") -> None:
        """Take the number of processes, at least 1, and where jobs compute: for `cpu` no GPU is given out."""
        self.n_jobs = n_jobs
        self.accelerator = accelerator

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job once; what a job that died was is told by what it left in its folder.

        Args:
            job_overrides: Overrides of each job.
            initial_job_idx: Number of the first.

        Returns:
            What each job returned, in their order; None in place of a value if its process died.

        Raises:
            Preempted: If a scheduler has given notice; runs that were at work have come to their end then.
        """
        from hydra_plugins.hydra_joblib_launcher._core import execute_job  # joblib: only for who launches
        from joblib.externals.loky import ProcessPoolExecutor

        from tcm_bench.runs.sweep import gpus_for

        planned = self.begin(initial_job_idx, len(job_overrides))
        resource_tracker.ensure_running()  # here, because starting it undoes `hold_ctrl_c` (in Python 3.11 to 3.13)
        n_jobs = min(self.n_jobs, len(job_overrides))
        gpus = gpus_for(self.accelerator, [job for job in planned if not job.is_taken])
        waiting = Waiting([job.comparison for job in planned], [job.gpu_hours for job in planned])
        returned: dict[int, JobReturn] = {}
        pools: dict[int, Any] = {}
        given: list[str] = []  # notices of a scheduler

        def work(slot: int) -> None:
            """One job after the other, in a process of this slot's own."""
            hold_ctrl_c()  # the main thread gets it, and each job when it is ready for it
            gpu = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
            while (number := waiting.next(slot)) is not None:
                if slot not in pools:
                    pools[slot] = ProcessPoolExecutor(
                        max_workers=1,
                        env={**_shared_threads(n_jobs), **gpu},
                        initializer=keep_to_cores,
                        initargs=(slot, n_jobs),
                    )
                overrides = job_overrides[number]
                try:
                    job = pools[slot].submit(execute_job, *self.arguments(initial_job_idx + number, overrides))
                    if given:  # in the moment between
                        break
                    returned[number] = job.result()
                    row = returned[number]._return_value
                    if gpu and (isinstance(row, Exception) or getattr(row, "status", None) == "failed"):
                        pools.pop(slot).shutdown()
                except (Exception, Preempted, KeyboardInterrupt):  # noqa: BLE001 - its process died, or cannot be trusted
                    pools.pop(slot).shutdown(wait=False, kill_workers=True)
                    returned[number] = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)

        def pass_on(number: int) -> None:
            """Give out no more jobs, and tell the processes."""
            waiting.clear()
            given.append(signal.Signals(number).name)
            for process in [one for pool in list(pools.values()) for one in list(pool._processes)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)

        with ThreadPoolExecutor(n_jobs) as slots, _on_notice(pass_on):
            running = [slots.submit(work, slot) for slot in range(n_jobs)]
            try:
                for ended in as_completed(running):
                    ended.result()
            except BaseException:
                waiting.clear()
                try:
                    wait(running, timeout=LAST_WORDS_S)
                finally:  # also after a second Ctrl-C
                    for pool in list(pools.values()):
                        pool.shutdown(wait=False, kill_workers=True)
                raise
        for pool in pools.values():
            pool.shutdown(kill_workers=bool(given))
        if given:
            raise Preempted(given[0])
        return [returned[number] for number in sorted(returned)]


@contextlib.contextmanager
def _on_notice(act: Callable[[int], None]) -> Iterator[None]:
    """Within, call this with the number of a scheduler's signal."""
    before = {number: signal.signal(number, lambda number, _: act(number)) for number in NOTICES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Waiting:
    """Jobs that nobody has taken yet, in an order in which comparisons are whole early, and the long ones begin first.

    Example:
        >>> waiting = Waiting(["a", "b", "a", "b", "c"], [1, 1, 1, 1, 9])
        >>> [waiting.next(slot) for slot in (0, 1, 1, 0, 0, 1)]  # c, a, the other a, b, the other b
        [4, 0, 2, 1, 3, None]
    """

    def __init__(self, comparisons: Sequence[str], hours: Sequence[float]) -> None:
        """Take what each job is part of, and how long it is expected to take."""
        order = sorted(range(len(comparisons)), key=lambda number: -hours[number])
        self.waiting = {number: comparisons[number] for number in order}
        self.at: dict[int, str] = {}  # what each slot has last had a job of
        self.lock = threading.Lock()

    def next(self, slot: int) -> int | None:
        """Number of the job for a slot: of the comparison it is at, else of one that nobody is at, else any."""
        with self.lock:

            def nearness(number: int) -> int:
                comparison = self.waiting[number]
                return 0 if comparison == self.at.get(slot) else 2 if comparison in self.at.values() else 1

            if not self.waiting:
                return None
            number = min(self.waiting, key=nearness)
            self.at[slot] = self.waiting.pop(number)
            return number

    def clear(self) -> None:
        """Give out no more."""
        with self.lock:
            self.waiting.clear()


def _shared_threads(processes: int) -> dict[str, str]:
    """Settings by which numerical libraries share the cores, where the user has not set them."""
    from joblib.parallel import ParallelBackendBase

    share = str(max(cores() // processes, 1))
    return {name: os.environ.get(name, share) for name in ParallelBackendBase.MAX_NUM_THREADS_VARS}
