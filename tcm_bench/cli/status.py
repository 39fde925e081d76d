"""Where runs stand: `tcm-bench status`."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tcm_bench.cli.shared import AsJson, OutputDir, console, duration, sweep_files, sweep_named, tell
from tcm_bench.report.scores import score
from tcm_bench.results import ledger
from tcm_bench.results.labels import Label, labels
from tcm_bench.results.standing import Standing, counted, seconds_left, standings

NAMELESS = Label("–", "–", "–", "", "–", "–")  # a run alone that has not ended, so nothing says yet what it is
SHOWN = ("recall_at_1", "opis")  # of a validation
EVERY_S = 2.0


def status(
    output_dir: OutputDir,
    sweep: Annotated[str | None, typer.Argument(help="Of this sweep; else of every run there is.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds, until all have ended.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Every run: where it stands, what it is, how far it is; of a sweep also what takes it up again.

    Read from the folders alone, on any machine that sees them. `stale` is a run of which nothing was heard for 45 s.
    """
    if watch and as_json:
        raise ValueError("--watch is for people, --json for programs; give one of them")
    if not watch:
        runs, command = _runs(output_dir, sweep)
        found = standings(output_dir, runs)
        if as_json:
            typer.echo(json.dumps(_plain(sweep, found, command), indent=2))
        else:
            terminal = console()
            table, lines = _shown(runs, found, command)
            terminal.print(table)
            tell(terminal, lines)
        return
    with Live(console=console(), refresh_per_second=4) as live:
        while True:
            runs, command = _runs(output_dir, sweep)
            found = standings(output_dir, runs)
            table, lines = _shown(runs, found, command)
            live.update(Group(table, *map(Text, lines)))
            if not {"running", "absent", "interrupted"} & {one.state for one in found}:
                return
            time.sleep(EVERY_S)


def _runs(output_dir: Path, sweep: str | None) -> tuple[list[ledger.Run], str | None]:
    """What there is to know of, and the command of the sweep."""
    if sweep is not None:
        listed = sweep_named(sweep, output_dir)
        return listed.runs, listed.command
    planned = {run.run_id: run for path in sweep_files(output_dir) for run in _listed(path)}
    unlisted = [folder for folder in ledger.run_dirs(output_dir) if folder.name not in planned]
    known = {row.run_id: row for row in ledger.results_of(unlisted)[0]}
    planned |= {name: known.get(name) or ledger.Run(run_id=name, choices={}) for name in (one.name for one in unlisted)}
    if not planned:
        raise ValueError(f"there are no runs in {output_dir}; `python train.py` makes one")
    return list(planned.values()), None


def _listed(path: Path) -> list[ledger.Run]:
    """The runs of a sweep's list; none of a damaged one, whose runs are there for themselves."""
    try:
        return ledger.read_sweep(path).runs
    except ValueError:
        return []


def _plain(sweep: str | None, found: Sequence[Standing], command: str | None) -> dict[str, Any]:
    return {
        "sweep": sweep,
        "runs": [one.model_dump() for one in found],
        "counts": counted(found),
        "seconds_left": seconds_left(found),
        "command": command,
    }


def _shown(runs: Sequence[ledger.Run], found: Sequence[Standing], command: str | None) -> tuple[Table, list[str]]:
    """The table, and what is said beneath it."""
    named = [run for run in runs if run.choices]
    called = dict(zip((run.run_id for run in named), labels(named), strict=True))
    table = Table("run", "state", *Label._fields, "progress", box=None, padding=(0, 1, 0, 0))
    for one in found:
        table.add_row(*map(Text, [one.run_id, one.state, *called.get(one.run_id, NAMELESS), _progress(one)]))
    below = [f"{one.run_id}: {one.reason}" for one in found if one.reason]
    counts = counted(found)
    left = seconds_left(found) if {"running", "absent"} & {*counts} else None
    ahead = f", {duration(left)} left" if left is not None else ""
    below.append(f"{len(found)} runs: {', '.join(f'{n} {state}' for state, n in counts.items())}{ahead}")
    if command and {"failed", "interrupted", "stale", "absent", "unreadable"} & {*counts}:
        below.append(f"what has not finished goes on with: {command}")
    return table, below


def _progress(one: Standing) -> str:
    if one.stage is None:
        return "" if one.wall_s is None else f"{one.wall_s:.0f} s"
    parts = [one.stage + (f" {one.done}/{one.total}" if one.total else "")]
    if one.epoch is not None:
        parts.append(f"epoch {one.epoch}")
    parts += [f"{score(name).title} {score(name).shown(one.scores[name], 1)}" for name in SHOWN if name in one.scores]
    if one.seconds_left is not None:
        parts.append(f"{duration(one.seconds_left)} left")
    return ", ".join(parts)
