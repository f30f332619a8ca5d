# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import nn

import mmseg_semi_rs  # noqa: F401 - registers the head

# Learnable scalars of the published decoder for 6 classes; it counts a skip unit of the deepest
# level that is never used.
PUBLISHED_MILLIONS = {'small': 2.74, 'base': 10.95}


def build(**kwargs):
    return MODELS.build(dict(type='SizeMatchedDPTHead', **{'num_classes': 6, **kwargs}))


def tiny(**kwargs):
    torch.manual_seed(0)
    return build(
        in_channels=[8] * 4,
        post_process_channels=[4, 6, 8, 10],
        channels=5,
        num_classes=3,
        **kwargs,
    )


def taps(grid, width=8, batch=2):
    return [torch.randn(batch, width, *grid) for _ in range(4)]


def plain_residual_unit(x, unit):
    out = F.conv2d(F.relu(x), unit.conv1.weight, unit.conv1.bias, padding=1)
    return x + F.conv2d(F.relu(out), unit.conv2.weight, unit.conv2.bias, padding=1)


def plain_dpt(head, inputs):
    """The decoder in the order the paper's release runs it: upsampling, then the 1x1 conv."""
    levels = []
    for i in range(4):
        x = F.conv2d(inputs[i], head.projects[i].weight, head.projects[i].bias)
        layer = head.resizes[i]
        if i < 2:
            x = F.conv_transpose2d(x, layer.weight, layer.bias, stride=(4, 2)[i])
        elif i == 3:
            x = F.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
        levels.append(F.conv2d(x, head.layer_rn[i].weight, None, padding=1))
    one, two, three, four = levels
    path = None
    for block, level, size in zip(
        head.fusion_blocks,
        (four, three, two, one),
        (
            three.shape[2:],
            two.shape[2:],
            one.shape[2:],
            (2 * one.shape[2], 2 * one.shape[3]),
        ),
        strict=True,
    ):
        path = level if path is None else path + plain_residual_unit(level, block.skip_unit)
        path = plain_residual_unit(path, block.unit)
        path = F.interpolate(path, size, mode='bilinear', align_corners=True)
        path = F.conv2d(path, block.project.weight, block.project.bias)
    path = F.relu(F.conv2d(path, head.output_conv.weight, head.output_conv.bias, padding=1))
    return F.conv2d(path, head.conv_seg.weight, head.conv_seg.bias)


@pytest.mark.parametrize('arch', ['small', 'base', 'large', 'giant'])
def test_level_sizes_at_518(arch):
    with torch.device('meta'):
        head = build(arch=arch)
        inputs = [torch.empty(1, width, 37, 37) for width in head.in_channels]
    assert [tuple(level.shape[2:]) for level in head.pyramid(inputs)] == [
        (148, 148),
        (74, 74),
        (37, 37),
        (19, 19),
    ]
    assert head(inputs).shape == (1, 6, 296, 296)


@pytest.mark.parametrize('arch', PUBLISHED_MILLIONS)
def test_parameter_count_is_the_published_one_without_the_dead_unit(arch):
    with torch.device('meta'):
        head = build(arch=arch)
    width = head.channels
    dead_unit = 2 * (width * width * 9 + width)
    total = sum(p.numel() for p in head.parameters()) + dead_unit
    assert round(total / 1e6, 2) == PUBLISHED_MILLIONS[arch]


@pytest.mark.parametrize('grid', [(4, 4), (5, 7), (1, 1), (3, 2), (1, 6)])
def test_equals_the_restated_decoder(grid):
    head, inputs = tiny(), taps(grid)
    torch.testing.assert_close(head(inputs), plain_dpt(head, inputs), rtol=1e-5, atol=1e-5)


def test_fusion_follows_the_real_size_of_each_level():
    head = tiny()
    seen = []
    for block in head.fusion_blocks:
        block.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[2:])))
    head(taps((5, 7)))
    assert seen == [(5, 7), (10, 14), (20, 28), (40, 56)]


def test_taps_may_differ_in_size():
    inputs = [torch.randn(1, 8, *grid) for grid in ((9, 8), (5, 4), (3, 2), (2, 1))]
    assert tiny()(inputs).shape == (1, 3, 72, 64)


def test_R29_no_parameter_is_without_gradient():
    head = tiny()
    assert head.fusion_blocks[0].skip_unit is None
    head(taps((3, 3))).square().sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


def test_has_no_batch_norm_and_no_dropout():
    kinds = (nn.modules.batchnorm._BatchNorm, nn.Dropout, nn.Dropout2d)
    assert not any(isinstance(module, kinds) for module in tiny().modules())


def test_init_weights_leaves_pytorch_initialisation():
    head = tiny()
    before = {name: p.clone() for name, p in head.named_parameters()}
    head.init_weights()
    assert all(torch.equal(before[name], p) for name, p in head.named_parameters())


def test_loss_resizes_with_aligned_corners():
    assert tiny().align_corners is True
    assert tiny(align_corners=False).align_corners is False


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(arch='tiny'), r"archs \['base', 'giant', 'large', 'small'\], got arch='tiny'"),
        (dict(), 'needs arch or all of'),
        (dict(in_channels=[8] * 4, channels=4), 'post_process_channels=None'),
        (dict(arch='small', in_index=[0, 1]), r'in_index needs four entries, got \[0, 1\]'),
        (dict(arch='small', in_channels=[8] * 3), 'in_channels needs four entries'),
    ],
)
def test_bad_config_is_told(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)
