"""The report page of a large test set: its size, and how long a browser takes to draw it.

    python tests/benchmarks/page.py [--classes 10000] [--comparisons 16]

The embeddings are random, the classes of unequal spread; needs Chromium and its driver. On two shared cores of a cloud
machine, 29 November 2026: see docs/report.md.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tcm_bench.report.page.build import write_page
from tcm_bench.results import ledger
from tcm_bench.tensors import write_tensors

ITEMS, DIM = 3, 32


def write_run(output: Path, comparison: int, arm: str, classes: int) -> None:
    """The row and the embeddings of a run that never was."""
    generator = torch.Generator().manual_seed(comparison)
    spread = 0.2 + (0.8 if arm == "none" else 0.3) * torch.rand(classes, 1, generator=generator)
    labels = torch.arange(classes).repeat_interleave(ITEMS)
    centers = torch.randn(classes, DIM, generator=generator)
    embeddings = centers[labels] + spread[labels] * torch.randn(len(labels), DIM, generator=generator)
    weight = 0.0 if arm == "none" else 1.0
    row = ledger.Result(
        schema_version=ledger.SCHEMA_VERSION,
        status="finished",
        run_id=f"{comparison:06}{arm:.<6}",
        comparison_id=f"{comparison:012}",
        choices={"data": "random", "backbone": f"net{comparison}", "loss": "smooth_ap", "tcm": arm, "seed": 0},
        science={"tcm": {"positive_weight": weight, "negative_weight": weight}, "seed": 0},
        metrics={"recall_at_1": 0.5, "opis": 0.02 - 0.01 * weight, "opis_10pct": 0.05},
        threshold={"eps": 0.1, "c": 1.0},
        started="2026-11-29T00:00:00+00:00",
        wall_s=1.0,
        peak_mem_gib=1.0,
        threads=1,
        versions={},
        git={},
    )
    folder = output / "runs" / row.run_id
    folder.mkdir(parents=True)
    ledger.write_result(folder, row)
    write_tensors(
        folder / ledger.EMBEDDINGS,
        {"embeddings": embeddings, "labels": labels, "indices": torch.arange(len(labels))},
    )


def drawn_s(page: Path, profile: Path) -> float:
    """Seconds from asking for the page to the first frame after it is whole."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for word in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "disable-background-networking"):
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={profile}")
    browser = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        browser.set_window_size(1280, 900)
        found = []
        for _ in range(5):
            browser.get("about:blank")
            began = time.perf_counter()
            browser.get(page.as_uri())
            browser.execute_async_script(
                "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
            )
            found.append(time.perf_counter() - began)
        return sorted(found)[len(found) // 2]
    finally:
        browser.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--comparisons", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        output = Path(name)
        for comparison in range(given.comparisons):
            for arm in ("none", "paper"):
                write_run(output, comparison, arm, given.classes)
        rows = list(ledger.results(ledger.run_dirs(output)))
        began = time.perf_counter()
        page, *_ = write_page(rows, output, "large", on_progress=lambda *now: print(*now, file=sys.stderr))
        seconds, megabytes = time.perf_counter() - began, page.stat().st_size / 1e6
        print(f"{given.comparisons} comparisons of {given.classes} classes: {seconds:.0f} s, {megabytes:.1f} MB")
        print(f"drawn in {drawn_s(page, output / 'profile'):.2f} s (median of 5)")


if __name__ == "__main__":
    main()
