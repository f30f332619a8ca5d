# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The page's config over a stock one of mmseg, as printed and without ``_delete_``."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image

from mmseg_semi_rs.engine.launch import load_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def potsdam(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(4):
        for folder, low, shape in (('img_dir', 0, (64, 64, 3)), ('ann_dir', 1, (64, 64))):
            path = tmp_path / folder / 'train' / f'{index}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            high = 256 if low == 0 else 7
            Image.fromarray(rng.integers(low, high, shape).astype(np.uint8)).save(path)
    (tmp_path / 'labelled.txt').write_text('0\n1\n')
    (tmp_path / 'unlabelled.txt').write_text('2\n3\n')
    return tmp_path


@pytest.mark.parametrize('deleted', [True, False])
def test_a_stock_config_trains(potsdam, deleted, monkeypatch):
    page = (ROOT / 'docs' / 'extend.md').read_text(encoding='utf-8')
    (text,) = re.findall(r"```python\n(_base_ = \['mmseg::.*?)```", page, re.DOTALL)
    for name in ('labelled', 'unlabelled'):
        text = text.replace(f"'{name}.txt'", repr(str(potsdam / f'{name}.txt')))
    if not deleted:
        text = text.replace('_delete_=True, ', '').replace('    _delete_=True,\n', '')
        assert '_delete_' not in text
    (potsdam / 'mine.py').write_text(text)
    options = {
        'model.student.pretrained': None,
        'model.student.backbone.base_channels': 8,
        'model.student.backbone.stem_channels': 8,
        'model.student.decode_head.in_channels': 64,
        'model.student.decode_head.channels': 8,
        'model.student.auxiliary_head.in_channels': 32,
        'model.student.auxiliary_head.channels': 8,
        'train_dataloader.batch_size': 4,
        'train_dataloader.sampler.batch_size': 4,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_cfg.max_iters': 3,
        'train_cfg.val_interval': 99,
    }
    cfg = load_config(potsdam / 'mine.py', options, str(potsdam / 'work'))
    for source in ('labelled', 'unlabelled'):
        cfg.train_dataloader.dataset[source].data_root = str(potsdam)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    runner = Runner.from_cfg(cfg)
    before = runner.model.student.decode_head.conv_seg.weight.detach().clone()
    runner.train()
    assert not torch.equal(before, runner.model.student.decode_head.conv_seg.weight)
    logged = runner.message_hub.log_scalars
    assert 'train/loss_unsup' in logged  # the last step is past the burn-in
    assert list(runner.model.last_step.pseudo) == ['student']
