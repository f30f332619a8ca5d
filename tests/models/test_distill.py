# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_semi_rs.models.decode_heads.distill_features import DistillFeatures
from mmseg_semi_rs.models.decode_heads.feature_distillation import (
    masked_feature_mse,
    normalise_target,
    valid_tokens,
)
from mmseg_semi_rs.models.decode_heads.translators import resample_tokens
from mmseg_semi_rs.models.losses import RankSum
from mmseg_semi_rs.models.protocols import HeadWithFeatureLosses
from tests._support.distillation import DPT, TEACHERS, WIDTH, PatchColourTeacher
from tests._support.processes import on_ranks

NORM = dict(type='BN')
BACKBONES = {
    'patches': (dict(type='PatchBackbone'), [WIDTH] * 4),
    'resnet': (
        dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, norm_cfg=NORM),
        [8, 16, 32, 64],
    ),
    'mobilenet': (
        dict(type='MobileNetV2', widen_factor=0.25, out_indices=(1, 2, 4, 6), norm_cfg=NORM),
        [8, 8, 24, 80],
    ),
    'mit': (
        dict(
            type='MixVisionTransformer',
            embed_dims=8,
            num_layers=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            sr_ratios=[4, 2, 1, 1],
            out_indices=(0, 1, 2, 3),
        ),
        [8, 8, 16, 16],
    ),
}
HEADS = {
    'fcn': lambda widths: dict(
        type='FCNHead', in_channels=widths[3], in_index=3, channels=8, num_convs=1, norm_cfg=NORM
    ),
    'aspp': lambda widths: dict(
        type='ASPPHead', in_channels=widths[3], channels=8, dilations=(1, 2), norm_cfg=NORM
    ),
    'deeplabv3plus': lambda widths: dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=widths[3],
        in_index=3,
        channels=8,
        dilations=(1, 2),
        c1_in_channels=widths[0],
        c1_channels=4,
        norm_cfg=NORM,
    ),
    'segformer': lambda widths: dict(
        type='SegformerHead',
        in_channels=widths,
        in_index=[0, 1, 2, 3],
        channels=8,
        norm_cfg=NORM,
    ),
    'concat': lambda widths: dict(
        type='FCNHead',
        in_channels=widths,
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        channels=8,
        num_convs=1,
        norm_cfg=NORM,
    ),
    'dpt': lambda widths: dict(
        type='SizeMatchedDPTHead',
        in_channels=widths,
        post_process_channels=[4, 6, 8, 10],
        channels=6,
    ),
}


def build_head(**changes):
    torch.manual_seed(0)
    cfg = dict(
        type='MultiTeacherDistillHead',
        decode_head=DPT,
        teachers=TEACHERS,
        translator=dict(hidden=7),
    )
    return MODELS.build({**cfg, **changes})


def build_segmentor(head=None, backbone='patches', **changes):
    torch.manual_seed(0)
    backbone_cfg, widths = BACKBONES[backbone]
    head_cfg = DPT if head is None else {'num_classes': 3, **HEADS[head](widths)}
    cfg = dict(
        type='DistillEncoderDecoder',
        backbone=backbone_cfg,
        decode_head=dict(
            type='MultiTeacherDistillHead',
            decode_head=head_cfg,
            teachers=TEACHERS,
            translator=dict(hidden=7),
        ),
        test_cfg=dict(mode='whole'),
    )
    options = {k: changes.pop(k) for k in list(changes) if k in OUTER}
    cfg['decode_head'].update(changes)
    return MODELS.build(ConfigDict({**cfg, **options}))


OUTER = ('data_preprocessor', 'test_cfg', 'auxiliary_head', 'view_resize', 'neck', 'type')


def make_images(batch=2, height=64, width=64):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


def make_samples(batch=2, height=64, width=64, label=1, **meta):
    samples = []
    for _ in range(batch):
        sample = SegDataSample(
            metainfo=dict(
                img_shape=(height, width), ori_shape=(height, width), pad_shape=(height, width)
            )
        )
        sample.set_metainfo(meta)
        sample.gt_sem_seg = PixelData(data=torch.full((1, height, width), label))
        samples.append(sample)
    return samples


def all_valid(images):
    return torch.ones(len(images), *images.shape[2:], dtype=torch.bool)


def linear(x, layer):
    return x @ layer.weight.T + layer.bias


def plain_tokens(features):
    batch, channels, height, width = features.shape
    return features.reshape(batch, channels, height * width).permute(0, 2, 1)


def plain_map(tokens, height, width):
    return tokens.permute(0, 2, 1).reshape(len(tokens), -1, height, width)


def plain_translate(features, translator):
    hidden = linear(plain_tokens(features), translator.fc1)
    tokens = linear(hidden * (hidden > 0), translator.fc2)
    return plain_map(tokens, *features.shape[2:])


def plain_fusion(deepest, predictions, projections, weights):
    """F' = w0 F + sum_i w_i P_i(upsampled T_i): the paper's order, upsampling before P_i."""
    height, width = deepest.shape[2:]
    fused = weights[0] * deepest
    for weight, prediction, projection in zip(weights[1:], predictions, projections, strict=True):
        large = F.interpolate(prediction, (height, width), mode='bilinear', align_corners=True)
        fused = fused + weight * plain_map(linear(plain_tokens(large), projection), height, width)
    return fused


def grads(model):
    return {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


# Formulas


@pytest.mark.parametrize('size', [(64, 64), (64, 40), (72, 88)])
def test_losses_and_fusion_equal_the_restated_formulas(size):
    model = build_segmentor().train()
    head, images = model.decode_head, make_images(2, *size)
    logits, losses = head.forward_train(model.extract_feat(images), all_valid(images))

    taps = model.backbone(images)
    small_size = head.teachers['clip'].input_shape(*size)
    small = F.interpolate(images, small_size, mode='bilinear', antialias=True)
    translated = [
        plain_translate(taps[3], head.translators['dino']),
        plain_translate(model.backbone(small)[3], head.translators['clip']),
    ]
    for name, prediction in zip(('dino', 'clip'), translated, strict=True):
        squared = (prediction - head.teachers[name](images)) ** 2
        expected = 0.5 * squared.sum() / squared.numel()
        torch.testing.assert_close(losses[f'loss_distill_{name}'], expected, rtol=1e-5, atol=1e-6)
    assert set(losses) == {'loss_distill_dino', 'loss_distill_clip'}

    fused = plain_fusion(
        taps[3], translated, [head.projections[n] for n in ('dino', 'clip')], (0.8, 0.1, 0.1)
    )
    expected = head.decode_head((*taps[:3], fused))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', [(64, 64), (72, 40)])
def test_fusion_upsamples_with_aligned_corners(size):
    model = build_segmentor()
    head, images = model.decode_head, make_images(2, *size)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    feats = model.extract_feat(images)
    predictions = head.predict_teachers(feats, distil=False)
    actual = head.fuse(feats, predictions)[3]
    names = ('dino', 'clip')
    expected = plain_fusion(
        feats[3], [predictions[n] for n in names], [head.projections[n] for n in names],
        (0.8, 0.1, 0.1),
    )  # fmt: skip
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert predictions['clip'].std(dim=(2, 3)).mean() > 0.1  # there is something to interpolate


def test_shared_view_translates_resampled_tokens():
    model = build_segmentor(student_view='shared').train()
    head, images = model.decode_head, make_images()
    feats = model.extract_feat(images)
    assert feats.views == {}
    _, losses = head.forward_train(feats, all_valid(images))
    pooled = F.interpolate(feats[3], (4, 4), mode='bilinear', antialias=True)
    prediction = plain_translate(pooled, head.translators['clip'])
    expected = 0.5 * ((prediction - head.teachers['clip'](images)) ** 2).mean()
    torch.testing.assert_close(losses['loss_distill_clip'], expected, rtol=1e-5, atol=1e-6)


def test_resample_tokens_pools_all_tokens_when_shrinking():
    features = torch.randn(1, 2, 37, 37, requires_grad=True)
    resample_tokens(features, (16, 16)).sum().backward()
    assert (features.grad > 0).all()
    assert resample_tokens(features, (37, 37)) is features


def test_three_teachers_share_a_fifth():
    teachers = {name: dict(type='PatchColourTeacher', seed=i) for i, name in enumerate('abc')}
    head = build_head(teachers=teachers)
    assert head.student_weight == 0.8
    assert list(head.fusion_weights.values()) == pytest.approx([0.2 / 3] * 3)


@pytest.mark.parametrize(
    ('names', 'expected'), [(('dino', 'clip'), (0.8, 0.1, 0.1)), (('dino',), (0.8, 0.2))]
)
def test_default_fusion_weights_are_the_published_ones(names, expected):
    head = build_head(teachers={name: TEACHERS[name] for name in names})
    assert (head.student_weight, *head.fusion_weights.values()) == pytest.approx(expected)


def test_the_order_of_keys_in_a_config_does_not_matter():
    """Mmengine sorts them when it saves a config."""
    weights = dict(student=0.7, dino=0.2, clip=0.1)
    heads = [
        build_head(teachers={name: TEACHERS[name] for name in order}, fusion=dict(weights=weights))
        for order in (('dino', 'clip'), ('clip', 'dino'))
    ]
    names = [[(n, p.shape) for n, p in head.named_parameters()] for head in heads]
    assert names[0] == names[1]
    assert heads[0].fusion_weights == heads[1].fusion_weights == dict(dino=0.2, clip=0.1)


def test_loss_weight_and_teacher_count_scale_the_loss():
    images = make_images()

    def distill(**changes):
        model = build_segmentor(**changes).train()
        feats = model.extract_feat(images)
        return model.decode_head.forward_train(feats, all_valid(images))[1]['loss_distill_clip']

    reference = distill()
    torch.testing.assert_close(distill(loss_distill=dict(loss_weight=3.0)), 3 * reference)
    alone = distill(teachers=dict(clip=TEACHERS['clip']), fusion=dict(weights=(1, 0)))
    torch.testing.assert_close(alone, 2 * reference)


@pytest.mark.parametrize('kind', ['channel', 'layernorm'])
def test_target_norm_restated(kind):
    target = torch.randn(2, 5, 3, 4) * 7 + 2
    valid = torch.rand(2, 3, 4) > 0.3
    result = normalise_target(target, valid, kind)
    for image in range(2):
        if kind == 'channel':
            tokens = target[image][:, valid[image]]
            mean, variance = tokens.mean(dim=1), tokens.var(dim=1, unbiased=False)
            expected = (tokens - mean[:, None]) / (variance[:, None] + 1e-5).sqrt()
        else:
            tokens = target[image][:, valid[image]]
            mean, variance = tokens.mean(dim=0), tokens.var(dim=0, unbiased=False)
            expected = (tokens - mean) / (variance + 1e-5).sqrt()
        torch.testing.assert_close(result[image][:, valid[image]], expected, rtol=1e-5, atol=1e-5)
    assert normalise_target(target, valid, 'none') is target


def test_target_norm_reaches_the_loss():
    images = make_images()
    values = []
    for kind in ('none', 'channel', 'layernorm'):
        model = build_segmentor(loss_distill=dict(target_norm=kind)).train()
        feats = model.extract_feat(images)
        losses = model.decode_head.forward_train(feats, all_valid(images))[1]
        values.append(losses['loss_distill_clip'].item())
    assert len(set(values)) == 3


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_squared_error_of_half_precision_predictions_is_float32(dtype):
    prediction = torch.full((1, 2, 2, 2), 300.0, dtype=dtype)
    target = torch.full((1, 2, 2, 2), 0.5)
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = masked_feature_mse(prediction, target.to(dtype), valid, RankSum(valid.sum()))
    assert loss.dtype == torch.float32
    assert loss.item() == 299.5**2  # not finite in float16, 89600 in bfloat16


def test_trains_under_bf16_autocast():
    model = build_segmentor().train()
    images = make_images()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model.loss(images, make_samples())
    assert losses['decode.loss_distill_clip'].dtype == torch.float32
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert all(torch.isfinite(g).all() for g in grads(model).values())


# Masking


def test_valid_tokens_are_those_without_any_padded_pixel():
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    valid[:, :, 41:] = False
    assert valid_tokens(valid, (8, 8))[0, 0].tolist() == [True] * 5 + [False] * 3
    # A grid that does not divide the image: a token owns every pixel it touches.
    assert valid_tokens(valid, (3, 3))[0, 0].tolist() == [True, False, False]
    assert not valid_tokens(torch.zeros_like(valid), (3, 3)).any()


def test_R9_padding_is_not_distilled():
    images = make_images()
    valid = all_valid(images)
    valid[0, :, 40:] = False
    results = {}
    for mask in ('valid', 'none'):
        model = build_segmentor(loss_distill=dict(mask=mask)).train()
        head, feats = model.decode_head, model.extract_feat(images)
        losses = head.forward_train(feats, valid)[1]
        prediction = plain_translate(feats[3], head.translators['dino'])
        squared = (prediction - head.teachers['dino'](images)) ** 2
        results[mask] = (losses['loss_distill_dino'], squared)
    loss, squared = results['valid']
    kept = torch.cat([squared[0, :, :, :5].flatten(), squared[1].flatten()])
    torch.testing.assert_close(loss, 0.5 * kept.mean(), rtol=1e-5, atol=1e-6)
    loss, squared = results['none']
    torch.testing.assert_close(loss, 0.5 * squared.mean(), rtol=1e-5, atol=1e-6)


def test_I5_teacher_features_on_padding_change_no_gradient(monkeypatch):
    images, valid = make_images(), None
    valid = all_valid(images)
    valid[:, 40:] = False
    seen = []
    for noise in (0.0, 100.0):
        model = build_segmentor().train()
        teacher = model.decode_head.teachers['dino']
        original = PatchColourTeacher.__call__

        def noisy(self, batch, noise=noise, original=original):
            features = original(self, batch)
            rows = features.shape[2] * 5 // 8
            features[:, :, rows + features.shape[2] % 8 :] += noise
            return features

        monkeypatch.setattr(PatchColourTeacher, '__call__', noisy)
        losses = model.decode_head.forward_train(model.extract_feat(images), valid)[1]
        monkeypatch.undo()
        assert teacher.seen
        losses['loss_distill_dino'].backward()
        seen.append(model.backbone.embed.weight.grad.clone())
    assert torch.equal(*seen)


def test_a_batch_of_padding_only_gives_a_zero_loss():
    model = build_segmentor().train()
    images = make_images()
    valid = torch.zeros_like(all_valid(images))
    losses = model.decode_head.forward_train(model.extract_feat(images), valid)[1]
    assert [loss.item() for loss in losses.values()] == [0.0, 0.0]


def plain_training_loss(samples, images=None):
    model = build_segmentor().train()
    return model.loss(make_images() if images is None else images, samples)[
        'decode.loss_distill_dino'
    ].item()


def test_plain_loss_masks_what_the_preprocessor_padded_but_not_ignored_labels():
    full = plain_training_loss(make_samples())
    assert plain_training_loss(make_samples(label=255)) == full
    assert plain_training_loss(make_samples(padding_size=(0, 24, 0, 0))) != full


def test_plain_loss_takes_the_valid_field():
    samples = make_samples()
    for sample in samples:
        valid = torch.ones(1, 64, 64, dtype=torch.bool)
        valid[:, :, 40:] = False
        sample.set_data(dict(valid=PixelData(data=valid)))
    padded = plain_training_loss(make_samples(padding_size=(0, 24, 0, 0)))
    assert plain_training_loss(samples) == padded


def half_padded(count):
    """Images of which the first half is three quarters padding."""
    images = make_images(count)
    valid = all_valid(images)
    valid[: count // 2, :, 16:] = False
    return images, valid


def distillation_gradient(images, valid):
    model = build_segmentor().train()
    losses = model.decode_head.forward_train(model.extract_feat(images), valid)[1]
    sum(losses.values()).backward()
    return model.backbone.embed.weight.grad


def distil_half(folder):
    """One of two processes with half of the batch each; gradients are averaged as DDP does."""
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    images, valid = half_padded(4)
    with DefaultScope.overwrite_default_scope('mmseg'):
        gradient = distillation_gradient(images[2 * rank :][:2], valid[2 * rank :][:2])
    torch.distributed.all_reduce(gradient)
    if rank == 0:
        torch.save(gradient / 2, folder / 'gradient.pth')


@pytest.mark.slow
def test_I10_two_processes_give_the_gradient_of_one(tmp_path):
    on_ranks(2, distil_half, tmp_path, folder=tmp_path)
    together = torch.load(tmp_path / 'gradient.pth')
    alone = distillation_gradient(*half_padded(4))
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-7)
    images, valid = half_padded(4)
    halves = [distillation_gradient(images[i : i + 2], valid[i : i + 2]) for i in (0, 2)]
    assert not torch.allclose(sum(halves) / 2, alone, rtol=1e-2)  # the padding must matter


# Mechanisms are alive


def train_gradients(**changes):
    model = build_segmentor(**changes).train()
    losses = model.loss(make_images(), make_samples())
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    return grads(model)


def test_I2_distillation_changes_the_backbones_gradient():
    on, off = train_gradients(), train_gradients(loss_distill=dict(loss_weight=0.0))
    for name in ('backbone.embed.weight', 'backbone.blocks.3.weight'):
        assert not torch.allclose(on[name], off[name], rtol=1e-3)
    assert torch.equal(
        on['decode_head.decode_head.conv_seg.weight'],
        off['decode_head.decode_head.conv_seg.weight'],
    )


@pytest.mark.parametrize('name', ['dino', 'clip'])
def test_I2_each_teachers_loss_alone_reaches_the_backbone(name):
    model = build_segmentor().train()
    images = make_images()
    losses = model.decode_head.forward_train(model.extract_feat(images), all_valid(images))[1]
    losses[f'loss_distill_{name}'].backward()
    assert model.backbone.embed.weight.grad.abs().sum() > 0


def test_I2_fusion_changes_the_prediction_and_one_zero_zero_switches_it_off():
    images = make_images()
    with torch.no_grad():
        fused = build_segmentor().eval()
        plain = build_segmentor(fusion=dict(weights=(1.0, 0.0, 0.0))).eval()
        bare = build_segmentor(teachers={}).eval()
        for model in (plain, bare):
            model.load_state_dict(fused.state_dict(), strict=False)
        results = [m.encode_decode(images, [dict(img_shape=(64, 64))] * 2) for m in
                   (fused, plain, bare)]  # fmt: skip
    assert not torch.allclose(results[0], results[1], atol=1e-4)
    assert torch.equal(results[1], results[2])
    assert len(plain.decode_head.projections) == 0


def test_segmentation_loss_trains_the_translators_through_the_fusion():
    gradients = train_gradients(loss_distill=dict(loss_weight=0.0))
    for name in ('dino', 'clip'):
        for part in (f'translators.{name}.fc1', f'translators.{name}.fc2', f'projections.{name}'):
            assert gradients[f'decode_head.{part}.weight'].abs().sum() > 0


def test_extra_pass_has_a_gradient():
    model = build_segmentor().train()
    images = make_images()
    view = model.extract_feat(images).views[32, 32]
    view.square().sum().backward()
    assert model.backbone.embed.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'changes',
    [
        dict(),
        dict(student_view='shared'),
        dict(fusion=dict(weights=(1.0, 0.0, 0.0))),
        dict(fusion=dict(weights=dict(student=0.9, dino=0.1, clip=0.0))),
        dict(loss_distill=dict(loss_weight=0.0)),
        dict(loss_distill=dict(target_norm='channel')),
        dict(teachers={}),
        dict(loss_distill=dict(interval=2), fusion=dict(weights=(1.0, 0.0, 0.0))),
    ],
    ids=str,
)
@pytest.mark.parametrize('iteration', [0, 1])
def test_I13_no_parameter_is_unused(changes, iteration):
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', iteration)
    try:
        gradients = train_gradients(**changes)
    finally:
        hub.pop_info('iter')
    assert [name for name, gradient in gradients.items() if gradient is None] == []


def test_interval_skips_the_teachers():
    hub = MessageHub.get_current_instance()
    calls = []
    try:
        for iteration in range(4):
            hub.update_info('iter', iteration)
            model = build_segmentor(loss_distill=dict(interval=3)).train()
            losses = model.loss(make_images(), make_samples())
            calls.append(len(model.decode_head.teachers['dino'].seen))
            assert (losses['decode.loss_distill_dino'].item() > 0) == (iteration % 3 == 0)
    finally:
        hub.pop_info('iter')
    assert calls == [1, 0, 0, 1]


def test_views_choose_the_images_that_are_distilled():
    images = make_images(batch=3)
    branches = dict(sup=slice(0, 1), strong=slice(1, None))
    losses = {}
    for views in (('sup',), ('strong',), ('sup', 'strong')):
        model = build_segmentor(loss_distill=dict(views=views)).train()
        head, feats = model.decode_head, model.extract_feat(images)
        losses[views] = head.forward_train(feats, all_valid(images), branches)[1]
        seen = head.teachers['dino'].seen[0]
        assert torch.equal(seen, torch.cat([images[branches[view]] for view in views]))
    one, two, both = (value['loss_distill_clip'] for value in losses.values())
    torch.testing.assert_close(both, (one + 2 * two) / 3)


def test_restricted_views_need_the_branches():
    model = build_segmentor(loss_distill=dict(views=('strong',))).train()
    images = make_images()
    with pytest.raises(ValueError, match='give forward_train its argument branches'):
        model.decode_head.forward_train(model.extract_feat(images), all_valid(images))


# Teachers stay outside


def test_I3_teachers_are_in_no_parameters_state_or_copy():
    model = build_segmentor()
    names = [*dict(model.named_parameters()), *model.state_dict(), *dict(model.named_modules())]
    assert not any('teachers' in name for name in names)
    twin = copy.deepcopy(model)
    for name, teacher in model.decode_head.teachers.items():
        assert twin.decode_head.teachers[name] is teacher


def test_I3_teachers_follow_to():
    model = build_segmentor()
    model.double()
    assert all(t.matrix.dtype == torch.float64 for t in model.decode_head.teachers.values())


def test_R16_inference_neither_builds_nor_asks_a_teacher():
    model = build_segmentor().eval()
    with torch.no_grad():
        model.predict(make_images(), make_samples())
    for teacher in model.decode_head.teachers.values():
        assert (teacher.builds, teacher.seen) == (0, [])


def test_init_weights_and_first_training_step_build_the_teachers():
    model = build_segmentor()
    model.init_weights()
    assert [t.builds for t in model.decode_head.teachers.values()] == [1, 1]
    model = build_segmentor().train()
    model.loss(make_images(), make_samples())
    assert all(t.builds for t in model.decode_head.teachers.values())


def test_no_teacher_is_built_for_weight_zero():
    model = build_segmentor(loss_distill=dict(loss_weight=0.0)).train()
    model.init_weights()
    model.loss(make_images(), make_samples())
    for teacher in model.decode_head.teachers.values():
        assert (teacher.builds, teacher.seen) == (0, [])


def test_teachers_see_the_very_images_of_the_student():
    model = build_segmentor().train()
    images = make_images()
    model.loss(images, make_samples())
    assert all(torch.equal(t.seen[0], images) for t in model.decode_head.teachers.values())


def test_statistics_of_the_own_preprocessor_are_bound():
    mean, std = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    model = build_segmentor(data_preprocessor=dict(type='SegDataPreProcessor', mean=mean, std=std))
    assert all(t.source == (mean, std) for t in model.decode_head.teachers.values())
    raw = build_segmentor(data_preprocessor=dict(type='SegDataPreProcessor'))
    assert raw.decode_head.teachers['dino'].source == ([0.0] * 3, [1.0] * 3)
    student = build_segmentor()
    assert student.decode_head.teachers['dino'].source is None


# Sizes


@pytest.mark.parametrize('channels', [1, 5])
@pytest.mark.parametrize('patch', [4, 8, 16])
@pytest.mark.parametrize('view', ['resized', 'shared'])
def test_R8_grid_and_width_follow_the_teacher(channels, patch, view):
    teacher = dict(type='PatchColourTeacher', channels=channels, patch=patch, input_size=48)
    model = build_segmentor(teachers=dict(one=teacher), student_view=view).train()
    feats = model.extract_feat(make_images(2, 64, 32))
    prediction = model.decode_head.predict_teachers(feats, distil=True)['one']
    assert prediction.shape == (2, channels, *model.decode_head.teachers['one'].grid(64, 32))
    losses = model.loss(make_images(2, 64, 32), make_samples(2, 64, 32))
    assert torch.isfinite(losses['decode.loss_distill_one'])


@pytest.mark.parametrize('size', [(64, 64), (40, 72), (33, 47)])
@pytest.mark.parametrize('backbone', BACKBONES)
def test_any_image_size_trains_and_predicts(backbone, size):
    head = 'dpt' if backbone == 'patches' else 'segformer'
    model = build_segmentor(head, backbone).train()
    losses = model.loss(make_images(2, *size), make_samples(2, *size))
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    with torch.no_grad():
        result = model.eval().predict(make_images(2, *size), make_samples(2, *size))
    assert result[0].seg_logits.data.shape == (3, *size)


def test_view_sizes():
    square, wide = (64, 64), (32, 64)
    head = build_head().train()
    assert head.view_sizes(square) == [(32, 32)]
    assert head.view_sizes(wide) == [(16, 32)]
    assert head.view_sizes((32, 32)) == []
    assert build_head(student_view='shared').view_sizes(square) == []
    twins = {name: dict(TEACHERS['clip'], seed=i) for i, name in enumerate('ab')}
    assert build_head(teachers=twins).view_sizes(square) == [(32, 32)]


def test_unfused_views_are_needed_in_training_only():
    head = build_head(fusion=dict(weights=dict(student=0.9, dino=0.1, clip=0.0)))
    assert head.train().view_sizes((64, 64)) == [(32, 32)]
    assert head.eval().view_sizes((64, 64)) == []


def test_published_student_has_the_published_size():
    teachers = {
        'dino': dict(type='PatchColourTeacher', channels=768),
        'clip': dict(type='PatchColourTeacher', channels=1024),
    }
    for arch, translators, projections in (('small', 2.63, 0.69), ('base', 3.41, 1.38)):
        with torch.device('meta'):
            head = build_head(
                decode_head=dict(type='SizeMatchedDPTHead', arch=arch, num_classes=6),
                teachers=teachers,
                translator=None,
            )
        counts = [
            round(sum(p.numel() for p in part.parameters()) / 1e6, 2)
            for part in (head.translators, head.projections)
        ]
        assert counts == pytest.approx([translators, projections], abs=0.011)


# DistillEncoderDecoder


def test_features_are_the_plain_levels_with_images_and_views():
    model = build_segmentor().train()
    images = make_images()
    feats = model.extract_feat(images)
    assert isinstance(feats, tuple) and isinstance(feats, DistillFeatures)
    assert all(torch.equal(a, b) for a, b in zip(feats, model.backbone(images), strict=True))
    assert feats.images is images
    assert list(feats.views) == [(32, 32)]
    changed = feats.with_level(-1, torch.zeros(1))
    assert changed[:3] == feats[:3] and changed[3].shape == (1,)
    assert changed.images is images and changed.views == feats.views


@pytest.mark.parametrize(
    'options', [dict(), dict(antialias=False, align_corners=True), dict(align_corners=True)]
)
def test_R6_view_is_resized_with_antialias_unless_told(options):
    model = build_segmentor(view_resize=options).train()
    images = make_images()
    resized = F.interpolate(
        images, (32, 32), mode='bilinear', **{'antialias': True, 'align_corners': False, **options}
    )
    expected = model.backbone(resized)[3]
    assert torch.equal(model.extract_feat(images).views[32, 32], expected)


def test_plain_head_gets_no_extra_pass():
    cfg = dict(type='DistillEncoderDecoder', backbone=BACKBONES['patches'][0], decode_head=DPT)
    model = MODELS.build({**cfg, 'test_cfg': ConfigDict(mode='whole')})
    assert model.extract_feat(make_images()).views == {}
    assert 'decode.loss_ce' in model.loss(make_images(), make_samples())


def test_extra_pass_is_not_remembered_by_batch_norm():
    images = make_images()
    stats = []
    for view in ('resized', 'shared'):
        model = build_segmentor('fcn', 'resnet', student_view=view).train()
        model.extract_feat(images)
        stats.append([b.clone() for n, b in model.named_buffers() if 'running' in n])
    assert all(torch.equal(a, b) for a, b in zip(*stats, strict=True))


def test_neck_and_auxiliary_head_work_with_the_features():
    _, widths = BACKBONES['resnet']
    neck = dict(type='FPN', in_channels=widths, out_channels=WIDTH, num_outs=4)
    aux = dict(
        type='FCNHead', in_channels=WIDTH, in_index=2, channels=4, num_convs=1, num_classes=3
    )
    head = dict(type='FPNHead', in_channels=[WIDTH] * 4, in_index=[0, 1, 2, 3], channels=8)
    head.update(num_classes=3, feature_strides=[4, 8, 16, 32], norm_cfg=NORM)
    model = build_segmentor(
        backbone='resnet', neck=neck, auxiliary_head=aux, decode_head=head
    ).train()
    losses = model.loss(make_images(), make_samples())
    assert {'decode.loss_ce', 'decode.loss_distill_dino', 'aux.loss_ce'} <= set(losses)


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('backbone', ['resnet', 'mobilenet', 'mit'])
def test_any_decode_head_and_student(head, backbone):
    model = build_segmentor(head, backbone, student_view='shared').train()
    losses = model.loss(make_images(), make_samples())
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    unused = [n for n, g in grads(model).items() if g is None and n.startswith('decode_head')]
    assert unused == []
    inner = model.decode_head.decode_head
    for name in ('num_classes', 'out_channels', 'align_corners', 'threshold', 'ignore_index',
                 'in_index', 'in_channels', 'channels', 'sampler', 'loss_decode',
                 'conv_seg'):  # fmt: skip
        assert getattr(model.decode_head, name) is getattr(inner, name)
    assert isinstance(model.decode_head, HeadWithFeatureLosses)


def test_only_the_deepest_level_is_replaced():
    model = build_segmentor('segformer', 'mit').train()
    head, feats = model.decode_head, model.extract_feat(make_images())
    fused = head.fuse(feats, head.predict_teachers(feats, distil=False))
    assert all(a is b for a, b in zip(fused[:3], feats[:3], strict=True))
    assert not torch.allclose(fused[3], feats[3])
    other = build_segmentor('segformer', 'mit', deepest_index=1).decode_head
    assert (other.deepest_index, other.translators['dino'].fc1.in_features) == (1, 8)


def test_delegated_losses_are_the_wrapped_heads():
    model = build_segmentor(teachers={}).train()
    images, samples = make_images(), make_samples()
    feats = model.extract_feat(images)
    head, inner = model.decode_head, model.decode_head.decode_head
    assert head.loss(feats, samples, None).keys() == inner.loss(feats, samples, None).keys()
    assert torch.equal(head(feats), inner(feats))
    logits = head.forward_train(feats, all_valid(images))
    assert torch.equal(logits[0], inner(feats)) and logits[1] == {}
    expected = inner.loss_by_feat(logits[0], samples)['loss_ce']
    assert torch.equal(head.loss_by_feat(logits[0], samples)['loss_ce'], expected)
    metas = [sample.metainfo for sample in samples]
    assert head.predict_by_feat(logits[0], metas).shape == (2, 3, 64, 64)


def test_slide_inference_equals_whole_inference_on_one_window():
    images = make_images()
    slide = ConfigDict(mode='slide', crop_size=(64, 64), stride=(32, 32))
    whole, slid = build_segmentor().eval(), build_segmentor(test_cfg=slide).eval()
    with torch.no_grad():
        expected = whole.predict(images, make_samples())[0].seg_logits.data
        actual = slid.predict(images, make_samples())[0].seg_logits.data
        larger = slid.predict(make_images(1, 96, 80), make_samples(1, 96, 80))
    torch.testing.assert_close(actual, expected)
    assert larger[0].pred_sem_seg.data.shape == (1, 96, 80)


def test_trains_with_mmsegs_own_preprocessor_from_raw_images():
    preprocessor = dict(type='SegDataPreProcessor', mean=[127.0] * 3, std=[60.0] * 3, size=(64, 64))
    model = build_segmentor(data_preprocessor=preprocessor).train()
    images = [torch.randint(0, 255, (3, 64, 48), dtype=torch.uint8) for _ in range(2)]
    data = model.data_preprocessor(
        dict(inputs=images, data_samples=make_samples(2, 64, 48)), training=True
    )
    losses = model(**data, mode='loss')
    teacher = model.decode_head.teachers['dino']
    prediction = plain_translate(
        model.backbone(data['inputs'])[3], model.decode_head.translators['dino']
    )
    squared = (prediction - teacher(data['inputs'])) ** 2
    expected = 0.5 * squared[..., :6].mean()
    torch.testing.assert_close(losses['decode.loss_distill_dino'], expected)


@pytest.mark.parametrize('norm', ['none', 'channel', 'layernorm'])
def test_I12_no_value_is_read_back_to_the_host(norm, monkeypatch):
    model = build_segmentor(loss_distill=dict(target_norm=norm)).train()
    images = make_images()
    valid = all_valid(images)

    def forbidden(*args):
        raise AssertionError('host sync')

    for name in ('item', 'tolist', 'cpu', 'numpy', 'nonzero', '__bool__', '__int__', '__float__'):
        monkeypatch.setattr(torch.Tensor, name, forbidden)
    logits, losses = model.decode_head.forward_train(model.extract_feat(images), valid)
    monkeypatch.undo()
    assert logits.shape[0] == 2 and len(losses) == 2


# With the real teachers

TINY = dict(embed_dims=16, num_layers=4, num_heads=2)
STATS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
FOUNDATION_TEACHERS = dict(
    dino=dict(backbone=dict(type='DINOv2', arch=TINY, img_size=56), input_stats=STATS),
    clip=dict(
        backbone=dict(
            type='CLIPVision',
            arch=dict(width=24, layers=2, heads=2, patch_size=14, image_size=28),
        ),
        input_size=28,
        input_stats=dict(mean=[122.8, 116.7, 104.1], std=[68.5, 66.6, 70.3]),
    ),
    cnn=dict(
        backbone=dict(type='MobileNetV2', widen_factor=0.25, out_indices=(6,)),
        input_stats=STATS,
    ),
)


def foundation_student(**head):
    torch.manual_seed(0)
    cfg = dict(
        type='DistillEncoderDecoder',
        backbone=dict(type='DINOv2', arch=TINY, img_size=56),
        decode_head=dict(
            type='MultiTeacherDistillHead',
            decode_head=dict(DPT, in_channels=[16] * 4),
            teachers=FOUNDATION_TEACHERS,
            translator=dict(hidden=8),
            **head,
        ),
        data_preprocessor=dict(type='SegDataPreProcessor', size=(56, 56), **STATS),
        test_cfg=ConfigDict(mode='whole'),
    )
    return MODELS.build(cfg)


@pytest.mark.parametrize('view', ['resized', 'shared'])
def test_foundation_models_teach_a_foundation_student(view):
    model = foundation_student(student_view=view).train()
    model.init_weights()
    images = make_images(2, 56, 56)
    losses = model.loss(images, make_samples(2, 56, 56))
    head = model.decode_head
    feats = model.extract_feat(images)
    predictions = head.predict_teachers(feats, distil=True)
    assert list(feats.views) == ([(28, 28)] if view == 'resized' else [])
    for name, teacher in head.teachers.items():
        assert teacher.is_built
        squared = (predictions[name] - teacher(images)) ** 2
        torch.testing.assert_close(losses[f'decode.loss_distill_{name}'], squared.mean() / 3)
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert [name for name, gradient in grads(model).items() if gradient is None] == []


def test_R16_inference_builds_no_real_teacher_and_equals_training_weights():
    trained = foundation_student()
    trained.init_weights()
    fresh = foundation_student().eval()
    state = trained.state_dict()
    assert not any('teacher' in key for key in state)
    fresh.load_state_dict(state)
    images = make_images(1, 56, 56)
    with torch.no_grad():
        results = [m.eval().predict(images)[0].seg_logits.data for m in (trained, fresh)]
    assert torch.equal(*results)
    assert not any(teacher.is_built for teacher in fresh.decode_head.teachers.values())


def test_R16_missing_teacher_file_stops_training_but_not_inference(tmp_path):
    backbone = dict(type='DINOv2', arch=TINY, img_size=56, checkpoint=str(tmp_path / 'no.pth'))
    model = build_segmentor(teachers=dict(dino=dict(backbone=backbone)), backbone='patches')
    images = make_images(1, 56, 56)
    with torch.no_grad():
        model.eval().predict(images)
    with pytest.raises(FileNotFoundError, match=r'no\.pth'):
        model.init_weights()


def test_published_shapes_at_full_size():
    """RS-MTDF with ViT-S, DINOv2-B and CLIP-L, on the meta device."""
    teachers = dict(
        dino=dict(backbone=dict(type='DINOv2', arch='base', out_indices=(11,))),
        clip=dict(
            backbone=dict(type='CLIPVision', arch='ViT-L-14-quickgelu', out_indices=(23,)),
            input_size=224,
        ),
    )
    cfg = dict(
        type='DistillEncoderDecoder',
        backbone=dict(type='DINOv2', arch='small'),
        decode_head=dict(
            type='MultiTeacherDistillHead',
            decode_head=dict(type='SizeMatchedDPTHead', arch='small', num_classes=6),
            teachers=teachers,
        ),
        test_cfg=dict(mode='whole'),
    )
    with torch.device('meta'):
        model = MODELS.build(cfg)
        images = torch.empty(2, 3, 518, 518)
    feats = model.extract_feat(images)
    assert [tuple(level.shape) for level in feats] == [(2, 384, 37, 37)] * 4
    assert {size: tuple(view.shape) for size, view in feats.views.items()} == {
        (224, 224): (2, 384, 16, 16)
    }
    predictions = model.decode_head.predict_teachers(feats, distil=True)
    assert tuple(predictions['dino'].shape) == (2, 768, 37, 37)
    assert tuple(predictions['clip'].shape) == (2, 1024, 16, 16)
    assert tuple(model.decode_head(feats).shape) == (2, 6, 296, 296)
    # 28.11 M as published, less the decoder's dead unit (0.07 M) and the mask token.
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(28.04, abs=0.01)


# Bad input


def test_plain_encoder_decoder_is_refused():
    cfg = dict(
        type='EncoderDecoder',
        backbone=BACKBONES['patches'][0],
        decode_head=dict(type='MultiTeacherDistillHead', decode_head=DPT, teachers=TEACHERS),
    )
    model = MODELS.build(cfg).train()
    with pytest.raises(ValueError, match="set type='DistillEncoderDecoder'"):
        model.loss(make_images(), make_samples())


def test_losses_in_eval_mode_without_their_view_are_refused():
    model = build_segmentor(fusion=dict(weights=dict(student=0.9, dino=0.1, clip=0.0))).eval()
    with pytest.raises(ValueError, match=r'put the model in train mode'):
        model.loss(make_images(), make_samples())


def test_head_with_several_outputs_hands_all_of_them_on():
    head = dict(type='DAHead', in_channels=WIDTH, channels=8, pam_channels=4, num_classes=3)
    model = build_segmentor(decode_head={**head, 'norm_cfg': NORM}).train()
    images = make_images()
    assert 'decode.loss_distill_dino' in model.loss(images, make_samples())
    outputs, losses = model.decode_head.forward_train(model.extract_feat(images), all_valid(images))
    assert len(outputs) == 3 and 'loss_distill_dino' in losses


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(student_view='both'), "student_view must be one of .* got 'both'"),
        (dict(fusion=dict(weights=(0.8, 0.2))), r"\['clip', 'dino'\], 3 in all, got \(0.8, 0.2\)"),
        (dict(fusion=dict(weights=(0.8, 0.1, 0.1, 0.1))), r'3 in all, got \(0.8, 0.1, 0.1, 0.1\)'),
        (dict(fusion=dict(weights=dict(student=0.8, dino=0.2))), '3 in all, got .*dino'),
        (dict(fusion=dict(weights=(0.8, 0.15, 0.05))), 'does not say which weight belongs to'),
        (dict(teachers={'a.b': TEACHERS['dino']}), "cannot be called 'a.b'"),
        (dict(teachers={'student': TEACHERS['dino']}), "cannot be called 'student'"),
        (
            dict(fusion=dict(weight=(1, 0, 0))),
            r"fusion has unknown keys \['weight'\]",
        ),
        (dict(translator=dict(hidden=0)), 'translator.hidden must be an integer'),
        (
            dict(translator=dict(width=9)),
            r"translator has unknown keys \['width'\]",
        ),
        (dict(loss_distill=dict(mask='all')), "loss_distill.mask must be one of .* got 'all'"),
        (dict(loss_distill=dict(target_norm='l2')), 'loss_distill.target_norm must be one of'),
        (dict(loss_distill=dict(views=('weak',))), r"loss_distill.views must name .*\('weak',\)"),
        (dict(loss_distill=dict(views=())), 'loss_distill.views must name'),
        (dict(loss_distill=dict(interval=0)), 'loss_distill.interval must be an integer'),
        (dict(loss_distill=dict(loss_weight=-1.0)), 'must not be negative, got -1.0'),
        (dict(loss_distill=dict(weight=1.0)), r"unknown keys \['weight'\]"),
        (
            dict(
                loss_distill=dict(loss_weight=0.0),
                fusion=dict(weights=dict(student=0.9, dino=0.1, clip=0.0)),
            ),
            r"teachers \['clip'\] have fusion weight 0",
        ),
        (dict(teachers={}, fusion=dict(weights=(0.8,))), 'student must be 1.0, got 0.8'),
        (dict(fusion=dict(weights=(0.8, 0.0, 0.0))), 'student must be 1.0, got 0.8'),
        (dict(deepest_index=5), r'deepest_index must be one of the inputs \[0, 1, 2, 3\].* got 5'),
    ],
)
def test_bad_option_is_told(changes, message):
    with pytest.raises(ValueError, match=message):
        build_head(**changes)


def test_bad_view_resize_is_told():
    with pytest.raises(ValueError, match=r"view_resize has unknown keys \['mode'\]"):
        build_segmentor(view_resize=dict(mode='nearest'))
