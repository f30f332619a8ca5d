# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What a segmentor did in its last training step, for hooks to look at."""

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
        unlabelled: Samples of the weak views, B of them; empty after a supervised step.
        pseudo: Their pseudo labels (B, H, W) by the name of the student that learns from them,
            purified and before CutMix; empty after a supervised step.
    """

    labelled: Sequence[SegDataSample] = ()
    unlabelled: Sequence[SegDataSample] = ()
    pseudo: Mapping[str, PseudoLabel] = field(default_factory=dict)

    @property
    def titled(self) -> dict[str, PseudoLabel]:
        """The pseudo labels by what stands before logged names, '' where there is one student."""
        if len(self.pseudo) == 1:
            return dict(zip([''], self.pseudo.values(), strict=True))
        return dict(self.pseudo)
