# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Multi-band images: loading, and the photometry of their strong views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, Compose
from mmseg.registry import TRANSFORMS

from ...rasters.levels import RasterToBands, levels_to_rgb
from ...rasters.reader import read_rgb
from .photometry import BLURS, COLOURS


@TRANSFORMS.register_module()
class LoadBands(BaseTransform):
    """Load an image of any number of bands with the reader that prediction uses too.

    Added keys: ``img`` (H, W, N) float32 on the 8-bit scale, ``img_shape``, ``ori_shape``,
    ``rgb_channels`` (positions of the channels that pictures show), and, if some pixels have no
    data, ``has_data`` (H, W) bool, which ``AddValidMask`` reads.

    Args:
        **raster: Arguments of :class:`~mmseg_semi_rs.rasters.levels.RasterToBands`: the ``raster``
            of the config.

    Raises:
        ValueError: See ``RasterToBands``.
    """

    def __init__(self, **raster: Any) -> None:
        self.to_bands = RasterToBands(**raster)

    def transform(self, results: dict) -> dict:
        """Read the image ``img_path``."""
        pixels, valid = read_rgb(results['img_path'], self.to_bands)
        results.update(img=pixels, img_shape=pixels.shape[:2], ori_shape=pixels.shape[:2])
        results['rgb_channels'] = self.to_bands.rgb_channels
        if valid is not None:
            results['has_data'] = valid
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.to_bands!r})'


class _Changes(NamedTuple):
    """Strengths of the changes of bands.

    Attributes:
        gain: A band is multiplied by a factor in [1 - gain, 1 + gain].
        offset: Largest value added to or subtracted from a band, in grey levels.
        noise: Largest standard deviation of the noise added to each pixel, in grey levels.
        dropout: Probability that one band is replaced by its mean.
    """

    gain: float
    offset: float
    noise: float
    dropout: float


_CHANGES = {
    'published': _Changes(0.5, 25.0, 10.0, 0.2),
    'mild': _Changes(0.25, 12.0, 5.0, 0.1),
    'geometric': None,
}


@TRANSFORMS.register_module()
class BandPhotometry(BaseTransform):
    """Change the bands of a strong view with a named strength.

    Red, green and blue get the colour changes of :class:`Photometry`, every other band a gain and
    an offset. Then all bands get noise and blur, and one band may drop out. Sensors and seasons
    change bands in such ways, while hue and saturation are defined for red, green and blue only.

    =============  ================================================================================
    ``published``  colours and blur of ``Photometry``; gain 0.5 to 1.5 and offset up to 25 grey
                   levels with probability 0.8, noise up to 10 with 0.5, one band lost with 0.2
    ``mild``       those of ``Photometry``; 0.75 to 1.25, 12 levels, noise up to 5, lost with 0.1
    ``geometric``  none: CutMix alone makes the view a strong one
    =============  ================================================================================

    Args:
        strength: One of the names.
        rgb: Positions of red, green and blue among the channels, from 0. None if there are no such
            channels; all are then treated as other bands.

    Raises:
        ValueError: If the strength is unknown, or ``rgb`` does not give three positions.
    """

    def __init__(self, strength: str = 'published', rgb: Sequence[int] | None = None) -> None:
        if strength not in _CHANGES:
            raise ValueError(
                f'BandPhotometry has strength={strength!r}: choose one of {sorted(_CHANGES)}.'
            )
        if rgb is not None and (len(set(rgb)) != 3 or min(rgb) < 0):
            raise ValueError(
                f'BandPhotometry has rgb={list(rgb)}: give the positions of red, green and blue '
                'among the channels, from 0, or None.'
            )
        self.strength = strength
        self.rgb = None if rgb is None else list(rgb)
        self.changes = _CHANGES[strength]
        self.blur = BLURS.get(strength)
        self.colours = Compose(COLOURS[strength] if rgb is not None else [])

    def transform(self, results: dict) -> dict:
        """Change ``img``, (H, W, N) on the 8-bit scale; everything else is kept.

        Raises:
            ValueError: If ``rgb`` names a channel that the image does not have.
        """
        if self.changes is None:
            return results
        image = results['img'].astype(np.float32)  # a copy, since other views share the pixels
        if self.rgb is not None and max(self.rgb) >= image.shape[2]:
            raise ValueError(
                f'BandPhotometry has rgb={self.rgb}, but {results.get("img_path", "an image")} has '
                f'{image.shape[2]} channels: correct the positions.'
            )
        self._change_colours(image)
        self._change_others(image)
        if self.blur is not None and np.random.rand() < self.blur.prob:  # noqa: NPY002
            radius = np.random.uniform(0.1, self.blur.radius)  # noqa: NPY002
            for channel in range(image.shape[2]):  # OpenCV takes at most four at once
                image[..., channel] = cv2.GaussianBlur(image[..., channel], (0, 0), radius)
        if np.random.rand() < self.changes.dropout:  # noqa: NPY002
            lost = np.random.randint(image.shape[2])  # noqa: NPY002
            image[..., lost] = image[..., lost].mean()
        results['img'] = image
        return results

    def _change_colours(self, image: np.ndarray) -> None:
        """Add to red, green and blue the difference that 8-bit photometry makes."""
        if self.rgb is None:
            return
        order = self.rgb[::-1]  # blue first, as in mmcv
        before = levels_to_rgb(image, order)
        after: np.ndarray = self.colours({'img': before.copy()})['img']
        image[..., order] = image[..., order] + after.astype(np.float32) - before

    def _change_others(self, image: np.ndarray) -> None:
        """Draw gain and offset of the other bands, and noise of all bands."""
        assert self.changes is not None
        gain, offset, noise, _ = self.changes
        if np.random.rand() < 0.8:  # noqa: NPY002
            for channel in set(range(image.shape[2])) - set(self.rgb or ()):
                image[..., channel] *= np.random.uniform(1 - gain, 1 + gain)  # noqa: NPY002
                image[..., channel] += np.random.uniform(-offset, offset)  # noqa: NPY002
        if np.random.rand() < 0.5:  # noqa: NPY002
            spread = np.random.uniform(0, noise)  # noqa: NPY002
            image += np.random.standard_normal(image.shape) * spread  # noqa: NPY002

    def __repr__(self) -> str:
        return f'{type(self).__name__}(strength={self.strength!r}, rgb={self.rgb})'
