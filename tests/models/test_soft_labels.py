# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pseudo labels that are probabilities, from the gate through purifiers and CutMix to the loss."""

import math
import random

import pytest
import torch

from mmseg_semi_rs.models.gates import FixedGate
from mmseg_semi_rs.models.losses import RankSum, consistency_loss
from mmseg_semi_rs.models.segmentors.strong_views import draw_views
from mmseg_semi_rs.models.utils import CutMix
from mmseg_semi_rs.structures import SoftLabel
from tests._support import dual_student as dual
from tests._support import mean_teacher as single

CLASSES = 4
BOTH = pytest.mark.parametrize('kind', [single, dual], ids=['mean teacher', 'dual student'])


def scores(seed=0):
    return torch.randn(2, CLASSES, 5, 6, generator=torch.Generator().manual_seed(seed)) * 2


def labelled(count=3, seed=1):
    """What a gate makes of some logits; the lower rows are padding."""
    valid = torch.ones(2, 5, 6, dtype=torch.bool)
    valid[:, 4:] = False
    gate = FixedGate(CLASSES, 0.6)
    gate.soft_labels = count
    return gate(scores(seed), valid)


def loss_of(logits, target, count=None):
    count = RankSum(target.valid.sum() if count is None else count)
    return consistency_loss(logits, target.labels, target.weight, count, target.soft)


@pytest.mark.parametrize('count', [2, 3, 9])
def test_cross_entropy_is_that_of_the_kept_probabilities(count):
    logits, teacher, target = scores(), scores(1), labelled(count)
    expected, pixels = 0.0, 0
    for b in range(2):
        for y in range(4):  # the fifth row is padding
            for x in range(6):
                pixels += 1
                q = teacher[b, :, y, x].softmax(0).tolist()
                p = logits[b, :, y, x].softmax(0).tolist()
                if max(q) < 0.6:
                    continue
                kept = sorted(range(CLASSES), key=lambda k: -q[k])[:count]
                mass = sum(q[k] for k in kept)
                expected -= sum(q[k] / mass * math.log(p[k]) for k in kept)
    assert float(loss_of(logits, target)) == pytest.approx(expected / pixels, abs=1e-5)
    hard = float(
        consistency_loss(logits, target.labels, target.weight, RankSum(target.valid.sum()))
    )
    assert abs(hard - expected / pixels) > 0.01


def test_I5_padding_and_I10_ranks_are_those_of_hard_labels():
    logits, target = scores(), labelled()
    whole = loss_of(logits, target)
    garbage = logits.clone()
    garbage[:, :, 4:] = 50 * torch.randn(garbage[:, :, 4:].shape)
    assert torch.equal(loss_of(garbage, target), whole)
    mean = target.valid.sum() / 2  # RankSum.per_rank() of two ranks
    halves = [loss_of(logits[:1], target.first(1), mean)]
    second = target.mix(torch.tensor([1]), torch.ones(1, 5, 6, dtype=torch.bool))
    halves.append(loss_of(logits[1:], second, mean))
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_I6_cutmix_moves_them_with_the_labels():
    random.seed(0)
    target = labelled()
    images = target.labels[:, None].expand(2, 3, 5, 6).float()
    (view,) = draw_views({'strong': images}, CutMix(prob=1.0, area=(0.3, 0.5)))
    mixed, moved = view.images, view.mix(target)
    assert not torch.equal(moved.labels, target.labels)
    assert torch.equal(moved.soft.classes[:, 0].long(), moved.labels)
    assert torch.equal(mixed[:, 0].long(), moved.labels)
    confidence = moved.soft.probabilities[:, 0]
    own = SoftLabel.top(scores(1).softmax(1), 3).probabilities[:, 0]
    assert {round(v, 5) for v in confidence.flatten().tolist()} <= {
        round(v, 5) for v in own.flatten().tolist()
    }


def test_a_purifier_that_relabels_a_pixel_is_sure_of_it():
    target = labelled()
    other = target.labels.clone()
    other[0, 0] = (other[0, 0] + 1) % CLASSES
    found = target.replace(labels=other)
    wanted = torch.nn.functional.one_hot(other[0, 0], CLASSES).float()
    dense = torch.zeros(2, CLASSES, 5, 6)
    dense.scatter_add_(1, found.soft.classes.long(), found.soft.probabilities)
    torch.testing.assert_close(dense[0, :, 0].T, wanted)
    assert torch.equal(found.soft.probabilities[:, :, 1:], target.soft.probabilities[:, :, 1:])
    kept = target.replace(weight=torch.ones_like(target.weight))
    assert kept.soft is target.soft


def test_a_teacher_without_a_number_costs_nothing():
    gate = FixedGate(CLASSES, 0.6)
    gate.soft_labels = 2
    target = gate(torch.full((1, CLASSES, 2, 2), torch.nan), torch.ones(1, 2, 2, dtype=torch.bool))
    assert float(loss_of(torch.zeros(1, CLASSES, 2, 2), target)) == 0.0


@BOTH
def test_the_switch_changes_gradients_and_is_off(kind):
    inputs, data = kind.batch()
    found = {}
    for count in (0, 2):
        random.seed(0)
        torch.manual_seed(0)
        # dropout of features would be drawn anew
        model = kind.build(soft_labels=count, **(dict(fp_drop=None) if kind is dual else {}))
        for gate in model.gates.values():
            assert gate.soft_labels == count
        for network in (*model.students.values(), *model.teachers.values()):
            network.decode_head.conv_seg.weight.data.mul_(0.01)  # undecided
        seen = model.loss(inputs, data)
        (target, *_) = model.last_step.pseudo.values()
        assert (target.soft is not None) == bool(count)
        found[count] = {name: value.item() for name, value in seen.items() if 'loss' in name}
    changed = {name for name, value in found[0].items() if abs(value - found[2][name]) > 1e-3}
    assert changed == {name for name in found[0] if 'unsup' in name or 'strong' in name}
    assert kind.build().settings.soft_labels == 0


@pytest.mark.parametrize('value', [1, -2, 0.5, True, None])
def test_other_numbers_of_classes_are_refused(value):
    with pytest.raises(ValueError, match=r'semi_train_cfg\.soft_labels='):
        single.build(soft_labels=value)


def test_shapes_that_do_not_fit_are_told():
    target = labelled()
    with pytest.raises(ValueError, match='needs soft labels'):
        target.replace(soft=SoftLabel(target.soft.classes[:1], target.soft.probabilities[:1]))
