# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import math
import random
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmseg.registry import MODELS
from torch.multiprocessing.reductions import StorageWeakRef

from mmseg_semi_rs.models.losses import RankSum, stability_loss, taught_pixels
from mmseg_semi_rs.models.segmentors import dual_student, strong_views
from mmseg_semi_rs.models.segmentors.student import decode, decode_in_eval
from mmseg_semi_rs.models.teachers.frozen_teacher import cpu_has_half
from mmseg_semi_rs.models.utils import CutMix
from mmseg_semi_rs.models.utils.fusion import fuse_logits
from mmseg_semi_rs.structures import PseudoLabel
from tests._support.dual_student import GATE, batch, build
from tests._support.networks import CLASSES, SIZE, NoHostSync, samples, student, total

OTHER_PREPROCESSOR = dict(type='mmengine.ImgDataPreprocessor')
PREPROCESSOR = dict(type='SegDataPreProcessor')


def gradients(model, inputs, data):
    model.zero_grad()
    torch.manual_seed(0)
    random.seed(0)
    total(model.loss(inputs, data)).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def weak_probabilities(model, inputs):
    """Restated: what each student says in evaluation."""
    said = {}
    for name, network in model.students.items():
        network.eval()
        scores = network.decode_head(network.backbone(inputs['weak']))
        said[name] = F.interpolate(scores, (SIZE, SIZE), mode='bilinear').softmax(1)
        network.train()
    return said


def teaches(said, name, partner):
    """Restated M: the partner passes the gate, and the student does not or is less sure."""
    own, other = said[name].amax(1), said[partner].amax(1)
    return ((other >= GATE) & (own < GATE)) | ((other >= GATE) & (own >= GATE) & (other > own))


def one_graph(parts, params):
    """In the place of early_backward: all losses with their graphs."""
    losses = {}
    for part in parts:
        for name, value in part().items():
            losses[name] = losses[name] + value if name in losses else value
    return losses


STABILITY_ALONE = dict(
    loss_weight=dict(sup=0.0, strong=0.0, fp=0.0, distill=0.0), stability=dict(weight=1.0)
)


def test_losses_are_the_restated_formulas():
    model = build()
    inputs, data = batch()
    torch.manual_seed(0)
    losses = {name: value.item() for name, value in model.loss(inputs, data).items()}
    said = weak_probabilities(model, inputs)
    truth = torch.cat([s.gt_sem_seg.data for s in data['sup']])
    torch.manual_seed(0)
    for name, partner in (('a', 'b'), ('b', 'a')):
        network = model.students[name]

        def up(scores):
            return F.interpolate(scores, (SIZE, SIZE), mode='bilinear')

        def scores(images, network=network):
            return up(network.decode_head(network.backbone(images)))

        sup = F.cross_entropy(scores(inputs['sup']), truth, ignore_index=255)
        confidence, labels = said[name].max(1)
        gate = (confidence >= GATE).float()
        assert 0.05 < float(gate.mean()) < 0.95

        def masked(predicted, labels=labels, gate=gate):
            entropy = F.cross_entropy(predicted, labels, reduction='none')
            return (entropy * gate).sum() / labels.numel()

        strong = [masked(scores(inputs[view])) for view in ('strong_1', 'strong_2')]
        # the order of the dropout's draws is that of the levels
        dropped = [F.dropout2d(level, 0.5) for level in network.backbone(inputs['weak'])]
        perturbed = masked(up(network.decode_head(dropped)))
        mask = teaches(said, name, partner)
        difference = (scores(inputs['weak']).softmax(1) - said[partner]) ** 2
        stability = (difference.sum(1) * mask).sum() / (CLASSES * mask.sum())
        assert 0.01 < float(mask.float().mean()) < 0.99
        # L = (L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2 + 0.5 L_sta
        expected = {
            f'{name}.decode.loss_ce': sup / 2,
            f'{name}.loss_strong': (0.25 * strong[0] + 0.25 * strong[1]) / 2,
            f'{name}.loss_fp': 0.5 * perturbed / 2,
            f'{name}.loss_stability': 0.5 * stability,
            f'{name}.taught': mask.float().mean(),
        }
        for key, value in expected.items():
            assert losses[key] == pytest.approx(float(value), rel=1e-4), key
    assert len(losses) == 12 and {'a.decode.acc_seg', 'b.decode.acc_seg'} < set(losses)


def test_C19_gradients_equal_those_of_one_graph_for_both_students():
    model = build()
    inputs, data = batch()
    early = gradients(model, inputs, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dual_student, 'early_backward', one_graph)
        whole = gradients(model, inputs, data)
    assert early.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(early[name], gradient)


def test_C19_accumulated_gradients_are_scaled():
    model = build()
    inputs, data = batch()
    whole = gradients(model, inputs, data)
    model.zero_grad()
    for _ in range(2):  # mmengine divides the loss by accumulative_counts
        torch.manual_seed(0)
        random.seed(0)
        (total(model.loss(inputs, data)) / 4).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name] / 2)


def test_C19_the_activations_of_one_pass_are_free_before_the_next():
    """Counts activations that autograd keeps, by watching their storages die."""
    model = build()
    inputs, data = batch()
    kept, of_first = {}, []

    def keep(tensor):
        storage = StorageWeakRef(tensor.untyped_storage())
        kept[storage.cdata] = storage
        return tensor

    def watch(module, args):
        of_first.append(sum(not storage.expired() for storage in kept.values()))

    watched = model.students['b'].backbone.register_forward_pre_hook(watch)
    seen = {}
    for kind in ('early', 'plain'):
        kept.clear()
        of_first.clear()
        with pytest.MonkeyPatch.context() as patch:
            if kind == 'plain':
                patch.setattr(dual_student, 'early_backward', one_graph)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                total(model.loss(inputs, data)).backward()
        seen[kind] = list(of_first)
    watched.remove()
    # calls of b's backbone: labelling, clean images, strong images
    assert len(seen['early']) == 3
    clean, strong = (seen['plain'][call] - seen['early'][call] for call in (1, 2))
    assert clean > 50, "the first student's activations are free"
    assert strong > clean + 20, "and those of the second one's clean images"


@pytest.mark.parametrize('name, partner', [('a', 'b'), ('b', 'a')])
def test_C1_I2_stability_teaches_the_less_sure_student_on_its_pixels_only(name, partner):
    model = build(**STABILITY_ALONE)
    inputs, data = batch()
    said = weak_probabilities(model, inputs)
    mask = teaches(said, name, partner)
    logits = torch.randn(2, CLASSES, SIZE, SIZE, requires_grad=True)
    taught = {}
    original = dual_student.stability_loss

    def spy(predicted, target, pixels, denominator):
        assert not target.requires_grad
        taught[len(taught)] = pixels
        return original(logits if len(taught) == 1 + (name == 'b') else predicted, target, pixels,
                        denominator)  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dual_student, 'stability_loss', spy)
        patch.setattr(dual_student, 'early_backward', one_graph)
        total(model.loss(inputs, data)).backward()
    assert torch.equal(taught[0 if name == 'a' else 1], mask)
    assert not (taught[0] & taught[1]).any(), 'nobody teaches and is taught at one pixel'
    moved = logits.grad.abs().sum(1) > 0
    assert torch.equal(moved, mask)
    found = gradients(model, inputs, data)
    assert found[f'students.{name}.backbone.conv1.weight'].abs().sum() > 0


def test_C1_no_gradient_reaches_the_surer_student():
    model = build(**STABILITY_ALONE)
    with torch.no_grad():  # b is never sure, hence never teaches
        model.students['b'].decode_head.conv_seg.weight.mul_(1e-3)
        model.students['b'].decode_head.conv_seg.bias.zero_()
    inputs, data = batch()
    found = gradients(model, inputs, data)
    size = {
        name: sum(g.abs().sum() for n, g in found.items() if n.startswith(f'students.{name}.'))
        for name in 'ab'
    }
    assert size['a'] == 0 and size['b'] > 0


def test_C1_released_stability_has_no_gradient():
    released = dict(STABILITY_ALONE, stability=dict(weight=1.0, grad=False))
    inputs, data = batch()
    model = build(**released)
    losses = model.loss(inputs, data)
    assert losses['a.loss_stability'] > 0
    assert all(not g.any() for g in gradients(model, inputs, data).values())
    assert any(g.any() for g in gradients(build(**STABILITY_ALONE), inputs, data).values())


def test_C1_stability_gradient_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 2, 4, generator=generator, dtype=torch.float64)
    partner = torch.randn(1, 3, 2, 4, generator=generator, dtype=torch.float64).softmax(1)
    taught = torch.tensor([[[1, 0, 1, 1], [0, 0, 1, 0]]], dtype=torch.bool)

    def value(scores):  # restated in double precision
        square = (scores.softmax(1) - partner) ** 2
        return float((square * taught[:, None]).sum() / (3 * taught.sum()))

    scores, target = logits.float().requires_grad_(), partner.float().requires_grad_()
    loss = stability_loss(scores, target, taught, RankSum(taught.sum()))
    assert float(loss) == pytest.approx(value(logits), rel=1e-5)
    loss.backward()
    assert target.grad is None, 'the teaching student learns nothing'
    step = 1e-5
    for index in range(logits.numel()):
        moved = torch.zeros_like(logits)
        moved.view(-1)[index] = step
        slope = (value(logits + moved) - value(logits - moved)) / (2 * step)
        assert float(scores.grad.view(-1)[index]) == pytest.approx(slope, abs=2e-6)


def test_C3_padding_is_never_taught_whatever_its_weight():
    sure = torch.ones(1, 1, 2)
    valid = torch.tensor([[[True, False]]])
    own = PseudoLabel(torch.zeros(1, 1, 2, dtype=torch.long), 0.1 * sure, 0 * sure, valid)
    partner = own.replace(confidence=sure, weight=sure)
    assert taught_pixels(own, partner).tolist() == [[[True, False]]]


def test_C3_I5_padding_changes_no_unsupervised_loss():
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    valid[:, :, 40:] = False
    inputs, data = batch(valid=valid)
    model = build()
    said = weak_probabilities(model, inputs)
    torch.manual_seed(0)
    losses = model.loss(inputs, data)
    mask = teaches(said, 'a', 'b') & valid
    assert (teaches(said, 'a', 'b') & ~valid).any()
    assert float(losses['a.taught']) == pytest.approx(float(mask.sum() / valid.sum()))

    def garbage(pseudo, _):
        labels = torch.where(pseudo.valid, pseudo.labels, (pseudo.labels + 1) % CLASSES)
        return pseudo.replace(labels=labels)

    model.purifiers.append(garbage)
    torch.manual_seed(0)
    again = model.loss(inputs, data)
    assert all(torch.equal(losses[name], again[name]) for name in losses)


def test_C3_released_mask_covers_padding():
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    valid[:, :, 40:] = False
    inputs, data = batch(valid=valid)
    found = {}
    for mask in ('valid', 'all'):
        model = build(stability=dict(mask=mask))
        found[mask] = model.loss(inputs, data)
    assert found['all']['a.loss_stability'] != found['valid']['a.loss_stability']
    said = weak_probabilities(model, inputs)
    pixels = teaches(said, 'a', 'b')
    difference = (decode(model.students['a'], inputs['weak']).softmax(1) - said['b']) ** 2
    expected = 0.5 * (difference.sum(1) * pixels).sum() / (CLASSES * pixels.sum())
    torch.testing.assert_close(found['all']['a.loss_stability'].detach(), expected.detach())
    assert found['all']['a.taught'] == found['valid']['a.taught'], 'the log counts valid pixels'


def test_C17_nothing_taught_or_nothing_valid_gives_zero_and_no_nan():
    inputs, data = batch()
    losses = build(conf_thresh=1.0).loss(inputs, data)
    assert losses['a.loss_stability'] == losses['b.loss_stability'] == 0
    assert losses['a.taught'] == 0
    nothing = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    inputs, data = batch(valid=nothing)
    model = build()
    found = gradients(model, inputs, data)
    assert all(torch.isfinite(g).all() for g in found.values())
    losses = model.loss(inputs, data)
    unsupervised = [v for n, v in losses.items() if n.split('.')[1] != 'decode']
    assert all(value == 0 for value in unsupervised)


def test_equal_students_teach_nobody_but_both_as_released():
    inputs, data = batch()
    for ties, someone in ((False, False), (True, True)):
        model = build(stability=dict(ties=ties))
        model.students['b'].load_state_dict(model.students['a'].state_dict())
        losses = model.loss(inputs, data)
        assert bool(losses['a.taught'] > 0) is bool(losses['b.taught'] > 0) is someone


@pytest.mark.parametrize('iteration', [0, 1, 7, 18, 19, 20, 60])
def test_stability_weight_follows_the_cosine_ramp(iteration):
    inputs, data = batch()
    model = build()
    torch.manual_seed(0)
    peak = model.loss(inputs, data)['a.loss_stability']
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', iteration)
    hub.update_info('max_iters', 100)
    now = model.loss(inputs, data)['a.loss_stability']
    # w(t) = 0.25 (1 - cos(pi t / (0.2 T - 1))) for t < 0.2 T, then 0.5
    weight = 0.25 * (1 - math.cos(math.pi * iteration / 19)) if iteration < 20 else 0.5
    assert float(now) == pytest.approx(float(peak) / 0.5 * weight, rel=1e-5, abs=1e-9)


def test_feature_perturbation_drops_whole_channels_of_the_weak_images_only():
    model = build(cutmix=None, fp_drop=0.5)
    inputs, data = batch()
    seen = []
    head = model.students['a'].decode_head
    head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model.loss(inputs, data)
    _, clean, perturbed, _ = seen  # labelling, clean pass, perturbed features, strong pass
    assert clean[3].shape[0] == 4 and perturbed[3].shape[0] == 2
    for level, original in zip(perturbed, clean, strict=True):
        gone = (level == 0).flatten(2).all(2)
        assert 0.2 < float(gone.float().mean()) < 0.8
        kept = ~gone[..., None, None] * original[2:] * 2
        torch.testing.assert_close(level, kept)


def test_feature_perturbation_changes_gradients():
    inputs, data = batch()
    name = 'students.a.backbone.conv1.weight'
    on, off = (gradients(build(fp_drop=p), inputs, data)[name] for p in (0.5, None))
    assert not torch.allclose(on, off)
    assert 'a.loss_fp' not in build(fp_drop=None).loss(inputs, data)


def test_C4_I6_donors_give_pixels_labels_and_are_not_trained_on():
    inputs, data = batch(count=3)
    model = build(cutmix=dict(prob=1.0), donors=2)
    seen = {}
    original = dual_student.forward_student

    def spy(network, images, valid, branches, aux=True):
        seen.setdefault('clean' if 'weak' in branches else 'strong', images)
        return original(network, images, valid, branches, aux)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dual_student, 'forward_student', spy)
        model.loss(inputs, data)
    assert torch.equal(seen['clean'], torch.cat([inputs['sup'], inputs['weak'][:1]]))
    for view, mixed in zip(('strong_1', 'strong_2'), seen['strong'], strict=True):
        pasted = (mixed != inputs[view][0]).any(0)
        assert 0.01 < float(pasted.float().mean()) < 0.5
        sources = [torch.where(pasted, mixed - inputs[view][i], 0).abs().max() for i in (1, 2)]
        assert min(sources) == 0, "the pasted pixels are a donor's, of the same view"
    boxes = [
        (mixed != inputs[view][0]).any(0)
        for view, mixed in zip(('strong_1', 'strong_2'), seen['strong'], strict=True)
    ]
    assert not torch.equal(*boxes), 'each view has its own box'


@pytest.mark.parametrize('donors, expected', [(0, [2, 0, 1]), (1, [2, 2])])
def test_C4_mixed_targets_follow_the_mixed_pixels(donors, expected):
    inputs, data = batch(count=3)
    model = build(cutmix=dict(prob=1.0), donors=donors, fp_drop=None)
    found = {}
    original = strong_views.consistency_loss

    def spy(logits, labels, weight, denominator, *soft):
        found.setdefault('labels', labels)
        found.setdefault('weight', weight)
        return original(logits, labels, weight, denominator, *soft)

    random.seed(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strong_views, 'consistency_loss', spy)
        model.loss(inputs, data)
    pseudo = model.last_step.pseudo['a']
    random.seed(3)
    partners, mask = CutMix(prob=1.0).draw(inputs['weak'], donors)
    assert partners.tolist() == expected and mask.any()
    for key in ('labels', 'weight'):
        whole = getattr(pseudo, key)
        mixed = torch.where(mask, whole[partners], whole[: 3 - donors])
        assert torch.equal(found[key], mixed)


def test_C4_a_single_unlabelled_image_has_no_partner_and_says_so():
    inputs, data = batch(count=1)
    for model in (build(cutmix={}), build(cutmix={}, donors=1)):
        with pytest.raises(ValueError, match='1 unlabelled images'):
            model.loss(inputs, data)


def test_a_batch_without_a_strong_view_is_told():
    inputs, data = batch()
    kept = {name: value for name, value in inputs.items() if name in ('sup', 'weak')}
    with pytest.raises(ValueError, match=r"\['sup', 'weak'\], but no strong view"):
        build().loss(kept, data)


def test_I2_purifiers_see_both_students_and_change_gradients():
    inputs, data = batch()
    model = build()
    before = gradients(model, inputs, data)
    calls = []

    def relabel(pseudo, weak_samples):
        assert weak_samples is data['weak']
        calls.append(pseudo)
        return pseudo.replace(labels=torch.ones_like(pseudo.labels))

    model.purifiers.append(relabel)
    after = gradients(model, inputs, data)
    assert len(calls) == 2
    for name in 'ab':
        key = f'students.{name}.backbone.conv1.weight'
        assert not torch.allclose(before[key], after[key])
        assert (model.last_step.pseudo[name].labels == 1).all()


def test_purifiers_do_not_change_who_is_sure():
    """Stability compares the students' own confidences, whatever a purifier does to the labels."""
    inputs, data = batch()
    plain = build().loss(inputs, data)
    model = build()
    model.purifiers.append(
        lambda pseudo, _: pseudo.replace(
            weight=torch.zeros_like(pseudo.weight), confidence=torch.zeros_like(pseudo.confidence)
        )
    )
    purified = model.loss(inputs, data)
    for name in 'ab':
        assert purified[f'{name}.loss_strong'] == 0 < plain[f'{name}.loss_strong']
        for key in ('loss_stability', 'taught'):
            assert torch.equal(purified[f'{name}.{key}'], plain[f'{name}.{key}'])


def test_each_loss_is_divided_by_the_valid_pixels_of_its_own_images():
    """CutMix moves padding from one image to another, so the strong views have other counts."""
    valid = torch.ones(3, SIZE, SIZE, dtype=torch.bool)
    valid[2, :, 8:] = False  # the donor, which is mostly padding
    inputs, data = batch(count=3, valid=valid)
    model = build(cutmix=dict(prob=1.0, area=(0.3, 0.4)), donors=1)
    counts = {}
    original = dual_student.consistency_loss

    def spy(logits, labels, weight, denominator, *soft):
        counts.setdefault(len(counts), float(denominator.per_rank()))
        return original(logits, labels, weight, denominator, *soft)

    with pytest.MonkeyPatch.context() as patch:
        for module in (dual_student, strong_views):
            patch.setattr(module, 'consistency_loss', spy)
        model.loss(inputs, data)
    perturbed, strong_1, strong_2 = (counts[index] for index in range(3))
    assert perturbed == 2 * SIZE * SIZE
    assert strong_1 < perturbed and strong_2 < perturbed and strong_1 != strong_2


def test_distillation_is_the_mean_over_labelled_and_strong_images():
    means = {'sup': 1.0, 'strong': 4.0}

    class Head(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.decode_head = inner
            self.num_classes, self.align_corners = CLASSES, False

        def forward(self, feats):
            return self.decode_head(feats)

        def forward_train(self, feats, valid, branches):
            name = next(iter(branches))
            return self.decode_head(feats), {'loss_distill_x': 0 * feats[3].sum() + means[name]}

    model = build(donors=1, cutmix={})
    model.students['a'].decode_head = Head(model.students['a'].decode_head)
    inputs, data = batch(count=3)
    losses = model.loss(inputs, data)
    # 3 labelled images, and 2 strong views of 2 images
    expected = 0.5 * (3 * means['sup'] + 4 * means['strong']) / 7
    assert float(losses['a.loss_distill_x']) == pytest.approx(expected)
    assert 'b.loss_distill_x' not in losses


def test_a_frozen_student_teaches_the_other():
    model = build()
    model.students['b'].requires_grad_(False)
    found = gradients(model, *batch())
    assert found and all(name.startswith('students.a.') for name in found)


@pytest.mark.skipif(not cpu_has_half(), reason='this PyTorch has no float16 on the CPU')
def test_float16_is_refused_where_gradients_are_computed_early():
    inputs, data = batch()
    with torch.autocast('cpu', torch.float16), pytest.raises(ValueError, match='bfloat16'):
        build().loss(inputs, data)


def test_gradients_are_handed_out_once():
    model = build()
    loss = total(model.loss(*batch()))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match='only once'):
        loss.backward()


def test_students_label_for_themselves_without_a_common_label():
    inputs, data = batch()
    model = build()
    said = weak_probabilities(model, inputs)
    model.loss(inputs, data)
    for name in 'ab':
        pseudo = model.last_step.pseudo[name]
        assert torch.equal(pseudo.labels, said[name].argmax(1))
    assert not torch.equal(said['a'].argmax(1), said['b'].argmax(1))


@pytest.mark.parametrize('aux', [False, True])
def test_I13_every_trainable_parameter_gets_a_gradient(aux):
    model = build('BN', aux, cutmix={})
    found = gradients(model, *batch())
    missing = [n for n, p in model.named_parameters() if p.requires_grad and n not in found]
    assert not missing
    assert any(n.startswith('students.a.auxiliary_head') for n in found) == aux


def test_I12_training_step_makes_no_host_sync():
    model = build('BN', aux=True, cutmix={}, ema=True)
    inputs, data = batch()
    with NoHostSync():
        total(model.loss(inputs, data)).backward()
        model.update_teacher(0.9)


def test_batch_norm_remembers_clean_images_only():
    inputs, data = batch()
    model = build('BN')
    student = model.students['a']
    layers = [student.backbone.bn1, student.decode_head.convs[0].bn]
    before = [layer.running_mean.clone() for layer in layers]
    alone = deepcopy(student)
    alone(torch.cat([inputs['sup'], inputs['weak']]))
    expected = [alone.backbone.bn1.running_mean, alone.decode_head.convs[0].bn.running_mean]
    model.loss(inputs, data)
    for layer, old, new in zip(layers, before, expected, strict=True):
        assert not torch.allclose(layer.running_mean, old)
        torch.testing.assert_close(layer.running_mean, new)


def test_I7_averages_label_the_images_and_predict():
    model = build('BN', ema=True)
    inputs, data = batch()
    assert not any(p.requires_grad for p in model.teachers.parameters())
    teachers = model.train().teachers.values()
    assert not any(module.training for teacher in teachers for module in teacher.modules())
    with torch.no_grad():
        for name, network in model.teachers.items():
            network.decode_head.conv_seg.weight.zero_()
            network.decode_head.conv_seg.bias.copy_(F.one_hot(torch.tensor('ab'.index(name)), 3))
    model.loss(inputs, data)
    assert (model.last_step.pseudo['a'].labels == 0).all()
    assert (model.last_step.pseudo['b'].labels == 1).all()
    predicted = model.eval().predict_each(inputs['weak'], data['weak'])
    assert (predicted['b'][0].pred_sem_seg.data == 1).all()
    model.update_teacher(0.0)
    for name, network in model.students.items():
        state = model.teachers[name].state_dict()
        assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


def test_supervised_batches_train_both_students():
    model = build()
    inputs, data = batch()
    losses = model.loss({'sup': inputs['sup']}, {'sup': data['sup']})
    assert {n for n in losses if 'loss' in n} == {'a.decode.loss_ce', 'b.decode.loss_ce'}
    with torch.no_grad():
        truth = torch.cat([s.gt_sem_seg.data for s in data['sup']])
        scores = decode(model.students['b'], inputs['sup'])
        expected = 0.5 * F.cross_entropy(scores, truth, ignore_index=255)
    torch.testing.assert_close(losses['b.decode.loss_ce'].detach(), expected)


# Inference.


@pytest.mark.parametrize('mode', ['whole', 'slide'])
@pytest.mark.parametrize('predict_on', ['a', 'b', 'fused'])
def test_C6_C14_C15_predicts_with_any_student_or_both_at_the_input_size(mode, predict_on):
    config = student()
    config['test_cfg'] = ConfigDict(mode=mode, crop_size=(48, 48), stride=(40, 40))
    model = build(students=dict(a=config, b=config), test=dict(predict_on=predict_on)).eval()
    inputs, data = batch()
    for sample in data['weak']:
        sample.set_metainfo(dict(ori_shape=(40, 50), img_shape=(SIZE, SIZE)))
    with torch.no_grad():
        predicted = model.predict(inputs['weak'], data['weak'])
        each = model.predict_each(inputs['weak'], data['weak'])
        alone = {
            name: network.predict(inputs['weak'], [s.clone() for s in data['weak']])
            for name, network in model.students.items()
        }
    assert list(each)[-1] == predict_on
    for index, sample in enumerate(predicted):
        assert sample.pred_sem_seg.data.shape == (1, 40, 50)
        scores = {name: alone[name][index].seg_logits.data for name in 'ab'}
        assert torch.equal(scores['a'], each['a'][index].seg_logits.data)
        mean = (scores['a'].softmax(0) + scores['b'].softmax(0)) / 2
        fused = each['fused'][index]
        torch.testing.assert_close(fused.seg_logits.data.exp(), mean)
        assert torch.equal(fused.pred_sem_seg.data[0], mean.argmax(0))
        assert torch.equal(sample.pred_sem_seg.data, each[predict_on][index].pred_sem_seg.data)
    assert 'pred_sem_seg' not in data['weak'][0]
    assert not torch.equal(each['a'][0].pred_sem_seg.data, each['b'][0].pred_sem_seg.data)


@pytest.mark.parametrize('fusion', ['mean_prob', 'confidence'])
def test_C6_fusion_is_better_than_both_where_each_is_sure_of_its_half(fusion):
    truth = torch.zeros(4, 8, dtype=torch.long)
    truth[:, 4:] = 1
    sure, guess = torch.tensor([6.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.3])
    scores = {
        'a': torch.stack([sure] * 4 + [guess] * 4).T[:, None].expand(3, 4, 8),
        'b': torch.stack([guess] * 4 + [sure.roll(1)] * 4).T[:, None].expand(3, 4, 8),
    }
    fused = fuse_logits(scores['a'], scores['b'], fusion, dim=0)
    right = {name: float((each.argmax(0) == truth).float().mean()) for name, each in scores.items()}
    assert right == {'a': 0.5, 'b': 0.5}
    assert (fused.argmax(0) == truth).all()
    torch.testing.assert_close(fused.exp().sum(0), torch.ones(4, 8))
    if fusion == 'confidence':
        torch.testing.assert_close(fused[:, 0, 0], sure.log_softmax(0))
        torch.testing.assert_close(fused[:, 0, 7], sure.roll(1).log_softmax(0))


def test_each_student_gets_its_own_statistics():
    shared = dict(type='SemiDataPreprocessor', mean=[100.0, 110, 120], std=[50.0, 55, 60],
                  bgr_to_rgb=True)  # fmt: skip
    own = dict(type='SegDataPreProcessor', mean=[10.0, 20, 30], std=[2.0, 4, 8], rgb_to_bgr=True)
    config = dict(student(), data_preprocessor=own)
    model = MODELS.build(
        dict(
            type='DualStudentSegmentor',
            students=dict(a=student(), b=config),
            data_preprocessor=shared,
        )
    )
    pixels = torch.randint(0, 256, (1, 3, 4, 4)).float()
    given = model.data_preprocessor(dict(inputs=list(pixels), data_samples=samples(1)))['inputs']
    wanted = model.students['b'].data_preprocessor(
        dict(inputs=list(pixels), data_samples=samples(1))
    )['inputs']
    assert model.renormalise['a'](given) is given
    # an rgb_to_bgr preprocessor and a bgr_to_rgb one both swap: no swap between them
    torch.testing.assert_close(model.renormalise['b'](given), wanted)
    config['data_preprocessor'] = dict(own, rgb_to_bgr=False)
    model = MODELS.build(
        dict(
            type='DualStudentSegmentor',
            students=dict(a=student(), b=config),
            data_preprocessor=shared,
        )
    )
    wanted = model.students['b'].data_preprocessor(
        dict(inputs=list(pixels), data_samples=samples(1))
    )['inputs']
    torch.testing.assert_close(model.renormalise['b'](given), wanted)


def test_students_statistics_reach_training_and_prediction():
    config = dict(
        student(),
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[1.0] * 3, std=[2.0] * 3),
        test_cfg=ConfigDict(mode='whole'),
    )
    model = MODELS.build(
        dict(
            type='DualStudentSegmentor',
            students=dict(a=config, b=config),
            semi_train_cfg=dict(cutmix=None),
            data_preprocessor=dict(type='SemiDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3),
        )
    )
    inputs, data = batch()
    seen = []
    model.students['b'].backbone.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        model.loss(inputs, data)
        model.eval().predict(inputs['weak'], data['weak'])
    weak = (inputs['weak'] - 1) / 2
    torch.testing.assert_close(seen[0], weak)
    torch.testing.assert_close(seen[1][2:], weak)
    torch.testing.assert_close(seen[2][:2], (inputs['strong_1'] - 1) / 2)
    torch.testing.assert_close(seen[3], weak)


def test_C11_criterion_of_the_config_takes_effect():
    inputs, data = batch()
    weighted = student()
    weighted['decode_head']['loss_decode'] = dict(
        type='ValidCrossEntropyLoss', class_weight=[5.0, 0.1, 0.1]
    )
    plain = build().loss(inputs, data)['a.decode.loss_ce']
    changed = build(students=dict(a=weighted, b=student())).loss(inputs, data)['a.decode.loss_ce']
    assert not torch.isclose(plain, changed)


def test_order_of_the_config_does_not_change_the_order_of_the_parameters():
    one, other = student(), student('BN')
    names = [
        [name for name, _ in build(students=given).named_parameters()]
        for given in (dict(a=one, b=other), dict(b=other, a=one))
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    'change, word',
    [
        (dict(students=dict(a=student())), 'two students'),
        (dict(students=dict(a=student(), fused=student())), 'two students'),
        (dict(semi_train_cfg=dict(conf_tresh=0.9)), 'conf_tresh'),
        (dict(semi_train_cfg=dict(conf_thresh=[0.5, 0.5])), '2 entries for 3 classes'),
        (dict(semi_train_cfg=dict(fp_drop=1.0)), 'fp_drop=1.0'),
        (dict(semi_train_cfg=dict(donors=-1)), 'donors=-1'),
        (dict(semi_train_cfg=dict(donors=1, cutmix=None)), 'donors=1'),
        (dict(semi_train_cfg=dict(donors=1, cutmix=dict(partner='reverse'))), "'reverse'"),
        (dict(semi_train_cfg=dict(stability=dict(wight=1))), 'wight'),
        (dict(semi_train_cfg=dict(stability=dict(ties='none'))), "ties='none'"),
        (dict(semi_train_cfg=dict(stability=dict(weight=None))), r'stability\.weight=None'),
        (dict(semi_train_cfg=dict(loss_weight=dict(sup=-1))), r'loss_weight\.sup=-1'),
        (dict(init_cfg=dict(type='Pretrained')), 'init_cfg'),
        (dict(students=dict(a=student(), lossy=student())), 'do not contain "loss"'),
        (
            dict(
                students=dict(a=student(), b=dict(student(), data_preprocessor=OTHER_PREPROCESSOR))
            ),
            'ImgDataPreprocessor',
        ),
        (dict(semi_train_cfg=dict(stability=dict(mask='none'))), "'none'"),
        (dict(semi_train_cfg=dict(loss_weight=dict(dist=1))), 'dist'),
        (dict(semi_test_cfg=dict(predict_on='c')), "predict_on='c'"),
        (dict(semi_test_cfg=dict(fusion='vote')), "fusion='vote'"),
        (dict(train_cfg=dict()), 'train_cfg'),
        (
            dict(students=dict(a=student(), b=dict(student(), data_preprocessor=PREPROCESSOR))),
            'give DualStudentSegmentor a SemiDataPreprocessor',
        ),
    ],
)
def test_C9_bad_settings_are_told(change, word):
    config = dict(type='DualStudentSegmentor', students=dict(a=student(), b=student()))
    config.update(change)
    with pytest.raises(ValueError, match=word):
        MODELS.build(config)


def test_students_of_different_class_counts_are_refused():
    other = student()
    other['decode_head']['num_classes'] = 4
    with pytest.raises(ValueError, match=r"\{'a': 3, 'b': 4\}"):
        MODELS.build(dict(type='DualStudentSegmentor', students=dict(a=student(), b=other)))
    other['decode_head'].update(num_classes=2, out_channels=1)
    with pytest.raises(ValueError, match='out_channels=1'):
        MODELS.build(dict(type='DualStudentSegmentor', students=dict(a=other, b=other)))


def test_casts_of_the_labelling_pass_are_dropped(monkeypatch):
    """Newer torch keeps the gradient of such casts; older ones need this."""
    calls = []
    clear = torch.clear_autocast_cache
    monkeypatch.setattr(torch, 'clear_autocast_cache', lambda: calls.append(clear()))
    model = build()
    decode_in_eval(model.students['a'], batch()[0]['weak'])
    assert len(calls) == 1


def test_bfloat16_autocast_loses_no_gradient_to_the_labelling_pass():
    """Autocast keeps casts of weights; those of a pass without gradient must not be used again."""
    inputs, data = batch()
    model = build()
    full = gradients(model, inputs, data)
    model.zero_grad()
    torch.manual_seed(0)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(inputs, data)
    total(losses).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        if parameter.ndim > 1 and full[name].any():
            alike = F.cosine_similarity(parameter.grad.flatten(), full[name].flatten(), dim=0)
            assert alike > 0.9, (name, float(alike))
