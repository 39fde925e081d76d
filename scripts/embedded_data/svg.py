"""Iconify icon sets: named SVG bodies, drawn on white."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from fetch import read_member
from PIL import Image

INK = "#222222"  # what `currentColor` means for a set without colours of its own


def icon_set(archive: Path, member: str) -> dict[str, Any]:
    """The JSON of one icon set inside an npm archive."""
    with tarfile.open(archive) as tar:
        return json.loads(read_member(tar, member))


def draw(icons: dict[str, Any], name: str, side: int) -> np.ndarray:
    """Render one icon centred on a white square, uint8 ``(side, side, 3)``."""
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
