"""Write the tables of results/ into the documents, between comments that name them: ``python scripts/tables.py``."""

import re
from pathlib import Path

import pandas as pd

from tcm_bench.files import write_atomic
from tcm_bench.report.headline import headline

PROJECT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/evidence.md")
END = "\n<!-- end -->"
MARKED = re.compile(r"(<!-- (results/\S+\.csv) -->\n).*?<!-- end -->", flags=re.DOTALL)


def rendered(text: str, project: Path = PROJECT) -> str:
    """A document with each marked table as its rows have it."""
    return MARKED.sub(lambda found: found[1] + headline(pd.read_csv(project / found[2])) + END, text)


if __name__ == "__main__":
    for name in DOCUMENTS:
        document = PROJECT / name
        write_atomic(document, rendered(document.read_text(encoding="utf-8")))
