# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Reading and checking the options of the distillation head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..utils import read_cfg
from .feature_distillation import TARGET_NORMS

MASKS = ('valid', 'none')
BRANCHES = ('sup', 'strong')


@dataclass(frozen=True)
class DistillLossOptions:
    """Options of the distillation loss.

    Attributes:
        loss_weight: Factor on every teacher's loss, 0 or more.
        mask: 'valid' or 'none'.
        target_norm: One of :data:`~.feature_distillation.TARGET_NORMS`.
        views: Which images are distilled, out of 'sup' and 'strong'.
        interval: Distil in every k-th iteration, 1 or more.

    Raises:
        ValueError: If a value is out of its range.
    """

    loss_weight: float = 1.0
    mask: str = 'valid'
    target_norm: str = 'none'
    views: tuple[str, ...] = BRANCHES
    interval: int = 1

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> DistillLossOptions:
        """Read the options from a config."""
        defaults = {field.name: field.default for field in fields(cls)}
        options = read_cfg(options, defaults, 'loss_distill')
        return cls(**{**options, 'views': tuple(options['views'])})

    def __post_init__(self) -> None:
        for name, allowed in (('mask', MASKS), ('target_norm', TARGET_NORMS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f'loss_distill.{name} must be one of {allowed}, got {getattr(self, name)!r}.'
                )
        if not self.views or not set(self.views) <= set(BRANCHES):
            raise ValueError(
                f'loss_distill.views must name one or both of {BRANCHES}, got {self.views}.'
            )
        if self.loss_weight < 0:
            raise ValueError(
                f'loss_distill.loss_weight must not be negative, got {self.loss_weight}.'
            )
        positive_int(self.interval, 'loss_distill.interval')


def weights_by_name(
    weights: Mapping[str, float] | Sequence[float] | None, names: Sequence[str]
) -> dict[str, float]:
    """Return the fusion weights by name, first the student's, then those of the teachers.

    Raises:
        ValueError: If the weights do not match the teachers, or their order is ambiguous.
    """
    if weights is None:
        weights = (0.8, *[0.2 / len(names)] * len(names)) if names else (1.0,)
    owners = ('student', *names)
    by_name = weights if isinstance(weights, Mapping) else dict(zip(owners, weights, strict=False))
    if set(by_name) != set(owners) or len(weights) != len(owners):
        raise ValueError(
            'fusion.weights needs one weight for the student and one for each of the teachers '
            f'{list(names)}, {len(owners)} in all, got {weights}.'
        )
    if not isinstance(weights, Mapping) and len(set(weights[1:])) > 1:
        raise ValueError(
            f'fusion.weights={weights} does not say which weight belongs to which of the teachers '
            f'{list(names)}, since a saved config orders them by name: give a dict such as '
            f'dict(student={weights[0]}, {names[0]}={weights[1]}, ...).'
        )
    return {owner: float(by_name[owner]) for owner in owners}


def positive_int(value: Any, name: str) -> int:
    """Return ``value``, or raise ValueError unless it is an integer of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be an integer of at least 1, got {value!r}.')
    return value
