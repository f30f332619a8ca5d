# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F

from mmseg_semi_rs.models.gates import FixedGate
from mmseg_semi_rs.models.losses import RankSum, ValidCrossEntropyLoss, consistency_loss
from mmseg_semi_rs.structures import PseudoLabel


def logits(seed=0, classes=4):
    return torch.randn(2, classes, 5, 6, generator=torch.Generator().manual_seed(seed)) * 4


def test_pseudo_label_is_argmax_gated_by_confidence_and_valid():
    scores = logits()
    valid = torch.rand(2, 5, 6) > 0.3
    pseudo = FixedGate(4, 0.8)(scores, valid)
    probability = torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True)
    for b in range(2):
        for y in range(5):
            for x in range(6):
                best = max(range(4), key=lambda k, b=b, y=y, x=x: float(scores[b, k, y, x]))
                assert pseudo.labels[b, y, x] == best
                assert abs(pseudo.confidence[b, y, x] - probability[b, best, y, x]) < 1e-6
                gate = bool(probability[b, best, y, x] >= 0.8) and bool(valid[b, y, x])
                assert pseudo.weight[b, y, x] == float(gate)


def test_per_class_thresholds_gate_each_class_by_its_own():
    scores = logits()
    thresholds = [0.0, 1.0, 0.0, 1.0]
    pseudo = FixedGate(4, thresholds)(scores, torch.ones(2, 5, 6, dtype=torch.bool))
    assert torch.equal(pseudo.weight, (pseudo.labels % 2 == 0).float())


def test_consistency_loss_equals_the_formula_and_divides_by_all_valid_pixels():
    scores = logits()
    valid = torch.rand(2, 5, 6) > 0.3
    pseudo = FixedGate(4, 0.9)(logits(1), valid)
    total, count = 0.0, 0
    for b in range(2):
        for y in range(5):
            for x in range(6):
                count += int(valid[b, y, x])
                if valid[b, y, x] and pseudo.confidence[b, y, x] >= 0.9:
                    p = torch.softmax(scores[b, :, y, x], 0)[pseudo.labels[b, y, x]]
                    total += float(-torch.log(p))
    loss = consistency_loss(scores, pseudo.labels, pseudo.weight, RankSum(valid.sum()))
    assert abs(float(loss) - total / count) < 1e-5


def test_I5_padding_changes_nothing():
    scores = logits()
    valid = torch.ones(2, 5, 6, dtype=torch.bool)
    valid[:, 3:] = False
    pseudo = FixedGate(4, 0.5)(logits(1) * 10, valid)
    full = consistency_loss(scores, pseudo.labels, pseudo.weight, RankSum(valid.sum()))
    cut = consistency_loss(
        scores[:, :, :3], pseudo.labels[:, :3], pseudo.weight[:, :3], RankSum(torch.tensor(36))
    )
    assert torch.isclose(full, cut)
    assert float(full) > 0


def test_no_valid_pixel_gives_zero_not_nan():
    valid = torch.zeros(2, 5, 6, dtype=torch.bool)
    pseudo = FixedGate(4, 0.5)(logits(), valid)
    loss = consistency_loss(logits(), pseudo.labels, pseudo.weight, RankSum(valid.sum()))
    assert float(loss) == 0.0


@pytest.mark.parametrize('class_weight', [None, [1.0, 2.0, 0.5, 1.5]])
def test_supervised_loss_is_the_mean_over_counted_pixels(class_weight):
    scores = logits()
    labels = torch.randint(0, 4, (2, 5, 6), generator=torch.Generator().manual_seed(1))
    labels[0, :3] = 255
    weight = None if class_weight is None else torch.tensor(class_weight)
    expected = F.cross_entropy(scores, labels, weight=weight, ignore_index=255)
    loss = ValidCrossEntropyLoss(class_weight=class_weight)(scores, labels)
    assert torch.isclose(loss, expected, atol=1e-6)


def test_supervised_loss_of_an_all_ignored_batch_is_zero():
    labels = torch.full((2, 5, 6), 255)
    assert float(ValidCrossEntropyLoss()(logits(), labels)) == 0.0


def test_pseudo_label_refuses_shapes_that_differ():
    one = torch.zeros(1, 4, 4)
    with pytest.raises(ValueError, match='one shape'):
        PseudoLabel(one.long(), one, one[..., :3], one.bool())
