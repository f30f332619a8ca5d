# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""I11: damaged data and contradictory settings stop the run before the first step, in one sentence.

What only concerns the command line and the paths of a config stands in tools/test_train_cli.py.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_semi_rs.models import MeanTeacherSegmentor
from tests._support.tiny_training import run_here, write_dual, write_training


def image_gone(folder: Path) -> None:
    (folder / 'img' / 'tile_3.png').unlink()


def image_cut_off(folder: Path) -> None:
    path = folder / 'img' / 'tile_0.png'
    path.write_bytes(path.read_bytes()[:20])


def image_half_there(folder: Path) -> None:
    path = folder / 'img' / 'tile_2.png'
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def labels_all_ignored(folder: Path) -> None:
    for name in ('tile_0', 'tile_1'):
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(folder / 'ann' / f'{name}.png')


def list_in_latin_1(folder: Path) -> None:
    (folder / 'labelled.txt').write_bytes('tile_0\ntile_ö\n'.encode('latin-1'))


def list_with_a_mark(folder: Path) -> None:
    (folder / 'labelled.txt').write_text('tile_0\ntile_1\n', encoding='utf-8-sig')


def image_is_text(folder: Path) -> None:
    (folder / 'img' / 'tile_2.png').write_text('<html>404</html>')


def label_gone(folder: Path) -> None:
    (folder / 'ann' / 'tile_1.png').unlink()


def label_cut_off(folder: Path) -> None:
    path = folder / 'ann' / 'tile_1.png'
    path.write_bytes(path.read_bytes()[:60])


def label_of_other_size(folder: Path) -> None:
    Image.fromarray(np.zeros((32, 48), np.uint8)).save(folder / 'ann' / 'tile_0.png')


def label_ids_outside(folder: Path) -> None:
    label = np.zeros((64, 64), np.uint8)
    label[0, :2] = 7, 9
    Image.fromarray(label).save(folder / 'ann' / 'tile_0.png')


def label_in_colours(folder: Path) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / 'ann' / 'tile_0.png')


def list_with_wrong_name(folder: Path) -> None:
    (folder / 'labelled.txt').write_text('tile_0\ntlie_1\n')


def list_empty(folder: Path) -> None:
    (folder / 'unlabelled.txt').write_text('')


def lists_overlap(folder: Path) -> None:
    (folder / 'unlabelled.txt').write_text('tile_1\ntile_2\ntile_3\n')


def edit(old: str, new: str):
    def change(folder: Path) -> None:
        text = (folder / 'tiny.py').read_text()
        assert old in text
        (folder / 'tiny.py').write_text(text.replace(old, new))

    return change


def weights_of_another_network(folder: Path) -> None:
    torch.save({'fc.weight': torch.zeros(2, 2)}, folder / 'other.pth')
    edit(
        "backbone=dict(type='ResNet', depth=18, base_channels=4, stem_channels=4, "
        'norm_cfg=norm_cfg)',
        "backbone=dict(type='DINOv2', img_size=56, "
        'arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), '
        f"out_indices=(0, 1), checkpoint='{folder / 'other.pth'}')",
    )(folder)
    edit('in_channels=32, in_index=3', 'in_channels=16, in_index=1')(folder)
    edit('size=(64, 64), pad_val', 'size=(56, 56), pad_val')(folder)
    edit('crop_size=(64, 64)', 'crop_size=(56, 56)')(folder)


CASES = [
    (image_gone, r'tile_3\.png does not exist'),
    (image_cut_off, r'tile_0\.png cannot be read'),
    (image_half_there, r'tile_2\.png cannot be read \(OSError: image file is truncated'),
    (labels_all_ignored, r'8192 pixels in 2 labels, and all are ignored'),
    (list_in_latin_1, r'labelled\.txt is not in UTF-8 \(line 2, .*Latin-1'),
    (list_with_a_mark, r'labelled\.txt, which begins with a byte order mark'),
    (image_is_text, r'tile_2\.png cannot be read'),
    (label_gone, r'ann/tile_1\.png does not exist'),
    (label_cut_off, r'ann/tile_1\.png cannot be read'),
    (label_of_other_size, r'ann/tile_0\.png is 48 x 32 pixels but its image 64 x 64'),
    (label_ids_outside, r'ann/tile_0\.png has ids .*7.*9.* outside 0\.\.2'),
    (label_in_colours, r'ann/tile_0\.png has 3 channels'),
    (list_with_wrong_name, r'tlie_1\.png does not exist'),
    (list_empty, r'unlabelled\.txt, which is empty'),
    (lists_overlap, r'tile_1.*|images are both in the labelled list'),
    (weights_of_another_network, r'other\.pth.*fc\.weight|other\.pth'),
    (edit('batch_size=4, num_workers=0,', 'batch_size=6, num_workers=0,'), r'batch_size=6.*=4'),
    (edit("dict(type='MeanTeacherHook', momentum=0.004)",
          "dict(type='MeanTeacherHook', momentum=1.5)"), r'momentum=1\.5'),
    (edit('semi_train_cfg=dict(conf_thresh=0.4)',
          'semi_train_cfg=dict(confidence=0.4)'), r"unknown keys \['confidence'\]"),
    (edit('semi_train_cfg=dict(conf_thresh=0.4)',
          "semi_train_cfg=dict(cutmix=dict(partner='own'))"), r"partner='own'"),
    (edit('semi_train_cfg=dict(conf_thresh=0.4)',
          "semi_test_cfg=dict(predict_on='mean')"), r"predict_on='mean'"),
    (edit("type='RandomFlip', prob=0.5", "type='CenterCrop', crop_size=(64, 64)"),
     r'cannot follow CenterCrop'),
    (edit("constructor='MergedParamGroupsConstructor',",
          "constructor='MergedParamGroupsConstructor', "
          "paramwise_cfg=dict(custom_keys={'bakcbone': dict(lr_mult=0.1)}),"), r"'bakcbone'"),
    (edit("custom_hooks = [dict(type='MeanTeacherHook', momentum=0.004)]", 'custom_hooks = []'),
     'ema=True, but no hook updates the average'),
    (edit('num_classes=3', 'num_classes=2'),
     r'num_classes=2, but the training data has 3 classes \(grass, road, roof\)'),
    (edit('weak=[dict(type=', 'week=[dict(type='), r"'week'"),
]  # fmt: skip


@pytest.mark.parametrize(('break_it', 'sentence'), CASES)
def test_I11_bad_input_stops_before_the_first_step(
    tmp_path, monkeypatch, capsys, break_it, sentence
):
    config = write_training(tmp_path / 'data')
    break_it(config.parent)
    steps = []
    monkeypatch.setattr(MeanTeacherSegmentor, 'loss', lambda *args: steps.append(1) or {})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run_here('train', config, '--work-dir', tmp_path / 'work')
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert not steps
    assert left.value.code == 2
    assert len(told) == 1 and re.search(sentence, told[0]), told


DUAL_CASES = [
    (('students=dict(a=student, b=student)', 'students=dict(a=student)'), 'has two students'),
    (('conf_thresh=0.4', 'conf_thresh=0.4, donors=2'), r'2 unlabelled images.*donors=2'),
    (('conf_thresh=0.4', "stability=dict(mask='none')"), r"'none'"),
]


@pytest.mark.parametrize(('change', 'sentence'), DUAL_CASES)
def test_I11_wrong_settings_of_two_students_are_told(
    tmp_path, monkeypatch, capsys, change, sentence
):
    config = write_dual(write_training(tmp_path / 'data'))
    assert change[0] in config.read_text()
    config.write_text(config.read_text().replace(*change))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run_here('train', config, '--work-dir', tmp_path / 'work')
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert left.value.code == 2
    assert len(told) == 1 and re.search(sentence, told[0]), told
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_check_tells_a_wrong_number_of_classes_too(tmp_path, monkeypatch, capsys):
    config = write_training(tmp_path / 'data')
    edit('num_classes=3', 'num_classes=2')(config.parent)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run_here('train', config, '--check')
    assert 'num_classes=2, but the training data has 3 classes' in capsys.readouterr().err


def test_R22_unlabelled_images_need_no_label_files_at_all(tmp_path, monkeypatch):
    config = write_training(tmp_path / 'data')
    for name in ('tile_2', 'tile_3'):
        (config.parent / 'ann' / f'{name}.png').unlink()
    monkeypatch.chdir(tmp_path)
    run_here('train', config, '--work-dir', tmp_path / 'work')
    assert (tmp_path / 'work' / 'iter_4.pth').is_file()


@pytest.mark.parametrize('workers', [0, 2])
def test_a_file_that_is_damaged_in_training_is_named(tmp_path, monkeypatch, capsys, workers):
    config = write_training(tmp_path / 'data')
    image_half_there(config.parent)
    monkeypatch.chdir(tmp_path)
    options = ('train_cfg.check_data=False', f'train_dataloader.num_workers={workers}')
    words = ['train', config, '--work-dir', tmp_path / 'work', '--cfg-options', *options]
    with pytest.raises(SystemExit) as left:
        run_here(*words)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert left.value.code == 2
    assert len(told) == 1 and re.search(r'tile_2\.png cannot be read .*--resume', told[0]), told
    run_here(*words, 'train_dataloader.dataset.damaged=skip')
    assert (tmp_path / 'work' / 'iter_4.pth').is_file()
    said = capsys.readouterr().out
    if workers == 0:
        assert 'tile_2.png cannot be read' in said and 'skipped, the 2. time' in said
