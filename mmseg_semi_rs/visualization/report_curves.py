# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Curves of several groups of runs, as inline SVG that takes its colours from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .html_page import text
from .run_groups import Group, mean_series
from .run_records import Series

#: Number of colours for groups, which the page's style defines as ``--s0`` and so on.
COLOURS = 8
#: Dashes of a group's networks, beginning with the one that predicts.
DASHES = ('', '5 2', '1.5 1.5', '5 2 1.5 2')
_MARKERS = ('', 'o', 's', '^', 'D')  # for each further COLOURS groups, which reuse the colours
_STEPS = (1, 2, 5, 10)
_INK, _LINE = '#01fe01', '#01fe02'  # placeholders for colours of the page
_SERIES = tuple(f'#01fd{index:02x}' for index in range(COLOURS))
_STYLE: dict[Any, Any] = {
    'svg.fonttype': 'none',  # keep text as text
    'font.size': 8,
    'axes.edgecolor': _LINE,
    'axes.labelcolor': _INK,
    'axes.grid': True,
    'axes.grid.axis': 'y',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.spines.left': False,
    'axes.linewidth': 0.8,
    'grid.color': _LINE,
    'grid.linewidth': 0.6,
    'text.color': _INK,
    'xtick.color': _LINE,
    'ytick.color': _LINE,
    'xtick.labelcolor': _INK,
    'ytick.labelcolor': _INK,
    'ytick.major.size': 0,
}


@dataclass(frozen=True)
class Line:
    """One scalar of one network of one group.

    Attributes:
        label: Name of the group and network.
        colour: Index of the group.
        dash: Index of the network.
        runs: Values of each run.
    """

    label: str
    colour: int
    dash: int
    runs: Sequence[Series]


@dataclass
class Chart:
    """Lines of one scalar.

    Attributes:
        key: Name of the scalar without the network.
        section: Heading of the chart, see :func:`section_of`.
        lines: Lines of the chart.
    """

    key: str
    section: str
    lines: list[Line] = field(default_factory=list)

    @property
    def has_values(self) -> bool:
        """Whether there is a number to draw; the score of an absent class is NaN."""
        series = (run for line in self.lines for run in line.runs)
        return any(value == value for run in series for value in run.values())


#: Headings of scalars with one value per class, by the prefix of their names.
_OF_CLASSES = {
    'pseudo_share/': 'Share of each class in the pseudo labels',
    'guard/': 'Kept share of each class over its share of the labels',
    'pseudo_predicted/': 'Share of each class in the predictions',
    'pseudo_kept_rate/': 'How much of each class is kept',
    'pseudo_precision/': 'Precision and recall of each class in the pseudo labels',
    'pseudo_recall/': 'Precision and recall of each class in the pseudo labels',
}
_LABELS = 'labelled_share/'  # drawn in the chart of the pseudo labels' shares
_LABELS_DASH = len(DASHES) - 1


def section_of(key: str, part: str) -> str:
    """Return the heading of a scalar's chart.

    Args:
        key: Name of the scalar without the network.
        part: ``'train'`` or ``'val'``.
    """
    if part == 'val':
        return 'Each class' if key.startswith('IoU.') else 'Validation'
    for begin, section in _OF_CLASSES.items():
        if key.startswith(begin):
            return section
    if key.startswith('pseudo_') or key == 'taught':
        return 'Pseudo labels'
    if key.startswith('purify'):
        return 'Purification'
    return 'Losses' if 'loss' in key else 'Learning rate and speed'


def collect_charts(groups: Sequence[Group]) -> list[Chart]:
    """Collect the charts of all logged scalars.

    Args:
        groups: Groups in the order of their colours.

    Returns:
        The charts that have a number to draw.
    """
    charts: dict[tuple[str, str], Chart] = {}
    for colour, group in enumerate(groups):
        networks = networks_of(group)
        for part in ('val', 'train'):
            for key in dict.fromkeys(key for run in group.runs for key in getattr(run, part)):
                network, name = split_key(key, networks)
                if part == 'val' and (
                    key in ('time', 'data_time') or (group.networks and not network)
                ):
                    continue  # the network of predict_on is also logged under its own name
                label = f'{group.name}, {network}' if network else group.name
                dash = networks.index(network) if network else 0
                if part == 'train' and name.startswith(_LABELS):
                    label, dash = f'labels of {group.name}', _LABELS_DASH
                    name = 'pseudo_share/' + name.removeprefix(_LABELS)
                section = section_of(name, part)
                chart = charts.setdefault((section, name), Chart(name, section))
                chart.lines.append(Line(label, colour, dash, group.series(part, key)))
    return [chart for chart in charts.values() if chart.has_values]


def split_key(key: str, networks: Sequence[str]) -> tuple[str, str]:
    """Split a scalar's name into network (empty if none is named) and the rest."""
    for network in networks:
        if key.startswith((f'{network}/', f'{network}.')):
            return network, key[len(network) + 1 :]
    return '', key


def networks_of(group: Group) -> list[str]:
    """List the networks of a group in the order of their dashes.

    These are the validated ones, followed by students of the config that are not validated yet.
    """
    students = (group.recipe.get('model') or {}).get('students')
    extra = list(students) if isinstance(students, Mapping) else []
    return list(dict.fromkeys([*group.networks, *extra]))


def draw_chart(chart: Chart, wide: bool = False, salt: str = '') -> Markup:
    """Draw a chart.

    Several runs of a group are thin lines with their mean as a thick line.

    Args:
        chart: The chart.
        wide: Whether to draw it wider.
        salt: Text that makes its ids differ from the same chart of other runs on the page.

    Returns:
        An ``svg`` element in colours of the page, with ids that are unique by section and key.
    """
    share = chart.section in ('Pseudo labels', 'Purification') or chart.key.startswith('pseudo_')
    size: dict[Any, Any] = {'font.size': 7 if wide else 8}  # wide charts are scaled up more
    with mpl.rc_context({**_STYLE, **size, 'svg.hashsalt': f'{salt} {chart.section} {chart.key}'}):
        figure = Figure(figsize=(5.6, 3.5) if wide else (3.3, 2.0), layout='constrained')
        axes = figure.add_subplot()
        for line in chart.lines:
            _draw_line(axes, line, marked=chart.section in ('Validation', 'Each class'))
        axes.set_xlabel('iteration')
        axes.xaxis.set_major_locator(MaxNLocator(6 if wide else 5, steps=_STEPS, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        axes.margins(x=0.02)
        if share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        low, high = axes.get_ylim()
        of_class = chart.section == 'Each class'  # in percent
        if share or chart.key.startswith('guard/') or (of_class and low < 0):
            top = max(high, 10 if of_class else 0.1)
            axes.set_ylim(-0.02 * top, top)  # shows a line at 0 in full width
        buffer = io.StringIO()
        nothing = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
        figure.savefig(buffer, format='svg', transparent=True, metadata=nothing)
    return Markup(_adopt(buffer.getvalue(), _describe(chart)))


def _draw_line(axes: mpl.axes.Axes, line: Line, marked: bool) -> None:
    colour = _SERIES[line.colour % COLOURS]
    style = (0, [float(length) for length in DASHES[line.dash % len(DASHES)].split()])
    dashes: dict[str, Any] = {'linestyle': style if style[1] else '-', 'color': colour}
    if len(line.runs) > 1:
        for run in line.runs:
            axes.plot(
                sorted(run), [run[step] for step in sorted(run)], lw=0.7, alpha=0.45, **dashes
            )
    mean = mean_series(line.runs)
    marker = _MARKERS[line.colour // COLOURS % len(_MARKERS)]
    if marked or len(mean) == 1:
        marker = marker or 'o'
    axes.plot(
        list(mean),
        list(mean.values()),
        lw=1.6,
        marker=marker or None,
        ms=3,
        markevery=1 if marked else max(1, len(mean) // 8),
        **dashes,
    )


def _describe(chart: Chart) -> str:
    """Describe a chart in words for screen readers."""
    parts = []
    for line in chart.lines:
        if mean := [pair for pair in mean_series(line.runs).items() if pair[1] == pair[1]]:
            (first, begin), (last, end) = mean[0], mean[-1]
            parts.append(f'{line.label}: {begin:.4g} at {first} to {end:.4g} at {last}')
    return f'{chart.key} by iteration. ' + '; '.join(parts)


def _adopt(svg: str, description: str) -> str:
    """Make matplotlib's SVG part of a page: CSS colours, no shared ids, no fixed size."""
    body = svg[svg.index('<svg') :]
    body = re.sub(r'<defs>\s*<style.*?</style>\s*</defs>', '', body, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None
    opening = f'<svg class="chart" role="img" aria-label="{text(description)}" {box[0]}>'
    body = opening + body[body.index('>') + 1 :]
    body = re.sub(r' id="(?![mp][0-9a-f]{10})[^"]*"', '', body).replace('xlink:href', 'href')
    body = re.sub(r'<!--.*?-->|\n\s*', lambda found: ' ' if '\n' in found[0] else '', body)
    for stand_in, name in [
        (_INK, 'ink'),
        (_LINE, 'line'),
        *((colour, f's{index}') for index, colour in enumerate(_SERIES)),
    ]:
        body = body.replace(stand_in, f'var(--{name})')
    return body
