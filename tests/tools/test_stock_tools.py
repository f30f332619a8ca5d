# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Augmented tests, and mmseg's own tools on configs, logs and checkpoints of this package."""

import json
import runpy
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import mmseg
import numpy as np
import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.registry import DATASETS, MODELS

from mmseg_semi_rs.apis.predictor import choose_network
from mmseg_semi_rs.engine import test_time_aug
from mmseg_semi_rs.engine.test_time_aug import augment_tests, tta_pipeline
from tests._support.tiny_training import run_here, write_dual, write_training

STOCK = Path(mmseg.__file__).parent / '.mim' / 'tools'
needs_stock = pytest.mark.skipif(not STOCK.is_dir(), reason='this mmseg comes without its tools')


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return write_training(tmp_path_factory.mktemp('training'))


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('work')
    run_here('train', config, '--work-dir', work_dir)
    return work_dir


# ---------------------------------------------------------------------------------- augmented tests


@pytest.mark.parametrize('network', ['teacher', 'student', 'a', 'fused'])
def test_augmented_predictions_are_the_mean_over_the_copies(config, network, monkeypatch):
    monkeypatch.setattr(test_time_aug, 'RATIOS', (1.0,))
    path = config if network in ('teacher', 'student') else write_dual(config)
    cfg = Config.fromfile(path)
    choose_network(cfg, network)
    augment_tests(cfg)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    batch = pseudo_collate([DATASETS.build(cfg.test_dataloader.dataset)[0]])
    views = batch['inputs']
    assert len(views) == 2 and torch.equal(views[0][0], views[1][0].flip(-1))
    plain = {'inputs': [views[0][0]], 'data_samples': [batch['data_samples'][0][0]]}
    images = model.module.data_preprocessor(plain, False)['inputs']
    metas = [dict(img_shape=(64, 64), ori_shape=(64, 64))]
    with torch.no_grad():
        for part in model.module.predictors.values():  # no class everywhere, and each another
            torch.nn.init.normal_(part.decode_head.conv_seg.weight)
            part.decode_head.conv_seg.bias -= part.encode_decode(images, metas).mean((0, 2, 3))
        (found,) = model.test_step(batch)
        first, mirrored = (
            model.module.encode_decode(view, metas).softmax(1) for view in (images, images.flip(-1))
        )
    expected = (first + mirrored.flip(-1)).argmax(1)
    assert torch.equal(found.pred_sem_seg.data.flatten(), expected.flatten())
    assert not torch.equal(expected, first.argmax(1))


def test_the_copies_have_the_sizes_of_the_test_pipeline():
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(40, 20), keep_ratio=True),
        dict(type='CLAHE'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    *first, copies = tta_pipeline(steps)
    sizes, flips, labels, pack = copies['transforms']
    assert [step['type'] for step in first] == ['LoadImageFromFile', 'CLAHE']
    assert [step['scale'] for step in sizes][::2] == [(20, 10), (40, 20), (60, 30)]
    assert [step['prob'] for step in flips] == [0.0, 1.0]
    assert labels == [steps[3]] and pack == [steps[4]]
    assert [step['scale_factor'] for step in tta_pipeline(steps[::4])[1]['transforms'][0]] == [
        *test_time_aug.RATIOS
    ]
    kept = [dict(type='KeepInMemory', transforms=[steps[0], steps[3]]), steps[4]]
    *first, copies = tta_pipeline(kept)  # labels keep their own size there, too
    assert first == steps[:1] and copies['transforms'][2] == [steps[3]]


def test_what_cannot_be_augmented_is_told(config):
    cfg = Config.fromfile(config)
    cfg.tta_pipeline = cfg.test_dataloader.dataset.pipeline
    with pytest.raises(ValueError, match=r'tta_pipeline of .*tiny.py has no TestTimeAug'):
        augment_tests(cfg)
    with pytest.raises(
        ValueError, match=r'has CenterCrop, of which.*give the config a tta_pipeline'
    ):
        tta_pipeline([dict(type='CenterCrop', crop_size=9), dict(type='PackSegInputs')])


@pytest.mark.parametrize('own', [False, True])
def test_the_tool_tests_with_copies(config, trained, tmp_path, own):
    arguments = [config, trained / 'iter_4.pth', '--tta', '--work-dir', tmp_path / 'work']
    if own:  # a pipeline of the config's own, inside of a wrapper, and another network
        path = tmp_path / 'own.py'
        path.write_text(
            f"_base_ = '{config}'\n"
            "flips = [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)]\n"
            "tta_model = dict(type='SegTTAModel')\n"
            "tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=["
            "flips, [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]\n"
            "test_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=1, "
            'dataset=_base_.val_dataloader.dataset))\n'
        )
        arguments = [path, *arguments[1:], '--predict-on', 'student']
    run_here('test', *arguments, '--json', tmp_path / 'tta.json')
    metrics = json.loads((tmp_path / 'tta.json').read_text())
    assert 0 <= metrics['mIoU'] <= 100 and not any('/' in name for name in metrics)


# -------------------------------------------------------------------------------------- mmseg's own


def stock(name, *arguments, monkeypatch):
    """Run a tool of mmseg in this process."""
    monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
    return runpy.run_path(str(STOCK / f'{name}.py'), run_name='__main__')


@needs_stock
def test_analyze_logs_draws_losses_and_scores(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'seaborn', SimpleNamespace(set_style=lambda style: None))
    (log,) = trained.glob('*/vis_data/scalars.json')
    for keys in (['mIoU', 'student/mIoU'], ['decode.loss_ce', 'decode.acc_seg', 'loss_unsup']):
        out = tmp_path / f'{len(keys)}.png'
        arguments = (log, '--keys', *keys, '--backend', 'Agg', '--out', out)
        stock('analysis_tools/analyze_logs', *arguments, monkeypatch=monkeypatch)
        assert out.stat().st_size > 1000


@needs_stock
def test_confusion_matrix_reads_what_test_wrote(config, trained, tmp_path, monkeypatch):
    """Of a data set whose class has no names: those of FolderDataset come from its config."""
    path = tmp_path / 'folder.py'
    path.write_text(
        f"_base_ = '{config}'\n"
        "test_dataloader = dict(dataset=dict(_delete_=True, type='FolderDataset',\n"
        '    **{k: v for k, v in _base_.dataset.items() if k in ("data_root", "metainfo")},\n'
        "    ann_file='val.txt', data_prefix=_base_.both,\n"
        '    pipeline=_base_.val_dataloader.dataset.pipeline))\n'
    )
    predicted = tmp_path / 'predicted'
    arguments = (path, trained / 'iter_4.pth', '--predict-on', 'student', '--out', predicted)
    run_here('test', *arguments, '--work-dir', tmp_path / 'work')
    assert len(list(predicted.glob('*.png'))) == 3
    tool = runpy.run_path(str(STOCK / 'analysis_tools' / 'confusion_matrix.py'))
    dataset = DATASETS.build(Config.fromfile(path).test_dataloader.dataset)
    from PIL import Image

    maps = [np.array(Image.open(file)) for file in sorted(predicted.iterdir())]
    matrix = tool['calculate_confusion_matrix'](dataset, maps)
    assert matrix.shape == (3, 3) and matrix.sum() == 3 * 64 * 64


@needs_stock
def test_published_checkpoints_are_ours_still(config, trained, tmp_path, monkeypatch):
    out = tmp_path / 'slim.pth'
    stock('misc/publish_model', trained / 'iter_4.pth', out, monkeypatch=monkeypatch)
    for _ in range(100):  # its `mv` runs on
        if files := list(tmp_path.glob('slim-????????.pth')):
            break
        time.sleep(0.05)
    assert files[0].stat().st_size < (trained / 'iter_4.pth').stat().st_size
    run_here('test', config, files[0], '--work-dir', tmp_path / 'work')


def test_flops_are_counted_as_the_page_says(config):
    """mmseg's own get_flops.py fails in mmengine for every model."""
    model = MODELS.build(Config.fromfile(config).model).eval()
    counted = get_model_complexity_info(model, (3, 64, 64), show_table=False, show_arch=False)
    alone = get_model_complexity_info(model.teacher, (3, 64, 64), show_table=False, show_arch=False)
    assert counted['flops'] == alone['flops'] > 0


@needs_stock
def test_benchmark_times_what_predicts(config, trained, tmp_path, monkeypatch, capsys):
    path = tmp_path / 'many.py'
    path.write_text(
        f"_base_ = '{config}'\n"
        "test_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=67, "
        'dataset=_base_.val_dataloader.dataset))\n'
    )
    arguments = (path, trained / 'iter_4.pth', '--work-dir', tmp_path / 'work')
    stock('analysis_tools/benchmark', *arguments, monkeypatch=monkeypatch)
    assert 'Overall fps' in capsys.readouterr().out
