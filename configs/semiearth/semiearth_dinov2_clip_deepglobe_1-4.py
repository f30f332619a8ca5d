# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 12,050 training patches, 1/4 labelled: 3,012, unlabelled U = 9,038.
_base_ = ['../_base_/datasets/deepglobe_scene.py', './_base_/clip_deepglobe.py']
train_dataloader = dict(
    batch_size=8,  # per GPU: 4 labelled + 4 unlabelled
    sampler=dict(batch_size=8),
    dataset=dict(split='splits/scene/1-4'),
)
# 20 epochs over U, 4 per GPU, 8 GPUs: floor(ceil(9038 / 8) / 4) * 20
train_cfg = dict(max_iters=5640)
# fitted to this config's own labelled tiles by the first run
custom_hooks = _base_.custom_hooks
custom_hooks[-1].verifier.temperature = 'data/evidence/deepglobe/clip_temperature_1-4.json'
