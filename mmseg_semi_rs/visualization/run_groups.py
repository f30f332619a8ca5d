# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Groups of runs of one recipe with several seeds, their means, and differences of recipes."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from .run_records import Run, Series

# Config keys that mmengine's Runner reads for training; other top-level keys are only variables.
_READ = (
    'model',
    'train_dataloader',
    'val_dataloader',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'val_cfg',
    'val_evaluator',
    'auto_scale_lr',
    'default_hooks',
    'custom_hooks',
    'data_preprocessor',
    'load_from',
    'env_cfg',
    'randomness',
    'visualizer',
)
_SEED = re.compile(r'((?:seed|fold)[_=-]?)\d+', re.IGNORECASE)
_ENDING = re.compile(r'[\W_]*(?:seed|fold)[\W_]*\d*$|[\W_]+\d*$', re.IGNORECASE)
ABSENT = object()
"""Marks a key that a config does not have."""


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation over runs.

    Attributes:
        mean: Mean over the runs that have a value.
        deviation: Standard deviation with n - 1; None for fewer than two values.
        count: Number of values.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Group:
    """Runs whose configs differ only in seeds and folders.

    Attributes:
        name: Name, unique among the groups.
        runs: The runs, at least one.
        recipe: Common part of their configs; empty if these are unknown.
    """

    name: str
    runs: list[Run]
    recipe: dict[str, Any]

    @property
    def data(self) -> tuple[str, ...]:
        """Identification of the validation data, without seeds and folds."""
        return tuple(_SEED.sub(r'\1*', part) for part in self.runs[0].data)

    @property
    def networks(self) -> list[str]:
        """Networks of its runs, beginning with the one that predicts."""
        return list(dict.fromkeys(name for run in self.runs for name in run.networks))

    @property
    def headline(self) -> str | None:
        """Name of the scalar to judge by, see :attr:`Run.headline`."""
        return next((run.headline for run in self.runs if run.headline), None)

    def score(self, key: str, best: bool = False) -> Statistic | None:
        """Summarise a validation scalar over the runs.

        Args:
            key: Name of the scalar.
            best: Whether to take each run's validation with the highest mIoU instead of its last.

        Returns:
            Mean and deviation; None if no run has the scalar.
        """
        values = []
        for run in self.runs:
            step = run.best_step if best else run.last_step
            if step is not None and step in run.val.get(key, {}):
                values.append(run.val[key][step])
        return summarise(values)

    def series(self, part: str, key: str) -> list[Series]:
        """Return a scalar of each run that has it; ``part`` is ``'train'`` or ``'val'``."""
        found = (getattr(run, part).get(key) for run in self.runs)
        return [kept for kept in found if kept]


def summarise(values: Iterable[float]) -> Statistic | None:
    """Return mean and standard deviation without NaN; None if there are no values."""
    known = [value for value in values if value == value]
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Statistic(statistics.fmean(known), deviation, len(known))


def mean_series(runs: Sequence[Series]) -> Series:
    """Return the mean at the iterations that all runs have."""
    shared = set(runs[0]).intersection(*runs[1:])
    return {step: statistics.fmean(run[step] for run in runs) for step in sorted(shared)}


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs by recipe, in the order of their first runs."""
    found: dict[str, tuple[dict[str, Any], list[Run]]] = {}
    for run in runs:
        recipe = recipe_of(run)
        key = json.dumps(recipe, sort_keys=True) if recipe else f'unknown {run.name}'
        found.setdefault(key, (recipe, []))[1].append(run)
    groups: list[Group] = []
    for recipe, members in found.values():
        members.sort(key=lambda run: (run.seed is None, run.seed, run.name))
        name = _ENDING.sub('', _common_start([run.name for run in members]))
        if not name or name in {group.name for group in groups}:
            name = members[0].name
        groups.append(Group(name, members, recipe))
    return groups


def _common_start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return ''.join(sign for sign, _ in same)


def recipe_of(run: Run) -> dict[str, Any]:
    """Return the settings that determine a run, without its seeds and folders.

    Args:
        run: The run. If it was resumed, the checkpoint it resumed from does not count.
    """
    config = {key: run.config[key] for key in _READ if key in run.config}
    if run.config.get('resume'):
        config['load_from'] = None
    return _without_seeds(config, str(run.config.get('work_dir') or run.folder))


def _without_seeds(node: Any, work_dir: str) -> Any:
    if isinstance(node, Mapping):
        return {
            key: _without_seeds(value, work_dir) for key, value in node.items() if key != 'seed'
        }
    if isinstance(node, list):
        return [_without_seeds(value, work_dir) for value in node]
    if isinstance(node, str):
        if node == work_dir or node.startswith(f'{work_dir}/'):
            node = 'WORK_DIR' + node[len(work_dir) :]
        return _SEED.sub(r'\1*', node)
    return node


def differences(recipes: Sequence[Any], at: str = '') -> list[tuple[str, list[Any]]]:
    """Find where configs differ.

    Args:
        recipes: Configs of at least one group, as plain dicts, lists and values.
        at: Dotted key of ``recipes``.

    Returns:
        Dotted keys, each with the value in every recipe, or ``ABSENT``. Dicts of the same ``type``
        are compared by key, and lists of the same length by item; anything else is given as a
        whole.
    """
    first = recipes[0]
    if all(recipe == first for recipe in recipes):
        return []
    parts: dict[Any, list[Any]] = {}
    if _alike(recipes, Mapping) and len({recipe.get('type') for recipe in recipes}) == 1:
        for key in dict.fromkeys(key for recipe in recipes for key in recipe):
            parts[key] = [recipe.get(key, ABSENT) for recipe in recipes]
    elif (
        _alike(recipes, list)
        and len({len(recipe) for recipe in recipes}) == 1
        and all(isinstance(item, Mapping | list) for recipe in recipes for item in recipe)
    ):
        parts = dict(enumerate(map(list, zip(*recipes, strict=True))))
    if not parts:
        return [(at, list(recipes))]
    return [
        found
        for key, values in parts.items()
        for found in differences(values, f'{at}.{key}' if at else str(key))
    ]


def _alike(values: Sequence[Any], kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)
