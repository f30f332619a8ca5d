# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Records of what purification did to a tile and why, with statistics, for people to inspect."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .evidence import Region
from .policy import ACTIONS, boundary_band
from .replay import count_votes

# Codes in AuditRecord.actions; 0 is untouched.
_NUMBERS = {action: number for number, action in enumerate(ACTIONS) if number}

#: Width in pixels of the boundary band on each side of a change of label.
BOUNDARY = 3
_MOMENTS = ('before', 'after')

Counts = dict[str, Any]


@dataclass(frozen=True, eq=False)
class AuditRecord:
    """One tile or crop before and after purification; all maps are in the frame of the image.

    Attributes:
        name: Name of the tile or crop for people.
        key: Key of its evidence in the store.
        image: Shape (H, W, 3), uint8, RGB.
        labels_before: The teacher's class ids, shape (H, W), integer, in [0, K) where valid.
        labels_after: The purified class ids, likewise.
        confidence: The teacher's confidence, shape (H, W), float32, in [0, 1].
        weight_before: Weight in the loss, shape (H, W), float32, in [0, 1].
        weight_after: The purified weight, likewise.
        actions: What was done, shape (H, W), uint8, index into ``policy.ACTIONS``; labels change
            exactly where it is 'corrected'.
        valid: False on padding, shape (H, W), bool.
        truth: True class ids, shape (H, W), integer; ids outside [0, K), like 255, do not count.
        scores: Evidence, shape (K, H, W), uint8, 0 to 255 for [0, 1].
        seen: Where there is evidence, shape (H, W), bool.
        boxes: Objects that the verifier found, in pixels of the image.
        answer: The verifier's answer, verbatim.
        dropped: Unusable parts of the answer, each with the reason.
        truncated: Whether the answer ended before it was complete.
        regions: Number of the class-free region of each pixel, 0 for none, shape (H, W), integer.

    Raises:
        ValueError: If the maps differ in size, or only one of ``scores`` and ``seen`` is given.
    """

    name: str
    key: str | None
    image: np.ndarray
    labels_before: np.ndarray
    labels_after: np.ndarray
    confidence: np.ndarray
    weight_before: np.ndarray
    weight_after: np.ndarray
    actions: np.ndarray
    valid: np.ndarray
    truth: np.ndarray | None = None
    scores: np.ndarray | None = None
    seen: np.ndarray | None = None
    boxes: tuple[Region, ...] = ()
    answer: str = ''
    dropped: tuple[str, ...] = ()
    truncated: bool = False
    regions: np.ndarray | None = None

    def __post_init__(self) -> None:
        maps = {
            'labels_before': self.labels_before,
            'labels_after': self.labels_after,
            'confidence': self.confidence,
            'weight_before': self.weight_before,
            'weight_after': self.weight_after,
            'actions': self.actions,
            'valid': self.valid,
            'truth': self.truth,
            'seen': self.seen,
            'regions': self.regions,
            'a plane of scores': None if self.scores is None else self.scores[0],
        }
        size = self.image.shape[:2]
        for what, values in maps.items():
            if values is not None and values.shape != size:
                raise ValueError(
                    f'{what} of {self.name!r} has the shape {values.shape}, its image {size}: '
                    'bring all maps into the frame of the image.'
                )
        if (self.scores is None) != (self.seen is None):
            raise ValueError(
                f'{self.name!r} has only one of scores and seen: give both for a tile with '
                'evidence, none for one without.'
            )

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """Summarise what happened as one line of an audit log (SemiEarth, S13).

        Only valid pixels count. A correction counts for its new class; it is right if the new label
        is true, wrong if the old label was true, and neutral otherwise. Support is right on a true
        label, a veto on a false one.

        Args:
            classes: The K class names.

        Returns:
            A dict for JSON with ``name``, ``key``, ``answer``, ``truncated``, ``boxes`` (class, the
            verifier's name for it, left, top, right, bottom in pixels of the image, score),
            ``dropped``, ``counts`` (pixels and sums, which :func:`totals` adds up) and ``rates``
            (shares, means and accuracies in [0, 1]; None if the denominator is 0).

        Raises:
            ValueError: If a label or box has a class without a name.
        """
        used = [label.label for label in self.boxes]
        used += [int(ids[self.valid].max(initial=0)) for ids in self._labels()]
        if max(used) >= len(classes):
            raise ValueError(
                f'{self.name!r} holds class {max(used)}, but there are {len(classes)} names: give '
                'the names of all classes.'
            )
        counts = self._counts(classes)
        return {
            'name': self.name,
            'key': self.key,
            'answer': self.answer,
            'truncated': bool(self.truncated),
            'boxes': [
                {
                    'class': classes[region.label],
                    'name': region.name,
                    'box': [round(float(edge), 2) for edge in region.box],
                    'score': round(float(region.score), 4),
                }
                for region in self.boxes
            ],
            'dropped': list(self.dropped),
            'counts': counts,
            'rates': _rates(counts),
        }

    def _labels(self) -> tuple[np.ndarray, np.ndarray]:
        return self.labels_before, self.labels_after

    def _counts(self, classes: Sequence[str]) -> Counts:
        valid = self.valid
        counts: Counts = {
            'pixels': int(valid.sum()),
            'seen': 0 if self.seen is None else int((self.seen & valid).sum()),
            'confidence': _sum(self.confidence, valid),
            'weight_before': _sum(self.weight_before, valid),
            'weight_after': _sum(self.weight_after, valid),
        }
        for action, number in _NUMBERS.items():
            acted = valid & (self.actions == number)
            counts[action] = _per_class(self.labels_after, acted, classes)
        corrected = valid & (self.actions == _NUMBERS['corrected'])
        counts['corrections'] = {
            origin: targets
            for label, origin in enumerate(classes)
            if (
                targets := _per_class(
                    self.labels_after, corrected & (self.labels_before == label), classes
                )
            )
        }
        band = _boundary(self.labels_before, valid)
        counts['boundary'] = {'pixels': int(band.sum())}
        if self.regions is not None:
            counts['boundary'] |= {
                f'against_{moment}': int((band & self.against_regions(moment)).sum())
                for moment in ('before', 'after')
            }
        if self.truth is not None:
            counts['truth'] = self._truth_counts(self.truth, classes)
            known = band & (self.truth >= 0) & (self.truth < len(classes))
            before, after = ((known & (ids == self.truth)).sum() for ids in self._labels())
            counts['boundary'] |= {
                'known': int(known.sum()),
                'right_before': int(before),
                'right_after': int(after),
            }
        return counts

    def against_regions(self, moment: str = 'before') -> np.ndarray:
        """Find labels that differ from the most frequent label of their region.

        Args:
            moment: Which labels, those 'before' or 'after' purification.

        Returns:
            Shape (H, W), bool; False outside all regions and where not valid.
        """
        if self.regions is None:
            return np.zeros_like(self.valid)
        ids = self.labels_before if moment == 'before' else self.labels_after
        labels = torch.from_numpy(np.where(self.valid, ids, 0).astype(np.int64))[None]
        valid = torch.from_numpy(self.valid)[None]
        regions = torch.from_numpy(self.regions.astype(np.int64))[None]
        size, num_classes = int(regions.max()), int(labels.max()) + 1
        votes = count_votes(labels, valid, regions, size, num_classes)
        usual = votes.argmax(dim=2).gather(1, regions.flatten(1)).view_as(labels)
        against: np.ndarray = ((usual != labels) & (regions > 0) & valid)[0].numpy()
        return against

    def _truth_counts(self, truth: np.ndarray, classes: Sequence[str]) -> Counts:
        known = self.valid & (truth >= 0) & (truth < len(classes))
        before, after = (known & (ids == truth) for ids in self._labels())
        # Pixels on which each action is right, wrong or neutral.
        verdicts = {
            'corrected': {'right': after, 'wrong': before, 'neutral': ~before & ~after},
            'supported': {'right': after, 'wrong': ~after},
            'vetoed': {'right': ~before, 'wrong': before},
        }
        counts: Counts = {
            'pixels': int(known.sum()),
            'right_before': int(before.sum()),
            'right_after': int(after.sum()),
            'weight_before': _sum(self.weight_before, known),
            'weight_after': _sum(self.weight_after, known),
            'weight_right_before': _sum(self.weight_before, before),
            'weight_right_after': _sum(self.weight_after, after),
            'classes': {
                'pixels': _per_class(truth, known, classes),
                'right_before': _per_class(truth, before, classes),
                'right_after': _per_class(truth, after, classes),
            },
        }
        for action, number in _NUMBERS.items():
            acted = known & (self.actions == number)
            counts[action] = {
                verdict: _per_class(self.labels_after, acted & pixels, classes)
                for verdict, pixels in verdicts[action].items()
            }
        return counts


def _boundary(labels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Pixels near a change of label, shape (H, W), bool."""
    maps = torch.from_numpy(labels.astype(np.int64))[None], torch.from_numpy(valid)[None]
    band: np.ndarray = boundary_band(*maps, BOUNDARY)[0].numpy()
    return band


def append_summaries(path: str | Path, summaries: Iterable[Mapping[str, Any]]) -> None:
    """Append summaries to a JSON Lines file.

    All lines are written at once, so that ranks that share a file do not mix them. If an
    interrupted run left an unfinished line, the new lines start on a line of their own.

    Args:
        path: The ``.jsonl`` file; it and its folder are created.
        summaries: Results of :meth:`AuditRecord.summary`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ''.join(json.dumps(summary) + '\n' for summary in summaries).encode()
    with path.open('a+b', buffering=0) as file:
        if file.seek(0, 2):
            file.seek(-1, 2)
            if file.read(1) != b'\n':
                lines = b'\n' + lines
        while lines:
            lines = lines[file.write(lines) :]


def totals(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the summaries of many tiles.

    Args:
        summaries: Results of :meth:`AuditRecord.summary`, or read back from JSON lines.

    Returns:
        ``tiles``, ``truncated`` (tiles with a truncated answer), ``dropped`` (parts of answers),
        and ``counts`` and ``rates`` as in a summary, over all pixels. Accuracies are over the tiles
        with ground truth.
    """
    tiles = truncated = dropped = 0
    counts: Counts = {}
    for summary in summaries:
        tiles += 1
        truncated += summary['truncated']
        dropped += len(summary['dropped'])
        counts = _add(counts, summary['counts'])
    return {
        'tiles': tiles,
        'truncated': truncated,
        'dropped': dropped,
        'counts': counts,
        'rates': _rates(counts),
    }


def _rates(counts: Counts) -> dict[str, float | None]:
    """Compute shares and accuracies from the counts of one or many tiles."""
    truth = counts.get('truth', {})
    rates = {
        'covered': _ratio(counts, 'seen', 'pixels'),
        'confidence': _ratio(counts, 'confidence', 'pixels'),
        'weight_before': _ratio(counts, 'weight_before', 'pixels'),
        'weight_after': _ratio(counts, 'weight_after', 'pixels'),
        'accuracy_before': _ratio(truth, 'right_before', 'pixels'),
        'accuracy_after': _ratio(truth, 'right_after', 'pixels'),
        'weighted_accuracy_before': _ratio(truth, 'weight_right_before', 'weight_before'),
        'weighted_accuracy_after': _ratio(truth, 'weight_right_after', 'weight_after'),
    }
    boundary = counts.get('boundary', {})
    inside = {
        key: truth.get(of_all, 0) - boundary.get(key, 0)
        for key, of_all in (('known', 'pixels'), *((f'right_{m}',) * 2 for m in _MOMENTS))
    }
    rates['boundary'] = _ratio({**boundary, 'whole': counts.get('pixels', 0)}, 'pixels', 'whole')
    for moment in _MOMENTS:
        rates[f'boundary_accuracy_{moment}'] = _ratio(boundary, f'right_{moment}', 'known')
        rates[f'inside_accuracy_{moment}'] = _ratio(inside, f'right_{moment}', 'known')
        against = boundary if f'against_{moment}' in boundary else {}
        rates[f'against_regions_{moment}'] = _ratio(against, f'against_{moment}', 'pixels')
    for action in _NUMBERS:
        acted = {'acted': sum(counts.get(action, {}).values()), 'pixels': counts.get('pixels', 0)}
        rates[action] = _ratio(acted, 'acted', 'pixels')
    return rates


def _ratio(counts: Counts, part: str, whole: str) -> float | None:
    return counts[part] / counts[whole] if counts.get(whole) else None


def _sum(values: np.ndarray, where: np.ndarray) -> float:
    return float(values[where].sum(dtype=np.float64))


def _per_class(ids: np.ndarray, where: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """Count the selected pixels of each class; classes without any are left out."""
    found = np.bincount(ids[where].astype(np.int64), minlength=len(classes)).tolist()
    return {name: pixels for name, pixels in zip(classes, found, strict=True) if pixels}


def _add(left: Counts, right: Mapping[str, Any]) -> Counts:
    """Add two nested tables of numbers; entries of only one of them are kept."""
    joined = dict(left)
    for name, value in right.items():
        if isinstance(value, Mapping):
            joined[name] = _add(left.get(name, {}), value)
        else:
            joined[name] = left.get(name, 0) + value
    return joined
