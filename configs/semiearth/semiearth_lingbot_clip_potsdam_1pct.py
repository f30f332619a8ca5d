# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,283 training patches, 1 % labelled: 32, unlabelled U = 3,251.
_base_ = './_base_/lingbot_clip_potsdam.py'
train_dataloader = dict(
    batch_size=8,  # per GPU: 4 labelled + 4 unlabelled
    sampler=dict(batch_size=8),
    dataset=dict(split='splits/semiearth/1pct'),
)
# 50 epochs over U, 4 per GPU, 8 GPUs: floor(ceil(3251 / 8) / 4) * 50
train_cfg = dict(max_iters=5050)
# fitted to this config's own labelled tiles by the first run
custom_hooks = _base_.custom_hooks
custom_hooks[-1].verifier.temperature = 'data/evidence/potsdam/clip_temperature_1pct.json'
