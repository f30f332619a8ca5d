# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Ensembles of trained networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..utils.files import settings_digest
from .predictor import Predictor


class PredictorEnsemble(Predictor):
    """An ensemble that averages class probabilities; each network preprocesses the windows itself.

    Args:
        predictors: Predictors of the same classes, bands and window size; the first sets the
            overlap.

    Raises:
        ValueError: There are no predictors, or their classes, bands or window sizes differ.
    """

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        if not predictors:
            raise ValueError('No checkpoint was given: name at least one.')
        vars(self).update(vars(predictors[0]))
        self.predictors = list(predictors)
        for other in predictors[1:]:
            if other.classes != self.classes or other.window != self.window:
                raise ValueError(
                    f'One network has the classes {", ".join(self.classes)} and windows of '
                    f'{self.window} px, another one {", ".join(other.classes)} and {other.window}: '
                    'give checkpoints of the same classes, and --window.'
                )
            if repr(other.to_rgb) != repr(self.to_rgb):
                raise ValueError(
                    f'One network reads images by {self.to_rgb}, another one by {other.to_rgb}: '
                    'give networks of the same bands, scaled alike.'
                )

    @property
    def fingerprint(self) -> str:
        """Digest of all networks and of the settings that change the result."""
        return settings_digest({'ensemble': [each.fingerprint for each in self.predictors]})

    @torch.inference_mode()
    def probabilities(self, windows: Tensor) -> Tensor:
        """Predict a batch of windows, see :meth:`Predictor.probabilities`."""
        found = [each.probabilities(windows) for each in self.predictors]
        return torch.stack(found).mean(0)
