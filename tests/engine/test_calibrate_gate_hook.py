# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A teacher's thresholds are measured on held-out tiles, and hold in the next steps."""

import math

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from mmseg_semi_rs.engine.hooks import CalibrateGateHook
from mmseg_semi_rs.models.gates import ConformalGate
from tests._support.purified_training import config
from tests._support.tiny_training import train, write_dual, write_training


def calibrated(path, work_dir, iters=3, held_out=None, **settings):
    cfg = config(path, work_dir, iters)
    cfg.model.semi_train_cfg.gate = dict(type='ConformalGate')
    dataset = dict(cfg.val_dataloader.dataset, **(held_out or {}))
    hook = dict(type='CalibrateGateHook', dataset=dataset, interval=2, alpha=0.75, **settings)
    cfg.custom_hooks = [*cfg.custom_hooks, hook]
    return cfg


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return write_training(tmp_path_factory.mktemp('calibrated') / 'data')


def test_nothing_counts_before_it_is_measured():
    gate = ConformalGate(3)
    logits = torch.randn(1, 3, 4, 4) * 9
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    assert not gate(logits, valid).weight.any()
    gate.threshold.copy_(torch.tensor([0.5, math.inf, 0.99]))
    found = gate(logits, valid)
    expected = found.confidence >= torch.tensor([0.5, math.inf, 0.99])[found.labels]
    assert torch.equal(found.weight, expected.float()) and found.weight.any()


def test_the_thresholds_are_those_of_the_teacher_on_the_held_out_tiles(tiny, tmp_path):
    runner, _ = train(calibrated(tiny, tmp_path / 'run', iters=4))
    model = runner.model
    model.eval()
    claims = [[], [], []]
    dataset = runner.val_dataloader.dataset
    for index in range(len(dataset)):
        data = model.data_preprocessor(pseudo_collate([dataset[index]]), False)
        (found,) = model.predict_each(**data)['teacher']
        confidence, labels = found.seg_logits.data.softmax(0).max(0)
        for c, y, t in zip(confidence.flatten().tolist(), labels.flatten().tolist(),
                           found.gt_sem_seg.data.flatten().tolist(), strict=True):  # fmt: skip
            claims[y].append((c, y == t))
    for k, listed in enumerate(claims):
        expected = math.inf
        for step in range(2048):
            t = 1 - math.exp(-step / 128)
            right = [hit for c, hit in listed if c >= t]
            if right and sum(right) >= math.ceil(round((len(right) + 1) * 0.25, 9)):
                expected = t
                break
        assert float(model.gate.threshold[k]) == pytest.approx(expected, abs=1e-4), k
    assert model.gate.threshold.isfinite().any()


def test_it_changes_the_training_and_resumes_exactly(tiny, tmp_path):
    _, plain = train(config(tiny, tmp_path / 'plain', iters=5))
    runner, whole = train(calibrated(tiny, tmp_path / 'whole', iters=5))
    assert whole != plain
    cfg = calibrated(tiny, tmp_path / 'part', iters=5)
    train(calibrated(tiny, tmp_path / 'part', iters=3))
    cfg.resume, cfg.load_from = True, str(tmp_path / 'part' / 'iter_3.pth')
    resumed, rest = train(cfg)
    assert rest[-2:] == whole[-2:]
    for name, value in runner.model.state_dict().items():
        np.testing.assert_array_equal(value, resumed.model.state_dict()[name], err_msg=name)


def test_two_students_have_two_sets_of_thresholds(tmp_path):
    path = write_dual(write_training(tmp_path / 'data'))
    runner, _ = train(calibrated(path, tmp_path / 'run', iters=2))
    a, b = runner.model.gates.values()
    assert a.threshold.isfinite().any() and not torch.equal(a.threshold, b.threshold)


def test_what_cannot_be_measured_is_told(tiny, tmp_path):
    trained = calibrated(tiny, tmp_path / 'a', held_out=dict(ann_file='labelled.txt'))
    with pytest.raises(ValueError, match='which the network is trained on'):
        train(trained)
    cfg = calibrated(tiny, tmp_path / 'b')
    cfg.model.semi_train_cfg.gate = None
    with pytest.raises(ValueError, match='finds no ConformalGate'):
        train(cfg)
    cfg = calibrated(tiny, tmp_path / 'c')
    del cfg.custom_hooks[-1].dataset.pipeline[1]
    with pytest.raises(ValueError, match='has no labels: add LoadAnnotations'):
        train(cfg)
    with pytest.raises(ValueError, match='interval=0'):
        CalibrateGateHook(dict(), interval=0)
