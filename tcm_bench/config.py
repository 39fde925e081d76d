"""The configuration: how it names a run, and how it becomes objects.

`instantiate` is called here only. A constructor's signature is the schema of its node, the defaults in `conf/` are the
schema of every plain value.
"""

import difflib
import inspect
import logging
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from tcm_bench.ledger import Run, science_hash
from tcm_bench.provenance import cores, file_sha256, listing_sha256, with_sources

logging.getLogger("hydra.utils").addFilter(lambda record: False)  # it prints what it raises, traceback and all

CONFIG_NAME = "config"
PROJECT_ROOT = Path(__file__).resolve().parents[1]
SCIENCE = ("data", "model", "loss", "tcm", "metrics", "optim", "trainer", "seed")
FACTORS = {"data": "data", "backbone": "model/backbone", "loss": "loss", "tcm": "tcm"}
OTHERS = "**"  # what a constructor with `**kwargs` takes beside the parameters that it names
# What says where the items of the data or the weights lie, not which they are; `sha256` beside it says that.
PLACES = ("data.root", "data.file", "data.labels", "model.backbone.weights.file")
TRUSTED = (
    "tcm_bench",
    "torch.nn",
    "torch.optim",
    "lightning.pytorch",
    "torchmetrics",
    "pytorch_metric_learning",
)


class ConfigurationError(ValueError):
    """The configuration asks for something that does not exist or does not fit."""


def science(cfg: DictConfig, *, seed: Any = None) -> dict[str, Any]:
    """The part of a configuration that decides a run's numbers, plain and resolved, the same on every machine.

    A node whose `_target_` is code from outside the project and its libraries says by `_source_` which code: an edit of
    one's own loss makes another run.

    Args:
        cfg: A composed configuration.
        seed: Stands for the seed wherever it is used; None: the configuration's own.
    """
    for key in (*SCIENCE, "machine"):
        if key not in cfg:
            raise ConfigurationError(f"{key} cannot be taken away: nothing runs without it")
    anywhere = OmegaConf.masked_copy(cfg, [*SCIENCE, "machine"])
    OmegaConf.set_readonly(anywhere, False)
    if seed is not None:
        anywhere.seed = seed
    for key in anywhere.machine:
        anywhere.machine[key] = f"<{key}>"
    for place in PLACES:
        parent, _, key = place.rpartition(".")
        node = OmegaConf.select(anywhere, parent)
        if node is not None and "sha256" in node:
            node.sha256 = OmegaConf.select(cfg, f"{parent}.sha256")  # may be taken from the file that is masked next
        if node is not None and key in node:
            node[key] = f"<{key}>"
    plain = OmegaConf.to_container(anywhere, resolve=True)
    assert isinstance(plain, dict)
    for path, value in _leaves(plain):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError(f"{path} must be a finite number, got {value}")
    return with_sources({key: plain[key] for key in SCIENCE}, TRUSTED)


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value below a node, with its dotted key."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for child in node:
            yield from _leaves(child, path)
    else:
        yield path, node


def run_id(*, _root_: DictConfig) -> str:
    """Resolver `${run_id:}`: names the run this configuration describes."""
    return science_hash(science(_root_))


def comparison_id(cfg: DictConfig) -> str:
    """Names the comparison a run belongs to: all that decides its numbers but the TCM setting and the seed."""
    return science_hash({key: value for key, value in science(cfg, seed="<seed>").items() if key != "tcm"})


def plan(cfg: DictConfig, chosen: dict[str, str | int]) -> Run:
    """What is known of a run before it starts; `chosen` are its `choices`."""
    found = science(cfg)
    return Run(run_id=science_hash(found), comparison_id=comparison_id(cfg), choices=chosen, science=found)


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
        if key in ("seed", *FACTORS.values()) or re.split(r"[./]", key)[0] not in (*SCIENCE, "experiment"):
            continue
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


def config_groups() -> str:
    """Resolver `${config_groups:}`: every group and its choices, a line each, for the help; no parts of others."""
    loader = GlobalHydra.instance().config_loader()

    def lines(group: str) -> Iterator[str]:
        for inner in loader.get_group_options(group, ObjectType.GROUP):
            path = f"{group}/{inner}".lstrip("/")
            if path == "hydra":
                continue
            if options := [name for name in loader.get_group_options(path) if not name.startswith("_")]:
                yield f"{path}: {', '.join(options)}"
            yield from lines(path)

    return "\n".join(lines(""))


OmegaConf.register_new_resolver("config_groups", config_groups, replace=True)
OmegaConf.register_new_resolver("run_id", run_id, replace=True)
OmegaConf.register_new_resolver("content_sha256", content_sha256, replace=True)
OmegaConf.register_new_resolver("cores", cores, replace=True)
OmegaConf.register_new_resolver("project_root", lambda: str(PROJECT_ROOT), replace=True)


def build(node: DictConfig, trusted: Sequence[str] = (), /, **parts: Any) -> Any:
    """The object a node describes.

    Args:
        node: A mapping with `_target_`, possibly nested.
        trusted: Packages that `_target_` may name beside those the project is made of.
        **parts: Arguments that the configuration cannot hold.

    Raises:
        ConfigurationError: If a target is outside the trusted packages, does not exist, or does not take a given key.
    """
    for path, inner in _targets(node):
        _check_target(path, inner, trusted)
    try:
        made = instantiate(node, _convert_="all", **parts)
    except InstantiationException as error:  # Hydra's wrapping hides the sentence that matters
        cause = error.__cause__
        if isinstance(cause, ValueError):
            raise _placed(cause, node) from cause.__cause__
        if isinstance(cause, OSError):
            raise cause from None
        raise ConfigurationError(f"{node._get_full_key(None)}: {cause or error}") from error
    if not node.get("_partial_"):
        return made

    def completed(*args: Any, **further: Any) -> Any:
        try:
            return made(*args, **further)
        except ValueError as error:
            raise _placed(error, node) from error

    return completed


def _placed(error: ValueError, node: DictConfig) -> ValueError:
    """A constructor's complaint of an argument, with the place in the configuration where the argument is given."""
    name = str(error).partition(" ")[0]
    return type(error)(f"{node._get_full_key(None)}.{error}") if name in node else error


def check_targets(cfg: DictConfig) -> None:
    """Refuse a configuration of which some part cannot be built, without building any.

    Args:
        cfg: A composed configuration; Hydra's own node is left to Hydra.

    Raises:
        ConfigurationError: If a target is outside the trusted packages, does not exist, or does not take a given key.
    """
    for key in map(str, cfg):
        if key != "hydra" and not OmegaConf.is_missing(cfg, key):
            for path, node in _targets(cfg[key], key):
                _check_target(path, node, cfg.trusted_packages)


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig):
        path = path or node._get_full_key(None)
        if "_target_" in node:
            yield path, node
        for key in map(str, node):
            if not OmegaConf.is_missing(node, key):
                yield from _targets(node[key], f"{path}.{key}")
    elif isinstance(node, ListConfig):
        for index, item in enumerate(node):
            yield from _targets(item, f"{path}[{index}]")


def _check_target(path: str, node: DictConfig, trusted: Sequence[str]) -> None:
    name = str(node["_target_"])
    allowed = (*TRUSTED, *trusted)
    if not any(name.startswith(f"{package}.") for package in allowed):
        raise ConfigurationError(
            f"{path}._target_={name} is outside the trusted packages ({', '.join(allowed)}); "
            f"if the code is yours, add trusted_packages=[{name.partition('.')[0]}], or --trusted-package in tcm-bench"
        )
    try:
        target = get_object(name)
        parameters = _parameters(target)
    except (ImportError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())  # Hydra's takes several lines
        raise ConfigurationError(f"{path}._target_={name} cannot be imported: {reason}") from error
    home = str(getattr(target, "__module__", None))  # a trusted module holds others' functions by its imports
    if not any(f"{home}.".startswith(f"{package}.") for package in allowed):
        raise ConfigurationError(f"{path}._target_={name} is at home in {home}, outside the trusted packages")
    for key in map(str, node):
        if key.startswith("_"):
            continue
        if key not in parameters and OTHERS not in parameters:
            raise ConfigurationError(f"{name} takes no '{path}.{key}'{nearest(key, parameters)}")
        words = _words(parameters[key].annotation) if key in parameters else ()
        if words and not OmegaConf.is_missing(node, key) and node[key] not in words:
            raise ConfigurationError(f"{path}.{key} must be one of {', '.join(map(str, words))}, got {node[key]!r}")


def _parameters(target: Any) -> dict[str, inspect.Parameter]:
    """What a target takes, `OTHERS` for anything else; a class may hand on what it does not know to its bases."""
    bases = [vars(base) for base in target.__mro__] if inspect.isclass(target) else []
    found: dict[str, inspect.Parameter] = {}
    for function in [base["__init__"] for base in bases if "__init__" in base] or [target]:
        parameters = inspect.signature(function).parameters
        found = {**parameters, **found}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            return {name: one for name, one in found.items() if one.kind is not one.VAR_KEYWORD and name != "self"}
    return {**found, OTHERS: inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD)}


def _words(annotation: Any) -> tuple[Any, ...]:
    """What a parameter may be, if its annotation spells that out: `Literal`, or several of them."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if annotation is NoneType:
        return (None,)
    if get_origin(annotation) in (Union, UnionType):
        found = [_words(part) for part in get_args(annotation)]
        return tuple(word for words in found for word in words) if all(found) else ()
    return ()


def nearest(word: str, known: Any) -> str:
    """The end of a sentence on an unknown word: the known one that was meant, or all there are."""
    near = difflib.get_close_matches(word, [str(k) for k in known if not str(k).startswith("_")], n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known here: {', '.join(sorted(map(str, known)))}"
