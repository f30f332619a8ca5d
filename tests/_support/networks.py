# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Tiny networks and batches for the tests of segmentors."""

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.utils._python_dispatch import TorchDispatchMode

CLASSES, SIZE = 3, 64


def student(layer='GN', aux=False):
    norm_cfg = dict(type='GN', num_groups=2) if layer == 'GN' else dict(type=layer)
    head = dict(
        type='FCNHead',
        in_channels=32,
        in_index=3,
        channels=8,
        num_convs=1,
        concat_input=False,
        num_classes=CLASSES,
        norm_cfg=norm_cfg,
        dropout_ratio=0.0,
        loss_decode=dict(type='ValidCrossEntropyLoss'),
    )
    return dict(
        type='EncoderDecoder',
        backbone=dict(
            type='ResNet',
            depth=18,
            base_channels=4,
            stem_channels=4,
            norm_cfg=norm_cfg,
            norm_eval=False,
        ),
        decode_head=head,
        auxiliary_head=dict(head, in_channels=16, in_index=2) if aux else None,
        test_cfg=dict(mode='whole'),
    )


def samples(count, labels=None, valid=None):
    made = []
    for index in range(count):
        sample = SegDataSample()
        sample.set_metainfo(dict(ori_shape=(SIZE, SIZE), img_shape=(SIZE, SIZE)))
        if labels is not None:
            sample.gt_sem_seg = PixelData(data=labels[index][None])
        mask = torch.ones(1, SIZE, SIZE, dtype=torch.bool) if valid is None else valid[index][None]
        sample.set_data({'valid': PixelData(data=mask)})
        made.append(sample)
    return made


def total(losses):
    return sum(value for name, value in losses.items() if 'loss' in name)


class NoHostSync(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__ if hasattr(func, '__name__') else str(func)
        for word in ('_local_scalar_dense', 'nonzero', 'masked_select', 'unique'):
            assert word not in str(func), f'{func} makes the host wait for the device ({name})'
        return func(*args, **(kwargs or {}))
