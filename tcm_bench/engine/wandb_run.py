"""Weights & Biases: one W&B run for each run of ours, under the same id, offline when it cannot be online."""

import logging
import os
import socket
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import wandb
from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]


def wandb_logger(
    project: str,
    run_id: str,
    save_dir: str | Path,
    *,
    group: str,
    job_type: str,
    tags: list[str],
    mode: Mode | Literal["auto"] = "auto",
    entity: str | None = None,
) -> WandbLogger:
    """A logger that never prompts and never fails for want of a key or a network.

    Args:
        project: W&B project.
        run_id: Id of the run here and there, so that a resumed run goes on in the same W&B run.
        save_dir: Folder for W&B's own files.
        group: The comparison the run belongs to.
        job_type: `base` or `tcm`.
        tags: Words to filter by.
        mode: `auto` is online with a key and a reachable server, else offline; `WANDB_MODE` wins over `auto`.
        entity: User or team; None is the key's own.
    """
    found = _available_mode() if mode == "auto" else mode
    return WandbLogger(
        project=project,
        entity=entity,
        id=run_id,
        name=f"{group}/{job_type}/{run_id}",
        save_dir=str(save_dir),
        group=group,
        job_type=job_type,
        tags=list(tags),
        resume="allow" if found == "online" else None,
        settings=wandb.Settings(mode=found, silent=True, console="off", x_disable_meta=False, init_timeout=60),
    )


def _available_mode() -> Mode:
    """What is possible here and now, without asking anybody."""
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return os.environ["WANDB_MODE"]  # type: ignore[return-value]
    settings = wandb.setup().settings
    if not (settings.api_key or wandb.api.api_key):
        log.info("W&B: no API key, so the run is recorded offline; `wandb sync` uploads it later")
        return "offline"
    server = urlsplit(settings.base_url)
    try:
        socket.create_connection((server.hostname, server.port or 443), timeout=3).close()
    except OSError:
        log.info("W&B: %s cannot be reached, so the run is recorded offline", settings.base_url)
        return "offline"
    return "online"
