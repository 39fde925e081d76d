"""How far a long transfer is: a bar on a terminal, a line now and then anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

LINE_EVERY_S = 30.0


@contextmanager
def progress(
    what: str, total: int | None, say: Callable[[str], None], done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Report on `what` while the block runs.

    Args:
        what: In a few words.
        total: Bytes in all, None if unknown.
        say: Where lines go when there is no terminal.
        done: Bytes that were there before.

    Yields:
        To be called with the number of bytes after each piece.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(what, total=total, completed=done)
            yield lambda count: bar.advance(task, count)
        return
    last = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            say(f"{what}: {gigabytes(done)}" + (f" of {gigabytes(total)}" if total else ""))

    yield advance


def gigabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
