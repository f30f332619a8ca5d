# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Temperature scaling that calibrates the confidence of a trained network."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor
from torch.nn import functional as F

from ..evaluation import expected_calibration_error
from ..utils.commands import command
from ..utils.files import file_digest, write_atomic
from ..utils.progress import progress_bar

_FEWEST = 1000  # minimum number of predicted pixels for a class to get its own temperature
TEMPERATURES = (0.05, 20.0)
"""Smallest and largest that is tried."""


@dataclass(frozen=True)
class Calibration:
    """Temperatures of a network, fitted to labelled tiles that it was not trained on.

    Attributes:
        network: ``'teacher'``, a student's name, ...; '' if there is only one network.
        checkpoint: Digest of the checkpoint file that it was fitted for.
        temperature: Divisor of all logits.
        by_class: Divisor by predicted class. It is the common temperature for classes that are
            predicted too seldom, and for all classes if separate ones do not reduce the error.
        pixels: Number of pixels that it was fitted to.
        ece: Expected calibration error in percent on these pixels: before, with one temperature,
            and with one for each class.
    """

    network: str
    checkpoint: str
    temperature: float
    by_class: tuple[float, ...]
    pixels: int
    ece: tuple[float, float, float]

    def __call__(self, logits: Tensor) -> Tensor:
        """Divide logits (B, K, ...) by the temperature of the class that they predict."""
        temperatures = logits.new_tensor(self.by_class)[logits.argmax(1)]
        return logits / temperatures[:, None]

    def write(self, checkpoint: str | Path) -> Path:
        """Write it next to its checkpoint, and return the file."""
        path = calibration_file(checkpoint, self.network)
        write_atomic(path, (json.dumps(asdict(self), indent=1) + '\n').encode())
        return path


def calibration_file(checkpoint: str | Path, network: str) -> Path:
    """Path of the calibration file of a checkpoint's network."""
    path = Path(checkpoint)
    return path.with_name(f'{path.stem}.{network or "network"}.calibration.json')


def read_calibration(checkpoint: str | Path, network: str, classes: int) -> Calibration | None:
    """Read the calibration next to a checkpoint.

    Args:
        checkpoint: File of the checkpoint.
        network: See :class:`Calibration`.
        classes: Number of classes.

    Returns:
        The calibration, or None if there is none.

    Raises:
        ValueError: If it is damaged, or belongs to other weights.
    """
    path = calibration_file(checkpoint, network)
    if not path.is_file():
        return None
    again = f'run {command("calibrate")} again, or remove it.'
    try:
        found = json.loads(path.read_text(encoding='utf-8-sig'))
        calibration = Calibration(
            **{
                **found,
                'by_class': tuple(map(float, found['by_class'])),
                'ece': tuple(found['ece']),
            }
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f'The calibration {path} cannot be read ({error}): {again}') from error
    if calibration.checkpoint != file_digest(Path(checkpoint)):
        raise ValueError(f'The calibration {path} is of other weights than {checkpoint}: {again}')
    if len(calibration.by_class) != classes or min(calibration.by_class) <= 0:
        raise ValueError(
            f'The calibration {path} has the temperatures {calibration.by_class} for {classes} '
            f'classes: {again}'
        )
    return calibration


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature with the smallest mean cross-entropy, which is convex in its inverse.

    Args:
        logits: Shape (N, K).
        labels: Shape (N,), int64.

    Returns:
        Temperature from 0.05 to 20.
    """
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    logits = logits.double()
    for _ in range(60):
        first, second = low + (high - low) / 3, high - (high - low) / 3
        if F.cross_entropy(logits * first, labels) < F.cross_entropy(logits * second, labels):
            high = second
        else:
            low = first
    return 2 / (low + high)


@torch.no_grad()
def collect_logits(model: Any, dataset: Any, pixels: int) -> tuple[Tensor, Tensor]:
    """Collect logits and labels of pixels, equally many from each image, drawn with seed 0.

    Args:
        model: A segmentor in evaluation mode, which predicts with the wanted network.
        dataset: Dataset of labelled images.
        pixels: Total number of pixels. Those whose label is no class are left out.

    Returns:
        Logits (N, K), float32, and labels (N,), int64, on the CPU.

    Raises:
        ValueError: If no labels are loaded, or no pixel has one.
    """
    generator = torch.Generator().manual_seed(0)
    share = max(1, pixels // len(dataset))
    found: list[tuple[Tensor, Tensor]] = []
    with progress_bar() as bar:
        for index in bar.track(range(len(dataset)), description='predicting'):
            (output,) = model.test_step(pseudo_collate([dataset[index]]))
            if 'gt_sem_seg' not in output:
                raise ValueError(
                    'The pipeline of val_dataloader loads no labels: add LoadAnnotations to it.'
                )
            labels = output.gt_sem_seg.data[0].flatten().cpu()
            known = ((labels >= 0) & (labels < len(output.seg_logits.data))).nonzero()[:, 0]
            drawn = known[torch.randperm(len(known), generator=generator)[:share]]
            logits = output.seg_logits.data.flatten(1).cpu()[:, drawn].T
            found.append((logits.float(), labels[drawn].long()))
    logits, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    if not len(labels):
        raise ValueError('No pixel of the validation images has a label: correct the masks.')
    return logits, labels


def fit_calibration(
    logits: Tensor, labels: Tensor, network: str, checkpoint: str | Path
) -> Calibration:
    """Fit one temperature for all pixels, and one for each predicted class.

    Args:
        logits: Shape (N, K), K of two or more.
        labels: Shape (N,), int64.
        network: See :class:`Calibration`.
        checkpoint: File of the network.
    """
    one = fit_temperature(logits, labels)
    predicted = logits.argmax(1)
    temperatures = []
    for index in range(logits.shape[1]):
        inside = predicted == index
        many = int(inside.sum()) >= _FEWEST
        temperatures.append(fit_temperature(logits[inside], labels[inside]) if many else one)
    by_class = logits.new_tensor(temperatures)[predicted][:, None]
    errors = [
        expected_calibration_error(scaled.softmax(1).amax(1), predicted == labels)
        for scaled in (logits, logits / one, logits / by_class)
    ]
    if errors[2] >= errors[1]:
        temperatures = [one] * len(temperatures)
    return Calibration(
        network,
        file_digest(Path(checkpoint)),
        round(one, 4),
        tuple(round(value, 4) for value in temperatures),
        len(labels),
        (round(errors[0], 2), round(errors[1], 2), round(errors[2], 2)),
    )
