# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pictures of what purification did to a tile: why pixels were corrected, and whether rightly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np

from .panels import Palette

Colour = tuple[int, int, int]

#: Yellow, sky blue and vermilion of Okabe and Ito, which colour-blind people can distinguish.
ACTION_COLOURS: dict[str, Colour] = {
    'corrected': (240, 228, 66),
    'supported': (86, 180, 233),
    'vetoed': (213, 94, 0),
}
ERROR_COLOURS: dict[str, Colour] = {
    'right': (228, 228, 228),
    'wrong': (60, 60, 60),
    'fixed': (0, 114, 178),
    'broken': (213, 94, 0),
}
#: The two greys of the hatching for pixels with nothing to show.
HATCH: tuple[Colour, Colour] = ((120, 120, 120), (165, 165, 165))
#: Colour of pixels with evidence where no single class has the highest score.
NO_SCORE: Colour = (24, 24, 24)

#: Colours of region outlines, and of labels that differ from the most frequent of their region.
OUTLINE: Colour = (255, 255, 255)
DISAGREES: Colour = (204, 121, 167)

_STRIPE = 5
_LEVELS = 15  # Steps of opacity and grey; few colours make small files.
_NAMED_BOXES = 12  # With more boxes, only their numbers are written.
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class PurifiedTile(Protocol):
    """Data of a tile for the pictures; see ``purification.AuditRecord`` for shapes and units."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def image(self) -> np.ndarray: ...  # noqa: D102
    @property
    def labels_before(self) -> np.ndarray: ...  # noqa: D102
    @property
    def labels_after(self) -> np.ndarray: ...  # noqa: D102
    @property
    def confidence(self) -> np.ndarray: ...  # noqa: D102
    @property
    def actions(self) -> np.ndarray: ...  # noqa: D102
    @property
    def valid(self) -> np.ndarray: ...  # noqa: D102
    @property
    def truth(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def scores(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def seen(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def boxes(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def regions(self) -> np.ndarray | None: ...  # noqa: D102
    def against_regions(self, moment: str = ...) -> np.ndarray: ...  # noqa: D102


class _Scale:
    """Resampling of all maps of a tile to the size of its pictures."""

    def __init__(self, height: int, width: int, side: int) -> None:
        self.factor = side / max(height, width)
        self.height = max(1, round(height * self.factor))
        self.width = max(1, round(width * self.factor))
        rows = ((np.arange(self.height) + 0.5) * height / self.height).astype(int)
        columns = ((np.arange(self.width) + 0.5) * width / self.width).astype(int)
        self._pixels = np.ix_(rows, columns)

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """Resample (H, W) of any type to (h, w) by nearest neighbour."""
        return values[self._pixels]

    def smooth(self, image: np.ndarray) -> np.ndarray:
        """Resample an image (H, W, 3) uint8 to (h, w, 3); enlarged pixels stay sharp."""
        how = cv2.INTER_AREA if self.factor < 1 else cv2.INTER_NEAREST
        return cv2.resize(np.ascontiguousarray(image), (self.width, self.height), interpolation=how)

    def touched(self, mask: np.ndarray) -> np.ndarray:
        """Resample a mask (H, W) bool to (h, w), true where any pixel is true."""
        if self.factor >= 1:
            return self.nearest(mask)
        size = (self.width, self.height)
        return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0


def purification_row(
    tile: PurifiedTile, classes: Sequence[str], palette: Palette, side: int = 288
) -> tuple[list[np.ndarray], list[str]]:
    """Draw the pictures of one tile, for the audit page or for :func:`draw_panels`.

    Args:
        tile: The purified tile.
        classes: Names of the K classes, written at boxes.
        palette: RGB colour of each class, 0-255.
        side: Longer side of each picture in pixels.

    Returns:
        Pictures, (h, w, 3) uint8 RGB of one size, and their titles: image, teacher's label and
        confidence, evidence (or regions), purified label, changes; and if there is ground truth,
        the truth and the errors before and after. Rows with and without truth can share the longer
        titles.
    """
    height, width = tile.image.shape[:2]
    scale = _Scale(height, width, side)
    image = scale.smooth(tile.image)
    valid = scale.nearest(tile.valid)
    before, after = scale.nearest(tile.labels_before), scale.nearest(tile.labels_after)
    pictures = {
        'image': draw_boxes(image, tile.boxes, scale.factor, classes, palette),
        'teacher': _paint(before, palette, valid),
        'confidence': _grey(scale.nearest(tile.confidence), valid),
        'evidence': _evidence(tile, scale, palette, valid)
        if tile.regions is None
        else _regions(image, tile.regions, tile, scale, valid),
        'purified': _paint(after, palette, valid),
        'changes': _changes(image, tile, scale),
    }
    if tile.truth is not None:
        truth = scale.nearest(tile.truth)
        known = valid & (truth >= 0) & (truth < len(palette))
        was_right, is_right = before == truth, after == truth
        pictures['truth'] = _paint(truth, palette, known)
        errors = np.where(was_right, 0, 1)
        pictures['errors before'] = _paint(errors, list(ERROR_COLOURS.values()), known)
        errors = np.select([was_right & is_right, is_right, was_right], [0, 2, 3], 1)
        pictures['errors after'] = _paint(errors, list(ERROR_COLOURS.values()), known)
    return list(pictures.values()), list(pictures)


def draw_boxes(
    image: np.ndarray,
    boxes: Sequence[Any],
    factor: float,
    classes: Sequence[str],
    palette: Palette,
) -> np.ndarray:
    """Draw the boxes of a verifier with their names, numbered from 1.

    Args:
        image: (h, w, 3) uint8 RGB.
        boxes: Objects with ``label`` (class id) and ``box`` (left, top, right, bottom) in pixels of
            the unscaled image. Parts outside the image are not drawn.
        factor: Pixels of this image per pixel of the unscaled one.
        classes: Names of the classes.
        palette: RGB colour of each class.

    Returns:
        A copy with boxes, (h, w, 3) uint8.
    """
    picture = image.copy()
    height, width = image.shape[:2]
    for number, region in enumerate(boxes, start=1):
        left, right = (round(min(max(region.box[i] * factor, 0), width)) for i in (0, 2))
        top, bottom = (round(min(max(region.box[i] * factor, 0), height)) for i in (1, 3))
        if right <= left or bottom <= top:
            continue
        colour = tuple(int(value) for value in palette[region.label])
        ink = (0, 0, 0) if _light(colour) else (255, 255, 255)
        corners = (left, top), (right - 1, bottom - 1)
        cv2.rectangle(picture, *corners, ink, 3)
        cv2.rectangle(picture, *corners, colour, 1)
        text = f'{number} {classes[region.label]}' if len(boxes) <= _NAMED_BOXES else str(number)
        (wide, tall), _ = cv2.getTextSize(text, _FONT, 0.35, 1)
        start = min(left, max(0, width - wide - 4))
        base = top if top >= tall + 5 else min(top + tall + 5, height)
        cv2.rectangle(picture, (start, base - tall - 5), (start + wide + 3, base - 1), colour, -1)
        cv2.putText(picture, text, (start + 2, base - 3), _FONT, 0.35, ink, 1, cv2.LINE_AA)
    return picture


def _light(colour: Sequence[int]) -> bool:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 127


def _hatching(shape: tuple[int, ...]) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.asarray(HATCH, np.uint8)[(rows + columns) // _STRIPE % 2]


def _paint(ids: np.ndarray, palette: Palette, known: np.ndarray) -> np.ndarray:
    """Colour known pixels by their id, and hatch the others."""
    colours = np.asarray(palette, np.uint8)[np.where(known, ids, 0).astype(np.int64)]
    return np.where(known[..., None], colours, _hatching(ids.shape))


def _grey(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Convert values in [0, 1] to grey in few steps, and hatch unknown pixels."""
    steps = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 2 * _LEVELS) / (2 * _LEVELS)
    grey = np.rint(steps * 255).astype(np.uint8)
    return np.where(known[..., None], grey[..., None].repeat(3, 2), _hatching(values.shape))


def _evidence(tile: PurifiedTile, scale: _Scale, palette: Palette, valid: np.ndarray) -> np.ndarray:
    """Draw the best class in its colour, more opaque for a higher score."""
    if tile.scores is None or tile.seen is None:
        return _hatching(valid.shape)
    highest = tile.scores.max(axis=0)
    tied = (tile.scores == highest).sum(axis=0) > 1  # No single class is the best.
    best = scale.nearest(tile.scores.argmax(axis=0))
    score = scale.nearest(np.where(tied, 0, highest))
    opacity = (np.rint(score / 255 * _LEVELS) / _LEVELS)[..., None]
    colours = np.asarray(palette, np.float32)[best]
    mixed = np.rint(colours * opacity + np.asarray(NO_SCORE) * (1 - opacity)).astype(np.uint8)
    seen = (scale.nearest(tile.seen) & valid)[..., None]
    return np.where(seen, mixed, _hatching(valid.shape))


def _regions(
    image: np.ndarray, ids: np.ndarray, tile: PurifiedTile, scale: _Scale, valid: np.ndarray
) -> np.ndarray:
    """Draw the outlines of regions, and the labels that disagree with their region."""
    edge = np.zeros(ids.shape, bool)
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    picture = (image // 32 * 32).astype(np.uint8)  # few colours make small files
    picture[scale.touched(edge)] = OUTLINE
    picture[scale.nearest(tile.against_regions())] = DISAGREES
    return np.where((scale.nearest(ids > 0) & valid)[..., None], picture, _hatching(valid.shape))


def _changes(image: np.ndarray, tile: PurifiedTile, scale: _Scale) -> np.ndarray:
    """Draw the actions in their colours over a dim grey image."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    dim = np.rint(20 + np.rint(grey * 2 * _LEVELS) / (2 * _LEVELS) * 90).astype(np.uint8)
    picture = dim[..., None].repeat(3, 2)
    numbers = {'supported': 2, 'corrected': 1, 'vetoed': 3}  # Rarer actions are painted later.
    for action, number in numbers.items():
        acted = tile.valid & (tile.actions == number)
        picture[scale.touched(acted)] = ACTION_COLOURS[action]
    return picture
