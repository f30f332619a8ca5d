# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Resizing without aliases."""

import numpy as np
from mmseg.registry import TRANSFORMS
from PIL import Image


def resized(scale, kind='AntialiasedResize'):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), np.uint8)
    label = rng.integers(0, 6, (40, 60)).astype(np.uint8)
    sample = dict(img=image, gt_seg_map=label, seg_fields=['gt_seg_map'])
    step = dict(type='RandomResize', scale=scale, ratio_range=(1, 1), keep_ratio=True)
    return image, TRANSFORMS.build(dict(step, resize_type=kind))(sample)


def test_shrinking_is_pillows_and_labels_are_mmsegs():
    image, result = resized((30, 20))
    expected = Image.fromarray(image).resize((30, 20), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(result['img'], np.asarray(expected))
    _, stock = resized((30, 20), 'Resize')
    np.testing.assert_array_equal(result['gt_seg_map'], stock['gt_seg_map'])
    assert result['img_shape'] == stock['img_shape']
    steps = [np.abs(np.diff(r['img'].astype(float), axis=1)).mean() for r in (result, stock)]
    assert steps[0] < 0.8 * steps[1]


def test_bands_are_resized_alike_however_many_there_are():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 5), np.uint8)
    resize = TRANSFORMS.build(dict(type='AntialiasedResize', scale=(30, 20), keep_ratio=True))
    five = resize(dict(img=image))['img']
    assert five.shape == (20, 30, 5)
    three = resize(dict(img=np.ascontiguousarray(image[..., 1:4])))['img']
    np.testing.assert_array_equal(five[..., 1:4], three)
    one = resize(dict(img=np.ascontiguousarray(image[..., :1])))
    np.testing.assert_array_equal(one['img'], five[..., :1])
    assert one['img_shape'][:2] == (20, 30)


def test_enlarging_is_mmsegs():
    _, result = resized((90, 60))
    _, stock = resized((90, 60), 'Resize')
    np.testing.assert_array_equal(result['img'], stock['img'])
