# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The tables of a report: scores, classes, configs and facts of the runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from .html_page import row, table, text
from .run_groups import ABSENT, Group, Statistic, differences
from .run_records import Run

NONE = '\N{EN DASH}'
_LONGEST_VALUE = 100


def results_section(groups: Sequence[Group]) -> Iterator[str]:
    """The mIoU of each network of each recipe, as HTML; nothing without validation."""
    found = []
    for group in groups:
        if group.headline is None:
            continue
        keys = {network: f'{network}/mIoU' for network in group.networks}
        for network, key in (keys or {NONE: group.headline}).items():
            last, best = (group.score(key, best=which) for which in (False, True))
            found.append((group, network, last, best))
    if not found:
        return
    top = max((best.mean for *_, best in found if best), default=1.0) or 1.0
    rows = []
    for group, network, last, best in found:
        bars = ''.join(_bar(score, 100 / top) for score in (last, best))
        about = ''.join(f'<td>{text(said)}</td>' for said in (_progress(group), _runs(group)))
        rows.append(row(group.name, [network]) + bars + about)
    heads = ('recipe', 'network', 'mIoU, last', 'mIoU, best', 'iterations', 'runs')
    yield '<section aria-labelledby="results">\n<h2 id="results">Results</h2>\n'
    yield table('mIoU on the validation data, %', heads, rows, bars=range(2, 4))
    yield (
        '<p class="note">Last: the last validation. Best: the validation with the highest mIoU of '
        'the network that predicts (the first named); chosen on the very data it is measured on, '
        'so read it as an upper end. Several runs: mean ± sample standard deviation over runs that '
        'differ in seeds and folders only.</p>\n</section>\n'
    )


def classes_section(groups: Sequence[Group]) -> Iterator[str]:
    """IoU of each class at the last and at the best validation, as HTML."""
    judged = [group for group in groups if group.headline]
    names = dict.fromkeys(
        key.removeprefix('IoU.')
        for group in judged
        for run in group.runs
        for key in run.val
        if key.startswith('IoU.')
    )
    if not names:
        return
    yield '<section aria-labelledby="classes">\n<h2 id="classes">IoU of each class</h2>\n'
    for caption, best in (('Last validation, %', False), ('Best validation, %', True)):
        rows = []
        for name, key in {**{name: f'IoU.{name}' for name in names}, 'mIoU': 'mIoU'}.items():
            scores = [group.score(key, best=best) for group in judged]
            means = [score.mean for score in scores if score]
            high = max(means) if len(set(means)) > 1 else None
            cells = ''.join(
                _bar(score, 1.0, score is not None and score.mean == high) for score in scores
            )
            rows.append(f'<th scope="row">{text(name)}</th>{cells}')
        heads = ['class', *(group.name for group in judged)]
        yield table(caption, heads, rows, bars=range(1, len(heads)))
    yield '</section>\n'


def _bar(score: Statistic | None, scale: float, best: bool = False) -> str:
    """A cell with a bar as long as the score."""
    if score is None:
        return f'<td class="bar">{NONE}</td>'
    size = min(100.0, max(0.0, score.mean * scale))
    return (
        f'<td class="bar{" best" if best else ""}" style="--size:{size:.1f}%">'
        f'{text(spread(score))}</td>'
    )


def spread(score: Statistic) -> str:
    """Mean, and with several runs the standard deviation."""
    return f'{score.mean:.2f}' + ('' if score.deviation is None else f' ± {score.deviation:.2f}')


def _runs(group: Group) -> str:
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


def configs_section(groups: Sequence[Group]) -> Iterator[str]:
    """Where the recipes differ, and each as a whole, as HTML."""
    known = [group for group in groups if group.recipe]
    if not known:
        return
    yield '<section aria-labelledby="configs">\n<h2 id="configs">Configs</h2>\n'
    if len(known) > 1:
        rows = [
            f'<th scope="row"><code>{text(key)}</code></th>' + ''.join(map(_setting, values))
            for key, values in differences([group.recipe for group in known])
        ]
        yield table('Where they differ', ['key', *(group.name for group in known)], rows)
        yield (
            '<p class="note">Keys that the Runner reads for training; seeds and folders are left '
            f'out. {NONE} is a key that a config does not have.</p>\n'
        )
    for group in known:
        yield (
            f'<details><summary>{text(group.name)}: all settings</summary>\n<pre tabindex="0">\n'
            f'{text(json.dumps(group.recipe, indent=1))}</pre></details>\n'
        )
    yield '</section>\n'


def _setting(value: Any) -> str:
    if value is ABSENT:
        return f'<td class="value">{NONE}</td>'
    whole = json.dumps(value)
    if len(whole) <= _LONGEST_VALUE:
        return f'<td class="value"><code>{text(whole)}</code></td>'
    return (
        f'<td class="value"><details><summary><code>{text(_outline(value))}</code></summary>'
        f'<pre tabindex="0">\n{text(json.dumps(value, indent=1))}</pre></details></td>'
    )


def _outline(value: Any) -> str:
    """The types in a long setting, else how it begins."""
    if isinstance(value, Mapping) and 'type' in value:
        return f'{value["type"]}(…)'
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return '[' + ', '.join(_outline(item).removesuffix('(…)') for item in value) + ']'
    whole = json.dumps(value)
    return whole if len(whole) <= 40 else whole[:40] + '…'


def runs_section(groups: Sequence[Group]) -> Iterator[str]:
    """What each run was, took and logged last, as HTML."""
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
            row(
                run.name,
                [
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
                ],
            )
        )
    yield '<section aria-labelledby="facts">\n<h2 id="facts">Runs</h2>\n'
    yield table('Facts of each run', heads, rows)
    yield (
        '<p class="note">Duration is the time between the first and the last line of the logs, '
        'seconds per iteration the median of what was logged, peak memory that of the GPU.</p>\n'
    )
    keys = dict.fromkeys(key for _, run in runs for part in (run.train, run.val) for key in part)
    values = [
        row(key, [_last(run.val.get(key) or run.train.get(key)) for _, run in runs]) for key in keys
    ]
    yield '<details><summary>All scalars, last values</summary>\n'
    yield table('Last logged values', ['scalar', *(run.name for _, run in runs)], values)
    yield '</details>\n</section>\n'


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
