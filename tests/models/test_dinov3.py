# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from mmseg.registry import MODELS
from timm.layers import LayerNorm
from torch import Tensor, nn
from torch.nn import functional as F

import mmseg_semi_rs  # noqa: F401
from mmseg_semi_rs.models.backbones import DINOv2, DINOv3
from mmseg_semi_rs.models.backbones.dinov3 import ARCHS
from mmseg_semi_rs.models.backbones.rotary_attention import rotary_embedding, rotary_periods
from mmseg_semi_rs.models.weights import load_pretrained
from tests._support import weight_files
from tests._support.backbones import TINY_DINOV3 as TINY
from tests._support.backbones import tiny_dinov2, tiny_dinov3
from tests._support.weight_files import saved

TINY_META = dict(width=16, depth=3)
SWIGLU = pytest.mark.parametrize('swiglu', [False, True])
SIZES = pytest.mark.parametrize('size', [(64, 64), (32, 80), (16, 16), (112, 48)])


def timm_dinov3(swiglu: bool = False, qkv_bias: bool = True, norm_eps: float = 1e-5) -> nn.Module:
    """timm's own tiny model, with the arguments of its vit_*_patch16_dinov3."""
    torch.manual_seed(0)
    model = timm.models.eva.Eva(
        patch_size=16,
        dynamic_img_size=True,
        embed_dim=16,
        depth=3,
        num_heads=2,
        num_classes=0,
        qkv_bias=qkv_bias,
        init_values=1.0e-05,
        rope_type='dinov3',
        rope_temperature=100,
        rope_rotate_half=True,
        use_rot_pos_emb=True,
        use_abs_pos_emb=False,
        swiglu_mlp=swiglu,
        swiglu_align_to=8,
        num_reg_tokens=4,
        use_fc_norm=False,
        norm_layer=partial(LayerNorm, eps=norm_eps),
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


# The formula of DINOv3 in the plainest way, with timm's names.


def plain_dinov3(
    weights: dict[str, Tensor], images: Tensor, taps: tuple[int, ...], eps: float = 1e-5
) -> list[Tensor]:
    heads, width, patch = 2, 16, 16
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    size = width // heads

    def norm(x, name):
        mean = x.mean(-1, keepdim=True)
        x = (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + eps)
        return x * weights[name + '.weight'] + weights[name + '.bias']

    def linear(x, name):
        return x @ weights[name + '.weight'].T + weights[name + '.bias']

    def rotate(vector):
        """Turn one head's vectors; channel pairs are (j, j + size / 2)."""
        turned = vector.clone()
        for place in range(rows * columns):
            down = 2 * (place // columns + 0.5) / rows - 1
            across = 2 * (place % columns + 0.5) / columns - 1
            for j in range(size // 2):
                coordinate = down if j < size // 4 else across
                angle = 2 * math.pi * coordinate / 100 ** (j % (size // 4) / (size // 4))
                one, two = vector[:, 5 + place, j], vector[:, 5 + place, j + size // 2]
                turned[:, 5 + place, j] = one * math.cos(angle) - two * math.sin(angle)
                turned[:, 5 + place, j + size // 2] = two * math.cos(angle) + one * math.sin(angle)
        return turned

    cells = F.unfold(images, patch, stride=patch).transpose(1, 2)
    kernel = weights['patch_embed.proj.weight'].reshape(width, -1)
    x = cells @ kernel.T + weights['patch_embed.proj.bias']
    first = torch.cat([weights['cls_token'], weights['reg_token']], 1).repeat(len(x), 1, 1)
    x = torch.cat([first, x], 1)
    maps = []
    for i in range(max(taps) + 1):
        block = f'blocks.{i}.'
        y = norm(x, block + 'norm1')
        q, k, v = (y @ weights[block + 'attn.qkv.weight'].T).chunk(3, -1)
        q, v = q + weights[block + 'attn.q_bias'], v + weights[block + 'attn.v_bias']
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = rotate(q[..., part]) @ rotate(k[..., part]).transpose(1, 2) / size**0.5
            mixed.append(scores.softmax(-1) @ v[..., part])
        x = x + weights[block + 'gamma_1'] * linear(torch.cat(mixed, -1), block + 'attn.proj')
        y = norm(x, block + 'norm2')
        if block + 'mlp.fc1_g.weight' in weights:
            gate = linear(y, block + 'mlp.fc1_g')
            y = gate * torch.sigmoid(gate) * linear(y, block + 'mlp.fc1_x')
        else:
            y = linear(y, block + 'mlp.fc1')
            y = 0.5 * y * (1 + torch.erf(y / 2**0.5))
        x = x + weights[block + 'gamma_2'] * linear(y, block + 'mlp.fc2')
        if i in taps:
            found = norm(x, 'norm')[:, 5:]
            maps.append(found.reshape(len(x), rows, columns, width).permute(0, 3, 1, 2))
    return maps


@SWIGLU
@SIZES
def test_C8_C20_dinov3_is_the_plain_formula_at_any_size(swiglu, size):
    backbone = tiny_dinov3(swiglu=swiglu, out_indices=[0, 2])
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        maps = backbone(images)
        expected = plain_dinov3(backbone.state_dict(), images, (0, 2))
    assert len(maps) == 2
    for level, want in zip(maps, expected, strict=True):
        assert level.shape == (2, 16, size[0] // 16, size[1] // 16)
        torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-5)


@SWIGLU
@SIZES
@pytest.mark.parametrize('qkv_bias', [False, True])
def test_C8_dinov3_has_timms_own_features(swiglu, size, qkv_bias):
    model = timm_dinov3(swiglu, qkv_bias)
    arch = {**TINY, 'swiglu': swiglu}
    backbone = DINOv3(arch=arch, qkv_bias=qkv_bias, out_indices=[0, 1, 2]).eval()
    backbone.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = model.forward_intermediates(
            images, indices=[0, 1, 2], norm=True, intermediates_only=True
        )
        for level, want in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-5)


def test_C8_norm_eps_is_that_of_all_norms_and_matters():
    backbone = tiny_dinov3(out_indices=[2])
    nn.init.constant_(backbone.patch_embed.proj.weight, 1e-4)
    images = torch.rand(1, 3, 32, 32)
    state = backbone.state_dict()
    with torch.no_grad():
        for eps in (1e-5, 1e-6, 1e-2):
            other = DINOv3(arch=TINY, out_indices=[2], norm_eps=eps).eval()
            other.load_state_dict(state)
            assert {m.eps for m in other.modules() if isinstance(m, nn.LayerNorm)} == {eps}
            level = other(images)[0]
            (want,) = plain_dinov3(state, images, (2,), eps)
            (default,) = plain_dinov3(state, images, (2,))
            torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-5)
            assert (eps == 1e-5) == torch.allclose(level, default, atol=1e-5)
        torch.testing.assert_close(backbone(images)[0], plain_dinov3(state, images, (2,))[0])


def test_every_map_passes_the_final_norm():
    backbone = tiny_dinov3(out_indices=[0, 1, 2])
    nn.init.ones_(backbone.norm.weight)
    nn.init.zeros_(backbone.norm.bias)
    for level in backbone(torch.randn(1, 3, 64, 64)):
        zeros = torch.zeros_like(level.mean(1))
        torch.testing.assert_close(level.mean(1), zeros, atol=1e-5, rtol=0)
        torch.testing.assert_close(level.var(1, False), zeros + 1, atol=1e-3, rtol=0)


# Rotary positions.


def test_C8_rotary_embedding_is_timms():
    rope = timm_dinov3().rope
    for grid in ((1, 1), (3, 5), (32, 32)):
        torch.testing.assert_close(
            rotary_embedding(grid, 8), rope.get_embed(grid), atol=1e-6, rtol=0
        )
    torch.testing.assert_close(rotary_periods(8), torch.tensor([1.0, 10.0]))


@pytest.mark.parametrize('kind', ['autocast', 'half'])
def test_C8_rotation_is_done_in_fp32_whatever_the_model_computes_in(kind, monkeypatch):
    backbone = tiny_dinov3(out_indices=[0])
    images = torch.randn(1, 3, 64, 64)
    rotations, seen, projected = [], [], []
    backbone.blocks[0].register_forward_pre_hook(lambda _, args: rotations.append(args[1]))
    attention = F.scaled_dot_product_attention

    def spy(query, key, value, **kwargs):
        seen.append((query, key))
        return attention(query, key, value, **kwargs)

    linear = F.linear

    def spy_linear(features, weight, bias=None):
        out = linear(features, weight, bias)
        if weight.shape[0] == 32:
            projected.append(out)
        return out

    monkeypatch.setattr(F, 'scaled_dot_product_attention', spy)
    monkeypatch.setattr(F, 'linear', spy_linear)
    with torch.no_grad():
        if kind == 'half':
            backbone.bfloat16()(images.bfloat16())
        else:
            with torch.autocast('cpu', dtype=torch.bfloat16):
                backbone(images)
    assert rotations[0].dtype == torch.float32
    assert torch.equal(rotations[0], rotary_embedding((4, 4), 8))
    assert projected[0].dtype == torch.bfloat16

    def turn(vector, dtype):
        sines, cosines = rotations[0].to(dtype).chunk(2, -1)
        one, two = vector.to(dtype).chunk(2, -1)
        return (vector * cosines + torch.cat([-two, one], -1) * sines).bfloat16()

    for index, vector in enumerate(seen[0]):
        raw = projected[0].reshape(1, 21, 2, 2, 8)[:, 5:, index].transpose(1, 2)
        assert torch.equal(vector[:, :, 5:], turn(raw, torch.float32))
        assert not torch.equal(vector[:, :, 5:], turn(raw, torch.bfloat16))


def test_positions_matter():
    backbone = tiny_dinov3(out_indices=[2])
    images = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        upright = backbone(images)[0]
        turned = backbone(images.flip(-1).unflatten(-1, (3, 16)).flip(-1).flatten(-2))[0]
    assert not torch.allclose(turned, upright.flip(-1), atol=1e-3)


# Sizes.


@pytest.mark.parametrize('arch', list(ARCHS))
def test_public_archs_have_the_sizes_of_timms(arch):
    with torch.device('meta'):
        backbone = MODELS.build(dict(type='DINOv3', arch=arch, qkv_bias=False))
        maps = backbone(torch.empty(1, 3, 224, 256))
        try:
            model = timm.create_model(f'vit_{arch}_patch16_dinov3', num_classes=0)
        except (NotImplementedError, RuntimeError):
            pytest.skip('this timm builds no model without memory')
    ours, timms = backbone.state_dict(), model.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in timms.items()}
    width = ARCHS[arch]['embed_dims']
    assert [level.shape for level in maps] == [(1, width, 14, 16)] * 4
    assert backbone.out_channels == (width,) * 4
    assert backbone.out_indices[-1] == backbone.depth - 1


def test_vit_b_has_28_million_parameters_to_train_in_its_attention():
    with torch.device('meta'):
        backbone = DINOv3(arch='base', out_indices=(2, 7, 11), trainable=('attn',))
    free = [p for p in backbone.parameters() if p.requires_grad]
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 2) == 85.66
    assert round(sum(p.numel() for p in free) / 1e6, 2) == 28.34
    assert len(free) == 60  # fused weight, biases of query and value, output weight and bias


# Weight files.


def tiny_meta(swiglu: bool = False, biases: bool = True, **kwargs) -> dict[str, Tensor]:
    shapes = weight_files.meta_dinov3(**{**TINY_META, **kwargs}, swiglu=swiglu, biases=biases)
    return weight_files.dinov3_file(shapes, head_width=8)


def initialise(path: Path, swiglu: bool = False, **kwargs) -> DINOv3:
    arch = {**TINY, 'swiglu': swiglu}
    backbone = MODELS.build(dict(type='DINOv3', arch=arch, checkpoint=str(path), **kwargs))
    backbone.init_weights()
    return backbone


def assert_meta_loaded(backbone: DINOv3, meta: dict[str, Tensor]) -> None:
    expected = weight_files.timm_dinov3_from_meta(meta)
    found = backbone.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize('arch', list(ARCHS))
def test_every_public_name_and_shape_fits(tmp_path, arch):
    public = weight_files.META_DINOV3[arch]
    assert ARCHS[arch]['num_layers'] == public['depth']
    shapes = weight_files.meta_dinov3(**{**public, 'depth': 3})  # all blocks are alike
    meta = weight_files.dinov3_file(shapes, 128 if arch == '7b' else 64)
    path = saved(tmp_path, meta)
    with torch.device('meta'):
        backbone = DINOv3(arch={**ARCHS[arch], 'num_layers': 3, 'out_indices': (0, 1, 2)})
    report = load_pretrained(backbone, path)
    assert report.format == 'Meta' and not report.resized
    assert len(report.loaded) == len(backbone.state_dict())
    dropped = {key for keys in report.dropped.values() for key in keys}
    masks = {key for key in meta if key.endswith('bias_mask')}
    local = {key for key in meta if key.startswith('local_cls_norm')}
    assert dropped == {'mask_token', 'rope_embed.periods'} | masks | local


@SWIGLU
def test_I1_C2_meta_file_is_bit_equal(tmp_path, swiglu):
    meta = tiny_meta(swiglu)
    assert_meta_loaded(initialise(saved(tmp_path, meta), swiglu), meta)


@SWIGLU
@pytest.mark.parametrize('layers', ['layer.', 'model.layer.'])
def test_huggingface_names(tmp_path, swiglu, layers):
    meta = tiny_meta(swiglu)
    converted = {
        key.replace('layer.', layers) if key.startswith('layer.') else key: tensor
        for key, tensor in weight_files.hf_dinov3_from_meta(meta).items()
    }
    saved(tmp_path, converted, 'model.safetensors')
    backbone = initialise(tmp_path, swiglu)  # the snapshot folder
    assert_meta_loaded(backbone, meta)


@SWIGLU
def test_timm_names(tmp_path, swiglu):
    meta = tiny_meta(swiglu)
    path = saved(tmp_path, weight_files.timm_dinov3_from_meta(meta), 'model.safetensors')
    assert_meta_loaded(initialise(path, swiglu), meta)
    model = timm_dinov3(swiglu)
    backbone = initialise(saved(tmp_path, model.state_dict()), swiglu).eval()
    images = torch.randn(1, 3, 48, 32)
    with torch.no_grad():
        (want,) = model.forward_intermediates(images, [2], norm=True, intermediates_only=True)
        torch.testing.assert_close(backbone(images)[-1], want, atol=1e-5, rtol=1e-5)


def test_checkpoint_that_contains_this_backbone_beside_others(tmp_path):
    source = tiny_dinov3()
    other = {f'students.a.backbone.{k}': v for k, v in tiny_dinov2().state_dict().items()}
    state = {f'students.b.backbone.{k}': v for k, v in source.state_dict().items()}
    path = saved(tmp_path, {'state_dict': other | state})
    found = initialise(path).state_dict()
    assert all(torch.equal(found[k], v) for k, v in source.state_dict().items())
    neighbour = DINOv2(arch={**TINY, 'num_layers': 4}, img_size=56)
    load_pretrained(neighbour, path)  # the registers of the other one do not disturb
    assert torch.equal(neighbour.cls_token, other['students.a.backbone.cls_token'])


def test_blocks_behind_the_last_tap_are_left_out_by_name(tmp_path):
    meta = tiny_meta()
    backbone = DINOv3(arch=TINY, out_indices=[0])
    report = load_pretrained(backbone, saved(tmp_path, meta))
    assert len(backbone.blocks) == 1
    behind = report.dropped['blocks behind the last one that is read']
    assert {key.split('.')[1] for key in behind} == {'1', '2'}
    dropped = {key for keys in report.dropped.values() for key in keys}
    assert len(dropped) + len(report.loaded) == len(meta) + 1  # one bias became two


# Biases of query, key and value.


def test_meta_bias_is_split_and_what_the_mask_hides_is_left_out(tmp_path):
    meta = tiny_meta()
    assert all(meta[f'blocks.{i}.attn.qkv.bias'].chunk(3)[1].any() for i in range(3))
    backbone = initialise(saved(tmp_path, meta))
    for i, block in enumerate(backbone.blocks):
        query, _, value = meta[f'blocks.{i}.attn.qkv.bias'].chunk(3)
        assert torch.equal(block.attn.q_bias, query) and torch.equal(block.attn.v_bias, value)
    del meta['blocks.1.attn.qkv.bias_mask']
    with pytest.raises(ValueError, match=r'bias of the key \(blocks\.1\.attn\.qkv\.bias\)'):
        initialise(saved(tmp_path, meta))


def test_key_has_no_bias_and_query_and_value_train_theirs(tmp_path):
    backbone = initialise(saved(tmp_path, tiny_meta())).train()
    assert not list(backbone.buffers())
    biases = [n for n, _ in backbone.named_parameters() if 'attn' in n and 'bias' in n]
    assert {n.split('attn.')[1] for n in biases} == {'q_bias', 'v_bias', 'proj.bias'}
    sum((level**3).mean() for level in backbone(torch.randn(1, 3, 32, 32))).backward()
    assert backbone.blocks[0].attn.q_bias.grad.any() and backbone.blocks[0].attn.v_bias.grad.any()


def test_attention_keeps_no_more_than_it_needs_for_the_backward_pass():
    backbone = tiny_dinov3(out_indices=[0], trainable=['attn']).train()
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    alive = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is given out twice
        return tensor

    attention = backbone.blocks[0].attn
    tokens, rotation = torch.randn(1, 69, 16), rotary_embedding((8, 8), 8)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attention(tokens, rotation)
    one = tokens.untyped_storage().nbytes()
    tables = rotation.untyped_storage().nbytes()
    # tokens, query, key, value, what they mix to, laid out for proj; the softmax's sums
    assert sum(kept.values()) - tables < 6.5 * one


@pytest.mark.parametrize('convert', [None, 'timm', 'hf'])
def test_file_without_biases_is_one_with_zero_biases(tmp_path, convert):
    meta = tiny_meta(biases=False)
    tensors = {
        None: meta,
        'timm': weight_files.timm_dinov3_from_meta(meta),
        'hf': weight_files.hf_dinov3_from_meta(meta),
    }[convert]
    path = saved(tmp_path, tensors)
    with_bias, without = initialise(path).eval(), initialise(path, qkv_bias=False).eval()
    for block in with_bias.blocks:
        assert not block.attn.q_bias.any() and not block.attn.v_bias.any()
    images = torch.randn(1, 3, 32, 48)
    for one, other in zip(with_bias(images), without(images), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_biases_go_only_into_a_model_that_has_them_unless_they_are_zero(tmp_path):
    meta = tiny_meta()
    for key in [key for key in meta if key.endswith('qkv.bias')]:
        meta[key] = torch.zeros(48)
    report = load_pretrained(DINOv3(arch=TINY, qkv_bias=False), saved(tmp_path, meta))
    assert len(report.dropped['biases of query and value, all zero']) == 6
    meta['blocks.2.attn.qkv.bias'] = torch.zeros(48).index_fill(0, torch.tensor(40), 1e-3)
    with pytest.raises(ValueError, match=r'blocks\.2\.attn\.qkv\.bias.*set qkv_bias=True\.'):
        initialise(saved(tmp_path, meta), qkv_bias=False)


def test_bias_that_only_some_blocks_have_is_told(tmp_path):
    state = weight_files.timm_dinov3_from_meta(tiny_meta())
    del state['blocks.1.attn.v_bias']
    with pytest.raises(ValueError, match=r'missing in the file: blocks\.1\.attn\.v_bias:'):
        initialise(saved(tmp_path, state))


def test_model_built_without_memory_is_whole_after_loading(tmp_path):
    meta = tiny_meta()
    with torch.device('meta'):
        backbone = DINOv3(arch=TINY, checkpoint=str(saved(tmp_path, meta)))
    backbone.to_empty(device='cpu').init_weights()
    images = torch.randn(1, 3, 32, 32)
    expected = initialise(tmp_path / 'weights.pth').eval()(images)
    for level, want in zip(backbone.eval()(images), expected, strict=True):
        assert torch.equal(level, want)


# Faults.


def _wrong_periods(meta):
    return {**meta, 'rope_embed.periods': meta['rope_embed.periods'] * 1.2}


def _other_heads(meta):
    return {**meta, 'rope_embed.periods': torch.ones(4)}


def _dinov2(meta):
    return weight_files.fill(weight_files.meta_dinov2(16, 3, grid=4))


def _dinov2_with_registers(meta):
    return {**_dinov2(meta), 'register_tokens': torch.zeros(1, 4, 16)}


def _too_wide(meta):
    return tiny_meta(width=24)


def _gated(meta):
    return tiny_meta(swiglu=True)


@pytest.mark.parametrize(
    ('forge', 'message'),
    [
        (_wrong_periods, r'rotary periods \[1\.2.*has \[1\.0, 10\.0'),
        (_other_heads, r'rotary periods.*set arch'),
        (_dinov2, r'holds DINOv2 weights \(Meta names\).*DINOv3 weights were expected'),
        (_dinov2_with_registers, r'holds DINOv2 weights.*DINOv3 weights were expected'),
        (_too_wide, r'DINOv3, Meta names\) does not fit.*cls_token is \(1, 1, 24\)'),
        (_gated, r'does not fit.*missing in the file: blocks\.0\.mlp\.fc1\.weight'),
    ],
)
def test_file_that_does_not_fit_is_told_in_one_sentence_and_changes_nothing(
    tmp_path, forge, message
):
    path = saved(tmp_path, forge(tiny_meta()))
    backbone = DINOv3(arch=TINY)
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(backbone, path)
    text = str(error.value)
    assert str(path) in text and text.endswith('.') and '\n' not in text
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


@pytest.mark.parametrize('convert', ['meta', 'timm', 'hf'])
def test_dinov3_file_in_dinov2_is_told(tmp_path, convert):
    meta = tiny_meta()
    tensors, names = {
        'meta': (meta, 'Meta'),
        'timm': (weight_files.timm_dinov3_from_meta(meta), 'timm'),
        'hf': (weight_files.hf_dinov3_from_meta(meta), 'Hugging Face'),
    }[convert]
    backbone = DINOv2(arch=TINY, img_size=56)
    with pytest.raises(
        ValueError, match=rf'holds DINOv3 weights \({names} names\).*DINOv2 weights'
    ):
        load_pretrained(backbone, saved(tmp_path, tensors))


def test_missing_file_is_named_with_its_sources_and_licence():
    with torch.device('meta'):
        backbone = DINOv3(arch='base', checkpoint='/nowhere/dinov3.pth')
    with pytest.raises(FileNotFoundError) as error:
        backbone.init_weights()
    for part in (
        '/nowhere/dinov3.pth',
        'dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth by facebookresearch/dinov3',
        'timm/vit_base_patch16_dinov3_qkvb.lvd1689m',
        'DINOv3 License (commercial use allowed, redistribution only under the same terms',
        'acknowledge',
        'nothing is downloaded',
    ):
        assert part in str(error.value)


@pytest.mark.parametrize('arch', list(ARCHS))
def test_the_mirror_that_messages_name_is_one_of_timms(arch):
    with torch.device('meta'):
        origin = DINOv3(arch=arch).origin
    mirror = origin.split('timm/')[1].split(' ')[0]
    assert mirror in timm.list_models('*dinov3*', pretrained=True)


def test_LingBot_Vision_of_timm_is_read_and_has_timms_own_features(tmp_path):
    try:
        model = timm.create_model(
            'vit_small_patch16_lingbot', embed_dim=16, depth=3, num_heads=2
        ).eval()
    except RuntimeError:
        pytest.skip('this timm does not know it')
    with torch.no_grad():  # away from ones and zeros, so that every tensor matters
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    path = saved(tmp_path, model.state_dict(), 'model.safetensors')
    backbone = DINOv3(arch=TINY, out_indices=[0, 1, 2], checkpoint=str(path)).eval()
    backbone.init_weights()
    images = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        expected = model.forward_intermediates(
            images, indices=[0, 1, 2], norm=True, intermediates_only=True
        )
        for level, want in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-5)
