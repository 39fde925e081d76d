"""What has been trained: `tcm-bench status`, `report`, `curves` and `replay`."""

import math
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tcm_bench.report.source import KINDS, run_folder, source
from tcm_bench.results import ledger
from tcm_bench.results.labels import Label, labels

NAMELESS = Label("–", "–", "–", "", "–", "–")  # a run alone that has not ended, so nothing says yet what it is


def _outputs() -> Path:
    from tcm_bench.runs.naming import PROJECT_ROOT  # hydra: a third of a second that --help need not pay

    return PROJECT_ROOT / "outputs"


TrustedPackages = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-package",
        help="A package of your own that the run's configuration may name; may be given again.",
    ),
]
OutputDir = Annotated[
    Path,
    typer.Option(
        default_factory=_outputs,
        show_default="outputs/ of the project",
        help="Folder that holds runs/ and sweeps/.",
    ),
]


def status(output_dir: OutputDir) -> None:
    """Every run: where it stands, what it is, how far it is."""
    planned = {run.run_id: run for path in _sweeps(output_dir) for run in ledger.read_sweep(path)}
    folders = {folder.name: folder for folder in sorted((output_dir / "runs").glob("*/"))}
    if not folders and not planned:
        raise ValueError(f"there are no runs in {output_dir}; `python train.py` makes one")
    standings = {
        run_id: _standing(output_dir / "runs" / run_id, planned.get(run_id))
        for run_id in [*planned, *(name for name in folders if name not in planned)]
    }
    known = [standing.run for standing in standings.values() if standing.run]
    called = dict(zip((run.run_id for run in known), labels(known), strict=True))
    table = Table("run", "state", *Label._fields, "progress", box=None, padding=(0, 1, 0, 0))
    for run_id, row in standings.items():
        table.add_row(*map(Text, [run_id, row.state, *called.get(run_id, NAMELESS), row.progress]))
    counts = Counter(row.state for row in standings.values())
    reasons = [f"{run_id}: {row.reason}" for run_id, row in standings.items() if row.reason]
    terminal = console()
    terminal.print(table)
    for reason in reasons:
        terminal.print(reason, markup=False, highlight=False, soft_wrap=True)
    terminal.print(f"{counts.total()} runs: {', '.join(f'{n} {state}' for state, n in sorted(counts.items()))}")


def report(
    names: Annotated[list[str], typer.Argument(help="Sweeps; several are folded as if they were one.")],
    output_dir: OutputDir,
) -> None:
    """Fold the runs of sweeps to their comparisons: a table here, and report/NAMES.csv and .md."""
    planned = list({run.run_id: run for name in names for run in _planned(name, output_dir)}.values())
    from tcm_bench.report.comparison import comparison_table, write_comparison

    rows = list(ledger.results(output_dir / "runs" / run.run_id for run in planned))
    terminal = console()
    terminal.print(comparison_table(rows, planned, width=terminal.width))
    for written in write_comparison(rows, output_dir / "report", "-".join(names), planned):
        terminal.print(f"written: {written}", soft_wrap=True, highlight=False, markup=False)


def choose(
    names: Annotated[list[str], typer.Argument(help="Sweeps whose runs hold out classes for validation.")],
    output_dir: OutputDir,
    tolerance: Annotated[float, typer.Option(help="By how many points R@1 may lie below.")] = 0.2,
) -> None:
    """Choose settings by the held-out classes of sweeps' runs: a table here, and report/NAMES-choice.csv and .md."""
    planned = dict.fromkeys(run.run_id for name in names for run in _planned(name, output_dir))
    from tcm_bench.report.choice import write_choices

    rows = ledger.results(output_dir / "runs" / run_id for run_id in planned)
    written = write_choices(rows, output_dir / "report", "-".join(names), tolerance / 100)
    typer.echo(written[1].read_text(encoding="utf-8"))
    for path in written:
        typer.echo(f"written: {path}")


def curves(
    base: Annotated[str, typer.Argument(help=f"Without TCM: {KINDS}.")],
    tcm: Annotated[str, typer.Argument(help="With TCM.")],
    out: Annotated[Path, typer.Option(help="File to draw into: .png, .svg or .pdf.")],
    output_dir: OutputDir,
) -> None:
    """Draw the utility curves of the classes of two networks side by side."""
    sides = source(base, output_dir), source(tcm, output_dir)
    from tcm_bench.report.curves import write_utility_figure

    typer.echo(f"written: {write_utility_figure(*sides, out)}")


def replay(
    run: Annotated[str, typer.Argument(help="A run whose training diverged: its id, the start of it, or its folder.")],
    output_dir: OutputDir,
    trusted_package: TrustedPackages = None,
) -> None:
    """Compute the batch at which a run's training diverged once more: its terms, its items, what is not finite.

    In Python: `tcm_bench.runs.replay.replayed`.
    """
    folder = run_folder(run, output_dir)
    from tcm_bench.runs.replay import replayed

    found = replayed(folder, trusted_package or ())
    stopped = found.stopped
    typer.echo(f"epoch {stopped.epoch}, batch {stopped.batch}, after {stopped.step} steps")
    table = Table("term", "then", "now", box=None, padding=(0, 1, 0, 0))
    for name, value in found.terms.items():
        table.add_row(name, f"{stopped.terms.get(name, math.nan):.6g}", f"{value:.6g}")
    console().print(table)
    bad = (~found.embeddings.detach().isfinite().all(dim=1)).cpu()
    typer.echo(f"weights not finite: {', '.join(found.broken_weights) or 'none'}")
    typer.echo(f"embeddings not finite: {int(bad.sum())} of {len(bad)}")
    typer.echo("items, as class: rows of the training table (* not finite)")
    for number in sorted(set(found.classes)):
        rows = [
            f"{row}{'*' * is_bad}"
            for row, label, is_bad in zip(stopped.indices.tolist(), found.classes, bad.tolist(), strict=True)
            if label == number
        ]
        typer.echo(f"  {number}: {' '.join(rows)}")


def console() -> Console:
    """The terminal; wide enough to be read by line where there is none."""
    terminal = Console()
    if not terminal.is_terminal and "COLUMNS" not in os.environ:
        terminal.width = 120
    return terminal


def _planned(name: str, output_dir: Path) -> list[ledger.Run]:
    path = output_dir / ledger.SWEEPS / f"{name}.json"
    if not path.is_file():
        known = ", ".join(p.stem for p in _sweeps(output_dir)) or "none so far"
        raise ValueError(f"there is no sweep '{name}' in {output_dir}; sweeps there: {known}")
    return ledger.read_sweep(path)


def _sweeps(output_dir: Path) -> list[Path]:
    return sorted((output_dir / ledger.SWEEPS).glob("*.json"))


class Standing(NamedTuple):
    """Where a run stands; `run` is what it is, if known."""

    state: str
    run: ledger.Run | None
    progress: str = ""
    reason: str = ""


def _standing(folder: Path, planned: ledger.Run | None) -> Standing:
    """Of the run in a folder that may not exist yet."""
    try:
        state = ledger.state(folder)
        result = ledger.read_result(folder)
    except ValueError as error:
        return Standing("unreadable", planned, reason=str(error))
    run = result or planned
    if doing := ledger.read_progress(folder):
        progress = doing.stage + (f" {doing.done}/{doing.total}" if doing.total else "")
        gone = "" if state == "running" else f"process {doing.pid} ended without a word"
        return Standing(state, run, progress, gone)
    if result is None:
        return Standing(state, run)
    return Standing(state, run, f"{result.wall_s:.0f} s", " ".join((result.reason or "").split()))
