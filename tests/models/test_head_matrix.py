# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Every decode head of mmseg's stock configs under every method: it trains, or is refused."""

from copy import deepcopy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from tests._support import distillation  # registers PatchColourTeacher and PatchBackbone
from tests._support.networks import CLASSES, SIZE, total

BN = dict(type='BN')
CE = dict(type='CrossEntropyLoss')
WIDTHS = [8, 16, 32, 64]
PLAIN = dict(
    type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, norm_cfg=BN, norm_eval=False
)
DILATED = dict(PLAIN, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
VIT = dict(
    type='VisionTransformer',
    img_size=(SIZE, SIZE),
    patch_size=16,
    embed_dims=16,
    num_layers=4,
    num_heads=2,
    mlp_ratio=2,
    out_indices=(0, 1, 2, 3),
    final_norm=True,
)


def head(kind, **settings):
    """A head as mmseg's configs have it, on the deepest level unless they say otherwise."""
    basics = dict(
        in_channels=64, in_index=3, channels=8, num_classes=CLASSES, norm_cfg=BN, loss_decode=CE
    )
    return dict(type=kind, dropout_ratio=0.1, align_corners=False) | basics | settings


def network(decode_head, backbone=DILATED, **parts):
    return dict(
        type='EncoderDecoder',
        backbone=backbone,
        decode_head=decode_head,
        test_cfg=ConfigDict(mode='whole'),
        **parts,
    )


def fcn(**settings):
    return head('FCNHead', num_convs=1, concat_input=False, **settings)


def all_levels(kind, **settings):
    return head(kind, in_channels=WIDTHS, in_index=[0, 1, 2, 3], **settings)


def k_net():
    update = dict(
        type='KernelUpdateHead',
        num_classes=CLASSES,
        num_ffn_fcs=2,
        num_heads=2,
        num_mask_fcs=1,
        feedforward_channels=16,
        in_channels=8,
        out_channels=8,
        dropout=0.0,
        conv_kernel_size=1,
        ffn_act_cfg=dict(type='ReLU', inplace=True),
        with_ffn=True,
        feat_transform_cfg=dict(conv_cfg=dict(type='Conv2d'), act_cfg=None),
        kernel_updator_cfg=dict(
            type='KernelUpdator',
            in_channels=8,
            feat_channels=8,
            out_channels=8,
            act_cfg=dict(type='ReLU', inplace=True),
            norm_cfg=dict(type='LN'),
        ),
    )
    generate = fcn()
    return dict(
        type='IterativeDecodeHead',
        num_stages=2,
        kernel_update_head=[update] * 2,
        kernel_generate_head=generate,
    )


def cascade(last):
    first = (
        fcn()
        if last['type'] == 'OCRHead'
        else head(
            'FPNHead', in_channels=[16] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32]
        )
    )
    return network([first, last]) | dict(type='CascadeEncoderDecoder', num_stages=2)


EDGES = [dict(type='OhemCrossEntropy'), dict(type='OhemCrossEntropy')]
MLA = dict(type='MLANeck', in_channels=[16] * 4, out_channels=8, norm_cfg=BN)
FPN = dict(type='FPN', in_channels=WIDTHS, out_channels=16, num_outs=4)
JPU = dict(
    type='JPU',
    in_channels=tuple(WIDTHS[1:]),
    mid_channels=8,
    start_level=0,
    end_level=-1,
    dilations=(1, 2),
)

NETWORKS = {
    'FCN': network(
        head('FCNHead', num_convs=2, concat_input=True),
        auxiliary_head=fcn(in_index=2, in_channels=32),
    ),
    'PSP': network(head('PSPHead', pool_scales=(1, 2, 3, 6))),
    'ASPP': network(head('ASPPHead', dilations=(1, 6))),
    'DeepLabV3+': network(
        head('DepthwiseSeparableASPPHead', dilations=(1, 6), c1_in_channels=8, c1_channels=4)
    ),
    'UPer': network(all_levels('UPerHead', pool_scales=(1, 2)), PLAIN),
    'SegFormer': network(all_levels('SegformerHead'), PLAIN),
    'Segmenter': network(
        head(
            'SegmenterMaskTransformerHead',
            in_channels=16,
            channels=16,
            num_layers=1,
            num_heads=2,
            embed_dims=16,
            dropout_ratio=0.0,
            norm_cfg=dict(type='LN'),
        ),
        VIT,
    ),
    'SETR PUP': network(
        head('SETRUPHead', in_channels=16, norm_cfg=BN, num_convs=2, up_scale=2, kernel_size=3),
        VIT,
        auxiliary_head=[
            head('SETRUPHead', in_channels=16, in_index=i, num_convs=1, kernel_size=3)
            for i in (0, 1)
        ],
    ),
    'SETR MLA': network(
        head(
            'SETRMLAHead', in_channels=[8] * 4, in_index=[0, 1, 2, 3], channels=16, mla_channels=4
        ),
        VIT,
        neck=MLA,
        auxiliary_head=fcn(in_channels=8, in_index=0),
    ),
    'DPT': network(
        head(
            'DPTHead',
            in_channels=[16] * 4,
            in_index=[0, 1, 2, 3],
            embed_dims=16,
            post_process_channels=[8] * 4,
            readout_type='project',
            input_transform='multiple_select',
        ),
        dict(VIT, output_cls_token=True) | dict(final_norm=False),
    ),
    'OCR': cascade(head('OCRHead', ocr_channels=8)),
    'PointRend': cascade(
        dict(
            type='PointHead',
            in_channels=[16],
            in_index=[0],
            channels=16,
            num_fcs=1,
            coarse_pred_each_layer=True,
            dropout_ratio=-1,
            num_classes=CLASSES,
            align_corners=False,
            loss_decode=CE,
        )
    )
    | dict(neck=FPN),
    'BiSeNetV1': network(
        fcn(in_channels=16, in_index=0),
        dict(
            type='BiSeNetV1',
            in_channels=3,
            context_channels=(8, 16, 32),
            spatial_channels=(4, 4, 4, 8),
            out_indices=(0, 1, 2),
            out_channels=16,
            backbone_cfg=dict(
                type='ResNet', depth=18, base_channels=4, stem_channels=4, norm_cfg=BN
            ),
        ),
        auxiliary_head=[fcn(in_channels=8, in_index=i) for i in (1, 2)],
    ),
    'STDC': network(
        fcn(in_channels=16, in_index=3),
        dict(
            type='STDCContextPathNet',
            backbone_cfg=dict(
                type='STDCNet',
                stdc_type='STDCNet1',
                in_channels=3,
                channels=(4, 8, 16, 32, 64),
                bottleneck_type='cat',
                num_convs=4,
                norm_cfg=BN,
                act_cfg=dict(type='ReLU'),
                with_final_conv=False,
            ),
            last_in_channels=(64, 32),
            out_channels=8,
            ffm_cfg=dict(in_channels=24, out_channels=16, scale_factor=4),
        ),
        auxiliary_head=[
            fcn(in_channels=8, in_index=2),
            head(
                'STDCHead',
                in_channels=16,
                in_index=0,
                num_convs=1,
                concat_input=False,
                num_classes=2,
                boundary_threshold=0.1,
                loss_decode=[
                    dict(type='CrossEntropyLoss', loss_name='loss_ce', use_sigmoid=True),
                    dict(type='DiceLoss', loss_name='loss_dice'),
                ],
            ),
        ],
    ),
    'ICNet': network(
        fcn(in_channels=8, in_index=2),
        dict(
            type='ICNet',
            backbone_cfg=dict(DILATED, contract_dilation=True),
            in_channels=3,
            layer_channels=(16, 64),
            light_branch_middle_channels=4,
            psp_out_channels=8,
            out_channels=(4, 8, 8),
            norm_cfg=BN,
            align_corners=False,
        ),
        neck=dict(type='ICNeck', in_channels=(4, 8, 8), out_channels=8, norm_cfg=BN),
        auxiliary_head=[fcn(in_channels=8, in_index=i) for i in (0, 1)],
    ),
    'UNet': network(
        fcn(in_channels=8, in_index=4),
        dict(
            type='UNet',
            in_channels=3,
            base_channels=8,
            num_stages=5,
            strides=(1,) * 5,
            enc_num_convs=(1,) * 5,
            dec_num_convs=(1,) * 4,
            downsamples=(True,) * 4,
            enc_dilations=(1,) * 5,
            dec_dilations=(1,) * 4,
            norm_cfg=BN,
        ),
        auxiliary_head=fcn(in_channels=16, in_index=3),
    ),
    'Fast-SCNN': network(
        head(
            'DepthwiseSeparableFCNHead',
            in_channels=16,
            in_index=-1,
            channels=16,
            concat_input=False,
        ),
        dict(
            type='FastSCNN',
            downsample_dw_channels=(4, 8),
            global_in_channels=8,
            global_block_channels=(8, 8, 16),
            global_block_strides=(2, 2, 1),
            global_out_channels=16,
            higher_in_channels=8,
            lower_in_channels=16,
            fusion_out_channels=16,
            out_indices=(0, 1, 2),
            norm_cfg=BN,
            align_corners=False,
        ),
        auxiliary_head=fcn(in_channels=16, in_index=-2),
    ),
    'DNL': network(head('DNLHead', reduction=2, use_scale=True, mode='embedded_gaussian')),
    'GC': network(head('GCHead', ratio=0.25, pooling_type='att', fusion_types=('channel_add',))),
    'CC': network(head('CCHead', recurrence=2)),
    'NL': network(head('NLHead', reduction=2, use_scale=True, mode='embedded_gaussian')),
    'ANN': network(
        head(
            'ANNHead',
            in_channels=[32, 64],
            in_index=[2, 3],
            project_channels=4,
            query_scales=(1,),
            key_pool_scales=(1, 3),
        )
    ),
    'APC': network(head('APCHead', pool_scales=(1, 2), fusion=True)),
    'PSA': network(
        head(
            'PSAHead',
            mask_size=(8, 8),
            psa_type='bi-direction',
            compact=False,
            shrink_factor=2,
            normalization_factor=1.0,
            psa_softmax=True,
        )
    ),
    'DM': network(head('DMHead', filter_sizes=(1, 3))),
    'DA': network(head('DAHead', pam_channels=4)),
    'Enc': network(
        head(
            'EncHead',
            in_channels=WIDTHS[1:],
            in_index=(1, 2, 3),
            num_codes=4,
            use_se_loss=True,
            add_lateral=False,
            loss_se_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.2),
        )
    ),
    'K-Net': network(k_net(), auxiliary_head=fcn(in_channels=32, in_index=2)),
    'LR-ASPP': network(
        head(
            'LRASPPHead',
            in_channels=(10, 10, 10),
            in_index=(0, 1, 3),
            input_transform='multiple_select',
            branch_channels=(4, 4),
            act_cfg=dict(type='ReLU'),
        ),
        dict(type='PatchBackbone'),
    ),
    'EMA': network(head('EMAHead', ema_channels=8, num_bases=4, num_stages=2, momentum=0.1)),
    'ISA': network(head('ISAHead', isa_channels=8, down_factor=(4, 4))),
    'FastFCN': network(
        head('PSPHead', in_channels=16, in_index=2, pool_scales=(1, 2)),
        PLAIN | dict(out_indices=(1, 2, 3)),
        neck=JPU,
    ),
    'Semantic FPN': network(
        head(
            'FPNHead', in_channels=[16] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32]
        ),
        PLAIN,
        neck=FPN,
    ),
    'SegNeXt': network(
        head(
            'LightHamHead',
            in_channels=WIDTHS[1:],
            in_index=[1, 2, 3],
            ham_channels=8,
            ham_kwargs=dict(MD_S=1, MD_R=4, train_steps=2, eval_steps=2, inv_t=100, rand_init=True),
        ),
        PLAIN,
    ),
    'PIDNet': network(
        head(
            'PIDHead',
            in_channels=16,
            in_index=0,
            loss_decode=[CE, EDGES[0], dict(type='BoundaryLoss'), EDGES[1]],
        ),
        dict(
            type='PIDNet',
            channels=4,
            ppm_channels=8,
            num_stem_blocks=1,
            num_branch_blocks=1,
            norm_cfg=BN,
        ),
    ),
    'DDRNet': network(
        head('DDRHead', in_channels=16, in_index=0, loss_decode=EDGES),
        dict(type='DDRNet', channels=4, ppm_channels=8, norm_cfg=BN),
    ),
    'Mask2Former': network(dict(type='Mask2FormerHead', num_classes=CLASSES)),
    'MaskFormer': network(dict(type='MaskFormerHead', num_classes=CLASSES)),
    'SAN': network(dict(type='SideAdapterCLIPHead', num_classes=CLASSES)),
    'VPD': network(dict(type='VPDDepthHead')),
}
SIZES = {'LR-ASPP': 49 * distillation.PATCH}  # it pools 49 x 49 patches

NO_MASKS = r'loss needs more than logits of each pixel'
CASCADE = r"'CascadeEncoderDecoder' has a cascade of decode heads"
REFUSED = {
    'OCR': CASCADE,
    'PointRend': CASCADE,
    'PSA': r'has a PSAMask, whose operator is compiled code.*install the full mmcv',
    ('DPT', 'distillation'): r"has output_cls_token=True.*'SizeMatchedDPTHead'",
    **dict.fromkeys(['Mask2Former', 'MaskFormer', 'SAN', 'VPD'], NO_MASKS),
    **dict.fromkeys(
        [('PIDNet', 'distillation'), ('DDRNet', 'distillation')], r'reads other features'
    ),
}


def mean_teacher(student, **settings):
    settings = dict(conf_thresh=0.0, norm='separate') | settings
    return dict(type='MeanTeacherSegmentor', student=student, semi_train_cfg=settings)


def distilled(student):
    outer = dict(
        type='MultiTeacherDistillHead',
        decode_head=student['decode_head'],
        teachers=dict(colour=dict(type='PatchColourTeacher')),
        translator=dict(hidden=8),
        student_view='shared',
    )
    if student['type'] == 'EncoderDecoder':
        student = student | dict(type='DistillEncoderDecoder')
    return mean_teacher(student | dict(decode_head=outer))


OTHER = network(fcn(in_channels=10), dict(type='PatchBackbone'))
METHODS = {
    'FixMatch': mean_teacher,
    'UniMatch V2': lambda student: mean_teacher(student, norm='joint', feature_dropout={}),
    'two students': lambda student: dict(
        type='DualStudentSegmentor',
        students=dict(a=student, b=OTHER),
        semi_train_cfg=dict(conf_thresh=0.0),
    ),
    'distillation': distilled,
    'purification': mean_teacher,
}
OWN_TERM = {
    'two students': 'a.loss_stability',
    'distillation': 'loss_distill_colour',
}


def batch(method, size):
    """Two images of each branch; labels come with their edges, for PIDNet."""
    strong = ['strong_1', 'strong_2'] if method == 'UniMatch V2' else ['strong']
    images = {name: torch.randn(2, 3, size, size) for name in ['sup', 'weak', *strong]}
    data = {
        name: [
            SegDataSample(metainfo=dict(ori_shape=(size, size), img_shape=(size, size)))
            for _ in range(2)
        ]
        for name in images
    }
    for sample in data['sup']:
        labels = torch.randint(0, CLASSES, (1, size, size))
        labels[:, :2] = 255
        sample.set_data(
            dict(gt_sem_seg=PixelData(data=labels), gt_edge_map=PixelData(data=labels % 2))
        )
    return images, data


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('name', NETWORKS)
def test_a_stock_network_trains_two_steps_or_is_refused_in_one_sentence(name, method):
    torch.manual_seed(0)
    front = dict(type='SemiDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3)
    cfg = METHODS[method](deepcopy(NETWORKS[name])) | dict(data_preprocessor=front)
    said = REFUSED.get(name) or REFUSED.get((name, method))
    if said:
        with pytest.raises(ValueError, match=said) as told:
            MODELS.build(cfg)
        assert '\n' not in str(told.value)
        return
    model = MODELS.build(cfg).train()
    purified = []
    if method == 'purification':
        model.purifiers.append(
            lambda found, _: purified.append(1) or found.replace(labels=found.labels * 0)
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = deepcopy(model.state_dict())
    images, data = batch(method, SIZES.get(name, SIZE))
    for _ in range(2):
        losses = model.loss(images, data)
        total(losses).backward()
        assert all(torch.isfinite(value) for value in losses.values())
        learns = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert [n for n, p in learns.items() if p.grad is None] == []
        optimizer.step()
        optimizer.zero_grad()
        model.update_teacher(0.9)
    unsupervised = 'a.loss_strong' if method == 'two students' else 'loss_unsup'
    assert losses[unsupervised] > 0
    assert method not in OWN_TERM or OWN_TERM[method] in losses
    assert len(purified) == (2 if method == 'purification' else 0)
    moved = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
    assert {n.split('.')[0] for n in moved} >= {
        'students' if method == 'two students' else 'student'
    }
    predicted = model.eval().predict(images['weak'], data['weak'])
    assert predicted[0].pred_sem_seg.shape == images['weak'].shape[-2:]


def test_of_two_passes_the_one_without_distilled_images_counts_as_zero():
    """As the docstring of ``norm`` says; without batch norm nothing else differs."""
    images, data = batch('distillation', SIZE)
    losses = {}
    for norm in ('joint', 'separate'):
        torch.manual_seed(0)
        cfg = distilled(network(fcn(in_channels=10, norm_cfg=None), dict(type='PatchBackbone')))
        cfg['student']['decode_head']['loss_distill'] = dict(views=('sup',))
        cfg['semi_train_cfg'].update(norm=norm, cutmix=None)
        losses[norm] = MODELS.build(cfg).train().loss(images, data)
    assert losses['joint']['loss_distill_colour'] > 0
    for name, value in losses['separate'].items():
        share = 0.5 if 'distill' in name else 1.0
        torch.testing.assert_close(value, share * losses['joint'][name])
