# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""I10: two gloo processes with half the batch each train like one with the whole batch."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from tests.models.tiny import samples
from tests.tools.tiny_training import ROOT, write_dual, write_training

SCRIPT = """
import os, random, sys
sys.path.insert(0, {root!r})
import torch
import torch.distributed as dist

import mmseg_semi_rs
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS

world = int(os.environ['WORLD_SIZE'])
if world > 1:
    dist.init_process_group('gloo')
torch.set_num_threads(1)
init_default_scope('mmseg')
cfg = Config.fromfile({config!r})
group = dict(type='GN', num_groups=2)
students = [cfg.model.student] if 'student' in cfg.model else list(cfg.model.students.values())
for student in students:
    student.backbone.norm_cfg = student.decode_head.norm_cfg = group
    student.backbone.norm_eval = False
    student.decode_head.dropout_ratio = 0.0
    student.decode_head.loss_decode = dict(type='ValidCrossEntropyLoss')
if {local}:
    import mmseg_semi_rs.models.losses.rank_sum as rank_sum

    rank_sum.get_world_size = lambda: 1
cfg.model.semi_train_cfg = dict(conf_thresh=0.34, cutmix=None)
if len(students) == 2:  # dropped channels are drawn per process
    cfg.model.semi_train_cfg.fp_drop = None
cfg.train_dataloader.batch_size = cfg.train_dataloader.sampler.batch_size = 8 // world
torch.manual_seed(0)
model = MODELS.build(cfg.model)
model.init_weights()
with torch.no_grad():
    for network in [model.student] if len(students) == 1 else model.students.values():
        network.decode_head.conv_seg.weight.normal_().mul_(3)
model.update_teacher(0.0)
loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
if world > 1:
    from mmengine.model import MMDistributedDataParallel

    wrapped = MMDistributedDataParallel(model, device_ids=None, find_unused_parameters=False)
else:
    wrapped = model
wrapped.train()
batch = model.data_preprocessor(next(iter(loader)), True)
losses = wrapped(**batch, mode='loss')
kept = next(iter(model.last_step.pseudo.values()))
sum(v for k, v in losses.items() if 'loss' in k).backward()
if int(os.environ['RANK']) == 0:
    gradients = {{n: p.grad for n, p in model.named_parameters() if p.requires_grad}}
    torch.save(dict(gradients=gradients, valid=kept.valid.float().mean(),
                    kept=kept.weight.mean(), taught=losses.get('a.taught', 0)), {out!r})
if world > 1:
    dist.barrier()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads may abort an interpreter that ends by itself
"""


GATES = """
import os, sys
sys.path.insert(0, {root!r})
import torch
import torch.distributed as dist

import mmseg_semi_rs
import mmseg_semi_rs.models.gates.base as base
import mmseg_semi_rs.models.gates.class_quantile as class_quantile
from tests.engine.test_ddp import weigh

rank, world = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
dist.init_process_group('gloo')
torch.set_num_threads(1)
both = weigh(rank, world)
base.all_reduce = class_quantile.all_reduce = lambda tensor: None
torch.save([both, weigh(rank, world)], f'{out}_{{rank}}.pth')

from types import SimpleNamespace

from mmengine.logging import MessageHub
from mmseg_semi_rs.engine.hooks import DeferredRuntimeInfoHook

hook, hub = DeferredRuntimeInfoHook(interval=2), MessageHub.get_instance('two ranks')
runner = SimpleNamespace(iter=0, max_iters=100, hooks=[], message_hub=hub)
for runner.iter in range(4):
    loss = torch.tensor(float(runner.iter + rank))
    hook.after_train_iter(runner, runner.iter, outputs=dict(loss=loss))
assert hub.get_scalar('train/loss').data[0].tolist() == [0.5, 1.5, 2.5, 3.5]
dist.barrier()
os._exit(0)
"""


def weigh(rank, world):
    """State and weights of each gate with state after three steps on a rank's part of a batch."""
    from mmseg_semi_rs.models.gates import build_gate

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


def launch(script, world):
    """Run a script in as many processes, and see each end well."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, '-W', 'ignore', str(script)],
            env={
                **os.environ,
                'RANK': str(rank),
                'LOCAL_RANK': str(rank),
                'OMP_NUM_THREADS': '1',
                'WORLD_SIZE': str(world),
                'MASTER_ADDR': '127.0.0.1',
                'MASTER_PORT': str(port),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for process in started:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors


def gradients(tmp_path, world, local_denominators=False, dual=False):
    folder = tmp_path / 'data'
    config = folder / 'tiny.py'
    if not folder.exists():
        write_dual(write_training(folder))
        (folder / 'labelled.txt').write_text(''.join(f'tile_{i}\n' for i in (0, 1, 2, 3)))
        (folder / 'unlabelled.txt').write_text(''.join(f'tile_{i}\n' for i in (4, 5, 6)))
    out = tmp_path / f'{dual}_{local_denominators}_{world}.pth'
    script = tmp_path / f'{dual}_{local_denominators}_{world}.py'
    script.write_text(
        SCRIPT.format(
            root=str(ROOT),
            config=str(folder / 'dual.py') if dual else str(config),
            local=local_denominators,
            out=str(out),
        )
    )
    launch(script, world)
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
    out, script = tmp_path / 'gates', tmp_path / 'gates.py'
    script.write_text(GATES.format(root=str(ROOT), out=str(out)))
    launch(script, 2)
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
