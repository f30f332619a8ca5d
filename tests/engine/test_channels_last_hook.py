# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, Runner
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi_rs.engine.hooks import ChannelsLastHook
from tests._support.networks import CLASSES, SIZE, samples, total
from tests._support.processes import on_ranks
from tests._support.tiny_training import assert_alive, run_here, write_dual, write_training

HOOK = dict(type='ChannelsLastHook')


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a tensor is channels last and nothing else."""
    last = tensor.is_contiguous(memory_format=torch.channels_last)
    return last and not tensor.is_contiguous()


def runner_of(path, work_dir, on=True, iters=4, **options) -> Runner:
    cfg = Config.fromfile(path)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{work_dir.name}_{time.time_ns()}'
    cfg.train_cfg.update(max_iters=iters, val_interval=1000)
    cfg.param_scheduler.update(end=100)
    cfg.model.semi_train_cfg.conf_thresh = 0.0  # so untrained networks keep labels at all
    cfg.custom_hooks = [*cfg.custom_hooks, *([HOOK] if on else [])]
    cfg.merge_from_dict(options)
    return Runner.from_cfg(cfg)


def losses_of(runner: Runner):
    return runner.message_hub.get_scalar('train/loss').data[0]


def watch(model: nn.Module) -> dict[str, list[bool]]:
    """Record of each backbone whether its first map is channels last."""
    seen: dict[str, list[bool]] = {}
    for name, module in model.named_modules():
        if name.endswith('backbone'):
            seen[name] = []
            module.register_forward_hook(
                lambda _, images, maps, name=name: seen[name].append(is_channels_last(maps[0]))
            )
    return seen


@pytest.mark.parametrize('write', [None, write_dual])
def test_maps_are_channels_last_in_students_and_teachers(tmp_path, write):
    path = write_training(tmp_path / 'data')
    path = write(path) if write else path
    for on in (True, False):
        runner = runner_of(path, tmp_path / f'run_{on}', on=on)
        maps = watch(runner.model)
        runner.train()
        assert len(maps) == 2  # of a student and its teacher, or of two students
        assert all(seen and set(seen) == {on} for seen in maps.values())
        kernels = [p for p in runner.model.parameters() if p.dim() == 4 and p.shape[-1] > 1]
        assert {is_channels_last(p) for p in kernels if p.shape[1] > 1} == {on}
        moments = runner.optim_wrapper.optimizer.state
        assert all(m['exp_avg'].stride() == p.stride() for p, m in moments.items())


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='ResNet', depth=18, base_channels=4, stem_channels=4),
        dict(type='MobileNetV2', out_indices=(1, 2, 4, 6), widen_factor=0.25),
        dict(type='EfficientNetLite'),
    ],
    ids=lambda backbone: backbone['type'],
)
def test_losses_and_gradients_are_the_same(tmp_path, backbone):
    """In float64, where rounding moves no pixel across the confidence threshold."""
    cfg = Config.fromfile(write_training(tmp_path / 'data'))
    cfg.model.student.backbone = backbone
    channels = {'ResNet': 32, 'MobileNetV2': 80, 'EfficientNetLite': 320}[backbone['type']]
    cfg.model.student.decode_head.update(in_channels=channels, dropout_ratio=0.0)
    cfg.model.semi_train_cfg.cutmix = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model = model.double().train()
    laid_out = copy.deepcopy(model)
    ChannelsLastHook().before_run(SimpleNamespace(model=laid_out))
    inputs = {name: torch.randn(2, 3, SIZE, SIZE).double() for name in ('sup', 'weak', 'strong')}
    labels = torch.randint(0, CLASSES, (2, SIZE, SIZE))
    data = {'sup': samples(2, labels), 'weak': samples(2), 'strong': samples(2)}
    found = []
    for network in (model, laid_out):
        losses = network.loss(inputs, data)
        total(losses).backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        found.append(([v for k, v in losses.items() if 'loss' in k], gradients))
    assert len(found[0][1]) > 50
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)


def test_I9_resumed_training_equals_an_uninterrupted_one(tmp_path):
    path = write_training(tmp_path / 'data')
    whole = runner_of(path, tmp_path / 'whole')
    whole.train()
    expected = losses_of(whole)
    runner_of(path, tmp_path / 'part', iters=2).train()
    start = str(tmp_path / 'part' / 'iter_2.pth')
    resumed = runner_of(path, tmp_path / 'part', resume=True, load_from=start)
    resumed.train()
    assert len(expected) == 4 and list(losses_of(resumed)) == list(expected)
    assert_alive(resumed)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_checkpoints_are_exchanged_with_trainings_without_it(tmp_path):
    path = write_training(tmp_path / 'data')
    runner = runner_of(path, tmp_path / 'run', iters=2)
    runner.train()
    weights = CheckpointLoader.load_checkpoint(str(tmp_path / 'run' / 'iter_2.pth'))['state_dict']
    other = runner_of(path, tmp_path / 'other', on=False).model
    other.load_state_dict(weights)
    assert all(
        p.is_contiguous() for p in other.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1
    )
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = runner.model.eval().teacher._forward(images)
        found = other.eval().teacher._forward(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_I13_trains_in_two_processes_with_stages_that_no_head_reads(tmp_path):
    tiny = write_training(tmp_path / 'data')
    tiny.with_name('leaf.py').write_text(
        "_base_ = './tiny.py'\n"
        'model = dict(student=dict(decode_head=dict(in_index=2, in_channels=16)))\n'
        "custom_hooks = [dict(type='MeanTeacherHook'), dict(type='ChannelsLastHook')]\n"
    )
    words = ('train', tiny.with_name('leaf.py'), '--launcher', 'pytorch')
    on_ranks(2, run_here, *words, '--work-dir', tmp_path / 'work', folder=tmp_path)
    weights = CheckpointLoader.load_checkpoint(str(tmp_path / 'work' / 'iter_4.pth'))
    assert not [name for name in weights['state_dict'] if 'layer4' in name]
