# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What the tests of all methods' configs share: read, build without memory, fabricate data."""

from __future__ import annotations

import ast
import logging
import re
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmseg.registry import DATASETS, MODELS
from torch import nn

from mmseg_semi_rs.dataprep.splits.draw import labelled_count, parse_ratio
from mmseg_semi_rs.datasets.semi_dataset import fill_split
from tests._support.processes import ROOT

CONFIGS = ROOT / 'configs'

IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])

#: Training tiles of each data set and protocol, as `tools/make_splits.py` draws them.
TILES = {
    'potsdam': dict(scene=3312, dwl=3283, semiearth=3283, co2s=4924),
    'loveda': dict(scene=10060, dwl=10088, co2s=3771),
    'deepglobe': dict(scene=12050, dwl=12045),
    'whdld': dict(co2s=4446),
    'gid15': dict(co2s=2736),
    'mer': dict(co2s=851),
    'msl': dict(co2s=3141),
}
_NAME = re.compile(
    r'(?P<parts>[\w-]+?)_(?P<data>potsdam|loveda|deepglobe|whdld|gid15|mer|msl)'
    r'_(?P<ratio>1-\d+|\d+pct|full)(?P<released>_released)?'
)


@dataclass(frozen=True)
class Leaf:
    """A config that is trained, and what its name promises."""

    path: Path
    method: str  # rsmtdf, co2s, semiearth, fixmatch, unimatchv2 or supervised
    parts: str  # networks, such as clip_dinov3
    data: str
    ratio: str
    released: bool

    @classmethod
    def read(cls, path: Path) -> Leaf:
        said = _NAME.fullmatch(path.stem)
        assert said, f'{path} is not named <parts>_<data set>_<ratio>.py'
        method, parts = path.parent.name, said['parts']
        if method in ('baselines', 'semiearth'):
            method, _, parts = parts.partition('_')
        return cls(path, method, parts, said['data'], said['ratio'], bool(said['released']))

    @property
    def cfg(self) -> Config:
        return load(self.path)

    @property
    def preset(self) -> str:
        """The protocol of `tools/make_splits.py` that the lists are from."""
        if self.method == 'co2s':
            return 'co2s'
        if not self.ratio.endswith('pct'):
            return 'scene'
        if self.method == 'semiearth':
            return dict(potsdam='semiearth', loveda='scene', deepglobe='dwl')[self.data]
        return 'dwl'

    @property
    def tiles(self) -> int:
        return TILES[self.data][self.preset]

    @property
    def labelled(self) -> int:
        full = self.ratio == 'full'
        return self.tiles if full else labelled_count(self.tiles, parse_ratio(self.ratio))


def leaves(*folders: str) -> list[Leaf]:
    """The configs of folders below ``configs``."""
    return [Leaf.read(path) for name in folders for path in sorted((CONFIGS / name).glob('*.py'))]


def name(leaf: Leaf | Path) -> str:
    return (leaf if isinstance(leaf, Path) else leaf.path).stem


def leaf_sources(cfg: Config) -> dict[str, ConfigDict]:
    """Configs of all datasets by what they are for, with their lists."""
    train = ConfigDict(fill_split(cfg.train_dataloader.dataset))
    found = dict(labelled=train.labelled, unlabelled=train.get('unlabelled'))
    found |= dict(val=cfg.val_dataloader.dataset, test=cfg.test_dataloader.dataset)
    return {key: source for key, source in found.items() if source is not None}


_read = cache(Config._file2dict)


def _read_once(*words: Any, **options: Any) -> tuple[ConfigDict, str, dict]:
    """What mmengine reads of a file, which is read once for all configs that build on it."""
    values, text, variables = _read(*words, **options)
    return deepcopy(values), text, dict(variables)


@cache
def load(path: Path) -> Config:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, '_file2dict', staticmethod(_read_once))
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
    sources = dict(labelled=train.labelled, unlabelled=train.get('unlabelled'))
    sources |= dict(val=cfg.val_dataloader.dataset, test=cfg.test_dataloader.dataset)
    dataset = DATASETS.get(train.labelled.type)(lazy_init=True)
    classes = len(dataset.metainfo['classes']) + bool(dataset.reduce_zero_label)
    for key, described in leaf_sources(cfg).items():
        sources[key].data_root = str(root)
        names = [f'train/{key}_{index}' for index in range(images)]
        listed = root / described.ann_file
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
