# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""One HTML file that shows tile by tile what purification changed, and why."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .html_page import text
from .panels import Palette
from .purification_panels import (
    ACTION_COLOURS,
    ERROR_COLOURS,
    HATCH,
    NO_SCORE,
    PurifiedTile,
    purification_row,
)

_LONGEST_ANSWER = 20_000
_ACTIONS = tuple(ACTION_COLOURS)
_NONE = '\N{EN DASH}'
_VERDICTS = ('right', 'wrong', 'neutral')


class AuditedTile(PurifiedTile, Protocol):
    """A tile that can count what was done to it; see ``purification.AuditRecord``."""

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """Counts, rates and the verifier's answer."""


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
    """Write the page: one file with its pictures inside, to be opened from disk.

    It needs no network and no other file; without scripts it is a plain list. Answers are shown
    verbatim and cannot bring in markup or scripts: all text is escaped, and the page's own policy
    forbids any script but the one that sorts.

    Args:
        records: Tiles to show.
        path: Where to; folders are made. Written under a temporary name and renamed.
        classes: The K class names.
        palette: Their RGB colours, 0-255.
        totals: Sum over all tiles, as ``purification.totals`` gives it; may cover more tiles than
            are shown.
        title: Heading.
        settings: Shown as name and value: verifier, policy, whatever made the result.
        limit: Most tiles to show. Of more, those with most changed pixels are taken, and the page
            says how many were left out. A tile takes 100 to 200 kB.
        side: Longer side of a picture in pixels.

    Returns:
        The path.

    Raises:
        ValueError: There are not as many colours as classes.
    """
    if len(classes) != len(palette):
        raise ValueError(
            f'There are {len(palette)} colours for {len(classes)} classes: give one for each.'
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.part')
    tiles = [(record, record.summary(classes)) for record in records]
    most = sorted(range(len(tiles)), key=lambda index: -_changed(tiles[index][1]['counts']))
    shown = [tiles[index] for index in sorted(most[:limit])]
    left_out = max(totals['tiles'], len(tiles)) - len(shown)
    try:
        # Tile by tile, as the pictures of all may not fit into memory; lone surrogates, which an
        # answer may hold, become question marks.
        with partial.open('w', encoding='utf-8', errors='replace', newline='\n') as file:
            file.writelines(_head(title, classes, palette, totals, settings or {}))
            file.writelines(_controls(len(shown), left_out, has_truth='truth' in totals['counts']))
            file.write('<section id="tiles" aria-label="Tiles">\n')
            for number, (record, summary) in enumerate(shown, start=1):
                file.writelines(_tile(number, record, summary, classes, palette, side))
            file.write(f'</section>\n</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n')
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _head(
    title: str,
    classes: Sequence[str],
    palette: Palette,
    totals: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Iterator[str]:
    script = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n'
        f'<header>\n<h1>{text(title)}</h1>\n'
    )
    if settings:
        rows = ([name, _value(value)] for name, value in settings.items())
        yield f'<details>\n<summary>Settings</summary>\n{_table((), rows)}</details>\n'
    yield '</header>\n<section aria-label="Totals">\n<h2>All tiles</h2>\n'
    facts = {
        'tiles': f'{totals["tiles"]:,}',
        'pixels': f'{totals["counts"].get("pixels", 0):,}',
        **_facts(totals['rates']),
        'truncated answers': f'{totals["truncated"]:,}',
        'dropped parts of answers': f'{totals["dropped"]:,}',
    }
    yield _fact_list(facts)
    yield _actions_table(totals['counts'], totals['rates'])
    yield _classes_table(totals['counts'], classes)
    yield _corrections_table(totals['counts'])
    yield '</section>\n'
    yield _legend(classes, palette, 'truth' in totals['counts'])


def _legend(classes: Sequence[str], palette: Palette, has_truth: bool) -> str:
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
    if has_truth:
        groups['Errors'] = [(name, _rgb(colour)) for name, colour in ERROR_COLOURS.items()]
    dark, bright = (_rgb(colour) for colour in HATCH)
    stripes = f'repeating-linear-gradient(135deg,{dark} 0 3px,{bright} 3px 6px)'
    groups['Nothing'] = [('not seen, padding or unknown', stripes)]
    lines = ['<section class="legend" aria-label="Legend">\n<h2>Legend</h2>\n']
    for group, entries in groups.items():
        items = ''.join(
            f'<li><span class="swatch" style="background:{colour}"></span>{text(name)}</li>'
            for name, colour in entries
        )
        lines.append(f'<div><h3>{group}</h3><ul>{items}</ul></div>\n')
    return ''.join([*lines, '</section>\n'])


def _controls(shown: int, left_out: int, has_truth: bool) -> Iterator[str]:
    yield f'<h2>{shown:,} {"tile" if shown == 1 else "tiles"}</h2>\n'
    if left_out:
        yield f'<p class="note">{left_out:,} more are counted above and not shown.</p>\n'
    judged = '<option value="wrong">{}</option>' if has_truth else ''
    yield (
        '<form class="controls" id="controls" hidden>\n'
        '<label>Sort by <select id="sort"><option value="changed">most changed pixels</option>'
        f'{judged.format("most wrong changes")}'
        '<option value="order">order of the records</option></select></label>\n'
        '<label>Show <select id="show"><option value="all">all</option>'
        '<option value="changed">with changes</option>'
        f'{judged.format("with wrong changes")}'
        '<option value="faulty">with truncated or dropped answers</option></select></label>\n'
        '<output id="count" for="sort show"></output>\n</form>\n'
    )


def _tile(
    number: int,
    record: AuditedTile,
    summary: Mapping[str, Any],
    classes: Sequence[str],
    palette: Palette,
    side: int,
) -> Iterator[str]:
    counts, rates = summary['counts'], summary['rates']
    faulty = len(summary['dropped']) + summary['truncated']
    badge = ' <strong class="badge">answer truncated</strong>' if summary['truncated'] else ''
    name = text(summary['name'])
    yield (
        f'<article id="tile-{number}" data-order="{number}" data-changed="{_changed(counts)}" '
        f'data-wrong="{_wrong(counts)}" data-faulty="{faulty}">\n<h3>{name}{badge}</h3>\n'
    )
    if summary['key']:
        yield f'<p class="key">{text(summary["key"])}</p>\n'
    yield '<div class="panels">\n'
    for picture, what in zip(*purification_row(record, classes, palette, side), strict=True):
        yield (
            f'<figure><label class="zoom"><input type="checkbox" '
            f'aria-label="enlarge {what} of {name}"><img src="{_data_uri(picture)}" '
            f'width="{picture.shape[1]}" height="{picture.shape[0]}" loading="lazy" '
            f'alt="{what} of {name}"></label><figcaption>{what}</figcaption></figure>\n'
        )
    yield '</div>\n'
    yield _fact_list(_facts(rates))
    yield _actions_table(counts, rates)
    yield _corrections_table(counts)
    yield _answer(summary['answer'])
    if summary['boxes']:
        rows = [
            [str(index), box['class'], box['name'], f'{box["score"]:.2f}', *map(_edge, box['box'])]
            for index, box in enumerate(summary['boxes'], start=1)
        ]
        heads = ('', 'class', 'called', 'score', 'left', 'top', 'right', 'bottom')
        yield _table(heads, rows, f'Boxes ({len(rows)}), in pixels of the image')
    if summary['dropped']:
        items = ''.join(f'<li>{text(part)}</li>' for part in summary['dropped'])
        yield f'<h4>Dropped parts of the answer</h4>\n<ul class="dropped">{items}</ul>\n'
    yield '</article>\n'


def _answer(answer: str) -> str:
    if not answer:
        return '<p class="note">No answer of a verifier.</p>\n'
    rest = len(answer) - _LONGEST_ANSWER
    cut = f'<p class="note">{rest:,} more characters.</p>\n' if rest > 0 else ''
    # A newline right after <pre> is not part of the text.
    return f'<h4>Raw answer</h4>\n<pre tabindex="0">\n{text(answer[:_LONGEST_ANSWER])}</pre>\n{cut}'


def _facts(rates: Mapping[str, float | None]) -> dict[str, str]:
    facts = {
        'covered by evidence': _percent(rates['covered']),
        'mean confidence': _number(rates['confidence']),
        'mean weight': f'{_number(rates["weight_before"])} → {_number(rates["weight_after"])}',
    }
    if rates['accuracy_before'] is not None:
        for name in ('accuracy', 'weighted_accuracy'):
            before, after = rates[f'{name}_before'], rates[f'{name}_after']
            gain = '' if before is None or after is None else f' ({100 * (after - before):+.2f})'
            facts[name.replace('_', ' ')] = f'{_percent(before)} → {_percent(after)}{gain}'
    return facts


def _fact_list(facts: Mapping[str, str]) -> str:
    items = ''.join(f'<div><dt>{name}</dt><dd>{value}</dd></div>' for name, value in facts.items())
    return f'<dl>{items}</dl>\n'


def _actions_table(counts: Mapping[str, Any], rates: Mapping[str, float | None]) -> str:
    truth = counts.get('truth')
    rows = []
    for action in _ACTIONS:
        row = [action, f'{_total(counts.get(action, {})):,}', _percent(rates[action])]
        if truth:
            judged = (truth[action].get(verdict) for verdict in _VERDICTS)
            row += [_NONE if found is None else f'{_total(found):,}' for found in judged]
        rows.append(row)
    heads = ('action', 'pixels', 'share', *(_VERDICTS if truth else ()))
    return _table(heads, rows, 'What was done')


def _classes_table(counts: Mapping[str, Any], classes: Sequence[str]) -> str:
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
    return _table(heads, rows, 'By class')


def _corrections_table(counts: Mapping[str, Any]) -> str:
    pairs = [
        (origin, target, pixels)
        for origin, targets in counts.get('corrections', {}).items()
        for target, pixels in targets.items()
    ]
    if not pairs:
        return ''
    pairs.sort(key=lambda pair: -pair[2])
    rows = [[f'{origin} → {target}', f'{pixels:,}'] for origin, target, pixels in pairs]
    return _table(('correction', 'pixels'), rows, 'Corrections')


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str = '') -> str:
    """A table whose first column names the rows; it scrolls where it is too wide."""
    lines = ['<div class="table" tabindex="0"><table>']
    if caption:
        lines.append(f'<caption>{text(caption)}</caption>')
    if heads:
        cells = ''.join(f'<th scope="col">{text(head)}</th>' for head in heads)
        lines.append(f'<thead><tr>{cells}</tr></thead>')
    lines.append('<tbody>')
    for first, *others in rows:
        cells = ''.join(f'<td>{text(cell)}</td>' for cell in others)
        lines.append(f'<tr><th scope="row">{text(first)}</th>{cells}</tr>')
    return '\n'.join([*lines, '</tbody></table></div>', ''])


def _changed(counts: Mapping[str, Any]) -> int:
    return sum(_total(counts[action]) for action in _ACTIONS)


def _wrong(counts: Mapping[str, Any]) -> int:
    truth = counts.get('truth')
    return sum(_total(truth[action]['wrong']) for action in _ACTIONS) if truth else 0


def _total(per_class: Mapping[str, int]) -> int:
    return sum(per_class.values())


def _percent(share: float | None) -> str:
    return _NONE if share is None else f'{100 * share:.2f} %'


def _number(value: float | None) -> str:
    return _NONE if value is None else f'{value:.3f}'


def _edge(value: float) -> str:
    return f'{value:.0f}'


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _rgb(colour: Sequence[int]) -> str:
    return '#' + ''.join(f'{int(value):02x}' for value in colour)


def _data_uri(picture: np.ndarray) -> str:
    """A small PNG: in up to 256 colours exact, else in the 256 that fit best."""
    image = Image.fromarray(picture).quantize(256, method=Image.Quantize.MEDIANCUT)
    buffer = io.BytesIO()
    image.save(buffer, format='PNG', optimize=True)
    return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --card: #f5f6f8; --ink: #1b1d21; --soft: #5a606b;
  --line: #d4d8df; --warn: #8a3b00; --focus: #0b62d6; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14161a; --card: #1d2026; --ink: #e7e9ed; --soft: #a2a9b5; --line: #363b45;
    --warn: #ffb27a; --focus: #7db4ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 100rem; margin: 0 auto; padding: 1rem clamp(.75rem, 3vw, 2rem) 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 1.75rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
h4 { font-size: .875rem; margin: 1rem 0 .25rem; }
.note, .key { color: var(--soft); font-size: .875rem; margin: .25rem 0; }
.key { font-family: ui-monospace, monospace; font-size: .75rem; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; margin: .75rem 0; }
dt { color: var(--soft); font-size: .8125rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.table { display: inline-block; vertical-align: top; max-width: 100%; max-height: 26rem;
  overflow: auto; margin: .5rem 1.5rem .5rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; max-width: 30rem; overflow: hidden; text-overflow: ellipsis; }
th { font-weight: 500; }
details td { white-space: pre-wrap; overflow-wrap: anywhere; text-align: left; }
thead th { color: var(--soft); }
th:first-child { text-align: left; padding-left: 0; }
.legend > div { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: baseline; }
.legend h3 { flex: 0 0 5.5rem; font-weight: 500; color: var(--soft); font-size: .875rem; }
.legend ul { display: flex; flex-wrap: wrap; gap: .1rem 1rem; list-style: none; margin: 0;
  padding: 0; font-size: .875rem; }
@media (max-width: 40rem) { .legend h3 { flex-basis: 100%; margin-top: .4rem; } }
.swatch { display: inline-block; width: 1.1em; height: 1.1em; margin-right: .4em;
  vertical-align: -.2em; border: 1px solid var(--soft); border-radius: 3px;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1.25rem; align-items: center;
  margin: .5rem 0 1rem; font-size: .875rem; }
.controls select { font: inherit; padding: .3rem; max-width: 100%; }
[hidden] { display: none !important; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem; margin: 0 0 1rem; }
.badge { display: inline-block; border: 1px solid currentColor; border-radius: 99px;
  color: var(--warn); font-size: .75rem; font-weight: 600; padding: .05rem .6rem;
  margin-left: .4rem; }
.panels { display: grid; gap: .6rem; margin-top: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(min(47%, 11rem), 1fr)); }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .8125rem; }
.zoom { display: block; position: relative; cursor: zoom-in; }
.zoom input { position: absolute; opacity: 0; pointer-events: none; }
.zoom img { display: block; width: 100%; max-width: 288px; height: auto; border-radius: 4px; }
.zoom input:focus-visible + img { outline: 3px solid var(--focus); outline-offset: 1px; }
.zoom input:checked + img { position: fixed; z-index: 1; inset: 0; width: 100vw; height: 100vh;
  max-width: none; object-fit: contain; image-rendering: pixelated; background: #000d;
  border-radius: 0; cursor: zoom-out; }
pre { background: var(--paper); border: 1px solid var(--line); border-radius: 6px; margin: 0;
  padding: .6rem; max-height: 16rem; overflow: auto; white-space: pre-wrap; font-size: .8125rem; }
.dropped { margin: 0; padding-left: 1.2rem; font-size: .875rem; }
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --warn: #8a3b00; }
  .controls { display: none; }
  pre, .table { max-height: none; overflow: visible; }
  figure, tr { break-inside: avoid; }
  h3 { break-after: avoid; }
}
"""

_SCRIPT = """
(function () {
  'use strict';
  var list = document.getElementById('tiles');
  var sort = document.getElementById('sort');
  var show = document.getElementById('show');
  var count = document.getElementById('count');
  var tiles = Array.prototype.slice.call(list.children);
  function number(tile, name) { return Number(tile.getAttribute('data-' + name)); }
  function arrange() {
    var by = sort.value, wanted = show.value, visible = 0;
    tiles.sort(function (a, b) {
      var first = by === 'order' ? 0 : number(b, by) - number(a, by);
      return first || number(a, 'order') - number(b, 'order');
    });
    tiles.forEach(function (tile) {
      tile.hidden = wanted !== 'all' && number(tile, wanted) === 0;
      visible += tile.hidden ? 0 : 1;
      list.appendChild(tile);
    });
    count.textContent = visible + ' of ' + tiles.length + ' shown';
  }
  sort.addEventListener('change', arrange);
  show.addEventListener('change', arrange);
  document.getElementById('controls').hidden = false;
  arrange();
})();
"""
