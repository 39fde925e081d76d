"""What is refused before anything runs, and the one sentence in which every foreseen error is told."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from tcm_bench.process import cores
from tcm_bench.runs.build import TRUSTED, ConfigurationError, build, nearest
from tcm_bench.runs.errors import explain, no_key, no_option, plain_keys
from tcm_bench.runs.limits import LIMITS, faults
from tcm_bench.runs.naming import CONFIG_NAME, PLACES

# Nodes that no constructor checks: a key there that no code reads would do nothing.
READ_BY_NAME = ("data", "model", "optim", "machine", "paths")

SET_ELSEWHERE = {  # keys that Hydra or the trainer would take, and what is meant by whoever gives them
    **dict.fromkeys(("run_id", "run_dir"), "follows from the configuration; paths.output_dir says where runs lie"),
    **dict.fromkeys(
        ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir", "trainer.default_root_dir"),
        "is where this run's own folder lies; paths.output_dir=DIR moves all runs",
    ),
    **{f"trainer.{key}": f"is written machine.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy")},
    "trainer.enable_progress_bar": "is written machine.progress",
    "trainer.callbacks": "is a group: +callbacks.NAME={_target_: ...} adds one",
    "trainer.logger": "is a group: logger=wandb, csv, tensorboard or none",
    "trainer.use_distributed_sampler": "stays false: the loaders cut themselves by rank",
    "trainer.limit_test_batches": "would measure a part of the test set: a score is of all of it",
    "trainer.limit_val_batches": "would measure a part of what is held out: take fewer data.loader.validation_classes",
    "trainer.fast_dev_run": "would measure a part of the test set: debug=fast does, apart from real runs; "
    "+trainer.max_steps=1 takes a step and measures all",
    "paths.results_dir": "follows from paths.output_dir, so that debug runs lie apart from real ones",
    "trainer.num_sanity_val_steps": "stays 0: validation classes are measured after an epoch",
}


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
    choices = []
    for text, override in zip(overrides, parsed, strict=True):
        if options := loader.get_group_options(override.key_or_group.lstrip("/")):
            if str(override.value()).startswith("_"):  # a part of others, not a choice
                raise ConfigurationError(no_option(override.key_or_group, str(override.value()), options))
            if not override.is_delete():
                choices.append(text)
    default = _default(loader, tuple(choices))
    for override in parsed:
        if remedy := SET_ELSEWHERE.get(override.key_or_group):
            raise ConfigurationError(f"{override.key_or_group} {remedy}")
    for key in cfg.get("trainer") or ():  # from a file of one's own
        if remedy := SET_ELSEWHERE.get(f"trainer.{key}"):
            raise ConfigurationError(f"trainer.{key} {remedy}")
    named = {str(key) for key in default}  # `in` a configuration resolves the value, which for a name takes long
    for key in map(str, cfg):
        if key not in named:
            raise ConfigurationError(f"unknown key '{key}'{nearest(key, default)}")
    own = OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key != "hydra"])
    if "run_id" in map(str, own):
        own.run_id = cfg.run_id  # once: whatever names the run or its folder below would work it out anew
    for key in sorted(OmegaConf.missing_keys(own)):
        raise ConfigurationError(f"{key} must be given: {key}=...")
    known = plain_keys(default)
    for override in parsed:
        key = override.key_or_group
        parent = key.rpartition(".")[0]
        if override.is_add() and parent in known and key not in known and key.partition(".")[0] in READ_BY_NAME:
            siblings = OmegaConf.select(default, parent)
            if isinstance(siblings, DictConfig) and "_target_" not in siblings:
                raise ConfigurationError(no_key(key, default))
        if override.is_delete():
            if key in known and OmegaConf.select(cfg, key) is None and _is_needed(key, default):
                raise ConfigurationError(f"{key} cannot be taken away: nothing runs without it")
            continue
        if key not in known or key == "machine.devices":  # which may be a number, a list or a word
            continue
        try:
            expected = OmegaConf.select(default, key, throw_on_missing=False)
        except InterpolationResolutionError:  # follows from a value that must be given
            continue
        if isinstance(expected, list):  # as a resolver gives it
            expected = OmegaConf.create(expected)
        given = OmegaConf.select(cfg, key, throw_on_missing=False)
        if not _fits(given, expected):
            raise ConfigurationError(
                f"{key} must be {_kind(expected)}, got {given!r}; its default is {key}={_shown(expected)}"
            )
    for sentence in faults(limited(cfg)):
        raise ConfigurationError(sentence)
    targets = [str(node.get("_target_")) for node in cfg.logger.values() if node]
    if any(target.endswith(".TensorBoardLogger") for target in targets) and not find_spec("tensorboard"):
        raise ConfigurationError(
            "logger=tensorboard needs TensorBoard: `make setup EXTRAS=cpu,dev,tensorboard` installs it"
        )


@cache  # the jobs of a sweep differ in seeds and values more than in choices
def _default(loader: ConfigLoader, choices: tuple[str, ...]) -> DictConfig:
    """The configuration of these choices, every value as it stands in its file; not to be changed."""
    return loader.load_configuration(CONFIG_NAME, list(choices), run_mode=RunMode.RUN, from_shell=False)


def check_devices(machine: DictConfig) -> None:
    """Refuse more processes on this machine's cores than there are, unless that is what is wanted.

    Raises:
        ConfigurationError: With the word that asks for it nevertheless.
    """
    count = num_processes(machine) // machine.num_nodes
    if count <= cores() or machine.oversubscribe or (machine.accelerator != "cpu" and _num_gpus() >= count):
        return
    raise ConfigurationError(
        f"machine.devices={machine.devices} are {count} processes on {cores()} cores, which would wait for each other; "
        "machine.oversubscribe=true starts them nevertheless"
    )


def num_processes(machine: DictConfig) -> int:
    """How many processes Lightning would start for a run; see its `Trainer` for what `devices` may be.

    Raises:
        ConfigurationError: If `machine.devices` is none of that.
    """
    devices = machine.devices
    text = ",".join(map(str, devices)) + "," if isinstance(devices, ListConfig) else str(devices).strip()
    if text in ("auto", "-1"):
        here = 1 if machine.accelerator in ("cpu", "mps") else _num_gpus()
    elif "," in text:
        here = sum(bool(word.strip()) for word in text.split(","))
    elif text.isdecimal() and int(text):
        here = int(text)
    else:
        raise ConfigurationError(
            f"machine.devices must be a number of at least 1, a list of numbers or auto, got {devices!r}"
        )
    return here * machine.num_nodes


def _num_gpus() -> int:
    import torch

    return max(torch.cuda.device_count(), 1)


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


def limited(cfg: DictConfig) -> dict[str, Any]:
    """Values by the dotted keys of `LIMITS`; not those of a constructor from elsewhere, which may mean other things."""
    found = {}
    for key in LIMITS:
        parent, _, word = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig) or word not in node or OmegaConf.is_missing(node, word):
            continue
        if str(node.get("_target_", "tcm_bench.")).startswith(tuple(f"{package}." for package in TRUSTED)):
            value = node[word]
            found[key] = OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
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
