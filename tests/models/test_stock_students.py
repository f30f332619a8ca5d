# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Stock mmseg networks as students: their checkpoints, heads, activation checkpointing, loops."""

import re

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from mmengine.structures import PixelData
from mmseg.registry import MODELS

from mmseg_semi_rs.datasets.transforms import MultiBranch
from mmseg_semi_rs.models.segmentors.student import build_student, decode
from tests._support import dual_student as dual
from tests._support import mean_teacher as single
from tests._support import networks as tiny
from tests._support.networks import CLASSES, total

BOTH = pytest.mark.parametrize('kind', [single, dual], ids=['mean teacher', 'dual student'])
NORM = dict(type='BN')


def stock(seed=7, **changes):
    torch.manual_seed(seed)
    network = MODELS.build({**tiny.student('BN'), **changes})
    network.init_weights()
    return network


# ------------------------------------------------------------------------------------ checkpoints


@BOTH
@pytest.mark.parametrize('ema', [True, False])
def test_a_stock_checkpoint_fills_every_network_that_it_fits(kind, ema):
    model, weights = kind.build('BN', ema=ema), stock().state_dict()
    _load_checkpoint_to_model(model, {'state_dict': weights}, strict=False)
    networks = [*model.students.values(), *model.teachers.values()]
    assert len(networks) == (1 + ema) * (1 if kind is single else 2)
    for network in networks:
        own = network.state_dict()
        assert own and all(torch.equal(weights[name], value) for name, value in own.items())


def test_a_stock_checkpoint_of_other_classes_fills_the_rest(recwarn):
    model = single.build('BN')
    before = model.student.decode_head.conv_seg.weight.clone()
    head = dict(tiny.student('BN')['decode_head'], num_classes=CLASSES + 2)
    weights = stock(decode_head=head).state_dict()
    _load_checkpoint_to_model(model, {'state_dict': weights}, strict=False)
    assert torch.equal(model.student.decode_head.conv_seg.weight, before)
    for network in (model.student, model.teacher):
        assert torch.equal(network.backbone.conv1.weight, weights['backbone.conv1.weight'])


def test_of_two_students_the_one_that_a_checkpoint_fits_is_filled():
    model = dual.build('BN', ema=True)
    before = {name: value.clone() for name, value in model.students['b'].state_dict().items()}
    model.students['b'].backbone = MODELS.build(
        dict(tiny.student('BN')['backbone'], base_channels=8, stem_channels=8)
    )
    kept = model.students['b'].backbone.conv1.weight.clone()
    weights = stock().state_dict()
    _load_checkpoint_to_model(model, {'state_dict': weights}, strict=False)
    for networks in (model.students, model.teachers):
        found = networks['a'].state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in found.items())
    assert torch.equal(model.students['b'].backbone.conv1.weight, kept)
    head = model.students['b'].decode_head.conv_seg.weight
    assert torch.equal(head, before['decode_head.conv_seg.weight'])


@BOTH
def test_a_checkpoint_that_fits_no_network_is_refused(kind):
    other = dual if kind is single else single
    for weights in (other.build().state_dict(), {'conv1.weight': torch.zeros(64, 3, 7, 7)}):
        name = re.escape(next(iter(weights)))
        with pytest.raises(ValueError, match=rf'weights such as {name}.*Pretrained') as told:
            kind.build().load_state_dict(weights, strict=False)
        assert '\n' not in str(told.value)


@BOTH
def test_an_own_checkpoint_is_loaded_as_it_is(kind):
    model, other = kind.build('BN', ema=True), kind.build('BN', ema=True)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(torch.randn_like(value))
    model.load_state_dict(other.state_dict())
    new = other.state_dict()
    assert all(torch.equal(value, new[name]) for name, value in model.state_dict().items())


def test_a_student_begins_at_a_checkpoint_by_its_init_cfg(tmp_path):
    weights = stock().state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'stock.pth')
    start = dict(type='Pretrained', checkpoint=str(tmp_path / 'stock.pth'))
    cfg = dict(tiny.student('BN'), init_cfg=start)
    model = MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg))
    model.init_weights()
    for network in (model.student, model.teacher):
        own = network.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in own.items())


SWIN = dict(
    type='SwinTransformer',
    embed_dims=8,
    depths=[1],
    num_heads=[1],
    strides=(4,),
    out_indices=(0,),
    window_size=4,
)


@pytest.mark.parametrize('backbone', [SWIN, tiny.student('BN')['backbone']], ids=['Swin', 'ResNet'])
def test_weights_of_a_backbone_are_taken_from_a_release_and_foreign_ones_refused(
    backbone, tmp_path
):
    torch.manual_seed(7)
    weights = MODELS.build(backbone).state_dict()
    file = tmp_path / 'release.pth'
    channels = 8 if backbone is SWIN else 32
    head = dict(tiny.student('BN')['decode_head'], in_channels=channels, in_index=-1)

    def begin(names, **start):
        torch.save({'model': {names + key: value for key, value in weights.items()}}, file)
        start = dict(type='Pretrained', checkpoint=str(file), **start)
        cfg = dict(tiny.student('BN'), backbone=dict(backbone, init_cfg=start), decode_head=head)
        model = MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg))
        model.init_weights()
        return model

    found = begin('').teacher.backbone.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in found.items())
    with pytest.raises(ValueError, match=r'Not one weight of .*release\.pth .*begin like .encoder'):
        begin('encoder.')
    if backbone is not SWIN:
        with pytest.raises(ValueError, match=r'release\.pth .*decoder\. is not in.*: correct them'):
            begin('encoder.', prefix='decoder.')


# ------------------------------------------------------------------------------------------ heads


HEADS = {
    'EncHead': (
        dict(
            in_channels=[8, 16, 32],
            in_index=(1, 2, 3),
            channels=8,
            num_codes=4,
            use_se_loss=True,
            add_lateral=False,
            loss_se_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.2),
        ),
        {'decode.loss_ce', 'decode.loss_se'},
    ),
    'DAHead': (
        dict(in_channels=32, in_index=3, channels=8, pam_channels=4),
        {'decode.pam_cam.loss_ce', 'decode.pam.loss_ce', 'decode.cam.loss_ce'},
    ),
}


def network_with(name):
    head = dict(HEADS[name][0], type=name, num_classes=CLASSES, norm_cfg=NORM, dropout_ratio=0.0)
    head['loss_decode'] = dict(type='CrossEntropyLoss')
    return dict(tiny.student('BN'), decode_head=head, test_cfg=ConfigDict(mode='whole'))


def pid():
    """PIDNet and, for its boundary losses, edges of the labelled images."""
    return dict(
        type='EncoderDecoder',
        backbone=dict(
            type='PIDNet',
            channels=4,
            ppm_channels=8,
            num_stem_blocks=1,
            num_branch_blocks=1,
            norm_cfg=NORM,
        ),
        decode_head=dict(
            type='PIDHead',
            dropout_ratio=0.0,
            in_channels=16,
            channels=8,
            num_classes=CLASSES,
            norm_cfg=NORM,
            loss_decode=[
                dict(type='CrossEntropyLoss'),
                dict(type='OhemCrossEntropy'),
                dict(type='BoundaryLoss'),
                dict(type='OhemCrossEntropy'),
            ],
        ),
        test_cfg=ConfigDict(mode='whole'),
    )


def ddr():
    return dict(
        type='EncoderDecoder',
        backbone=dict(type='DDRNet', channels=4, ppm_channels=8, norm_cfg=NORM),
        decode_head=dict(
            type='DDRHead',
            dropout_ratio=0.0,
            in_channels=16,
            channels=8,
            num_classes=CLASSES,
            norm_cfg=NORM,
            loss_decode=[dict(type='OhemCrossEntropy')] * 2,
        ),
        test_cfg=ConfigDict(mode='whole'),
    )


STUDENTS = {
    **{name: (lambda name=name: network_with(name), found) for name, (_, found) in HEADS.items()},
    'PIDHead': (
        pid,
        {f'decode.loss_{name}' for name in ('sem_p', 'sem_i', 'bd', 'sem_bd')},
    ),
    'DDRHead': (ddr, {'decode.loss_context', 'decode.loss_spatial'}),
}


def labelled_batch():
    inputs, data = single.batch()
    for sample in data['sup']:
        edges = torch.zeros_like(sample.gt_sem_seg.data)
        edges[:, ::8] = 1
        sample.set_data({'gt_edge_map': PixelData(data=edges)})
    return inputs, data


@pytest.mark.parametrize('name', STUDENTS)
@pytest.mark.parametrize('method', ['joint', 'separate', 'dual'])
def test_heads_with_several_outputs_train_by_their_own_loss(name, method):
    cfg, expected = STUDENTS[name][0](), STUDENTS[name][1]
    semi, front = dict(conf_thresh=0.0), ''
    if method == 'dual':
        other = dict(tiny.student('BN'), test_cfg=ConfigDict(mode='whole'))
        model = dict(type='DualStudentSegmentor', students=dict(a=cfg, b=other))
        front = 'a.'
    else:
        model, semi['norm'] = dict(type='MeanTeacherSegmentor', student=cfg), method
    torch.manual_seed(0)
    model = MODELS.build(dict(model, semi_train_cfg=semi))
    inputs, data = labelled_batch()
    losses = model.train().loss(inputs, data)
    assert {front + key for key in expected} <= set(losses)
    unsup = losses[f'{front}loss_strong' if front else 'loss_unsup']
    assert unsup > 0
    total(losses).backward()
    student = model.students['a' if front else 'student']
    assert all(p.grad is not None for p in student.parameters() if p.requires_grad)
    predicted = model.eval().predict(inputs['weak'], data['weak'])
    assert predicted[0].pred_sem_seg.shape == inputs['weak'].shape[-2:]


@pytest.mark.parametrize('name', STUDENTS)
@pytest.mark.parametrize('training', [False, True])
def test_the_logits_are_those_that_the_head_itself_predicts_by(name, training):
    torch.manual_seed(0)
    network = build_student(STUDENTS[name][0](), 'test', BaseDataPreprocessor()).eval()
    inputs, data = single.batch()
    with torch.no_grad():
        expected = torch.stack(
            [each.seg_logits.data for each in network.predict(inputs['weak'], data['weak'])]
        )
        network.train(training)
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        torch.testing.assert_close(decode(network, inputs['weak']), expected)


def test_edges_that_a_head_needs_are_asked_for():
    model = MODELS.build(dict(type='MeanTeacherSegmentor', student=pid())).train()
    with pytest.raises(ValueError, match=r'PIDHead learns edges.*GenerateEdge'):
        model.loss(*single.batch())


@MODELS.register_module(force=True)
class TwoOutputsHead(MODELS.get('FCNHead')):
    """Like nothing that is known."""

    def forward(self, inputs):
        return super().forward(inputs), 0


@MODELS.register_module(force=True)
class OwnLossHead(MODELS.get('FCNHead')):
    """Needs more than logits for its loss, as mask classifiers do."""

    def loss(self, inputs, samples, train_cfg):
        return {}


@pytest.mark.parametrize('name', ['TwoOutputsHead', 'OwnLossHead'])
def test_heads_that_cannot_be_used_are_refused_by_their_name(name):
    cfg = tiny.student('BN')
    cfg['decode_head']['type'] = name
    with pytest.raises(ValueError, match=name) as told:
        MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg)).loss(*single.batch())
    assert '\n' not in str(told.value)


# ------------------------------------------------------------------------ activation checkpointing


def checkpointing(with_cp):
    cfg = tiny.student('BN')
    cfg['backbone']['with_cp'] = with_cp
    return cfg


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_activation_checkpointing_leaves_the_running_statistics_alone():
    def train(with_cp):
        torch.manual_seed(0)
        semi = dict(conf_thresh=0.0, cutmix=None, norm='separate')
        student = checkpointing(with_cp)
        model = MODELS.build(
            dict(type='MeanTeacherSegmentor', student=student, semi_train_cfg=semi)
        )
        inputs, data = single.batch()
        inputs['strong'] = 5 * inputs['strong'] + 3  # would be noticed
        total(model.train().loss(inputs, data)).backward()
        layers = [m for m in model.student.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert {layer.momentum for layer in layers} == {0.1}
        return {name: v for name, v in model.student.state_dict().items() if 'running' in name}

    expected = train(False)
    for name, value in train(True).items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_two_students_refuse_activation_checkpointing_in_one_sentence():
    students = dict(a=checkpointing(True), b=checkpointing(False))
    with pytest.raises(ValueError, match=r"'a' has with_cp=True.*set with_cp=False") as told:
        MODELS.build(dict(type='DualStudentSegmentor', students=students))
    assert '\n' not in str(told.value)


# ------------------------------------------------------------------------------ branches and loops


def test_the_branches_of_mmdet_are_taken_and_others_refused():
    fields = ['sup', 'unsup_teacher', 'unsup_student']
    branches = MultiBranch(fields, unsup_teacher=[], unsup_student=[])
    assert branches.branch_field == ('sup', 'weak', 'strong')
    assert set(branches.pipelines) == {'weak', 'strong'}
    with pytest.raises(ValueError, match=r"branches \['week'\].*no segmentor"):
        MultiBranch(['sup', 'week', 'strong'], week=[], strong=[])


@BOTH
@pytest.mark.parametrize(
    'names', [['sup', 'week', 'strong'], ['weak', 'strong'], ['sup', 'strong'], ['sup', 'weak_1']]
)
def test_a_batch_whose_images_would_be_dropped_is_refused(kind, names):
    inputs, data = kind.batch()
    image, sample = inputs['sup'], data['sup']
    with pytest.raises(ValueError, match='A batch has the branches') as told:
        kind.build().loss(dict.fromkeys(names, image), dict.fromkeys(names, sample))
    assert '\n' not in str(told.value) and 'SemiSampler' in str(told.value)


def test_what_knows_no_views_normalises_none():
    front = dict(type='SegDataPreProcessor')
    with pytest.raises(ValueError, match=r"SegDataPreProcessor, which .*'SemiDataPreprocessor'"):
        MODELS.build(
            dict(type='MeanTeacherSegmentor', student=tiny.student(), data_preprocessor=front)
        )
    model = MODELS.build(dict(type='MeanTeacherSegmentor', student=tiny.student(), ema=False))
    with pytest.raises(ValueError, match=r'MeanTeacherSegmentor has no data_preprocessor'):
        model.validate_setup(None, [], 9, False)


def test_a_plain_batch_is_refused():
    inputs, data = single.batch()
    with pytest.raises(ValueError, match='MultiBranch'):
        single.build().loss(inputs['sup'], data['sup'])


@BOTH
def test_a_loop_that_leaves_the_average_behind_is_refused_at_its_second_step(kind):
    inputs, data = kind.batch()
    batch = dict(inputs=inputs, data_samples=data)
    for ema, update in ((True, False), (True, True), (False, False)):
        model = kind.build(ema=ema)
        model.average_is_kept = False
        model.data_preprocessor.forward = lambda given, training: given
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
        model.train_step(batch, optimizer)
        if update:
            model.update_teacher(0.9)
        if ema and not update:
            with pytest.raises(ValueError, match='no hook updates the average'):
                model.train_step(batch, optimizer)
        else:
            model.train_step(batch, optimizer)


# ----------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize('aux', [None, 'one', 'list'])
def test_losses_of_labels_are_called_and_valued_as_in_mmseg(aux):
    cfg = tiny.student('GN', aux=aux is not None)
    for name in ('decode_head', 'auxiliary_head') if aux else ('decode_head',):
        cfg[name]['loss_decode'] = dict(type='CrossEntropyLoss', avg_non_ignore=True)
    if aux == 'list':
        cfg['auxiliary_head'] = [cfg['auxiliary_head'], dict(cfg['auxiliary_head'])]
    inputs, data = single.batch()
    model = MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg)).train()
    found = model.loss({'sup': inputs['sup']}, {'sup': data['sup']})
    expected = model.student.loss(inputs['sup'], data['sup'])
    prefix = {'one': 'aux.', 'list': 'aux_1.'}
    assert aux is None or prefix[aux] + 'loss_ce' in expected
    assert set(found) == set(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name].reshape(()), msg=name)


def test_class_weights_leave_ignored_pixels_out_of_the_denominator():
    weights = [1.0, 2.0, 4.0]
    cfg = tiny.student('GN')
    cfg['decode_head']['loss_decode'] = dict(type='CrossEntropyLoss', class_weight=weights)
    inputs, data = single.batch()
    model = MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg)).train()
    found = model.loss({'sup': inputs['sup']}, {'sup': data['sup']})['decode.loss_ce']
    labels = torch.cat([sample.gt_sem_seg.data for sample in data['sup']])
    logits = decode(model.student, inputs['sup'])
    expected = F.cross_entropy(logits, labels, torch.tensor(weights), ignore_index=255)
    torch.testing.assert_close(found, expected)


LOSSES = {
    'valid': dict(type='ValidCrossEntropyLoss'),
    'weighted': dict(type='ValidCrossEntropyLoss', class_weight=[1.0, 2.0, 4.0]),
    'stock': dict(type='CrossEntropyLoss', avg_non_ignore=True, class_weight=[1.0, 2.0, 4.0]),
    'sigmoid': dict(type='CrossEntropyLoss', use_sigmoid=True),
    'lovasz': dict(type='LovaszLoss', reduction='none'),
    'lovasz by image': dict(type='LovaszLoss', per_image=True),
    'dice': [dict(type='DiceLoss'), dict(type='TverskyLoss', loss_name='loss_tversky')],
    'OHEM': dict(type='CrossEntropyLoss'),
    'focal': [dict(type='FocalLoss'), dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 4.0])],
}


@pytest.mark.parametrize('name', LOSSES)
def test_crops_without_a_labelled_pixel_cost_nothing(name):
    """Of sparse labels many crops hold none: a batch of them is 0, and one among others no NaN."""
    cfg = tiny.student('GN', aux=True)
    for head in (cfg['decode_head'], cfg['auxiliary_head']):
        head['loss_decode'] = LOSSES[name]
        if name == 'OHEM':
            head['sampler'] = dict(type='OHEMPixelSampler', min_kept=10)
    model = MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg)).train()
    inputs, data = single.batch(3)

    def step():
        model.zero_grad()
        losses = model.loss({'sup': inputs['sup']}, {'sup': data['sup']})
        total(losses).backward()
        gradients = [p.grad for p in model.student.parameters()]
        assert all(grad.isfinite().all() for grad in gradients)
        return losses, max(grad.abs().max().item() for grad in gradients)

    data['sup'][1].gt_sem_seg.data.fill_(255)
    data['sup'][0].gt_sem_seg.data[:, 1:] = 255
    data['sup'][0].gt_sem_seg.data[:, 0, ::16] = 1  # clicks
    losses, steepest = step()
    names = list(losses)
    assert total(losses) > 0 and steepest > 0
    for sample in data['sup']:
        sample.gt_sem_seg.data.fill_(255)
    data['sup'][0].gt_sem_seg.data[:, 5, 5] = 1
    assert list(step()[0]) == names, "a single click, which mmseg's LovaszLoss cannot index"
    data['sup'][0].gt_sem_seg.data.fill_(255)
    losses, steepest = step()
    assert all(value == 0 for value in losses.values()) and steepest == 0
    assert list(losses) == names, 'another rank may have labels, and logs are averaged by name'


def test_a_head_that_ignores_another_label_than_is_padded_is_refused():
    cfg = tiny.student()
    cfg['decode_head']['ignore_index'] = 254
    front = dict(type='SemiDataPreprocessor', seg_pad_val=255)
    with pytest.raises(ValueError, match=r'ignores the label 254.*seg_pad_val=255: set both alike'):
        MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg, data_preprocessor=front))
    front['seg_pad_val'] = 254
    MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg, data_preprocessor=front))


def test_what_transforms_padded_becomes_the_label_that_is_ignored():
    cfg = tiny.student()
    cfg['decode_head']['ignore_index'] = 254
    front = dict(type='SemiDataPreprocessor', seg_pad_val=254, size=(64, 64))
    model = MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg, data_preprocessor=front))
    labels, valid = torch.randint(0, CLASSES, (1, 50, 64)), torch.ones(1, 50, 64, dtype=torch.bool)
    labels[:, :4], labels[:, -9:], valid[:, -9:] = 254, 255, False
    sample = tiny.samples(1)[0]
    sample.set_data(dict(gt_sem_seg=PixelData(data=labels), valid=PixelData(data=valid)))
    batch = {'inputs': {'sup': [torch.zeros(3, 50, 64)]}, 'data_samples': {'sup': [sample]}}
    batch = model.data_preprocessor(batch, True)
    (packed,) = batch['data_samples']['sup']
    ignored = packed.gt_sem_seg.data[0] == 254
    assert ignored[:4].all() and ignored[41:].all() and not ignored[4:41].any()
    assert torch.isfinite(total(model.train().loss(**batch)))


def test_a_head_with_its_own_loss_is_spared_crops_without_a_labelled_pixel():
    losses = [dict(type='CrossEntropyLoss', class_weight=[1.0] * 3), dict(type='LovaszLoss')]
    losses[1]['per_image'], losses[1]['reduction'] = True, 'mean'
    cfg = tiny.student('BN')
    cfg['decode_head'].update(type='DAHead', pam_channels=2, loss_decode=losses)
    del cfg['decode_head']['num_convs'], cfg['decode_head']['concat_input']
    model = MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg)).train()
    inputs, data = single.batch(2)
    names = []
    for sample, expected in zip(data['sup'], (True, False), strict=True):
        sample.gt_sem_seg.data.fill_(255)
        found = model.loss({'sup': inputs['sup']}, {'sup': data['sup']})
        assert total(found).isfinite() and bool(total(found) > 0) == expected
        names = names or list(found)
        assert list(found) == names
    total(found).backward()
    assert all(param.grad is not None for param in model.student.parameters())


REFUSED = {  # settings of the decode head, and of the network
    'one class': (dict(num_classes=1), {}, r'FCNHead .*num_classes=1.* two or more'),
    'other classes': (
        {},
        dict(auxiliary_head=dict(num_classes=9)),
        r'num_classes=9.* its 3 classes',
    ),
    'name': (dict(loss_decode=dict(type='DiceLoss', loss_name='dice')), {}, r"'dice', which would"),
    'windows': ({}, dict(test_cfg=dict(mode='slide')), r'with crop_size and stride'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_settings_that_fail_later_are_refused_at_once(name):
    head, parts, said = REFUSED[name]
    cfg = tiny.student(aux=True)
    cfg['decode_head'].update(head)
    for key, value in parts.items():
        cfg[key] = {**(cfg[key] if key == 'auxiliary_head' else {}), **value}
    with pytest.raises(ValueError, match=said):
        build_student(ConfigDict(cfg), 'MeanTeacherSegmentor', torch.nn.Identity())
    cfg = dict(tiny.student(), test_cfg=None)
    assert build_student(cfg, '', torch.nn.Identity()).test_cfg.mode == 'whole'


def test_a_part_that_fails_on_the_first_batch_is_named():
    cfg = tiny.student()
    cfg['decode_head']['in_channels'] = 16
    inputs, data = single.batch()
    with pytest.raises(ValueError, match=r'Conv2d \(\w+\.decode_head\.convs\.0\.conv\) fails on'):
        MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg)).loss(inputs, data)
    cfg = tiny.student()
    cfg['decode_head']['loss_decode'] = dict(type='OhemCrossEntropy')
    model = MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg))
    with pytest.raises(ValueError, match=r'OhemCrossEntropy .* fails on .*: correct its settings'):
        model.loss(inputs, data)


def test_focal_loss_is_the_formula_of_mmseg_without_its_operator():
    cfg = tiny.student('GN')
    cfg['decode_head']['loss_decode'] = dict(
        type='FocalLoss', alpha=[0.2, 0.5, 0.7], class_weight=[1.0, 2.0, 4.0], loss_weight=3.0
    )
    inputs, data = single.batch()
    data['sup'][0].gt_sem_seg.data[:, :9] = 255
    model = MODELS.build(dict(type='MeanTeacherSegmentor', student=cfg)).train()
    found = model.loss({'sup': inputs['sup']}, {'sup': data['sup']})['decode.loss_focal']
    labels = torch.cat([sample.gt_sem_seg.data for sample in data['sup']])
    logits, expected = decode(model.student, inputs['sup']), 0.0
    for k, (alpha, weight) in enumerate(zip([0.2, 0.5, 0.7], [1.0, 2.0, 4.0], strict=True)):
        right, p = labels == k, logits[:, k].sigmoid()
        term = torch.where(
            right, -alpha * (1 - p) ** 2 * p.log(), (alpha - 1) * p**2 * (1 - p).log()
        )
        expected += 3.0 * weight * (term * (labels != 255)).sum() / (labels.numel() * CLASSES)
    torch.testing.assert_close(found, expected)
