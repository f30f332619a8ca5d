# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The photometry of strong views, in named strengths."""

from __future__ import annotations

from typing import Any, NamedTuple

from mmcv.transforms import BaseTransform, Compose
from mmseg.registry import TRANSFORMS


def _jitter(brightness: float, contrast: float, saturation: float, hue: float) -> dict[str, Any]:
    change = dict(
        type='mmpretrain.ColorJitter',
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        backend='cv2',
    )
    return dict(type='RandomApply', prob=0.8, transforms=[change])


class Blur(NamedTuple):
    """Gaussian blur.

    Attributes:
        radius: Largest standard deviation in pixels; the smallest is 0.1.
        prob: Its probability.
    """

    radius: float
    prob: float

    def step(self) -> dict[str, Any]:
        """Config of the transform for 8-bit pixels."""
        # magnitude_std='inf' draws the radius uniformly from the range
        return dict(
            type='mmpretrain.GaussianBlur',
            magnitude_range=(0.1, self.radius),
            magnitude_std='inf',
            prob=self.prob,
        )


# ColorTransform of magnitude -1 is luma greyscale, ten times as fast as mmcv's RandomGrayscale.
_GREY = dict(type='mmpretrain.ColorTransform', magnitude=-1.0, prob=0.2, random_negative_prob=0.0)
COLOURS: dict[str, list[dict[str, Any]]] = {
    'published': [_jitter(0.5, 0.5, 0.5, 0.25), _GREY],
    'mild': [_jitter(0.25, 0.25, 0.25, 0.05)],
    'geometric': [],
}
BLURS = {'published': Blur(2.0, 0.5), 'mild': Blur(1.0, 0.2)}
STRENGTHS = {
    name: [*steps, *([BLURS[name].step()] if name in BLURS else [])]
    for name, steps in COLOURS.items()
}


@TRANSFORMS.register_module()
class Photometry(BaseTransform):
    """Change the colours of a strong view with a named strength.

    =============  ================================================================================
    ``published``  brightness, contrast, saturation 0.5 and hue 0.25 with probability 0.8, grey 0.2,
                   blur 0.5 (radius 0.1 to 2 px): that of FixMatch, UniMatch and the three methods
                   here
    ``mild``       0.25, 0.25, 0.25 and 0.05 with probability 0.8, never grey, blur 0.2 (0.1 to
                   1 px): keeps hue and saturation, which tell vegetation from bare land
    ``geometric``  none: CutMix alone makes the view a strong one
    =============  ================================================================================

    Args:
        strength: One of the names.

    Raises:
        ValueError: If the strength is unknown.
    """

    def __init__(self, strength: str = 'published') -> None:
        if strength not in STRENGTHS:
            raise ValueError(
                f'Photometry has strength={strength!r}: choose one of {sorted(STRENGTHS)}.'
            )
        self.strength = strength
        self.steps = Compose(STRENGTHS[strength])

    def transform(self, results: dict) -> dict:
        """Change ``img``; everything else is kept."""
        changed: dict = self.steps(results)
        return changed

    def __repr__(self) -> str:
        return f'{type(self).__name__}(strength={self.strength!r})'
