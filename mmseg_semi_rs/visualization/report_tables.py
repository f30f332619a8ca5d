# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Tables of a report: scores, classes, configs and facts of the runs."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from .html_page import NONE, Cell, Table
from .run_groups import ABSENT, Group, Statistic, differences, summarise
from .run_records import Run, Tested

_LONGEST_VALUE = 100
_FOLD = re.compile(r'fold[_=-]?(\d+)')


def results_table(groups: Sequence[Group]) -> Table | None:
    """Tabulate the mIoU of each network of each recipe; None without validation."""
    scores = []
    for group in groups:
        if group.headline is None:
            continue
        keys = {network: f'{network}/mIoU' for network in group.networks}
        for network, key in (keys or {NONE: group.headline}).items():
            last, best = (group.score(key, best=which) for which in (False, True))
            scores.append((group, network, last, best))
    if not scores:
        return None
    top = max((best.mean for *_, best in scores if best), default=1.0) or 1.0
    rows = [
        [group.name, network, _bar(last, 100 / top), _bar(best, 100 / top), _progress(group),
         _seeds(group)]
        for group, network, last, best in scores
    ]  # fmt: skip
    heads = ('recipe', 'network', 'mIoU, last', 'mIoU, best', 'iterations', 'runs')
    return Table('mIoU on the validation data, %', heads, rows, bars=range(2, 4))


def class_tables(groups: Sequence[Group]) -> list[Table]:
    """Tabulate the IoU of each class at the last and at the best validation; empty without any."""
    judged = [group for group in groups if group.headline]
    names = dict.fromkeys(
        key.removeprefix('IoU.')
        for group in judged
        for run in group.runs
        for key in run.val
        if key.startswith('IoU.')
    )
    if not names:
        return []
    heads = ['class', *(group.name for group in judged)]
    tables = []
    for caption, best in (('Last validation, %', False), ('Best validation, %', True)):
        rows = []
        for name, key in {**{name: f'IoU.{name}' for name in names}, 'mIoU': 'mIoU'}.items():
            scores = [group.score(key, best=best) for group in judged]
            means = [score.mean for score in scores if score]
            high = max(means) if len(set(means)) > 1 else None
            cells = [_bar(s, 1.0, s is not None and s.mean == high) for s in scores]
            rows.append([name, *cells])
        tables.append(Table(caption, heads, rows, bars=range(1, len(heads))))
    return tables


def _bar(score: Statistic | None, scale: float, best: bool = False) -> Cell:
    """Return a cell with a bar proportional to the score."""
    if score is None:
        return Cell(NONE, bar=True)
    size = min(100.0, max(0.0, score.mean * scale))
    return Cell(spread(score), bar=True, size=size, best=best)


def spread(score: Statistic) -> str:
    """Format mean and, with several runs, standard deviation."""
    return f'{score.mean:.2f}' + ('' if score.deviation is None else f' ± {score.deviation:.2f}')


def _seeds(group: Group) -> str:
    folds = [found[1] for run in group.runs if (found := _FOLD.search(run.name))]
    if len(folds) == len(group.runs) > 1:
        return f'{len(folds)} (folds {", ".join(folds)})'
    seeds = [run.seed for run in group.runs if run.seed is not None]
    if len(seeds) < len(group.runs):
        return str(len(group.runs))
    noun = 'seed' if len(seeds) == 1 else 'seeds'
    return f'{len(seeds)} ({noun} {", ".join(map(str, seeds))})'


def _progress(group: Group) -> str:
    reached = sorted({run.reached for run in group.runs})
    most = group.runs[0].planned
    said = f'{reached[0]:,}' if len(reached) == 1 else f'{reached[0]:,} to {reached[-1]:,}'
    return said if most is None or reached == [most] else f'{said} of {most:,}'


def tested_tables(test: Tested) -> tuple[Table, Table]:
    """Tabulate the scores of each class in a test, and the confusion matrix."""
    heads = ('class', 'pixels', *(f'{name}, %' for name in test.scores))
    total = max(1, sum(map(sum, test.matrix)))
    rows: list[list[Any]] = [
        [
            name,
            f'{sum(test.matrix[k]) / total:.1%}',
            *(_bar(_single(values[k]), 1.0) for values in test.scores.values()),
        ]
        for k, name in enumerate(test.classes)
    ]
    chosen = [test.classes.index(name) for name in test.averaged if name in test.classes]
    means = [summarise(v for k in chosen if (v := values[k]) is not None)
             for values in test.scores.values()]  # fmt: skip
    flat = [None if mean is None else _single(mean.mean) for mean in means]
    rows.append(['mean', NONE, *(_bar(mean, 1.0) for mean in flat)])
    shares = [
        [name, *(_bar(_single(100 * pixels / max(1, sum(row))), 1.0) for pixels in row)]
        for name, row in zip(test.classes, test.matrix, strict=True)
    ]
    columns = range(2, len(heads))
    return (
        Table(f'Scores of each class, {len(test.images):,} images', heads, rows, bars=columns),
        Table(
            'What was predicted (columns) for the pixels of each class (rows), %',
            ['truth', *test.classes],
            shares,
            bars=range(1, len(test.classes) + 1),
        ),
    )


def _single(value: float | None) -> Statistic | None:
    return None if value is None else Statistic(value, None, 1)


def difference_table(groups: Sequence[Group]) -> Table | None:
    """Tabulate where the recipes differ; None if there are fewer than two."""
    if len(groups) < 2:
        return None
    rows = [
        [key, *map(_setting, values)]
        for key, values in differences([group.recipe for group in groups])
    ]
    return Table('Where they differ', ['key', *(group.name for group in groups)], rows)


def _setting(value: Any) -> Cell | str:
    if value is ABSENT:
        return NONE
    whole = json.dumps(value, ensure_ascii=False)
    if len(whole) <= _LONGEST_VALUE:
        return Cell(whole)
    return Cell(_outline(value), whole=json.dumps(value, indent=1, ensure_ascii=False))


def _outline(value: Any) -> str:
    """Abbreviate a long setting to its types, or to its beginning."""
    if isinstance(value, Mapping) and 'type' in value:
        return f'{value["type"]}(…)'
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return '[' + ', '.join(_outline(item).removesuffix('(…)') for item in value) + ']'
    whole = json.dumps(value, ensure_ascii=False)
    return whole if len(whole) <= 40 else whole[:40] + '…'


def run_tables(groups: Sequence[Group]) -> tuple[Table, Table]:
    """Tabulate the facts of each run, and its last logged values."""
    runs = [(group, run) for group in groups for run in group.runs]
    versions = [
        name
        for name in ('Python', 'PyTorch', 'MMEngine')
        if any(name in r.environment for _, r in runs)
    ]
    heads = (
        *('run', 'recipe', 'seed', 'iterations', 'state', 'mIoU, last', 'mIoU, best', 'at'),
        *('duration', 's per iteration', 'peak memory', 'device', *versions, 'folder'),
    )
    rows = []
    for group, run in runs:
        seconds, memory = run.train.get('time'), run.train.get('memory')
        scores = run.val.get(run.headline or '', {})
        rows.append(
            [
                run.name,
                group.name,
                NONE if run.seed is None else run.seed,
                f'{run.reached:,}' + (f' of {run.planned:,}' if run.planned else ''),
                _state(run),
                *(
                    NONE if step is None else f'{scores[step]:.2f}'
                    for step in (run.last_step, run.best_step)
                ),
                NONE if run.best_step is None else f'{run.best_step:,}',
                NONE if run.duration is None else _time(run.duration),
                f'{statistics.median(seconds.values()):.3f}' if seconds else NONE,
                f'{max(memory.values()) / 1024:.1f} GiB' if memory else NONE,
                *(run.environment.get(name, NONE) for name in ('device', *versions)),
                run.folder,
            ]
        )
    keys = dict.fromkeys(key for _, run in runs for part in (run.train, run.val) for key in part)
    last = [
        [key, *(_last(run.val.get(key) or run.train.get(key)) for _, run in runs)] for key in keys
    ]
    return (
        Table('Facts of each run', heads, rows),
        Table('Last logged values', ['scalar', *(run.name for _, run in runs)], last),
    )


def _state(run: Run) -> str:
    done = run.planned is None or run.reached >= run.planned
    again = '' if run.starts < 2 else f', started {run.starts} times'
    return ('finished' if done else 'stopped or running') + again


def _last(kept: Mapping[int, float] | None) -> str:
    return NONE if not kept else f'{kept[max(kept)]:.4g}'


def _time(duration: timedelta) -> str:
    minutes, seconds = divmod(round(duration.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}'
