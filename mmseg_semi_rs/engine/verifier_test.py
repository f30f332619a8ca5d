# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Evaluates a verifier by itself: its own map of a test set, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from rich.progress import track
from torch import Tensor

from ..classes import can_be_asked_for
from ..datasets.tiles import load_image
from ..purification.evidence import Evidence
from ..purification.replay import frame_of, replay_evidence
from ..purification.verifiers import Verifier
from .annotation import find_hook

__all__ = ['build_verifier', 'evaluate_verifier', 'verifier_map']


def build_verifier(cfg: Config, name: str, classes: Sequence[str]) -> Verifier:
    """Build a verifier from its name or from a config.

    Args:
        cfg: The config whose test set is evaluated. Its ``verifier``, as set by ``--cfg-options
            verifier.model=...``, changes single arguments.
        name: A registered name; or a config file with a ``VLMPurifyHook`` or with ``verifier``; or
            '' for the verifier of the config's own ``VLMPurifyHook``.
        classes: Names of the K classes of the test set. A verifier given by name is asked for them,
            except for those like 'background'.

    Returns:
        The verifier, not yet loaded.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If there is no such verifier, or it has other classes.
    """
    if name.endswith('.py') or not name:
        from .launch import load_config

        source = load_config(name) if name else cfg
        found = source.get('verifier') if name else None
        found = found or source.custom_hooks[find_hook(source)].verifier
    else:
        asked = [each if can_be_asked_for(each) else None for each in classes]
        found = dict(type=name, classes=asked)
    kind = found['type'] if isinstance(found['type'], type) else MODELS.get(found['type'])
    if kind is None or not issubclass(kind, Verifier):
        raise ValueError(
            f'--verifier {name}: {found["type"]} is no verifier; give CLIPVerifier, '
            'GenerativeVerifier, Sam3Verifier, one of yours from custom_imports, or a config.'
        )
    verifier: Verifier = MODELS.build({**found, **cfg.get('verifier', {})})
    verifier.check_classes(classes)
    if verifier.needs_calibration:
        raise ValueError(
            f'{type(verifier).__name__} is to be fitted to labelled tiles first: run the annotate '
            'command with its config, or set what is fitted, as verifier.temperature=0.01, by '
            '--cfg-options.'
        )
    return verifier


def verifier_map(evidence: Evidence, num_classes: int, unclaimed: int | None) -> Tensor:
    """Map each pixel of a tile to the class with the highest score.

    Args:
        evidence: Evidence of the tile.
        num_classes: Number of classes K.
        unclaimed: Class of pixels that are not seen, or where no class has a score.

    Returns:
        Shape (H, W), int64.

    Raises:
        ValueError: If there are such pixels, but no class for them.
    """
    found = replay_evidence(
        [evidence], [frame_of((), evidence.size)], num_classes, evidence.size, 'cpu'
    )
    best, labels = found.scores[0].max(dim=0)
    nothing = (best == 0) | ~found.seen[0]
    if unclaimed is None and nothing.any():
        raise ValueError(
            f'The verifier says nothing of {nothing.float().mean():.0%} of the pixels, and not '
            'exactly one class is without a name: name the class that they are of, by --unclaimed.'
        )
    return labels if unclaimed is None else labels.masked_fill(nothing, unclaimed)


@torch.no_grad()
def evaluate_verifier(
    cfg: Config, name: str, device: str, unclaimed: str | None = None
) -> dict[str, float]:
    """Evaluate a verifier's own map on the test set of a config, by the config's metric.

    Args:
        cfg: Config with ``test_dataloader`` and ``test_evaluator``; its model is not built.
        name: See :func:`build_verifier`.
        device: Device of the verifier.
        unclaimed: Name of the class of pixels that the verifier does not claim. Defaults to None:
            the class that is not asked for, if there is exactly one.

    Returns:
        The metrics.

    Raises:
        FileNotFoundError: If a file of the verifier is missing.
        ValueError: If verifier, classes and test set do not fit together.
    """
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    classes = list(dataset.metainfo['classes'])
    verifier = build_verifier(cfg, name, classes)
    if unclaimed is not None and unclaimed not in classes:
        raise ValueError(f'--unclaimed {unclaimed} is no class: give one of {", ".join(classes)}.')
    silent = [k for k in range(len(classes)) if k not in verifier.prompts.asked]
    place = silent[0] if len(silent) == 1 else None
    place = place if unclaimed is None else classes.index(unclaimed)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    verifier.load(device)
    for index in track(range(len(dataset)), 'verifying', transient=True):
        sample = dataset[index]['data_samples']
        (evidence,) = verifier.verify([load_image(dataset, sample.img_path, verifier.bands)])
        if evidence.size != tuple(sample.ori_shape[:2]):
            raise ValueError(
                f'The evidence of {sample.img_path} is for {evidence.size} pixels, the tile has '
                f'{tuple(sample.ori_shape[:2])}: load test tiles as they are stored.'
            )
        labels = verifier_map(evidence, len(classes), place)
        sample.pred_sem_seg = PixelData(data=labels[None])
        evaluator.process(data_samples=[sample])
    metrics: dict[str, Any] = evaluator.evaluate(len(dataset))
    return metrics
