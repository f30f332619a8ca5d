# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Defects of SemiEarth's release that belong to no single part; the others are tested beside it."""

import sys

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner import CheckpointLoader
from mmseg.registry import MODELS

from mmseg_semi_rs.models.utils import CutMix
from tests._support.config_zoo import Leaf, leaves, name
from tests._support.mean_teacher import build
from tests._support.networks import CLASSES, samples
from tests._support.purified_training import ColourVerifier, config, hook_of
from tests._support.tiny_training import train, write_training


def test_S17_the_verifier_works_on_the_device_of_its_own_rank(tmp_path, monkeypatch):
    devices = []
    monkeypatch.setattr(ColourVerifier, 'load', lambda self, device: devices.append(device))
    path = write_training(tmp_path / 'data')
    runner, _ = train(config(path, tmp_path / 'run', iters=1, hook=dict(budget=4)))
    assert set(devices) == {next(runner.model.parameters()).device}


def test_S18_everything_but_verifying_works_without_the_optional_libraries(monkeypatch):
    for library in ('transformers', 'accelerate', 'bitsandbytes'):
        monkeypatch.setitem(sys.modules, library, None)  # importing it is an error now
    for kind in ('CLIPVerifier', 'GenerativeVerifier'):
        verifier = MODELS.build(dict(type=kind, classes='potsdam'))
        verifier.settings()
    with pytest.raises(ImportError, match='vlm'):
        verifier.load()


def test_S21_S25_a_single_step_in_a_single_process_is_a_training_and_repeats_itself(tmp_path):
    path = write_training(tmp_path / 'data')
    hook = dict(budget=4)
    losses = [
        train(config(path, tmp_path / name, iters=1, hook=hook))[1] for name in ('first', 'second')
    ]
    assert len(losses[0]) == 1 and losses[0] == losses[1]


@pytest.mark.parametrize(
    'leaf', [leaf for leaf in leaves('semiearth') if not leaf.released][::6], ids=name
)
def test_S23_only_the_views_that_are_used_are_computed(leaf: Leaf):
    (branches,) = (step for step in leaf.cfg.unlabelled_pipeline if step.type == 'MultiBranch')
    assert {name for name in branches if name not in ('type', 'branch_field')} == {'weak', 'strong'}
    assert 'VLMPurifyHook' in [hook.type for hook in leaf.cfg.custom_hooks]


@pytest.mark.parametrize('count', [2, 3, 5])
def test_S24_no_image_of_an_odd_batch_is_its_own_partner(count):
    for _ in range(50):
        partners = CutMix().draw_partners(count)
        assert (partners != torch.arange(count)).all()
    assert (CutMix(partner='reverse').draw_partners(3) == torch.arange(3)).any()  # as released


def test_S22_slide_inference_has_as_many_classes_as_the_config():
    model = build()
    for network in (model.student, model.teacher):
        network.test_cfg = ConfigDict(mode='slide', crop_size=(32, 32), stride=(24, 24))
    model.eval()
    (found,) = model.predict(torch.randn(1, 3, 64, 64), samples(1))
    assert found.seg_logits.data.shape == (CLASSES, 64, 64)


def test_S19_the_hook_keeps_no_counter_and_no_cache_of_batches(tmp_path):
    path = write_training(tmp_path / 'data')
    runner, _ = train(config(path, tmp_path / 'run', iters=3, hook=dict(budget=4)))
    checkpoint = CheckpointLoader.load_checkpoint(str(tmp_path / 'run' / 'iter_3.pth'))
    assert not [key for key in checkpoint['state_dict'] if 'purif' in key or 'verif' in key]
    assert hook_of(runner).purifier.last == [] == runner.model.purifiers
