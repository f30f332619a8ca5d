# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""CLIP in the form of MaskCLIP: value paths and a dense map in the space of the text embeddings."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from mmseg.registry import MODELS
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

import mmseg_semi_rs  # noqa: F401
from mmseg_semi_rs.models.backbones import CLIPVision
from mmseg_semi_rs.models.backbones.clip_blocks import LeanQuickGELU
from tests._support import weight_files
from tests._support.backbones import TINY_CLIP, TINY_OPENAI, timm_clip, tiny_clip
from tests._support.weight_files import saved

ARCH = {**TINY_CLIP, 'quick_gelu': True, 'embed_dim': 8}
MODES = pytest.mark.parametrize(
    ('value_path', 'dense'), [(True, True), (True, False), (False, True), (False, False)]
)


def student(**kwargs) -> CLIPVision:
    """A tiny backbone all of whose tensors matter."""
    torch.manual_seed(0)
    settings = dict(arch=ARCH, out_indices=[0, 1, 2], value_path=True, dense=True)
    backbone = CLIPVision(**{**settings, **kwargs})
    backbone.init_weights()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return backbone.eval()


# The formulas in the plainest way; attention is that of nn.MultiheadAttention itself.


def plain_clip(
    backbone: CLIPVision,
    images: Tensor,
    value_path: bool,
    dense: bool,
    eps: float = 1e-5,
    quick: bool = True,
) -> list[Tensor]:
    weights = backbone.state_dict()
    width, patch = 16, 8
    grid = images.shape[2] // patch, images.shape[3] // patch

    def norm(x, name):
        mean = x.mean(-1, keepdim=True)
        x = (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + eps)
        return x * weights[name + '.weight'] + weights[name + '.bias']

    def linear(x, name):
        return x @ weights[name + '.weight'].T + weights[name + '.bias']

    def feed_forward(x, block):
        y = linear(norm(x, block + 'ln_2'), block + 'mlp.c_fc')
        y = y * torch.sigmoid(1.702 * y) if quick else 0.5 * y * (1 + torch.erf(y / 2**0.5))
        return x + linear(y, block + 'mlp.c_proj')

    cells = F.unfold(images, patch, stride=patch).transpose(1, 2)
    x = cells @ weights['conv1.weight'].reshape(width, -1).T
    x = torch.cat([weights['class_embedding'].expand(len(x), 1, width), x], 1)
    x = norm(x + backbone.position_embedding(grid), 'ln_pre')
    maps = []
    for i in range(3):
        block = f'transformer.resblocks.{i}.'
        y = norm(x, block + 'ln_1')
        v_weight = weights[block + 'attn.in_proj_weight'][2 * width :]
        v = y @ v_weight.T + weights[block + 'attn.in_proj_bias'][2 * width :]
        values = feed_forward(x + linear(v, block + 'attn.out_proj'), block)
        attention = nn.MultiheadAttention(width, 2, batch_first=True).train()
        attention.load_state_dict(
            {k.split('.attn.')[1]: v for k, v in weights.items() if k.startswith(block + 'attn.')}
        )
        x = feed_forward(x + attention(y, y, y, need_weights=True)[0], block)
        maps.append(values if value_path else x)
    if dense:
        embedding = norm(maps[-1], 'ln_post') @ weights['proj']
        maps[-1] = embedding / (embedding**2).sum(-1, keepdim=True).sqrt()
    return [m[:, 1:].reshape(len(m), *grid, -1).permute(0, 3, 1, 2) for m in maps]


@MODES
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('size', [(32, 32), (24, 40), (8, 8)])
def test_C20_maps_are_the_plain_formula_at_any_size(value_path, dense, training, size):
    backbone = student(value_path=value_path, dense=dense).train(training)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = plain_clip(backbone, images, value_path, dense)
    maps = backbone(images)
    channels = (16, 16, 8 if dense else 16)
    assert backbone.out_channels == channels
    assert [m.shape for m in maps] == [(2, c, size[0] // 8, size[1] // 8) for c in channels]
    for level, want in zip(maps, expected, strict=True):
        torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-5)


def test_dense_map_has_length_one_everywhere():
    level = student()(torch.randn(2, 3, 32, 48))[-1]
    torch.testing.assert_close(level.norm(dim=1), torch.ones(2, 4, 6))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        level = student()(torch.randn(2, 3, 32, 48))[-1]
    assert level.dtype == torch.float32
    torch.testing.assert_close(level.norm(dim=1), torch.ones(2, 4, 6))


@pytest.mark.parametrize('quick', [False, True])
@pytest.mark.parametrize('training', [False, True])
def test_ordinary_maps_are_open_clips_own_bit_for_bit(quick, training):
    torch.manual_seed(3)
    tower = open_clip.model._build_vision_tower(
        8,
        dict(width=16, layers=3, head_width=8, patch_size=8, image_size=32),
        quick_gelu=quick,
    )
    backbone = CLIPVision(arch={**ARCH, 'quick_gelu': quick}, out_indices=[0, 2])
    backbone.load_state_dict(
        {k: v for k, v in tower.state_dict().items() if not k.startswith(('ln_post', 'proj'))}
    )
    images = torch.randn(2, 3, 32, 32)
    with torch.set_grad_enabled(training):
        expected = tower.train(training).forward_intermediates(images, indices=[0, 2])
        maps = backbone.train(training)(images)
    for level, want in zip(maps, expected['image_intermediates'], strict=True):
        assert torch.equal(level, want)


def test_dense_map_of_ordinary_tokens_is_what_open_clip_would_embed():
    torch.manual_seed(3)
    tower = open_clip.model._build_vision_tower(
        8, dict(width=16, layers=3, head_width=8, patch_size=8, image_size=32), quick_gelu=True
    ).eval()
    backbone = student(value_path=False)
    backbone.load_state_dict(tower.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = tower.forward_intermediates(images, indices=[2], output_fmt='NLC')
        embedding = tower.ln_post(tokens['image_intermediates'][0]) @ tower.proj
        want = F.normalize(embedding, dim=-1).transpose(1, 2).unflatten(2, (4, 4))
        torch.testing.assert_close(backbone(images)[-1], want, atol=1e-5, rtol=1e-5)


def test_values_of_one_place_do_not_reach_another():
    backbone = student(out_indices=[0])
    images = torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[..., :8, :8] += 1
    with torch.no_grad():
        difference = (backbone(changed)[0] - backbone(images)[0]).abs().sum(1)[0]
    assert difference[0, 0] > 1e-3 and difference.flatten()[1:].max() < 1e-6


# C7: activation and epsilon are those of the weights.


@MODES
@pytest.mark.parametrize('quick', [False, True])
def test_C7_activation_is_the_chosen_one(value_path, dense, quick):
    backbone = student(arch={**ARCH, 'quick_gelu': quick}, value_path=value_path, dense=dense)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        maps = backbone(images)
        right = plain_clip(backbone, images, value_path, dense, quick=quick)
        wrong = plain_clip(backbone, images, value_path, dense, quick=not quick)
    for level, want, other in zip(maps, right, wrong, strict=True):
        torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-5)
        assert (level - other).abs().max() > 1e-4


@MODES
@pytest.mark.parametrize('eps', [1e-5, 1e-6, 1e-2])
def test_C7_norm_eps_is_that_of_all_norms_and_matters(value_path, dense, eps):
    backbone = student(norm_eps=eps, value_path=value_path, dense=dense)
    assert {m.eps for m in backbone.modules() if isinstance(m, nn.LayerNorm)} == {eps}
    with torch.no_grad():
        for parameter in (backbone.conv1.weight, backbone.class_embedding):
            parameter.mul_(1e-3)
        backbone.positional_embedding.mul_(1e-2)
        images = torch.rand(1, 3, 32, 32)
        maps = backbone(images)
        right = plain_clip(backbone, images, value_path, dense, eps)
        wrong = plain_clip(backbone, images, value_path, dense, 1e-6 if eps == 1e-5 else 1e-5)
    for level, want, other in zip(maps, right, wrong, strict=True):
        torch.testing.assert_close(level, want, atol=2e-5, rtol=1e-5)
        assert (level - other).abs().max() > 1e-3


def test_C7_norm_eps_is_that_of_the_arch_unless_given():
    with torch.device('meta'):
        for arch, norm_eps, expected in (
            ('ViT-B-16-quickgelu', None, 1e-5),
            ('ViT-B-16-quickgelu', 1e-6, 1e-6),
            (ARCH, None, 1e-5),
        ):
            backbone = CLIPVision(arch=arch, norm_eps=norm_eps)
            assert {m.eps for m in backbone.modules() if isinstance(m, nn.LayerNorm)} == {expected}


# Leanness: what is not needed is not computed, what can be computed again is not kept.


def test_value_path_computes_query_key_and_value_once_and_no_attention_of_the_last(monkeypatch):
    backbone = student(out_indices=[0, 2]).train()
    rows, attended = [], []
    linear, attention = F.linear, F.scaled_dot_product_attention

    def spy_linear(features, weight, bias=None):
        rows.append(weight.shape[0])
        return linear(features, weight, bias)

    def spy_attention(*args, **kwargs):
        attended.append(1)
        return attention(*args, **kwargs)

    monkeypatch.setattr(F, 'linear', spy_linear)
    monkeypatch.setattr(F, 'scaled_dot_product_attention', spy_attention)
    backbone(torch.randn(1, 3, 32, 32))
    behind = [16, 64, 16]  # out_proj and the feed-forward layer
    assert rows == [48, *behind, *behind, 48, *behind, 16, *behind]
    assert len(attended) == 2


@pytest.mark.parametrize('with_cp', [False, True])
@MODES
def test_I13_all_that_trains_gets_its_gradient(value_path, dense, with_cp):
    kwargs = dict(value_path=value_path, dense=dense, out_indices=[0, 2])
    backbone = student(**kwargs, with_cp=with_cp, trainable=('attn',)).train()
    images = torch.randn(2, 3, 32, 32)
    sum((level**3).mean() for level in backbone(images)).backward()
    free = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
    assert len(free) == 12 and all(p.grad.any() for p in free.values())
    other = student(**kwargs).train()
    sum((level**3).mean() for level in plain_trainable(other, images, value_path, dense)).backward()
    for name, parameter in free.items():
        want = dict(other.named_parameters())[name].grad
        torch.testing.assert_close(parameter.grad, want, atol=1e-6, rtol=1e-4)
    assert not any(p.grad is not None for n, p in backbone.named_parameters() if n not in free)


def plain_trainable(backbone, images, value_path, dense):
    """The same maps by other means: masks that let each place attend to itself alone."""
    grid = images.shape[2] // 8, images.shape[3] // 8
    tokens = backbone.conv1(images).flatten(2).transpose(1, 2)
    first = backbone.class_embedding.expand(len(images), 1, -1)
    tokens = torch.cat([first, tokens], 1) + backbone.position_embedding(grid)
    tokens = backbone.ln_pre(tokens)
    maps = []
    for index, block in enumerate(backbone.blocks):
        alone = torch.full((tokens.shape[1],) * 2, float('-inf')).fill_diagonal_(0.0)
        values = block(tokens, attn_mask=alone)
        tokens = block(tokens)
        if index in backbone.out_indices:
            maps.append(values if value_path else tokens)
    if dense:
        maps[-1] = F.normalize(backbone.ln_post(maps[-1]) @ backbone.proj, dim=-1)
    return [m[:, 1:] for m in maps]


def test_lean_quick_gelu_is_quick_gelu_and_keeps_its_input_alone():
    torch.manual_seed(0)
    one = (torch.randn(7, 9, dtype=torch.float64) * 4).requires_grad_()
    other = one.detach().clone().requires_grad_()
    kept = {}
    for features, activation in ((one, LeanQuickGELU()), (other, QuickGELU())):
        shapes = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, shapes=shapes: shapes.append(t.shape) or t, lambda t: t
        )
        with hooks:
            out = activation(features * 1.0)
        kept[type(activation)] = [s for s in shapes if len(s) == 2]
        (out**2).sum().backward()
    assert torch.equal(LeanQuickGELU()(one), QuickGELU()(other))
    torch.testing.assert_close(one.grad, other.grad)
    assert len(kept[LeanQuickGELU]) == 1 < len(kept[QuickGELU])
    assert torch.autograd.gradcheck(LeanQuickGELU(), one)


def test_every_quick_gelu_is_the_lean_one():
    kinds = [type(m) for m in student().modules() if 'QuickGELU' in type(m).__name__]
    assert kinds == [LeanQuickGELU] * 3


# Sizes and taps.


def test_co2s_student_has_the_published_sizes():
    with torch.device('meta'):
        backbone = MODELS.build(
            dict(
                type='CLIPVision',
                arch='ViT-B-16-quickgelu',
                out_indices=(0, 4, 11),
                value_path=True,
                dense=True,
                trainable=('attn',),
                norm_eps=1e-5,
            )
        )
        maps = backbone(torch.empty(1, 3, 512, 256))
    free = [p for p in backbone.parameters() if p.requires_grad]
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 2) == 86.19
    assert round(sum(p.numel() for p in free) / 1e6, 2) == 28.35
    assert len(free) == 48
    assert [m.shape[1:] for m in maps] == [(768, 32, 16), (768, 32, 16), (512, 32, 16)]
    assert backbone.out_channels == (768, 768, 512)


def test_projection_stays_frozen():
    assert not student().proj.requires_grad
    assert not student(trainable=('proj',)).proj.requires_grad
    assert student(trainable=('proj',)).blocks[0].attn.out_proj.weight.requires_grad


def test_keep_tap_of_value_paths_and_of_the_dense_map():
    images = torch.randn(1, 3, 32, 32)
    whole = student(dense=False)
    middle = whole(images)[1]
    whole.keep_tap(1)
    assert len(whole.blocks) == 2 and whole.out_channels == (16,)
    torch.testing.assert_close(whole(images)[0], middle)
    dense = student()
    last = dense(images)[-1]
    with pytest.raises(ValueError, match=r'dense=True.*index 0: keep index -1, or set dense=False'):
        dense.keep_tap(0)
    dense.keep_tap(-1)
    assert dense.out_channels == (8,)
    torch.testing.assert_close(dense(images)[0], last)


def test_only_plain_attention_has_a_value_path(monkeypatch):
    vision = dict(width=16, layers=3, head_width=8, patch_size=8, image_size=32, qk_norm=True)
    monkeypatch.setattr(
        open_clip, 'get_model_config', lambda name: dict(embed_dim=8, vision_cfg=vision)
    )
    CLIPVision(arch='ViT-other')
    with pytest.raises(ValueError, match=r'another attention than plain CLIP.*value_path=False'):
        CLIPVision(arch='ViT-other', value_path=True)


# Weight files: what lies behind the blocks is loaded here, and left out elsewhere.


def initialise(checkpoint: Path, **kwargs) -> CLIPVision:
    settings = dict(type='CLIPVision', arch=ARCH, value_path=True, dense=True)
    backbone = MODELS.build({**settings, 'checkpoint': str(checkpoint), **kwargs})
    backbone.init_weights()
    return backbone


def assert_openai_loaded(backbone: CLIPVision, openai: dict[str, Tensor]) -> None:
    expected = {k.removeprefix('visual.'): v for k, v in openai.items() if k.startswith('visual.')}
    found = backbone.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.float()), name


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_I1_openai_names(tmp_path, dtype):
    openai = weight_files.fill(weight_files.openai_clip(**TINY_OPENAI), dtype)
    assert_openai_loaded(initialise(saved(tmp_path, openai)), openai)


@pytest.mark.parametrize('prefix', ['', 'clip.'])
def test_I1_huggingface_names(tmp_path, prefix):
    openai = weight_files.fill(weight_files.openai_clip(**TINY_OPENAI))
    converted = {prefix + k: v for k, v in weight_files.hf_clip_from_openai(openai).items()}
    assert_openai_loaded(initialise(saved(tmp_path, converted), quick_gelu=True), openai)
    del converted[prefix + 'visual_projection.weight']
    with pytest.raises(ValueError, match='missing in the file: proj:'):
        initialise(saved(tmp_path, converted), quick_gelu=True)


def test_I1_timm_names(tmp_path):
    model = timm_clip()
    nn.init.normal_(model.norm.weight)
    nn.init.normal_(model.head.weight)
    backbone = initialise(saved(tmp_path, model.state_dict()), quick_gelu=True, value_path=False)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        tokens = model.forward_features(images)[:, 1:]
        want = F.normalize(tokens @ model.head.weight.T, dim=-1).transpose(1, 2)
        torch.testing.assert_close(
            backbone.eval()(images)[-1].flatten(2), want, atol=1e-5, rtol=1e-5
        )


def test_checkpoint_of_this_very_student(tmp_path):
    source = student()
    state = {f'students.a.backbone.{k}': v for k, v in source.state_dict().items()}
    found = initialise(saved(tmp_path, {'state_dict': state})).state_dict()
    assert found.keys() == source.state_dict().keys()
    assert all(torch.equal(found[k], v) for k, v in source.state_dict().items())
    plain = tiny_clip(arch={'quick_gelu': True}, checkpoint=str(tmp_path / 'weights.pth'))
    assert torch.equal(plain.ln_pre.weight, source.ln_pre.weight)
