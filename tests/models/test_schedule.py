# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""When unlabelled images begin to count: burn-in and ramp, of both segmentors."""

import math
import random
import time

import pytest
import torch
from mmengine.logging import MessageHub

from mmseg_semi_rs.models.segmentors import schedule
from mmseg_semi_rs.models.segmentors.schedule import UnsupervisedSchedule, check_burn_in
from tests._support import dual_student as dual
from tests._support import mean_teacher as single

BOTH = pytest.mark.parametrize('kind', [single, dual], ids=['mean teacher', 'dual student'])
GATE = dict(type='AdaptiveGate', align=True)


@pytest.fixture
def at():
    """Say which iteration of how many this is; outside of the test it is none."""
    name = f'schedule_{time.time_ns()}'
    hub = MessageHub.get_instance(name)

    def say(iteration, max_iters=10):
        hub.update_info('iter', iteration)
        hub.update_info('max_iters', max_iters)

    yield say
    MessageHub._instance_dict.pop(name)


def step(model, inputs, data):
    """Losses, gradients, and the generators afterwards."""
    model.zero_grad()
    torch.manual_seed(0)
    random.seed(0)
    losses = model.loss(inputs, data)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {k: v.detach() for k, v in losses.items()}, found, torch.get_rng_state()


def assert_same(one, two):
    for first, second in zip(one[:2], two[:2], strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert torch.equal(one[2], two[2])


@BOTH
@pytest.mark.parametrize('start', [5, 0.5])
@pytest.mark.parametrize('iteration', [0, 4])
def test_a_step_before_the_start_is_a_supervised_step(kind, start, iteration, at):
    inputs, data = kind.batch()
    supervised = step(kind.build('BN'), {'sup': inputs['sup']}, {'sup': data['sup']})
    at(iteration)
    model = kind.build('BN', unsup_start=start, gate=GATE, cutmix={})
    model.purifiers.append(lambda *_: pytest.fail('there is no pseudo label to purify'))
    assert_same(step(model, inputs, data), supervised)
    assert not model.last_step.pseudo
    for gate in [model.gate] if kind is single else model.gates.values():
        assert gate.mean_confidence.isnan() and gate.mean_probability.isnan().all()
        assert gate.label_pixels.sum() > 0, 'labels are counted from the first step on'


@BOTH
@pytest.mark.parametrize('start', [5, 0.5])
def test_the_step_of_the_start_is_the_first_with_pseudo_labels(kind, start, at):
    inputs, data = kind.batch()
    at(0)
    whole = step(kind.build(), inputs, data)
    at(5)
    model = kind.build(unsup_start=start)
    assert_same(step(model, inputs, data), whole)
    assert model.last_step.pseudo
    assert any('unsup' in name or 'strong' in name for name in whole[0])


@BOTH
@pytest.mark.parametrize('ramp', [4, 0.4])
def test_the_weight_grows_over_the_ramp_that_follows_the_start(kind, ramp, at):
    inputs, data = kind.batch()
    model = kind.build(unsup_start=3, unsup_ramp=ramp)
    at(9)
    full = step(model, inputs, data)[0]
    ramped = {
        name for name in full if name.split('.')[-1] in ('loss_unsup', 'loss_strong', 'loss_fp')
    }
    assert len(ramped) == (1 if kind is single else 4)
    for iteration, weight in ((3, 0.0), (4, 0.25), (6, 0.75), (7, 1.0)):
        at(iteration)
        losses = step(model, inputs, data)[0]
        for name in ramped:
            assert float(losses[name]) == pytest.approx(weight * float(full[name]), rel=1e-5)
        for name in set(full) - ramped:
            if 'stability' not in name:
                torch.testing.assert_close(losses[name], full[name])


@pytest.mark.parametrize('start', [30, 0.3])
@pytest.mark.parametrize('since', [0, 7, 19, 20])
def test_the_stability_ramp_counts_from_the_start(start, since, at):
    inputs, data = dual.batch()
    model = dual.build(unsup_start=start)
    at(99, 100)
    peak = step(model, inputs, data)[0]['a.loss_stability']
    at(30 + since, 100)
    now = step(model, inputs, data)[0]['a.loss_stability']
    # w(t) = 0.25 (1 - cos(pi t / (0.2 T - 1))) for t < 0.2 T, then 0.5
    weight = 0.25 * (1 - math.cos(math.pi * since / 19)) if since < 20 else 0.5
    assert float(peak) > 0
    assert float(now) == pytest.approx(float(peak) / 0.5 * weight, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    'start, ramp, expected',
    [
        (0, 0, {0: 1.0, 9: 1.0}),
        (4, 0, {0: None, 3: None, 4: 1.0}),
        (0.25, 0, {1: None, 2: 1.0}),  # round(2.5) is 2
        (0, 4, {0: 0.0, 1: 0.25, 4: 1.0, 9: 1.0}),
        (2.0, 0.5, {1: None, 2: 0.0, 3: 0.2, 7: 1.0}),
    ],
)
def test_weight_of_each_step(start, ramp, expected, at):
    for iteration, weight in expected.items():
        at(iteration)
        assert UnsupervisedSchedule(start, ramp).weight() == weight


def test_outside_of_a_training_pseudo_labels_count_and_a_share_has_no_begin(at):
    MessageHub.get_current_instance()
    assert UnsupervisedSchedule(5, 5).weight() == 1.0
    with pytest.raises(ValueError, match=r'unsup_start=0\.5 is a share .* give a number of steps'):
        UnsupervisedSchedule(0.5).begin()


@pytest.mark.parametrize('value', [-1, 1.5, True, '3', None, math.nan, math.inf])
@pytest.mark.parametrize('name', ['start', 'ramp'])
def test_what_is_no_number_of_steps_is_told(name, value):
    with pytest.raises(
        ValueError, match=f'unsup_{name}={value!r} must be a number of steps'
    ) as told:
        UnsupervisedSchedule(**{name: value})
    assert '\n' not in str(told.value)


@pytest.mark.parametrize('start, max_iters', [(10, 10), (11, 10), (0.9, 4), (0.999, 100)])
def test_a_burn_in_without_an_end_is_refused(start, max_iters):
    with pytest.raises(ValueError, match=rf'unsup_start={start} .*max_iters={max_iters}: no unlab'):
        check_burn_in(UnsupervisedSchedule(start), False, max_iters, False)


@pytest.mark.parametrize(
    'start, needed, trained, told',
    [
        (0, True, False, True),
        (0.01, True, False, True),  # rounds to no step of 20
        (0.4, True, False, False),
        (3, True, False, False),
        (0, True, True, False),
        (0, False, False, False),
    ],
)
def test_a_missing_burn_in_is_told(start, needed, trained, told, monkeypatch):
    said = []
    monkeypatch.setattr(schedule, 'print_log', lambda message, **_: said.append(message))
    check_burn_in(UnsupervisedSchedule(start), needed, 20, trained)
    assert bool(said) is told
    assert not said or 'set semi_train_cfg.unsup_start' in said[0]
