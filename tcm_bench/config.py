"""The configuration: how it names a run, what it refuses, and how it becomes objects.

`instantiate` is called here only. A constructor's signature is the schema of its node, the defaults in `conf/` are the
schema of every plain value, and what does not fit either is refused with one sentence.
"""

import difflib
import inspect
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from tcm_bench.ledger import Run, science_hash
from tcm_bench.limits import LIMITS, faults
from tcm_bench.provenance import cores, file_sha256, listing_sha256, with_sources

CONFIG_NAME = "config"
PROJECT_ROOT = Path(__file__).resolve().parents[1]
SCIENCE = ("data", "model", "loss", "tcm", "metrics", "optim", "trainer", "seed")
FACTORS = {"data": "data", "backbone": "model/backbone", "loss": "loss", "tcm": "tcm"}
READ_BY_NAME = ("data", "model", "optim", "machine")  # what nobody asks for there would be lost in silence
# What says where the items of the data or the weights lie, not which they are; `sha256` beside it says that.
PLACES = ("data.root", "data.file", "data.labels", "model.backbone.weights.file")
SET_ELSEWHERE = {  # keys that Hydra or the trainer would take, and what is meant by whoever gives them
    **dict.fromkeys(("run_id", "run_dir"), "follows from the configuration; machine.output_dir says where runs lie"),
    **dict.fromkeys(
        ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir", "trainer.default_root_dir"),
        "is where this run's own folder lies; machine.output_dir=DIR moves all runs",
    ),
    **{f"trainer.{key}": f"is written machine.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy")},
    "trainer.enable_progress_bar": "is written machine.progress",
    "trainer.callbacks": "is a group: +callbacks.NAME={_target_: ...} adds one",
    "trainer.logger": "is a group: logger=wandb, logger=none",
    "trainer.use_distributed_sampler": "stays false: the loaders cut themselves by rank",
    "trainer.num_sanity_val_steps": "stays 0: validation classes are measured after an epoch",
}
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
    return with_sources({key: plain[key] for key in SCIENCE}, TRUSTED)


def run_id(*, _root_: DictConfig) -> str:
    """Resolver `${run_id:}`: names the run this configuration describes."""
    return science_hash(science(_root_))


def comparison_id(cfg: DictConfig) -> str:
    """Names the comparison a run belongs to: all that decides its numbers but the TCM setting and the seed."""
    return science_hash({key: value for key, value in science(cfg, seed="<seed>").items() if key != "tcm"})


def plan(cfg: DictConfig, chosen: dict[str, str | int]) -> Run:
    """What is known of a run before it starts; `chosen` are its `choices`."""
    return Run(run_id=cfg.run_id, comparison_id=comparison_id(cfg), choices=chosen, science=science(cfg))


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
        return instantiate(node, _convert_="all", **parts)
    except InstantiationException as error:  # Hydra's wrapping hides the sentence that matters
        cause = error.__cause__
        if isinstance(cause, ValueError | OSError):
            raise cause from None
        raise ConfigurationError(f"{node._get_full_key(None)}: {cause or error}") from error


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
        parameters = inspect.signature(target).parameters
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{path}._target_={name} cannot be imported: {error}") from error
    home = str(getattr(target, "__module__", None))  # a trusted module holds others' functions by its imports
    if not any(f"{home}.".startswith(f"{package}.") for package in allowed):
        raise ConfigurationError(f"{path}._target_={name} is at home in {home}, outside the trusted packages")
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key in map(str, node):
        if key.startswith("_"):
            continue
        if key not in parameters:
            raise ConfigurationError(f"{name} takes no '{path}.{key}'{_nearest(key, parameters)}")
        words = _words(parameters[key].annotation)
        if words and not OmegaConf.is_missing(node, key) and node[key] not in words:
            raise ConfigurationError(f"{path}.{key} must be one of {', '.join(map(str, words))}, got {node[key]!r}")


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


def check(cfg: DictConfig, overrides: Sequence[str], loader: ConfigLoader) -> None:
    """Refuse what Hydra lets pass: an added key that nothing reads, a name that follows from the rest, a bad value.

    Args:
        cfg: The composed configuration.
        overrides: The command line's overrides that led to it.
        loader: Hydra's, to compose the same choices with default values.

    Raises:
        ConfigurationError: With one sentence that names the key.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    choices = [
        text
        for text, override in zip(overrides, parsed, strict=True)
        if loader.get_group_options(override.key_or_group.lstrip("/"))
    ]
    default = loader.load_configuration(CONFIG_NAME, choices, run_mode=RunMode.RUN, from_shell=False)
    for override in parsed:
        if remedy := SET_ELSEWHERE.get(override.key_or_group):
            raise ConfigurationError(f"{override.key_or_group} {remedy}")
    for key in map(str, cfg):
        if key not in default:
            raise ConfigurationError(f"unknown key '{key}'{_nearest(key, default)}")
    known = _plain_keys(default)
    for override in parsed:
        key = override.key_or_group
        parent, _, word = key.rpartition(".")
        if override.is_add() and parent in known and key not in known and key.partition(".")[0] in READ_BY_NAME:
            siblings = OmegaConf.select(default, parent)
            if isinstance(siblings, DictConfig) and "_target_" not in siblings:
                raise ConfigurationError(f"unknown key '{key}'{_nearest(word, siblings)}")
        if override.is_delete():
            if key in known and OmegaConf.select(cfg, key) is None and _is_needed(key, default):
                raise ConfigurationError(f"{key} cannot be taken away: nothing runs without it")
            continue
        if key not in known or key == "machine.devices":  # which may be a number, a list or a word
            continue
        expected = OmegaConf.select(default, key, throw_on_missing=False)
        given = OmegaConf.select(cfg, key, throw_on_missing=False)
        if not _fits(given, expected):
            raise ConfigurationError(
                f"{key} must be {_kind(expected)}, got {given!r}; its default is {key}={_shown(expected)}"
            )
    for sentence in faults(_limited(cfg)):
        raise ConfigurationError(sentence)


def absent_data(cfg: DictConfig) -> str | None:
    """The reader's sentence if nothing at all lies where a run's data should be; None if something does.

    Cheap: data that are there are not read.
    """
    given = (OmegaConf.select(cfg, place) for place in PLACES if place.startswith("data."))
    places = [Path(place) for place in given if place is not None]
    if all(any(place.iterdir()) if place.is_dir() else place.exists() for place in places):
        return None
    try:
        build(cfg.data.splits, list(cfg.trusted_packages))
    except (ValueError, OSError, OmegaConfBaseException) as error:
        return explain(error) or str(error)
    return None


def _is_needed(key: str, default: DictConfig) -> bool:
    """Whether code asks for a key by its name; a constructor's arguments have defaults, and of watchers any can go."""
    parent = key.rpartition(".")[0]
    return not parent or ("_target_" not in OmegaConf.select(default, parent) and parent not in ("callbacks", "logger"))


def _limited(cfg: DictConfig) -> dict[str, Any]:
    """Values by the dotted keys of `LIMITS`; not those of a constructor from elsewhere, which may mean other things."""
    found = {}
    for key in LIMITS:
        parent, _, word = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig) or word not in node or OmegaConf.is_missing(node, word):
            continue
        if str(node.get("_target_", "tcm_bench.")).startswith(tuple(f"{package}." for package in TRUSTED)):
            value = node[word]
            found[key] = list(value) if isinstance(value, ListConfig) else value
    return found


def _plain_keys(node: Any, prefix: str = "") -> set[str]:
    """Dotted names of everything in a configuration, Hydra's own part left out."""
    found: set[str] = set()
    for key in node:
        if prefix or key != "hydra":
            found.add(f"{prefix}{key}")
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
                found |= _plain_keys(child, f"{prefix}{key}.")
    return found


def _fits(given: Any, expected: Any) -> bool:
    if given is None or expected is None or (isinstance(expected, str) and isinstance(given, int | float)):
        return True
    if isinstance(expected, bool) or isinstance(given, bool):
        return isinstance(given, bool) and isinstance(expected, bool)
    if isinstance(expected, float):
        return isinstance(given, int | float)
    if isinstance(expected, DictConfig | ListConfig):
        return type(given) is type(expected)
    return isinstance(given, type(expected))


def _kind(value: Any) -> str:
    kinds = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        ListConfig: "a list",
    }
    return kinds.get(type(value), "a mapping")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, [str(k) for k in known if not str(k).startswith("_")], n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known here: {', '.join(sorted(map(str, known)))}"


def explain(error: BaseException) -> str | None:
    """One sentence for an error of composition, or None if `error` is none."""
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, ConfigurationError):
            return str(cause)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = [option for option in error.options or [] if not option.startswith("_")]
        return f"there is no {group.replace('/', '.') or 'configuration'}={option}{_nearest(option, options)}"
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        reason = _first_line(error)
        if value and not set(value) & set("[]{}'\""):  # a text, with characters that mean something to Hydra or nothing
            reason = f"quote it for the shell and for Hydra: '{key}=\"{value}\"'"
        return f"cannot read '{error.override}' as key=value: {reason}"
    for cause in chain:
        if missing := re.search(r"Missing mandatory value: (\S+)", str(cause)):
            return f"{missing[1]} must be given: {missing[1]}=..."
        if isinstance(cause, InterpolationResolutionError):
            kind, _, reason = _first_line(cause).rpartition(" raised while resolving interpolation: ")
            if kind == ConfigurationError.__name__:  # a sentence of ours
                return reason
            return f"{getattr(cause, 'full_key', None) or 'a value'}: {reason}"
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", str(error)):
        return f"{ambiguous[1]} are several values, one for each run of a sweep: add -m"
    if plain := re.search(r"Could not override '(experiment|sweep)'", str(error)):
        return f"{plain[1]}=NAME is added to a configuration that has none: +{plain[1]}=NAME"
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    if isinstance(error, ConfigCompositionException) and unknown:
        return _unknown_key(unknown[1], chain)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _first_line(error)
    return None


def _unknown_key(key: str, causes: Sequence[BaseException]) -> str:
    full_key = next((str(found) for c in causes if (found := getattr(c, "full_key", None))), key)
    GlobalHydra.instance().clear()  # nothing will run any more: the command has failed
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        default = compose(CONFIG_NAME)
    if full_key.startswith("hydra.launcher."):
        return f"'{full_key}' belongs to another launcher: add hydra/launcher=joblib, where machine.jobs says how many"
    parent, _, word = full_key.rpartition(".")
    siblings = OmegaConf.select(default, parent) if parent else default
    known = [str(name) for name in siblings] if isinstance(siblings, DictConfig) else []
    if not known:
        return f"unknown key '{full_key}'{_nearest(full_key, _plain_keys(default))}"
    return f"unknown key '{full_key}'{_nearest(word, known)}"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, as a traceback would show them."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
