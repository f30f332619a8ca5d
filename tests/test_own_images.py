# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""projects/own_images: one command on a folder of images and masks."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from mmseg.registry import MODELS
from PIL import Image

from tests.tools.tiny_training import ROOT


@pytest.fixture
def compare():
    spec = importlib.util.spec_from_file_location(
        'compare', ROOT / 'projects' / 'own_images' / 'compare.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ('images', 'labels', 'splits'):
        (tmp_path / name).mkdir()
    for index in range(12):
        label = (np.indices((64, 64))[index % 2] // 20 + index) % 3
        image = (label[..., None] * 80 + rng.integers(0, 40, (64, 64, 3))).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / 'images' / f'{index}.jpg')
        if index < 4 or index > 7:
            Image.fromarray(label.astype(np.uint8)).save(tmp_path / 'labels' / f'{index}.png')
    lists = {'labelled_0': range(4), 'unlabelled': range(4, 8), 'val': range(8, 12)}
    for name, ids in lists.items():
        (tmp_path / 'splits' / f'{name}.txt').write_text(''.join(f'{i}\n' for i in ids))
    return tmp_path


@pytest.mark.slow
def test_one_command_compares_the_methods(compare, folder, tmp_path, monkeypatch, capsys):
    weights = tmp_path / 'teacher.pth'
    backbone = dict(
        type='MobileNetV2', out_indices=(1, 2, 4, 6), strides=(1, 2, 2, 2, 1, 1, 1),
        dilations=(1, 1, 1, 1, 1, 2, 2), norm_cfg=dict(type='BN'),
    )  # fmt: skip
    torch.save(MODELS.build(backbone).state_dict(), weights)
    out = tmp_path / 'out'
    methods = ['supervised', 'fixmatch', 'rsmtdf', 'co2s', 'co2s_alone', 'co2s_supervised']
    arguments = [
        'compare.py', str(folder), '--methods', *methods, '--classes', 'a', 'b', 'c',
        '--iters', '2', '--out', str(out),
        '--labelled', 'splits/labelled_{seed}.txt', '--unlabelled', 'splits/unlabelled.txt',
        '--val', 'splits/val.txt', '--student-weights', str(weights), '--second-weights',
        str(weights), '--cfg-options', 'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
    ]  # fmt: skip
    monkeypatch.setattr(sys, 'argv', arguments)
    compare.main()
    results = json.loads((out / 'results.json').read_text())
    assert set(results) == {f'{method}/0' for method in methods}
    for key, run in results.items():
        pair = ('a', 'b', 'fused') if key.startswith('co2s') else ('student', 'teacher')
        for network in pair:
            assert set(run[network]) == {'mIoU', 'a', 'b', 'c'}
    assert 'student a' in capsys.readouterr().out
    monkeypatch.setattr(compare, 'train', lambda *_: pytest.fail('finished runs are kept'))
    compare.main()


def test_missing_list_is_told(compare, folder, monkeypatch):
    arguments = ['x', str(folder), '--classes', 'a', '--labelled', 'no.txt', '--unlabelled', 'u']
    monkeypatch.setattr(sys, 'argv', [*arguments, '--val', 'v', '--out', str(folder / 'o')])
    with pytest.raises(SystemExit, match=r'--labelled: there is no list .*no\.txt'):
        compare.main()


def test_summary_gives_mean_and_spread(compare):
    results = {
        f'fixmatch/{seed}': {'seconds': 1.0, 'student': {'mIoU': value, 'a': value}}
        for seed, value in enumerate((40.0, 44.0))
    }
    table = compare.summarise(results, ['a'])
    assert list(table.columns[2].cells) == ['42.0 ± 2.8']
