# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Configs whose types are classes."""

from mmengine.config import Config

from mmseg_semi_rs.engine.launch import load_config
from mmseg_semi_rs.engine.plain_config import name_types

BASE = """
from mmengine.optim import OptimWrapper
from torch.optim import SGD
from mmseg_semi_rs.engine.loops import TeacherStudentValLoop

default_scope = 'mmseg'
val_cfg = dict(type=TeacherStudentValLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01))
"""
LEAF = """
from mmengine.config import read_base

with read_base():
    from .base import *
from mmpretrain.models import ResNet
from mmcv.transforms import LoadImageFromFile

optim_wrapper.update(dict(optimizer=dict(lr=0.02)))
model = dict(backbone=dict(type=ResNet, depth=18))
pipeline = [dict(type=LoadImageFromFile)]
"""


def test_classes_become_the_names_that_tools_compare(tmp_path):
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'leaf.py').write_text(LEAF)
    cfg = load_config(tmp_path / 'leaf.py')
    assert cfg.val_cfg.type == 'TeacherStudentValLoop'
    assert cfg.optim_wrapper == dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02))
    assert cfg.pipeline[0].type == 'LoadImageFromFile'
    # mmseg has another ResNet, so this one keeps its path.
    assert cfg.model.backbone.type.startswith('mmpretrain.')
    assert Config.fromstring(cfg.pretty_text, '.py').val_cfg == cfg.val_cfg


def test_configs_with_names_stay_the_same_object():
    cfg = Config(dict(val_cfg=dict(type='TeacherStudentValLoop')))
    assert name_types(cfg) is cfg
