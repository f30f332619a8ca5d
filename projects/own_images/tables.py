# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Tables of the comparison: means, and paired differences with an interval."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from mmseg_semi_rs.visualization.html_page import Table, write_page

BASELINE = 'supervised'
Runs = Mapping[int, dict[str, Any]]  # results by seed


class Paired(NamedTuple):
    """Differences of two methods over the seeds that both have.

    Attributes:
        mean: Of the differences.
        low: Lower end of the 95 % interval; NaN with one seed.
        high: Upper end.
        count: Number of seeds.
    """

    mean: float
    low: float
    high: float
    count: int


def markdown(table: Table) -> str:
    """A table as Markdown, the caption above."""
    lines = [table.heads, ['---'] * len(table.heads), *table.rows]
    return '\n'.join([f'{table.caption}\n', *(f'| {" | ".join(map(str, r))} |' for r in lines)])


def paired(first: Mapping[int, float], second: Mapping[int, float], level: float = 0.95) -> Paired:
    """Mean difference first - second over common seeds, with Student's t interval.

    Args:
        first: Values by seed.
        second: Of the method to compare with.
        level: Confidence of the interval, in (0, 1).
    """
    differences = np.array([first[seed] - second[seed] for seed in sorted({*first} & {*second})])
    count = len(differences)
    if count == 0:
        return Paired(np.nan, np.nan, np.nan, 0)
    mean = float(differences.mean())
    if count == 1:
        return Paired(mean, np.nan, np.nan, 1)
    half = float(student_t.ppf(0.5 + level / 2, count - 1) * differences.std(ddof=1) / count**0.5)
    return Paired(mean, mean - half, mean + half, count)


def collect(out: Path) -> dict[str, dict[str, dict[int, dict[str, Any]]]]:
    """Read the results of all finished runs below a folder, by labels, method and seed."""
    results: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for path in sorted(out.glob('*/*_seed*/result.json')):
        method, seed = path.parent.name.rsplit('_seed', 1)
        result = json.loads(path.read_text(encoding='utf-8'))
        amount = results.setdefault(path.parent.parent.name, defaultdict(dict))
        amount[method][int(seed)] = result
    return results


def write_results(out: Path, classes: Sequence[str], made_by: str) -> str:
    """Write ``results.json``, ``results.md`` and ``results.html`` of all finished runs.

    Args:
        out: Folder of the comparison.
        classes: Class names.
        made_by: The command, the versions and the machine.

    Returns:
        The Markdown.
    """
    results = collect(out)
    (out / 'results.json').write_text(json.dumps(results, indent=1), encoding='utf-8')
    tables = [
        found
        for amount, methods in sorted(results.items(), key=lambda item: (len(item[0]), item[0]))
        for found in (
            score_table(amount, methods, classes),
            pseudo_label_table(amount, methods, classes),
        )
        if found.rows
    ]
    text = '\n\n'.join([*map(markdown, tables), f'Made by `{made_by}`']) + '\n'
    (out / 'results.md').write_text(text, encoding='utf-8')
    write_page(
        out / 'results.html',
        'tables.html.j2',
        title='Methods compared',
        tables=tables,
        curves='report.html',
    )
    return text


def score(result: Mapping[str, Any], key: str = 'mIoU') -> float:
    """A figure of the validation tiles, of the held-out ones where those were not looked at."""
    return float(result.get('val', result['held'])[key])


def score_table(amount: str, methods: Mapping[str, Runs], classes: Sequence[str]) -> Table:
    """Mean and spread of each method, and its paired difference to supervised training."""
    looked = all('val' in run for runs in methods.values() for run in runs.values())
    base = methods.get(BASELINE, {})
    rows = []
    for method, runs in methods.items():
        values = [score(run) for run in runs.values()]
        spread = f' ± {np.std(values, ddof=1):.1f}' if len(values) > 1 else ''
        steps = sorted({run['iteration'] for run in runs.values()})
        rows.append(
            [
                method,
                len(runs),
                f'{np.mean(values):.1f}{spread}',
                '' if method == BASELINE else _difference(runs, base),
                *(_class(method, runs, base, f'IoU.{name}') for name in classes),
                ' to '.join(map(str, dict.fromkeys((steps[0], steps[-1])))),
            ]
        )
    return Table(
        f'Labelled: {amount.replace("_", " ")}. IoU in percent on the '
        f'{"validation" if looked else "held-out"} tiles, mean over the seeds (± standard '
        f'deviation); against {BASELINE}: mean of the differences by seed [95 % interval]',
        ['method', 'seeds', 'mIoU', f'against {BASELINE}', *classes, 'best at step'],
        rows,
    )


def _difference(runs: Runs, base: Runs) -> str:
    found = paired(
        {seed: score(run) for seed, run in runs.items()},
        {seed: score(run) for seed, run in base.items()},
    )
    if not found.count:
        return '-'
    interval = '' if found.count == 1 else f' [{found.low:+.1f}, {found.high:+.1f}]'
    return f'{found.mean:+.1f}{interval}'


def _class(method: str, runs: Runs, base: Runs, key: str) -> str:
    mean = np.mean([score(run, key) for run in runs.values()])
    common = sorted({*runs} & {*base})
    if method == BASELINE or not common:
        return f'{mean:.1f}'
    change = np.mean([score(runs[seed], key) - score(base[seed], key) for seed in common])
    return f'{mean:.1f} ({change:+.1f})'


def pseudo_label_table(amount: str, methods: Mapping[str, Runs], classes: Sequence[str]) -> Table:
    """Precision and recall of the kept pseudo labels, in the first and in the last interval."""
    rows = []
    for method, runs in methods.items():
        networks = {
            key.split('pseudo_recall/')[0]
            for run in runs.values()
            for key in run['pseudo']
            if 'pseudo_recall/' in key
        }
        for network in sorted(networks):
            name = f'{method} {network.removeprefix("train/").rstrip("/")}'.strip()
            rows.append([name, *(_course(runs, network, each) for each in classes)])
    return Table(
        f'Labelled: {amount.replace("_", " ")}. Kept pseudo labels, precision / recall in percent, '
        'at the first -> last log of the training, mean over the seeds',
        ['method', *classes],
        rows,
    )


def _course(runs: Runs, network: str, name: str) -> str:
    ends = []
    for end in (0, -1):
        figures = []
        for measure in ('precision', 'recall'):
            series = [
                run['pseudo'].get(f'{network}pseudo_{measure}/{name}') for run in runs.values()
            ]
            values = [each[sorted(each, key=int)[end]] for each in series if each]
            values = [value for value in values if value == value]  # NaN: nothing was kept
            figures.append(f'{100 * np.mean(values):.0f}' if values else '-')
        ends.append(' / '.join(figures))
    return ' -> '.join(ends)
