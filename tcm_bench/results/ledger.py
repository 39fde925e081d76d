"""One run, one folder, one `result.json`: the only record that tables and figures are folded from.

A run's folder is named by `run_id`, a hash of the configuration that decides its numbers. While the run is
alive it holds `running.json` (what it is doing, how far it is); when it ends, however it ends, `result.json`
takes its place in one atomic step. A folder with the first file and no living process is a run that was killed.
"""

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError, field_validator

from tcm_bench.files import write_atomic
from tcm_bench.process import is_first_process
from tcm_bench.results.old_names import renamed

SCHEMA_VERSION = 3
RESULT = "result.json"
RUNNING = "running.json"
SWEEPS = "sweeps"  # one list for each
EMBEDDINGS = "test_embeddings.safetensors"  # embeddings (items, dim), labels and indices (items,)
WEIGHTS = "weights.safetensors"  # of the network that made them
CONFIG = "config.yaml"  # the run's configuration, resolved
EVALUATION = "evaluation.json"  # what the embeddings came to; see `tcm_bench.evaluation.files`
CHECKPOINT, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.safetensors"  # see `tcm_bench.training.callbacks`
UNFINISHED = (CHECKPOINT, PREVIOUS, BEST)  # what only a run needs that has not come to its end
# What a run does, one after the other.
FEATURES, BEFORE, TRAIN, VALIDATE, TEST = "features", "before", "train", "validate", "test"
LAST_EPOCH = "last epoch"  # whose weights are evaluated unless others are asked for

Status = Literal["finished", "failed", "interrupted", "debug"]
State = Literal["finished", "failed", "interrupted", "debug", "running", "pending"]
ENDED_WELL = ("finished", "debug")


class Run(BaseModel):
    """What a run is; known before it starts.

    Attributes:
        run_id: Hash of the science configuration, see `science_hash`.
        comparison_id: The same hash without the TCM setting and the seed: equal for all runs of one comparison. Empty
            in lists written before they had it.
        choices: Names chosen for data, backbone, loss and tcm, the seed, and what else was set by hand.
        science: The science configuration, resolved. Empty in rows and lists of before `schema_version` 2.
    """

    run_id: str
    comparison_id: str = ""
    choices: dict[str, str | int]
    science: dict[str, Any] = {}


class Result(Run):
    """The row of one run.

    Attributes:
        schema_version: Of this file: 2 since the row holds `science`, 3 since it holds `intervals` and says
            `num_thresholds`, `threshold_low`, `threshold_high` and `tar_at_far_*`.
        status: How the run ended; `reason` says why unless it finished. `debug`: to its end, but on a few classes, so
            that its metrics are no result.
        metrics: Fractions in [0, 1]; None where a metric is undefined (then `reason` says why). On unseen classes by
            the score's name alone; `_seen`: on classes that were trained on; `_val`: on training classes held out.
        intervals: Of the scores on unseen classes, 95 % by a bootstrap over these classes; see `evaluation.json`.
        threshold: Every setting behind OPIS, and the calibration range that resulted.
        selection: Which weights were evaluated: those of the last epoch, or of one that was best on held-out classes.
        counts: Classes, images and pairs that the metrics were taken over.
        wall_s: Seconds from the start of this process' work on the run to its end.
        peak_mem_gib: Largest resident memory of the process so far; a worker that did earlier runs counts them too.
    """

    schema_version: int = 1
    status: Status
    reason: str | None = None
    metrics: dict[str, float | None] = {}
    intervals: dict[str, tuple[float | None, float | None]] = {}
    threshold: dict[str, Any] = {}
    selection: str = LAST_EPOCH
    counts: dict[str, int] = {}
    network: dict[str, Any] = {}
    data_hash: str | None = None
    started: str
    wall_s: float
    peak_mem_gib: float
    threads: int
    versions: dict[str, str]
    git: dict[str, Any]

    @field_validator("metrics", "threshold", mode="before")
    @classmethod
    def _by_new_names(cls, values: Any) -> Any:
        return renamed(values) if isinstance(values, dict) else values


class Sweep(BaseModel):
    """What a sweep consists of."""

    name: str
    runs: list[Run]


class Progress(BaseModel):
    """What a living run is doing: `done` of `total` units of `stage`."""

    pid: int
    host: str
    started: float
    stage: str
    done: int = 0
    total: int = 0


def science_hash(science: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that name a plain, resolved configuration, whatever the order of its keys.

    Example:
        >>> science_hash({"a": 1, "b": 2}) == science_hash({"b": 2, "a": 1})
        True
    """
    text = json.dumps(science, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_progress(run_dir: Path, stage: str, done: int = 0, total: int = 0) -> None:
    """Say what the run in `run_dir` is doing; replaces what was said before. Only the first process is heard.

    On a full disk nothing is said: what is done is worth more than the news of it.
    """
    if not is_first_process():
        return
    path = run_dir / RUNNING
    earlier = _read(path, Progress)
    alive = earlier is not None and (earlier.pid, earlier.host) == (os.getpid(), socket.gethostname())
    started = earlier.started if alive and earlier else time.time()
    progress = Progress(
        pid=os.getpid(), host=socket.gethostname(), started=started, stage=stage, done=done, total=total
    )
    with contextlib.suppress(OSError):
        write_atomic(path, progress.model_dump_json())


def read_progress(run_dir: Path) -> Progress | None:
    """What the run last said of itself, or None."""
    return _read(run_dir / RUNNING, Progress)


def write_result(run_dir: Path, result: Result) -> None:
    """End a run: its row is written in one step, and it no longer counts as running."""
    write_atomic(run_dir / RESULT, result.model_dump_json(indent=2) + "\n")
    (run_dir / RUNNING).unlink(missing_ok=True)
    if result.status in ENDED_WELL:
        remove_unfinished(run_dir)


def remove_unfinished(run_dir: Path) -> None:
    """Remove what a run whose row is there does not need any more."""
    for name in UNFINISHED:
        (run_dir / name).unlink(missing_ok=True)


def read_result(run_dir: Path) -> Result | None:
    """The row of a run, or None if it has not ended.

    Raises:
        ValueError: If the file is not a row of this project.
    """
    path = run_dir / RESULT
    try:
        return Result.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise ValueError(
            f"{path} is not a result of tcm_bench ({where}: {fault['msg']}); "
            "delete the folder and run the same command again"
        ) from error


def state(run_dir: Path) -> State:
    """Where a run stands; one that was killed without a word is `interrupted`."""
    progress = read_progress(run_dir)
    if progress is not None:
        return "running" if _is_alive(progress) else "interrupted"
    result = read_result(run_dir)
    return result.status if result else "pending"


def write_sweep(output_dir: Path, name: str, runs: Sequence[Run]) -> None:
    """Write down what a sweep consists of, so that its table shows what has not ended too."""
    path = output_dir / SWEEPS / f"{name}.json"
    write_atomic(path, Sweep(name=name, runs=list(runs)).model_dump_json(indent=1) + "\n")


def read_sweep(path: Path) -> list[Run]:
    """The runs of a sweep, from the list that `write_sweep` wrote.

    Raises:
        ValueError: If the file is no such list.
    """
    try:
        return Sweep.model_validate_json(path.read_text(encoding="utf-8")).runs
    except ValueError as error:  # pydantic's is one
        raise ValueError(f"{path} is not the list of a sweep; start the sweep again to have it rewritten") from error


def results(run_dirs: Iterable[Path]) -> Iterator[Result]:
    """Rows of the runs that have ended, in the order given."""
    for run_dir in run_dirs:
        if result := read_result(run_dir):
            yield result


def _read(path: Path, kind: type[Progress]) -> Progress | None:
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


def _is_alive(progress: Progress) -> bool:
    """Whether the process that wrote this still exists; on another machine it is taken at its word."""
    if progress.host != socket.gethostname():
        return True
    try:
        os.kill(progress.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
