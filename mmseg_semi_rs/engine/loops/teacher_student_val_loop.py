# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Validation of teacher and student on the same pass over the data."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import ValLoop
from mmengine.runner.amp import autocast
from mmseg.registry import LOOPS


@LOOPS.register_module()
class TeacherStudentValLoop(ValLoop):
    """Evaluate both networks of a mean teacher while reading the data once.

    The metrics of the network that ``predict_on`` names have plain keys (``mIoU``), so that
    ``save_best='mIoU'`` works; those of both appear as ``teacher/mIoU`` and ``student/mIoU``. A
    model without a teacher is evaluated once.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): Of validation data.
        evaluator (Evaluator | dict | list): The metrics.
        fp16 (bool): Whether to predict under autocast. Defaults to False.
    """

    def run(self) -> dict[str, float]:
        """Validate.

        Returns:
            dict[str, float]: The metrics, see the class.
        """
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        model = (
            self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model
        )
        main = getattr(model, 'predict_on', None)
        has_both = main is not None and getattr(model, 'teacher', None) is not None
        # The main network comes last, so that hooks after an iteration see its predictions.
        names = [*({'teacher', 'student'} - {main}), main] if has_both else [main]
        evaluators = {name: deepcopy(self.evaluator) for name in names}
        for index, data_batch in enumerate(self.dataloader):
            self.runner.call_hook('before_val_iter', batch_idx=index, data_batch=data_batch)
            for name in names:
                outputs = self._predict(model, name, data_batch)
                evaluators[name].process(data_samples=outputs, data_batch=data_batch)
            self.runner.call_hook(
                'after_val_iter', batch_idx=index, data_batch=data_batch, outputs=outputs
            )
        metrics: dict[str, float] = {}
        for name in names:
            if has_both:
                print_log(f'Validation of the {name}:', logger='current')
            result = evaluators[name].evaluate(len(self.dataloader.dataset))
            if has_both:
                metrics.update({f'{name}/{key}': value for key, value in result.items()})
            if name == main:
                metrics.update(result)
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    @torch.no_grad()
    def _predict(self, model: Any, name: str | None, data_batch: dict) -> list:
        if name is None:
            with autocast(enabled=self.fp16):
                return self.runner.model.val_step(data_batch)
        main, model.predict_on = model.predict_on, name
        try:
            with autocast(enabled=self.fp16):
                return self.runner.model.val_step(data_batch)
        finally:
            model.predict_on = main
