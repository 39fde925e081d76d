"""How far something long is: a bar on a terminal, a line now and then anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINE_EVERY_S = 30.0

Tell = Callable[[int, int | None], None]


@contextmanager
def progress(
    what: str, say: Callable[[str], None] | None = None, *, in_bytes: bool = False, visible: bool = True
) -> Iterator[Tell]:
    """Report on `what` while the block runs.

    Args:
        what: In a few words.
        say: Takes lines where stderr is no terminal; None: silence there.
        in_bytes: Whether bytes are counted, or items.
        visible: False: no bar either.

    Yields:
        To be called with how much is done and how much there is, None if unknown.
    """
    console = Console(stderr=True)
    is_terminal, said = console.is_terminal, time.monotonic()
    counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (visible and is_terminal)) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int | None) -> None:
            nonlocal said
            bar.update(task, completed=done, total=total)
            if say and not is_terminal and time.monotonic() - said >= LINE_EVERY_S:
                said = time.monotonic()
                amounts = [decimal(number) if in_bytes else f"{number:,}" for number in (done, total) if number]
                say(f"{what}: {' of '.join(amounts)}")

        yield tell
