"""What several sub-commands share: options, the terminal, the lists of sweeps."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tcm_bench.results import ledger


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
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


def console() -> Console:
    """The terminal; wide enough to be read by line where there is none."""
    terminal = Console()
    if not terminal.is_terminal and "COLUMNS" not in os.environ:
        terminal.width = 120
    return terminal


def tell(terminal: Console, lines: Iterable[str]) -> None:
    """Print lines as they are, however long, so that they can be copied."""
    for line in lines:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """A time for people, e.g. `3 h`."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def sweep_named(name: str, output_dir: Path) -> ledger.Sweep:
    """The list of a sweep that was started.

    Raises:
        ValueError: If there is none; names those that there are.
    """
    path = output_dir / ledger.SWEEPS / f"{name}.json"
    if not path.is_file():
        known = ", ".join(p.stem for p in sweep_files(output_dir)) or "none so far"
        raise ValueError(f"there is no sweep '{name}' in {output_dir}; sweeps there: {known}")
    return ledger.read_sweep(path)


def runs_of(names: Iterable[str], output_dir: Path) -> list[ledger.Run]:
    """The runs of sweeps, each once.

    Raises:
        ValueError: As `sweep_named`.
    """
    return list({run.run_id: run for name in names for run in sweep_named(name, output_dir).runs}.values())


def sweep_files(output_dir: Path) -> list[Path]:
    """The lists of all sweeps that were started."""
    return sorted((output_dir / ledger.SWEEPS).glob("*.json"))
