"""A process among others: whether it is the first of its run, and what Ctrl-C does to it.

Imports nothing that takes time, so that Ctrl-C is answered from the start.
"""

import os
import signal
import sys
from typing import Any, NoReturn

RUN_INTERRUPTED = "interrupted; the same command goes on from here"
INTERRUPTED = 130  # the exit status that shells give to what was stopped by Ctrl-C
PREEMPTED = 75  # EX_TEMPFAIL: try again later
FORKED_S = 10  # how long a process that reads images outlives a notice
NOTICES = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # of a scheduler, some time before it kills


def is_first_process() -> bool:
    """Whether this process looks after its run's folder: it runs alone, or is the first of those that share the run.

    Told from what torchrun, srun and Lightning's launcher set before any of them has met the others.
    """
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(int(os.environ.get(name) or 0) == 0 for name in ranks)


def cores() -> int:
    """Cores that this process may use; all there are where the system cannot say (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_to_cores(slot: int, slots: int) -> None:
    """From here on this process has its share of the cores: so many threads and workers it starts as they are.

    Args:
        slot: Which of the processes that share them.
        slots: How many these are; if more than cores, several have the same one.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    mine = sorted(os.sched_getaffinity(0))
    share = max(len(mine) // slots, 1)
    first = slot * share % len(mine)
    os.sched_setaffinity(0, mine[first : first + share])


def launched() -> tuple[int, int] | None:
    """Processes of this run on each node, and nodes, if torchrun or srun has started them; None if neither has."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    if "SLURM_STEP_ID" in os.environ:  # not in a batch script itself, which is a single process
        nodes = int(os.environ["SLURM_NNODES"])
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None


def leave_on_ctrl_c(line: str) -> None:
    """From here on Ctrl-C ends this process on the spot, with `line` and status 130.

    For the seconds in which nothing is done yet but importing: an exception there can be swallowed or shown by whatever
    is being imported. Where Ctrl-C is ignored (nohup, a shell's `&`) it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Leave(line))


def raise_on_ctrl_c() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt, because there is something to put in order.

    One that was held back (:func:`hold_ctrl_c`) takes effect now.
    """
    if isinstance(signal.getsignal(signal.SIGINT), _Leave):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class _Leave:
    """A signal's handler that says a line and ends the process."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __call__(self, *_: Any) -> NoReturn:
        if is_first_process():
            os.write(2, f"\n{self.line}\n".encode())
        os._exit(INTERRUPTED)


class Preempted(SystemExit):
    """A scheduler wants the machine back; the exit status asks it to start the same command again."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(PREEMPTED)
        self.signal_name = signal_name

    def __str__(self) -> str:
        """Why the run ended."""
        return f"stopped by {self.signal_name}"


class Notice:
    """What a scheduler says by a signal some time before it kills.

    Attributes:
        given: Name of the signal that has come; None if none has.
        can_wait: Whether someone will look at `given` soon, and end the process well. Else it ends at once.
    """

    def __init__(self) -> None:
        self.given: str | None = None
        self.can_wait = False
        self._process: int | None = None

    def listen(self) -> None:
        """Be told from here on; in the main thread."""
        self._process = os.getpid()
        for number in NOTICES:
            signal.signal(number, self._heard)

    def listen_again(self) -> None:
        """Undo what a library has done to the signals, if this process was listening."""
        if self._process == os.getpid():
            self.listen()

    def _heard(self, number: int, _: Any) -> None:
        if os.getpid() != self._process:  # one that was forked, to read images: its parent ends it
            if number == signal.SIGTERM:  # its parent may have been told as well, and needs it for one step more
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(FORKED_S)
            return
        if self.given is not None:  # a second one would interrupt what the first has begun
            return
        self.given = signal.Signals(number).name
        if not self.can_wait:
            raise Preempted(self.given)


NOTICE = Notice()


def hold_ctrl_c() -> None:
    """Keep Ctrl-C from this thread and from the processes that it starts, until they ask for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def end_interrupted(line: str) -> NoReturn:
    """Leave with `line` and status 130, as after Ctrl-C; only the first process says it."""
    if is_first_process():
        sys.stderr.write(f"\n{line}\n")
    sys.exit(INTERRUPTED)
