# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Fits gate thresholds on held-out labelled tiles, so that kept labels are right often enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import DATASETS, HOOKS
from torch import Tensor

from ...datasets.tiles import tile_paths
from ...models.gates import ConformalGate
from ...models.segmentors import SemiSegmentor
from ...purification.conformal import ConformalThresholds
from ...utils.sampling import evenly
from .semi_segmentor import semi_segmentor

_STEPS = 2048 / 16.0  # thresholds per unit of -log(1 - c)


@HOOKS.register_module()
class CalibrateGateHook(Hook):
    """Fits the thresholds of ``ConformalGate`` to held-out labelled tiles at regular intervals.

    The teacher labels these tiles; ``ConformalThresholds`` describes what is fitted and what it
    guarantees. The tiles must neither be trained on nor be those of validation or test, so reserve
    some labelled ones for this hook. Every process does the same work, between two steps.

    Args:
        dataset: Config of the held-out tiles, with a pipeline as for validation.
        alpha: Largest share of wrong labels among those kept, in (0, 1).
        unit: 'pixel' or 'tile', see ``ConformalThresholds``.
        interval: Iterations between fits.
        images: Maximum number of tiles used; they are chosen evenly.

    Raises:
        ValueError: If a setting is out of its range; or, when the training starts, if the model has
            no ``ConformalGate``, or the tiles have no labels or are trained on.
    """

    def __init__(
        self,
        dataset: dict,
        alpha: float = 0.1,
        unit: str = 'pixel',
        interval: int = 200,
        images: int = 50,
    ) -> None:
        if interval < 1 or images < 1:
            raise ValueError(
                f'CalibrateGateHook interval={interval}, images={images} must be 1 or more.'
            )
        self.method = ConformalThresholds(alpha, unit)
        self.dataset, self.interval, self.images = dataset, interval, images

    def before_train(self, runner: Runner) -> None:
        """Load the tiles, and fit once at the beginning of a training."""
        model = semi_segmentor(runner, self)
        if not all(isinstance(gate, ConformalGate) for gate in model.gates.values()):
            raise ValueError(
                'CalibrateGateHook finds no ConformalGate in the model: set '
                "semi_train_cfg.gate=dict(type='ConformalGate')."
            )
        self.held_out = DATASETS.build(self.dataset)
        trained = set(tile_paths(runner.train_dataloader.dataset.labelled))
        both = trained.intersection(tile_paths(self.held_out))
        if both:
            raise ValueError(
                f'CalibrateGateHook is to measure on {min(both)}, which the network is '
                'trained on: take the held-out tiles off the list of labelled ones.'
            )
        if runner.iter == 0:
            self.calibrate(model, runner.train_dataloader.dataset.metainfo['classes'])

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Fit again every ``interval`` iterations."""
        if self.every_n_train_iters(runner, self.interval):
            model = semi_segmentor(runner, self)
            self.calibrate(model, runner.train_dataloader.dataset.metainfo['classes'])

    @torch.no_grad()
    def calibrate(self, model: SemiSegmentor, classes: tuple[str, ...]) -> None:
        """Fit the thresholds of all gates to the current predictions of their networks."""
        grid = -torch.expm1(-torch.arange(2048) / _STEPS)
        was_training = model.training
        model.eval()
        for name, gate in model.gates.items():
            network = name if name in model.predictors else next(iter(model.predictors))
            fitted = self.method.fit(self._claims(model, name, network), grid)
            gate.threshold.copy_(fitted.threshold)
            print_log(
                f'Pseudo labels of {network} that count, by held-out tiles:\n'
                f'{fitted.table(classes)}',
                logger='current',
            )
        model.train(was_training)

    def _claims(
        self, model: SemiSegmentor, name: str, network: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores (confidence at the predicted class, else -1) and true labels of each tile."""
        for index in evenly(len(self.held_out), self.images):
            sample = self.held_out[index]
            data = model.data_preprocessor(pseudo_collate([sample]), False)
            (found,) = model.predict_each(**data)[network]
            if 'gt_sem_seg' not in found:
                raise ValueError(
                    f'The held-out tile {found.img_path} has no labels: add LoadAnnotations to the '
                    'pipeline of CalibrateGateHook.dataset.'
                )
            logits = found.seg_logits.data[None]
            valid = torch.ones_like(logits[:, 0], dtype=torch.bool)
            pseudo = model.gates[name](logits, valid)
            scores = torch.zeros_like(logits).scatter_(
                1, pseudo.labels[:, None], pseudo.confidence[:, None].to(logits.dtype)
            )
            scores[scores == 0] = -1.0  # below every threshold of the grid
            yield scores[0].flatten(1), found.gt_sem_seg.data.to(logits.device).long().flatten()
