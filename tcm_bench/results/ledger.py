"""One run, one folder, one `result.json`: the only record that tables and figures are folded from.

A run's folder is named by `run_id`, a hash of the configuration that decides its numbers. While the run is
alive it holds `running.json` (what it is doing, how far it is), which is touched every few seconds; when it ends,
however it ends, `result.json` takes its place in one atomic step. A folder with the first file of which nothing has
been heard for a while is that of a run which was killed, on whatever machine.
"""

import contextlib
import hashlib
import json
import os
import shlex
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError, field_validator

from tcm_bench.files import write_atomic
from tcm_bench.process import is_first_process
from tcm_bench.results.old_names import renamed

SCHEMA_VERSION = 5
RESULT = "result.json"
RUNNING = "running.json"
SWEEPS = "sweeps"  # one list for each
EMBEDDINGS = "test_embeddings.safetensors"  # embeddings (items, dim), labels and indices (items,)
WEIGHTS = "weights.safetensors"  # of the network that made them
CONFIG = "config.yaml"  # the run's configuration, resolved
HISTORY = "history.csv"  # see `tcm_bench.training.callbacks`
EVALUATION = "evaluation.json"  # what the embeddings came to; see `tcm_bench.evaluation.files`
CHECKPOINT, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.safetensors"  # see `tcm_bench.training.callbacks`
UNFINISHED = (RUNNING, CHECKPOINT, PREVIOUS, BEST)  # what only a run needs that has not come to its end
# What a run does, one after the other.
FEATURES, BEFORE, TRAIN, VALIDATE, TEST = "features", "before", "train", "validate", "test"
LAST_EPOCH = "last epoch"  # whose weights are evaluated unless others are asked for
BEAT_S = 10  # between two signs of life of a run
STALE_S = 45  # without one, and it counts as killed

Status = Literal["finished", "failed", "interrupted", "debug"]
# `stale`: killed without a word; `interrupted` runs have left a row.
State = Literal["finished", "failed", "interrupted", "debug", "running", "stale", "absent"]
ENDED_WELL = ("finished", "debug")


class Run(BaseModel):
    """What a run is; known before it starts.

    Attributes:
        run_id: Hash of the science configuration, see `science_hash`.
        comparison_id: The same hash without the TCM setting and the seed: equal for all runs of one comparison. Empty
            in lists written before they had it.
        choices: Names chosen for data, backbone, loss and tcm, the seed, and what else was set by hand.
        science: The science configuration, resolved. Empty in rows and lists of before `schema_version` 2.
        words: What `python train.py` was given. Empty before `schema_version` 4.
    """

    run_id: str
    comparison_id: str = ""
    choices: dict[str, str | int]
    science: dict[str, Any] = {}
    words: list[str] = []

    @property
    def command(self) -> str | None:
        """What makes this run and no other; None if that was not noted."""
        alone = ["hydra.mode=RUN"] if any(word.startswith("+sweep=") for word in self.words) else []
        return _command([*self.words, *alone]) if self.words else None


class Result(Run):
    """The row of one run.

    Attributes:
        schema_version: Of this file: 2 since the row holds `science`, 3 since it holds `intervals` and says
            `num_thresholds`, `threshold_low`, `threshold_high` and `tar_at_far_*`, 4 since it holds `words`, 5
            since it holds `step_s`.
        status: How the run ended; `reason` says why unless it finished. `debug`: to its end, but on a few classes, so
            that its metrics are no result.
        metrics: Fractions in [0, 1]; None where a metric is undefined (then `reason` says why). On what is `tested` by
            the score's name alone; `_seen`: on classes that were trained on; `_val`: on training classes held out.
        intervals: Of the scores on unseen classes, 95 % by a bootstrap over these classes; see `evaluation.json`.
        threshold: Every setting behind OPIS, and the calibration range that resulted.
        selection: Which weights were evaluated: those of the last epoch, or of one that was best on held-out classes.
        counts: Classes, images and pairs that the metrics were taken over; `shared_classes`: test classes that were
            trained on, which a closed set has alone.
        wall_s: Seconds from the start of this process' work on the run to its end.
        step_s: Median seconds of a training step of this process; None if it made none.
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
    step_s: float | None = None
    peak_mem_gib: float
    threads: int
    versions: dict[str, str]
    git: dict[str, Any]

    @property
    def tested(self) -> str:
        """What the metrics are of whose names have no suffix, in words."""
        if self.counts.get("shared_classes"):
            return "unseen images of classes that were trained on (a closed set)"
        return "unseen classes"

    @field_validator("metrics", "threshold", mode="before")
    @classmethod
    def _by_new_names(cls, values: Any) -> Any:
        return renamed(values) if isinstance(values, dict) else values


class Sweep(BaseModel):
    """What a sweep consists of, and what `python train.py` was given."""

    name: str
    runs: list[Run]
    words: list[str] = []

    @property
    def command(self) -> str | None:
        """What starts it, and takes it up again; None if that was not noted."""
        return _command(self.words) if self.words else None


class Progress(BaseModel):
    """What a living run is doing: `done` of `total` units of `stage`.

    Attributes:
        started: When the process took up the run, in seconds since 1970.
        stage_started: When it began what it is doing.
        done_before: Of the units that were done then, by an earlier process, say.
    """

    pid: int
    host: str
    started: float
    stage: str
    done: int = 0
    total: int = 0
    stage_started: float = 0.0
    done_before: int = 0

    @property
    def seconds_left(self) -> float | None:
        """Of the stage, at its pace so far; None if that is not known yet."""
        now_done = self.done - self.done_before
        if not self.total or now_done <= 0 or not self.stage_started:
            return None
        return (time.time() - self.stage_started) / now_done * (self.total - self.done)


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
    here, now, earlier = (os.getpid(), socket.gethostname()), time.time(), _read(path, Progress)
    ours = earlier if earlier and (earlier.pid, earlier.host) == here else None
    same = ours if ours and ours.stage == stage and ours.done <= done else None
    progress = Progress(
        pid=here[0],
        host=here[1],
        started=ours.started if ours else now,
        stage=stage,
        done=done,
        total=total,
        stage_started=same.stage_started if same else now,
        done_before=same.done_before if same else done,
    )
    with contextlib.suppress(OSError):
        write_atomic(path, progress.model_dump_json())


@contextlib.contextmanager
def heartbeat(run_dir: Path) -> Iterator[None]:
    """Within, give a sign of life every `BEAT_S` seconds, whatever the run is busy with."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            with contextlib.suppress(OSError):  # the run has ended, or the file server is away
                os.utime(run_dir / RUNNING)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def last_beat(run_dir: Path) -> float | None:
    """When a run at work was last heard of, in seconds since 1970 by the file server's clock; None if it is not."""
    try:
        return (run_dir / RUNNING).stat().st_mtime
    except FileNotFoundError:
        return None


def read_progress(run_dir: Path) -> Progress | None:
    """What the run last said of itself, or None."""
    return _read(run_dir / RUNNING, Progress)


def write_result(run_dir: Path, result: Result) -> None:
    """End a run: its row is written in one step, and it no longer counts as running."""
    write_atomic(run_dir / RESULT, result.model_dump_json(indent=2) + "\n")
    if result.status in ENDED_WELL:
        remove_unfinished(run_dir)
    else:
        (run_dir / RUNNING).unlink(missing_ok=True)


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
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a result of tcm_bench ({error}); delete the folder") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise ValueError(
            f"{path} is not a result of tcm_bench ({where}: {fault['msg']}); "
            "delete the folder and run the same command again"
        ) from error


def state(run_dir: Path) -> State:
    """Where a run stands, as its folder tells on any machine.

    The clocks of the machines must agree to a few seconds.
    """
    progress = read_progress(run_dir)
    if progress is not None and _is_alive(progress, run_dir):
        return "running"
    result = read_result(run_dir)
    if progress is not None and not (result and result.status in ENDED_WELL):  # else killed right after its end
        return "stale"
    return result.status if result else "absent"


def write_sweep(output_dir: Path, name: str, runs: Sequence[Run], words: Sequence[str] = ()) -> None:
    """Write down what a sweep consists of, so that its table shows what has not ended too.

    Args:
        output_dir: Holds `sweeps/`.
        name: Of the sweep.
        runs: All of it.
        words: What `python train.py` was given.
    """
    path = output_dir / SWEEPS / f"{name}.json"
    write_atomic(path, Sweep(name=name, runs=list(runs), words=list(words)).model_dump_json(indent=1) + "\n")


def read_sweep(path: Path) -> Sweep:
    """A sweep, from the list that `write_sweep` wrote.

    Raises:
        ValueError: If the file is no such list.
    """
    try:
        return Sweep.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:  # pydantic's is one
        raise ValueError(f"{path} is not the list of a sweep; start the sweep again to have it rewritten") from error


def run_dirs(output_dir: Path) -> list[Path]:
    """The folders of all runs, in the order of their names; not what is just being removed."""
    return sorted((output_dir / "runs").glob("[!.]*/"))


def results_of(folders: Iterable[Path]) -> tuple[list[Result], list[str]]:
    """Rows of the runs that have ended, and a sentence for each that is none, where `results` would raise."""
    rows, damaged = [], []
    for folder in folders:
        try:
            if row := read_result(folder):
                rows.append(row)
        except ValueError as error:
            damaged.append(str(error))
    return rows, damaged


def results(run_dirs: Iterable[Path]) -> Iterator[Result]:
    """Rows of the runs that have ended, in the order given."""
    for run_dir in run_dirs:
        if result := read_result(run_dir):
            yield result


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A row with a dotted key for each value of its mappings.

    Example:
        >>> flat({"a": {"b": 1, "c": {}}, "d": [2]})
        {'a.b': 1, 'd': [2]}
    """
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _command(words: Sequence[str]) -> str:
    return shlex.join(["python", "train.py", *words])


def _read(path: Path, kind: type[Progress]) -> Progress | None:
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


def _is_alive(progress: Progress, run_dir: Path) -> bool:
    """Whether the process that wrote this was heard of lately and, on this machine, still exists."""
    if progress.host == socket.gethostname():
        try:
            os.kill(progress.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
    heard = last_beat(run_dir)
    return heard is None or time.time() - heard < STALE_S  # None: it has just ended
