"""Where a number comes from: code, libraries, machine."""

import ast
import platform
import resource
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tcm_bench.files import file_sha256, listing_sha256

PACKAGES = (
    "tcm-bench",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "torchmetrics",
    "pytorch-metric-learning",
    "hydra-core",
    "numpy",
    "pillow",
    "onnx",
)


def versions() -> dict[str, str]:
    """Version of Python, the platform and every library that can move a number."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def git_state() -> dict[str, Any]:
    """Commit of the code that runs and whether tracked files differ from it; both None outside a checkout."""

    def git(*words: str) -> str | None:
        try:
            ran = subprocess.run(
                ["git", *words],
                cwd=Path(__file__).parent,
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return ran.stdout.strip() if ran.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"sha": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def peak_mem_gib() -> float:
    """Largest resident memory of this process so far, GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def with_sources(node: Any, vouched: Collection[str]) -> Any:
    """A plain configuration with `_source_`, the `source_sha256` of its code, beside every `_target_` of others' code.

    Args:
        node: Nested dictionaries and lists.
        vouched: Packages whose code goes by its version; whatever else lies in the same libraries has no hash.
    """
    if isinstance(node, list):
        return [with_sources(child, vouched) for child in node]
    if not isinstance(node, dict):
        return node
    found = {key: with_sources(child, vouched) for key, child in node.items()}
    target = str(node.get("_target_", ""))
    if target and not target.startswith(tuple(f"{package}." for package in vouched)):
        found["_source_"] = source_sha256(target, frozenset(package.partition(".")[0] for package in vouched))
    return found


@cache  # once a process, which imports a module once: the number is that of the code which runs here
def source_sha256(module: str, known: frozenset[str] = frozenset()) -> str | None:
    """Hash of the Python source behind a module, in hex; nothing is imported.

    Counted are all `*.py` files of the top-level package, and of what it imports from the folder beside it, for one's
    own code is often spread over a few files there. An installed package counts alone: its neighbors are others' work.

    Args:
        module: Dotted name; its first part says which package.
        known: Names of top-level packages not to follow.

    Returns:
        None if there is no such module or it has no file.
    """
    waiting, found = [module.partition(".")[0]], dict[str, str]()
    home: Path | None = None
    seen = {*known}
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        for place, files in _sources(name):
            home = home or place
            if place != home:
                continue
            found |= {file.relative_to(place).as_posix(): file_sha256(file) for file in files}
            if not _is_installed(place):
                waiting += (imported for file in files for imported in _imported(file))
    return listing_sha256(found.items()) if found else None


def _sources(name: str) -> Iterator[tuple[Path, list[Path]]]:
    """Folders that hold a top-level module, each with the files that are its source."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # ValueError: of a module made by hand, such as __main__
        return
    if spec is None:
        return
    if spec.submodule_search_locations is not None:
        for folder in map(Path, spec.submodule_search_locations):
            yield folder.parent, list(folder.rglob("*.py"))
    elif spec.origin and (file := Path(spec.origin)).is_file():
        yield file.parent, [file]


def _is_installed(place: Path) -> bool:
    return any(
        place.is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")
    )


def _imported(file: Path) -> Iterator[str]:
    """Top-level packages that a source file imports, wherever in it."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # whoever imports it will be told
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
