"""The runs that there are: `tcm-bench runs list`, `show`, `compare`, `reproduce`, `prune` and `export`."""

import gc
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from filelock import FileLock, Timeout

from tcm_bench.cli.shared import AsJson, OutputDir, sweep_files, sweep_named
from tcm_bench.report.scores import score
from tcm_bench.report.source import run_folder
from tcm_bench.results import ledger
from tcm_bench.results.ledger import flat
from tcm_bench.results.standing import standing

runs_app = typer.Typer(
    name="runs",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The runs that there are: what each was, what it came to, and how to make it again.",
)
RunName = Annotated[str, typer.Argument(help="A run's id, the start of it, or its folder.")]
OfSweep = Annotated[str | None, typer.Option("--sweep", help="Those of this sweep; else all.")]
NAMES = ("data", "backbone", "loss", "tcm", "seed")
SCORES = ("recall_at_1", "opis", "opis_10pct")
GONE = ("failed", "interrupted", "stale")


def list_runs(output_dir: OutputDir, sweep: OfSweep = None, as_json: AsJson = False) -> None:
    """Every run that has ended: what it was and what it came to, the last that started first."""
    rows, damaged = _rows(output_dir, sweep)
    rows.sort(key=lambda row: row.started, reverse=True)
    if as_json:
        typer.echo(json.dumps([row.model_dump() for row in rows]))
        return
    shown = [score(name) for name in SCORES]
    lines = [["run", "status", *NAMES, *(f"{how.title} {how.unit}" for how in shown), "started", "also"]]
    for row in rows:
        chosen = {name: str(value) for name, value in row.choices.items()}
        also = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in chosen.items() if key not in NAMES)
        values = [(how, row.metrics.get(how.name)) for how in shown]
        cells = ["–" if value is None else f"{value * how.scale:.1f}" for how, value in values]
        names = [chosen.get(name, "–") for name in NAMES]
        lines.append([row.run_id, row.status, *names, *cells, row.started[:16], also])
    _print_table(lines)
    for line in [*damaged, f"{len(rows)} runs"]:
        typer.echo(line)


def show(run: RunName, output_dir: OutputDir, as_json: AsJson = False) -> None:
    """Everything that the row of a run says, and the files that it has kept."""
    folder = run_folder(run, output_dir)
    row = _row(folder)
    if as_json:
        typer.echo(row.model_dump_json(indent=1))
        return
    _print_table([[key, _text(value)] for key, value in flat(row.model_dump()).items()])
    typer.echo(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def compare(one: RunName, other: RunName, output_dir: OutputDir, as_json: AsJson = False) -> None:
    """In what two runs differ: their settings first, then what they came to.

    `tcm-bench compare` says whether a difference in scores is more than chance.
    """
    first, second = (flat(_row(run_folder(run, output_dir)).model_dump()) for run in (one, other))
    kinds = ("choices", "science", "metrics", "counts", "threshold", "versions", "git", "data_hash", "network")
    keys = [key for kind in kinds for key in dict.fromkeys([*first, *second]) if key.partition(".")[0] == kind]
    differing = {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}
    if as_json:
        typer.echo(json.dumps(differing, indent=1))
    elif differing:
        _print_table([["", one, other], *([key, *map(_text, values)] for key, values in differing.items())])
    else:
        typer.echo("they differ in nothing")


def reproduce(run: RunName, output_dir: OutputDir) -> None:
    """What makes a run again: its command, the code, the versions and the data that it was made with.

    With a warning for each in which this installation differs.
    """
    row = _row(run_folder(run, output_dir))
    if row.command is None:
        raise ValueError(f"the row of {row.run_id} is older than the note of its command; config.yaml says what it was")
    from tcm_bench.runs import provenance

    commit = row.git.get("sha")
    typer.echo(f"git checkout {commit}" if commit else "# of code outside a checkout")
    typer.echo(row.command)
    typer.echo(f"# data {row.data_hash}")
    for name, version in row.versions.items():
        typer.echo(f"# {name} {version}")
    here = provenance.git_state()
    warnings = ["its code had changes that no commit has"] if row.git.get("dirty") else []
    if commit and here["sha"] != commit:
        warnings.append(f"the code here is {here['sha'] or 'in no checkout'}")
    for name, version in provenance.versions().items():
        if row.versions.get(name, version) != version:
            warnings.append(f"{name} is {version} here")
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)


def prune(
    output_dir: OutputDir,
    state: Annotated[
        list[str] | None, typer.Option(help=f"Runs that stand so; may be given again. Else {', '.join(GONE)}.")
    ] = None,
    unlisted: Annotated[bool, typer.Option("--unlisted", help="Only runs that no sweep lists.")] = False,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Also runs with a checkpoint, which the same command goes on from.")
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Do it; else only say what would be done.")] = False,
) -> None:
    """Remove the folders of runs that came to nothing; only says what it would do, unless told to do it.

    A run that a process is at is left alone, whatever its state.
    """
    known = (*get_args(ledger.State), "unreadable")
    wanted = tuple(state or GONE)
    if unknown := set(wanted) - set(known):
        raise ValueError(f"there is no state {min(unknown)!r}; states are {', '.join(known)}")
    listed = (
        {run.run_id for path in sweep_files(output_dir) for run in ledger.read_sweep(path).runs} if unlisted else ()
    )
    removed, freed = 0, 0
    for folder in ledger.run_dirs(output_dir):
        if (stands := standing(folder).state) not in wanted or folder.name in listed:
            continue
        if not checkpoints and (folder / ledger.CHECKPOINT).exists():
            typer.echo(f"{folder.name}: {stands}, stays for its checkpoint; --checkpoints takes it as well")
            continue
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if delete and not _removed(folder, wanted):
            typer.echo(f"{folder.name}: a process is at it, so it stays")
            continue
        removed, freed = removed + 1, freed + size
        typer.echo(f"{folder.name}: {stands}, {size / 1e6:.1f} MB")
    typer.echo(f"{removed} runs, {freed / 1e9:.2f} GB {'removed' if delete else 'would be removed; --delete does it'}")


def export(
    out: Annotated[Path, typer.Argument(help="File to write: .csv or .parquet.")],
    output_dir: OutputDir,
    sweep: OfSweep = None,
) -> None:
    """One table with everything that rows say: a line for each run that has ended, a column for each value."""
    if out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"cannot write '{out.name}'; end the name in .csv or .parquet")
    rows, damaged = _rows(output_dir, sweep)
    import pandas as pd

    from tcm_bench.files import replacing

    lines = (flat(row.model_dump(exclude={"words"})) | {"command": row.command} for row in rows)
    table = pd.DataFrame([{key: _cell(value) for key, value in line.items()} for line in lines])
    for name in table:
        kinds = {type(value) for value in table[name].dropna()} if pd.api.types.is_object_dtype(table[name]) else ()
        if len(kinds) > 1:  # such as a batch of 64 here and `auto` there
            table[name] = table[name].map(str, na_action="ignore")
    with replacing(out) as temporary:
        if out.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)
    for line in [*damaged, f"written: {out}, {len(table)} runs, {len(table.columns)} columns"]:
        typer.echo(line)


def _rows(output_dir: Path, sweep: str | None) -> tuple[list[ledger.Result], list[str]]:
    """Rows of all runs or of a sweep's, and a sentence for each file that is none."""
    if sweep is None:
        folders = ledger.run_dirs(output_dir)
    else:
        folders = [output_dir / "runs" / run.run_id for run in sweep_named(sweep, output_dir).runs]
    gc.disable()  # of thousands of rows, all of which are kept, it would take half of the time
    try:
        return ledger.results_of(folders)
    finally:
        gc.freeze()
        gc.enable()


def _row(folder: Path) -> ledger.Result:
    row = ledger.read_result(folder)
    if row is None:
        raise ValueError(f"{folder.name} has not ended: it has no {ledger.RESULT}")
    return row


def _removed(folder: Path, wanted: Sequence[str]) -> bool:
    """Remove a run's folder, unless a process holds it, or has begun since it was looked at."""
    try:
        with FileLock(folder / ".lock", timeout=0, fallback_to_soft=False):
            if standing(folder).state not in wanted:
                return False
            hidden = folder.with_name(f".{folder.name}.{time.time_ns()}")  # in one step: half a run is none
            folder.rename(hidden)
    except Timeout:
        return False
    shutil.rmtree(hidden)
    return True


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple) else value


def _print_table(lines: Sequence[Sequence[str]]) -> None:
    """Columns, a line each whatever the terminal's width: for thousands of lines, and for `grep`."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    typer.echo("\n".join(text))


runs_app.command("list")(list_runs)
runs_app.command()(show)
runs_app.command()(compare)
runs_app.command()(reproduce)
runs_app.command()(prune)
runs_app.command()(export)
