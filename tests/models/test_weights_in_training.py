# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""C2: whatever mmengine initialises on the way into training, weights are those of their file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.runner import Runner
from mmseg.registry import MODELS
from torch import nn

import mmseg_semi_rs  # noqa: F401
from mmseg_semi_rs.models.backbones import CLIPVision
from tests._support import weight_files
from tests._support.backbones import TINY_CLIP, TINY_DINOV3, TINY_OPENAI
from tests._support.tiny_training import write_training

# Each with what it is built by, its file, and the channels of its last map.
BACKBONES = {
    'DINOv3': (dict(type='DINOv3', arch=TINY_DINOV3), 16),
    'DINOv3 with SwiGLU': (dict(type='DINOv3', arch={**TINY_DINOV3, 'swiglu': True}), 16),
    'CLIP, dense': (
        dict(
            type='CLIPVision',
            arch={**TINY_CLIP, 'quick_gelu': True, 'embed_dim': 8},
            value_path=True,
            dense=True,
        ),
        8,
    ),
}


def weight_file(name: str, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file as published, and its tensors under the names of the backbone."""
    if name.startswith('CLIP'):
        published = weight_files.fill(weight_files.openai_clip(**TINY_OPENAI))
        ours = {k.removeprefix('visual.'): v for k, v in published.items() if 'visual.' in k}
    else:
        shapes = weight_files.meta_dinov3(width=16, depth=3, swiglu='SwiGLU' in name)
        published = weight_files.dinov3_file(shapes, head_width=8)
        ours = weight_files.timm_dinov3_from_meta(published)
    torch.save(published, folder / 'weights.pth')
    return folder / 'weights.pth', ours


def segmentor(backbone: dict, channels: int) -> dict:
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64), seg_pad_val=255),
        backbone=backbone,
        decode_head=dict(
            type='FCNHead',
            in_channels=channels,
            in_index=-1,
            channels=8,
            num_convs=1,
            concat_input=False,
            num_classes=3,
        ),
        # what mmengine runs over all modules before their own init_weights
        init_cfg=dict(type='Normal', layer=['Conv2d', 'Linear', 'LayerNorm'], std=0.5),
        test_cfg=dict(mode='whole'),
    )


def training(folder: Path, model: dict) -> Config:
    cfg = Config.fromfile(write_training(folder / 'data'))
    dataset = cfg.train_dataloader.dataset.labelled
    dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    for name in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        cfg.pop(name)
    for name in ('test_dataloader', 'test_evaluator', 'test_cfg'):
        cfg.pop(name)
    cfg.model = model
    cfg.work_dir = str(folder / 'run')
    cfg.experiment_name = f'weights_{time.time_ns()}'
    cfg.custom_hooks = []
    cfg.default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
    cfg.train_dataloader = dict(
        batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=dataset
    )
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1)
    cfg.param_scheduler = None
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0))
    return cfg


class Snapshot(Hook):
    """Keeps the backbone as it enters the first iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.state = {k: v.clone() for k, v in runner.model.backbone.state_dict().items()}


@pytest.mark.parametrize('name', list(BACKBONES))
def test_C2_weights_enter_training_as_their_file_has_them(tmp_path, name):
    path, expected = weight_file(name, tmp_path)
    backbone, channels = BACKBONES[name]
    backbone = {**backbone, 'checkpoint': str(path), 'trainable': ('attn',)}
    runner = Runner.from_cfg(training(tmp_path, segmentor(backbone, channels)))
    snapshot = Snapshot()
    runner.register_hook(snapshot)
    runner.train()
    assert snapshot.state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(snapshot.state[key], tensor), key
    after = runner.model.backbone.state_dict()
    moved = {key for key in after if not torch.equal(after[key], expected[key])}
    free = {k for k, p in runner.model.backbone.named_parameters() if p.requires_grad}
    assert moved == free and all('.attn.' in key for key in moved)


@pytest.mark.parametrize('name', list(BACKBONES))
def test_C2_weights_survive_init_weights_of_all_owners_again_and_again(tmp_path, name):
    path, expected = weight_file(name, tmp_path)
    backbone, channels = BACKBONES[name]
    model = MODELS.build(segmentor({**backbone, 'checkpoint': str(path)}, channels))
    for owner in (model, BaseModule(), model.backbone, model):
        if type(owner) is BaseModule:
            owner.model = model
        owner.init_weights()
    found = model.backbone.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


class Careless(BaseModule):
    """A port that fills timm's model and leaves the rest to mmengine."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.vit = timm.create_model(
            'vit_small_patch16_dinov3_qkvb', embed_dim=16, depth=3, num_heads=2, num_classes=0
        )
        self.vit.load_state_dict(state)


@pytest.mark.skipif(
    not hasattr(timm.models.eva.Eva, 'init_weights'), reason='this timm does not set the trap'
)
def test_C2_the_trap_is_there(tmp_path):
    _, state = weight_file('DINOv3', tmp_path)
    model = nn.ModuleDict({'careless': Careless(state)})
    owner = BaseModule()
    owner.model = model['careless']
    owner.init_weights()
    found = owner.model.vit.state_dict()
    wiped = [key for key, tensor in state.items() if not torch.equal(found[key], tensor)]
    assert 'blocks.0.attn.qkv.weight' in wiped and 'blocks.0.gamma_1' in wiped


def test_random_dense_clip_has_a_projection_of_its_width():
    backbone = CLIPVision(arch={**TINY_CLIP, 'embed_dim': 512}, dense=True)
    backbone.init_weights()
    assert backbone.proj.std() == pytest.approx(16**-0.5, rel=0.05)
