# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""HTML page that shows tile by tile what purification has changed, and why."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from markupsafe import Markup
from PIL import Image

from .html_page import NONE, Table, data_uri, write_page
from .panels import Palette
from .purification_panels import (
    ACTION_COLOURS,
    DISAGREES,
    ERROR_COLOURS,
    HATCH,
    NO_SCORE,
    OUTLINE,
    PurifiedTile,
    purification_row,
)

_LONGEST_ANSWER = 20_000
_ACTIONS = tuple(ACTION_COLOURS)
_VERDICTS = ('right', 'wrong', 'neutral')


class AuditedTile(PurifiedTile, Protocol):
    """A tile with counts of what purification did to it; see ``purification.AuditRecord``."""

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return counts, rates and the verifier's answer."""


def write_audit_page(
    records: Sequence[AuditedTile],
    path: str | Path,
    classes: Sequence[str],
    palette: Palette,
    totals: Mapping[str, Any],
    title: str = 'Purification audit',
    settings: Mapping[str, Any] | None = None,
    limit: int = 100,
    side: int = 288,
) -> Path:
    """Write the page as a single file with embedded pictures, to be opened from disk.

    It needs no network and no other file, and without scripts it is a plain list. Answers are shown
    verbatim but cannot inject markup or scripts: all text is escaped, and the content security
    policy of the page allows only the script that sorts.

    Args:
        records: Tiles to show.
        path: Output file, written atomically; its folder is created.
        classes: Names of the K classes.
        palette: RGB colour of each class, 0-255.
        totals: Sums over all tiles by ``purification.totals``; they may cover more tiles than are
            shown.
        title: Heading.
        settings: Names and values to show, such as verifier and policy.
        limit: Largest number of tiles. If there are more, those with most changed pixels are shown,
            and the page tells how many are left out. A tile takes 100 to 200 kB.
        side: Longer side of a picture in pixels.

    Returns:
        The path.

    Raises:
        ValueError: The numbers of colours and classes differ.
    """
    if len(classes) != len(palette):
        raise ValueError(
            f'There are {len(palette)} colours for {len(classes)} classes: give one for each.'
        )
    summaries = [(record, record.summary(classes)) for record in records]
    most = sorted(range(len(summaries)), key=lambda i: -_changed(summaries[i][1]['counts']))
    shown = [summaries[index] for index in sorted(most[:limit])]
    counts, rates = totals['counts'], totals['rates']
    facts = {
        'tiles': f'{totals["tiles"]:,}',
        'pixels': f'{counts.get("pixels", 0):,}',
        **_facts(rates),
        'truncated answers': f'{totals["truncated"]:,}',
        'dropped parts of answers': f'{totals["dropped"]:,}',
    }
    tables = [
        _actions_table(counts, rates),
        _classes_table(counts, classes),
        *_corrections_table(counts),
    ]
    script = files(__package__).joinpath('templates', 'audit.js').read_text(encoding='utf-8')
    return write_page(
        path,
        'audit.html.j2',
        title=title,
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        settings=Table('Settings', (), [[name, _value(v)] for name, v in (settings or {}).items()]),
        totals=dict(facts=facts, tables=tables),
        legend=_legend(
            classes, palette, 'truth' in counts, rates['against_regions_before'] is not None
        ),
        shown=len(shown),
        left_out=max(totals['tiles'], len(summaries)) - len(shown),
        has_truth='truth' in counts,
        longest_answer=_LONGEST_ANSWER,
        # a generator, as the pictures of all tiles may not fit into memory
        tiles=(
            _tile(number, record, summary, classes, palette, side)
            for number, (record, summary) in enumerate(shown, start=1)
        ),
    )


def _legend(
    classes: Sequence[str], palette: Palette, has_truth: bool, has_regions: bool
) -> dict[str, list[tuple[str, str]]]:
    """Return name and CSS background of the colours in the pictures, by group."""
    groups = {
        'Classes': [(name, _rgb(colour)) for name, colour in zip(classes, palette, strict=True)],
        'Changes': [(name, _rgb(colour)) for name, colour in ACTION_COLOURS.items()],
        'Evidence': [
            (
                'no class has the highest score; else its colour, the stronger the higher',
                _rgb(NO_SCORE),
            )
        ],
    }
    if has_regions:
        groups['Evidence'] = [
            ('border of a region', _rgb(OUTLINE)),
            ('label before that is not the most frequent of its region', _rgb(DISAGREES)),
        ]
    if has_truth:
        groups['Errors'] = [(name, _rgb(colour)) for name, colour in ERROR_COLOURS.items()]
    dark, bright = (_rgb(colour) for colour in HATCH)
    stripes = f'repeating-linear-gradient(135deg,{dark} 0 3px,{bright} 3px 6px)'
    groups['Nothing'] = [('not seen, padding or unknown', stripes)]
    return groups


def _tile(
    number: int,
    record: AuditedTile,
    summary: Mapping[str, Any],
    classes: Sequence[str],
    palette: Palette,
    side: int,
) -> dict[str, Any]:
    """Return what the template shows of a tile."""
    counts, rates = summary['counts'], summary['rates']
    heads = ('', 'class', 'called', 'score', 'left', 'top', 'right', 'bottom')
    boxes = [
        [str(index), box['class'], box['name'], f'{box["score"]:.2f}', *map(_edge, box['box'])]
        for index, box in enumerate(summary['boxes'], start=1)
    ]
    return {
        **{key: summary[key] for key in ('name', 'key', 'answer', 'truncated', 'dropped')},
        'number': number,
        'changed': _changed(counts),
        'wrong': _wrong(counts),
        'panels': [
            (_panel(picture), picture.shape[1], picture.shape[0], what)
            for picture, what in zip(*purification_row(record, classes, palette, side), strict=True)
        ],
        'facts': _facts(rates),
        'tables': [_actions_table(counts, rates), *_corrections_table(counts)],
        'boxes': Table(f'Boxes ({len(boxes)}), in pixels of the image', heads, boxes),
    }


def _facts(rates: Mapping[str, float | None]) -> dict[str, str]:
    facts = {
        'covered by evidence': _percent(rates['covered']),
        'mean confidence': _number(rates['confidence']),
        'mean weight': f'{_number(rates["weight_before"])} → {_number(rates["weight_after"])}',
    }
    if rates['against_regions_before'] is not None:
        against = (_percent(rates[f'against_regions_{when}']) for when in ('before', 'after'))
        facts['boundary pixels against their region'] = ' → '.join(against)
    if rates['accuracy_before'] is not None:
        for name in ('accuracy', 'boundary_accuracy', 'inside_accuracy', 'weighted_accuracy'):
            before, after = rates[f'{name}_before'], rates[f'{name}_after']
            gain = '' if before is None or after is None else f' ({100 * (after - before):+.2f})'
            facts[name.replace('_', ' ')] = f'{_percent(before)} → {_percent(after)}{gain}'
    return facts


def _actions_table(counts: Mapping[str, Any], rates: Mapping[str, float | None]) -> Table:
    truth = counts.get('truth')
    rows = []
    for action in _ACTIONS:
        row = [action, f'{_total(counts.get(action, {})):,}', _percent(rates[action])]
        if truth:
            judged = (truth[action].get(verdict) for verdict in _VERDICTS)
            row += [NONE if found is None else f'{_total(found):,}' for found in judged]
        rows.append(row)
    heads = ('action', 'pixels', 'share', *(_VERDICTS if truth else ()))
    return Table('What was done', heads, rows)


def _classes_table(counts: Mapping[str, Any], classes: Sequence[str]) -> Table:
    truth = counts.get('truth')
    rows = []
    for name in classes:
        row = [name, *(f'{counts.get(action, {}).get(name, 0):,}' for action in _ACTIONS)]
        if truth:
            row += [
                f'{sum(truth[action].get(verdict, {}).get(name, 0) for action in _ACTIONS):,}'
                for verdict in _VERDICTS
            ]
            whole = truth['classes']['pixels'].get(name, 0)
            found = (
                truth['classes'][f'right_{moment}'].get(name, 0) for moment in ('before', 'after')
            )
            row.append(' → '.join(_percent(part / whole if whole else None) for part in found))
        rows.append(row)
    judged = (*_VERDICTS, 'true pixels found') if truth else ()
    heads = ('class', 'corrected to', 'supported', 'vetoed', *judged)
    return Table('By class', heads, rows)


def _corrections_table(counts: Mapping[str, Any]) -> list[Table]:
    """Tabulate which class was corrected to which, if any was."""
    pairs = [
        (pixels, f'{origin} → {target}')
        for origin, targets in counts.get('corrections', {}).items()
        for target, pixels in targets.items()
    ]
    pairs.sort(key=lambda pair: -pair[0])
    rows = [[name, f'{pixels:,}'] for pixels, name in pairs]
    return [Table('Corrections', ('correction', 'pixels'), rows)] if rows else []


def _changed(counts: Mapping[str, Any]) -> int:
    return sum(_total(counts[action]) for action in _ACTIONS)


def _wrong(counts: Mapping[str, Any]) -> int:
    truth = counts.get('truth')
    return sum(_total(truth[action]['wrong']) for action in _ACTIONS) if truth else 0


def _total(per_class: Mapping[str, int]) -> int:
    return sum(per_class.values())


def _percent(share: float | None) -> str:
    return NONE if share is None else f'{100 * share:.2f} %'


def _number(value: float | None) -> str:
    return NONE if value is None else f'{value:.3f}'


def _edge(value: float) -> str:
    return f'{value:.0f}'


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _rgb(colour: Sequence[int]) -> str:
    return '#' + ''.join(f'{int(value):02x}' for value in colour)


def _panel(picture: np.ndarray) -> str:
    """Encode a small PNG, which is exact up to 256 colours and quantised beyond."""
    image = Image.fromarray(picture).quantize(256, method=Image.Quantize.MEDIANCUT)
    return data_uri(image, 'png', optimize=True)
