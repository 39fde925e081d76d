"""The life of one run: name it, skip it if it is done, train it, leave a row however it ends."""

import contextlib
import logging
import multiprocessing
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from filelock import FileLock, Timeout
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tcm_bench.process import (
    NOTICE,
    RUN_INTERRUPTED,
    Preempted,
    end_interrupted,
    is_first_process,
    launched,
    raise_on_ctrl_c,
)
from tcm_bench.report.scores import compared, score
from tcm_bench.results import ledger
from tcm_bench.runs import provenance
from tcm_bench.runs.build import ConfigurationError, check_targets
from tcm_bench.runs.checks import absent_data, check, check_devices
from tcm_bench.runs.errors import causes, explain, not_compiled
from tcm_bench.runs.memory import out_of_memory
from tcm_bench.runs.naming import CONFIG_NAME, DEBUG, PROJECT_ROOT, choices, plan

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

LOCK = ".lock"
LOCAL_PROCESSES = {
    "_target_": "hydra_plugins.local_processes.LocalProcesses",
    "n_jobs": "${machine.jobs}",
    "accelerator": "${machine.accelerator}",
}
LOSS_OF_RECALL = 0.01  # by training: beyond what chance does to a test set
LOCK_WAIT_S = 10  # a worker whose sweep was killed lets go of its run within a second, or a few on a busy machine

_watching = threading.Event()


class AtWork(ConfigurationError):
    """Another process is at this very run, here or on another machine."""


def main() -> None:
    """Run the command line; end with one sentence and a non-zero status if it cannot be done."""
    logging.raiseExceptions = False  # a log that cannot be written (full disk) must not hide what went wrong
    sys.path.append(
        str(Path.cwd())
    )  # one's own code may lie where the command is given; last, so that it hides nothing
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach this function instead of Hydra's printer
    for flag in {"-m", "--multirun"} & set(sys.argv[1:]):  # between overrides Hydra cannot parse it
        sys.argv.remove(flag)
        sys.argv.insert(1, flag)
    sys.argv[1:] = _debug_last(sys.argv[1:])
    take_over_joblib()
    with _one_sentence():
        hydra.main(config_path=str(PROJECT_ROOT / "conf"), config_name=CONFIG_NAME, version_base="1.3")(job)()


def take_over_joblib() -> None:
    """From here on `hydra/launcher=joblib` is this project's own."""
    Plugins.instance()  # finds the launchers, which name their options
    ConfigStore.instance().store("joblib", LOCAL_PROCESSES, group="hydra/launcher", provider="tcm_bench")


def _debug_last(words: Sequence[str]) -> list[str]:
    """The command with `debug=MODE` as an addition behind all overrides, so that no experiment or sweep undoes it."""
    modes = [word for word in words if word.lstrip("+").startswith(f"{DEBUG}=")]
    if not modes:
        return list(words)
    others = [word for word in words if word not in modes]
    # Not behind an option: the parser takes no overrides on both sides of one.
    overrides = [at for at, word in enumerate(others) if not word.startswith("-") and ("=" in word or word[:1] == "~")]
    place = overrides[-1] + 1 if overrides else words.index(modes[0])
    return [*others[:place], *(f"+{mode.lstrip('+')}" for mode in modes), *others[place:]]


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn every foreseen error into a sentence and an exit; a fault of ours keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        end_interrupted(RUN_INTERRUPTED)
    except Preempted as stop:
        if is_first_process():
            sys.stderr.write(f"{stop}; the same command goes on from here\n")
        sys.exit(stop.code if is_first_process() else 0)  # Lightning ends all when one of those it started fails
    except Exception as error:
        if sentence := explain(error):
            sys.stderr.write(f"error: {sentence}\n")
            sys.exit(2)
        sentence = str(error)
        if not isinstance(error, ValueError):  # a ValueError knows its file; the OSError of a decoder below it does not
            denied = next((cause for cause in causes(error) if isinstance(cause, OSError)), None)
            if denied is None:
                raise
            sentence = f"{denied.strerror or denied}{f': {denied.filename}' if denied.filename else ''}"
        sys.stderr.write(f"error: {sentence}\n")
        sys.exit(1)


def job(cfg: DictConfig) -> ledger.Result | None:
    """Hydra's task: one run. In a sweep a failure is a row, not an exception, so that the others go on.

    Returns:
        The run's row; None in a sweep if another process is at the run, which is left to it.
    """
    settings = HydraConfig.get()
    words = list(settings.overrides.task)
    if not is_first_process():
        _end_with_parent()
        logging.disable(logging.INFO)  # the first process says it all
    if settings.mode is RunMode.MULTIRUN:
        _end_with_parent()
        for handler in logging.getLogger().handlers:  # the terminal is the sweep's own display's
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL)
        NOTICE.listen()  # from the launcher
        try:
            return execute(cfg, choices(settings, cfg.seed), words)
        except AtWork as other:
            log.warning("%s", other)
            if (launched() or (1, 1))[0] > 1:
                sys.exit(1)  # so that srun ends those that wait for this one
            return None
        except Exception:
            failed = ledger.read_result(Path(cfg.run_dir))
            if failed is None:
                raise
            return failed
    with _one_sentence():  # here, because Hydra adds lines of its own to what passes through it
        NOTICE.listen()
        try:
            if is_first_process():  # the others' commands are Lightning's
                words = [*settings.overrides.task, *settings.overrides.hydra]
                check(cfg, words, GlobalHydra.instance().config_loader())
                check_devices(cfg.machine)
            cfg.run_id = cfg.run_id  # once, see `execute`
            if not _finished(cfg):  # which imports torch: seconds that a finished run need not pay
                check_targets(cfg)
                if absent := absent_data(cfg):  # before a logger starts and has to be told
                    raise ConfigurationError(absent)
        except ConfigurationError:
            _discard(Path(settings.runtime.output_dir))
            raise
        result = execute(cfg, choices(settings, cfg.seed), words)
    log.info(summary(result, Path(cfg.run_dir)))
    return result


def _finished(cfg: DictConfig) -> ledger.Result | None:
    """The row of the run that `cfg` describes, if it has finished before and is not to be done again."""
    earlier = None if cfg.force else ledger.read_result(Path(cfg.run_dir))
    return earlier if earlier and earlier.status == "finished" else None


def _end_with_parent() -> None:
    """Stop with the process that started this one, if it is a worker of a sweep or shares a run with others.

    Else it would hold on to a run that the next command asks for, or wait for peers that are no more.
    """
    started_by_us = multiprocessing.current_process().name != "MainProcess" or not is_first_process()
    if not started_by_us or _watching.is_set():
        return
    _watching.set()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def execute(cfg: DictConfig, chosen: dict[str, str | int], words: Sequence[str] = ()) -> ledger.Result:
    """Train and evaluate what `cfg` describes, unless that is done already.

    Where several processes share the run, each of them calls this; the first holds the folder and writes into it.

    Args:
        cfg: A composed configuration.
        chosen: What was chosen for each factor, and the seed; goes into the row.
        words: What `train.py` was given; likewise.

    Returns:
        The run's row, which is in its folder as well.

    Raises:
        AtWork: If another process is at this very run.
    """
    cfg.run_id = cfg.run_id  # once: whatever names the run or its folder below would work it out anew
    run_dir = Path(cfg.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    first = is_first_process()
    with _alone(run_dir) if first else contextlib.nullcontext():
        if earlier := _finished(cfg):
            log.info("already finished; force=true runs it again")
            if first:
                ledger.remove_unfinished(run_dir)  # an earlier start may have been killed before it could
            return earlier.model_copy(update={"choices": chosen})  # this command's words for an equal run
        if first and cfg.force:
            _forget(run_dir)
        if first:
            ledger.write_atomic(run_dir / ledger.CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        with ledger.heartbeat(run_dir) if first else contextlib.nullcontext():
            return _attempt(cfg, plan(cfg, chosen, words), run_dir)


def _attempt(cfg: DictConfig, planned: ledger.Run, run_dir: Path) -> ledger.Result:
    from tcm_bench.runs.experiment import fit_and_test, starts_over
    from tcm_bench.runs.outcome import Measured
    from tcm_bench.runs.watchers import conclude, start_loggers

    started, clock = datetime.now(UTC), time.monotonic()
    ledger.write_progress(run_dir, "start")
    loggers: list[Logger] = []

    def row(status: ledger.Status, measured: Measured) -> ledger.Result:
        result = ledger.Result(
            schema_version=ledger.SCHEMA_VERSION,
            status=status,
            **vars(planned),
            started=started.isoformat(timespec="seconds"),
            wall_s=round(time.monotonic() - clock, 3),
            peak_mem_gib=round(provenance.peak_mem_gib(), 3),
            threads=cfg.machine.threads,
            versions=provenance.versions(),
            git=provenance.git_state(),
            **vars(measured),
        )
        try:
            if is_first_process():
                ledger.write_result(run_dir, result)
        finally:
            conclude(loggers, result)
        return result

    try:
        raise_on_ctrl_c()  # from here on there is a row to leave
        loggers += start_loggers(cfg, planned)
        measured = fit_and_test(cfg, run_dir, loggers)
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns Ctrl-C into an exit
        is_notice = isinstance(stop, Preempted)
        row("interrupted", Measured(reason=str(stop) if is_notice else "stopped by Ctrl-C or a signal"))
        if is_notice and not starts_over(cfg):  # a scheduler would start it again and again
            raise
        raise KeyboardInterrupt from stop
    except Exception as error:
        if NOTICE.given:  # it came to the workers, too, who read no more
            row("interrupted", Measured(reason=f"stopped by {NOTICE.given}"))
            raise Preempted(NOTICE.given) from error
        log.debug("failed", exc_info=True)  # the traceback is for the file; the terminal gets a sentence
        doing = ledger.read_progress(run_dir)
        compiler = not_compiled(error) if cfg.machine.compile else None
        told = compiler or out_of_memory(error, cfg, doing.stage if doing else None) or error
        row("failed", Measured(reason=f"{type(told).__name__}: {told}"))
        if told is error:
            raise
        raise told from error
    if DEBUG in cfg:
        return row("debug", replace(measured, reason="of a few classes only, so no result"))
    return row("finished", measured)


def _discard(run_dir: Path) -> None:
    """Remove the folder that Hydra made for a run that cannot be, unless there is something in it."""
    logging.shutdown()
    if [path.name for path in run_dir.iterdir()] == ["run.log"]:
        shutil.rmtree(run_dir)


def summary(result: ledger.Result, run_dir: Path) -> str:
    """What a person wants to know of a run that has just ended."""

    def shown(name: str, suffix: str = "") -> str:
        return score(name).shown(result.metrics.get(f"{name}{suffix}"), 2)

    recall, *consistency = compared(result.metrics)
    lines = [
        f"{result.status}: {' '.join(f'{k}={v}' for k, v in result.choices.items())}",
        f"  {result.tested}: {shown(recall)} (before training {shown('recall_at_1', '_before')}), "
        + ", ".join(map(shown, consistency)),
        "  seen classes:   " + ", ".join(shown(name, "_seen") for name in (recall, *consistency)),
    ]
    before, after = (result.metrics.get(name) for name in ("recall_at_1_before", "recall_at_1"))
    if before is not None and after is not None and after < before - LOSS_OF_RECALL:
        lines.append(
            "  training made R@1 worse: try a lower optim.optimizer.lr or fewer trainer.max_epochs, on held-out classes"
            " (docs/own-data.md)"
        )
    if result.status == "debug":
        from tcm_bench.runs.debug import verdict

        lines += [f"  {line}" for line in verdict(result, run_dir)]
    lines.append(f"  {result.wall_s:.0f} s, {run_dir}")
    return "\n".join(lines)


@contextlib.contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Hold the run's folder; the system lets go of it even if this process is killed.

    Where a file server has no locks for other machines, their signs of life tell.
    """
    lock = FileLock(run_dir / LOCK, timeout=LOCK_WAIT_S, fallback_to_soft=False)
    try:
        with contextlib.suppress(NotImplementedError):  # such a file server
            lock.acquire()
        if _is_alive_elsewhere(run_dir):
            raise Timeout(str(run_dir / LOCK))
    except Timeout as error:
        lock.release()
        other = ledger.read_progress(run_dir)
        who = f"process {other.pid} on {other.host}" if other else "another process"
        raise AtWork(f"{who} is at the run {run_dir.name} right now; wait for it, or stop it") from error
    try:
        yield
    finally:
        lock.release()


def _is_alive_elsewhere(run_dir: Path) -> bool:
    """Whether a process on another machine is at the run: it is heard of while we listen.

    For as long as a living one may be silent.
    """
    before = ledger.last_beat(run_dir)
    while (other := ledger.read_progress(run_dir)) and other.host != socket.gethostname():
        if ledger.last_beat(run_dir) != before:
            return True
        if ledger.state(run_dir) != "running":
            return False
        time.sleep(1)
    return False


def _forget(run_dir: Path) -> None:
    """Remove what a run has left; its row first and what it goes on from next, so that a kill leaves no half of it."""
    for suffix in (".json", ".ckpt", ".csv", ".parquet", ".safetensors"):
        for path in run_dir.glob(f"*{suffix}"):
            path.unlink()
    for logger in ("wandb", "csv", "tensorboard"):
        shutil.rmtree(run_dir / logger, ignore_errors=True)
