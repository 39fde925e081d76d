"""What comes of runs: `tcm-bench report`, `choose`, `curves`, `circle`, `pareto` and `replay`."""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tcm_bench.cli.shared import OutputDir, TrustedPackages, console, runs_of, tell
from tcm_bench.report.source import KINDS, run_folder, source
from tcm_bench.results import ledger


def report(
    names: Annotated[list[str], typer.Argument(help="Sweeps; several are folded as if they were one.")],
    output_dir: OutputDir,
    page: Annotated[bool, typer.Option(help="Write the page and its figures as well, which takes a while.")] = True,
    trusted_package: TrustedPackages = None,
) -> None:
    """Fold the runs of sweeps to their comparisons: a table here, report/NAMES.csv, .md, .tex, and .html, a page."""
    planned = runs_of(names, output_dir)
    from tcm_bench.report.comparison import comparison_table, write_comparison

    rows = list(ledger.results(output_dir / "runs" / run.run_id for run in planned))
    terminal = console()
    terminal.print(comparison_table(rows, planned, width=terminal.width))
    written = write_comparison(rows, output_dir / "report", "-".join(names), planned)
    if page:
        from tcm_bench.report.page.build import write_page
        from tcm_bench.runs.trained import images_of

        with terminal.status("the page") as status:
            html, *figures = write_page(
                rows,
                output_dir,
                "-".join(names),
                planned,
                pictures=lambda run_dir: images_of(run_dir, trusted=trusted_package or ()),
                on_progress=lambda done, total: status.update(f"the page: {done} of {total} comparisons"),
            )
        written.append(html)
        if figures:
            terminal.print(f"{len(figures)} figures in {figures[0].parent}", soft_wrap=True, highlight=False)
    tell(terminal, (f"written: {path}" for path in written))


def choose(
    names: Annotated[list[str], typer.Argument(help="Sweeps whose runs hold out classes for validation.")],
    output_dir: OutputDir,
    tolerance: Annotated[float, typer.Option(help="By how many points R@1 may lie below.")] = 0.2,
) -> None:
    """Choose settings by the held-out classes of sweeps' runs: a table here, and report/NAMES-choice.csv and .md."""
    planned = runs_of(names, output_dir)
    from tcm_bench.report.choice import write_choices

    rows = ledger.results(output_dir / "runs" / run.run_id for run in planned)
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


def circle(
    base: Annotated[str, typer.Argument(help=f"Without TCM: {KINDS}; of two dimensions.")],
    tcm: Annotated[str, typer.Argument(help="With TCM.")],
    out: Annotated[Path, typer.Option(help="File to draw into: .png, .svg or .pdf.")],
    output_dir: OutputDir,
) -> None:
    """Draw the embeddings of two networks of two dimensions on a circle, and the density of each class."""
    sides = source(base, output_dir), source(tcm, output_dir)
    from tcm_bench.report.circle import write_circle_figure

    typer.echo(f"written: {write_circle_figure(*sides, out)}")


def pareto(
    names: Annotated[list[str], typer.Argument(help="Sweeps; several are folded as if they were one.")],
    out: Annotated[Path, typer.Option(help="File to draw into: .png, .svg or .pdf.")],
    output_dir: OutputDir,
) -> None:
    """Draw R@1 against OPIS of sweeps' comparisons, without TCM and with it, and the Pareto front of each arm."""
    planned = runs_of(names, output_dir)
    from tcm_bench.report.fold import fold
    from tcm_bench.report.pareto import pareto_claims, write_pareto_figure

    found = fold(ledger.results(output_dir / "runs" / run.run_id for run in planned), planned)
    path = write_pareto_figure(found.rows, out)
    tell(console(), [*pareto_claims(found.rows), f"written: {path}"])


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
