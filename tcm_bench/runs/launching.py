"""What the launchers in `hydra_plugins` have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from tcm_bench.runs.sweep import Planned


class JobLauncher(Launcher):
    """Jobs of a sweep that run by hydra-joblib-launcher's code, `execute_job`, wherever that is called."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives to every launcher."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def begin(self, first: int, count: int) -> "list[Planned]":
        """What Hydra wants to have done before jobs, and what is known of so many from this number on."""
        from tcm_bench.runs.sweep import planned_jobs

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return planned_jobs(first, count)

    def arguments(self, number: int, overrides: Sequence[str]) -> tuple[Any, ...]:
        """What `execute_job` takes for the job of this number."""
        return number, overrides, self.hydra_context, self.config, self.task_function, Singleton.get_state()
