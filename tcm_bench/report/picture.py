"""What all figures share: colors, axes, and how one becomes a file that says what was drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tcm_bench.files import replacing

FORMATS = (".png", ".svg", ".pdf")
COLORS = (  # Okabe and Ito: these stay apart for every kind of color vision; the first two most
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)


GRID = "0.9"


def as_it_is(name: str) -> str:
    r"""A name that somebody gave, for a picture: its dollars make no formula, and legends have it with an underscore.

    Example:
        >>> print(as_it_is("cheap $ and $$"))
        cheap \$ and \$\$
    """
    hidden = "\u200b" if name.startswith("_") else ""  # matplotlib leaves such names out of legends
    return hidden + name.replace("$", r"\$")


def plain_axes(panel: Axes, grid: Literal["both", "x"] = "both") -> None:
    """A light grid, and of the frame only what has a scale."""
    panel.grid(axis=grid, color=GRID, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def write_picture(path: Path, draw: Callable[[], Figure], told: str | None, *, dpi: int = 200) -> Path:
    """Draw into a file; its suffix, one of `FORMATS`, says how.

    Args:
        path: The folder is made if need be.
        draw: Makes the figure, and is not asked where the suffix is none of them.
        told: Stands in the metadata: what was drawn.
        dpi: Pixels to an inch.

    Raises:
        ValueError: If the suffix is another one, or as `draw` says.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"cannot draw into '{path.name}'; end the name in one of {', '.join(FORMATS)}")
    figure = draw()
    metadata = {
        ".png": {"Software": None, "Description": told},
        ".svg": {"Date": None, "Description": told},
        ".pdf": {"CreationDate": None, "Subject": told},
    }[suffix]
    with replacing(path) as file:
        figure.savefig(file, format=suffix[1:], dpi=dpi, metadata=metadata)
    return path
