"""What was recorded for Weights & Biases without a network: `tcm-bench wandb sync`."""

from pathlib import Path
from typing import Annotated

import typer

from tcm_bench.cli.shared import OutputDir
from tcm_bench.results import ledger

wandb_app = typer.Typer(
    name="wandb",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="What runs with `logger=wandb` have recorded without a network.",
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
