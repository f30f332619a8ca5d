# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""I13: stages of a backbone that no head reads are neither computed nor trained."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS
from torch import nn

import mmseg_semi_rs  # noqa: F401
from mmseg_semi_rs.models import MeanTeacherSegmentor, SemiDataPreprocessor
from mmseg_semi_rs.models.backbones import drop_unread_stages, unread_tensors
from mmseg_semi_rs.models.segmentors.student import build_student, last_level_read
from tests._support.backbones import TINY, TINY_CLIP
from tests._support.networks import CLASSES, samples, total

# Config, channels of the outputs, and the names of what goes when the first two are read.
BACKBONES = {
    'MobileNetV2': (
        dict(type='MobileNetV2', out_indices=(1, 2, 4, 6), widen_factor=0.25),
        (8, 8, 24, 80),
        ('layer4.', 'layer5.', 'layer6.', 'layer7.'),
    ),
    'MobileNetV3': (
        dict(type='MobileNetV3', arch='small', out_indices=(0, 3, 12)),
        (16, 24, 576),
        tuple(f'layer{index}.' for index in range(4, 13)),
    ),
    'ResNet': (
        dict(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN')),
        (8, 16, 32, 64),
        ('layer3.', 'layer4.'),
    ),
    'ResNetV1c': (
        dict(type='ResNetV1c', depth=50, base_channels=4, stem_channels=8),
        (16, 32, 64, 128),
        ('layer3.', 'layer4.'),
    ),
    'MixVisionTransformer': (
        dict(type='MixVisionTransformer', embed_dims=8, num_layers=[1, 1, 1, 1]),
        (8, 16, 40, 64),
        ('layers.2.', 'layers.3.'),
    ),
    'SwinTransformer': (
        dict(type='SwinTransformer', embed_dims=12, depths=(1, 1, 1, 1), window_size=4),
        (12, 24, 48, 96),
        ('stages.1.downsample.', 'stages.2.', 'stages.3.', 'norm2.', 'norm3.'),
    ),
    'ConvNeXt': (
        dict(
            type='mmpretrain.ConvNeXt',
            arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32]),
            out_indices=(0, 1, 2, 3),
            gap_before_final_norm=False,
        ),
        (8, 16, 24, 32),
        tuple(
            f'{part}{at}.' for part in ('stages.', 'downsample_layers.', 'norm') for at in (2, 3)
        ),
    ),
    'EfficientNetLite': (
        dict(type='EfficientNetLite'),
        (24, 40, 112, 320),
        tuple(f'blocks.{index}.' for index in range(3, 7)),
    ),
    'DINOv2': (
        dict(type='DINOv2', arch=TINY, img_size=56, out_indices=(0, 1, 3)),
        (16, 16, 16),
        ('layers.2.', 'layers.3.'),
    ),
}
EACH = pytest.mark.parametrize('name', BACKBONES)
SIZE = 112

PREPROCESSOR = SemiDataPreprocessor(size=(64, 64))


def config(name: str, levels: int = 2) -> dict:
    backbone, channels, _ = BACKBONES[name]
    return dict(
        type='EncoderDecoder',
        backbone=copy.deepcopy(backbone),
        decode_head=dict(
            type='SegformerHead',
            in_channels=list(channels[:levels]),
            in_index=list(range(levels)),
            channels=8,
            num_classes=CLASSES,
            norm_cfg=dict(type='BN'),
            loss_decode=dict(type='ValidCrossEntropyLoss'),
        ),
        test_cfg=dict(mode='whole'),
    )


def whole_and_cut(name: str, levels: int = 2) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    whole = MODELS.build(config(name, levels))
    whole.init_weights()
    cut = build_student(config(name, levels), 'the test', PREPROCESSOR)
    cut.load_state_dict(whole.state_dict())  # strict
    return whole.eval(), cut.eval()


@EACH
@pytest.mark.parametrize('levels', [1, 2])
def test_what_is_read_stays_bit_by_bit(name, levels):
    whole, cut = whole_and_cut(name, levels)
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected, found = whole.extract_feat(images), cut.extract_feat(images)
        assert len(found) == levels < len(expected)
        for level in range(levels):
            assert torch.equal(found[level], expected[level])
        assert torch.equal(cut.decode_head(found), whole.decode_head(expected))


@EACH
def test_what_is_not_read_is_gone(name):
    whole, cut = whole_and_cut(name)
    gone = set(whole.backbone.state_dict()) - set(cut.backbone.state_dict())
    behind = BACKBONES[name][2]
    assert gone == {key for key in whole.backbone.state_dict() if key.startswith(behind)}
    assert gone == set(unread_tensors(cut.backbone))
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in whole.parameters())


@EACH
def test_every_parameter_of_a_training_step_has_a_gradient(name):
    torch.manual_seed(0)
    model = MeanTeacherSegmentor(
        student=config(name), semi_train_cfg=dict(conf_thresh=0.0, norm='separate')
    )
    model.init_weights()
    model.train()
    names = [[key for key, _ in net.named_parameters()] for net in (model.student, model.teacher)]
    assert names[0] == names[1]
    labels = torch.randint(0, CLASSES, (2, SIZE, SIZE))
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    inputs = {branch: torch.randn(2, 3, SIZE, SIZE) for branch in ('sup', 'weak', 'strong')}
    data = {
        'sup': samples(2, labels, valid),
        'weak': samples(2, valid=valid),
        'strong': samples(2, valid=valid),
    }
    total(model.loss(inputs, data)).backward()
    assert [key for key, weight in model.student.named_parameters() if weight.grad is None] == []


@EACH
def test_files_with_the_cut_stages_load_without_a_word(name, tmp_path, caplog):
    whole, _ = whole_and_cut(name)
    torch.save({'state_dict': whole.state_dict()}, tmp_path / 'whole.pth')
    model = MeanTeacherSegmentor(student=config(name))
    for network in (model.student, model.teacher):  # the copy as well
        load_checkpoint(network, str(tmp_path / 'whole.pth'), strict=True)
        for key, value in network.state_dict().items():
            assert torch.equal(value, whole.state_dict()[key])
    assert 'unexpected' not in caplog.text
    wrong = {**whole.state_dict(), 'backbone.other': torch.ones(1)}
    with pytest.raises(RuntimeError, match=r'backbone\.other'):
        model.student.load_state_dict(wrong)


def test_pretrained_file_of_mmseg_loads_through_init_cfg(tmp_path):
    whole, _ = whole_and_cut('ResNet')
    torch.save(whole.backbone.state_dict(), tmp_path / 'resnet.pth')
    cfg = config('ResNet')
    cfg['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=str(tmp_path / 'resnet.pth'))
    student = build_student(cfg, 'the test', PREPROCESSOR)
    student.init_weights()
    for key, value in student.backbone.state_dict().items():
        assert torch.equal(value, whole.backbone.state_dict()[key])


@EACH
def test_nothing_changes_where_the_last_level_is_read(name):
    levels = len(BACKBONES[name][1])
    student = build_student(config(name, levels), 'the test', PREPROCESSOR)
    assert not unread_tensors(student.backbone)
    whole = MODELS.build(config(name, levels))
    assert student.state_dict().keys() == whole.state_dict().keys()


@EACH
@pytest.mark.parametrize('frozen_stages', [4, 1])
def test_frozen_stages_behind_the_cut_do_no_harm(name, frozen_stages):
    cfg = config(name)
    if name in ('MixVisionTransformer', 'DINOv2'):
        pytest.skip('has no frozen_stages')
    cfg['backbone']['frozen_stages'] = frozen_stages
    student = build_student(cfg, 'the test', PREPROCESSOR)
    assert student.train() is student
    weights = student.backbone.named_parameters()
    free = [key for key, weight in weights if weight.requires_grad and 'norm' not in key]
    assert bool(free) == (frozen_stages == 1)


def read_by(**changes) -> int:
    cfg = config('ResNet')
    cfg['decode_head'].update(changes.pop('decode_head', {}))
    cfg.update(changes)
    return last_level_read(MODELS.build(cfg))


FCN = dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=CLASSES)


def test_all_heads_count_and_what_cannot_be_told_is_left():
    assert read_by() == 1
    assert read_by(auxiliary_head=dict(FCN, in_index=2)) == 2
    assert read_by(auxiliary_head=[dict(FCN, in_index=0), dict(FCN, in_index=2)]) == 2
    assert read_by(auxiliary_head=dict(FCN, in_index=-2)) == -1
    neck = dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4)
    assert read_by(neck=neck, decode_head=dict(in_channels=[8, 8])) == -1


def test_a_head_around_another_reads_what_that_one_reads():
    cfg = config('ResNet')
    cfg['type'] = 'DistillEncoderDecoder'
    teacher = dict(type='FrozenTeacher', backbone=dict(type='CLIPVision', arch=TINY_CLIP))
    cfg['decode_head'] = dict(
        type='MultiTeacherDistillHead', decode_head=cfg['decode_head'], teachers=dict(clip=teacher)
    )
    student = build_student(cfg, 'the test', PREPROCESSOR)
    assert last_level_read(student) == 1
    assert student.backbone.res_layers == ['layer1', 'layer2']
    assert len(student.extract_feat(torch.randn(1, 3, 64, 64))) == 2


class Reversed(MODELS.get('ResNet')):
    """A network of its own: it may need what lies behind."""

    def forward(self, images):
        return super().forward(images)[::-1]


@pytest.mark.parametrize(
    'backbone',
    [
        Reversed(depth=18, base_channels=4),
        nn.Conv2d(3, 4, 1),
        MODELS.build(
            dict(
                type='CLIPVision',
                arch={**TINY_CLIP, 'embed_dim': 8, 'quick_gelu': True},
                value_path=True,
                dense=True,
                out_indices=(0, 2),
            )
        ),
    ],
)
def test_unknown_and_embedding_backbones_are_left_alone(backbone):
    names = list(backbone.state_dict())
    drop_unread_stages(backbone, 0)
    assert list(backbone.state_dict()) == names and not unread_tensors(backbone)


@EACH
def test_frozen_teacher_has_no_more_than_it_gives(name):
    backbone, channels, behind = BACKBONES[name]
    teacher = MODELS.build(dict(type='FrozenTeacher', backbone=backbone, out_index=1))
    assert teacher.channels == channels[1]
    assert teacher(torch.rand(1, 3, SIZE, SIZE)).shape[1] == channels[1]
    assert not [key for key in teacher.module.state_dict() if key.startswith(behind)]
