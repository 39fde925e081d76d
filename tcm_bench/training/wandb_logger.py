"""Weights & Biases: one W&B run for each run of ours, under the same id, offline when it cannot be online."""

import contextlib
import hashlib
import logging
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import wandb
from lightning.pytorch.loggers import WandbLogger

from tcm_bench.files import write_atomic
from tcm_bench.process import is_first_process
from tcm_bench.results.ledger import CONFIG, WEIGHTS

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # W&B's reports on itself wait 5 s for a server that is away

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]
OLDER_MODES: dict[str, Mode] = {"run": "online", "dryrun": "offline"}  # words for the same
REACH_S = 3  # a server that takes longer to accept a connection counts as unreachable
INIT_S = 10  # and one that takes longer to start a run as broken
TAG_LENGTH = 64  # W&B refuses a run with a longer one
PACKAGE = Path(__file__).parents[1]
OFFLINE_PARTS = "wandb/offline-run-*"  # below a run's folder
SUMMARY_RULES: dict[str, Literal["max", "min"]] = {"val/recall_at_1": "max", "val/opis": "min"}
BEST: dict[str, Callable[[float, float], float]] = {"max": max, "min": min}
FINISH_S = 120  # what has not been uploaded by then stays in the folder


class WandbRun(WandbLogger):
    """A bystander: whatever goes wrong with W&B is a warning, and the training it watches goes on.

    A process of a sweep does many runs, so each logger holds a W&B run of its own, and `conclude` ends it. All values
    of a step are one row of the W&B history, and no step has two: what is told again of a step that is recorded, as by
    a run that goes on from a checkpoint, is passed over.
    """

    def __init__(
        self,
        run: wandb.Run,
        save_dir: str | Path,
        *,
        classes_shown: int = 0,
        queries_shown: int = 0,
        log_config: bool = False,
        log_weights: bool = False,
    ) -> None:
        """Log to a run that has been started; see `wandb_logger` for the rest."""
        super().__init__(experiment=run, save_dir=str(save_dir), project=run.project, name=run.name, id=run.id)
        self.lost = False
        self._best: dict[str, float] = {}
        self.classes_shown, self.queries_shown = classes_shown, queries_shown
        self._log_config = log_config
        self._weights = Path(save_dir) / WEIGHTS if log_weights else None
        self._earlier = [] if run.disabled else [*Path(save_dir).glob(OFFLINE_PARTS)]
        self._earlier = [part for part in self._earlier if part.name != Path(run.settings.sync_dir).name]
        self._or_warn(lambda: _define_metrics(run))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record values of a step; nothing once the run was lost."""
        self._or_warn(lambda: self._log(dict(metrics), step))

    def _log(self, metrics: dict[str, Any], step: int | None) -> None:
        for name in SUMMARY_RULES.keys() & metrics.keys():
            if not math.isnan(value := float(metrics[name])):
                self._best[name] = BEST[SUMMARY_RULES[name]](value, self._best.get(name, value))
        if step is None:
            self.experiment.log(metrics)
        elif step >= self.experiment.starting_step:
            is_whole = any(name.startswith("train/") for name in metrics)  # these come last, and W&B may show the row
            self.experiment.log({**metrics, "trainer/global_step": step}, step=step, commit=is_whole)
        while self._earlier:  # whoever goes on from a checkpoint tells first what led to it: it is all in this part
            shutil.rmtree(self._earlier.pop(), ignore_errors=True)

    def log_hyperparams(self, params: Any) -> None:
        """Record the configuration; nothing once the run was lost."""
        self._or_warn(lambda: super(WandbRun, self).log_hyperparams(params))

    def keep(self, name: str, kind: str, files: Callable[[], Mapping[str, Path]]) -> None:
        """Record files as an artefact; a server that has it already, to the byte, takes no other.

        Args:
            name: Of the artefact.
            kind: `config`, `code` or `model`.
            files: Finds them, by their names in the artefact; they must stay as they are until they are uploaded.
        """
        if self.lost or self.experiment.disabled:
            return
        try:
            artifact = wandb.Artifact(name, type=kind)
            for within, file in files().items():
                artifact.add_file(str(file), name=within, policy="immutable")
            self.experiment.log_artifact(artifact)
        except Exception as error:  # noqa: BLE001 - as below, but the curves need no artefact
            log.warning("W&B: the artefact %s was not kept (%s)", name, _shown(error))

    def keep_config(self, words: str) -> None:
        """Record the run's configuration, YAML as it is to be read elsewhere, as an artefact if that is wanted."""
        if self._log_config:
            run = self.experiment
            self.keep(f"config-{self.version}", "config", lambda: _written(words, Path(run.settings.sync_dir)))

    def conclude(self, summary: Mapping[str, Any], exit_code: int) -> None:
        """End the W&B run with what ours came to: exit code 0 says that it finished, anything else that it did not."""
        if exit_code == 0 and (weights := self._weights):
            self.keep(f"weights-{self.version}", "model", lambda: {WEIGHTS: weights})

        best = {name: {SUMMARY_RULES[name]: value} for name, value in self._best.items()}

        def end() -> None:
            self.experiment.summary.update({**summary, **best})  # W&B forgets the best of before where a run goes on
            self.experiment.finish(exit_code)

        self._or_warn(end)

    def _or_warn(self, act: Callable[[], None]) -> None:
        if self.lost:
            return
        try:
            act()
        except Exception as error:  # noqa: BLE001 - a dozen unrelated classes, none of them our run's business
            self.lost = True
            log.warning("W&B was lost (%s); the run goes on without it", _shown(error))


def _define_metrics(run: wandb.Run) -> None:
    """Curves over epochs, and which of their values a table of runs shows; the last, if nothing else is said."""
    for name in ("epoch", "trainer/global_step"):
        run.define_metric(name)
    for names in ("train/*", "val/*"):
        run.define_metric(names, step_metric="epoch")
    for name, rule in SUMMARY_RULES.items():
        run.define_metric(name, step_metric="epoch", summary=rule)


def wandb_logger(
    project: str,
    run_id: str,
    save_dir: str | Path,
    *,
    group: str,
    job_type: str,
    tags: list[str],
    mode: Mode | Literal["auto"] = "auto",
    entity: str | None = None,
    fresh: bool = False,
    classes_shown: int = 0,
    queries_shown: int = 0,
    log_config: bool = False,
    code_dir: str | Path = "",
    log_code: bool = False,
    log_weights: bool = False,
) -> WandbRun:
    """A started W&B run, by a logger that never prompts and never fails.

    An offline run lies in `save_dir`. Offline W&B knows nothing of an earlier part of a run, writes nothing down before
    it ends, and uploads one part over the other; so a run that goes on is told its whole history again, and what there
    was of it is removed then. Online it goes on behind what the server has.

    Args:
        project: W&B project.
        run_id: Id of the run here and there, so that a resumed run goes on in the same W&B run.
        save_dir: Folder for W&B's own files.
        group: The comparison the run belongs to.
        job_type: `base` or `tcm`.
        tags: Words to filter by.
        mode: `auto` is online with a key and a reachable server, else offline; `WANDB_MODE` wins over `auto`.
            `online` is offline too where there is no key or no server.
        entity: User or team; None is the key's own.
        fresh: Whether the server is to forget what it has of this run.
        classes_shown: Test classes whose utility curves are shown, as a picture and as a table.
        queries_shown: Test images that are shown with their nearest neighbors.
        log_config: Keep the run's configuration as an artefact.
        code_dir: Holds the sources that are uploaded, one copy for all runs of the same.
        log_code: Keep this package's sources as an artefact; nobody else's.
        log_weights: Keep the trained network as one, once it is.
    """
    if not is_first_process():  # only that one reports
        wanted: Mode = "disabled"
    else:
        wanted = _available(mode)
    for possible in (wanted, "offline", "disabled"):  # offline again, if that was wanted: with a new process behind it
        try:
            run = wandb.init(
                project=project,
                entity=entity,
                id=run_id,
                name=f"{group}/{job_type}/{run_id}",
                dir=str(save_dir),
                group=group,
                job_type=job_type,
                tags=[tag[:TAG_LENGTH] for tag in tags],
                resume="allow" if possible == "online" and not fresh else None,
                settings=wandb.Settings(
                    mode=possible,
                    silent=True,
                    console="off",
                    disable_git=True,  # the row has the commit; this would add the remote and an email address
                    host="",
                    x_disable_machine_info=True,  # folders, interpreter and hardware of this machine
                    x_save_requirements=False,  # the row has the versions; 0.2 s a run
                    reinit="create_new",  # whatever became of the run before in this process
                    init_timeout=INIT_S if possible == "online" else 60,
                    finish_timeout=FINISH_S,
                    finish_timeout_raises=False,
                ),
            )
        except Exception as error:  # noqa: BLE001 - see WandbRun
            log.warning("W&B: no %s run could be started (%s)", possible, _shown(error))
            with contextlib.suppress(Exception):
                wandb.teardown()  # of its background process, which may be broken or hold on to the run's id
        else:
            break
    logger = WandbRun(
        run,
        save_dir,
        classes_shown=classes_shown,
        queries_shown=queries_shown,
        log_config=log_config,
        log_weights=log_weights,
    )
    if log_code:
        logger.keep("tcm_bench", "code", lambda: _copied(PACKAGE, Path(code_dir or save_dir)))
    return logger


def _written(config: str, place: Path) -> dict[str, Path]:
    """A configuration, by its name in the artefact, in a file that stays as it is."""
    write_atomic(place / CONFIG, config)
    return {CONFIG: place / CONFIG}


@lru_cache  # what this process has imported, whatever becomes of the files while a sweep lasts
def _sources(package: Path) -> dict[str, str]:
    """The sources of a package, by their names in it."""
    return {
        file.relative_to(package.parent).as_posix(): file.read_text(encoding="utf-8") for file in package.rglob("*.py")
    }


def _copied(package: Path, place: Path) -> dict[str, Path]:
    """The sources of a package, by their names in it, where they stay as they are now: a folder named by their hash."""
    sources = _sources(package)
    digest = hashlib.sha256()
    for name, source in sorted(sources.items()):
        digest.update(f"{name}\0{source}\0".encode())
    copies = {name: place / digest.hexdigest()[:12] / name for name in sources}
    for name, copy in copies.items():
        if not copy.exists():
            write_atomic(copy, sources[name])
    return copies


def _available(mode: Mode | Literal["auto"]) -> Mode:
    """What is possible here and now of what is wanted, without asking anybody."""
    told = _mode_of_environment()
    if mode == "auto":
        mode = told or "online"
    if mode == "online" and (why := obstacle()):
        log.info("W&B: %s, so the run is recorded offline; `tcm-bench wandb sync` uploads it later", why)
        return "offline"
    return mode


def _mode_of_environment() -> Mode | None:
    """What `WANDB_MODE` says. A word that W&B does not know is taken away: whatever W&B does next would fail of it."""
    told = os.environ.get("WANDB_MODE")
    told = OLDER_MODES.get(told or "", told)
    if told in get_args(Mode):
        return told  # type: ignore[return-value]
    if os.environ.pop("WANDB_MODE", None):
        log.warning("W&B: WANDB_MODE=%s is not regarded; it may be %s", told, ", ".join(get_args(Mode)))
    return None


def upload(parts: Sequence[Path]) -> None:
    """Send offline parts of runs to the server, which W&B notes beside each; those of one run in their order.

    Args:
        parts: `.wandb` files, none of them empty: one that cannot be read has W&B send none.

    Raises:
        ValueError: If there is no way to the server, or some were not uploaded.
    """
    if why := obstacle():
        raise ValueError(f"nothing was uploaded: {why}")
    environment = {name: value for name, value in os.environ.items() if name not in ("WANDB_MODE", "WANDB_SERVICE")}
    command = [sys.executable, "-m", "wandb", "sync", *(str(part.resolve()) for part in parts)]
    with tempfile.TemporaryDirectory() as logs:  # else they gather where the command is given
        subprocess.run(command, check=False, env=environment | {"WANDB_DIR": logs}, stdin=subprocess.DEVNULL)
    if left := [part for part in parts if not is_uploaded(part)]:
        raise ValueError(f"{len(left)} of {len(parts)} were not uploaded; the same command tries them again")


def offline_parts(save_dir: Path) -> list[Path]:
    """What W&B has recorded offline of a run, the oldest part first. Of a run that was killed a part may be empty."""
    return sorted(save_dir.glob(f"{OFFLINE_PARTS}/*.wandb"))


def is_uploaded(part: Path) -> bool:
    """Whether W&B has noted that it was."""
    return part.with_name(f"{part.name}.synced").exists()


def obstacle() -> str | None:
    """Why nothing can be sent to the server, or None if it can; nobody is asked for anything."""
    try:
        _mode_of_environment()
        wandb.setup(wandb.Settings(silent=True, mode="online"))  # whatever WANDB_MODE says
        if not wandb.login(prompt=False, verify=False):
            return "there is no API key for W&B (`wandb login`)"
    except wandb.Error as error:
        return f"the API key is of no use ({_shown(error)})"
    server = urlsplit(wandb.setup().settings.base_url)
    if not _reachable(server.hostname or "", server.port or {"http": 80}.get(server.scheme, 443)):
        return f"{server.netloc} cannot be reached"
    return None


@lru_cache  # the runs of a sweep need not all wait for the same silence
def _reachable(host: str, port: int) -> bool:
    """Whether a server accepts connections; in a thread, because looking up a name knows no time limit."""
    reached = threading.Event()

    def reach() -> None:
        try:
            socket.create_connection((host, port), timeout=REACH_S).close()
            reached.set()
        except OSError:
            pass
        finally:
            done.set()

    done = threading.Event()
    threading.Thread(target=reach, daemon=True).start()
    done.wait(REACH_S)
    return reached.is_set()


def _shown(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
