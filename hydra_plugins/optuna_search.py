"""Hydra's sweeper that searches by Optuna. Under `hydra_plugins`, where Hydra looks for sweepers."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSearch(Sweeper):
    """Settings of TCM by held-out classes; how, `tcm_bench.runs.search` says."""

    def __init__(self, **settings: Any) -> None:
        """Take `conf/hydra/sweeper/optuna.yaml`."""
        settings.pop("params")  # which are read with the words of the command
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives to every sweeper."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search; the words are the configuration's, too."""
        from tcm_bench.runs.search import search  # which only who searches needs

        assert self.config is not None
        assert self.launcher is not None
        search(self.config, self.launcher, **self.settings)
