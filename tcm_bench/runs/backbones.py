"""The backbones that can be chosen, and those that a sweep needs, looked at without a run, its data or its name."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tcm_bench.runs.build import ConfigurationError, build, nearest
from tcm_bench.runs.errors import explain, no_option
from tcm_bench.runs.naming import CONFIG_NAME, PROJECT_ROOT, SCIENCE, leaves

if TYPE_CHECKING:
    from tcm_bench.models.weights import Weights

CONF = PROJECT_ROOT / "conf"
GROUP = "model/backbone"
APART = {*SCIENCE} - {"data", "model"}  # no backbone is made of what these say
DECIDES = ("architecture", "options", "weights")  # what decides which file is needed, and whether it fits


class Backbone(NamedTuple):
    """A backbone as `conf/` describes it, of which nothing is built yet.

    Attributes:
        name: Its option of `model/backbone`.
        node: Its configuration.
        trusted: Packages whose code it may name.
        runs: How many runs of a sweep need it.
    """

    name: str
    node: DictConfig
    trusted: tuple[str, ...] = ()
    runs: int = 0

    @property
    def open_keys(self) -> list[str]:
        """What a run has to be told before the weights are known, e.g. the file of one's own."""
        plain = OmegaConf.to_container(self.node, resolve=False)
        return [path for path, value in leaves(plain, GROUP.replace("/", ".")) if value == MISSING]

    def weights(self) -> "Weights":
        """Where its weights come from.

        Raises:
            ValueError: If the configuration leaves that open, or asks for what does not exist.
        """
        if self.open_keys:
            told = " and ".join(f"{key}=..." for key in self.open_keys)
            raise ConfigurationError(f"its weights are your own: {told} says which, in a run or a sweep")
        return self._built(self.node.weights)

    def network(self) -> Any:
        """The backbone itself, with its weights.

        Raises:
            ValueError: If they are not to be had, altered, or of another network.
        """
        return self._built(self.node)

    def _built(self, node: DictConfig) -> Any:
        try:
            return build(node, self.trusted)
        except OmegaConfBaseException as error:  # a file whose content should name the run is not there
            raise ConfigurationError(explain(error) or str(error)) from error


def backbone_names() -> list[str]:
    """The options of `model/backbone` that have weights."""
    stems = sorted(path.stem for path in (CONF / GROUP).glob("[!_]*.yaml"))
    return [stem for stem in stems if OmegaConf.load(CONF / GROUP / f"{stem}.yaml")]  # `none` is empty


def described(name: str, weights_dir: Path | None = None) -> Backbone:
    """A backbone as its yaml has it.

    Args:
        name: Of an option of `model/backbone`.
        weights_dir: Stands for `paths.weights_dir`.

    Raises:
        ConfigurationError: If there is no such backbone.
    """
    if name not in (known := backbone_names()):
        raise ConfigurationError(no_option(GROUP, name, known))
    with initialize_config_dir(str(CONF), version_base="1.3"):  # these two alone: a quarter of the whole's time
        cfg = OmegaConf.create({**compose("paths/default"), **compose(f"{GROUP}/{name}")})
    return Backbone(name, _placed(cfg, weights_dir).model.backbone)


def needed_by(sweep: str, weights_dir: Path | None = None) -> list[Backbone]:
    """The backbones of a sweep's runs, each once, with how many runs need it.

    Args:
        sweep: Of `conf/sweep`.
        weights_dir: Stands for `paths.weights_dir`.

    Raises:
        ConfigurationError: If there is no such sweep, or it has no backbone with weights.
    """
    check_sweep(sweep)
    from tcm_bench.runs.sweep import job_overrides

    found: dict[str, Backbone] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose(CONFIG_NAME, [f"+sweep={sweep}"], return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        alike: dict[tuple[str, ...], int] = {}  # runs that differ in what no backbone is made of
        for words in job_overrides(whole):
            told = tuple(word for word in words if word.lstrip("+~").partition("=")[0].partition(".")[0] not in APART)
            alike[told] = alike.get(told, 0) + 1
        for told, runs in alike.items():
            job = _placed(loader.load_sweep_config(whole, list(told)), weights_dir)
            if not (node := job.model.backbone):
                continue
            key = decisive_key(node)
            before = found[key].runs if key in found else 0
            name = job.hydra.runtime.choices[GROUP]
            found[key] = Backbone(name, node, tuple(job.trusted_packages), before + runs)
    if not found:
        raise ConfigurationError(f"the sweep {sweep} needs no weights: it has no backbone")
    return list(found.values())


def check_sweep(name: str) -> None:
    """Refuse a name that no sweep of `conf/sweep` has.

    Raises:
        ConfigurationError: With the nearest that one has.
    """
    known = sorted(path.stem for path in (CONF / "sweep").glob("[!_]*.yaml"))
    if name not in known:
        raise ConfigurationError(f"there is no sweep {name!r} in conf/sweep{nearest(name, known)}")


def decisive_key(node: DictConfig) -> str:
    """The same for two backbones that need the same file."""
    plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return json.dumps({part: plain.get(part) for part in DECIDES}, sort_keys=True)


def _placed(cfg: DictConfig, weights_dir: Path | None) -> DictConfig:
    if weights_dir is not None:
        OmegaConf.set_readonly(cfg, False)
        cfg.paths.weights_dir = str(weights_dir.absolute())
    return cfg
