# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""UniMatch V2: two strong views, one forward, channels that the views share out."""

import random

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS

from mmseg_semi_rs.models.decode_heads import DistillFeatures
from mmseg_semi_rs.models.segmentors import mean_teacher, semi_segmentor
from mmseg_semi_rs.models.segmentors.strong_views import ComplementaryDropout
from tests._support.distillation import DPT, TEACHERS
from tests._support.mean_teacher import build as build_any
from tests._support.mean_teacher import gradients
from tests._support.networks import CLASSES, SIZE, NoHostSync, samples, student, total

VIEWS = ('strong_1', 'strong_2')
BACKBONE = 'student.backbone.conv1.weight'


def build(layer='GN', aux=False, **settings):
    settings.setdefault('feature_dropout', {})
    return build_any(layer, aux, **settings)


def batch(count=2, seed=0, valid=None, views=VIEWS):
    generator = torch.Generator().manual_seed(seed)
    images = {
        branch: torch.randn(count, 3, SIZE, SIZE, generator=generator)
        for branch in ('sup', 'weak', *views)
    }
    labels = torch.randint(0, CLASSES, (count, SIZE, SIZE), generator=generator)
    labels[:, :2] = 255
    unlabelled = {name: samples(count, valid=valid) for name in images if name != 'sup'}
    return images, {'sup': samples(count, labels), **unlabelled}


def seeded_gradients(model, inputs, data):
    torch.manual_seed(3)
    random.seed(3)
    return gradients(model, inputs, data)


@torch.no_grad()
def up(network, feats):
    return F.interpolate(network.decode_head(feats), (SIZE, SIZE), mode='bilinear')


def ones(images=4, clean=2, channels=6):
    """Two levels of ones: what comes back are the factors themselves."""
    return tuple(torch.ones(clean + 2 * images, channels * 2**i, 4, 4) for i in range(2))


@pytest.mark.parametrize(
    'images, keep, whole', [(4, 0.0, 0), (4, 0.5, 2), (5, 0.5, 2), (1, 0.9, 0)]
)
def test_views_see_each_channel_twice_in_all_and_never_both(images, keep, whole):
    torch.manual_seed(0)
    feats = ones(images, channels=32)
    dropped = ComplementaryDropout(keep)(feats, clean=2)
    untouched = []
    for level, given in zip(dropped, feats, strict=True):
        assert level.shape == given.shape
        assert torch.equal(level[:2], given[:2]), 'labelled images keep all channels'
        first, second = level[2:].chunk(2)
        assert (first + second == 2).all()
        assert torch.equal(level, level[..., :1, :1].expand_as(level)), 'whole channels'
        kept = (first == 1).flatten(1).all(1)
        assert set(first[~kept].unique().tolist()) == {0.0, 2.0}
        assert 0.3 < float((first[~kept] == 2).float().mean()) < 0.7
        untouched.append(kept.tolist())
    assert sum(untouched[0]) == whole
    assert untouched[0] == untouched[1], 'an image keeps all channels on every level'


def test_masks_differ_between_images_and_steps():
    dropout = ComplementaryDropout(keep=0.0)
    (first,) = dropout((torch.ones(4, 64, 1, 1),), clean=0)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(dropout((torch.ones(4, 64, 1, 1),), clean=0)[0], first)


def test_kept_images_are_drawn_anew():
    torch.manual_seed(0)
    dropout, seen = ComplementaryDropout(), set()
    for _ in range(40):
        (level,) = dropout((torch.ones(8, 16, 1, 1),), clean=0)
        seen.add(tuple((level[:4] == 1).flatten(1).all(1).tolist()))
    assert len(seen) == 6  # 2 of 4


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_distillation_views_lose_channels_too_and_the_images_none(dtype):
    levels = [level.to(dtype) for level in ones(clean=0)]
    images, view = torch.rand(8, 3, 32, 32), torch.ones(8, 12, 2, 2, dtype=dtype)
    feats = DistillFeatures(levels, images, {(16, 16): view})
    dropped = ComplementaryDropout(0.0)(feats, clean=0)
    assert isinstance(dropped, DistillFeatures)
    assert torch.equal(dropped.images, images)
    for level in (*dropped, dropped.views[16, 16]):
        assert level.dtype == dtype
        assert set(level.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize('shared', [True, False])
def test_levels_of_one_width_share_a_mask(shared):
    torch.manual_seed(0)
    levels = tuple(torch.ones(9, width, side, side) for width, side in ((32, 4), (32, 2), (16, 2)))
    settings = dict(keep=0.0, shared=shared)
    deep, deepest, narrow = build(feature_dropout=settings).feature_dropout(levels, clean=1)
    assert torch.equal(deep[..., 0, 0], deepest[..., 0, 0]) is shared
    assert not torch.equal(deep[:, :16, 0, 0], narrow[..., 0, 0])


@pytest.mark.parametrize('norm', ['joint', 'separate'])
def test_loss_is_the_restated_formula(norm):
    model = build('GN', norm=norm)
    inputs, data = batch(count=4)
    with torch.no_grad():  # a threshold that half of the pixels pass
        scores = up(model.teacher, model.teacher.backbone(inputs['weak']))
    threshold = scores.softmax(1).amax(1).median()
    model.gate.threshold.fill_(threshold)
    torch.manual_seed(5)
    found = model.loss(inputs, data)['loss_unsup']

    # written again: 8 strong images, half of the 4 keep all channels, a mask for each width
    torch.manual_seed(5)
    confidence, labels = scores.softmax(1).max(1)
    gate = (confidence >= threshold).float()
    first = model.student.backbone(inputs['strong_1'])
    second = model.student.backbone(inputs['strong_2'])
    order = torch.randperm(4).tolist()
    dropped = ([], [])
    for one, other in zip(first, second, strict=True):
        mask = torch.empty(4, one.shape[1], 1, 1).bernoulli_(0.5)
        a, b = one * 2 * mask, other * 2 * (1 - mask)
        for image in range(4):
            if order[image] < 2:
                a[image], b[image] = one[image], other[image]
        dropped[0].append(a)
        dropped[1].append(b)
    terms = []
    for levels in dropped:
        entropy = F.cross_entropy(up(model.student, levels), labels, reduction='none')
        terms.append((entropy * gate).sum() / labels.numel())
    expected = (terms[0] + terms[1]) / 2 / 2  # over the views, over L_x and L_u
    assert terms[0] != terms[1]
    assert 0.2 < float(gate.mean()) < 0.8
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('norm, batches', [('joint', [6]), ('separate', [2, 4])])
def test_both_views_share_one_forward(norm, batches):
    model = build(norm=norm)
    inputs, data = batch()
    seen = []
    model.student.backbone.register_forward_hook(lambda m, a, o: seen.append(a[0]))
    model.loss(inputs, data)
    assert [len(images) for images in seen] == batches
    both = torch.cat([inputs[name] for name in VIEWS])
    assert torch.equal(seen[-1][-4:], both)


@pytest.mark.parametrize('norm', ['joint', 'separate'])
def test_I2_without_dropout_or_without_a_view_the_gradient_is_another(norm):
    inputs, data = batch()
    found = seeded_gradients(build(norm=norm), inputs, data)[BACKBONE]
    off = seeded_gradients(build(norm=norm, feature_dropout=None), inputs, data)[BACKBONE]
    assert not torch.allclose(found, off)
    kept = {key: value for key, value in inputs.items() if key != 'strong_2'}
    one = seeded_gradients(build(norm=norm, feature_dropout=None), kept, data)[BACKBONE]
    assert not torch.allclose(off, one)


def test_one_strong_view_twice_equals_it_once():
    inputs, data = batch(views=('strong',))
    once = seeded_gradients(build(feature_dropout=None), inputs, data)
    twice = {key: value for key, value in inputs.items() if key != 'strong'}
    twice |= dict.fromkeys(VIEWS, inputs['strong'])
    model = build(feature_dropout=None)
    for name, gradient in seeded_gradients(model, twice, data).items():
        torch.testing.assert_close(gradient, once[name])


def test_I5_padded_pixels_have_no_influence():
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    valid[:, :, SIZE // 2 :] = False
    inputs, data = batch(valid=valid)
    model = build(cutmix=dict(prob=1.0))

    def loss():
        torch.manual_seed(1)
        random.seed(1)
        return model.loss(inputs, data)['loss_unsup']

    before = loss()

    def garbage(pseudo, _):
        labels = torch.where(pseudo.valid, pseudo.labels, (pseudo.labels + 1) % CLASSES)
        return pseudo.replace(labels=labels)

    model.purifiers.append(garbage)
    assert torch.equal(loss(), before)
    model.purifiers[:] = [lambda pseudo, _: pseudo.replace(labels=(pseudo.labels + 1) % CLASSES)]
    assert not torch.equal(loss(), before)


def test_I6_each_view_has_its_own_boxes_and_labels_move_with_it(monkeypatch):
    model = build(cutmix=dict(prob=1.0))
    inputs, data = batch()
    for name in VIEWS:  # constant images: their value says whose pixel it is
        inputs[name] = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, SIZE, SIZE).contiguous()

    def by_image(pseudo, _):
        return pseudo.replace(labels=torch.arange(2)[:, None, None].expand(2, SIZE, SIZE))

    model.purifiers.append(by_image)
    seen = {}
    original = semi_segmentor.loss_of_views

    def spy(logits, targets, counts):
        seen['labels'] = [target.labels for target in targets]
        return original(logits, targets, counts)

    monkeypatch.setattr(semi_segmentor, 'loss_of_views', spy)
    model.student.backbone.register_forward_hook(lambda m, a, o: seen.update(images=a[0][2:]))
    random.seed(0)
    model.loss(inputs, data)
    views = seen['images'].chunk(2)
    for images, labels in zip(views, seen['labels'], strict=True):
        assert torch.equal(images[:, 0].long(), labels)
        assert 0 < float((images[0] == 1).float().mean()) < 0.5
    assert not torch.equal(*views)


@pytest.mark.parametrize('norm', ['joint', 'separate'])
def test_I5_distillation_hears_what_is_padded_after_the_boxes(norm, monkeypatch):
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    valid[1, :, SIZE // 2 :] = False
    inputs, data = batch(valid=valid)
    model = build(norm=norm, cutmix=dict(prob=1.0))
    seen = {}
    forward, mean = mean_teacher.forward_student, semi_segmentor.loss_of_views

    def spy(network, images, mask, *args, **kwargs):
        seen['valid'] = mask[-4:]
        return forward(network, images, mask, *args, **kwargs)

    def spy_on_targets(logits, targets, counts):
        seen['targets'] = torch.cat([target.valid for target in targets])
        return mean(logits, targets, counts)

    monkeypatch.setattr(mean_teacher, 'forward_student', spy)
    monkeypatch.setattr(semi_segmentor, 'loss_of_views', spy_on_targets)
    random.seed(0)
    model.loss(inputs, data)
    assert torch.equal(seen['valid'], seen['targets'])
    assert not torch.equal(seen['valid'][:2], seen['valid'][2:])


@pytest.mark.parametrize('aux', [False, True])
@pytest.mark.parametrize('norm', ['joint', 'separate'])
def test_I13_every_trainable_parameter_gets_a_gradient(norm, aux):
    model = build('BN', aux, norm=norm, cutmix={})
    inputs, data = batch()
    found = gradients(model, inputs, data)
    missing = [n for n, p in model.named_parameters() if p.requires_grad and n not in found]
    assert not missing


@pytest.mark.parametrize('norm', ['joint', 'separate'])
def test_I12_step_makes_no_host_sync(norm):
    model = build('BN', aux=True, cutmix={}, norm=norm)
    inputs, data = batch()
    with NoHostSync():
        total(model.loss(inputs, data)).backward()


def test_supervised_batches_lose_no_channels():
    inputs, data = batch()
    one = {'sup': inputs['sup']}
    for settings in ({}, None):
        model = build(feature_dropout=settings)
        losses = model.loss(one, {'sup': data['sup']})
        assert set(losses) == {'decode.loss_ce', 'decode.acc_seg'}
        if settings is not None:
            expected = losses['decode.loss_ce']
    assert torch.equal(losses['decode.loss_ce'], expected)


def build_distilling(norm, feature_dropout):
    torch.manual_seed(0)
    distilling = dict(
        type='DistillEncoderDecoder',
        backbone=dict(type='PatchBackbone'),
        decode_head=dict(
            type='MultiTeacherDistillHead',
            decode_head=DPT,
            teachers=TEACHERS,
            translator=dict(hidden=7),
        ),
        test_cfg=dict(mode='whole'),
    )
    settings = dict(norm=norm, conf_thresh=0.0, cutmix=None, feature_dropout=feature_dropout)
    config = dict(type='MeanTeacherSegmentor', student=distilling, semi_train_cfg=settings)
    return MODELS.build(config).train()


@pytest.mark.parametrize('norm', ['joint', 'separate'])
def test_I13_RS_MTDF_student_distils_what_is_left_of_both_views(norm):
    inputs, data = batch()
    model = build_distilling(norm, dict(keep=0.0))
    losses = model.loss(inputs, data)
    total(losses).backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    plain = build_distilling(norm, None).loss(inputs, data)
    for name in ('loss_distill_dino', 'loss_distill_clip', 'loss_unsup'):
        assert not torch.allclose(plain[name], losses[name]), name
    torch.testing.assert_close(plain['decode.loss_ce'], losses['decode.loss_ce'])


@pytest.mark.parametrize(
    'settings, word',
    [
        (dict(keep=1.0), 'keep=1.0 must be within'),
        (dict(keep=True), 'keep=True'),
        (dict(keep='half'), "keep='half'"),
        (dict(prob=0.5), 'prob'),
        ('complementary', "feature_dropout='complementary' must be None or a dict"),
    ],
)
def test_bad_settings_are_told(settings, word):
    config = dict(type='MeanTeacherSegmentor', student=student())
    with pytest.raises(ValueError, match=word):
        MODELS.build({**config, 'semi_train_cfg': dict(feature_dropout=settings)})


@pytest.mark.parametrize('views', [('strong',), ('strong_1', 'strong_2', 'strong_3')])
def test_channels_are_shared_by_two_views_only(views):
    inputs, data = batch(views=views)
    with pytest.raises(ValueError, match=rf'has {len(views)} strong view.*feature_dropout=None'):
        build().loss(inputs, data)
    build(feature_dropout=None).loss(inputs, data)


def test_a_batch_without_a_strong_view_is_told():
    inputs, data = batch(views=())
    with pytest.raises(ValueError, match='no strong view'):
        build().loss(inputs, data)
