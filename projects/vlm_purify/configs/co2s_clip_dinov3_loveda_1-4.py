# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Co2S, purified: a generative model corrects the labels of both students; which of them is surer
# than the other is not touched.
_base_ = '../../../configs/co2s/clip_dinov3_loveda_1-4.py'

purify = dict(
    type='VLMPurifyHook',
    verifier=dict(
        type='GenerativeVerifier',
        classes='loveda',
        model='Qwen/Qwen2.5-VL-7B-Instruct',
        masks='teacher',  # boxes are cut to the students' own segments: no SAM is needed
    ),
    store='data/evidence/loveda_1024',
    start=5000,  # segments mean little before
    ramp=5000,
)
custom_hooks = [*_base_.custom_hooks, purify]
