# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
default_scope = 'mmseg'
custom_imports = dict(imports=['mmseg_semi_rs'], allow_failed_imports=False)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# With few labels the seed moves the result by several mIoU: report at least three,
# `--cfg-options randomness.seed=1`.
randomness = dict(seed=0)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
