# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Records of what purification does to whole tiles labelled by a trained network."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample

from ..datasets.semi_dataset import fill_split
from ..datasets.tiles import load_image
from ..purification.audit import AuditRecord
from ..purification.evidence import quantise
from ..utils.sampling import evenly
from .hooks import VLMPurifyHook

__all__ = ['audit_dataset', 'audit_tiles']


def audit_dataset(cfg: Config, source: str) -> Any:
    """Build a dataset of the tiles of a source as in validation, with labels if they exist.

    Args:
        cfg: The config of a training with ``SemiDataset``.
        source: 'unlabelled', 'labelled' or 'val'.

    Returns:
        BaseSegDataset: With the pipeline of ``val_dataloader``. Labels of unlabelled tiles are
        looked for in the folder of the labelled ones. If the first tile has none, none are loaded.

    Raises:
        ValueError: If there is no such source, or it is not a single data set.
    """
    dataset_cfg = deepcopy(cfg.val_dataloader.dataset)
    if source != 'val':
        train = ConfigDict(fill_split(cfg.train_dataloader.dataset))
        part = train.get(source)
        sources = (part, train.labelled)
        if not all(isinstance(each, dict) and 'data_prefix' in each for each in sources):
            raise ValueError(
                f'The {source} tiles of {cfg.filename} are not those of one data set with '
                'data_prefix: choose another --source.'
            )
        for key in ('data_root', 'ann_file', 'img_suffix', 'metainfo', 'type'):
            dataset_cfg.pop(key, None)  # of the validation
            if key in part:
                dataset_cfg[key] = part[key]
        prefix = train.labelled.data_prefix
        dataset_cfg.data_prefix = dict(prefix, img_path=part.data_prefix.img_path)
    dataset = DATASETS.build(dataset_cfg)
    if not Path(dataset.get_data_info(0).get('seg_map_path') or '').is_file():
        dataset_cfg.pipeline = [
            step for step in dataset_cfg.pipeline if step.type != 'LoadAnnotations'
        ]
        dataset_cfg.data_prefix.pop('seg_map_path', None)
        dataset = DATASETS.build(dataset_cfg)
    return dataset


@torch.no_grad()
def audit_tiles(
    model: Any, hook: VLMPurifyHook, dataset: Any, network: str, count: int
) -> Iterator[AuditRecord]:
    """Label tiles with one network of a model, purify the labels, and record both.

    Args:
        model (nn.Module): A segmentor with ``predict_each``, in evaluation mode.
        hook: The hook, prepared.
        dataset (BaseSegDataset): From :func:`audit_dataset`.
        network: Name of the network that labels.
        count: Number of tiles, evenly chosen.

    Yields:
        A record for each tile, in the tile's own frame.
    """
    device = next(model.parameters()).device
    for index in evenly(len(dataset), count):
        sample = dataset[index]
        data = model.data_preprocessor(pseudo_collate([sample]), False)
        (found,) = model.predict_each(**data)[network]
        logits = found.seg_logits.data[None]
        size = tuple(logits.shape[-2:])
        valid = torch.ones(1, *size, dtype=torch.bool, device=device)
        pseudo = model.gate_of(network)(logits, valid)
        path = str(found.img_path)
        tile = SegDataSample(
            metainfo=dict(img_path=path, ori_shape=size, img_shape=size, geometry=())
        )
        hook.purifier.forget()
        hook.source.begin_step(0, [path])
        hook.purifier(pseudo, [tile])
        (done,) = hook.purifier.last
        (evidence,) = hook.source([path])
        truth = _array(found.gt_sem_seg.data, np.uint8) if 'gt_sem_seg' in found else None
        yield AuditRecord(
            name=Path(path).stem,
            key=hook.source.store.key(path),
            image=load_image(dataset, path),
            labels_before=_array(done.before.labels, np.uint8),
            labels_after=_array(done.after.labels, np.uint8),
            confidence=_array(done.before.confidence, np.float32),
            weight_before=_array(done.before.weight, np.float32),
            weight_after=_array(done.after.weight, np.float32),
            actions=_array(done.actions, np.uint8),
            valid=_array(done.before.valid, np.bool_),
            truth=truth,
            scores=None if evidence is None else quantise(_array(done.scores, np.float32)),
            seen=None if evidence is None else _array(done.seen, np.bool_),
            boxes=() if evidence is None else evidence.regions,
            answer='' if evidence is None else evidence.answer,
            dropped=() if evidence is None else evidence.dropped,
            truncated=evidence is not None and evidence.truncated,
            regions=None if done.regions is None else _array(done.regions, np.int64),
        )


def _array(maps: torch.Tensor, dtype: Any) -> np.ndarray:
    """Convert the only entry of a batch to numpy."""
    return maps[0].cpu().numpy().astype(dtype)
