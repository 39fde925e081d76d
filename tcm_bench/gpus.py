"""The GPUs of this machine, as its driver tells, without torch."""

import os
import subprocess
from typing import NamedTuple


class Gpu(NamedTuple):
    """One of them: `uuid` is what CUDA_VISIBLE_DEVICES takes, `free_gb` its memory that nobody has."""

    uuid: str
    free_gb: float


def gpus() -> list[Gpu]:
    """Those that this process may use: all, or the ones that CUDA_VISIBLE_DEVICES names. None without a driver."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        ran = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in ran.stdout.splitlines() if line.count(",") == 2]
    found = {index: Gpu(uuid, float(free) / 1024) for index, uuid, free in rows if free.isdecimal()}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(found.values())
    by_name = found | {gpu.uuid: gpu for gpu in found.values()}
    return [by_name[name] for name in map(str.strip, visible.split(",")) if name in by_name]
