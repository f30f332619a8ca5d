# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""browse_dataset.py draws the batch that the training step gets."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from PIL import Image

from mmseg_semi_rs.engine.batch_painter import BatchPainter
from mmseg_semi_rs.engine.launch import load_config
from mmseg_semi_rs.models.utils import CutMix
from mmseg_semi_rs.utils.randomness import seed_step
from mmseg_semi_rs.visualization import colorize
from tests._support.tiny_training import run_here, write_dual, write_training


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return write_training(tmp_path_factory.mktemp('browsing'))


def painter_and_batch(config, step: int):
    cfg = load_config(config)
    init_default_scope('mmseg')
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    loader.sampler.skip(step)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    painter = BatchPainter(preprocessor, loader.dataset.metainfo, CutMix(prob=1.0))
    return painter, next(iter(loader))


def contains(picture: np.ndarray, panel: np.ndarray) -> bool:
    """Whether a 64 px panel stands in a picture, enlarged to 128 px."""
    large = panel.repeat(2, axis=0).repeat(2, axis=1)
    rows = np.flatnonzero((picture[:, :, 0] != 255).any(axis=1))
    for top in rows:
        strip = picture[top : top + 128]
        if strip.shape[0] < 128:
            break
        for left in range(6, picture.shape[1] - 127, 134):
            if np.array_equal(strip[:, left : left + 128], large):
                return True
    return False


def test_the_picture_holds_views_labels_valid_and_cutmix_of_the_batch(config):
    painter, batch = painter_and_batch(config, step=2)
    seed_step(0, 2, 0)
    picture = painter(batch)
    data = painter.preprocessor(batch, True)
    for branch in ('sup', 'weak', 'strong'):
        for image in data['inputs'][branch]:
            assert contains(picture, painter.pixels(image)), branch
    for sample in data['data_samples']['sup']:
        assert contains(picture, colorize(sample.gt_sem_seg.data[0], painter.palette))
        mask = sample.valid.data[0].numpy()
        assert contains(picture, np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))


def test_the_boxes_are_those_of_the_training_step(config, monkeypatch):
    """The same seed as SemiTrainLoop's, and nothing drawn before CutMix."""
    painter, batch = painter_and_batch(config, step=0)
    seed_step(0, 5, 0)
    expected = painter.cutmix.draw_mask(painter.cutmix.draw_partners(2), 64, 64)
    seen = []
    draw = painter.cutmix.draw_mask
    monkeypatch.setattr(painter.cutmix, 'draw_mask', lambda *a: seen.append(draw(*a)) or seen[-1])
    seed_step(0, 5, 0)
    painter(batch)
    assert torch.equal(seen[0], expected)
    assert all(torch.equal(mask, seen[0]) for mask in seen)
    random.seed(None)


def test_without_cutmix_there_is_no_column_of_it(config):
    painter, batch = painter_and_batch(config, step=2)
    data = painter.preprocessor(batch, True)
    views = (data['inputs']['weak'], data['inputs']['strong'], data['data_samples']['weak'])
    mixed = painter.unlabelled('strong', *views)
    painter.cutmix = None
    plain = painter.unlabelled('strong', *views)
    assert mixed.shape[1] - plain.shape[1] == 134  # a cell and its gap
    assert contains(plain, painter.pixels(views[1][0]))


def test_the_tool_writes_one_picture_per_step(config, tmp_path, capsys):
    run_here('browse_dataset', config, '--out', tmp_path, '--batches', 2, '--start', 3)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['batch_000003.png', 'batch_000004.png']
    pictures = [np.asarray(Image.open(tmp_path / name)) for name in names]
    assert not np.array_equal(pictures[0], pictures[1])
    run_here('browse_dataset', config, '--out', tmp_path / 'again', '--start', 4)
    again = np.asarray(Image.open(tmp_path / 'again' / 'batch_000004.png'))
    assert np.array_equal(again, pictures[1]), '--start must reach the same batch'


def test_two_students_have_two_strong_views_and_labels_of_their_own(config, tmp_path):
    dual = write_dual(config)
    run_here('train', dual, '--work-dir', tmp_path / 'run')
    donors = ['model.semi_train_cfg.donors=1']
    arguments = [dual, '--cfg-options', *donors, '--checkpoint', tmp_path / 'run' / 'iter_4.pth']
    run_here('browse_dataset', *arguments, '--out', tmp_path / 'labels')
    run_here('browse_dataset', *arguments[:3], '--out', tmp_path)
    plain, labels = (
        Image.open(folder / 'batch_000000.png') for folder in (tmp_path, tmp_path / 'labels')
    )
    # 2 labelled images; 1 of 2 unlabelled ones in each of two views
    assert labels.width > 1.5 * plain.width and min(labels.height, plain.height) > 4 * 128


@pytest.mark.parametrize('source_ratio', ['[1,0]'])
def test_supervised_configs_have_no_unlabelled_part(config, tmp_path, source_ratio):
    options = [
        f'train_dataloader.sampler.source_ratio={source_ratio}',
        'train_dataloader.dataset.unlabelled=None',
    ]
    run_here('browse_dataset', config, '--out', tmp_path, '--cfg-options', *options)
    assert (tmp_path / 'batch_000000.png').exists()


def test_a_missing_checkpoint_is_one_sentence(config, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_here('browse_dataset', config, '--out', tmp_path, '--checkpoint', 'none.pth')
    assert 'none.pth does not exist' in capsys.readouterr().err
