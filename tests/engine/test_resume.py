# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""I9: a killed and resumed training equals an uninterrupted one, bit by bit."""

import os
import signal
import time

import pytest
import torch
from mmengine.runner import CheckpointLoader
from mmseg.registry import MODELS

from mmseg_semi_rs.datasets import SemiSampler
from tests._support.processes import finish, start
from tests._support.tiny_training import (
    assert_alive,
    config,
    train,
    write_dual,
    write_training,
    write_unimatch,
)


@pytest.mark.parametrize(
    'workers, write', [(0, None), (2, None), (2, write_dual), (2, write_unimatch)]
)
def test_I9_R24_C18_resumed_training_equals_an_uninterrupted_one(tmp_path, workers, write):
    path = write_training(tmp_path / 'data')
    path = write(path) if write else path
    options = {
        'train_dataloader.num_workers': workers,
        'train_dataloader.persistent_workers': workers > 0,
    }
    whole, expected = train(config(path, tmp_path / 'whole', **options))
    train(config(path, tmp_path / 'part', iters=3, **options))
    resumed, losses = train(
        config(
            path,
            tmp_path / 'part',
            resume=True,
            load_from=str(tmp_path / 'part' / 'iter_3.pth'),
            **options,
        )
    )
    assert list(losses)[-3:] == list(expected)[-3:]
    assert len(set(expected)) == len(expected) == 6
    assert_alive(resumed)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    state = whole.optim_wrapper.optimizer.state_dict()['state']
    other = resumed.optim_wrapper.optimizer.state_dict()['state']
    assert all(torch.equal(state[i]['exp_avg'], other[i]['exp_avg']) for i in state)


def test_I9_workers_do_not_change_the_result(tmp_path):
    path = write_training(tmp_path / 'data')
    _, first = train(config(path, tmp_path / 'a'))
    workers = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    runner, second = train(config(path, tmp_path / 'b', **workers))
    assert list(first) == list(second)
    assert_alive(runner)


def test_R23_same_seed_same_losses_other_seed_other_losses(tmp_path):
    path = write_training(tmp_path / 'data')
    curves = [
        list(train(config(path, tmp_path / f'{run}', iters=3, **{'randomness.seed': seed}))[1])
        for run, seed in enumerate((0, 0, 1))
    ]
    assert curves[0] == curves[1] != curves[2]


def test_I8_resume_reads_no_skipped_data(tmp_path, monkeypatch):
    path = write_training(tmp_path / 'data')
    train(config(path, tmp_path / 'run', iters=3))
    state = CheckpointLoader.load_checkpoint(str(tmp_path / 'run' / 'iter_3.pth'))
    state['meta']['iter'] = 40_000
    torch.save(state, tmp_path / 'forged.pth')
    steps = []
    original = SemiSampler.batch
    monkeypatch.setattr(
        SemiSampler, 'batch', lambda self, step: steps.append(step) or original(self, step)
    )
    late = config(
        path, tmp_path / 'late', iters=40_001, resume=True, load_from=str(tmp_path / 'forged.pth')
    )
    train(late)
    assert steps[0] == 40_000 and max(steps) < 40_010


def test_I3_R1_R2_checkpoint_holds_student_ema_and_optimizer_only(tmp_path):
    path = write_training(tmp_path / 'data')
    train(config(path, tmp_path / 'run', iters=3))
    saved = CheckpointLoader.load_checkpoint(str(tmp_path / 'run' / 'iter_3.pth'))
    assert {key.split('.')[0] for key in saved['state_dict']} == {'student', 'teacher'}
    trained = sum(key.startswith('student.') for key in saved['state_dict'])
    assert trained * 2 == len(saved['state_dict'])
    assert 'optimizer' in saved and 'param_schedulers' in saved


GATES = {
    'quantile': dict(type='ClassQuantileGate', floor=0.0),
    'adaptive': dict(type='AdaptiveGate'),
    'soft': dict(type='SoftGate', per_class=True),
}


@pytest.mark.parametrize(
    'gate, start, stop, write',
    [
        ('quantile', 2, (2, 3), None),  # at the start, and in the ramp
        ('adaptive', 4, (3,), None),  # before the start
        ('soft', 0.34, (4,), write_dual),
    ],
)
def test_I9_a_gate_goes_on_where_it_was(tmp_path, gate, start, stop, write):
    path = write_training(tmp_path / 'data')
    path = write(path) if write else path
    options = {
        'model.semi_train_cfg': dict(
            gate=dict(GATES[gate], align=True, momentum=0.5), unsup_start=start, unsup_ramp=2
        ),
        'default_hooks.checkpoint.interval': 1,
        'custom_hooks': [dict(type='MeanTeacherHook'), dict(type='PseudoLabelStatsHook')],
    }
    whole, expected = train(config(path, tmp_path / 'whole', **options))
    names = [name for name in whole.model.state_dict() if 'gate' in name]
    begin = whole.model.schedule.begin(6)
    for at in stop:
        file = tmp_path / 'whole' / f'iter_{at}.pth'
        saved = CheckpointLoader.load_checkpoint(str(file))['state_dict']
        assert set(names) == {name for name in saved if 'gate' in name}
        assert len(names) == (2 * 4 if write else 3 if gate == 'quantile' else 4)
        averages = [
            value for name, value in saved.items() if name in names and 'pixels' not in name
        ]
        assert all(bool(value.isnan().all()) is (at <= begin) for value in averages)
        resumed, losses = train(
            config(path, tmp_path / f'from_{at}', resume=True, load_from=str(file), **options)
        )
        assert list(losses)[at - 6 :] == list(expected)[at - 6 :]
        assert_alive(resumed, begin)
        for name, value in whole.model.state_dict().items():
            other = resumed.model.state_dict()[name]
            torch.testing.assert_close(value, other, rtol=0, atol=0, equal_nan=True)


def test_a_checkpoint_of_the_fixed_gate_has_nothing_of_it_and_loads_into_any(tmp_path):
    path = write_training(tmp_path / 'data')
    cfg = config(path, tmp_path / 'run')
    fixed = MODELS.build(cfg.model)
    saved = fixed.state_dict()
    assert {name.split('.')[0] for name in saved} == {'student', 'teacher'}
    cfg.model.semi_train_cfg = dict(gate=dict(type='FixedGate', threshold=0.7))
    MODELS.build(cfg.model).load_state_dict(saved)  # strict
    cfg.model.semi_train_cfg = dict(gate=dict(type='SoftGate', align=True))
    other = MODELS.build(cfg.model)
    keys = other.load_state_dict(saved, strict=False)
    assert not keys.unexpected_keys
    assert {name.split('.')[0] for name in keys.missing_keys} == {'gate'}
    assert other.gate.mean.isnan().all()


def go(path, work_dir, iters, resume):
    options = {
        'train_dataloader.num_workers': 2,
        'train_dataloader.persistent_workers': True,
        'default_hooks.checkpoint.interval': 2,
    }
    train(config(path, work_dir, iters=iters, resume=resume, **options))


@pytest.mark.slow
def test_I9_killed_process_resumes_bit_equal(tmp_path):
    path = write_training(tmp_path / 'data')
    log, folder = tmp_path / 'log', tmp_path / 'killed'
    killed = start(go, path, folder, 100_000, False, log=log)
    deadline = time.monotonic() + 120
    while not list(folder.glob('iter_*.pth')) and killed.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.join()
    last = max(int(file.stem.split('_')[1]) for file in folder.glob('iter_*.pth'))
    target = last + 4
    for name, resume in (('killed', True), ('whole', False)):
        finish(start(go, path, tmp_path / name, target, resume, log=log), log)
    name = f'iter_{target - target % 2}.pth'
    resumed, whole = (
        CheckpointLoader.load_checkpoint(str(tmp_path / run / name))['state_dict']
        for run in ('killed', 'whole')
    )
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
