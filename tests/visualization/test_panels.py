# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Drawing: what stands in the picture is what was given."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_semi_rs.visualization import (
    colorize,
    denormalise,
    draw_panels,
    legend,
    overlay,
    save_picture,
)

PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_denormalise_inverts_the_preprocessor():
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    pixels = torch.randint(0, 256, (3, 5, 7)).float()
    normalised = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert np.array_equal(denormalise(normalised, mean, std), pixels.permute(1, 2, 0).byte())


@pytest.mark.parametrize('kind', [np.asarray, torch.as_tensor])
def test_colorize_paints_each_id_in_its_colour(kind):
    painted = colorize(kind([[0, 1], [2, 255]]), PALETTE)
    assert painted.tolist() == [[PALETTE[0], PALETTE[1]], [PALETTE[2], [128, 128, 128]]]


@pytest.mark.parametrize('bad', [3, 254, -1, 300])
def test_colorize_refuses_ids_without_a_colour(bad):
    with pytest.raises(ValueError, match=rf'\[{bad}\].*palette of 3 colours'):
        colorize(np.array([[0, bad]]), PALETTE)


def test_overlay_mixes_only_inside_the_mask():
    image, colours = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 200, np.uint8)
    mask = np.array([[True, False], [False, False]])
    mixed = overlay(image, colours, mask, 0.25)
    assert mixed[0, 0].tolist() == [50, 50, 50]
    assert mixed[~mask].max() == 0


def test_panels_keep_their_pixels_and_order():
    rows = [
        [np.full((64, 64, 3), (200, 10, 10), np.uint8), np.full((64, 64), 77, np.uint8)],
        [np.eye(64, dtype=bool)],
    ]
    picture = draw_panels(rows, ['image', 'grey'], ['first row', 'second row'], cell=64)
    assert picture.dtype == np.uint8
    red = (picture == (200, 10, 10)).all(axis=2)
    grey = (picture == 77).all(axis=2) & red.any(axis=1)[:, None]  # titles have grey edges
    assert red.sum() == grey.sum() == 64 * 64
    assert np.flatnonzero(red.any(axis=0)).max() < np.flatnonzero(grey.any(axis=0)).min()
    assert picture.shape[0] > 2 * 64


def test_small_panels_are_enlarged_without_blur_and_aspect_is_kept():
    panel = np.zeros((2, 4, 3), np.uint8)
    panel[0, 0] = (9, 99, 199)
    picture = draw_panels([[panel]], ['x'], cell=128)
    assert (picture == (9, 99, 199)).all(axis=2).sum() == 32 * 32
    assert (picture == 0).all(axis=2).sum() == 128 * 64 - 32 * 32


@pytest.mark.parametrize(
    ('rows', 'titles', 'sentence'),
    [([], ['a'], 'no panel'), ([[np.zeros((4, 4, 3), np.uint8)] * 2], ['a'], '2 panels for 1')],
)
def test_wrong_grids_are_told(rows, titles, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw_panels(rows, titles)


def test_legend_shows_every_class_in_the_width_given():
    picture = legend(['building', 'tree', 'car'], PALETTE, 150)
    assert picture.shape[1] == 150
    for colour in PALETTE:
        assert (picture == colour).all(axis=2).sum() > 100


def test_pictures_are_written_whole(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    path = save_picture(picture, tmp_path / 'deep' / 'grid.png')
    assert np.array_equal(np.asarray(Image.open(path)), picture)
    assert [entry.name for entry in path.parent.iterdir()] == ['grid.png']
