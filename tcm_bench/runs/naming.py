"""What a configuration is called: the part that decides numbers, the hash that names the run, what was chosen."""

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from tcm_bench.files import file_sha256, listing_sha256
from tcm_bench.gpus import gpus
from tcm_bench.process import cores, launched
from tcm_bench.results.ledger import Run, science_hash
from tcm_bench.runs.build import TRUSTED, ConfigurationError
from tcm_bench.runs.provenance import with_sources

CONFIG_NAME = "config"
PROJECT_ROOT = Path(__file__).resolve().parents[2]
SCIENCE = ("data", "model", "loss", "tcm", "metrics", "optim", "trainer", "selection", "seed")
DEBUG = "debug"  # there in a debug mode alone, whose runs are none of the others
ELSEWHERE = ("machine", "paths")  # what differs from machine to machine and decides no number
CHOSEN = "chosen"  # decides a number only where something refers to it
FACTORS = {"data": "data", "backbone": "model/backbone", "loss": "loss", "tcm": "tcm"}
# What says where the items of the data or the weights lie, not which they are; `sha256` beside it says that.
PLACES = ("data.root", "data.file", "data.labels", "model.backbone.weights.file")


def composed(*overrides: str) -> DictConfig:
    """The configuration of these words on a command line, every value as it stands in its file but for them."""
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        return compose(CONFIG_NAME, list(overrides))


def science(cfg: DictConfig, *, seed: Any = None) -> dict[str, Any]:
    """The part of a configuration that decides a run's numbers, plain and resolved, the same on every machine.

    A node whose `_target_` is code from outside the project and its libraries says by `_source_` which code: an edit of
    one's own loss makes another run.

    Args:
        cfg: A composed configuration.
        seed: Stands for the seed wherever it is used; None: the configuration's own.
    """
    for key in (*SCIENCE, *ELSEWHERE):
        if key not in cfg:
            raise ConfigurationError(f"{key} cannot be taken away: nothing runs without it")
    named = [*SCIENCE, *([DEBUG] if DEBUG in cfg else [])]
    anywhere = OmegaConf.masked_copy(cfg, [*named, *ELSEWHERE, CHOSEN])
    OmegaConf.set_readonly(anywhere, False)
    if seed is not None:
        anywhere.seed = seed
    for node in (anywhere[name] for name in ELSEWHERE):
        for key in node:
            node[key] = f"<{key}>"
    for place in PLACES:
        parent, _, key = place.rpartition(".")
        node = OmegaConf.select(anywhere, parent)
        if node is not None and "sha256" in node:
            node.sha256 = OmegaConf.select(cfg, f"{parent}.sha256")  # may be taken from the file that is masked next
        if node is not None and key in node:
            node[key] = f"<{key}>"
    plain = OmegaConf.to_container(anywhere, resolve=True)
    assert isinstance(plain, dict)
    for path, value in leaves(plain):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError(f"{path} must be a finite number, got {value}")
    return with_sources({key: plain[key] for key in named}, TRUSTED)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value below a node, with its dotted key."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield from leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for child in node:
            yield from leaves(child, path)
    else:
        yield path, node


def run_id(*, _root_: DictConfig) -> str:
    """Resolver `${run_id:}`: names the run this configuration describes."""
    return science_hash(science(_root_))


def comparison_id(cfg: DictConfig) -> str:
    """Names the comparison a run belongs to: all that decides its numbers but the TCM setting and the seed."""
    return science_hash({key: value for key, value in science(cfg, seed="<seed>").items() if key != "tcm"})


def plan(cfg: DictConfig, chosen: dict[str, str | int], words: Sequence[str] = ()) -> Run:
    """What is known of a run before it starts; `chosen` are its `choices`, `words` what `train.py` is given."""
    found = science(cfg)
    return Run(
        run_id=science_hash(found),
        comparison_id=comparison_id(cfg),
        choices=chosen,
        science=found,
        words=list(words),
    )


def choices(hydra: Any, seed: int) -> dict[str, str | int]:
    """What was chosen for each factor of the experiment, the seed, and everything else that was set by hand.

    A factor whose `_target_` was set by hand goes by that, not by the option that it was put into. The rest goes by its
    dotted key (`optim.optimizer.lr`), or its group (`optim/optimizer`), where it decides numbers.

    Args:
        hydra: Hydra's own node.
        seed: Of the run.
    """
    chosen: dict[str, str | int] = {name: hydra.runtime.choices[group] for name, group in FACTORS.items()}
    own = dict(_by_hand(hydra.overrides.task))
    for name, group in FACTORS.items():
        chosen[name] = own.pop(f"{group.replace('/', '.')}._target_", chosen[name])
    return {**chosen, "seed": seed, **own}


def _by_hand(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Keys and values of the overrides that decide numbers, but for factors and seed; of a path only its last part."""
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        key = key.partition("@")[0]
        if key in ("seed", *FACTORS.values()) or re.split(r"[./]", key)[0] not in (*SCIENCE, "experiment", DEBUG):
            continue
        value = re.sub(r"\\(.)", r"\1", value) if "${" in value.replace("\\", "") else value  # escaped by a sweep
        yield key, Path(value).name if key in PLACES else value


def _bytes_sha256(file: Path) -> str:
    status = file.stat()
    return _read_sha256(file, status.st_size, status.st_mtime_ns)


@cache  # a configuration is resolved several times; an unchanged file is read once
def _read_sha256(file: Path, size: int, modified: int) -> str:
    return file_sha256(file)


def content_sha256(path: str | None, prepared: str | None = None, *, _parent_: DictConfig) -> str:
    """Resolver `${content_sha256:PATH}`: what lies at a path, not the path itself, names a run.

    A folder is hashed by the names and the bytes of all files below it; of no path (null) the hash is empty.

    Args:
        path: A file or folder.
        prepared: Name of the set that it is part of, if `tcm-bench data prepare` makes it.
        _parent_: The node that asks, which says by one of `PLACES` where its data lie.

    Raises:
        ConfigurationError: If nothing can be read there; names the key and what to do.
    """
    if path is None:
        return ""
    place = Path(path)
    try:
        if place.is_dir():
            files = (file for file in place.rglob("*") if file.is_file())
            return listing_sha256((file.relative_to(place).as_posix(), _bytes_sha256(file)) for file in files)
        return _bytes_sha256(place)
    except OSError as error:
        names = [place.rpartition(".")[2] for place in reversed(PLACES)]
        key = next((name for name in names if path.startswith(str(_parent_.get(name)))), "sha256")
        remedy = "give the path of your data"
        if prepared:
            command = f"tcm-bench data prepare {prepared} --root {shlex.quote(str(_parent_.root))}"
            remedy = f"`{command}` puts them there, or give another folder"
        fault = f"{_parent_._get_full_key(key)}: cannot read {path}: {error.strerror}"
        raise ConfigurationError(f"{fault}; {remedy}") from error


@cache  # a configuration is resolved several times, and the driver takes its time
def _num_gpus() -> int:
    return len(gpus())


def config_groups() -> str:
    """Resolver `${config_groups:}`: every group and its choices, a line each, for the help; no parts of others."""
    loader = GlobalHydra.instance().config_loader()

    def lines(group: str) -> Iterator[str]:
        for inner in loader.get_group_options(group, ObjectType.GROUP):
            path = f"{group}/{inner}".lstrip("/")
            if path == "hydra":  # of Hydra's own groups those that a sweep chooses from
                for own in (f"{path}/launcher", f"{path}/sweeper"):
                    yield f"{own}: {', '.join(loader.get_group_options(own))}"
                continue
            if options := [name for name in loader.get_group_options(path) if not name.startswith("_")]:
                yield f"{path}: {', '.join(options)}"
            yield from lines(path)

    return "\n".join(lines(""))


OmegaConf.register_new_resolver("config_groups", config_groups, replace=True)
OmegaConf.register_new_resolver("run_id", run_id, replace=True)
OmegaConf.register_new_resolver("content_sha256", content_sha256, replace=True)
OmegaConf.register_new_resolver("cores", cores, replace=True)
OmegaConf.register_new_resolver("gpus_or_cores", lambda: _num_gpus() or cores(), replace=True)
OmegaConf.register_new_resolver("launched_processes", lambda: (launched() or ("auto",))[0], replace=True)
OmegaConf.register_new_resolver("launched_nodes", lambda: (launched() or (1, 1))[1], replace=True)
OmegaConf.register_new_resolver("cores_of_each", lambda: max(cores() // (launched() or (1, 1))[0], 1), replace=True)
OmegaConf.register_new_resolver("project_root", lambda: str(PROJECT_ROOT), replace=True)
