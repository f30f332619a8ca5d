# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# AdamW, two learning rates, polynomial decay per iteration, no warm-up. A leaf sets
# `train_cfg.max_iters`; the scheduler ends there too, because it has no `end` of its own.
# AmpOptimWrapper in bfloat16 is chosen by `tools/train.py CONFIG --amp`.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='MergedParamGroupsConstructor',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.01),
    # Pretrained backbone 2e-4 / 40 = 5e-6, everything new 2e-4. Weight decay acts on all
    # parameters, norms and biases included, as published.
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.025)}),
)
param_scheduler = dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False)

train_cfg = dict(type='SemiTrainLoop', val_interval=500)
val_cfg = dict(type='TeacherStudentValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    runtime_info=dict(type='DeferredRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='SafeCheckpointHook', by_epoch=False, interval=500, save_best='mIoU', max_keep_ckpts=1
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='PredictionVisHook'),
    pseudo_label_guard=dict(type='PseudoLabelGuardHook'),
    finite_guard=dict(type='FiniteGuardHook'),
)
custom_hooks = [
    dict(type='MeanTeacherHook', momentum=0.004),
    dict(type='PseudoLabelStatsHook', interval=50),
]

# The published lengths belong to 4 GPUs with 8 labelled + 8 unlabelled crops each. The releases
# keep the learning rate whatever the number of GPUs, so scaling is off; `--auto-scale-lr` turns it
# on for another total batch.
auto_scale_lr = dict(enable=False, base_batch_size=64)
