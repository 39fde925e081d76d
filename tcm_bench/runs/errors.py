"""The one sentence in which every foreseen error is told."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from tcm_bench.results.old_names import NEW
from tcm_bench.runs.build import ConfigurationError, nearest
from tcm_bench.runs.naming import composed


def explain(error: BaseException) -> str | None:
    """One sentence for an error of composition, or None if `error` is none."""
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, ConfigurationError):
            return str(cause)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return no_option(group or "configuration", option, error.options or [])
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        reason = _first_line(error)
        if value and not set(value) & set("[]{}'\""):  # a text, with characters that mean something to Hydra or nothing
            reason = f"quote it for the shell and for Hydra: '{key}=\"{value}\"'"
            if value.startswith("~/"):
                reason = f"name your home folder in full, as by {key}=$HOME{value[1:]}"
        return f"cannot read '{error.override}' as key=value: {reason}"
    for cause in chain:
        if gone := re.search(r"Interpolation key '([^']+)' not found", str(cause)):
            return f"{gone[1]} cannot be taken away: nothing runs without it"
        if missing := re.search(r"Missing mandatory value: (\S+)", str(cause)):
            return f"{missing[1]} must be given: {missing[1]}=..."
        if isinstance(cause, InterpolationResolutionError):
            kind, _, reason = _first_line(cause).rpartition(" raised while resolving interpolation: ")
            if kind == ConfigurationError.__name__:  # a sentence of ours
                return reason
            return f"{getattr(cause, 'full_key', None) or 'a value'}: {reason}"
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", str(error)):
        return f"{ambiguous[1]} are several values, one for each run of a sweep: add -m"
    if there := re.search(r"Could not append to config. An item is already at '([^']+)'", str(error)):
        return f"{there[1]} is there already: it is set without the +"
    if plain := re.search(r"Could not override '(experiment|sweep|debug)'", str(error)):
        return f"{plain[1]}=NAME is added to a configuration that has none: +{plain[1]}=NAME"
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    if isinstance(error, ConfigCompositionException) and unknown:
        return _unknown_key(unknown[1], chain)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _first_line(error)
    return None


def not_compiled(error: BaseException) -> ConfigurationError | None:
    """The sentence for a network that `torch.compile` cannot make; None for any other error."""
    for cause in causes(error):
        kind = type(cause)
        # TorchRuntimeError is a fault of the network itself, which torch met on its way through it.
        if kind.__module__.startswith(("torch._dynamo", "torch._inductor")) and kind.__name__ != "TorchRuntimeError":
            return ConfigurationError(
                f"machine.compile=true: torch cannot compile the network here ({_first_line(cause)}); "
                "machine.compile=false trains without"
            )
    return None


def no_option(group: str, option: str, options: Sequence[str]) -> str:
    """An option that a group of the configuration does not have; parts of others (`_name`) are no options."""
    public = [name for name in options if not name.startswith("_")]
    return f"there is no {group}={option}{nearest(option, public)}"


def _unknown_key(key: str, causes: Sequence[BaseException]) -> str:
    full_key = next((str(found) for c in causes if (found := getattr(c, "full_key", None))), key)
    GlobalHydra.instance().clear()  # nothing will run any more: the command has failed
    default = composed()
    if full_key.startswith("hydra.launcher."):
        return f"'{full_key}' belongs to another launcher: add hydra/launcher=joblib, where machine.jobs says how many"
    if full_key in default:
        return f"{full_key} cannot be taken away: nothing runs without it"
    return no_key(full_key, default)


def no_key(key: str, default: DictConfig) -> str:
    """A key that the configuration does not have, with the one that was meant: of the same name elsewhere, or near it.

    Args:
        key: Dotted.
        default: A configuration that has every key.
    """
    known = plain_keys(default)
    parent, _, word = key.rpartition(".")
    word = NEW.get(word, word)
    namesakes = sorted((name for name in known if name.rpartition(".")[2] == word), key=lambda name: name.count("."))
    if namesakes and [name.count(".") for name in namesakes[:2]] != [namesakes[0].count(".")] * 2:
        return f"unknown key '{key}'; did you mean '{namesakes[0]}'?"  # the one that lies highest
    siblings = OmegaConf.select(default, parent) if parent else default
    if isinstance(siblings, DictConfig) and siblings:
        return f"unknown key '{key}'{nearest(word, siblings)}"
    return f"unknown key '{key}'{nearest(key, known)}"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, as a traceback would show them."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def plain_keys(node: Any, prefix: str = "") -> set[str]:
    """Dotted names of everything in a configuration, Hydra's own part left out."""
    found: set[str] = set()
    for key in node:
        if prefix or key != "hydra":
            found.add(f"{prefix}{key}")
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
                found |= plain_keys(child, f"{prefix}{key}.")
    return found
