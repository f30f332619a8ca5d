# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch
from mmseg.registry import MODELS
from torch import nn
from torch.nn import functional as F

import mmseg_semi_rs  # noqa: F401
from mmseg_semi_rs.models.backbones import CLIPVision, DINOv2
from mmseg_semi_rs.models.teachers import FrozenTeacher, frozen_teacher

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
CLIP = dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323])

DINO_CFG = dict(type='DINOv2', arch=dict(embed_dims=16, num_layers=4, num_heads=2), img_size=56)
CLIP_CFG = dict(
    type='CLIPVision', arch=dict(width=24, layers=3, heads=2, patch_size=8, image_size=32)
)
MOBILENET_CFG = dict(type='MobileNetV2', out_indices=(1, 6), widen_factor=0.25)
RESNET_CFG = dict(type='ResNetV1c', depth=18, stem_channels=8, base_channels=8)
LITE_CFG = dict(type='EfficientNetLite', arch='lite0')
SEGFORMER_CFG = dict(type='MixVisionTransformer', embed_dims=8, num_layers=[1, 1, 1, 1])

# config, channels, multiple of the input's sides, stride
BACKBONES = {
    'dinov2': (DINO_CFG, 16, 14, 14),
    'clip': (CLIP_CFG, 24, 8, 8),
    'mobilenet': (MOBILENET_CFG, 80, 1, 32),
    'resnet': (RESNET_CFG, 64, 1, 32),
    'segformer': (SEGFORMER_CFG, 64, 1, 32),
    'lite': (LITE_CFG, 320, 1, 32),
}
ALL = pytest.mark.parametrize('name', BACKBONES)
DTYPES = pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])


class Owner(nn.Module):
    """A head-like module that keeps a teacher as the distillation head does."""

    def __init__(self, teacher: FrozenTeacher) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.teachers = {'dino': teacher}
        self.direct = teacher  # even an attribute of its own does not register it

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for teacher in self.teachers.values():
            teacher._apply(fn)
        return self


class Recorder(nn.Module):
    """A backbone that hands out the pixels it was given."""

    patch_size = 14

    def forward(self, images):
        return (images,)


if 'PixelRecorder' not in MODELS.module_dict:
    MODELS.register_module('PixelRecorder', module=Recorder)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# Any backbone.


@ALL
def test_structure_is_known_without_weights(name):
    cfg, channels, multiple, stride = BACKBONES[name]
    teacher = MODELS.build(dict(type='FrozenTeacher', backbone=cfg))
    assert isinstance(teacher, FrozenTeacher) and not teacher.is_built
    assert teacher.channels == channels
    for size in [(64, 64), (96, 70), (130, 57)]:
        shape = teacher.input_shape(*size)
        expected = tuple(max(1, int(side / multiple + 0.5)) * multiple for side in size)
        assert shape == expected
        assert teacher.grid(*size) == tuple(-(-side // stride) for side in shape)
    assert not teacher.is_built


@ALL
def test_map_has_the_promised_shape_and_type_in_every_precision(name):
    cfg, channels, _, _ = BACKBONES[name]
    images = torch.randn(2, 3, 64, 80, requires_grad=True)
    found = {}
    for dtype in ('float32', 'bfloat16', 'float16'):
        teacher = FrozenTeacher(cfg, dtype=dtype, input_size=56)
        found[dtype] = level = teacher(images)
        assert level.shape == (2, channels, *teacher.grid(64, 80))
        assert level.dtype == torch.float32 and not level.requires_grad
        # I4: its own precision, whatever autocast is on around it
        for outer in [torch.bfloat16] + [torch.float16] * frozen_teacher.cpu_has_half():
            with torch.autocast('cpu', dtype=outer):
                assert torch.equal(teacher(images), level)
    for dtype in ('bfloat16', 'float16'):
        assert not torch.equal(found[dtype], found['float32'])
        torch.testing.assert_close(found[dtype], found['float32'], atol=0.2, rtol=0.2)


@DTYPES
def test_weights_of_matrix_products_are_held_in_the_dtype_norms_in_float32(dtype):
    teacher = FrozenTeacher(CLIP_CFG, dtype=dtype).build()
    block = teacher.module.blocks[0]
    wanted = getattr(torch, dtype)
    assert block.mlp.c_fc.weight.dtype == block.attn.in_proj_weight.dtype == wanted
    assert teacher.module.conv1.weight.dtype == block.attn.out_proj.bias.dtype == wanted
    assert block.ln_1.weight.dtype == teacher.module.positional_embedding.dtype == torch.float32


@pytest.mark.parametrize('name', ['dinov2', 'mobilenet'])
def test_half_works_where_the_cpu_has_no_products_of_it(name, monkeypatch):
    teacher = FrozenTeacher(BACKBONES[name][0], dtype='float16').build()
    weights = {k: v.clone() for k, v in teacher.module.state_dict().items()}
    rounded = FrozenTeacher(BACKBONES[name][0]).build()
    rounded.module.load_state_dict(weights)
    monkeypatch.setattr(frozen_teacher, 'cpu_has_half', lambda: False)
    images = torch.randn(1, 3, 56, 56)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(teacher(images), rounded(images))
    found = teacher.module.state_dict()
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in weights.items())


@pytest.mark.parametrize('cfg', [DINO_CFG, CLIP_CFG])
def test_only_the_blocks_that_are_read_are_built(cfg):
    taps = {**cfg, 'out_indices': [0, 1, 2]}
    teacher = FrozenTeacher(taps, out_index=1).build()
    assert isinstance(teacher.module, DINOv2 | CLIPVision)
    assert len(teacher.module.blocks) == 2
    whole = FrozenTeacher(taps, out_index=-1).build()
    weights = {
        k: v for k, v in whole.module.state_dict().items() if k in teacher.module.state_dict()
    }
    teacher.module.load_state_dict(weights)
    images = torch.randn(1, 3, 56, 56)
    assert torch.equal(teacher(images), whole.module(images)[0]) is False
    whole.module.keep_tap(-1)
    direct = MODELS.build(taps)
    direct.load_state_dict(whole.module.state_dict())
    torch.testing.assert_close(teacher(images), direct.eval()(images)[1].detach())


def test_output_of_a_cnn_is_chosen():
    teacher = FrozenTeacher(MOBILENET_CFG, out_index=0)
    assert teacher.channels == 8 and teacher.grid(64, 64) == (16, 16)
    assert teacher(torch.randn(1, 3, 64, 64)).shape == (1, 8, 16, 16)


# I3, R1-R4: no part of its owner.


@ALL
def test_I3_R2_R4_absent_from_the_owner(name):
    teacher = FrozenTeacher(BACKBONES[name][0]).build()
    owner = Owner(teacher)
    assert len(list(owner.parameters())) == 2 and len(list(owner.modules())) == 2
    assert set(owner.state_dict()) == {'layer.weight', 'layer.bias'}
    assert not list(owner.buffers())
    assert not isinstance(teacher, nn.Module)


def test_R1_deep_copy_is_the_same_teacher():
    teacher = FrozenTeacher(DINO_CFG)
    owner = Owner(teacher)
    ema = copy.deepcopy(owner)
    assert ema.layer is not owner.layer
    assert ema.teachers['dino'] is ema.direct is teacher
    teacher.build()
    assert ema.direct.is_built


@ALL
def test_R3_always_in_evaluation_and_without_gradient(name):
    teacher = FrozenTeacher(BACKBONES[name][0]).build()
    owner = Owner(teacher)
    owner.train()
    owner.requires_grad_(True)
    before = {k: v.clone() for k, v in teacher.module.state_dict().items()}
    images = torch.randn(4, 3, 56, 56, requires_grad=True)
    found = teacher(images)
    assert not any(module.training for module in teacher.module.modules())
    assert not any(p.requires_grad for p in teacher.module.parameters())
    assert not found.requires_grad
    # BatchNorm statistics and DropPath would show otherwise
    torch.testing.assert_close(found[:1], teacher(images[:1]), rtol=1e-3, atol=1e-4)
    assert torch.equal(teacher(images), found)
    assert all(torch.equal(before[k], v) for k, v in teacher.module.state_dict().items())


@DTYPES
def test_I3_owner_half_leaves_the_teachers_dtype(dtype):
    teacher = FrozenTeacher(DINO_CFG, dtype=dtype).build()
    owner = Owner(teacher)
    before = {k: v.dtype for k, v in teacher.module.state_dict().items()}
    for change in (owner.half, owner.bfloat16, owner.double, owner.float):
        change()
        assert {k: v.dtype for k, v in teacher.module.state_dict().items()} == before
    assert owner.layer.weight.dtype == torch.float32


def test_I3_follows_the_owners_moves_before_and_after_it_is_built(monkeypatch):
    moves = []
    monkeypatch.setattr(FrozenTeacher, 'to', lambda self, device: moves.append(device) or self)
    owner = Owner(FrozenTeacher(DINO_CFG))
    owner.cpu()
    owner.half()
    owner.to('meta')
    owner.to_empty(device='cpu')
    assert [device.type for device in moves] == ['cpu', 'cpu', 'meta', 'cpu']


def test_meta_device_does_not_throw_the_shared_weights_away():
    teacher = FrozenTeacher(DINO_CFG).build()
    Owner(teacher).to('meta')
    assert teacher.device.type == 'cpu'
    assert {p.device.type for p in teacher.module.parameters()} == {'cpu'}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@ALL
@DTYPES
def test_I3_follows_to_a_gpu(name, dtype):
    teacher = FrozenTeacher(BACKBONES[name][0], dtype=dtype, input_stats=CLIP)
    teacher.bind_source(**IMAGENET)
    images = torch.randn(2, 3, 56, 56)
    expected = teacher(images)
    owner = Owner(teacher).cuda()
    assert {p.device.type for p in teacher.module.parameters()} == {'cuda'}
    found = owner.direct(images.cuda())
    assert found.device.type == 'cuda' and found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, atol=0.1, rtol=0.1)
    owner.cpu()
    assert torch.equal(teacher(images), expected)


def test_I9_random_weights_depend_on_the_seed_alone_and_leave_the_training_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = FrozenTeacher(DINO_CFG).build()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = FrozenTeacher(DINO_CFG).build()
    other = FrozenTeacher(DINO_CFG, seed=5).build()
    left, right, third = (t.module.state_dict() for t in (first, second, other))
    assert all(torch.equal(left[k], right[k]) for k in left)
    assert not torch.equal(left['pos_embed'], third['pos_embed'])


# I4, R5-R8: what it sees.


def plain_view(images, source, wanted, size, antialias=True, align_corners=False):
    """De-normalise, resize, normalise: the specification word for word."""
    pixels = torch.empty_like(images)
    for channel in range(3):
        pixels[:, channel] = images[:, channel] * source['std'][channel] + source['mean'][channel]
    pixels = F.interpolate(
        pixels, size=size, mode='bilinear', antialias=antialias, align_corners=align_corners
    )
    for channel in range(3):
        pixels[:, channel] -= wanted['mean'][channel]
        pixels[:, channel] /= wanted['std'][channel]
    return pixels


def recorder(**kwargs) -> FrozenTeacher:
    return FrozenTeacher(dict(type='PixelRecorder'), **kwargs)


@pytest.mark.parametrize('antialias', [True, False])
@pytest.mark.parametrize('size', [(56, 56), (70, 98)])
def test_R5_I4_pixels_are_renormalised_as_the_teacher_was_trained(antialias, size):
    teacher = recorder(input_stats=CLIP, input_size=28, antialias=antialias)
    teacher.bind_source(**IMAGENET)
    images = torch.randn(2, 3, *size)
    shape = teacher.input_shape(*size)
    expected = plain_view(images, IMAGENET, CLIP, shape, antialias)
    torch.testing.assert_close(teacher(images), expected, atol=1e-5, rtol=1e-5)
    as_released = recorder(input_stats=None, input_size=28, antialias=antialias)(images)
    assert (as_released - expected).abs().max() > 0.05


def test_same_statistics_and_size_give_the_very_same_pixels():
    teacher = recorder(input_stats=IMAGENET)
    teacher.bind_source(**IMAGENET)
    images = torch.randn(1, 3, 56, 56)
    assert torch.equal(teacher(images), images)
    assert torch.equal(recorder()(images), images)  # without statistics nothing needs to be bound


def test_source_is_asked_for_and_may_change():
    teacher = recorder(input_stats=CLIP)
    with pytest.raises(RuntimeError, match='does not know how its images were normalised'):
        teacher(torch.zeros(1, 3, 28, 28))
    images = torch.randn(1, 3, 28, 28)
    for source in (IMAGENET, dict(mean=[127.5] * 3, std=[127.5] * 3)):
        teacher.bind_source(**source)
        expected = plain_view(images, source, CLIP, (28, 28))
        torch.testing.assert_close(teacher(images), expected, atol=1e-5, rtol=1e-5)


def test_R6_teacher_resize_is_antialiased():
    stripes = torch.zeros(1, 3, 112, 112)
    stripes[..., ::2] = 1.0
    smooth = recorder(input_size=28)(stripes)
    rough = recorder(input_size=28, antialias=False)(stripes)
    released = recorder(input_size=28, antialias=False, align_corners=True)(stripes)
    torch.testing.assert_close(smooth, torch.full_like(smooth, 0.5), atol=0.1, rtol=0)
    assert not torch.allclose(smooth, released, atol=0.1)
    expected = F.interpolate(stripes, size=(28, 28), mode='bilinear', align_corners=True)
    torch.testing.assert_close(released, expected)
    wide = torch.randn(1, 3, 112, 112)
    assert not torch.allclose(
        recorder(input_size=28)(wide), recorder(input_size=28, antialias=False)(wide), atol=0.1
    )
    assert rough.shape == smooth.shape


@pytest.mark.parametrize(
    ('size', 'input_size', 'shape'),
    [
        ((518, 518), 224, (224, 224)),
        ((518, 259), 224, (224, 112)),
        ((259, 518), 224, (112, 224)),
        ((1000, 300), 224, (224, 70)),
        ((1000, 10), 224, (224, 14)),
        ((512, 512), None, (518, 518)),
        ((518, 392), None, (518, 392)),
        ((100, 200), 400, (196, 406)),
    ],
)
def test_R7_aspect_is_kept_to_the_patch(size, input_size, shape):
    teacher = recorder(input_size=input_size)
    assert teacher.input_shape(*size) == shape
    assert teacher(torch.zeros(1, 3, *size)).shape[-2:] == shape == teacher.grid(*size)


def test_R8_grid_and_width_are_the_teachers_own():
    assert FrozenTeacher(CLIP_CFG, input_size=32).grid(64, 64) == (4, 4)
    assert FrozenTeacher(CLIP_CFG, input_size=48).grid(64, 32) == (6, 3)
    wide = {**CLIP_CFG, 'arch': {**CLIP_CFG['arch'], 'width': 40}}
    assert FrozenTeacher(wide).channels == 40


# R16: weights are read when they are needed, and only then.


@pytest.mark.parametrize(
    'cfg',
    [
        {**DINO_CFG, 'checkpoint': '/nowhere/dino.pth'},
        {**CLIP_CFG, 'checkpoint': '/nowhere/clip.pt'},
        {**MOBILENET_CFG, 'init_cfg': dict(type='Pretrained', checkpoint='/nowhere/cnn.pth')},
    ],
)
def test_R16_inference_never_opens_the_file(cfg, monkeypatch):
    teacher = FrozenTeacher(cfg, input_size=56)
    teacher.bind_source(**IMAGENET)
    owner = Owner(copy.deepcopy(teacher)).eval().half().float()
    owner.to('cpu')
    assert teacher.channels and teacher.grid(64, 64) and not teacher.is_built
    assert 'built=False' in repr(teacher)
    with pytest.raises(RuntimeError, match='no weights yet'):
        teacher.module  # noqa: B018
    path = cfg.get('checkpoint') or cfg['init_cfg']['checkpoint']
    with pytest.raises(FileNotFoundError, match=path):
        teacher.build()


@pytest.mark.parametrize('cfg', [DINO_CFG, CLIP_CFG])
def test_I1_weights_are_those_of_the_file(tmp_path, cfg):
    source = MODELS.build(cfg)
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    torch.save(source.state_dict(), tmp_path / 'weights.pth')
    teacher = FrozenTeacher({**cfg, 'checkpoint': str(tmp_path / 'weights.pth')})
    teacher.build().build('cpu')
    found = teacher.module.state_dict()
    assert all(torch.equal(found[k], v) for k, v in source.state_dict().items())


@pytest.mark.parametrize('prefix', [None, 'backbone'])
def test_I1_weights_of_a_cnn_are_those_of_the_file(tmp_path, prefix):
    source = MODELS.build(MOBILENET_CFG)
    for tensor in source.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor)
    at = f'{prefix}.' if prefix else ''
    state = {at + k: v for k, v in source.state_dict().items()} | {'decode_head.x': torch.ones(1)}
    torch.save({'state_dict': state}, tmp_path / 'cnn.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'cnn.pth'))
    if prefix:
        init_cfg['prefix'] = prefix
    teacher = FrozenTeacher({**MOBILENET_CFG, 'init_cfg': init_cfg}).build()
    found = teacher.module.state_dict()
    assert all(torch.equal(found[k], v) for k, v in source.state_dict().items())
    # mmengine would go on with random values
    state.pop(at + 'conv1.conv.weight')
    torch.save({'state_dict': state}, tmp_path / 'cnn.pth')
    with pytest.raises(ValueError, match=r'missing in the file: conv1\.conv\.weight'):
        FrozenTeacher({**MOBILENET_CFG, 'init_cfg': init_cfg}).build()


def test_built_once():
    teacher = FrozenTeacher(DINO_CFG)
    module = teacher.build().module
    assert teacher.build('cpu').module is module
    teacher(torch.zeros(1, 3, 28, 28))
    assert teacher.module is module


def test_config_is_not_changed():
    cfg = copy.deepcopy(DINO_CFG)
    FrozenTeacher(cfg).build()
    assert cfg == DINO_CFG


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(dtype='int8'), "dtype='int8'.*'bfloat16'"),
        (dict(input_size=0), 'input_size=0'),
        (dict(input_stats=dict(mean=[1.0])), r'give dict\(mean='),
        (dict(input_stats=dict(mean=[1.0], std=[1.0, 2.0])), 'one mean and one positive std'),
        (dict(input_stats=dict(mean=[1.0], std=[0.0])), 'one mean and one positive std'),
        (dict(out_index=7), 'no index 7'),
        (dict(backbone=MOBILENET_CFG, out_index=2), 'out_index=2, but MobileNetV2 hands out 2'),
        (
            dict(backbone=dict(type='mmpretrain.ResNet', depth=18, out_indices=(3,)), out_index=1),
            'hands out 1',
        ),
        (
            dict(backbone=dict(type='mmpretrain.VisionTransformer', arch='deit-tiny')),
            'needs feature maps',
        ),
    ],
)
def test_wrong_arguments_are_told_in_one_sentence(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        FrozenTeacher(**{'backbone': DINO_CFG, **kwargs})
    assert str(error.value).endswith('.') and '\n' not in str(error.value)


@pytest.mark.parametrize('built_before', [False, True])
def test_frozen_teacher_follows_the_memory_format_of_its_owner(built_before):
    backbone = dict(type='ResNet', depth=18, base_channels=4, stem_channels=4)
    images = torch.rand(2, 3, 64, 64)
    expected = FrozenTeacher(backbone, out_index=1)(images)
    assert not expected.is_contiguous(memory_format=torch.channels_last)
    teacher = FrozenTeacher(backbone, out_index=1)
    if built_before:
        teacher.build()
    owner = Owner(teacher)
    owner.to(memory_format=torch.channels_last)
    owner.to('cpu').float()  # later moves do not undo it
    found = teacher(images)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
