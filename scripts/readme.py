"""Write the tables of results/ into README.md, between the comments that name them: ``python scripts/readme.py``."""

import re
from pathlib import Path

import pandas as pd

from tcm_bench.files import write_atomic
from tcm_bench.report.headline import headline

PROJECT = Path(__file__).parents[1]
END = "\n<!-- end -->"
MARKED = re.compile(r"(<!-- (results/\S+\.csv) -->\n).*?<!-- end -->", flags=re.DOTALL)


def rendered(text: str, project: Path = PROJECT) -> str:
    """The README with each marked table as its rows have it."""
    return MARKED.sub(lambda found: found[1] + headline(pd.read_csv(project / found[2])) + END, text)


if __name__ == "__main__":
    readme = PROJECT / "README.md"
    write_atomic(readme, rendered(readme.read_text(encoding="utf-8")))
