# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""I10: two gloo processes with half the batch each train like one with the whole batch."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS

from mmseg_semi_rs.engine.hooks import DeferredRuntimeInfoHook
from mmseg_semi_rs.models.gates import base, build_gate, class_quantile
from mmseg_semi_rs.models.losses import rank_sum
from tests._support.networks import samples
from tests._support.processes import on_ranks
from tests._support.tiny_training import write_dual, write_training


def save_gradients(config: Path, local: bool, out: Path) -> None:
    """Of this rank's part of a batch of eight, with which it takes no step."""
    world = int(os.environ['WORLD_SIZE'])
    if world > 1:
        dist.init_process_group('gloo')
    init_default_scope('mmseg')
    cfg = Config.fromfile(config)
    group = dict(type='GN', num_groups=2)
    students = [cfg.model.student] if 'student' in cfg.model else list(cfg.model.students.values())
    for student in students:
        student.backbone.norm_cfg = student.decode_head.norm_cfg = group
        student.backbone.norm_eval = False
        student.decode_head.dropout_ratio = 0.0
        student.decode_head.loss_decode = dict(type='ValidCrossEntropyLoss')
    if local:
        rank_sum.get_world_size = lambda: 1
    cfg.model.semi_train_cfg = dict(conf_thresh=0.34, cutmix=None)
    if len(students) == 2:  # dropped channels are drawn per process
        cfg.model.semi_train_cfg.fp_drop = None
    cfg.train_dataloader.batch_size = cfg.train_dataloader.sampler.batch_size = 8 // world
    torch.manual_seed(0)
    model: Any = MODELS.build(cfg.model)
    model.init_weights()
    with torch.no_grad():
        for network in [model.student] if len(students) == 1 else model.students.values():
            network.decode_head.conv_seg.weight.normal_().mul_(3)
    model.update_teacher(0.0)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    wrapped = model
    if world > 1:
        wrapped = MMDistributedDataParallel(model, device_ids=None, find_unused_parameters=False)
    wrapped.train()
    batch = model.data_preprocessor(next(iter(loader)), True)
    losses = wrapped(**batch, mode='loss')
    kept = next(iter(model.last_step.pseudo.values()))
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    if int(os.environ['RANK']) == 0:
        gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        numbers = dict(valid=kept.valid.float().mean(), kept=kept.weight.mean())
        numbers['taught'] = losses.get('a.taught', torch.zeros(()))
        torch.save(dict(gradients=gradients, **numbers), out)
    if world > 1:
        dist.barrier()


def save_gates(out: Path) -> None:
    """Of two ranks with and without their talk, and see their losses averaged in the log."""
    dist.init_process_group('gloo')
    rank, world = dist.get_rank(), dist.get_world_size()
    both = weigh(rank, world)
    base.all_reduce = class_quantile.all_reduce = lambda tensor: None
    torch.save([both, weigh(rank, world)], f'{out}_{rank}.pth')

    hook, hub = DeferredRuntimeInfoHook(interval=2), MessageHub.get_instance('two ranks')
    runner = SimpleNamespace(iter=0, max_iters=100, hooks=[], message_hub=hub)
    for runner.iter in range(4):
        loss = torch.tensor(float(runner.iter + rank))
        hook.after_train_iter(runner, runner.iter, outputs=dict(loss=loss))
    assert hub.get_scalar('train/loss').data[0].tolist() == [0.5, 1.5, 2.5, 3.5]
    dist.barrier()


def weigh(rank, world):
    """State and weights of each gate with state after three steps on a rank's part of a batch."""
    gates = {
        name: build_gate(dict(settings, align=True, momentum=0.7), 0.95, 3)
        for name, settings in {
            'fixed': dict(type='FixedGate', threshold=0.6),
            'quantile': dict(type='ClassQuantileGate'),
            'adaptive': dict(type='AdaptiveGate'),
            'soft': dict(type='SoftGate'),
            'soft per class': dict(type='SoftGate', per_class=True),
            'residual': dict(type='ResidualGate'),
        }.items()
    }
    part = slice(rank * 4 // world, (rank + 1) * 4 // world)
    weights = {name: [] for name in gates}
    for step in range(3):
        rng = torch.Generator().manual_seed(step)
        logits = 2 * torch.randn(4, 3, 64, 64, generator=rng)
        logits[:2, 0] += 2.0  # each rank's half is sure of another class
        valid = (
            torch.rand(4, 64, 64, generator=rng) < torch.tensor([0.9, 0.5, 0.2, 1])[:, None, None]
        )
        if step == 1:
            valid[2:] = False  # the second rank has not a single valid pixel
        labels = torch.randint(0, 3, (4, 64, 64), generator=rng)
        labels[:2, :32] = 0
        for name, gate in gates.items():
            gate.observe(samples(len(labels[part]), labels[part]))
            weights[name].append(gate(logits[part], valid[part]).weight)
    return {
        name: dict(gate.state_dict(), weights=torch.cat(weights[name], dim=1))
        for name, gate in gates.items()
    }


def gradients(tmp_path, world, local_denominators=False, dual=False):
    folder = tmp_path / 'data'
    config = folder / 'tiny.py'
    if not folder.exists():
        write_dual(write_training(folder))
        (folder / 'labelled.txt').write_text(''.join(f'tile_{i}\n' for i in (0, 1, 2, 3)))
        (folder / 'unlabelled.txt').write_text(''.join(f'tile_{i}\n' for i in (4, 5, 6)))
    out = tmp_path / f'{dual}_{local_denominators}_{world}.pth'
    config = folder / 'dual.py' if dual else config
    on_ranks(world, save_gradients, config, local_denominators, out, folder=tmp_path)
    return torch.load(out, weights_only=True)


def largest_difference(one, two):
    """Of all gradients, relative to the largest entry of each."""
    return max(
        float((two['gradients'][name] - gradient).abs().max() / gradient.abs().max().clamp(1e-12))
        for name, gradient in one['gradients'].items()
    )


@pytest.mark.slow
@pytest.mark.parametrize('dual', [False, True])
def test_I10_C16_two_ranks_give_the_gradients_of_one_process(tmp_path, dual):
    one = gradients(tmp_path, 1, dual=dual)
    assert one['valid'] < 1, 'the case has padding, which differs between the ranks'
    assert 0 < one['kept'] < 1 and bool(0 < one['taught'] < 1) is dual
    assert largest_difference(one, gradients(tmp_path, 2, dual=dual)) < 1e-4
    local = gradients(tmp_path, 2, local_denominators=True, dual=dual)
    assert largest_difference(one, local) > 1e-3, 'each rank by its own denominator'


@pytest.mark.slow
def test_I10_gates_of_two_ranks_have_the_state_and_weights_of_one_process(tmp_path):
    out = tmp_path / 'gates'
    on_ranks(2, save_gates, out, folder=tmp_path)
    saved = [torch.load(f'{out}_{rank}.pth', weights_only=True) for rank in range(2)]
    both, alone = zip(*saved, strict=True)
    whole = weigh(0, 1)
    for name, expected in whole.items():
        wanted = expected.pop('weights')
        ranks = [found[name].pop('weights') for found in both]
        assert (torch.cat(ranks) - wanted).abs().gt(1e-4).float().mean() < 1e-4, name
        for key, value in expected.items():
            for found in both:
                torch.testing.assert_close(found[name][key], value, rtol=1e-5, atol=1e-6)
            different = (alone[0][name][key] - value).abs() / value.abs()
            assert different.max() > 1e-3, f'{name}.{key}: each rank by its own pixels'
        ranks = torch.cat([found[name].pop('weights') for found in alone])
        assert (ranks - wanted).abs().mean() > 1e-3, name
