# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import dataclasses
import itertools
import math

import numpy as np
import pytest
from demo import scenes as fabricated
from demo.scenes import light, scene
from demo.scenes.layout import (
    BUILDING,
    IMPERVIOUS,
    MARGIN_PIXELS,
    SUPERSAMPLING,
    TREE,
    Layout,
)
from mmseg.datasets import PotsdamDataset
from PIL import Image

PLAIN = fabricated.SceneStyle(noise=0.0, haze=0.0)
LOADING = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


@pytest.fixture(scope='module')
def scenes():
    return [fabricated.make_scene(seed=0, index=index, size=96) for index in range(12)]


def test_scenes_are_images_with_potsdam_ids(scenes):
    for image, labels in scenes:
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        assert labels.shape == (96, 96) and labels.dtype == np.uint8
        assert labels.max() <= len(fabricated.CLASS_NAMES)


def test_every_class_occurs_and_none_rules(scenes):
    pixels = np.bincount(np.concatenate([labels.ravel() for _, labels in scenes]), minlength=7)
    share = pixels / pixels.sum()
    assert share[0] < 0.1  # ignored
    assert (share[1:] > 0.002).all()
    assert share.max() < 0.6


def test_no_data_is_black_and_ignored(scenes):
    edges = [(image, labels) for image, labels in scenes if (labels == fabricated.IGNORE).any()]
    assert 0 < len(edges) < len(scenes)
    for image, labels in edges:
        assert not image[labels == fabricated.IGNORE].any()


def test_same_seed_same_scene_whatever_was_made_before(scenes):
    image, labels = fabricated.make_scene(seed=0, index=7, size=96)
    np.testing.assert_array_equal(image, scenes[7][0])
    np.testing.assert_array_equal(labels, scenes[7][1])
    assert (fabricated.make_scene(seed=1, index=7, size=96)[1] != labels).any()


def test_class_names_are_mmsegs():
    assert PotsdamDataset.METAINFO['classes'] == fabricated.CLASS_NAMES


def test_colour_alone_does_not_tell_the_class(scenes):
    """Nearest mean colour, fitted on the very pixels it is judged on, stays poor."""
    pixels = np.concatenate([image.reshape(-1, 3) for image, _ in scenes]).astype(float)
    labels = np.concatenate([labels.ravel() for _, labels in scenes])
    means = np.stack([pixels[labels == index].mean(0) for index in range(1, 7)])
    guess = ((pixels[:, None] - means) ** 2).sum(-1).argmin(1) + 1
    recall = [(guess[labels == index] == index).mean() for index in range(1, 7)]
    assert 1 / 6 < np.mean(recall) < 0.5


def test_scenes_differ_in_light_more_than_their_halves(scenes):
    means = np.array([[half.mean() for half in np.split(image, 2)] for image, _ in scenes])
    assert np.std(means.mean(1)) > np.mean(np.abs(means[:, 0] - means[:, 1])) / 2


def flat_layout(size: int = 64) -> Layout:
    layout = Layout(size)
    layout.labels[:] = IMPERVIOUS
    return layout


def centre_box(layout: Layout, half: int) -> tuple[slice, slice]:
    middle = layout.resolution // 2
    return (slice(middle - half, middle + half),) * 2


@pytest.mark.parametrize('azimuth', [0.0, math.pi / 2, math.pi, 3 * math.pi / 2])
def test_shadow_falls_away_from_the_sun_as_far_as_height_says(azimuth):
    layout = flat_layout()
    layout.height[centre_box(layout, 20)] = 4.0
    style = dataclasses.replace(PLAIN, sun_azimuth=azimuth, sun_elevation=math.pi / 4)
    shadow = light._cast_shadow(layout.height, style, layout.pixel)
    length = 4.0 / layout.pixel  # at 45 degrees as long as high
    middle = layout.resolution // 2

    def at(distance: float) -> float:
        x = round(middle + math.cos(azimuth) * distance)
        y = round(middle + math.sin(azimuth) * distance)
        return shadow[y, x]

    assert at(20 + 6) < 0.1  # on the sunny side
    assert at(-20 - length / 2) > 0.9
    assert at(-20 - length - 8) < 0.1
    assert at(0) < 0.1  # its own roof is lit


def test_low_sun_makes_longer_shadows():
    layout = flat_layout()
    layout.height[centre_box(layout, 10)] = 3.0
    shaded = [
        light._cast_shadow(
            layout.height, dataclasses.replace(PLAIN, sun_elevation=elevation), layout.pixel
        ).sum()
        for elevation in (0.4, 0.8, 1.2)
    ]
    assert shaded[0] > shaded[1] > shaded[2] > 0


def test_a_place_on_two_dates_keeps_its_labels_and_changes_its_colours():
    layout = fabricated.make_layout(np.random.default_rng(3), 96)
    labels = fabricated.layout_labels(layout)
    summer = dataclasses.replace(PLAIN, green=1.0)
    drought = dataclasses.replace(PLAIN, green=0.0)
    images = [
        fabricated.render_layout(layout, style, np.random.default_rng(0)).astype(int)
        for style in (summer, drought)
    ]
    np.testing.assert_array_equal(labels, fabricated.layout_labels(layout))
    change = np.abs(images[0] - images[1]).mean(-1)
    vegetation = np.isin(labels, (3, 4))
    assert change[vegetation].mean() > 4 * change[labels == BUILDING].mean()


def test_leafless_crowns_show_the_ground():
    layout = fabricated.make_layout(np.random.default_rng(5), 96)
    leaves = layout.material == light.MATERIAL_ID['leaves']
    assert leaves.any() and (layout.under[leaves] != layout.material[leaves]).all()
    bare = dataclasses.replace(PLAIN, leaf_off=0.6)
    full, seen = (light._albedo(layout, style, np.random.default_rng(0)) for style in (PLAIN, bare))
    assert 0.2 < (full[leaves] != seen[leaves]).any(-1).mean() < 0.9
    np.testing.assert_array_equal(full[~leaves], seen[~leaves])


def test_elevation_is_where_the_labels_say():
    layout = fabricated.make_layout(np.random.default_rng(8), 128)
    labels, elevation = fabricated.layout_labels(layout), fabricated.layout_elevation(layout)
    assert elevation.shape == labels.shape and elevation.min() >= 0
    assert np.median(elevation[labels == BUILDING]) > 3
    assert np.median(elevation[labels == TREE]) > 1
    assert np.median(elevation[labels == IMPERVIOUS]) == 0
    inner = slice(MARGIN_PIXELS * SUPERSAMPLING, -MARGIN_PIXELS * SUPERSAMPLING)
    assert layout.labels[inner, inner].shape == (128 * SUPERSAMPLING,) * 2


def test_too_small_a_scene_is_refused():
    with pytest.raises(ValueError, match='size=16 is too small'):
        fabricated.make_scene(0, 0, size=16)


def write(folder, **kwargs):
    arguments = dict(seed=2, train=2, val=1, size=64, tile=32)
    return list(fabricated.write_potsdam_layout(folder, **{**arguments, **kwargs}))


@pytest.mark.parametrize('workers', [0, 2])
def test_folder_is_read_by_mmsegs_potsdam_dataset(tmp_path, workers):
    root = tmp_path / 'demo'
    assert write(root, workers=workers) == ['2_7', '2_8', '2_9']
    for part, names in (('train', ['2_7', '2_8']), ('val', ['2_9'])):
        dataset = PotsdamDataset(
            data_root=str(root),
            data_prefix=dict(img_path=f'img_dir/{part}', seg_map_path=f'ann_dir/{part}'),
            pipeline=LOADING,
        )
        files = {data['img_path'].rsplit('/', 1)[1] for data in map(dict, dataset)}
        assert files == {
            f'{name}_{x}_{y}_{x + 32}_{y + 32}.png'
            for name, x, y in itertools.product(names, (0, 32), (0, 32))
        }
    image, labels = fabricated.make_scene(2, 1, 64)
    lower_left = '2_8_0_32_32_64.png'
    sample = next(data for data in dataset_of(root) if data['img_path'].endswith(lower_left))
    np.testing.assert_array_equal(sample['img'][..., ::-1], image[32:, :32])
    expected = np.where(labels == 0, 255, labels.astype(int) - 1)[32:, :32]
    np.testing.assert_array_equal(sample['gt_seg_map'], expected)


def dataset_of(root):
    return PotsdamDataset(
        data_root=str(root),
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=LOADING,
    )


def test_folder_is_kept_for_the_same_arguments_and_replaced_for_others(tmp_path):
    root = tmp_path / 'demo'
    write(root)
    tile = next(iter(sorted((root / 'img_dir' / 'train').iterdir())))
    before = np.array(Image.open(tile))
    assert write(root) == []
    assert len(write(root, seed=3)) == 3
    assert (np.array(Image.open(tile)) != before).any()
    assert not list(tmp_path.glob('*.part'))


def test_an_interrupted_writing_leaves_no_folder(tmp_path):
    writing = fabricated.write_potsdam_layout(tmp_path / 'demo', train=2, val=1, size=64, tile=64)
    next(writing)
    writing.close()
    assert not (tmp_path / 'demo').exists()
    assert len(write(tmp_path / 'demo')) == 3


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / 'keep.txt').write_text('mine')
    with pytest.raises(ValueError, match='holds no fabricated scenes'):
        write(tmp_path)
    assert (tmp_path / 'keep.txt').read_text() == 'mine'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(tile=48), 'tile=48 does not divide size=64'),
        (dict(train=48), '49 scenes were asked for'),
    ],
)
def test_numbers_that_do_not_fit_are_told(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / 'demo', **arguments)


def test_scene_names_are_unique():
    names = scene.scene_names(48)
    assert len(set(names)) == 48
