# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Access to the segmentor for hooks that read pseudo labels."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...models.segmentors import SemiSegmentor
from ...utils.runner import unwrap


def semi_segmentor(runner: Runner, hook: Hook) -> SemiSegmentor:
    """Return the runner's model for a hook that needs pseudo labels.

    Raises:
        ValueError: If the model has no pseudo labels.
    """
    model = unwrap(runner.model)
    if not isinstance(model, SemiSegmentor):
        raise ValueError(
            f'{type(hook).__name__} needs a segmentor with pseudo labels, got '
            f'{type(model).__name__}: use MeanTeacherSegmentor or DualStudentSegmentor, or remove '
            'the hook.'
        )
    return model
