# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import json
import re
import warnings
import zipfile
from functools import partial
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from mmpretrain.models.backbones import VisionTransformer
from mmseg.registry import MODELS
from timm.layers import SwiGLUPacked
from torch import Tensor, nn
from torch.nn import functional as F

import mmseg_semi_rs  # noqa: F401
from mmseg_semi_rs.models.backbones import CLIPVision, DINOv2
from mmseg_semi_rs.models.weights import (
    check_pretrained,
    load_pretrained,
    read_weight_file,
)
from tests._support import weight_files
from tests._support.backbones import TINY_OPENAI, timm_clip
from tests._support.weight_files import saved

TINY = dict(embed_dims=16, num_layers=3, num_heads=2)
TINY_META = dict(width=16, depth=3, grid=4)
TINY_CLIP = dict(width=16, layers=3, heads=2, patch_size=8, image_size=32, quick_gelu=True)


class Owner(BaseModule):
    """A segmentor-like parent, two levels above the backbone, with children that initialise."""

    def __init__(self, backbone: dict) -> None:
        super().__init__(init_cfg=dict(type='Normal', layer=['Conv2d', 'Linear'], std=0.5))
        self.inner = BaseModule(init_cfg=dict(type='Constant', layer='LayerNorm', val=3.0))
        self.inner.backbone = MODELS.build(backbone)
        self.head = nn.Conv2d(16, 2, 1)


def initialise(backbone: dict) -> nn.Module:
    owner = Owner(backbone)
    owner.init_weights()
    return owner.inner.backbone


def dinov2(path: Path, swiglu: bool = False, **kwargs) -> dict:
    arch = {**TINY, 'swiglu': swiglu}
    return dict(type='DINOv2', arch=arch, img_size=56, checkpoint=str(path), **kwargs)


def clip(path: Path, **kwargs) -> dict:
    return dict(type='CLIPVision', checkpoint=str(path), **{'arch': TINY_CLIP, **kwargs})


def tiny_meta(swiglu: bool = False) -> dict[str, Tensor]:
    hidden = 48 if swiglu else 64  # SwiGLU of 64 is rounded to (64 * 2 / 3 -> multiple of 8)
    return weight_files.fill(weight_files.meta_dinov2(**TINY_META, hidden=hidden, swiglu=swiglu))


def assert_meta_loaded(backbone: nn.Module, meta: dict[str, Tensor], built: int = 3) -> None:
    expected = {}
    for key, tensor in meta.items():
        index = int(key.split('.')[1]) if key.startswith('blocks.') else 0
        if key != 'mask_token' and index < built:
            expected[weight_files.mmpretrain_name(key)] = tensor
    found = backbone.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name


def assert_openai_loaded(backbone: nn.Module, openai: dict[str, Tensor], built: int = 3) -> None:
    found = backbone.state_dict()
    names = 0
    for key, tensor in openai.items():
        name = key.removeprefix('visual.')
        if name == key or name == 'proj' or name.startswith('ln_post'):
            continue
        if name.startswith('transformer') and int(name.split('.')[2]) >= built:
            continue
        assert torch.equal(found[name], tensor.float()), name
        names += 1
    assert names == len(found)


# Full-size names and shapes.


@pytest.mark.parametrize('arch', ['small', 'base', 'large', 'giant'])
def test_every_public_dinov2_name_and_shape_fits(tmp_path, arch):
    path = tmp_path / f'dinov2_vit{arch[0]}14_pretrain.pth'
    torch.save(weight_files.fill(weight_files.meta_dinov2(**weight_files.META_DINOV2[arch])), path)
    with torch.device('meta'):
        backbone = DINOv2(arch=arch)
    report = load_pretrained(backbone, path)
    assert report.format == 'Meta' and not report.resized
    assert len(report.loaded) == len(backbone.state_dict())
    assert report.dropped == {'mask token, only used in pretraining': ['mask_token']}


@pytest.mark.parametrize(
    'arch',
    [
        'small',
        pytest.param('base', marks=pytest.mark.slow),
        pytest.param('large', marks=pytest.mark.slow),
    ],
)
def test_I1_full_size_dinov2_is_bit_equal_to_its_file(tmp_path, arch):
    meta = weight_files.fill(weight_files.meta_dinov2(**weight_files.META_DINOV2[arch]))
    path = tmp_path / 'weights.pth'
    torch.save(meta, path)
    with torch.device('meta'):  # without the time for a random start
        backbone = DINOv2(arch=arch, checkpoint=str(path))
    backbone.to_empty(device='cpu').init_weights()
    assert_meta_loaded(backbone, meta, built=backbone.depth)


@pytest.mark.slow
def test_I1_full_size_openai_clip_is_bit_equal_to_its_file(tmp_path):
    openai = weight_files.fill(weight_files.openai_clip(), torch.float16)
    path = tmp_path / 'ViT-L-14.pt'
    torch.save(openai, path)
    with torch.device('meta'):
        backbone = CLIPVision(arch='ViT-L-14-quickgelu', checkpoint=str(path))
    backbone.to_empty(device='cpu').init_weights()
    assert_openai_loaded(backbone, openai, built=24)


def test_every_openai_name_and_shape_fits(tmp_path):
    path = tmp_path / 'ViT-L-14.pt'
    torch.save(weight_files.fill(weight_files.openai_clip(), torch.float16), path)
    with torch.device('meta'):
        backbone = CLIPVision(arch='ViT-L-14-quickgelu', out_indices=[21])
    report = load_pretrained(backbone, path)
    assert len(report.loaded) == len(backbone.state_dict()) == 22 * 12 + 5
    dropped = report.dropped
    assert len(dropped['blocks behind the last one that is read']) == 2 * 12
    assert dropped['pooling and projection behind the patch tokens'] == [
        'visual.proj',
        'visual.ln_post.weight',
        'visual.ln_post.bias',
    ]
    assert len(dropped['outside the backbone (transformer)']) == 12 * 12


# Formats, on tiny models, through mmengine's recursive initialisation.


@pytest.mark.parametrize('swiglu', [False, True])
@pytest.mark.parametrize('kind', ['pth', 'safetensors', 'legacy'])
def test_I1_R31_meta_names_survive_recursive_init_weights(tmp_path, swiglu, kind):
    meta = tiny_meta(swiglu)
    path = tmp_path / ('weights.safetensors' if kind == 'safetensors' else 'weights.pth')
    if kind == 'safetensors':
        saved(path.parent, meta, path.name)
    else:
        torch.save(meta, path, _use_new_zipfile_serialization=kind == 'pth')
    assert_meta_loaded(initialise(dinov2(path, swiglu)), meta)


@pytest.mark.parametrize('swiglu', [False, True])
@pytest.mark.parametrize('prefix', ['', 'dinov2.'])
def test_huggingface_dinov2(tmp_path, swiglu, prefix):
    meta = tiny_meta(swiglu)
    converted = weight_files.hf_dinov2_from_meta(meta)
    path = tmp_path / 'model.safetensors'
    saved(path.parent, {prefix + k: v for k, v in converted.items()}, path.name)
    assert_meta_loaded(initialise(dinov2(tmp_path, swiglu)), meta)  # the snapshot folder


@pytest.mark.parametrize('swiglu', [False, True])
def test_timm_dinov2_gives_timms_own_features(tmp_path, swiglu):
    torch.manual_seed(0)
    options = (
        dict(mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, mlp_ratio=6)
        if swiglu
        else dict(mlp_ratio=4)
    )
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=56,
        patch_size=14,
        embed_dim=16,
        depth=3,
        num_heads=2,
        init_values=0.7,
        num_classes=0,
        **options,
    ).eval()
    path = saved(tmp_path, model.state_dict(), 'model.safetensors')
    backbone = initialise(dinov2(path, swiglu, out_indices=[0, 2])).eval()
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        expected = model.forward_intermediates(
            images, indices=[0, 2], norm=True, intermediates_only=True
        )
        maps = backbone(images)
    for level, want in zip(maps, expected, strict=True):
        torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-5)


def test_mmpretrain_dinov2(tmp_path):
    torch.manual_seed(0)
    model = VisionTransformer(
        arch={**TINY, 'feedforward_channels': 64},
        img_size=56,
        patch_size=14,
        layer_scale_init_value=1e-5,
    )
    path = tmp_path / 'vit.pth'
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in model.state_dict().items()}}, path)
    backbone = initialise(dinov2(path))
    found = backbone.state_dict()
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[k], v) for k, v in model.state_dict().items())


def test_fsdp_training_checkpoint_of_dinov2(tmp_path):
    meta = tiny_meta()
    nested = {}
    for key, tensor in meta.items():
        if key.startswith('blocks.'):  # two chunks; inside, the index runs on
            index = int(key.split('.')[1])
            key = f'blocks.{index // 2}.' + key.removeprefix('blocks.')
        nested['backbone.' + key] = tensor
    nested['dino_head.mlp.0.weight'] = torch.zeros(2)
    path = tmp_path / 'teacher_checkpoint.pth'
    torch.save({'teacher': nested, 'iteration': 5}, path)
    backbone = DINOv2(arch=TINY, img_size=56)
    report = load_pretrained(backbone, path)
    assert_meta_loaded(backbone, meta)
    assert report.dropped['outside the backbone (dino_head)'] == ['dino_head.mlp.0.weight']
    assert report.dropped['not weights'] == ['iteration']


@pytest.mark.parametrize('wrap', ['state_dict', 'model', 'module'])
def test_segmentation_checkpoint_of_this_very_backbone(tmp_path, wrap):
    source = initialise(dinov2(saved(tmp_path, tiny_meta())))
    nn.init.normal_(source.pos_embed)
    path = tmp_path / 'iter_100.pth'
    state = {f'module.backbone.{k}': v for k, v in source.state_dict().items()}
    torch.save({wrap: {**state, 'module.decode_head.weight': torch.ones(2)}, 'meta': {}}, path)
    found = initialise(dinov2(path)).state_dict()
    assert all(torch.equal(found[k], v) for k, v in source.state_dict().items())


def test_two_backbones_in_one_file_must_be_told_apart(tmp_path):
    student, teacher = (
        {
            k: v + add
            for k, v in initialise(dinov2(saved(tmp_path, tiny_meta()))).state_dict().items()
        }
        for add in (1, 2)
    )
    path = tmp_path / 'iter_100.pth'
    both = {f'student.backbone.{k}': v for k, v in student.items()}
    torch.save(both | {f'teacher.backbone.{k}': v for k, v in teacher.items()}, path)
    with pytest.raises(
        ValueError, match=r"2 DINOv2 backbones, under 'student\.backbone', 'teacher\.b"
    ):
        initialise(dinov2(path))
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='teacher.backbone')
    cfg = dict(type='DINOv2', arch=TINY, img_size=56, init_cfg=init_cfg)
    found = initialise(cfg).state_dict()
    assert all(torch.equal(found[k], v) for k, v in teacher.items())


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_I1_openai_names(tmp_path, dtype):
    openai = weight_files.fill(weight_files.openai_clip(**TINY_OPENAI), dtype)
    assert_openai_loaded(initialise(clip(saved(tmp_path, openai))), openai)


def test_openai_torchscript_archive_is_refused_with_what_makes_weights_of_it(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = tiny_open_clip(quick_gelu=True)
    path = tmp_path / 'ViT-tiny.pt'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        example = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long))
        torch.jit.trace(model.half().float(), example, check_trace=False).save(str(path))
    monkeypatch.setattr(torch.jit, 'load', None)
    with pytest.raises(ValueError, match='is a program') as refused:
        read_weight_file(path)
    monkeypatch.undo()
    command = re.search(r'`python -c "(.*)"`', str(refused.value))[1]
    exec(command, {})  # as the user who trusts the file types it
    assert_openai_loaded(initialise(clip(path)), model.state_dict())


class Harmful:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


class WritesWhenLoaded(nn.Module):
    """A TorchScript module whose ``__setstate__`` writes a file."""

    def __init__(self, target: str):
        super().__init__()
        self.target = target
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor, bool]:
        return (self.target, self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.target = state[0]
        self.weight = state[1]
        self.training = state[2]
        torch.save(state[1], state[0])


def hostile_script(path, target):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.script(WritesWhenLoaded(str(target))).save(str(path))


def hostile_pickle(path, target):
    torch.save({'weight': torch.zeros(2), 'x': Harmful(target)}, path)


def hostile_old_pickle(path, target):
    torch.save(
        {'weight': torch.zeros(2), 'x': Harmful(target)}, path, _use_new_zipfile_serialization=False
    )


def bomb(path, target):
    torch.save({'weight': torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as plain:
        contents = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as packed:
        for name, content in contents.items():
            packed.writestr(name, content)


@pytest.mark.parametrize('switched_off', [False, True])
@pytest.mark.parametrize('make', [hostile_script, hostile_pickle, hostile_old_pickle, bomb])
@pytest.mark.parametrize('read', [read_weight_file, CheckpointLoader.load_checkpoint])
def test_I15_no_weight_file_runs_code(tmp_path, monkeypatch, make, read, switched_off):
    """Nor where PyTorch itself was told to load anything."""
    path, target = tmp_path / 'weights.pth', tmp_path / 'written'
    make(path, target)
    target.unlink(missing_ok=True)
    if switched_off:
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    said = {
        hostile_script: 'is a program that runs',
        bomb: 'unpacks to .* at most 4 times the size',
    }.get(make, 'which is code')
    with pytest.raises(ValueError, match=rf'weights\.pth.*{said}'):
        read(str(path))
    assert not target.exists()


def test_I15_the_hostile_files_would_run_code(tmp_path):
    """Else the test above would show nothing."""
    loads = {
        hostile_script: torch.jit.load,
        hostile_pickle: partial(torch.load, weights_only=False),
        hostile_old_pickle: partial(torch.load, weights_only=False),
    }
    for make, load in loads.items():
        path, target = tmp_path / make.__name__, tmp_path / 'written'
        make(path, target)
        target.unlink(missing_ok=True)
        load(str(path))
        assert target.exists()
        target.unlink()


def test_weights_that_are_not_numbers_are_refused_and_gates_that_wait_are_not(tmp_path):
    state = {'a.weight': torch.tensor([0.0, torch.inf]), 'gate.mean': torch.tensor([torch.nan])}
    torch.save(state, tmp_path / 'fine.pth')
    assert read_weight_file(tmp_path / 'fine.pth').tensors.keys() == state.keys()
    torch.save({**state, 'b.weight': torch.tensor([torch.nan])}, tmp_path / 'bad.pth')
    for read in (read_weight_file, CheckpointLoader.load_checkpoint):
        with pytest.raises(ValueError, match=r'bad\.pth .*b\.weight has NaN'):
            read(str(tmp_path / 'bad.pth'))


def tiny_open_clip(quick_gelu: bool) -> nn.Module:
    return open_clip.CLIP(
        embed_dim=8,
        vision_cfg=dict(width=16, layers=3, head_width=8, patch_size=8, image_size=32),
        text_cfg=dict(vocab_size=49, width=8, heads=2, layers=1),
        quick_gelu=quick_gelu,
    ).eval()


@pytest.mark.parametrize('part', ['whole', 'vision', 'student'])
def test_open_clip_names_give_open_clips_own_features(tmp_path, part):
    torch.manual_seed(0)
    model = tiny_open_clip(quick_gelu=False)
    state = model.state_dict() if part == 'whole' else model.visual.state_dict()
    if part == 'student':
        state = {'state_dict': {f'backbone.{k}': v for k, v in state.items()}}
    arch = {**TINY_CLIP, 'quick_gelu': False}
    backbone = initialise(clip(saved(tmp_path, state), arch=arch, out_indices=[1, 2])).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.visual.forward_intermediates(images, indices=[1, 2])
        maps = backbone(images)
    for level, want in zip(maps, expected['image_intermediates'], strict=True):
        torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-5)


def test_huggingface_clip(tmp_path):
    openai = weight_files.fill(weight_files.openai_clip(**TINY_OPENAI))
    converted = weight_files.hf_clip_from_openai(openai)
    path = tmp_path / 'model.safetensors'
    saved(path.parent, converted, path.name)
    assert_openai_loaded(initialise(clip(path)), openai)
    vision = {
        k: v for k, v in converted.items() if k.startswith('vision_model.')
    }  # CLIPVisionModel
    assert_openai_loaded(initialise(clip(saved(tmp_path, vision, 'pytorch_model.bin'))), openai)


def test_timm_clip_gives_timms_own_features(tmp_path):
    model = timm_clip()
    path = saved(tmp_path, model.state_dict())
    backbone = initialise(clip(path, out_indices=[0, 2])).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.forward_intermediates(images, indices=[0, 2], intermediates_only=True)
        maps = backbone(images)
    for level, want in zip(maps, expected, strict=True):
        torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-5)


def test_mmpretrain_clip(tmp_path):
    model = VisionTransformer(
        arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=64),
        img_size=32,
        patch_size=8,
        pre_norm=True,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    state = {f'backbone.{k}': v for k, v in model.state_dict().items()}
    backbone = initialise(clip(saved(tmp_path, state)))
    layer = model.layers[1]
    block = backbone.blocks[1]
    assert torch.equal(backbone.class_embedding, model.cls_token[0, 0])
    assert torch.equal(backbone.positional_embedding, model.pos_embed[0])
    assert torch.equal(backbone.ln_pre.weight, model.pre_norm.weight)
    assert torch.equal(block.attn.in_proj_weight, layer.attn.qkv.weight)
    assert torch.equal(block.mlp.c_proj.weight, layer.ffn.layers[1].weight)
    assert torch.equal(block.ln_2.bias, layer.ln2.bias)


# Nothing is skipped in silence; positions are resized by the backbone's own formula.


@pytest.mark.parametrize('taps', [[2], [0, 1]])
def test_every_tensor_of_the_file_is_used_or_named(tmp_path, taps):
    meta = tiny_meta()
    backbone = DINOv2(arch=TINY, img_size=56, out_indices=taps)
    report = load_pretrained(backbone, saved(tmp_path, {'model': meta, 'epoch': 3}))
    dropped = [key for keys in report.dropped.values() for key in keys]
    assert len(report.loaded) + len(dropped) == len(meta) + 1
    assert {'mask_token', 'epoch'} <= set(dropped)
    behind = [k for k in dropped if k.startswith('blocks.')]
    assert all(k.startswith('blocks.2.') for k in behind) and len(behind) == (14 if taps[1:] else 0)
    assert_meta_loaded(backbone, meta, built=taps[-1] + 1)
    for part in (
        'mask token, only',
        'only used in pretraining (1)',
        f'{len(report.loaded)} tensors',
    ):
        assert part in str(report)


def test_positions_of_another_dinov2_size_are_resized_and_nothing_else(tmp_path):
    meta = tiny_meta()
    backbone = DINOv2(arch=TINY, img_size=84)
    report = load_pretrained(backbone, saved(tmp_path, meta))
    native = initialise(dinov2(tmp_path / 'weights.pth'))
    # the same as what the model at its native size makes of an image of that size
    assert torch.equal(backbone.pos_embed, native.position_embedding((6, 6)))
    assert report.resized == ['pos_embed (1, 17, 16) -> (1, 37, 16)']
    for name, tensor in native.state_dict().items():
        assert name == 'pos_embed' or torch.equal(backbone.state_dict()[name], tensor)


def test_positions_of_another_clip_size_are_resized(tmp_path):
    openai = weight_files.fill(weight_files.openai_clip(**{**TINY_OPENAI, 'grid': 6}))
    backbone = initialise(clip(saved(tmp_path, openai)))
    stored = openai['visual.positional_embedding']
    patches = stored[1:].reshape(1, 6, 6, 16).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(4, 4), mode='bicubic')
    expected = torch.cat([stored[:1], patches.permute(0, 2, 3, 1).reshape(-1, 16)])
    torch.testing.assert_close(backbone.positional_embedding.detach(), expected)


# Activation.


def plain_arch() -> dict:
    return {k: v for k, v in TINY_CLIP.items() if k != 'quick_gelu'}


def test_openai_weights_refuse_plain_gelu(tmp_path):
    path = saved(tmp_path, weight_files.fill(weight_files.openai_clip(**TINY_OPENAI)))
    with pytest.raises(ValueError, match=r'trained with QuickGELU.*set quick_gelu=True'):
        initialise(clip(path, arch=plain_arch()))
    initialise(clip(path, arch=plain_arch(), quick_gelu=True))
    initialise(clip(path, arch=plain_arch(), quick_gelu=False))  # who insists gets it


@pytest.mark.parametrize(
    ('config', 'quick'),
    [
        ({'model_type': 'clip', 'vision_config': {'hidden_act': 'quick_gelu'}}, True),
        ({'model_type': 'clip', 'vision_config': {'hidden_act': 'gelu'}}, False),
        ({'model_type': 'clip', 'vision_config': {}}, True),
        ({'model_type': 'clip_vision_model', 'hidden_act': 'gelu'}, False),
    ],
)
def test_huggingface_config_beside_the_file_tells_the_activation(tmp_path, config, quick):
    openai = weight_files.fill(weight_files.openai_clip(**TINY_OPENAI))
    converted = weight_files.hf_clip_from_openai(openai)
    saved(tmp_path, converted, 'model.safetensors')
    (tmp_path / 'config.json').write_text(json.dumps(config))
    arch = {**TINY_CLIP, 'quick_gelu': not quick}
    with pytest.raises(ValueError, match=f'set quick_gelu={quick}'):
        initialise(clip(tmp_path, arch=arch))
    initialise(clip(tmp_path, arch={**TINY_CLIP, 'quick_gelu': quick}))


def test_huggingface_file_alone_asks_for_the_activation(tmp_path):
    openai = weight_files.fill(weight_files.openai_clip(**TINY_OPENAI))
    path = saved(tmp_path, weight_files.hf_clip_from_openai(openai))
    with pytest.raises(ValueError, match=r'does not tell its activation.*quick_gelu=True if'):
        initialise(clip(path, arch=plain_arch()))
    initialise(clip(path, arch=plain_arch(), quick_gelu=True))


# Faults.


def test_missing_file_is_named_with_its_source_and_licence(tmp_path):
    path = tmp_path / 'nowhere' / 'dinov2_vits14_pretrain.pth'
    backbone = DINOv2(arch='small', checkpoint=str(path))
    with pytest.raises(FileNotFoundError) as error:
        backbone.init_weights()
    message = str(error.value)
    for part in (str(path), 'facebookresearch/dinov2', 'Apache-2.0', 'nothing is downloaded'):
        assert part in message
    with pytest.raises(FileNotFoundError, match=r'ViT-L-14\.pt by openai/CLIP \(MIT\)'):
        with torch.device('meta'):
            backbone = CLIPVision(arch='ViT-L-14', checkpoint='/nowhere/ViT-L-14.pt')
        backbone.init_weights()


def _arch_too_wide(meta):
    return weight_files.fill(weight_files.meta_dinov2(24, 3, grid=4))


def _one_missing(meta):
    return {k: v for k, v in meta.items() if k != 'blocks.1.ls1.gamma'}


def _one_more(meta):
    return {**meta, 'blocks.1.attn.q_norm.weight': torch.zeros(8)}


def _too_deep(meta):
    return weight_files.fill(weight_files.meta_dinov2(16, 4, grid=4))


def _registers(meta):
    return {**meta, 'register_tokens': torch.zeros(1, 4, 16)}


def _clip_file(meta):
    return weight_files.fill(weight_files.openai_clip(**TINY_OPENAI))


def _nobodys(meta):
    return {'conv.weight': torch.zeros(1), 'bn.bias': torch.zeros(1)}


@pytest.mark.parametrize(
    ('forge', 'message'),
    [
        (
            _arch_too_wide,
            r'Meta names\) does not fit DINOv2.*cls_token is \(1, 1, 24\), the model h',
        ),
        (_one_missing, r'missing in the file: layers\.1\.attn\.gamma1\.weight:'),
        (_one_more, r'not in the model: blocks\.1\.attn\.q_norm\.weight:'),
        (_too_deep, r'not in the model: blocks\.3\.norm1\.weight, .* and 11 more'),
        (_registers, 'DINOv2 with registers.*without registers'),
        (_clip_file, r'holds CLIP weights \(open_clip names\).*DINOv2 weights were expected'),
        (_nobodys, r'holds other names, first conv\.weight, bn\.bias.*Meta, timm, mmpretrain, Hug'),
    ],
)
def test_file_that_does_not_fit_is_told_in_one_sentence_and_changes_nothing(
    tmp_path, forge, message
):
    path = saved(tmp_path, forge(tiny_meta()))
    backbone = DINOv2(arch=TINY, img_size=56)
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(backbone, path)
    text = str(error.value)
    assert str(path) in text and text.endswith('.') and '\n' not in text
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


def test_query_without_key_and_value_does_not_fit(tmp_path):
    converted = weight_files.hf_dinov2_from_meta(tiny_meta())
    del converted['encoder.layer.1.attention.attention.key.weight']
    with pytest.raises(ValueError, match=r'query\.weight is \(32, 16\), the model has \(48, 16\)'):
        load_pretrained(DINOv2(arch=TINY, img_size=56), saved(tmp_path, converted))


class Payload:
    """What a malicious or careless checkpoint may hold."""


@pytest.mark.parametrize('name', ['weights.pth', 'weights.safetensors'])
def test_damaged_file_is_told(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'\x80\x02not a weight file')
    with pytest.raises(ValueError, match=f'{name} cannot be read as tensors'):
        read_weight_file(path)


def test_truncated_file_is_told(tmp_path):
    path = saved(tmp_path, tiny_meta())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match='cannot be read as tensors'):
        read_weight_file(path)


def test_pickled_objects_are_never_run(tmp_path):
    path = saved(tmp_path, {'state_dict': tiny_meta(), 'extra': Payload()})
    with pytest.raises(ValueError, match='holds other objects'):
        read_weight_file(path)


@pytest.mark.parametrize('content', [{'epoch': 3}, [1, 2], {}])
def test_file_without_tensors_is_told(tmp_path, content):
    with pytest.raises(ValueError, match='holds no tensors'):
        read_weight_file(saved(tmp_path, content))


def test_plain_reading_unwraps(tmp_path):
    path = saved(tmp_path, {'state_dict': {'a': torch.ones(2)}, 'optimizer': {'lr': 1}})
    file = read_weight_file(path)
    assert list(file.tensors) == ['a'] and file.other_entries == ('optimizer',)
    assert torch.equal(read_weight_file(path).tensors['a'], torch.ones(2))


# mmengine's own, lenient loading is checked first.


@pytest.mark.parametrize('prefix', [None, 'backbone', 'backbone.'])
def test_file_for_mmengine_must_cover_the_module(tmp_path, prefix):
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = {('backbone.' if prefix else '') + k: v for k, v in module.state_dict().items()}
    state.pop(next(k for k in state if k.endswith('num_batches_tracked')))
    cfg = dict(type='Pretrained', checkpoint=str(saved(tmp_path, state)), prefix=prefix)
    check_pretrained(module, cfg)
    wrong = {**state, 'fc.weight': torch.ones(1)}
    del wrong[next(k for k in wrong if k.endswith('0.bias'))]
    saved(tmp_path, wrong)
    with pytest.raises(
        ValueError, match=r'does not cover Sequential; missing in the file: 0\.bias'
    ):
        check_pretrained(module, cfg)
    with pytest.raises(ValueError, match=r'does not cover.*set prefix'):
        check_pretrained(module, {**cfg, 'prefix': 'teacher'})
    check_pretrained(module, {**cfg, 'checkpoint': 'torchvision://resnet18'})
