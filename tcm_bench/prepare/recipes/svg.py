"""Iconify icon sets: named SVG bodies, drawn on white."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tcm_bench.packages import files

INK = "#222222"  # what `currentColor` means for a set without colors of its own


def icon_sets(archive: Path, pattern: str = "package/icons.json") -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and contents of the icon sets inside an npm archive."""
    for _, content in files(archive, pattern):
        icons = json.loads(content)
        yield icons["prefix"], icons


def draw(icons: dict[str, Any], name: str, side: int) -> np.ndarray:
    """Render one icon centered on a white square, uint8 ``(side, side, 3)``.

    Raises:
        ValueError: If the renderer is not installed.
    """
    try:
        import resvg_py
    except ImportError:
        raise ValueError("to draw icons the package resvg-py is needed: `pip install resvg-py`") from None
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    document = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{side}" height="{side}" viewBox="{left} {top} {width} {height}" color="{INK}">'
        f"{icon['body']}</svg>"
    )
    png = resvg_py.svg_to_bytes(svg_string=document, background="#ffffff", skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
