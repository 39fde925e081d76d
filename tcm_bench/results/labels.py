"""What runs are called: the names that were chosen for them, and every setting in which runs of the same names differ.

A name alone would hide that two runs with it were trained otherwise, so their configurations are compared. A difference
is left out only where something shown entails it: a chosen option its own values, a setting those that repeat it.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tcm_bench.results.ledger import Run, science_hash

FACTORS = ("data", "backbone", "loss")
UNKNOWN = "?"
PAPER, OWN = "paper", "own"


class Label(NamedTuple):
    """What a run is called among others.

    Attributes:
        data: Name chosen for it, as are `backbone` and `loss`; `?` where none is known.
        backbone: See `data`.
        loss: See `data`.
        setting: In what its comparison differs from others of the same three names, as `lr=0.01 max_epochs=4`; empty
            if in nothing.
        tcm: Name of the TCM setting, `own` where the article's was changed by hand, and what was set by hand or differs
            from others of that name.
        seed: Of the run.
    """

    data: str
    backbone: str
    loss: str
    setting: str
    tcm: str
    seed: str

    @property
    def task(self) -> str:
        """The part that all runs of a comparison share."""
        return " ".join(filter(None, self[:4]))

    def __str__(self) -> str:
        """On one line, each part named."""
        named = [f"{name}={value}" for name, value in zip(FACTORS, self, strict=False)]
        return " ".join([*named, *filter(None, [self.setting]), f"tcm={self.tcm}", f"seed={self.seed}"])


def labels(runs: Sequence[Run]) -> list[Label]:
    """A label for each run, in their order; two share one only if they are the same run.

    Args:
        runs: All that are to be told apart: of a table, a sweep, a folder.
    """
    settings = _flat_sciences(runs)
    short = _short_names(key for flat in settings for key in flat)
    comparisons = _texts(
        [_comparison(*one) for one in zip(runs, settings, _seeded(runs, settings), strict=True)], short
    )
    arms = _texts([_arm(*one) for one in zip(runs, settings, strict=True)], short, by_hand=True)
    found = [
        Label(*_names(run), setting, f"{_tcm_name(run)} {arm}".rstrip(), str(run.choices.get("seed", 0)))
        for run, setting, arm in zip(runs, comparisons, arms, strict=True)
    ]
    owners = defaultdict(set)
    for label, run in zip(found, runs, strict=True):
        owners[label].add(run.run_id)
    return [
        label._replace(tcm=f"{label.tcm} run={run.run_id}") if len(owners[label]) > 1 else label
        for label, run in zip(found, runs, strict=True)
    ]


def is_base(run: Run) -> bool:
    """Whether the run is without TCM: both its weights are 0, so that nothing else of TCM decides a number."""
    if tcm := run.science.get("tcm"):
        return bool(tcm.get("positive_weight") == 0 and tcm.get("negative_weight") == 0)
    return run.choices.get("tcm") == "none"


def shared_by_hand(runs: Sequence[Run]) -> dict[str, str]:
    """What was set by hand for every one of the runs, to the same value; no label shows it."""
    first, *others = [_by_hand(run) for run in runs] or [{}]
    shared = {key: str(value) for key, value in first.items() if all(other.get(key) == value for other in others)}
    # Of a file the row has the name and, beside it, the hash: two files of one name are not the same value.
    files = {key: {_beside(run.science, key) for run in runs} for key in shared}
    return {key: value for key, value in shared.items() if len(files[key]) == 1}


def _beside(science: Mapping[str, Any], key: str) -> Any:
    """The hash of the file that a key names; None if it names none."""
    flat = dict(_flat(science))
    return flat.get(f"{key.rpartition('.')[0]}.sha256") if _is_masked(flat.get(key)) else None


class _Kind(NamedTuple):
    """Something to be told apart from others of the same names."""

    identity: str
    names: tuple[str, ...]
    chosen: Mapping[str, Any]  # by hand
    values: Mapping[str, Any]  # dotted key -> value; empty if not known


def _comparison(run: Run, settings: Mapping[str, Any], seeded: Container[str]) -> _Kind:
    return _Kind(
        identity=run.comparison_id,
        names=_names(run),
        chosen={key: value for key, value in _by_hand(run).items() if not _is_tcm(key)},
        values={key: value for key, value in settings.items() if not _is_tcm(key) and key not in seeded},
    )


def _arm(run: Run, settings: Mapping[str, Any]) -> _Kind:
    chosen = {key: value for key, value in _by_hand(run).items() if _is_tcm(key)}
    values = {key: value for key, value in settings.items() if _is_tcm(key)}
    name = _tcm_name(run)
    return _Kind(
        identity=science_hash({"name": name, **(values or chosen)}), names=(name,), chosen=chosen, values=values
    )


def _texts(kinds: Sequence[_Kind], short: Mapping[str, str], *, by_hand: bool = False) -> list[str]:
    """What tells each kind from others of the same names; `by_hand`: and all that was set by hand."""
    groups: dict[tuple[str, ...], dict[str, _Kind]] = defaultdict(dict)
    for kind in kinds:
        groups[kind.names].setdefault(kind.identity, kind)
    texts: dict[tuple[tuple[str, ...], str], str] = {}
    for names, group in groups.items():
        differing = _differing([kind for kind in group.values() if kind.values])
        words = {}
        for identity, kind in group.items():
            told = {**kind.chosen, **kind.values}
            keys = [*(kind.chosen if by_hand or not kind.values else ()), *differing]
            named = [(short.get(key, _last(key)), told[key]) for key in dict.fromkeys(keys) if key in told]
            parts = [f"{name.replace('_source_', 'code')}={_text(value)}" for name, value in named]
            words[identity] = " ".join(parts) if len(group) > 1 or by_hand else ""
        repeated = Counter(words.values())
        for identity, text in words.items():
            texts[names, identity] = text if repeated[text] == 1 else f"{text} #{identity[:6]}".lstrip()
    return [texts[kind.names, kind.identity] for kind in kinds]


def _differing(kinds: Sequence[_Kind]) -> list[str]:
    """Keys in which these differ, less those that others of them entail; what was chosen by hand comes first."""
    by_hand = dict.fromkeys(key for kind in kinds for key in kind.chosen)
    decisive = dict.fromkeys(key for kind in kinds for key in kind.values)
    told = [{**kind.chosen, **kind.values} for kind in kinds]
    columns = {key: tuple(json.dumps(one[key]) if key in one else "" for one in told) for key in by_hand | decisive}
    columns = {key: column for key, column in columns.items() if len(set(column)) > 1}
    options = [key for key in columns if key not in decisive]  # a group, an experiment, the name of a file

    def is_entailed(key: str) -> bool:
        brought = (columns[option] for option in options if key.startswith(_reach(option)))
        return key not in by_hand and any(_is_function(columns[key], of) for of in brought)

    kept: dict[str, tuple[str, ...]] = {}
    for key, column in columns.items():
        repeats = key not in by_hand and column in kept.values()
        if not repeats and not is_entailed(key):
            kept[key] = column
    return list(kept)


def _is_function(values: Sequence[str], of: Sequence[str]) -> bool:
    return len(set(zip(of, values, strict=True))) == len(set(of))


def _reach(option: str) -> str:
    """How the keys begin whose values an option decides."""
    if option == "experiment":
        return ""
    return f"{option.rpartition('.')[0] or option.replace('/', '.')}."


def _seeded(runs: Sequence[Run], settings: Sequence[Mapping[str, Any]]) -> list[set[str]]:
    """For each run the keys that hold the seed in all runs of its names, `seed` itself among them."""
    found: dict[tuple[str, ...], set[str]] = {}
    for run, flat in zip(runs, settings, strict=True):
        keys = {key for key, value in flat.items() if type(value) is int and value == flat.get("seed")}
        if flat:
            found[_names(run)] = keys & found.get(_names(run), keys)
    return [found.get(_names(run), set()) for run in runs]


def _short_names(keys: Iterable[str]) -> dict[str, str]:
    """For each dotted key the shortest end of it that no other key has."""
    endings = {key: [key.split(".", n)[-1] for n in range(key.count("."), -1, -1)] for key in keys}
    owners = Counter(ending for candidates in endings.values() for ending in candidates)
    return {key: next((end for end in candidates if owners[end] == 1), key) for key, candidates in endings.items()}


def _last(key: str) -> str:
    return re.split(r"[./]", key)[-1]


def _flat_sciences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Dotted keys and values of each science, without those that are masked as they say where, not what."""
    return [{key: value for key, value in _flat(run.science) if not _is_masked(value)} for run in runs]


def _is_masked(value: Any) -> bool:
    """Whether a value stands for a place on one machine."""
    return bool(re.fullmatch(r"<\w+>", str(value)))


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value[:8] if re.fullmatch(r"[0-9a-f]{64,}", value) else value
    return json.dumps(value, separators=(",", ":"))


def _names(run: Run) -> tuple[str, str, str]:
    data, backbone, loss = (str(run.choices.get(factor, UNKNOWN)) for factor in FACTORS)
    return data, backbone, loss


def _tcm_name(run: Run) -> str:
    """Name of the option; the article's is kept for the article's values, and another one is `own`."""
    name = str(run.choices.get("tcm", UNKNOWN))
    return OWN if name == PAPER and any(map(_is_tcm, run.choices)) else name


def _by_hand(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.choices.items() if key not in (*FACTORS, "tcm", "seed")}


def _is_tcm(key: str) -> bool:
    return key.startswith("tcm.")
