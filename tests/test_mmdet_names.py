# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What mmdet's semi-supervised configs say is taken, or answered in one sentence."""

import pytest
from mmengine.dataset import BaseDataset, ConcatDataset
from mmseg.registry import DATA_SAMPLERS, HOOKS, MODELS

from tests._support import networks as tiny


def segmentor(**changes):
    student = tiny.student()
    return MODELS.build(dict(type='MeanTeacherSegmentor', student=student) | changes)


def sampler():
    joined = ConcatDataset([BaseDataset(lazy_init=True)], lazy_init=True)
    return DATA_SAMPLERS.build(dict(type='SemiSampler', dataset=joined, batch_size=2))


def preprocessor():
    inner = dict(type='SegDataPreProcessor')
    return MODELS.build(dict(type='SemiDataPreprocessor', data_preprocessor=inner))


def settings(**values):
    return lambda: segmentor(semi_train_cfg=values)


@pytest.mark.parametrize(
    ('build', 'said'),
    [
        (
            lambda: segmentor(student=None, detector=tiny.student()),
            r'no arguments .*detector of mmdet is student=',
        ),
        (lambda: segmentor(student=None), 'MeanTeacherSegmentor has no student'),
        (lambda: MODELS.build(dict(type='DualStudentSegmentor')), 'has two students'),
        (settings(freeze_teacher=True), 'freeze_teacher of mmdet is always so'),
        (settings(unsup_weight=4.0), r'unsup_weight of mmdet is loss_weight=dict\(unsup='),
        (settings(sup_weight=1.0), r'sup_weight of mmdet is loss_weight=dict\(sup='),
        (settings(pseudo_label_initial_score_thr=0.5), 'of mmdet is conf_thresh'),
        (settings(cls_pseudo_thr=0.9), 'of mmdet is conf_thresh'),
        (settings(jitter_times=10), r"unknown keys \['jitter_times'\]; known are"),
        (
            lambda: HOOKS.build(dict(type='MeanTeacherHook', skip_buffer=True)),
            'buffers are averaged',
        ),
        (sampler, 'samples from a SemiDataset.* got ConcatDataset'),
        (preprocessor, 'has no other one inside'),
    ],
)
def test_a_name_of_mmdet_is_answered_in_one_sentence(build, said):
    with pytest.raises((ValueError, TypeError), match=said) as told:
        build()
    assert '\n' not in str(told.value) and str(told.value).endswith('.')


def test_what_means_the_same_works():
    model = segmentor(semi_test_cfg=dict(predict_on='teacher'))
    assert model.predict_on == 'teacher'
    assert HOOKS.build(dict(type='MeanTeacherHook', momentum=0.001, interval=1)).keep == 0.999
