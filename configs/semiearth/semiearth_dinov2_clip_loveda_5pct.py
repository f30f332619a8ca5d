# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 10,060 training patches, 5 % labelled: 503, unlabelled U = 9,557.
_base_ = ['../_base_/datasets/loveda_scene.py', './_base_/clip_loveda.py']
train_dataloader = dict(
    batch_size=8,  # per GPU: 4 labelled + 4 unlabelled
    sampler=dict(batch_size=8),
    dataset=dict(split='splits/scene/5pct'),
)
# 20 epochs over U, 4 per GPU, 8 GPUs: floor(ceil(9557 / 8) / 4) * 20
train_cfg = dict(max_iters=5960)
# fitted to this config's own labelled tiles by the first run
custom_hooks = _base_.custom_hooks
custom_hooks[-1].verifier.temperature = 'data/evidence/loveda/clip_temperature_5pct.json'
