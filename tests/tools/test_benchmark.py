# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""benchmark.py: parts that add up, and a loader measurement that sees every transform."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from mmseg.registry import MODELS
from torch import nn

from mmseg_semi_rs.engine.activation_memory import SavedActivations
from mmseg_semi_rs.engine.dry_run import parameter_counts
from mmseg_semi_rs.engine.step_timing import Stopwatch, TimeStepsHook, matmul_peak
from mmseg_semi_rs.utils.step_parts import LISTENERS, step_part
from tests._support.tiny_training import run_here, write_dual, write_training


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return write_training(tmp_path_factory.mktemp('benchmark'))


@pytest.mark.slow
def test_steps_are_split_into_parts_that_add_up(config, tmp_path, capsys):
    figures_file = tmp_path / 'figures.json'
    run_here('benchmark', config, '--steps', 3, '--warmup', 1, '--mfu', '--json', figures_file)
    figures = json.loads(figures_file.read_text())
    parts = figures['parts']
    assert {'data', 'EMA forward', 'student forward', 'backward', 'optimizer', 'EMA update'} <= set(
        parts
    )
    assert all(seconds >= 0 for seconds in parts.values())
    assert parts['backward'] > 0 < parts['EMA forward']
    assert sum(parts.values()) == pytest.approx(figures['step'], rel=0.5)
    assert figures['flops'] > 1e6
    assert 0 < figures['mfu'] < 1
    told = capsys.readouterr().out
    assert 'images/s' in told
    assert 'peak process memory' in told


@pytest.mark.slow
def test_two_configs_take_turns(config, tmp_path, capsys):
    figures_file = tmp_path / 'figures.json'
    words = ['--steps', 2, '--warmup', 1, '--rounds', 2, '--json', figures_file]
    run_here('benchmark', config, '--against', config, *words)
    figures = json.loads(figures_file.read_text())
    assert len(figures['step']) == len(figures['other']) == 2
    pairs = zip(figures['step'], figures['other'], strict=True)
    assert figures['ratios'] == [step / other for step, other in pairs]
    assert f'of one of {config}, 2 rounds of 2 steps' in capsys.readouterr().out


def test_loader_names_every_transform(config, tmp_path):
    figures_file = tmp_path / 'figures.json'
    run_here('benchmark', config, '--loader', '--samples', 4, '--json', figures_file)
    unlabelled = json.loads(figures_file.read_text())['unlabelled']
    names = set(unlabelled['transforms_ms'])
    assert {
        'LoadImageFromFile',
        'TrackGeometry',
        'TrackGeometry.RandomResize',
        'MultiBranch.strong.PhotoMetricDistortion',
        'MultiBranch.weak.PackSemiInputs',
    } <= names
    assert 'LoadAnnotations' not in names
    assert unlabelled['median_ms'] > 0


def test_time_within_a_teacher_is_not_the_students():
    """What is booked inside of a part is not that part's."""
    hook = TimeStepsHook(steps=1, warmup=1)
    hook.watch = Stopwatch(cuda=False)
    hook.images = 4
    hook._begins, hook._ends = [0.0, 11.0], [10.0, 21.0]
    hook.watch._spans = [
        (1, 'purification ahead', None, 10.0, 10.25),
        (1, 'purification', 'EMA forward', 12.0, 12.5),
        (1, 'EMA forward', 'student forward', 11.0, 12.5),
        (1, 'frozen teachers', 'student forward', 13.0, 15.0),
        (1, 'backward', 'student forward', 16.0, 17.0),
        (1, 'student forward', None, 11.0, 17.5),
        (1, 'backward', None, 17.5, 19.5),
    ]
    report = hook.report()
    assert report['step'] == 11.0
    assert report['images_per_second'] == pytest.approx(4 / 11)
    assert report['parts'] == {
        'data': 0.75,
        'EMA forward': 1.0,
        'purification': 0.75,
        'frozen teachers': 2.0,
        'student forward': 2.0,
        'backward': 3.0,
        'rest': 1.5,
    }


def test_stopwatch_times_parts_and_modules():
    watch = Stopwatch(cuda=False)
    clock = itertools.count()
    watch.now = lambda: float(next(clock))  # a second passes at every look
    LISTENERS.append(watch)
    try:
        with step_part('night'):
            for _ in range(2):
                step_part('nap')(lambda: None)()
    finally:
        LISTENERS.remove(watch)
    module = nn.Identity()
    watch.watch('module', module)
    module(torch.zeros(1))
    assert watch.totals(0, 1) == [{'nap': 2.0, 'night': 3.0, 'module': 1.0}]


def distilling(config, tmp_path):
    """The tiny config with a frozen teacher of its own kind."""
    text = config.read_text()
    teacher = (
        "student=dict(type='DistillEncoderDecoder', decode_head=dict(_delete_=True,"
        " type='MultiTeacherDistillHead', decode_head={{_base_.model.student.decode_head}},"
        " teachers=dict(small=dict(type='FrozenTeacher', backbone=dict(type='ResNet', depth=18,"
        ' base_channels=4, stem_channels=4))), translator=dict(hidden=8)))'
    )
    (tmp_path / 'base.py').write_text(text)
    leaf = tmp_path / 'distilling.py'
    leaf.write_text(f"_base_ = './base.py'\nmodel = dict({teacher})\n")
    return leaf


@pytest.mark.slow
def test_frozen_teachers_are_timed(config, tmp_path):
    figures_file = tmp_path / 'figures.json'
    leaf = distilling(config, tmp_path)
    run_here('benchmark', leaf, '--steps', 2, '--warmup', 1, '--json', figures_file)
    assert json.loads(figures_file.read_text())['parts']['frozen teachers'] > 0
    assert not LISTENERS


def test_teachers_that_a_head_keeps_to_itself_are_counted(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_here('train', distilling(config, tmp_path), '--check')
    lines = capsys.readouterr().out.splitlines()
    backbone = MODELS.build(dict(type='ResNet', depth=18, base_channels=4, stem_channels=4))
    millions = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    row = next(line for line in lines if 'frozen teacher small' in line)
    assert row.split()[-3:] == ['0.00', 'frozen', f'{millions:.2f}']
    model = nn.Sequential(nn.Linear(2, 3))
    model[0].bias.requires_grad_(False)
    assert parameter_counts(model) == [('0', 6, 3)]


@pytest.mark.parametrize('arguments', [dict(steps=0), dict(warmup=0)])
def test_wrong_numbers_are_told(arguments):
    with pytest.raises(ValueError, match='must be at least 1'):
        TimeStepsHook(**arguments)


def test_matmul_peak_is_a_plausible_rate():
    assert 1e8 < matmul_peak(torch.device('cpu'), torch.float32, seconds=0.05) < 1e15


@pytest.mark.slow
def test_backward_passes_inside_the_loss_are_timed_as_backward(config, tmp_path):
    figures_file = tmp_path / 'figures.json'
    run_here('benchmark', write_dual(config), '--steps', 2, '--warmup', 1, '--json', figures_file,
             '--activations', '--mfu')  # fmt: skip
    figures = json.loads(figures_file.read_text())
    assert figures['flops'] > 0
    assert figures['activations'] > 1e6
    parts = figures['parts']
    assert parts['backward'] > 0.2 * parts['student forward'] > 0
    assert not LISTENERS


def test_saved_activations_are_counted_once_and_while_they_are_kept():
    weight = nn.Parameter(torch.rand(16, 16))
    images = torch.rand(8, 16)
    with SavedActivations([weight]) as saved:
        hidden = images @ weight  # keeps images
        mixed = hidden.exp() * images  # keeps exp's result, for both, and images once more
        assert saved.current == saved.peak == 2 * 8 * 16 * 4
        mixed.sum().backward()
        assert saved.current == 0
        first = (images @ weight).square().sum()  # keeps images and the product
        del first
        assert saved.current == 0
    assert saved.peak == 2 * 8 * 16 * 4
