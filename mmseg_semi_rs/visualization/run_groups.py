# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Runs of one recipe with several seeds, their means, and how recipes differ."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from .run_records import Run, Series

# What mmengine's Runner reads of a config for training; other top-level keys only help to write it.
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
"""Stands for a key that a config does not have."""


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation over runs.

    Attributes:
        mean: Over the runs that have a value.
        deviation: With n - 1; None for fewer than two values.
        count: Number of values.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Group:
    """Runs whose configs differ in seeds and folders only.

    Attributes:
        name: Unique among the groups.
        runs: At least one.
        recipe: What they share; empty if their configs are not known.
    """

    name: str
    runs: list[Run]
    recipe: dict[str, Any]

    @property
    def data(self) -> tuple[str, ...]:
        """What tells the data that its runs are validated on from others."""
        return tuple(_SEED.sub(r'\1*', part) for part in self.runs[0].data)

    @property
    def networks(self) -> list[str]:
        """Of its runs, that which is predicted with first."""
        return list(dict.fromkeys(name for run in self.runs for name in run.networks))

    @property
    def headline(self) -> str | None:
        """See :attr:`Run.headline`."""
        return next((run.headline for run in self.runs if run.headline), None)

    def score(self, key: str, best: bool = False) -> Statistic | None:
        """A validation scalar over the runs.

        Args:
            key: Its name.
            best: Of each run's validation with the highest mIoU instead of its last.

        Returns:
            None if no run has it.
        """
        values = []
        for run in self.runs:
            step = run.best_step if best else run.last_step
            if step is not None and step in run.val.get(key, {}):
                values.append(run.val[key][step])
        return summarise(values)

    def series(self, part: str, key: str) -> list[Series]:
        """A scalar of each run that has it; ``part`` is ``'train'`` or ``'val'``."""
        found = (getattr(run, part).get(key) for run in self.runs)
        return [kept for kept in found if kept]


def summarise(values: Iterable[float]) -> Statistic | None:
    """Mean and standard deviation, NaN left out; None if nothing is left."""
    known = [value for value in values if value == value]
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Statistic(statistics.fmean(known), deviation, len(known))


def mean_series(runs: Sequence[Series]) -> Series:
    """Mean at the iterations that all runs have."""
    shared = set(runs[0]).intersection(*runs[1:])
    return {step: statistics.fmean(run[step] for run in runs) for step in sorted(shared)}


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Put runs of one recipe together, in the order in which they come."""
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
    """What decides over a run, without seeds and folders of its own.

    Args:
        run: The run. Of a resumed one, the checkpoint it went on from is none of the recipe.
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
    """Where configs differ.

    Args:
        recipes: Of at least one group; plain dicts, lists and values.
        at: Dotted key of them.

    Returns:
        Dotted keys, each with the value in every recipe, ``ABSENT`` where it has none. Dicts of one
        ``type`` are looked into, and lists of one length; anything else is given as a whole.
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
