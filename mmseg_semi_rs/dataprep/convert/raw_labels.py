# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Decoding of published label images, from colours or numbers to class ids, without guessing."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from ...rasters.masks import packed, unpacked
from .archives import SourceError

UnknownColours = Literal['error', 'nearest', 'ignore']

_SNAPPED = 4096  # added to the index of a legend colour for pixels that only resemble it
_UNKNOWN = 2 * _SNAPPED
_STRIP = 512  # rows decoded at a time, which bounds the memory for 6000 x 6000 labels


@dataclass
class DecodedLabel:
    """Class ids of one label image.

    Attributes:
        ids: Ids as written to disk, (H, W) uint8.
        notes: Remarks for the log, e.g. that colours were rounded.
    """

    ids: np.ndarray
    notes: list[str] = field(default_factory=list)


class LabelDecoder(Protocol):
    """Decoder of published label images."""

    @property
    def ignore_id(self) -> int:
        """Id of pixels that belong to no class, including padding."""

    def decode(self, image: Image.Image, name: str) -> DecodedLabel:
        """Decode an image, called ``name`` in messages.

        Raises:
            SourceError: The image has values that the dataset does not define.
        """


@dataclass(frozen=True)
class ColourLabels:
    """Decoder of labels in the colours of a legend.

    Published labels are not always clean: Potsdam's ``top_potsdam_6_7_label.tif`` has most of its
    cars in (252, 255, 0), ``top_potsdam_4_12_label.tif`` was compressed lossily, and DeepGlobe asks
    users to threshold each channel at 128. So a colour within ``tolerance`` of a legend colour in
    every channel counts as that colour, which is reported; a tolerance of 127 thresholds at 128 if
    the legend only uses 0 and 255.

    Args:
        legend: Pairs of RGB colour and id on disk.
        ignore_id: Id of pixels without a class.
        tolerance: Largest difference in any channel, 0 to 255.
        unknown: For pixels of other colours, ``'error'`` refuses the file, ``'nearest'`` takes the
            nearest colour and ``'ignore'`` gives ``ignore_id``.

    Raises:
        ValueError: ``tolerance`` or ``unknown`` is invalid.
    """

    legend: tuple[tuple[tuple[int, int, int], int], ...]
    ignore_id: int
    tolerance: int = 0
    unknown: UnknownColours = 'error'

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 255:
            raise ValueError(f'The colour tolerance must lie in 0..255, not {self.tolerance}.')
        if self.unknown not in ('error', 'nearest', 'ignore'):
            raise ValueError(
                f"unknown colours are treated by 'error', 'nearest' or 'ignore', not "
                f'{self.unknown!r}.'
            )

    def decode(self, image: Image.Image, name: str) -> DecodedLabel:
        """Decode an RGB image (H, W, 3); see :meth:`LabelDecoder.decode`."""
        if image.mode not in ('RGB', 'RGBA', 'P'):
            raise SourceError(
                f'{name} has pixels of type {image.mode!r} where colours (RGB) are expected: give '
                'the colour-coded labels.'
            )
        rgb = np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))
        table, ids = _colour_table(self)
        codes = np.empty(rgb.shape[:2], np.uint16)
        for top in range(0, len(rgb), _STRIP):
            codes[top : top + _STRIP] = table[packed(rgb[top : top + _STRIP])]
        counts = np.bincount(codes.ravel(), minlength=_UNKNOWN + 1)
        notes: list[str] = []
        if counts[_UNKNOWN]:
            told = (
                f'{name} has {counts[_UNKNOWN]} pixels of colours outside the legend '
                f'({_examples(rgb, codes == _UNKNOWN)})'
            )
            if self.unknown == 'error':
                raise SourceError(
                    f'{told}: check the file, or choose --unknown-colours nearest or ignore, or '
                    f'a --colour-tolerance above {self.tolerance}.'
                )
            notes.append(f'{told}, ignored')
        snapped = (codes >= _SNAPPED) & (codes != _UNKNOWN)
        if snapped.any():
            notes.append(
                f'{name} has {int(snapped.sum())} pixels of colours near the legend '
                f'({_examples(rgb, snapped)}), taken for the nearest'
            )
        return DecodedLabel(ids[codes], notes)


@dataclass(frozen=True)
class IdLabels:
    """Decoder of labels that already hold class ids.

    Args:
        ids: Ids that the dataset defines.
        ignore_id: Id of pixels without a class.
        may_ignore: Whether that id may occur in the source. If it never does, its presence shows
            that a copy is numbered differently.
    """

    ids: frozenset[int]
    ignore_id: int
    may_ignore: bool = True

    def decode(self, image: Image.Image, name: str) -> DecodedLabel:
        """Decode an image of ids (H, W); see :meth:`LabelDecoder.decode`."""
        ids = np.asarray(image)
        if ids.ndim != 2:
            raise SourceError(
                f'{name} has {ids.shape[2]} channels where one channel of class ids is expected: '
                'give the label masks, not their coloured pictures.'
            )
        values, counts = np.unique(ids, return_counts=True)
        wrong = {
            int(value): int(count)
            for value, count in zip(values, counts, strict=True)
            if int(value) not in self.ids and not (self.may_ignore and int(value) == self.ignore_id)
        }
        if wrong:
            raise SourceError(
                f'{name} has {sum(wrong.values())} pixels of ids {sorted(wrong)} but the data set '
                f'defines {sorted(self.ids)}: download it again.'
            )
        return DecodedLabel(ids.astype(np.uint8))


@dataclass(frozen=True)
class ColourOrIdLabels:
    """Decoder of labels that are colours in one copy of a dataset and ids in another.

    A grey image holds ids; a palette image holds colours, whatever its indices are.

    Args:
        colours: Decoder of coloured labels.
        ids: Decoder of ids.

    Raises:
        ValueError: The decoders differ in ``ignore_id``.
    """

    colours: ColourLabels
    ids: IdLabels

    def __post_init__(self) -> None:
        if self.colours.ignore_id != self.ids.ignore_id:
            raise ValueError(
                f'Colours ignore the id {self.colours.ignore_id} but ids {self.ids.ignore_id}: '
                'tiles have one ignored id.'
            )

    @property
    def ignore_id(self) -> int:
        """Id of pixels without a class."""
        return self.ids.ignore_id

    def decode(self, image: Image.Image, name: str) -> DecodedLabel:
        """Decode an image of colours or ids; see :meth:`LabelDecoder.decode`."""
        return (self.ids if image.mode == 'L' else self.colours).decode(image, name)


def _examples(rgb: np.ndarray, mask: np.ndarray, limit: int = 3) -> str:
    """List the most frequent colours under a mask, estimated from a sample of each strip."""
    samples = []
    for top in range(0, len(rgb), _STRIP):
        chosen = rgb[top : top + _STRIP][mask[top : top + _STRIP]]
        samples.append(packed(chosen[:: max(1, len(chosen) // 4096)]))
    colours, counts = np.unique(np.concatenate(samples), return_counts=True)
    order = np.argsort(-counts, kind='stable')[:limit]
    return 'e.g. ' + ', '.join(str(unpacked(int(colours[k]))) for k in order)


@functools.lru_cache(maxsize=2)
def _colour_table(labels: ColourLabels) -> tuple[np.ndarray, np.ndarray]:
    """Return the code of each of the 2^24 colours, and the id of each code."""
    palette = np.array([colour for colour, _ in labels.legend], np.int32)
    table = np.empty(1 << 24, np.uint16)
    channel = np.arange(256, dtype=np.int32)
    # squared and absolute distance of a channel value to each legend colour: (256, 3, K)
    difference = np.abs(channel[:, None, None] - palette.T[None])
    green_blue_squared = (difference[:, None, 1] ** 2 + difference[None, :, 2] ** 2).reshape(
        -1, len(palette)
    )
    green_blue_largest = np.maximum(difference[:, None, 1], difference[None, :, 2]).reshape(
        -1, len(palette)
    )
    rows = np.arange(1 << 16)
    for red in range(256):
        nearest = (green_blue_squared + difference[red, 0] ** 2).argmin(1)
        largest = np.maximum(green_blue_largest[rows, nearest], difference[red, 0][nearest])
        code = np.where(largest == 0, nearest, nearest + _SNAPPED)
        if labels.unknown != 'nearest':
            code = np.where(largest > labels.tolerance, _UNKNOWN, code)
        table[red << 16 : (red + 1) << 16] = code
    ids = np.full(_UNKNOWN + 1, labels.ignore_id, np.uint8)
    for index, (_, class_id) in enumerate(labels.legend):
        ids[index] = ids[index + _SNAPPED] = class_id
    return table, ids
