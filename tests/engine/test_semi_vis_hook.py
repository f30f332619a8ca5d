# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pictures of pseudo labels in a training."""

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image

from mmseg_semi_rs.engine.hooks import SemiVisHook
from mmseg_semi_rs.engine.hooks.semi_vis_hook import _record
from tests._support.purified_training import config, truth_pipeline
from tests._support.tiny_training import write_dual, write_training


def pictures(path, work_dir, hook=None, truth=False):
    cfg = config(path, work_dir, iters=2, hook=hook)
    cfg.custom_hooks.append(dict(type='SemiVisHook', interval=2, images=2))
    cfg.visualizer.name = cfg.experiment_name
    if truth:
        truth_pipeline(cfg)
    Runner.from_cfg(cfg).train()
    return {
        file.relative_to(next(work_dir.glob('*/vis_data/vis_image'))).as_posix(): np.asarray(
            Image.open(file)
        )
        for file in sorted(work_dir.glob('*/vis_data/vis_image/**/*.png'))
    }


def test_a_training_without_purification_shows_label_confidence_and_weight(tmp_path):
    path = write_training(tmp_path / 'data')
    found = pictures(path, tmp_path / 'run')
    assert list(found) == ['pseudo_labels_2.png']
    wider = pictures(path, tmp_path / 'truth', truth=True)['pseudo_labels_2.png']
    narrow = found['pseudo_labels_2.png']
    assert narrow.shape[1] < wider.shape[1]  # one more column: truth
    assert len(np.unique(narrow.reshape(-1, 3), axis=0)) > 50


def test_a_purified_training_shows_evidence_and_changes(tmp_path):
    path = write_training(tmp_path / 'data')
    plain = pictures(path, tmp_path / 'plain')['pseudo_labels_2.png']
    purified = pictures(path, tmp_path / 'purified', hook=dict(budget=4))['pseudo_labels_2.png']
    assert purified.shape[1] > plain.shape[1]
    yellow = (purified == (240, 228, 66)).all(-1)  # corrected pixels
    assert yellow.sum() > 500


def test_two_students_have_a_picture_each(tmp_path):
    path = write_dual(write_training(tmp_path / 'data'))
    found = pictures(path, tmp_path / 'run', hook=dict(budget=4))
    assert list(found) == ['pseudo_labels_a_2.png', 'pseudo_labels_b_2.png']


def test_padding_of_the_batch_is_cut_off():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from mmseg_semi_rs.structures import PseudoLabel

    pixels = torch.zeros(3, 5, 7, dtype=torch.uint8)
    pixels[2] = 200
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.ones(1, 8, 8)))
    maps = torch.arange(128).view(2, 8, 8)
    pseudo = PseudoLabel(maps, maps / 128, maps / 128, maps >= 0)
    record = _record(1, pixels, sample, pseudo, None)
    assert record.image.shape == (5, 7, 3) and (record.image[..., 2] == 200).all()
    assert np.array_equal(record.labels_after, maps[1, :5, :7].numpy())
    assert record.truth is not None and record.truth.shape == (5, 7)


def test_wrong_settings_are_told():
    with pytest.raises(ValueError, match='interval=0'):
        SemiVisHook(interval=0)
