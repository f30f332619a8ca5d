# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The plain FixMatch SegFormer, purified by a verifier of one's own: a segmentor that was trained
# elsewhere, here the distilled SegFormer of the other project. Any config and checkpoint will do.
_base_ = './fixmatch_segformer_mit-b0_potsdam.py'

custom_imports = dict(
    imports=['mmseg_semi_rs', 'projects.vlm_purify.segmentor_verifier'],
    allow_failed_imports=False,
)
purify = dict(
    type='VLMPurifyHook',
    verifier=dict(
        type='SegmentorVerifier',
        classes='potsdam',
        config='projects/segformer_distill/configs/segformer_mit-b0_dinov2-s_potsdam.py',
        checkpoint='work_dirs/segformer_mit-b0_dinov2-s_potsdam/iter_400.pth',
        label_map=[0, 1, 2, 3, 4, None],  # its classes in their order; clutter is never claimed
    ),
    store='data/evidence/demo_potsdam',
    interval=20,
)
custom_hooks = [*_base_.custom_hooks, purify]
