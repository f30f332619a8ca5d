# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The worked examples run as their README says, on a few fabricated tiles."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tools.tiny_training import ROOT, run_tool

SEGFORMER = ROOT / 'projects/segformer_distill/configs'


def write_potsdam(folder: Path) -> None:
    """Write eight 128 px tiles in mmseg's Potsdam layout, with the lists of a split by scene."""
    rng = np.random.default_rng(0)
    root = folder / 'data/demo_potsdam'
    names = [f'train/{scene}_0_0_128_128' for scene in range(8)]
    for index, name in enumerate(names):
        labels = (np.indices((128, 128))[index % 2] // 16 + index) % 6 + 1
        colours = rng.integers(0, 255, (7, 3))
        pixels = np.clip(colours[labels] + rng.normal(0, 9, (128, 128, 3)), 0, 255)
        for kind, array in (('img_dir', pixels), ('ann_dir', labels)):
            path = root / kind / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
    lists = {
        '1-4/labeled': names[:2],
        '1-4/unlabeled': names[2:6],
        'val': names[6:7],
        'test': names[7:],
    }
    for name, listed in lists.items():
        path = root / f'splits/scene/{name}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(listed) + '\n')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'loss'),
    [
        ('segformer_mit-b0_dinov2-s_potsdam.py', 'decode.loss_distill_dino'),
        ('mean-teacher_segformer_mit-b0_dinov2-s_potsdam.py', 'loss_distill_dino'),
    ],
)
def test_segformer_learns_from_dinov2(config, loss, tmp_path):
    write_potsdam(tmp_path)
    done = run_tool(
        'tools/train.py',
        SEGFORMER / config,
        '--work-dir',
        tmp_path / 'work',
        '--cfg-options',
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=4',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    values = [float(value) for value in re.findall(rf' {re.escape(loss)}: ([\d.]+)', log)]
    assert len(values) == 4 and all(0 < value < 100 for value in values)
    assert values[-1] < values[0]
    assert 'mIoU' in log

    # MiT-B0 with head 3.7 M, translator 0.7 M and projection 0.1 M parameters; no ViT-S (22 M).
    checkpoint = tmp_path / 'work/iter_4.pth'
    state = torch.load(checkpoint, map_location='cpu', weights_only=True)['state_dict']
    students = 2 if config.startswith('mean-teacher') else 1
    assert sum(tensor.numel() for tensor in state.values()) < students * 5e6
