# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Record of a segmentor's last training step, for hooks to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmseg.structures import SegDataSample

from .pseudo_label import PseudoLabel


@dataclass(frozen=True)
class StepRecord:
    """The last training step of a semi-supervised segmentor.

    Attributes:
        labelled: Samples of the labelled images.
        unlabelled: Samples of the B weak views; empty after a supervised step.
        pseudo: Pseudo labels (B, H, W) of the weak views by the name of the student that learns
            from them, after purification and before CutMix; empty after a supervised step.
    """

    labelled: Sequence[SegDataSample] = ()
    unlabelled: Sequence[SegDataSample] = ()
    pseudo: Mapping[str, PseudoLabel] = field(default_factory=dict)

    @property
    def titled(self) -> dict[str, PseudoLabel]:
        """Pseudo labels by the prefix of logged names, which is '' if there is only one student."""
        if len(self.pseudo) == 1:
            return dict(zip([''], self.pseudo.values(), strict=True))
        return dict(self.pseudo)
