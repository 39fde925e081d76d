"""From a configuration to objects, and the refusal of one from which none can be made.

`instantiate` is called here only. A constructor's signature is the schema of its node.
"""

import difflib
import inspect
import logging
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

logging.getLogger("hydra.utils").addFilter(lambda record: False)  # it prints what it raises, traceback and all

TRUSTED = (
    "tcm_bench",
    "torch.nn",
    "torch.optim",
    "lightning.pytorch",
    "torchmetrics",
    "pytorch_metric_learning",
)
OTHERS = "**"  # what a constructor with `**kwargs` takes beside the parameters that it names


class ConfigurationError(ValueError):
    """The configuration asks for something that does not exist or does not fit."""


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
            if (placed := _placed(error, node)) is error:
                raise  # from itself it would be its own cause, and whoever follows causes would not come to an end
            raise placed from error

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
