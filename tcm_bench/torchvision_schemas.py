"""Lets a CPU build of torch live beside a CUDA build of torchvision.

A package index often carries torchvision only as a CUDA build. Beside a CPU build of torch its C++ library
cannot be loaded, so nothing declares ``torchvision::nms`` and ``torchvision::qnms``; torchvision then fails
while it registers shape functions for them ("operator torchvision::nms does not exist"), and takes timm,
lightning and torchmetrics down with it. None of them calls these operators: declaring them is all it takes.

`install` is called by the package itself, before any module of it can import one of those.

It costs nothing and imports nothing until torchvision is imported, and changes nothing when torch and
torchvision match. ``torchvision.io`` and torchvision's compiled ``ops`` stay unavailable with the odd pair.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_TRIGGER = "torchvision._meta_registrations"  # looked up after the C++ library was tried, before the failure
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[Any] = []  # torch drops a declaration together with the library object that made it


class SchemaFinder(MetaPathFinder):
    """Finds no module: it only uses the moment at which torchvision looks for its shape functions."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """Declare the missing schemas when the module that needs them is looked up.

        Args:
            fullname: The module looked up.
            path: Unused; a list, or the import system's own kind of path for namespace packages.
            target: Unused.

        Returns:
            None always, which hands the search on to the ordinary finders.
        """
        if fullname == _TRIGGER:
            declare_missing_schemas()
        return None


def declare_missing_schemas() -> list[str]:
    """Declare those of torchvision's ``nms`` and ``qnms`` that are not declared yet.

    Returns:
        Names of the operators declared by this call; empty when torch and torchvision match.
    """
    import torch

    missing = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(_SCHEMAS[name])
        _declared.append(library)
    return missing


def install() -> None:
    """Put one :class:`SchemaFinder` in front of the import system; a second call changes nothing."""
    if not any(isinstance(finder, SchemaFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SchemaFinder())
