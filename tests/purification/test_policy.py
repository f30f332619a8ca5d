# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What evidence does to pseudo labels, pixel by pixel."""

import math

import pytest
import torch

from mmseg_semi_rs.models.gates import FixedGate
from mmseg_semi_rs.purification.policy import (
    ACTIONS,
    EvidencePolicy,
    ReleasedPolicy,
    boundary_band,
)
from mmseg_semi_rs.structures import PseudoLabel

K = 5


def make(seed=0, size=24, gate=0.95, blobs=6):
    """Targets with segments, confidences of all sizes, padding, and evidence with gaps."""
    rng = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=rng)

    labels = torch.nn.functional.interpolate(
        torch.randint(0, K, (2, 1, blobs, blobs), generator=rng).float(), size=size
    )[:, 0].long()
    valid = torch.ones(2, size, size, dtype=torch.bool)
    valid[0, :, 20:] = False
    valid[1, 17:] = False
    confidence = 1 / K + (1 - 1 / K) * rand(2, size, size)
    weight = ((confidence >= gate) & valid).float()
    scores = rand(2, K, size, size).pow(4)
    scores[rand(2, K, size, size) < 0.3] = 0.95
    scores[rand(2, K, size, size) < 0.3] = 0
    seen = rand(2, size, size) < 0.8
    return PseudoLabel(labels, confidence, weight, valid), scores, seen


def plain_band(labels, valid, radius):
    """Pixels whose square neighbourhood of radius - 1 holds a pixel at a change of label."""
    height, width = labels.shape
    edge = torch.zeros_like(valid)
    for y in range(height):
        for x in range(width):
            for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= v < height and 0 <= u < width and valid[y, x] and valid[v, u]:
                    edge[y, x] |= bool(labels[y, x] != labels[v, u])
    band = torch.zeros_like(valid)
    for y in range(height):
        for x in range(width):
            near = edge[max(0, y - radius + 1) : y + radius, max(0, x - radius + 1) : x + radius]
            band[y, x] = bool(near.any()) and bool(valid[y, x])
    return band


def plain_policy(pseudo, scores, seen, policy, tau=0.7, radius=3):
    """The formulas of the spec, one pixel after the other."""
    labels, weight = pseudo.labels.clone(), pseudo.weight.clone()
    actions = torch.zeros_like(labels, dtype=torch.uint8)
    for b in range(len(labels)):
        band = plain_band(pseudo.labels[b], pseudo.valid[b], radius)
        for i, j in pseudo.valid[b].nonzero().tolist():
            y, c = int(pseudo.labels[b, i, j]), float(pseudo.confidence[b, i, j])
            e = scores[b, :, i, j].tolist()
            k = max(range(K), key=lambda index: e[index])
            second = max(value for index, value in enumerate(e) if index != k)
            limits = policy.inside if band[i, j] else policy.outside
            if not seen[b, i, j] or e[k] - second < limits['margin']:
                continue
            scope = dict(
                band_or_low=bool(band[i, j]) or c < tau, band=bool(band[i, j]), low=c < tau
            ).get(policy.scope, True)
            if c < 0.95 and scope:
                joint = 1 - (1 - c) * (1 - e[y])
                if k != y and e[k] >= limits['gate'] and 'correct' in policy.actions:
                    labels[b, i, j], weight[b, i, j], actions[b, i, j] = k, e[k], 1
                if k == y and joint >= limits['support_gate'] and 'support' in policy.actions:
                    weight[b, i, j], actions[b, i, j] = joint, 2
            clear = k != y and e[k] >= limits['gate'] and e[y] == 0
            if c >= 0.95 and clear and 'veto' in policy.actions:
                weight[b, i, j], actions[b, i, j] = 0, 3
    return labels, weight, actions


@pytest.mark.parametrize('scope', ['band_or_low', 'band', 'low', 'all'])
@pytest.mark.parametrize('actions', [('correct', 'support'), ('correct', 'support', 'veto')])
@pytest.mark.parametrize('band', [{}, dict(gate=0.6, margin=0.1, support_gate=0.5)])
def test_the_policy_equals_the_formulas_written_plainly(scope, actions, band):
    pseudo, scores, seen = make()
    policy = EvidencePolicy(scope=scope, actions=actions, band=dict(radius=3, **band))
    found = policy(pseudo, scores, seen)
    labels, weight, done = plain_policy(pseudo, scores, seen, policy)
    assert torch.equal(found.pseudo.labels, labels)
    torch.testing.assert_close(found.pseudo.weight, weight)
    assert torch.equal(found.actions, done)
    present = set(done.unique().tolist())
    assert present == {0, 1, 2} | ({3} if 'veto' in actions else set())
    assert len(ACTIONS) == 4
    assert torch.equal(found.pseudo.confidence, pseudo.confidence)
    assert torch.equal(found.pseudo.valid, pseudo.valid)


@pytest.mark.parametrize('actions', [('correct',), ('support',), ('veto',)])
def test_each_action_can_be_had_alone(actions):
    pseudo, scores, seen = make(1)
    found = EvidencePolicy(actions=actions)(pseudo, scores, seen)
    number = ACTIONS.index({'correct': 'corrected', 'support': 'supported', 'veto': 'vetoed'}[
        actions[0]
    ])  # fmt: skip
    assert set(found.actions.unique().tolist()) == {0, number}
    untouched = found.actions == 0
    assert torch.equal(found.pseudo.labels[untouched], pseudo.labels[untouched])
    assert torch.equal(found.pseudo.weight[untouched], pseudo.weight[untouched])


def test_S3_without_evidence_everything_stays_bit_by_bit():
    pseudo, scores, seen = make(2)
    found = EvidencePolicy(actions=('correct', 'support', 'veto'), scope='all')(
        pseudo, scores, torch.zeros_like(seen)
    )
    for name in ('labels', 'confidence', 'weight', 'valid'):
        assert torch.equal(getattr(found.pseudo, name), getattr(pseudo, name))
    assert not found.actions.any()
    # Seen, but nothing found there: no claim either.
    found = EvidencePolicy(scope='all')(pseudo, torch.zeros_like(scores), torch.ones_like(seen))
    assert torch.equal(found.pseudo.weight, pseudo.weight) and not found.actions.any()
    # The released rule relabels pixels that nobody has looked at: class 0 wins where all are 0.
    unsure = pseudo.replace(confidence=torch.full_like(pseudo.confidence, 0.25))
    released = ReleasedPolicy()(unsure, torch.zeros_like(scores), torch.zeros_like(seen))
    assert released.pseudo.labels.eq(0).all()


def test_S11_padding_is_never_touched_and_has_no_weight():
    pseudo, scores, seen = make(3)
    found = EvidencePolicy(scope='all')(pseudo, scores, torch.ones_like(seen))
    padded = ~pseudo.valid
    assert not found.actions[padded].any() and not found.pseudo.weight[padded].any()
    assert torch.equal(found.pseudo.labels[padded], pseudo.labels[padded])


def test_S14_two_classes_with_equal_scores_say_nothing():
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    pseudo = PseudoLabel(
        labels, torch.full((1, 2, 2), 0.5), torch.zeros(1, 2, 2), torch.ones_like(labels).bool()
    )
    scores = torch.zeros(1, 3, 2, 2)
    scores[:, 1:] = 0.95
    seen = torch.ones(1, 2, 2, dtype=torch.bool)
    found = EvidencePolicy(margin=0.01)(pseudo, scores, seen)
    assert not found.actions.any()
    scores[:, 2] = 0.90
    assert EvidencePolicy(margin=0.01)(pseudo, scores, seen).pseudo.labels.eq(1).all()
    released = ReleasedPolicy(mismatch_max_conf=0.6)(
        pseudo, scores.new_full((1, 3, 2, 2), 0.95), seen
    )
    assert released.pseudo.labels.eq(0).all()  # the lowest index


def test_S4_a_supported_pixel_gets_weight_below_the_gate_of_the_loss():
    labels = torch.ones(1, 4, 4, dtype=torch.long)
    confidence = torch.full((1, 4, 4), 0.5)
    pseudo = PseudoLabel(labels, confidence, torch.zeros(1, 4, 4), torch.ones(1, 4, 4).bool())
    scores = torch.zeros(1, 3, 4, 4)
    scores[:, 1] = 0.95
    found = EvidencePolicy()(pseudo, scores, torch.ones(1, 4, 4).bool())
    torch.testing.assert_close(found.pseudo.weight, torch.full((1, 4, 4), 1 - 0.5 * 0.05))
    loose = EvidencePolicy(support_gate=0.98)(pseudo, scores, torch.ones(1, 4, 4).bool())
    assert not loose.pseudo.weight.any()
    released = ReleasedPolicy()(pseudo, scores, torch.ones(1, 4, 4).bool())
    assert not released.pseudo.weight.any()


def test_S12_boundary_band_against_plain_loops():
    for seed in range(3):
        pseudo, _, _ = make(seed, blobs=4)
        for radius in (1, 2, 4):
            found = boundary_band(pseudo.labels, pseudo.valid, radius)
            for index in range(2):
                expected = plain_band(pseudo.labels[index], pseudo.valid[index], radius)
                assert torch.equal(found[index], expected), (seed, radius)


def test_S12_the_band_of_a_straight_edge_and_none_at_the_padding():
    labels = torch.zeros(1, 10, 20, dtype=torch.long)
    labels[..., 8:] = 1
    valid = torch.ones(1, 10, 20, dtype=torch.bool)
    valid[..., 16:] = False
    labels[..., 16:] = 2
    band = boundary_band(labels, valid, 3)
    columns = torch.zeros(20, dtype=torch.bool)
    columns[5:11] = True  # three on each side of the edge, none at the border of the padding
    assert torch.equal(band, columns.expand(1, 10, 20))
    assert not boundary_band(labels, valid, 0).any()


def test_S12_the_band_lets_pixels_in_that_are_not_low():
    pseudo, scores, seen = make(4)
    confidence = torch.full_like(pseudo.confidence, 0.8)  # neither low nor sure
    pseudo = pseudo.replace(confidence=confidence, weight=torch.zeros_like(pseudo.weight))
    band = boundary_band(pseudo.labels, pseudo.valid, 2)
    touched = EvidencePolicy(band=dict(radius=2))(pseudo, scores, seen).actions > 0
    assert touched.any() and not (touched & ~band).any()
    assert not EvidencePolicy(band=dict(radius=0))(pseudo, scores, seen).actions.any()


@pytest.mark.parametrize('classes', [2, 6, 7, 8])
def test_the_released_rule_never_changes_the_loss(classes):
    """The no-op theorem: whatever the answer, no modified pixel gets past the gate of 0.95."""
    rng = torch.Generator().manual_seed(classes)
    shape = (4, 40, 40)
    for _ in range(20):
        logits = torch.randn(4, classes, 40, 40, generator=rng) * 3
        valid = torch.rand(shape, generator=rng) < 0.9
        pseudo = FixedGate(logits.shape[1], 0.95)(logits, valid)
        scores = 0.95 * (torch.rand(4, classes, 40, 40, generator=rng) < 0.3).float()
        released = ReleasedPolicy()
        found = released(pseudo, scores, valid)
        changed = (found.pseudo.labels != pseudo.labels) | (
            found.pseudo.confidence != pseudo.confidence
        )
        assert changed.any()
        bound = math.exp(0.95) / (math.exp(0.95) + classes - 1)
        assert found.pseudo.confidence[changed].max() <= max(bound, 0.7) + 1e-6
        assert torch.equal(found.pseudo.weight, pseudo.weight)
        kept = pseudo.weight > 0
        assert torch.equal(found.pseudo.labels[kept], pseudo.labels[kept])
        # Ours does change it, by the same evidence.
        ours = EvidencePolicy()(pseudo, scores, valid).pseudo
        assert not torch.equal(ours.weight, pseudo.weight)


def test_S2_the_released_softmax_hides_what_was_painted():
    scores = torch.zeros(1, 6, 1, 1)
    scores[:, 2] = 0.95
    assert float(scores.softmax(1).max()) < 0.342


@pytest.mark.parametrize('conf', [0.05, 0.2, 0.45, 0.69])
def test_without_its_softmax_agreement_still_cannot_pass_the_released_gate(conf):
    mixed = conf / 0.7 * conf + (1 - conf / 0.7) * 0.95
    assert mixed == pytest.approx(0.95 - conf * (0.95 - conf) / 0.7) and mixed < 0.95


def test_the_released_rule_written_plainly():
    pseudo, scores, seen = make(5)
    scores = torch.where(scores == 0.95, 0.95, 0.0)
    found = ReleasedPolicy()(pseudo, scores, seen).pseudo
    for b, i, j in torch.ones_like(seen).nonzero().tolist():
        y, c = int(pseudo.labels[b, i, j]), float(pseudo.confidence[b, i, j])
        exponents = [math.exp(value) for value in scores[b, :, i, j].tolist()]
        p = [value / sum(exponents) for value in exponents]
        v = p.index(max(p))
        if c < 0.7 and max(p) > 0.1:
            if y != v and c < 0.3:
                y, c = v, p[v]
            else:
                c = c / 0.7 * c + (1 - c / 0.7) * p[y]
        assert int(found.labels[b, i, j]) == y
        assert float(found.confidence[b, i, j]) == pytest.approx(c, abs=1e-5)


@pytest.mark.parametrize(
    'settings, told',
    [
        (dict(scope='edges'), 'scope'),
        (dict(actions=('relabel',)), 'actions'),
        (dict(band=dict(width=3)), 'band'),
        (dict(gate=1.5), 'gate=1.5'),
        (dict(margin=0.0), 'margin=0.0'),
        (dict(band=dict(radius=-1)), 'band.radius=-1'),
        (dict(band=dict(gate=2)), 'band.gate=2'),
    ],
)
def test_wrong_settings_are_told(settings, told):
    with pytest.raises(ValueError, match=told):
        EvidencePolicy(**settings)
