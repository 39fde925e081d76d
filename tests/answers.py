"""What the real command answers, in a fork of this process instead of a new interpreter that imports torch anew.

A command that computes must be told `machine.threads=1`: teams of threads that this process has had do not survive a
fork, and the first operation that asks for one would wait for ever.
"""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 100


class Answer(NamedTuple):
    """How a command ended; `status` is None if it gave no answer in time and was killed."""

    status: int | None
    stdout: str
    stderr: str


def answer(main: Callable[[], object], words: Sequence[str], cwd: Path | None = None) -> Answer:
    """Status and output of `main` with these words on its command line, in a process of its own."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            _run(main, words, cwd, out.fileno(), err.fileno())
        status = _waited_for(child)
        return Answer(status, *(_content(stream) for stream in (out, err)))


def _content(stream) -> str:
    stream.seek(0)
    return stream.read()


def _waited_for(child: int) -> int | None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _run(main: Callable[[], object], words: Sequence[str], cwd: Path | None, out: int, err: int) -> None:
    status = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        sys.argv = ["train.py", *words]
        if cwd:
            os.chdir(cwd)
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - what the interpreter would show
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
