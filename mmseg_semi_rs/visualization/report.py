# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""HTML report on finished, running, killed or resumed trainings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from PIL import Image

from .html_page import embed_picture, write_page
from .report_curves import COLOURS, DASHES, collect_charts, draw_chart, networks_of
from .report_gains import find_gains, gains_table
from .report_tables import (
    class_tables,
    difference_table,
    results_table,
    run_tables,
    spread,
    tested_tables,
)
from .run_groups import Group, group_runs
from .run_records import Run, find_runs

_PICTURES = 6
_SECTIONS = (
    'Validation',
    'Each class',
    'Losses',
    'Pseudo labels',
    'Share of each class in the pseudo labels',
    'Kept share of each class over its share of the labels',
    'Share of each class in the predictions',
    'How much of each class is kept',
    'Precision and recall of each class in the pseudo labels',
    'Purification',
    'Learning rate and speed',
)
_NOTES = {
    'Pseudo labels': 'Shares of the valid pixels since the log before. Kept: with weight in the '
    'loss. '
    'Accuracy: right, of all and of the kept, where the unlabelled samples carry their truth. '
    'Taught: on which the other student teaches this one. Confidence is its mean.',
    'Share of each class in the pseudo labels': 'Of what is kept; dash-dotted, where a guard '
    'counted them, of the labels.',
    'Kept share of each class over its share of the labels': 'At 1 the kept pseudo labels have as '
    'much of the class as the labels have.',
    'How much of each class is kept': 'Of the pixels that are predicted as the class.',
    'Precision and recall of each class in the pseudo labels': 'Precision: of what is kept as the '
    'class, what is truly of it. Recall: of what is truly of the class, what is kept as it.',
    'Purification': 'Shares of the valid pixels of a logged batch: seen by the verifier (covered), '
    'and what was done; accuracy before and after, where the truth is known.',
}
_WIDE = ('mIoU', 'loss')


def write_report(
    folders: Iterable[str | Path], path: str | Path, title: str = 'Training report'
) -> tuple[Path, list[str]]:
    """Write the report as a single file with everything embedded, to be opened from disk.

    Args:
        folders: Folders that are each the ``work_dir`` of a run, or contain several.
        path: Output file, written atomically; its folder is created.
        title: Heading.

    Returns:
        The path, and a message for each fault, such as something that was left out.

    Raises:
        ValueError: There are no runs.
    """
    runs, faults = find_runs(folders)
    if not runs:
        raise ValueError(' '.join(faults) or 'No folder is named: give the work_dir of a training.')
    for run in runs:
        faults += run.faults
        if run.diverged is not None:
            faults.append(
                f'{run.folder}: the loss is no finite number at iteration {run.diverged:,}, and '
                'what was learnt after it is worth nothing: lower the learning rate.'
            )
        if run.headline is None and not run.tests:
            faults.append(f'{run.folder} has no validation yet: it is in the curves only.')
    groups = group_runs(runs)
    parts = [_part(name, members, faults) for name, members in _by_data(groups)]
    recipes = [group for group in groups if group.recipe]
    facts, scalars = run_tables(groups)
    written = write_page(
        path,
        'report.html.j2',
        title=title,
        lead=_lead(groups),
        faults=faults,
        findings=list(_findings(runs)),
        parts=parts,
        differences=difference_table(recipes),
        recipes=[
            (group.name, json.dumps(group.recipe, indent=1, ensure_ascii=False))
            for group in recipes
        ],
        facts=facts,
        scalars=scalars,
    )
    return written, faults


def _by_data(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Group by validation data, with a name for each, since scores on different data differ."""
    found: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        found.setdefault(group.data, []).append(group)
    if len(found) == 1:
        return [('', list(groups))]
    return [
        (
            f'{Path(root).name or kind}: {place} ({", ".join(group.name for group in members)})',
            members,
        )
        for (kind, root, listed, images, *_), members in found.items()
        for place in [listed if listed not in ('', 'None') else images]
    ]


def _part(name: str, groups: Sequence[Group], faults: list[str]) -> dict[str, Any]:
    """Return what the page shows of runs that are validated on the same data."""
    pictures, damaged = _pictures(groups)
    faults += damaged
    tests = []
    for run in (run for group in groups for run in group.runs):
        for test in run.tests:
            shown, damaged = _embedded([(path, _worst_of(path)) for path in test.pictures])
            faults += damaged
            of = f' ({test.network})' if test.network else ''
            title = f'{run.name}, {test.checkpoint}{of} on {test.data}'
            scores, confusion = tested_tables(test)
            tests.append(dict(title=title, scores=scores, confusion=confusion, shown=shown))
    gains = find_gains(groups)
    return dict(
        title=name,
        gains=gains_table(gains),
        gained=list(map(str, gains)),
        alone=max(len(gain.pairs) for gain in gains) < 2 if gains else False,
        results=results_table(groups),
        classes=class_tables(groups),
        tests=tests,
        keys=list(_keys(groups)),
        several=any(len(group.runs) > 1 for group in groups),
        curves=list(_curves(groups)),
        pictures=pictures,
    )


def _worst_of(path: Path) -> str:
    """Return the caption of a picture that ``WorstImagesHook`` saved."""
    share, _, name = path.stem.partition('_')
    return f'{name}, {float(share):.0%} right' if share.replace('.', '').isdigit() else path.stem


def _lead(groups: Sequence[Group]) -> str:
    runs = sum(len(group.runs) for group in groups)
    said = f'{_count(runs, "run")} of {_count(len(groups), "recipe")}.'
    scores = [(group, group.score(group.headline)) for group in groups if group.headline]
    judged = [(group, score) for group, score in scores if score is not None]
    if len(_by_data(groups)) > 1:
        said += ' They are validated on different data, each of which has a section.'
    elif len(judged) > 1:
        group, score = max(judged, key=lambda pair: pair[1].mean)
        network = f' ({group.networks[0]})' if group.networks else ''
        said += f' Highest mIoU at the end: {spread(score)}, {group.name}{network}.'
    elif judged:
        said += f' mIoU at the end: {spread(judged[0][1])}.'
    return said


def _findings(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the last message of the pseudo-label guards on each class."""
    for run in runs:
        last = {found.about: found for found in run.findings}
        for found in sorted(last.values(), key=lambda found: found.step):
            of = f' of {found.network}' if found.network else ''
            yield f'{run.name}, pseudo labels{of} from iteration {found.step:,} on: {found.said}'


def _keys(groups: Sequence[Group]) -> Iterator[tuple[str, str, str]]:
    """Yield colour, dashes and name for the legend of the curves."""
    for index, group in enumerate(groups):
        yield f's{index % COLOURS}', 'none', group.name
    ranks = zip_longest(*map(networks_of, groups))
    dashed = [', '.join(dict.fromkeys(name for name in rank if name)) for rank in ranks]
    if len(dashed) > 1:
        for index, names in enumerate(dashed):
            dash = DASHES[index % len(DASHES)].split()
            yield 'ink', ' '.join(f'{2 * float(length):g}' for length in dash) or 'none', names


def _curves(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Yield the charts by heading; more than six of one heading are folded."""
    charts = collect_charts(groups)
    for section in _SECTIONS:
        drawn = [chart for chart in charts if chart.section == section]
        drawn.sort(key=lambda chart: chart.key not in _WIDE)
        if drawn:
            yield dict(
                title=section,
                note=_NOTES.get(section, ''),
                folded=len(drawn) > 6,
                charts=[
                    dict(
                        key=c.key,
                        wide=c.key in _WIDE,
                        svg=draw_chart(c, c.key in _WIDE, groups[0].name),
                    )
                    for c in drawn
                ],
            )


def _pictures(groups: Sequence[Group]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the latest pictures of one run of each group, and messages on unreadable ones."""
    runs: list[dict[str, Any]] = []
    faults: list[str] = []
    for group in groups:
        run = next((run for run in group.runs if run.pictures), None)
        if run is None:
            continue
        # Pictures of pseudo labels come first, since there may be many validation images.
        chosen = sorted(run.pictures, key=lambda picture: not picture.name.startswith('pseudo'))
        shown, damaged = _embedded([(p.path, f'{p.name}, iteration {p.step:,}') for p in chosen])
        faults += damaged
        title = run.name if run.name == group.name else f'{group.name}: {run.name}'
        more = len(chosen) - len(shown)
        runs.append(dict(title=title, name=run.name, shown=shown, more=more, folder=run.folder))
    return runs, faults


def _embedded(
    pictures: Sequence[tuple[Path, str]],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Embed the first readable pictures with captions; return messages on unreadable ones."""
    shown: list[dict[str, Any]] = []
    faults: list[str] = []
    for path, what in pictures:
        if len(shown) == _PICTURES:
            break
        try:
            uri, (width, height) = embed_picture(path, longest=1600)
        except (OSError, Image.DecompressionBombError) as error:
            faults.append(f'{path} is no readable picture ({error}) and left out.')
            continue
        shown.append(dict(uri=uri, width=width, height=height, what=what))
    return shown, faults


def _count(number: int, noun: str) -> str:
    return f'{number:,} {noun}' + ('' if number == 1 else 's')
