# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import open_clip
import pytest
import torch
from mmseg.registry import MODELS
from torch import nn
from torch.nn import functional as F

import mmseg_semi_rs  # noqa: F401
from mmseg_semi_rs.models.backbones import CLIPVision, DINOv2, DINOv3, EfficientNetLite
from mmseg_semi_rs.models.backbones.clip_blocks import LeanQuickGELU
from tests._support.backbones import (
    TINY,
    TINY_CLIP,
    TINY_DINOV3,
    tiny_clip,
    tiny_dinov2,
    tiny_dinov3,
)


def tiny_student(**kwargs) -> CLIPVision:
    arch = {'embed_dim': 8, 'quick_gelu': True, **kwargs.pop('arch', {})}
    return tiny_clip(arch=arch, **{'value_path': True, 'dense': True, **kwargs})


def lite(**kwargs) -> EfficientNetLite:
    torch.manual_seed(0)
    backbone = EfficientNetLite(**kwargs)
    backbone.init_weights()
    return backbone.eval()


TRANSFORMERS = {
    'DINOv2': tiny_dinov2,
    'DINOv3': tiny_dinov3,
    'CLIPVision': tiny_clip,
    'CLIPVision as MaskCLIP': tiny_student,
}
BUILD = {**TRANSFORMERS, 'EfficientNetLite': lite}


def build(name: str, **kwargs):
    return BUILD[name](**kwargs)


EACH = pytest.mark.parametrize('name', list(BUILD))
EACH_TRANSFORMER = pytest.mark.parametrize('name', list(TRANSFORMERS))


# The formula of DINOv2 in the plainest way, on Meta's structure, with mmpretrain's names.


def plain_position(stored: torch.Tensor, side: int, grid: tuple[int, int]) -> torch.Tensor:
    if grid == (side, side):
        return stored
    patches = stored[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (float(grid[0] + 0.1) / side, float(grid[1] + 0.1) / side)
    patches = F.interpolate(patches, mode='bicubic', antialias=False, scale_factor=scale)
    assert patches.shape[-2:] == grid
    return torch.cat(
        [stored[:, :1], patches.permute(0, 2, 3, 1).reshape(1, -1, stored.shape[-1])], 1
    )


def plain_dinov2(
    weights: dict[str, torch.Tensor],
    images: torch.Tensor,
    heads: int,
    taps: tuple[int, ...],
    side: int,
    patch: int = 14,
) -> list[torch.Tensor]:
    width = weights['cls_token'].shape[-1]
    grid = (images.shape[2] // patch, images.shape[3] // patch)

    def norm(x, name):
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return x * weights[name + '.weight'] + weights[name + '.bias']

    def linear(x, name):
        return x @ weights[name + '.weight'].T + weights[name + '.bias']

    cells = F.unfold(images, patch, stride=patch).transpose(1, 2)
    kernel = weights['patch_embed.projection.weight'].reshape(width, -1)
    x = cells @ kernel.T + weights['patch_embed.projection.bias']
    x = torch.cat([weights['cls_token'].repeat(len(x), 1, 1), x], 1)
    x = x + plain_position(weights['pos_embed'], side, grid)
    maps = []
    for i in range(max(taps) + 1):
        block = f'layers.{i}.'
        q, k, v = linear(norm(x, block + 'ln1'), block + 'attn.qkv').chunk(3, -1)
        mixed = []
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / (width // heads) ** 0.5
            mixed.append(scores.softmax(-1) @ v[..., part])
        x = x + weights[block + 'attn.gamma1.weight'] * linear(
            torch.cat(mixed, -1), block + 'attn.proj'
        )
        y = norm(x, block + 'ln2')
        if block + 'ffn.w12.weight' in weights:
            gate, value = linear(y, block + 'ffn.w12').chunk(2, -1)
            y = linear(gate * torch.sigmoid(gate) * value, block + 'ffn.w3')
        else:
            y = linear(y, block + 'ffn.layers.0.0')
            y = 0.5 * y * (1 + torch.erf(y / 2**0.5))
            y = linear(y, block + 'ffn.layers.1')
        x = x + weights[block + 'ffn.gamma2.weight'] * y
        if i in taps:
            found = norm(x, 'ln1')[:, 1:]
            maps.append(found.reshape(len(x), *grid, width).permute(0, 3, 1, 2))
    return maps


@pytest.mark.parametrize('swiglu', [False, True])
@pytest.mark.parametrize('size', [(56, 56), (28, 70), (84, 84)])
def test_dinov2_is_the_plain_formula(swiglu, size):
    backbone = tiny_dinov2(swiglu=swiglu, out_indices=[0, 2, 3])
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        maps = backbone(images)
        expected = plain_dinov2(backbone.state_dict(), images, 2, (0, 2, 3), 4)
    assert len(maps) == 3
    for level, want in zip(maps, expected, strict=True):
        torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-5)


def test_dinov2_taps_all_pass_the_final_norm():
    backbone = tiny_dinov2()
    nn.init.ones_(backbone.ln1.weight)
    nn.init.zeros_(backbone.ln1.bias)
    for level in backbone(torch.randn(1, 3, 56, 56)):
        torch.testing.assert_close(
            level.mean(1), torch.zeros_like(level.mean(1)), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            level.var(1, False), torch.ones_like(level.mean(1)), atol=1e-3, rtol=0
        )


def test_dinov2_position_embedding_is_as_stored_at_native_size_and_never_baked_in():
    backbone = tiny_dinov2()
    stored = backbone.pos_embed.detach().clone()
    assert backbone.position_embedding((4, 4)) is backbone.pos_embed
    resized = backbone.position_embedding((3, 5))
    torch.testing.assert_close(resized, plain_position(stored, 4, (3, 5)))
    # neither the size form nor an antialiased one is DINOv2's
    for other in (dict(size=(3, 5)), dict(size=(3, 5), antialias=True)):
        patches = stored[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, mode='bicubic', **other)
        assert not torch.allclose(resized[:, 1:], patches.flatten(2).transpose(1, 2), atol=1e-4)
    backbone(torch.randn(1, 3, 42, 70))
    assert torch.equal(backbone.pos_embed, stored)


@pytest.mark.parametrize('grid', [(n, m) for n in (1, 16, 36, 37, 40, 61) for m in (5, 37, 48)])
def test_dinov2_resizes_to_exactly_the_wanted_grid(grid):
    with torch.device('meta'):
        backbone = DINOv2(arch={**TINY, 'num_layers': 1})
    assert backbone.position_embedding(grid).shape == (1, 1 + grid[0] * grid[1], 16)


@pytest.mark.parametrize(
    ('arch', 'width', 'taps'),
    [
        ('small', 384, (2, 5, 8, 11)),
        ('base', 768, (2, 5, 8, 11)),
        ('large', 1024, (4, 11, 17, 23)),
        ('giant', 1536, (9, 19, 29, 39)),
    ],
)
def test_dinov2_public_archs(arch, width, taps):
    with torch.device('meta'):
        backbone = MODELS.build(dict(type='DINOv2', arch=arch))
        maps = backbone(torch.empty(2, 3, 518, 490))
    assert backbone.out_indices == taps
    assert [level.shape for level in maps] == [(2, width, 37, 35)] * 4
    assert (backbone.patch_size, backbone.embed_dims) == (14, width)
    assert backbone.out_channels == (width,) * 4
    assert backbone.ln1.eps == 1e-6 and backbone.blocks[0].ln2.eps == 1e-6


@pytest.mark.parametrize(('arch', 'millions'), [('small', 22.06), ('base', 86.58)])
def test_dinov2_size_is_the_published_one(arch, millions):
    with torch.device('meta'):
        backbone = DINOv2(arch=arch)
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 2) == millions


def test_dinov2_layer_scale_attention_and_mask_token():
    backbone = DINOv2(arch=TINY, img_size=56)
    backbone.init_weights()
    for block in backbone.blocks:
        assert torch.equal(block.attn.gamma1.weight, torch.ones(16))
        assert torch.equal(block.ffn.gamma2.weight, torch.ones(16))
        assert block.attn.scaled_dot_product_attention is F.scaled_dot_product_attention
    assert not [name for name, _ in backbone.named_parameters() if 'mask' in name]


@pytest.mark.parametrize('swiglu', [False, True])
def test_dinov2_drop_path_follows_the_whole_depth(swiglu):
    backbone = tiny_dinov2(swiglu=swiglu, out_indices=[2], drop_path_rate=0.3)
    rates = [block.attn.out_drop.drop_prob for block in backbone.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])
    assert [block.ffn.dropout_layer.drop_prob for block in backbone.blocks] == pytest.approx(rates)
    images = torch.randn(8, 3, 28, 28)
    torch.manual_seed(1)
    first = backbone.train()(images)[0]
    second = backbone(images)[0]
    assert not torch.equal(first, second)
    assert torch.equal(backbone.eval()(images)[0], backbone(images)[0])


def test_dinov2_loads_a_state_dict_of_another_image_size():
    large = tiny_dinov2(img_size=84)
    small = DINOv2(arch=TINY, img_size=56)
    small.load_state_dict(large.state_dict())
    torch.testing.assert_close(small.pos_embed, plain_position(large.pos_embed, 6, (4, 4)))


# CLIP against open_clip itself.


def clip_pair(quick_gelu: bool, taps: list[int]):
    torch.manual_seed(3)
    tower = open_clip.model._build_vision_tower(
        8,
        dict(width=16, layers=3, head_width=8, patch_size=8, image_size=32, mlp_ratio=3.0),
        quick_gelu=quick_gelu,
    ).eval()
    arch = {**TINY_CLIP, 'mlp_ratio': 3.0, 'quick_gelu': quick_gelu}
    backbone = CLIPVision(arch=arch, out_indices=taps).eval()
    missing, extra = backbone.load_state_dict(tower.state_dict(), strict=False)
    assert not missing and all(k.startswith(('ln_post', 'proj', 'transformer')) for k in extra)
    return tower, backbone


@pytest.mark.parametrize('quick_gelu', [False, True])
@pytest.mark.parametrize('taps', [[2], [0, 2], [1]])
def test_clip_maps_are_open_clips_tokens_before_ln_post(quick_gelu, taps):
    tower, backbone = clip_pair(quick_gelu, taps)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = tower.forward_intermediates(images, indices=taps)['image_intermediates']
        maps = backbone(images)
    assert len(maps) == len(taps)
    for level, want in zip(maps, expected, strict=True):
        torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-5)


def test_clip_quick_gelu_is_used_and_is_another_function():
    _, quick = clip_pair(True, [2])
    _, plain = clip_pair(False, [2])
    assert any(isinstance(m, LeanQuickGELU) for m in quick.modules())
    assert not any(isinstance(m, LeanQuickGELU) for m in plain.modules())
    plain.load_state_dict(quick.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert (quick(images)[0] - plain(images)[0]).abs().max() > 1e-5


def test_clip_takes_any_size_and_resizes_positions_bicubically():
    _, backbone = clip_pair(False, [2])
    stored = backbone.positional_embedding
    assert backbone.position_embedding((4, 4)) is stored
    patches = stored[1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(3, 6), mode='bicubic', align_corners=False)
    expected = torch.cat([stored[:1], patches.permute(0, 2, 3, 1).reshape(-1, 16)])
    torch.testing.assert_close(backbone.position_embedding((3, 6)), expected)
    assert backbone(torch.randn(1, 3, 24, 48))[0].shape == (1, 16, 3, 6)


def test_R25_clip_builds_the_vision_tower_only_and_only_as_far_as_it_is_read():
    with torch.device('meta'):
        backbone = MODELS.build(dict(type='CLIPVision', arch='ViT-L-14-quickgelu'))
        maps = backbone(torch.empty(1, 3, 224, 224))
        early = CLIPVision(arch='ViT-L/14', out_indices=[5])
    assert [level.shape for level in maps] == [(1, 1024, 16, 16)]
    names = [name for name, _ in backbone.named_parameters()]
    assert not [n for n in names if n.startswith(('ln_post', 'proj', 'text', 'token', 'logit'))]
    assert (len(backbone.blocks), len(early.blocks)) == (24, 6)
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6) == 303
    assert backbone.quick_gelu and not early.quick_gelu


@pytest.mark.parametrize('arch', ['ViT-B-32', 'ViT-B-16', 'ViT-L-14', 'ViT-L-14-336', 'ViT-H-14'])
def test_clip_public_archs(arch):
    with torch.device('meta'):
        backbone = CLIPVision(arch=arch)
        config = open_clip.get_model_config(arch)['vision_cfg']
        side = 3 * config['patch_size']
        level = backbone(torch.empty(1, 3, side, side))[0]
    assert level.shape == (1, config['width'], 3, 3)
    assert backbone.blocks[0].attn.num_heads == config['width'] // config.get('head_width', 64)


# Each.


@EACH
@pytest.mark.parametrize('taps', [None, [0], [0, 1], [-1]])
@pytest.mark.parametrize('size', [(112, 112), (112, 224)])
def test_I13_no_parameter_is_unused(name, taps, size):
    backbone = build(name, out_indices=taps).train()
    sum((level**3).mean() for level in backbone(torch.randn(2, 3, *size))).backward()
    unused = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []


def test_I13_no_parameter_is_unused_with_swiglu_and_checkpointing():
    for build_tiny in (tiny_dinov2, tiny_dinov3):
        backbone = build_tiny(swiglu=True, with_cp=True).train()
        sum((level**2).mean() for level in backbone(torch.randn(2, 3, 112, 112))).backward()
        assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@EACH_TRANSFORMER
def test_recomputing_changes_memory_not_gradients(name):
    grads = []
    for with_cp in (False, True):
        backbone = build(name, with_cp=with_cp).train()
        (backbone(torch.ones(1, 3, 112, 112))[0] ** 2).mean().backward()
        grads.append([p.grad for p in backbone.parameters()])
    for left, right in zip(*grads, strict=True):
        torch.testing.assert_close(left, right)


@EACH
def test_blocks_behind_the_last_tap_do_not_exist(name):
    backbone = build(name, out_indices=[0, 1])
    whole = build(name)
    assert len(backbone.blocks) == 2
    assert not [k for k in backbone.state_dict() if k.startswith(f'{backbone.block_prefix}2.')]
    assert len(whole.blocks) == whole.depth == backbone.depth
    if getattr(backbone, 'dense', False):
        backbone = build(name, out_indices=[0, 1], dense=False)
    backbone.keep_tap(0)
    assert backbone.out_indices == (0,) and len(backbone.blocks) == 1
    assert len(backbone(torch.randn(1, 3, 112, 112))) == 1


@EACH_TRANSFORMER
def test_negative_index_is_from_the_end_of_the_whole_depth(name):
    backbone = build(name, out_indices=[-2])
    assert backbone.out_indices == (backbone.depth - 2,)


@EACH
def test_frozen_stays_in_evaluation_and_without_gradient(name):
    backbone = build(name, frozen=True)
    assert backbone.train() is backbone
    assert not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    free = build(name)
    assert free.train() is free and free.eval() is free and not free.training
    assert all(module.training for module in free.train().modules())


ATTENTION = {  # tensors of one block's attention, in each model's own words
    'DINOv2': 5,
    'DINOv3': 5,
    'CLIPVision': 4,
    'CLIPVision as MaskCLIP': 4,
}


@EACH_TRANSFORMER
@pytest.mark.parametrize('with_cp', [False, True])
def test_trainable_parts_get_gradients_and_the_others_none(name, with_cp):
    backbone = build(name, trainable=('attn',), out_indices=[0, 1], with_cp=with_cp).train()
    free = [n for n, p in backbone.named_parameters() if p.requires_grad]
    assert len(free) == 2 * ATTENTION[name] and all('.attn.' in n for n in free)
    sum((level**3).mean() for level in backbone(torch.randn(1, 3, 112, 112))).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is not None] == free
    whole = build(name, out_indices=[0, 1], with_cp=with_cp).train()
    torch.manual_seed(5)
    images = torch.randn(1, 3, 112, 112)
    for model in (backbone, whole):
        model.zero_grad()
        sum((level**3).mean() for level in model(images)).backward()
    grads = {n: p.grad for n, p in whole.named_parameters()}
    for n, p in backbone.named_parameters():
        assert p.grad is None or torch.equal(p.grad, grads[n])


@EACH_TRANSFORMER
def test_what_comes_before_the_first_trainable_part_builds_no_graph(name):
    backbone = build(name, trainable=['1.attn.'], out_indices=[1]).train()
    seen = []
    for index in (0, 1):
        backbone.blocks[index].register_forward_hook(
            lambda _, args, out: seen.append((args[0].requires_grad, out.requires_grad))
        )
    level = backbone(torch.randn(1, 3, 112, 112))[0]
    assert seen[0] == (False, False) and seen[1:] in ([(False, True)], [])  # a value path: no call
    assert level.requires_grad


@EACH_TRANSFORMER
def test_trainable_is_one_name_or_several_and_none_is_all(name):
    assert [p.requires_grad for p in build(name, trainable='attn').parameters()] == [
        p.requires_grad for p in build(name, trainable=['attn']).parameters()
    ]
    fixed = [n for n, p in build(name).named_parameters() if not p.requires_grad]
    assert fixed == (['proj'] if 'Mask' in name else [])


@EACH_TRANSFORMER
@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(trainable=['attn'], frozen=True), r"trainable=\['attn'\] with frozen=True"),
        (dict(trainable=[]), r'trainable=\[\].*at least one part'),
        (dict(trainable=['attn', 'lora']), r"name contains 'lora'.*names are like \w+"),
    ],
)
def test_trainable_that_makes_no_sense_is_told(name, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        build(name, **kwargs)
    assert str(error.value).endswith('.') and '\n' not in str(error.value)


@EACH_TRANSFORMER
def test_outputs_are_maps_of_any_batch_and_type(name):
    backbone = build(name)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        level = backbone(torch.randn(3, 3, 224, 112))[-1]
    grid = (224 // backbone.patch_size, 112 // backbone.patch_size)
    assert level.shape == (3, backbone.out_channels[-1], *grid)


@EACH_TRANSFORMER
def test_size_that_is_no_multiple_of_the_patch_names_itself_and_the_remedy(name):
    backbone = build(name)
    patch = backbone.patch_size
    with pytest.raises(ValueError, match=rf'60 x 50 pixels .* multiples of its patch size {patch}'):
        backbone(torch.randn(1, 3, 60, 50))
    near = f'{round(60 / patch) * patch} x {round(50 / patch) * patch}'
    with pytest.raises(ValueError, match=f'resize to {near}'):
        backbone(torch.randn(1, 3, 60, 50))


@EACH
def test_init_weights_twice_changes_nothing(name):
    backbone = build(name)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone.init_weights()
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


def test_random_start_is_that_of_vision_transformers():
    for backbone in (
        DINOv2(arch=TINY, img_size=56),
        DINOv3(arch=TINY_DINOV3),
        CLIPVision(arch=TINY_CLIP),
    ):
        backbone.init_weights()
        for module in backbone.modules():
            if isinstance(module, nn.Linear):
                assert 0.01 < module.weight.std() < 0.03
                assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize(
    ('cls', 'kwargs', 'message'),
    [
        (DINOv2, dict(arch='tiny'), "no arch 'tiny'.*small, base, large, giant"),
        (DINOv2, dict(arch=dict(embed_dims=16)), 'num_heads, num_layers is missing'),
        (DINOv2, dict(arch={**TINY, 'depth': 3}), 'depth is missing or unknown'),
        (DINOv2, dict(arch={**TINY, 'num_heads': 3}), 'num_heads=3'),
        (DINOv2, dict(arch=TINY, img_size=60), 'img_size=60.*give 56'),
        (DINOv2, dict(arch=TINY, out_indices=[4]), r'4 blocks.*out_indices=\[4\]'),
        (DINOv2, dict(arch=TINY, out_indices=[2, 1]), 'ascending'),
        (DINOv2, dict(arch=TINY, out_indices=[]), 'ascending'),
        (DINOv2, dict(arch=TINY, drop_path_rate=1.0), r'drop_path_rate=1\.0'),
        (DINOv2, dict(arch=TINY, layer_scale=0.0), r'layer_scale=0\.0'),
        (DINOv2, dict(arch=TINY, init_cfg=dict(type='Xavier')), 'Pretrained'),
        (DINOv3, dict(arch='giant'), "no arch 'giant'.*small, small_plus, base, large, huge_plus"),
        (DINOv3, dict(arch=dict(embed_dims=16)), 'num_heads, num_layers is missing'),
        (DINOv3, dict(arch={**TINY_DINOV3, 'depth': 3}), 'depth is missing or unknown'),
        (DINOv3, dict(arch={**TINY_DINOV3, 'num_heads': 8}), 'num_heads=8.*multiple of 4'),
        (DINOv3, dict(arch=TINY_DINOV3, out_indices=[3]), r'3 blocks.*out_indices=\[3\]'),
        (CLIPVision, dict(arch='ViT-Q-7'), "no arch 'ViT-Q-7'.*ViT-L-14"),
        (CLIPVision, dict(arch='RN50'), "no arch 'RN50'.*plain ViT"),
        (CLIPVision, dict(arch='ViT-B-16-SigLIP'), 'plain ViT'),
        (CLIPVision, dict(arch=dict(width=16)), 'heads, image_size, layers, patch_size is missing'),
        (CLIPVision, dict(arch={**TINY_CLIP, 'image_size': 30}), 'image_size'),
        (CLIPVision, dict(arch=TINY_CLIP, out_indices=[-4]), '3 blocks'),
        (CLIPVision, dict(arch=TINY_CLIP, dense=True), 'dense=True needs embed_dim'),
    ],
)
def test_wrong_arguments_are_told_in_one_sentence(cls, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        cls(**kwargs)
    assert str(error.value).endswith('.') and '\n' not in str(error.value)
