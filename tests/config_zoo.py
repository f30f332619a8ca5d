# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What the tests of all method's configs share: read, build without memory, fabricate data."""

from __future__ import annotations

import ast
import logging
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmseg.registry import DATASETS, MODELS
from torch import nn

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'

IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def name(path: Path) -> str:
    return path.stem


@cache
def load(path: Path) -> Config:
    return Config.fromfile(path)


def _build_preprocessors(cfg: dict) -> None:
    """Statistics are values, which the meta device does not have: these parts are built before."""
    for student in cfg.get('students', {}).values():
        _build_preprocessors(student)
    if 'data_preprocessor' in cfg:
        cfg['data_preprocessor'] = MODELS.build(cfg['data_preprocessor'])


@cache
def build_model(model: str) -> nn.Module:
    cfg = ast.literal_eval(model)
    _build_preprocessors(cfg)
    with torch.device('meta'):
        return MODELS.build(cfg)


def build(path: Path) -> nn.Module:
    """Build the model of a config without memory, once for all configs that have the same."""
    return build_model(repr(load(path).model.to_dict()))


def build_optimizer(model: nn.Module, cfg: Config) -> torch.optim.Optimizer:
    """Build a config's optimizer over a model."""
    logging.disable(logging.INFO)  # mmengine logs three lines per parameter
    try:
        return build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    finally:
        logging.disable(logging.NOTSET)


def class_names(cfg: Config) -> tuple[str, ...]:
    """Classes of the dataset that a config validates on."""
    return DATASETS.get(cfg.val_dataloader.dataset.type)(lazy_init=True).metainfo['classes']


def make_folder(root: Path, cfg: Config, images: int = 2, side: int = 512) -> None:
    """Write the lists that a config names, and tiles for each; the config reads from there."""
    rng = np.random.default_rng(0)
    train = cfg.train_dataloader.dataset
    sources = dict(labelled=train.labelled, val=cfg.val_dataloader.dataset)
    sources['test'] = cfg.test_dataloader.dataset
    if train.unlabelled is not None:
        sources['unlabelled'] = train.unlabelled
    dataset = DATASETS.get(train.labelled.type)(lazy_init=True)
    classes = len(dataset.metainfo['classes']) + bool(dataset.reduce_zero_label)
    for key, source in sources.items():
        source.data_root = str(root)
        names = [f'train/{key}_{index}' for index in range(images)]
        listed = root / source.ann_file
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text('\n'.join(names) + '\n', encoding='utf-8')
        for stem in names:
            folders = dict(img_dir=rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
            if key != 'unlabelled':
                folders['ann_dir'] = rng.integers(0, classes, (64, 64), dtype=np.uint8)
            for folder, pixels in folders.items():
                path = root / folder / f'{stem}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                enlarged = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_NEAREST)
                assert cv2.imwrite(str(path), enlarged)
