# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import math
import random
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS

from mmseg_semi_rs.engine.hooks import ema_keep
from mmseg_semi_rs.models.segmentors import mean_teacher
from mmseg_semi_rs.models.segmentors.student import decode
from mmseg_semi_rs.models.utils import keep_running_statistics
from tests._support.mean_teacher import batch, build, gradients
from tests._support.networks import CLASSES, SIZE, NoHostSync, samples, student, total


@pytest.mark.parametrize('reduce, divisor', [('mean', 2), ('sum', 1)])
def test_loss_is_the_restated_formula(reduce, divisor):
    model = build(loss_reduce=reduce, loss_weight=dict(sup=2.0, unsup=0.5))
    inputs, data = batch()
    with torch.no_grad():  # a threshold that half of the pixels pass
        threshold = decode(model.teacher, inputs['weak']).softmax(1).amax(1).median()
    model.gate.threshold.fill_(threshold)
    losses = model.loss(inputs, data)
    with torch.no_grad():

        def up(network, x):
            scores = network.decode_head(network.backbone(x))
            return F.interpolate(scores, (SIZE, SIZE), mode='bilinear', align_corners=False)

        truth = torch.cat([s.gt_sem_seg.data for s in data['sup']])
        expected_sup = F.cross_entropy(up(model.student, inputs['sup']), truth, ignore_index=255)
        confidence, labels = up(model.teacher, inputs['weak']).softmax(1).max(1)
        entropy = F.cross_entropy(up(model.student, inputs['strong']), labels, reduction='none')
        expected_unsup = (entropy * (confidence >= threshold)).sum() / labels.numel()
    assert 0 < float((confidence >= threshold).float().mean()) < 1
    assert torch.isclose(losses['decode.loss_ce'], 2.0 * expected_sup / divisor, atol=1e-5)
    assert torch.isclose(losses['loss_unsup'], 0.5 * expected_unsup / divisor, atol=1e-5)


def test_I2_unsupervised_term_changes_the_gradient_of_the_backbone():
    inputs, data = batch()
    with_term = gradients(build(), inputs, data)
    without = gradients(build(loss_weight=dict(unsup=0.0)), inputs, data)
    name = 'student.backbone.conv1.weight'
    assert not torch.allclose(with_term[name], without[name])


def test_I2_purifier_changes_labels_loss_and_gradients():
    inputs, data = batch()
    model = build()
    before = gradients(model, inputs, data)
    wrong_class = 1

    def relabel(pseudo, weak_samples):
        assert weak_samples is data['weak']
        return pseudo.replace(labels=torch.full_like(pseudo.labels, wrong_class))

    model.purifiers.append(relabel)
    after = gradients(model, inputs, data)
    assert (model.last_step.pseudo['student'].labels == wrong_class).all()
    assert any(not torch.allclose(before[name], after[name]) for name in before)


def test_I5_padded_pixels_have_no_influence_on_the_unsupervised_loss():
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    valid[:, :, SIZE // 2 :] = False
    inputs, data = batch(valid=valid)
    model = build()
    losses = model.loss(inputs, data)

    def garbage(pseudo, _):
        labels = torch.where(pseudo.valid, pseudo.labels, (pseudo.labels + 1) % CLASSES)
        return pseudo.replace(labels=labels)

    model.purifiers.append(garbage)
    assert torch.equal(model.loss(inputs, data)['loss_unsup'], losses['loss_unsup'])
    model.purifiers[:] = [lambda p, _: p.replace(labels=(p.labels + 1) % CLASSES)]
    assert not torch.equal(model.loss(inputs, data)['loss_unsup'], losses['loss_unsup'])


def test_I7_teacher_stays_in_eval_mode_and_frozen():
    model = build('BN').train()
    assert model.student.training and not model.teacher.training
    assert not any(module.training for module in model.teacher.modules())
    assert not any(param.requires_grad for param in model.teacher.parameters())
    inputs, data = batch()
    before = deepcopy(model.teacher.state_dict())
    total(model.loss(inputs, data)).backward()
    assert all(torch.equal(before[k], v) for k, v in model.teacher.state_dict().items())


def test_I7_ema_follows_the_formula_for_parameters_and_buffers():
    model = build('BN')
    inputs, data = batch()
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.loss(inputs, data)  # moves the student's running statistics
    teacher = deepcopy(model.teacher.state_dict())
    new = deepcopy(model.student.state_dict())
    model.update_teacher(0.75)
    moved_buffers = 0
    for name, value in model.teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * teacher[name] + 0.25 * new[name])
            moved_buffers += 'running_mean' in name and not torch.equal(value, teacher[name])
        else:
            assert torch.equal(value, new[name])
    assert moved_buffers > 0


@pytest.mark.parametrize(
    'update, expected', [(0, 0.0), (1, 0.5), (9, 0.9), (249, 0.996), (10_000, 0.996)]
)
def test_I7_momentum_warms_up_as_published(update, expected):
    assert ema_keep(update, 0.996, True) == pytest.approx(expected)
    assert ema_keep(update, 0.996, False) == 0.996


def test_I7_first_update_copies_the_student_exactly():
    model = build('BN')
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.normal_()
    model.update_teacher(ema_keep(0, 0.996, True))
    new = model.student.state_dict()
    assert all(torch.equal(value, new[name]) for name, value in model.teacher.state_dict().items())


def test_I1_teacher_equals_student_after_init_weights(tmp_path):
    source = MODELS.build(student()['backbone'])
    source.init_weights()
    torch.save(source.state_dict(), tmp_path / 'backbone.pth')
    config = student()
    config['backbone']['init_cfg'] = dict(
        type='Pretrained', checkpoint=str(tmp_path / 'backbone.pth')
    )
    model = MODELS.build(dict(type='MeanTeacherSegmentor', student=config))
    model.init_weights()
    for name, value in source.state_dict().items():
        assert torch.equal(model.student.backbone.state_dict()[name], value)
        assert torch.equal(model.teacher.backbone.state_dict()[name], value)
    assert all(
        torch.equal(v, model.teacher.state_dict()[k]) for k, v in model.student.state_dict().items()
    )


@pytest.mark.parametrize('aux', [False, True])
@pytest.mark.parametrize('norm', ['joint', 'separate'])
def test_I13_every_trainable_parameter_gets_a_gradient(norm, aux):
    model = build('BN', aux, norm=norm)
    inputs, data = batch()
    found = gradients(model, inputs, data)
    missing = [n for n, p in model.named_parameters() if p.requires_grad and n not in found]
    assert not missing


@pytest.mark.parametrize('norm', ['joint', 'separate'])
def test_I12_R30_training_step_makes_no_host_sync_and_no_barrier(norm, monkeypatch):
    monkeypatch.setattr(torch.distributed, 'barrier', lambda *_, **__: pytest.fail('barrier'))
    model = build('BN', aux=True, cutmix={}, norm=norm)
    inputs, data = batch()
    with NoHostSync():
        total(model.loss(inputs, data)).backward()
        model.update_teacher(0.9)


def test_I12_the_check_sees_a_sync():
    with pytest.raises(AssertionError, match='host wait'), NoHostSync():
        torch.ones(()).item()


def test_separate_norm_remembers_labelled_images_only():
    inputs, data = batch()
    supervised = build('BN')
    supervised.loss({'sup': inputs['sup']}, {'sup': data['sup']})
    for mode, equal in (('separate', True), ('joint', False)):
        model = build('BN', norm=mode)
        model.loss(inputs, data)
        layer, reference = model.student.backbone.bn1, supervised.student.backbone.bn1
        assert torch.allclose(layer.running_mean, reference.running_mean) == equal


def test_keep_running_statistics_restores_momentum():
    layer = torch.nn.BatchNorm2d(3)
    with keep_running_statistics(layer):
        layer(torch.randn(4, 3, 5, 5))
    assert layer.momentum == 0.1
    assert torch.equal(layer.running_mean, torch.zeros(3))


def test_batch_without_unlabelled_images_trains_supervised():
    model = build()
    inputs, data = batch()
    losses = model.loss({'sup': inputs['sup']}, {'sup': data['sup']})
    assert set(losses) == {'decode.loss_ce', 'decode.acc_seg'}


def test_unsupervised_ramp_follows_the_iteration():
    from mmengine.logging import MessageHub

    inputs, data = batch()
    full = build().loss(inputs, data)['loss_unsup']
    model = build(unsup_ramp=10)
    hub = MessageHub.get_current_instance()
    for iteration, share in ((0, 0.0), (5, 0.5), (20, 1.0)):
        hub.update_info('iter', iteration)
        assert torch.isclose(model.loss(inputs, data)['loss_unsup'], share * full)


def test_without_ema_the_student_labels_in_eval_mode():
    model = build('BN', ema=False)
    seen = []
    model.student.backbone.register_forward_hook(lambda m, a, o: seen.append(m.training))
    inputs, data = batch()
    model.loss(inputs, data)
    assert seen == [False, True] and model.student.training
    assert model.predict_on == 'student'


def test_bfloat16_autocast_loses_no_gradient_where_the_student_labels():
    model = build(ema=False)
    inputs, data = batch()
    full = gradients(model, inputs, data)
    model.zero_grad()
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(inputs, data)
    total(losses).backward()
    for name, parameter in model.student.named_parameters():
        found, expected = parameter.grad.flatten(), full[f'student.{name}'].flatten()
        if parameter.ndim > 1 and expected.any():
            assert F.cosine_similarity(found, expected, dim=0) > 0.9, name


@pytest.mark.parametrize('mode', ['whole', 'slide'])
@pytest.mark.parametrize('predict_on', ['teacher', 'student'])
def test_R17_R28_predicts_with_the_named_network_whole_or_by_windows(mode, predict_on):
    config = student()
    config['test_cfg'] = ConfigDict(mode=mode, crop_size=(48, 48), stride=(32, 32))
    model = MODELS.build(
        dict(type='MeanTeacherSegmentor', student=config, semi_test_cfg=dict(predict_on=predict_on))
    ).eval()
    with torch.no_grad():
        for name, network in (('teacher', model.teacher), ('student', model.student)):
            network.decode_head.conv_seg.weight.zero_()
            network.decode_head.conv_seg.bias.copy_(
                torch.tensor([0.0, 1.0, 0.0] if name == 'teacher' else [0.0, 0.0, 1.0])
            )
        inputs, data = batch()
        for sample in data['weak']:
            sample.set_metainfo(dict(ori_shape=(40, 50), img_shape=(SIZE, SIZE)))
        predicted = model.predict(inputs['weak'], data['weak'])
    for sample in predicted:
        assert sample.pred_sem_seg.data.shape == (1, 40, 50)
        assert (sample.pred_sem_seg.data == (1 if predict_on == 'teacher' else 2)).all()


def test_cutmix_moves_labels_with_images(monkeypatch):
    random.seed(0)
    model = build(cutmix=dict(prob=1.0))
    inputs, data = batch()
    seen = {}
    original = mean_teacher.forward_student

    def spy(student, images, *args, **kwargs):
        seen['strong'] = images[2:]
        return original(student, images, *args, **kwargs)

    monkeypatch.setattr(mean_teacher, 'forward_student', spy)
    model.loss(inputs, data)
    assert (seen['strong'] != inputs['strong']).any()


@pytest.mark.parametrize(
    'change, word',
    [
        (dict(semi_train_cfg=dict(conf_tresh=0.9)), 'conf_tresh'),
        (dict(semi_train_cfg=dict(conf_thresh=1.5)), 'conf_thresh=1.5'),
        (dict(semi_train_cfg=dict(conf_thresh=[0.5, 0.5])), '2 entries for 3 classes'),
        (dict(semi_train_cfg=dict(norm='both')), "norm='both'"),
        (dict(semi_train_cfg=dict(loss_reduce='max')), "loss_reduce='max'"),
        (dict(semi_train_cfg=dict(loss_weight=dict(dist=1))), 'dist'),
        (dict(semi_train_cfg=dict(loss_weight=dict(unsup=math.nan))), 'loss_weight.unsup=nan'),
        (dict(semi_train_cfg=dict(loss_weight=2)), 'loss_weight=2 must be None or a dict'),
        (dict(semi_train_cfg=dict(cutmix=True)), 'cutmix=True must be None or a dict'),
        (dict(semi_train_cfg=dict(cutmix=dict(areas=1))), 'cutmix has unknown keys .*areas'),
        (dict(semi_test_cfg=dict(predict_on='both')), "predict_on='both'"),
        (dict(semi_test_cfg=dict(predict_on='teacher'), ema=False), 'needs ema=True'),
        (
            dict(student=dict(student(), data_preprocessor=dict(type='SegDataPreProcessor'))),
            'data_preprocessor',
        ),
    ],
)
def test_bad_settings_are_told(change, word):
    config = dict(type='MeanTeacherSegmentor', student=student())
    config.update(change)
    with pytest.raises(ValueError, match=word):
        MODELS.build(config)


def test_R9_preprocessor_marks_padding_and_gives_all_branches_one_size():
    preprocessor = MODELS.build(
        dict(
            type='SemiDataPreprocessor',
            mean=[10.0] * 3,
            std=[2.0] * 3,
            bgr_to_rgb=True,
            size=(72, 80),
        )
    )
    labels = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
    image = torch.arange(3, dtype=torch.uint8).view(3, 1, 1).expand(3, SIZE, SIZE).contiguous()
    data = dict(
        inputs=dict(sup=[image, None], weak=[None, image]),
        data_samples=dict(sup=[samples(1, labels)[0], None], weak=[None, samples(1)[0]]),
    )
    done = preprocessor(data, training=True)
    assert done['inputs']['sup'].shape == done['inputs']['weak'].shape == (1, 3, 72, 80)
    assert done['inputs']['sup'][0, :, 0, 0].tolist() == [-4.0, -4.5, -5.0]
    assert done['inputs']['sup'][0, 0, -1, -1] == -5.0, 'padding is raw 0, then normalised'
    truth = done['data_samples']['sup'][0].gt_sem_seg.data[0]
    assert (truth[SIZE:] == 255).all() and (truth[:, SIZE:] == 255).all()
    valid = done['data_samples']['weak'][0].valid.data[0]
    assert valid[:SIZE, :SIZE].all() and valid.sum() == SIZE * SIZE


def test_preprocessor_without_size_takes_the_largest_branch():
    preprocessor = MODELS.build(dict(type='SemiDataPreprocessor', size_divisor=14))
    inputs = dict(sup=[torch.zeros(3, 20, 30)], weak=[torch.zeros(3, 33, 10)])
    data = dict(inputs=inputs, data_samples=dict(sup=samples(1), weak=samples(1)))
    for branch, sample in data['data_samples'].items():
        shape = inputs[branch][0].shape[-2:]
        del sample[0].valid
        sample[0].set_data({'valid': PixelData(data=torch.ones(1, *shape, dtype=torch.bool))})
    done = preprocessor(data, training=True)
    assert {tuple(x.shape[-2:]) for x in done['inputs'].values()} == {(42, 42)}


def test_mmseg_inference_api_loads_the_checkpoint(tmp_path):
    import numpy as np
    from mmengine.config import Config
    from mmseg.apis import inference_model, init_model

    preprocessor = dict(type='SemiDataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3)
    config = dict(
        default_scope='mmseg',
        model=dict(type='MeanTeacherSegmentor', student=student(), data_preprocessor=preprocessor),
        test_pipeline=[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')],
    )
    model = MODELS.build(config['model'])
    meta = dict(dataset_meta=dict(classes=('a', 'b', 'c'), palette=[[0, 0, 0]] * 3))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'model.pth')
    loaded = init_model(Config(config), str(tmp_path / 'model.pth'), device='cpu')
    result = inference_model(loaded, np.zeros((40, 56, 3), np.uint8))
    assert result.pred_sem_seg.data.shape == (1, 40, 56)


@pytest.mark.parametrize('which', ['decode_head', 'auxiliary_head'])
def test_a_head_of_several_maps_is_refused_in_a_sentence(which, monkeypatch):
    model = build(aux=True)
    head = getattr(model.student, which)
    head = head[0] if isinstance(head, torch.nn.ModuleList) else head
    forward = head.forward
    several = lambda feats: (forward(feats),) * 2 if head.training else forward(feats)  # noqa: E731
    monkeypatch.setattr(head, 'forward', several)
    with pytest.raises(ValueError, match=r'FCNHead gives 2 outputs.* that gives these alone'):
        model.loss(*batch())
