# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""One HTML file about finished, running, killed or resumed trainings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from .html_page import embed_picture, text, write_page
from .report_curves import COLOURS, DASHES, Chart, collect_charts, draw_chart, networks_of
from .report_tables import (
    classes_section,
    configs_section,
    results_section,
    runs_section,
    spread,
)
from .run_groups import Group, group_runs
from .run_records import Picture, Run, find_runs

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
_STYLE = """
.lead { font-size: 1.0625rem; }
.charts { display: grid; gap: 1.25rem 1.5rem; margin: .75rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
@media (min-width: 45rem) { .charts .wide { grid-column: span 2; grid-row: span 2; } }
@media (max-width: 30rem) { .charts .wide text { font-size: 11px !important; } }
.chart { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font-family: system-ui, sans-serif !important; }
.chart * { stroke-linejoin: round; stroke-linecap: butt; }
.keys { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: .5rem 0;
  margin: 0; font-size: .875rem; position: sticky; top: 0; background: var(--paper); z-index: 1; }
.key { width: 1.75rem; height: .6rem; margin-right: .4rem; vertical-align: .02em; }
.pictures { display: grid; gap: 1rem; margin: .5rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.pictures .wide { grid-column: 1 / -1; }
.zoom { display: block; cursor: zoom-in; }
.zoom input { position: absolute; opacity: 0; pointer-events: none; }
.zoom img { display: block; width: 100%; height: auto; border-radius: 4px; background: #fff; }
.zoom input:focus-visible + img { outline: 3px solid var(--focus); outline-offset: 1px; }
.zoom input:checked + img { position: fixed; z-index: 2; inset: 0; width: 100vw; height: 100vh;
  max-width: none; object-fit: contain; background: #000d; border-radius: 0; cursor: zoom-out; }
td details { margin: 0; }
td.value { white-space: normal; min-width: 9rem; max-width: 26rem; }
@media (max-width: 30rem) { th, td { padding: .3rem .45rem; } .keys { position: static; } }
@media print { .keys { position: static; } .charts { grid-template-columns: 1fr 1fr; } }
"""


def write_report(
    folders: Iterable[str | Path], path: str | Path, title: str = 'Training report'
) -> tuple[Path, list[str]]:
    """Write the page: one file with everything inside, to be opened from disk.

    Args:
        folders: ``work_dir`` of a run each, or folders with several below.
        path: Where to; folders are made. Written under a temporary name and renamed.
        title: Heading.

    Returns:
        The path, and one sentence for each thing that was left out.

    Raises:
        ValueError: There is no run at all.
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
        if run.headline is None:
            faults.append(f'{run.folder} has no validation yet: it is in the curves only.')
    groups = group_runs(runs)
    pictures, damaged = _pictures(groups)
    faults += damaged
    body = ''.join(
        [
            f'<header>\n<h1>{text(title)}</h1>\n{_lead(groups)}</header>\n{_faults(faults)}{_findings(runs)}',
            *results_section(groups),
            *classes_section(groups),
            *_curves(groups),
            pictures,
            *configs_section(groups),
            *runs_section(groups),
        ]
    )
    return write_page(path, title, _STYLE, body), faults


def _lead(groups: Sequence[Group]) -> str:
    runs = sum(len(group.runs) for group in groups)
    said = f'{_count(runs, "run")} of {_count(len(groups), "recipe")}.'
    scores = [(group, group.score(group.headline)) for group in groups if group.headline]
    judged = [(group, score) for group, score in scores if score is not None]
    if len(judged) > 1:
        group, score = max(judged, key=lambda pair: pair[1].mean)
        network = f' ({group.networks[0]})' if group.networks else ''
        said += f' Highest mIoU at the end: {spread(score)}, {group.name}{network}.'
    elif judged:
        said += f' mIoU at the end: {spread(judged[0][1])}.'
    return f'<p class="lead">{text(said)}</p>\n'


def _faults(faults: Sequence[str]) -> str:
    if not faults:
        return ''
    items = ''.join(f'<li>{text(fault)}</li>' for fault in faults)
    return (
        '<section class="faults" aria-labelledby="faults"><h2 id="faults">What is missing</h2>'
        f'<ul>{items}</ul></section>\n'
    )


def _findings(runs: Sequence[Run]) -> str:
    """What the guards of the pseudo labels said last about each class."""
    items = []
    for run in runs:
        last = {found.about: found for found in run.findings}
        for found in sorted(last.values(), key=lambda found: found.step):
            of = f' of {found.network}' if found.network else ''
            said = f'{run.name}, pseudo labels{of} from iteration {found.step:,} on: {found.said}'
            items.append(f'<li>{text(said)}</li>')
    if not items:
        return ''
    return (
        '<section class="faults" aria-labelledby="guard"><h2 id="guard">What the guard of the '
        f'pseudo labels found</h2><ul>{"".join(items)}</ul></section>\n'
    )


# ------------------------------------------------------------------------------------------ curves


def _curves(groups: Sequence[Group]) -> Iterator[str]:
    charts = collect_charts(groups)
    yield '<section aria-labelledby="curves">\n<h2 id="curves">Curves</h2>\n'
    keys = [(f's{index % COLOURS}', '', group.name) for index, group in enumerate(groups)]
    ranks = zip_longest(*map(networks_of, groups))
    dashed = [', '.join(dict.fromkeys(name for name in rank if name)) for rank in ranks]
    if len(dashed) > 1:
        keys += [('ink', DASHES[i % len(DASHES)], names) for i, names in enumerate(dashed)]
    items = ''.join(
        '<li><svg class="key" viewBox="0 0 28 8" aria-hidden="true"><line x1="1" y1="4" x2="27" '
        f'y2="4" stroke="var(--{colour})" stroke-width="2.5" stroke-dasharray="{_dashes(dash)}"/>'
        f'</svg>{text(name)}</li>'
        for colour, dash, name in keys
    )
    yield f'<ul class="keys" aria-label="Colours and dashes">{items}</ul>\n'
    if any(len(group.runs) > 1 for group in groups):
        yield '<p class="note">Thin lines are single runs, thick ones their mean.</p>\n'
    for section in _SECTIONS:
        drawn = [chart for chart in charts if chart.section == section]
        if not drawn:
            continue
        drawn.sort(key=lambda chart: chart.key not in _WIDE)
        figures = ''.join(map(_figure, drawn))
        heading = f'<h3>{text(section)}</h3>\n'
        note = f'<p class="note">{text(_NOTES[section])}</p>\n' if section in _NOTES else ''
        grid = f'{note}<div class="charts">\n{figures}</div>\n'
        if len(drawn) > 6:
            yield f'<details><summary>{text(section)} ({len(drawn)})</summary>\n{grid}</details>\n'
        else:
            yield heading + grid
    yield '</section>\n'


def _dashes(dash: str) -> str:
    return ' '.join(f'{2 * float(length):g}' for length in dash.split()) or 'none'


def _figure(chart: Chart) -> str:
    wide = chart.key in _WIDE
    return (
        f'<figure class="{"wide" if wide else "small"}">'
        f'<figcaption>{text(chart.key)}</figcaption>{draw_chart(chart, wide)}</figure>\n'
    )


# ---------------------------------------------------------------------------------------- pictures


def _pictures(groups: Sequence[Group]) -> tuple[str, list[str]]:
    """The last pictures of one run of each group, and what could not be shown."""
    parts: list[str] = []
    faults: list[str] = []
    for group in groups:
        run = next((run for run in group.runs if run.pictures), None)
        if run is None:
            continue
        # What the hook of pseudo labels drew comes first; of validation images there may be many.
        chosen = sorted(run.pictures, key=lambda picture: not picture.name.startswith('pseudo'))
        figures: list[str] = []
        for picture in chosen:
            if len(figures) == _PICTURES:
                break
            try:
                figures.append(_picture(picture, run))
            except (OSError, Image.DecompressionBombError) as error:
                faults.append(f'{picture.path} is no readable picture ({error}) and left out.')
        more = len(chosen) - len(figures)
        note = f' {more} more are in {run.folder}.' if more > 0 else ''
        of = run.name if run.name == group.name else f'{group.name}: {run.name}'
        parts.append(
            f'<h3>{text(of)}</h3>\n<div class="pictures">\n{"".join(figures)}</div>\n'
            + (f'<p class="note">{text(note.strip())}</p>\n' if note else '')
        )
    if not parts:
        return '', faults
    return (
        '<section aria-labelledby="pictures">\n<h2 id="pictures">Pictures</h2>\n'
        '<p class="note">Of validation images (val_...): the mask on the left, the prediction on '
        f'the right.</p>\n{"".join(parts)}</section>\n'
    ), faults


def _picture(picture: Picture, run: Run) -> str:
    uri, (width, height) = embed_picture(picture.path, longest=1600)
    what = f'{picture.name}, iteration {picture.step:,}'
    return (
        f'<figure class="{"wide" if width > 2.5 * height else "small"}"><label class="zoom">'
        f'<input type="checkbox" aria-label="enlarge {text(what)}"><img src="{uri}" '
        f'width="{width}" height="{height}" loading="lazy" alt="{text(what)} of {text(run.name)}">'
        f'</label><figcaption>{text(what)}</figcaption></figure>\n'
    )


def _count(number: int, noun: str) -> str:
    return f'{number:,} {noun}' + ('' if number == 1 else 's')
