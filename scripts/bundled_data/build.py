"""Rebuild a bundled set from its pinned packages: ``python scripts/bundled_data/build.py emoji [--check]``."""

import argparse
import hashlib
from pathlib import Path

import emoji
import hangul
import icons
import kanji
import quickdraw

from tcm_bench.packages import fetch
from tcm_bench.prepare.recipes.strips import set_files

PROJECT = Path(__file__).parents[2]
RECIPES = {"icons": icons.recipe} | {
    module.RECIPE.name: lambda _, recipe=module.RECIPE: recipe for module in (quickdraw, emoji, kanji, hangul)
}


def main() -> None:
    """Build the named sets and write them, or compare them with what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=RECIPES)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file differs")
    parser.add_argument("--data", type=Path, default=PROJECT / "data")
    parser.add_argument("--downloads", type=Path, default=PROJECT / "outputs" / "downloads")
    arguments = parser.parse_args()
    complete = True
    for name in arguments.names:
        recipe = RECIPES[name](arguments.downloads)
        archives = {package.name: fetch(package, arguments.downloads) for package in recipe.packages}
        for file, content in set_files(recipe, recipe.collect(archives)).items():
            path = arguments.data / name / file
            same = path.exists() and path.read_bytes() == content
            print(f"{'same' if same else 'differs'}  {hashlib.sha256(content).hexdigest()}  {path}")
            complete &= same or not arguments.check
            if not (same or arguments.check):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    raise SystemExit(not complete)


if __name__ == "__main__":
    main()
