"""A run's configuration, composed in this process as the command composes it."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from tcm_bench.runs.naming import PROJECT_ROOT, choices


def composition(*words: str) -> tuple[DictConfig, dict[str, str | int]]:
    """The configuration of these overrides and what was chosen by them: what `execute` and `plan` take."""
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", list(words), return_hydra_config=True)
    chosen = choices(cfg.hydra, cfg.seed)
    with open_dict(cfg):
        del cfg["hydra"]  # as for Hydra's task
    return cfg, chosen
