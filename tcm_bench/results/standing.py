"""Where runs stand, as their folders tell: on any machine that sees them, whoever has started them."""

import csv
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from tcm_bench.results import ledger

VALIDATED = "val/"  # how the names of validation scores begin in a history


class Standing(BaseModel):
    """Where one run stands.

    Attributes:
        run_id: Its folder's name.
        choices: What it is; empty if nobody says.
        state: Of `ledger.State`, or `unreadable` where the row is not one.
        stage: What it is doing, if it is at work or was when it was killed; `done` of `total` units of it.
        epoch: The last that has ended, from 0.
        scores: Of the last validation: fractions by the names of scores.
        wall_s: Of a run that has ended.
        seconds_left: Of the stage, at its pace so far.
        host: Where it is or was at work; `pid` is the process there.
        reason: Why there is no result, or what is undefined in it.
    """

    run_id: str
    choices: dict[str, str | int] = {}
    state: ledger.State | Literal["unreadable"]
    stage: str | None = None
    done: int = 0
    total: int = 0
    epoch: int | None = None
    scores: dict[str, float] = {}
    wall_s: float | None = None
    seconds_left: float | None = None
    host: str | None = None
    pid: int | None = None
    reason: str | None = None


def standing(run_dir: Path, planned: ledger.Run | None = None) -> Standing:
    """Of the run in a folder, which need not exist yet.

    Args:
        run_dir: The folder.
        planned: What the list of a sweep says of the run.
    """
    known = planned.choices if planned else {}
    try:
        state, row, doing = ledger.state(run_dir), ledger.read_result(run_dir), ledger.read_progress(run_dir)
    except ValueError as error:
        return Standing(run_id=run_dir.name, choices=known, state="unreadable", reason=str(error))
    epoch, scores = _history(run_dir / ledger.HISTORY)
    found = Standing(
        run_id=run_dir.name, choices=row.choices if row else known, state=state, epoch=epoch, scores=scores
    )
    if doing:
        told = {name: getattr(doing, name) for name in ("stage", "done", "total", "host", "pid")}
        if state == "running":
            return found.model_copy(update={**told, "seconds_left": doing.seconds_left})
        return found.model_copy(
            update={**told, "reason": f"process {doing.pid} on {doing.host} ended without a word in {doing.stage}"}
        )
    if row:
        return found.model_copy(update={"wall_s": row.wall_s, "reason": " ".join((row.reason or "").split()) or None})
    return found


def standings(output_dir: Path, runs: Iterable[ledger.Run]) -> list[Standing]:
    """Of runs that are listed, in their order."""
    return [standing(output_dir / "runs" / run.run_id, run) for run in runs]


def counted(found: Iterable[Standing]) -> dict[str, int]:
    """How many runs stand where, by state."""
    return dict(sorted(Counter(one.state for one in found).items()))


def seconds_left(found: Iterable[Standing]) -> float | None:
    """Of all that is neither done nor failed, at the pace of what has finished; None while nothing has.

    So many runs are taken to be at work at a time as are now, or one.
    """
    found = list(found)
    walls: dict[tuple[tuple[str, str | int], ...], list[float]] = {}
    for one in found:
        if one.state == "finished" and one.wall_s is not None:
            walls.setdefault(_alike(one.choices), []).append(one.wall_s)
    if not walls:
        return None
    usual = statistics.median(wall for alike in walls.values() for wall in alike)
    waiting = [one for one in found if one.state in ("absent", "running", "stale", "interrupted")]
    at_work = sum(one.state == "running" for one in waiting)
    pending = sum(
        one.seconds_left if one.seconds_left is not None else statistics.median(walls.get(_alike(one.choices), [usual]))
        for one in waiting
    )
    return pending / max(at_work, 1)


def _alike(choices: Mapping[str, str | int]) -> tuple[tuple[str, str | int], ...]:
    """All but the seed, on which the time does not depend."""
    return tuple(sorted((key, value) for key, value in choices.items() if key != "seed"))


def _history(file: Path) -> tuple[int | None, dict[str, float]]:
    """The last epoch, and the scores of the last validation; nothing where there is no history, or a damaged one."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        epoch = int(rows[-1]["epoch"]) if rows else None
        for row in reversed(rows):
            scores = {
                name.removeprefix(VALIDATED): float(value)
                for name, value in row.items()
                if name and name.startswith(VALIDATED) and value
            }
            if scores:
                return epoch, scores
    except (OSError, KeyError, ValueError, TypeError, csv.Error):
        return None, {}
    return epoch, {}
