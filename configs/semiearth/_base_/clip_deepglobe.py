# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
_base_ = './semiearth.py'

custom_hooks = [
    *_base_.custom_hooks,
    dict(
        _base_.purify,
        verifier=dict(_base_.clip, classes='deepglobe'),
        store='data/evidence/deepglobe',
    ),
]
