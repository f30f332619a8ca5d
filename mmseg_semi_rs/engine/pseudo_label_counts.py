# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Class-wise counts of pseudo labels, kept on the device and summed over steps and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmseg.structures import SegDataSample
from torch import Tensor

from ..structures import PseudoLabel


@torch.no_grad()
def sum_by_class(labels: Tensor, values: Tensor, classes: int) -> Tensor:
    """Sum values over the pixels of each class, without a host synchronisation.

    This is a product with the one-hot labels. Unlike a scatter of floats it is reproducible on a
    GPU, and does not serialise on the few addresses. Sums of zeros and ones are exact for images of
    up to 2**24 pixels.

    Args:
        labels: Class ids, shape (B, H, W), int64; ids outside [0, K) are not counted.
        values: Values to sum, shape (M, B, H, W), float32.
        classes: Number of classes, K.

    Returns:
        Shape (M, K), float64.
    """
    one_hot = torch.stack([labels == number for number in range(classes)], dim=1)
    one_hot = one_hot.flatten(2).to(values).transpose(1, 2)
    return (values.transpose(0, 1).flatten(2) @ one_hot).double().sum(0)


@torch.no_grad()
def count_labels(samples: Sequence[SegDataSample], classes: int) -> Tensor:
    """Count the labelled pixels of each class, without a host synchronisation.

    Args:
        samples: Samples with ``gt_sem_seg``; pixels whose id is not a class are not counted.
        classes: Number of classes, K.

    Returns:
        Shape (K,), float64.
    """
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in samples])
    return sum_by_class(labels, torch.ones_like(labels, dtype=torch.float32)[None], classes)[0]


@torch.no_grad()
def count_pseudo_labels(
    pseudo: PseudoLabel, samples: Sequence[SegDataSample], classes: int
) -> dict[str, Tensor]:
    """Count the pseudo labels of one batch, without a host synchronisation.

    Args:
        pseudo: Pseudo labels of shape (B, H, W).
        samples: The B samples; ground truth is taken from those that have ``gt_sem_seg``.
        classes: Number of classes, K.

    Returns:
        Sums over valid pixels, (K,) float64 each. By class of the pseudo label: ``predicted``
        (pixels), ``kept`` (weight) and ``confidence``; and, over pixels with known truth,
        ``judged`` (weight), ``right`` (pixels with the true label) and ``right_kept`` (their
        weight). By true class: ``true`` (pixels).
    """
    # Always the same rows, so that ranks can add them up whatever images they have.
    unknown = torch.full_like(pseudo.labels[0], -1)
    truth = torch.stack(
        [sample.gt_sem_seg.data[0] if 'gt_sem_seg' in sample else unknown for sample in samples]
    )
    valid = pseudo.valid.float()
    weight = pseudo.weight * valid
    known = ((truth >= 0) & (truth < classes)).float() * valid
    right = (truth == pseudo.labels).float() * known
    by_label = {
        'predicted': valid,
        'kept': weight,
        'confidence': pseudo.confidence * valid,
        'judged': weight * known,
        'right': right,
        'right_kept': weight * right,
    }
    sums = sum_by_class(pseudo.labels, torch.stack(list(by_label.values())), classes)
    counts = dict(zip(by_label, sums, strict=True))
    counts['true'] = sum_by_class(truth, known[None], classes)[0]
    return counts


def summarise_counts(
    counts: Mapping[str, Sequence[float]], classes: Sequence[str]
) -> dict[str, float]:
    """Compute shares from the sums of :func:`count_pseudo_labels`.

    Args:
        counts: K numbers by name, over any number of batches.
        classes: Names of the K classes.

    Returns:
        The values of :class:`~mmseg_semi_rs.engine.hooks.PseudoLabelStatsHook`, all in [0, 1]. NaN
        if the denominator is 0, except for ``pseudo_share``, which is then 0.
    """
    predicted, kept = counts['predicted'], counts['kept']
    pixels, weight = sum(predicted), sum(kept)
    values = {
        'pseudo_kept': _ratio(weight, pixels),
        'pseudo_confidence': _ratio(sum(counts['confidence']), pixels),
    }
    for number, name in enumerate(classes):
        # 0 instead of NaN if nothing is kept, so that the log shows that the class is not kept.
        values[f'pseudo_share/{name}'] = kept[number] / weight if weight else 0.0
        values[f'pseudo_predicted/{name}'] = _ratio(predicted[number], pixels)
        values[f'pseudo_kept_rate/{name}'] = _ratio(kept[number], predicted[number])
    if any(counts['true']):
        right, true, judged = counts['right_kept'], counts['true'], counts['judged']
        values['pseudo_accuracy'] = _ratio(sum(counts['right']), sum(true))
        values['pseudo_accuracy_kept'] = _ratio(sum(right), sum(judged))
        for number, name in enumerate(classes):
            values[f'pseudo_precision/{name}'] = _ratio(right[number], judged[number])
            values[f'pseudo_recall/{name}'] = _ratio(right[number], true[number])
    return values


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float('nan')
