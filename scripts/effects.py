"""Draw what TCM changes against one setting at a time: ``python scripts/effects.py``.

Reads the rows of ``results/why_*.csv``, which ``conf/sweep/why.yaml`` makes, and writes ``docs/evidence/<study>.png``.
"""

import re
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from tcm_bench.files import file_sha256

PROJECT = Path(__file__).parents[1]
# Of each study the setting, as the rows name it, and what it is for people.
STUDIES = {
    "weights": ("negative_weight", "weight of the negative side (positive: 1)"),
    "margin": ("negative_margin", "negative margin, a cosine"),
    "images": ("images_per_class", "images a class, training and evaluation"),
    "classes": ("validation_classes", "training classes left out, of 120 and 172"),
    "length": ("max_epochs", "epochs of 50 steps"),
    "temperature": ("temperature", "temperature of the base loss"),
    "loss": ("loss", "base loss"),
}
SCORES = {"opis": "OPIS, change in %", "opis_corrected": "OPIS less noise, change in %", "recall_at_1": "R@1, points"}


def places(rows: pd.DataFrame, setting: str) -> pd.Series:
    """The value of the studied setting in each row: a number from its label, or a name."""
    if setting in rows:
        return rows[setting]
    text = rows["setting"] + " " + rows["tcm"]
    return text.str.extract(rf"\b{re.escape(setting)}=([\d.e-]+)")[0].astype(float)


def changes(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Change of a score with the ends of its interval: in percent of the baseline's for OPIS, in points for R@1."""
    base = rows[f"{name}_base"]
    change = pd.DataFrame({
        "mean": rows[f"{name}_tcm"] - base, "low": rows[f"{name}_change_low"], "high": rows[f"{name}_change_high"]
    })  # fmt: skip
    return 100 * (change if name.startswith("recall") else change.div(base, axis=0))


def drawn(rows: pd.DataFrame, setting: str, title: str) -> Figure:
    """A panel for each score, a line for each recipe, bars for the 95 % intervals over seeds."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    place = places(rows, setting)
    is_number = place.dtype == float
    for axes, (name, label) in zip(figure.subplots(1, len(SCORES)), SCORES.items(), strict=True):
        axes.axhline(0, color="0.6", linewidth=0.8)
        for (data, backbone), group in rows.groupby(["data", "backbone"], sort=False):
            change = changes(group, name)
            at = place[group.index]
            if is_number:
                at = at.sort_values()
                change = change.loc[at.index]
            spread = [change["mean"] - change["low"], change["high"] - change["mean"]]
            style = {"marker": "o", "capsize": 3, "linestyle": "-" if is_number else "none"}
            axes.errorbar(at, change["mean"], yerr=spread, label=f"{data} {backbone}", **style)
        if is_number:
            values = sorted(set(place))
            if values[0] > 0 and values[-1] >= 10 * values[0]:
                axes.set_xscale("log")
                axes.minorticks_off()
            axes.set_xticks(values, [f"{value:g}" for value in values])
        else:
            axes.set_xticks(range(len(set(place))), dict.fromkeys(place), rotation=20, ha="right")
        axes.set(xlabel=title, ylabel=label)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize="small")
    return figure


def origin(file: Path) -> dict[str, str | None]:
    """What a picture says of the rows that it was drawn from."""
    return {"Software": None, "Source": f"results/{file.name} {file_sha256(file)}"}


def main() -> None:
    """All studies whose rows are there."""
    folder = PROJECT / "docs" / "evidence"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (setting, title) in STUDIES.items():
        file = PROJECT / "results" / f"why_{name}.csv"
        if file.exists():
            rows = pd.read_csv(file).astype({"setting": object}).fillna({"setting": ""})
            drawn(rows, setting, title).savefig(folder / f"{name}.png", dpi=120, metadata=origin(file))


if __name__ == "__main__":
    main()
