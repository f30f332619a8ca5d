# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Validation of all networks of a model in one pass over the data."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.runner import ValLoop
from mmengine.runner.amp import autocast
from mmseg.registry import LOOPS

from ...models.segmentors import SemiSegmentor
from ...utils.runner import unwrap


@LOOPS.register_module()
class TeacherStudentValLoop(ValLoop):
    """Evaluate every network of a semi-supervised segmentor while reading the data once.

    The metrics of the network that ``predict_on`` names have plain keys (``mIoU``), so that
    ``save_best='mIoU'`` works. All metrics also appear with the network's name: ``teacher/mIoU``
    and ``student/mIoU`` for a mean teacher, ``a/mIoU``, ``b/mIoU`` and ``fused/mIoU`` for two
    students. Another model, such as a plain ``EncoderDecoder``, is evaluated once. As ``test_cfg``
    the loop tests all networks.

    Args:
        runner: The runner.
        dataloader: Validation data.
        evaluator: The metrics.
        fp16: Whether to predict under autocast. Defaults to False.

    Attributes:
        evaluators: Evaluators of the last run, by network.
    """

    def run(self) -> dict[str, float]:
        """Validate, and return the metrics described in the class."""
        phase = 'test' if self.runner._test_loop is self else 'val'
        self.runner.call_hook(f'before_{phase}')
        self.runner.call_hook(f'before_{phase}_epoch')
        self.runner.model.eval()
        model = unwrap(self.runner.model)
        self.evaluators: dict[str, Any] = {}
        evaluators = self.evaluators
        for index, data_batch in enumerate(self.dataloader):
            self.runner.call_hook(f'before_{phase}_iter', batch_idx=index, data_batch=data_batch)
            for name, outputs in self._predict(model, data_batch).items():
                if name not in evaluators:
                    evaluators[name] = deepcopy(self.evaluator)
                evaluators[name].process(data_samples=outputs, data_batch=data_batch)
            # The network named by predict_on comes last, so hooks see its predictions.
            self.runner.call_hook(
                f'after_{phase}_iter', batch_idx=index, data_batch=data_batch, outputs=outputs
            )
        metrics: dict[str, float] = {}
        for name, evaluator in evaluators.items():
            if len(evaluators) > 1:
                print_log(f'Validation of {name}:', logger='current')
            result = evaluator.evaluate(len(self.dataloader.dataset))
            if len(evaluators) > 1:
                metrics.update({f'{name}/{key}': value for key, value in result.items()})
        metrics = {**result, **metrics}  # plain keys first: save_best='auto' takes the first
        self.runner.call_hook(f'after_{phase}_epoch', metrics=metrics)
        self.runner.call_hook(f'after_{phase}')
        return metrics

    @torch.no_grad()
    def _predict(self, model: Any, data_batch: dict) -> dict[str, list]:
        """Predictions by network, or under the empty name if the model is a single network."""
        with autocast(enabled=self.fp16):
            if not isinstance(model, SemiSegmentor):
                return {'': self.runner.model.val_step(data_batch)}
            return model.predict_each(**model.data_preprocessor(data_batch, False))
