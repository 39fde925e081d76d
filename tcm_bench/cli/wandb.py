"""What runs have recorded for Weights & Biases: `tcm-bench wandb sync` and `report`."""

from pathlib import Path
from typing import Annotated

import typer

from tcm_bench.cli.shared import OutputDir, sweep_named
from tcm_bench.results import ledger

wandb_app = typer.Typer(
    name="wandb",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Send what runs with `logger=wandb` have recorded to Weights & Biases.",
)


@wandb_app.command()
def sync(
    output_dir: OutputDir,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be uploaded.")] = False,
) -> None:
    """Upload every run that was recorded offline, as one W&B run each, and none twice; can be repeated at any time.

    A run that is being worked on is left until it has ended.
    """
    from tcm_bench.training.wandb_logger import is_uploaded, offline_parts, upload  # seconds that --help need not pay

    waiting: list[Path] = []
    for folder in ledger.run_dirs(output_dir):
        parts = [part for part in offline_parts(folder) if not is_uploaded(part)]
        if parts and ledger.state(folder) == "running":
            typer.echo(f"{folder.name}: at work, left for later")
            continue
        empty = [part for part in parts if not part.stat().st_size]
        if empty and len(empty) == len(parts):
            typer.echo(f"{folder.name}: killed before anything was written; the run's command goes on with it")
        waiting += (part for part in parts if part not in empty)
    for part in waiting if dry_run else ():
        typer.echo(f"{part.relative_to(output_dir)}: {part.stat().st_size / 1e6:.1f} MB")
    if waiting and not dry_run:
        upload(waiting)
    typer.echo(f"{len(waiting)} {'would be ' if dry_run else ''}uploaded")


@wandb_app.command()
def report(
    sweep: Annotated[str, typer.Argument(help="A sweep whose runs have been uploaded.")],
    output_dir: OutputDir,
    project: Annotated[str, typer.Option(help="W&B project of the runs.")] = "tcm_bench",
    entity: Annotated[str | None, typer.Option(help="User or team; else the key's own.")] = None,
) -> None:
    """Make a W&B report of a sweep: its table, accuracy against OPIS, and the curves of each pair of arms."""
    planned = sweep_named(sweep, output_dir).runs
    from tcm_bench.report.wandb_report import save_report
    from tcm_bench.training.wandb_logger import obstacle

    if why := obstacle():
        raise ValueError(f"no report was made: {why}")
    rows = list(ledger.results(output_dir / "runs" / run.run_id for run in planned))
    typer.echo(f"written: {save_report(sweep, planned, rows, project, entity)}")
