# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Networks for more bands than three: weights that are widened, teachers that look at three."""

import copy

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_semi_rs.models.backbones import EfficientNetLite
from mmseg_semi_rs.models.teachers import FrozenTeacher
from mmseg_semi_rs.models.weights import widened

TINY = dict(embed_dims=16, num_layers=2, num_heads=2)
OURS = {
    'DINOv2': (dict(type='DINOv2', arch=TINY, img_size=28), 28),
    'DINOv3': (dict(type='DINOv3', arch=TINY), 32),
    'CLIPVision': (
        dict(
            type='CLIPVision',
            arch=dict(width=64, layers=2, heads=1, patch_size=16, image_size=32, embed_dim=8),
            quick_gelu=True,
        ),
        32,
    ),
    'EfficientNetLite': (dict(type='EfficientNetLite', out_indices=[1]), 32),
}
STOCK = {
    'ResNet': dict(type='ResNetV1c', depth=18, num_stages=1, out_indices=(0,), strides=(1,),
                   dilations=(1,)),
    'MixVisionTransformer': dict(
        type='MixVisionTransformer', embed_dims=8, num_stages=1, num_layers=[1], num_heads=[1],
        patch_sizes=[7], sr_ratios=[8], strides=[4], out_indices=(0,),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def first_layer(module):
    return next(weight for weight in module.parameters() if weight.dim() == 4)


def test_each_rule_in_plain_words():
    torch.manual_seed(0)
    stored, wanted = torch.rand(4, 3, 2, 2), torch.empty(4, 6, 2, 2)
    red, green, blue = stored.unbind(1)
    mean = (red + green + blue) / 3
    for rule, others in (
        ('mean', [mean, mean, mean]),
        ('copy', [red, green, blue]),
        ('zero', [torch.zeros_like(red)] * 3),
    ):
        found = widened(stored, wanted, bands=[3, 1, 0], widen=rule)
        expected = torch.stack([blue, green, others[0], red, others[1], others[2]], 1)
        torch.testing.assert_close(found, expected)
    assert widened(stored, torch.empty(4, 3, 2, 2)) is stored
    assert widened(stored, torch.empty(5, 6, 2, 2)) is stored  # another network
    with pytest.raises(ValueError, match='the first layer has 6 channels'):
        widened(stored, wanted, bands=[6, 1, 0])


@pytest.mark.parametrize('name', OURS)
def test_our_backbones_begin_where_the_rgb_network_is(name, tmp_path):
    cfg, side = OURS[name]
    torch.manual_seed(0)
    rgb = MODELS.build(cfg).eval()
    rgb.init_weights()
    torch.save(rgb.state_dict(), tmp_path / 'rgb.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'rgb.pth'), bands=[2, 1, 0])
    wide = MODELS.build(dict(cfg, in_channels=5, init_cfg=dict(init, widen='zero'))).eval()
    wide.init_weights()
    images = torch.rand(1, 5, side, side)
    for found, expected in zip(wide(images), rgb(images[:, [2, 1, 0]]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    mean = MODELS.build(dict(cfg, in_channels=5, init_cfg=init))
    mean.init_weights()
    torch.testing.assert_close(first_layer(mean)[:, 4], first_layer(rgb).mean(1))
    with pytest.raises(ValueError, match="widen='half'"):
        MODELS.build(dict(cfg, in_channels=5, init_cfg=dict(init, widen='half')))


@pytest.mark.parametrize('name', STOCK)
def test_stock_backbones_too(name, tmp_path):
    rgb = MODELS.build(STOCK[name])
    rgb.init_weights()
    rgb.eval()
    weights = {f'backbone.{key}': value for key, value in rgb.state_dict().items()}
    torch.save({'state_dict': weights}, tmp_path / 'rgb.pth')
    init = dict(
        type='Pretrained',
        checkpoint=str(tmp_path / 'rgb.pth'),
        prefix='backbone.',
        bands=[2, 1, 0],
        widen='zero',
    )
    wide = MODELS.build(dict(STOCK[name], in_channels=5, init_cfg=init))
    wide.init_weights()
    wide.eval()
    images = torch.rand(1, 5, 64, 64)
    for found, expected in zip(wide(images), rgb(images[:, [2, 1, 0]]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(first_layer(wide)[:, [2, 1, 0]], first_layer(rgb))


STATS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def teacher(**settings):
    cfg = dict(type='DINOv2', arch=TINY, img_size=28)
    return FrozenTeacher(cfg, **{'input_size': 28, 'input_stats': STATS, **settings})


def test_a_teacher_sees_the_bands_that_it_knows_as_it_was_trained_on_them():
    torch.manual_seed(0)
    levels = torch.rand(2, 5, 40, 56) * 300 - 20  # some beyond what 8 bits hold
    mean, std = torch.tensor([90.0, 80, 70, 120, 100]), torch.tensor([40.0, 50, 60, 30, 20])
    images = (levels - mean.view(5, 1, 1)) / std.view(5, 1, 1)
    one = teacher(bands=[2, 1, 0])
    one.bind_source(mean.tolist(), std.tolist())
    plain = teacher()
    plain.bind_source(**STATS)
    rgb = levels[:, [2, 1, 0]].clamp(0, 255)
    wanted_mean, wanted_std = (torch.tensor(STATS[key]).view(3, 1, 1) for key in ('mean', 'std'))
    expected = plain.prepare((rgb - wanted_mean) / wanted_std)
    torch.testing.assert_close(one.prepare(images), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        one(images), plain((rgb - wanted_mean) / wanted_std), rtol=1e-3, atol=1e-3
    )
    other = copy.copy(images)
    other[:, 3:] = 0  # what it does not know does not matter
    assert torch.equal(one.prepare(other), one.prepare(images))


def test_a_teacher_of_rgb_is_not_handed_five_bands_by_accident():
    with pytest.raises(ValueError, match='is handed images of 5 channels: give bands='):
        teacher().bind_source([0.0] * 5, [1.0] * 5)
    with pytest.raises(ValueError, match='is handed images of 3 channels'):
        teacher(bands=[3, 1, 0]).bind_source(**STATS)
    with pytest.raises(ValueError, match='the statistics that it was trained with'):
        teacher(bands=[2, 1, 0], input_stats=None)


def test_a_head_distils_an_rgb_teacher_into_a_student_of_five_bands():
    def segmentor(teacher_bands):
        teacher_cfg = dict(
            type='FrozenTeacher',
            backbone=dict(type='DINOv2', arch=TINY, img_size=28),
            input_size=28,
            input_stats=STATS,
            bands=teacher_bands,
        )
        torch.manual_seed(0)
        return MODELS.build(
            dict(
                type='MeanTeacherSegmentor',
                data_preprocessor=dict(
                    type='SemiDataPreprocessor', mean=[100.0] * 5, std=[50.0] * 5, rgb=[2, 1, 0]
                ),
                student=dict(
                    type='DistillEncoderDecoder',
                    backbone=dict(type='EfficientNetLite', out_indices=[1, 2], in_channels=5),
                    decode_head=dict(
                        type='MultiTeacherDistillHead',
                        decode_head=dict(
                            type='FCNHead', in_channels=40, channels=8, in_index=1, num_classes=3
                        ),
                        teachers=dict(rgb=teacher_cfg),
                        translator=dict(hidden=8),
                        student_view='shared',
                    ),
                    test_cfg=dict(mode='whole'),
                ),
            )
        )

    def losses(model, images):
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        samples = []
        for _ in range(len(images)):
            found = SegDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64)))
            found.gt_sem_seg = PixelData(data=torch.ones(1, 64, 64, dtype=torch.long))
            samples.append(found)
        inputs = {'sup': images, 'weak': images, 'strong': images}
        return model.loss(inputs, dict.fromkeys(inputs, samples))

    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 5, 64, 64))).float()
    model = segmentor([2, 1, 0])
    found = losses(model, images)
    distilled = [value for name, value in found.items() if 'distill_rgb' in name]
    (gradient,) = torch.autograd.grad(distilled[0], first_layer(model.student.backbone))
    assert gradient[:, 3].abs().sum() > 0  # bands that the teacher never sees learn from it too
    other = losses(segmentor([3, 1, 0]), images)
    name = next(name for name in found if 'distill_rgb' in name)
    assert float(found[name]) != float(other[name])
    with pytest.raises(ValueError, match='handed images of 5 channels'):
        segmentor(None)


def test_in_channels_is_what_the_first_layer_takes():
    assert first_layer(EfficientNetLite(in_channels=7)).shape[1] == 7
