# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Layer-wise learning rates of stock configs, for students."""

import pytest
from mmengine.optim import build_optim_wrapper
from mmseg.registry import MODELS

DECAY = 0.5
LAYERS = 2


def student():
    backbone = dict(
        type='BEiT', img_size=32, patch_size=16, embed_dims=16, num_heads=2, num_layers=LAYERS
    )
    backbone.update(out_indices=(1,), mlp_ratio=2)
    head = dict(type='FCNHead', in_channels=16, in_index=0, channels=8, num_convs=1, num_classes=3)
    return dict(type='EncoderDecoder', backbone=backbone, decode_head=head)


@pytest.mark.parametrize('two', [False, True])
def test_deeper_layers_of_each_student_learn_faster(two):
    model = (
        dict(type='DualStudentSegmentor', students=dict(a=student(), b=student()))
        if two
        else dict(type='MeanTeacherSegmentor', student=student())
    )
    built = MODELS.build(
        dict(model, data_preprocessor=dict(type='SemiDataPreprocessor', size=(32, 32)))
    )
    wrapper = build_optim_wrapper(
        built,
        dict(
            type='OptimWrapper',
            constructor='LearningRateDecayOptimizerConstructor',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
            paramwise_cfg=dict(num_layers=LAYERS, decay_rate=DECAY, decay_type='layer_wise_vit'),
        ),
    )
    rate = {
        param: group['lr'] for group in wrapper.optimizer.param_groups for param in group['params']
    }
    networks = built.students.values() if two else [built.student]
    for network in networks:
        assert rate[network.decode_head.conv_seg.weight] == 1
        for index, layer in enumerate(network.backbone.layers):
            assert rate[layer.attn.qkv.weight] == DECAY ** (LAYERS - index)
        assert rate[network.backbone.patch_embed.projection.weight] == DECAY ** (LAYERS + 1)
    trained = [param for param in built.parameters() if param.requires_grad]
    assert set(rate) == set(trained)


def test_a_backbone_that_has_no_layers_for_it_is_named():
    network = dict(student(), backbone=dict(type='UNet'))
    built = MODELS.build(dict(type='MeanTeacherSegmentor', student=network))
    settings = dict(num_layers=LAYERS, decay_rate=DECAY, decay_type='layer_wise_vit')
    with pytest.raises(ValueError, match='knows no layers of UNet: leave constructor'):
        build_optim_wrapper(
            built,
            dict(
                type='OptimWrapper',
                constructor='LearningRateDecayOptimizerConstructor',
                optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
                paramwise_cfg=settings,
            ),
        )
