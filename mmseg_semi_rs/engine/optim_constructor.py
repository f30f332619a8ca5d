# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Parameter groups: only trainable parameters, and one group per combination of settings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..utils.runner import unwrap


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedParamGroupsConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor with equal groups merged and frozen parameters left out.

    mmengine makes one group per parameter, so that an optimizer processes hundreds of single
    tensors. Here parameters with equal settings form one group, which multi-tensor optimizers need
    to be fast. Accepts the usual ``paramwise_cfg``. Frozen parameters, such as those of an EMA
    teacher, are in no group.

    Raises:
        ValueError: If the model has no trainable parameter, or a key of
            ``paramwise_cfg.custom_keys`` matches none.
    """

    paramwise_cfg: dict[str, Any]

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper over the trainable parameters.

        Args:
            model: The model, wrapped or not.
        """
        inner: Any = unwrap(model)
        names = [name for name, param in inner.named_parameters() if param.requires_grad]
        if not names:
            raise ValueError(f'{type(inner).__name__} has no trainable parameter.')
        for key in self.paramwise_cfg.get('custom_keys', {}):
            if not any(key in name for name in names):
                raise ValueError(
                    f'paramwise_cfg.custom_keys has {key!r}, which is part of no trainable '
                    f"parameter's name; names begin like {names[0]!r}."
                )
        if not self.paramwise_cfg:
            self.paramwise_cfg = {'norm_decay_mult': None}  # {} would include frozen parameters
        # mmengine logs three lines per parameter, and warns of each frozen one in a partly trained
        # module; only the groups are of interest.
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            wrapper = super().__call__(inner)
        finally:
            logger.setLevel(level)
        for group in wrapper.optimizer.param_groups:
            count = sum(param.numel() for param in group['params'])
            logger.info(
                f'{len(group["params"])} tensors ({count / 1e6:.2f} M parameters): '
                f'lr {group["lr"]:g}, weight decay {group.get("weight_decay", 0):g}'
            )
        return wrapper

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Add a module's trainable parameters to the groups, merging groups with equal settings.

        Args:
            params: Groups so far; changed in place.
            module: The module to add.
            prefix: Its name.
            is_dcn_module: See mmengine.
        """
        if not any(param.requires_grad for param in module.parameters()):
            return
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        merged: dict[tuple, dict[str, Any]] = {}
        for group in params:
            settings = {key: value for key, value in group.items() if key != 'params'}
            key = tuple(sorted(settings.items()))
            merged.setdefault(key, {**settings, 'params': []})['params'] += group['params']
        params[:] = merged.values()


def _per_student(add_params: Callable) -> Callable:
    """Make a constructor that reads ``model.backbone`` treat each student as a model."""

    @wraps(add_params)
    def add(self: Any, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        students = getattr(module, 'students', None)
        networks = [getattr(module, 'student', module)] if students is None else students.values()
        for network in networks:
            try:
                add_params(self, params, network, **kwargs)
            except NotImplementedError as error:
                raise ValueError(
                    f'{type(self).__name__} knows no layers of {type(network.backbone).__name__}: '
                    'leave constructor and its paramwise_cfg out of optim_wrapper, or give '
                    'custom_keys.'
                ) from error

    return add


# Stock configs of BEiT, MAE and ConvNeXt name this constructor or its subclass, which can learn of
# students only by this patch.
LearningRateDecayOptimizerConstructor.add_params = _per_student(
    LearningRateDecayOptimizerConstructor.add_params
)
