# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# AdamW for both students, three learning rates, polynomial decay, no warm-up and no average.
_base_ = './semi_adamw_poly.py'

optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.01),
    # 1e-6 for the backbones' attention (the rest of them is frozen by `trainable`), 1e-3 for the
    # heads, 1e-4 for learnt queries
    paramwise_cfg=dict(
        custom_keys={
            'backbone': dict(lr_mult=0.01),
            'decode_head': dict(lr_mult=10.0),
            'decode_head.class_embedding': dict(lr_mult=1.0),
        }
    ),
)
# Published are 80 validations of both students, one per epoch.
train_cfg = dict(val_interval=5000)
test_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(checkpoint=dict(interval=5000))
custom_hooks = [dict(type='PseudoLabelStatsHook', interval=50)]

# The published lengths belong to 4 GPUs with 1 labelled + 1 unlabelled crop each, and 1 that CutMix
# pastes from.
auto_scale_lr = dict(enable=False, base_batch_size=12)
