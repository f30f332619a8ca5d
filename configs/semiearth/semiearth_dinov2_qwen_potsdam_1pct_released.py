# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The rule of the release, for comparison: whatever the model answers, the loss stays the same.
_base_ = './semiearth_dinov2_qwen_potsdam_1pct.py'

released = dict(
    type='VLMPurifyHook',
    policy=dict(type='ReleasedPolicy', tau=0.7, mismatch_max_conf=0.3, conf_thresh=0.95),
    verifier=dict(
        type='GenerativeVerifier',
        model='Qwen/Qwen2.5-VL-3B-Instruct',
        masks=dict(model='facebook/sam-vit-base'),
        max_new_tokens=256,
        classes='potsdam',
    ),
    store='data/evidence/potsdam',
    trust=None,
    interval=50,
)
custom_hooks = [*_base_.custom_hooks[:-1], released]
# All six classes count, and the student is selected and reported.
val_evaluator = dict(ignore_gt=None)
test_evaluator = dict(ignore_gt=None)
model = dict(semi_test_cfg=dict(predict_on='student'))
