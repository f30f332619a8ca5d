# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Gains of recipes over supervised training, from tests of both on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .html_page import Table
from .run_groups import Group
from .run_records import Run, Tested

_RESAMPLES = 1000


@dataclass(frozen=True)
class Gain:
    """mIoU of a recipe minus that of supervised training, in percentage points.

    Attributes:
        recipe: Name of the recipe.
        bar: Name of the supervised recipe.
        score: mIoU of the recipe in percent, mean over its runs.
        mean: Gain, mean over the pairs of runs.
        low: Lower bound of the 95 % interval.
        high: Upper bound of the 95 % interval.
        classes: Gain in IoU of each class, by name.
        pairs: Gain of each pair of runs.
        images: Number of tested images.
    """

    recipe: str
    bar: str
    score: float
    mean: float
    low: float
    high: float
    classes: dict[str, float]
    pairs: list[float]
    images: int

    def __str__(self) -> str:
        side = 'above' if self.mean >= 0 else 'below'
        said = (
            f'{self.recipe}: mIoU {self.score:.1f} in the test, {abs(self.mean):.1f} {side} '
            f'{self.bar} (95 % interval {self.low:+.1f} to {self.high:+.1f}, '
            f'{self.images:,} images)'
        )
        if self.low <= 0 <= self.high:
            said += ', which these images do not tell apart from nothing'
        return f'{said}.'


def find_gains(groups: Sequence[Group]) -> list[Gain]:
    """Compare each tested recipe with the best supervised one, on images that both were tested on.

    Args:
        groups: Groups of runs on the same data.

    Returns:
        The gains, largest first; empty if there is no supervised training or nothing to compare.
    """
    tests = {
        group.name: [
            (run, run.tests[-1]) for run in group.runs if run.tests and run.tests[-1].images
        ]
        for group in groups
    }
    tested = [group for group in groups if tests[group.name]]
    supervised = [group for group in tested if all(run.supervised for run in group.runs)]
    if not supervised:
        return []
    bar = max(supervised, key=lambda group: _mean_score([t for _, t in tests[group.name]]))
    gains = []
    for group in tested:
        pairs = _pairs(tests[group.name], tests[bar.name]) if group is not bar else []
        if pairs:
            gains.append(paired_gain(group.name, bar.name, pairs))
    return sorted(gains, key=lambda gain: -gain.mean)


def paired_gain(recipe: str, bar: str, pairs: Sequence[tuple[Tested, Tested]]) -> Gain:
    """Compute the difference of mIoU and its interval by a paired bootstrap.

    Images are resampled with replacement, identically for both tests of all pairs; several pairs of
    runs (seeds) are resampled too (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

    Args:
        recipe: Name of the recipe.
        bar: Name of the recipe that it is compared with.
        pairs: Tests of both on the same images.
    """
    names, classes = list(pairs[0][0].images), pairs[0][0].classes
    chosen = [classes.index(name) for name in pairs[0][0].averaged]
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), _RESAMPLES)
    weights = np.concatenate([np.ones((1, len(names))), drawn])  # first the original sample
    scores = np.stack([[_ious(test, names, weights) for test in pair] for pair in pairs])
    means = 100 * _nan_mean(scores[..., chosen])  # (pairs, 2, 1 + resamples)
    differences = means[:, 0] - means[:, 1]
    runs = rng.integers(len(pairs), size=(_RESAMPLES, len(pairs)))
    again = differences[runs.T, np.arange(1, _RESAMPLES + 1)].mean(0)
    low, high = np.nanpercentile(again, [2.5, 97.5])  # NaN: no class at all
    by_class = 100 * (scores[:, 0, 0] - scores[:, 1, 0]).mean(0)
    return Gain(
        recipe,
        bar,
        float(means[:, 0, 0].mean()),
        float(differences[:, 0].mean()),
        float(low),
        float(high),
        dict(zip(classes, by_class.tolist(), strict=True)),
        differences[:, 0].tolist(),
        len(names),
    )


def gains_table(gains: Sequence[Gain]) -> Table | None:
    """Tabulate the gains with their classes; None if there are none."""
    if not gains:
        return None
    classes = list(gains[0].classes)
    heads = ('recipe', 'mIoU', 'difference', '95 % interval', *classes, 'each pair of runs')
    rows = [
        [
            gain.recipe,
            f'{gain.score:.1f}',
            f'{gain.mean:+.1f}',
            f'{gain.low:+.1f} to {gain.high:+.1f}',
            *('\N{EN DASH}' if value != value else f'{value:+.1f}'
              for value in gain.classes.values()),
            ', '.join(f'{value:+.1f}' for value in gain.pairs),
        ]
        for gain in gains
    ]  # fmt: skip
    title = f'Against {gains[0].bar}, on the same {gains[0].images:,} images'
    return Table(title, heads, rows)


def _pairs(
    ours: Sequence[tuple[Run, Tested]], bar: Sequence[tuple[Run, Tested]]
) -> list[tuple[Tested, Tested]]:
    """Pair the tests by seed if possible, else in the order of the runs."""
    by_seed = {run.seed: test for run, test in bar if run.seed is not None}
    pairs = [(test, by_seed[run.seed]) for run, test in ours if run.seed in by_seed]
    if not pairs:
        pairs = [(one, other) for (_, one), (_, other) in zip(ours, bar, strict=False)]
    same = {(tuple(test.images), tuple(test.classes), tuple(test.averaged))
            for pair in pairs for test in pair}  # fmt: skip
    return pairs if len(same) == 1 else []


def _mean_score(tests: Sequence[Tested]) -> float:
    scores = []
    for test in tests:
        chosen = [test.classes.index(name) for name in test.averaged]
        ious = _ious(test, list(test.images), np.ones((1, len(test.images))))
        scores.append(float(_nan_mean(ious[:, chosen])[0]))
    return float(np.mean(scores))


def _ious(test: Tested, names: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """Compute the IoU of each class on sets of images, (sets, K) in [0, 1]; NaN for absent classes.

    Args:
        test: The test.
        names: Names of its images, (N,).
        weights: Number of times that each image is in each set, (sets, N).
    """
    counts = np.array([test.images[name] for name in names], np.float64)
    shape = (len(weights), 3, len(test.classes))
    hit, truth, predicted = np.moveaxis(
        (weights @ counts.reshape(len(names), -1)).reshape(shape), 1, 0
    )
    union = truth + predicted - hit
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)


def _nan_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis without NaN, or NaN if all values are NaN."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(-1), known.sum(-1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
