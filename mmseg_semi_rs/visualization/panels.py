# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pictures of images, label maps and masks side by side, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

from ..utils.files import replacing

__all__ = [
    'colorize',
    'compare_maps',
    'denormalise',
    'draw_panels',
    'legend',
    'overlay',
    'save_picture',
]

Palette = Sequence[Sequence[int]]

_GAP = 6
_TITLE = 22
_PAPER = 255
_INK = (20, 20, 20)
_FRAME = (160, 160, 160)  # makes a white mask visible on the white background
_WRONG, _UNKNOWN = (230, 0, 120), (128, 128, 128)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def denormalise(
    image: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    channels: Sequence[int] = (0, 1, 2),
) -> np.ndarray:
    """Convert a normalised image back to pixels.

    Args:
        image: (C, H, W), normalised as ``(pixel - mean) / std``.
        mean: Mean of each channel, on the 0-255 scale.
        std: Standard deviation of each channel, on the 0-255 scale.
        channels: Indices of red, green and blue.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    pixels = image.detach().float().cpu().permute(1, 2, 0).numpy()
    pixels = pixels * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    return np.clip(pixels[..., list(channels)].round(), 0, 255).astype(np.uint8)


def colorize(
    labels: np.ndarray | Tensor,
    palette: Palette,
    ignore_index: int = 255,
    ignore_colour: Sequence[int] = (128, 128, 128),
) -> np.ndarray:
    """Colour a label map.

    Args:
        labels: (H, W) class ids.
        palette: RGB colour of each class, 0-255.
        ignore_index: Id of pixels without a class.
        ignore_colour: RGB colour of these pixels.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: An id has no colour.
    """
    ids = labels if isinstance(labels, np.ndarray) else labels.detach().cpu().numpy()
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = np.asarray(palette, np.uint8)
    colours[ignore_index] = np.asarray(ignore_colour, np.uint8)
    outside = np.setdiff1d(np.unique(ids), [*range(len(palette)), ignore_index])
    if outside.size:
        raise ValueError(
            f'The label map holds the ids {outside.tolist()[:8]}, for which the palette of '
            f'{len(palette)} colours has none: give the palette of all classes.'
        )
    return colours[ids.astype(np.uint8)]


def overlay(
    image: np.ndarray, colours: np.ndarray, mask: np.ndarray | None = None, opacity: float = 0.5
) -> np.ndarray:
    """Blend a coloured map with an image.

    Args:
        image: (H, W, 3) uint8.
        colours: (H, W, 3) uint8, as returned by :func:`colorize`.
        mask: Where to blend, (H, W) bool. None blends everywhere.
        opacity: Weight of the colours, in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    mixed = (image * (1.0 - opacity) + colours * opacity).round().astype(np.uint8)
    return mixed if mask is None else np.where(mask[..., None], mixed, image)


def compare_maps(
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[str],
    palette: Palette,
    name: str = '',
    ignore_index: int = 255,
) -> np.ndarray:
    """Draw an image, ground truth, prediction and errors side by side.

    Args:
        image: (H, W, 3) uint8, RGB.
        truth: (H, W) class ids, ``ignore_index`` where unknown.
        prediction: (H, W) class ids.
        classes: Names of the classes.
        palette: RGB colour of each class.
        name: Title, followed by the share of correct pixels.
        ignore_index: Id of pixels without a class.

    Returns:
        (h, w, 3) uint8, RGB, with a legend below.
    """
    known = truth != ignore_index
    wrong = known & (prediction != truth)
    pale = overlay(image, np.full_like(image, 255), opacity=0.6)
    errors = np.where(wrong[..., None], np.array(_WRONG, np.uint8), pale)
    errors[~known] = _UNKNOWN
    right = f'{1 - wrong.sum() / max(1, known.sum()):.1%} right' if known.any() else 'no truth'
    grid = draw_panels(
        [[image, overlay(image, colorize(truth, palette, ignore_index), known),
          overlay(image, colorize(prediction, palette)), errors]],
        ['image', 'truth', 'prediction', 'wrong'],
        [f'{name}: {right}' if name else right],
    )  # fmt: skip
    names, colours = [*classes, 'wrong', 'no truth'], [*palette, _WRONG, _UNKNOWN]
    return np.concatenate([grid, legend(names, colours, grid.shape[1])])


def _fit(panel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale a panel into a cell with its aspect ratio kept, on a white background."""
    if panel.ndim == 2:
        grey = panel.astype(np.uint8) * 255 if panel.dtype == bool else panel
        panel = np.repeat(grey[..., None], 3, axis=2)
    scale = min(height / panel.shape[0], width / panel.shape[1])
    size = (max(1, round(panel.shape[1] * scale)), max(1, round(panel.shape[0] * scale)))
    if size != (panel.shape[1], panel.shape[0]):
        # Enlarged pixels stay sharp, so that small label maps are readable.
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
        panel = cv2.resize(np.ascontiguousarray(panel), size, interpolation=how)
    cell = np.full((height, width, 3), _PAPER, np.uint8)
    cell[: panel.shape[0], : panel.shape[1]] = panel
    return cell


def _write(picture: np.ndarray, text: str, left: int, bottom: int, width: int) -> None:
    """Write one line of text, shrunk to fit."""
    scale = 0.45
    while scale > 0.25 and cv2.getTextSize(text, _FONT, scale, 1)[0][0] > width:
        scale -= 0.05
    cv2.putText(picture, text, (left, bottom), _FONT, scale, _INK, 1, cv2.LINE_AA)


def draw_panels(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    row_titles: Sequence[str] | None = None,
    cell: int | None = None,
) -> np.ndarray:
    """Draw a grid of panels with a title above each column.

    Args:
        rows: Panels of each row: (h, w, 3) uint8 RGB, (h, w) uint8 grey or (h, w) bool, of any
            sizes. A row may have fewer panels than there are titles.
        titles: Title of each column.
        row_titles: Title above each row. None writes none.
        cell: Longer side of a cell in pixels. None takes that of the largest panel, in 128 to 512.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: There are no panels, or a row has more panels than there are titles.
    """
    panels = [panel for row in rows for panel in row]
    if not panels:
        raise ValueError('There is no panel to draw: give at least one row with one image.')
    longest = max(len(row) for row in rows)
    if longest > len(titles):
        raise ValueError(f'A row has {longest} panels for {len(titles)} titles: title each column.')
    tall = max(panel.shape[0] for panel in panels)
    wide = max(panel.shape[1] for panel in panels)
    target = cell or min(512, max(128, tall, wide))
    height = round(tall * target / max(tall, wide))
    width = round(wide * target / max(tall, wide))
    head = _TITLE if row_titles is not None else 0
    picture = np.full(
        (
            _TITLE + len(rows) * (head + height + _GAP) + _GAP,
            len(titles) * (width + _GAP) + _GAP,
            3,
        ),
        _PAPER,
        np.uint8,
    )
    for column, title in enumerate(titles):
        _write(picture, title, _GAP + column * (width + _GAP), _TITLE - 6, width)
    for index, row in enumerate(rows):
        top = _TITLE + index * (head + height + _GAP)
        if row_titles is not None:
            _write(picture, row_titles[index], _GAP, top + head - 6, picture.shape[1] - 2 * _GAP)
        for column, panel in enumerate(row):
            left = _GAP + column * (width + _GAP)
            drawn = _fit(panel, height, width)
            picture[top + head : top + head + height, left : left + width] = drawn
            corner = (left + width, top + head + height)
            cv2.rectangle(picture, (left - 1, top + head - 1), corner, _FRAME, 1)
    return picture


def legend(classes: Sequence[str], palette: Palette, width: int) -> np.ndarray:
    """Draw a legend of the class colours, to be placed below a grid.

    Args:
        classes: Names of the classes.
        palette: RGB colour of each class.
        width: Width of the picture in pixels.

    Returns:
        (h, width, 3) uint8, RGB.
    """
    entry = 40 + max(cv2.getTextSize(name, _FONT, 0.45, 1)[0][0] for name in classes)
    columns = max(1, (width - _GAP) // entry)
    lines = -(-len(classes) // columns)
    picture = np.full((lines * _TITLE + _GAP, width, 3), _PAPER, np.uint8)
    for index, (name, colour) in enumerate(zip(classes, palette, strict=True)):
        line, column = divmod(index, columns)
        left, top = _GAP + column * entry, line * _TITLE + 4
        cv2.rectangle(picture, (left, top), (left + 18, top + 14), tuple(map(int, colour)), -1)
        cv2.rectangle(picture, (left, top), (left + 18, top + 14), _INK, 1)
        _write(picture, name, left + 24, top + 12, entry - 28)
    return picture


def save_picture(picture: np.ndarray, path: str | Path) -> Path:
    """Save a picture as PNG, atomically.

    Args:
        picture: (H, W, 3) uint8, RGB.
        path: Output file; its folder is created.

    Returns:
        The path.
    """
    path = Path(path)
    # two ranks may have the same image, since a distributed sampler adds copies
    with replacing(path, shared=True) as partial:
        Image.fromarray(picture).save(partial, format='PNG')
    return path
