# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""I2 for purification: evidence changes labels, loss and gradients, or nothing at all."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData

from mmseg_semi_rs.purification.evidence import Evidence, Region, quantise
from mmseg_semi_rs.purification.policy import EvidencePolicy, ReleasedPolicy
from mmseg_semi_rs.purification.trust import learn_trust
from mmseg_semi_rs.structures import PseudoLabel
from tests._support.dual_student import batch as dual_batch
from tests._support.dual_student import build as build_dual
from tests._support.evidence import (
    TILE,
    evidence_of,
    purifier,
    tell,
    truth_in_crop,
    truth_of,
    unsure,
    with_tiles,
)
from tests._support.mean_teacher import batch, gradients
from tests._support.networks import CLASSES, SIZE, NoHostSync, total


def lie(path):
    return evidence_of((truth_of(path) + 1) % CLASSES)


def silent(path):
    return evidence_of(truth_of(path), np.zeros((TILE, TILE), bool))


def learnt_trust(verify):
    pairs = [(verify(f'tile_{index}'), truth_of(f'tile_{index}')) for index in range(4)]
    return learn_trust(pairs, CLASSES, 0.8, 0.3).trust


def test_S1_a_verifier_that_tells_the_truth_raises_accuracy_and_changes_the_gradients():
    model, inputs, data = unsure()
    before = model.make_pseudo_labels(inputs['weak'], data['weak'])['student']
    plain = gradients(model, inputs, data)
    model.purifiers.append(purifier(tell, trust=learnt_trust(tell)))
    after = model.make_pseudo_labels(inputs['weak'], data['weak'])['student']
    truth = torch.stack([truth_in_crop(f'tile_{index}') for index in range(3)])
    right = [(pseudo.labels == truth).float().mean() for pseudo in (before, after)]
    assert right[1] > right[0] + 0.2
    corrected = after.labels != before.labels
    assert (after.labels == truth)[corrected].all()
    assert after.weight[corrected].min() > 0.9  # and they count
    purified = gradients(model, inputs, data)
    assert any(not torch.equal(plain[name], purified[name]) for name in plain)


def test_S1_the_released_rule_changes_nothing_by_the_same_truth():
    model, inputs, data = unsure()
    model.gate.threshold.fill_(0.95)
    plain = gradients(model, inputs, data)
    model.purifiers.append(purifier(tell, ReleasedPolicy(conf_thresh=0.95)))
    released = gradients(model, inputs, data)
    assert all(torch.equal(plain[name], released[name]) for name in plain)


def test_a_verifier_that_lies_is_distrusted_and_nothing_changes_bit_by_bit():
    model, inputs, data = unsure()
    plain = gradients(model, inputs, data)
    assert not learnt_trust(lie).any()
    model.purifiers.append(purifier(lie, trust=learnt_trust(lie)))
    purified = gradients(model, inputs, data)
    assert all(torch.equal(plain[name], purified[name]) for name in plain)
    # Believed, it would do harm: that is what trust is for.
    model.purifiers[:] = [purifier(lie)]
    believed = gradients(model, inputs, data)
    assert any(not torch.equal(plain[name], believed[name]) for name in plain)


@pytest.mark.parametrize('verify', [silent, lambda path: None])
def test_S3_a_silent_verifier_changes_nothing_bit_by_bit(verify):
    model, inputs, data = unsure()
    plain = gradients(model, inputs, data)
    model.purifiers.append(purifier(verify))
    purified = gradients(model, inputs, data)
    assert all(torch.equal(plain[name], purified[name]) for name in plain)


def test_a_blind_guess_is_not_trusted_however_frequent_its_class():
    labels = np.zeros((TILE, TILE), int)
    labels[:, :20] = 1  # class 0 has three quarters of all pixels
    guess = evidence_of(np.zeros_like(labels))
    found = learn_trust([(guess, labels)], CLASSES, 0.8, 0.3)
    assert float(found.precision[0]) == 0.75 and not found.trust.any()


def test_a_verifier_that_is_blind_to_a_rare_class_is_not_trusted_with_what_it_takes_it_for():
    labels = np.zeros((TILE, TILE), int)
    labels[:2] = 1  # a rare class, which is claimed to be the frequent one
    labels[-20:] = 2
    said = np.where(labels == 1, 0, labels)
    found = learn_trust([(evidence_of(said), labels)], CLASSES, 0.8, 0.3, min_pixels=100)
    assert float(found.precision[0]) > 0.96 and float(found.balanced[0]) == 0.5
    assert found.trust.tolist() == [0.0, 0.0, 1.0]


def test_trust_is_the_precision_of_clear_claims_counted_plainly():
    rng = np.random.default_rng(0)
    pairs, present = [], np.zeros(CLASSES)
    claims = np.zeros((CLASSES, CLASSES))
    for _ in range(3):
        labels = rng.integers(0, CLASSES, (20, 30))
        labels[0] = 255
        wrong = rng.random((20, 30)) < 0.1
        scores = np.full((CLASSES, 20, 30), 0.2)
        said = np.where(wrong, rng.integers(0, CLASSES, (20, 30)), labels % CLASSES)
        np.put_along_axis(scores, said[None], rng.random((1, 20, 30)), axis=0)
        seen = rng.random((20, 30)) < 0.8
        evidence = Evidence(quantise(scores), seen, (20, 30))
        pairs.append((evidence, labels))
        kept = evidence.scores / 255
        for y in range(20):
            for x in range(30):
                if labels[y, x] == 255:
                    continue
                present[labels[y, x]] += 1
                order = np.argsort(-kept[:, y, x], kind='stable')
                best, second = kept[order[0], y, x], kept[order[1], y, x]
                if seen[y, x] and best >= 0.6 and best - second >= 0.3:
                    claims[labels[y, x], order[0]] += 1
    found = learn_trust(pairs, CLASSES, 0.6, 0.3, min_lift=0.5, min_pixels=10)
    assert np.array_equal(found.confusion.numpy(), claims)
    assert np.array_equal(found.present.numpy(), present)
    for k in range(CLASSES):
        rates = [claims[y, k] / present[y] for y in range(CLASSES)]
        precision, balanced = claims[k, k] / claims[:, k].sum(), rates[k] / sum(rates)
        assert float(found.precision[k]) == pytest.approx(precision)
        assert float(found.balanced[k]) == pytest.approx(balanced)
        assert float(found.trust[k]) == pytest.approx(min(precision, balanced))
    few = learn_trust(pairs, CLASSES, 0.6, 0.3, min_pixels=10_000)
    assert not few.trust.any()
    lifted = learn_trust(pairs, CLASSES, 0.6, 0.3, min_lift=0.97, min_pixels=10)
    assert not lifted.trust.any()
    assert 'claimed' in found.table(['a', 'b', 'c'])


def test_trust_multiplies_scores():
    model, inputs, data = unsure()
    full = purifier(tell, trust=torch.ones(CLASSES))
    pseudo = model.make_pseudo_labels(inputs['weak'], data['weak'])['student']
    full(pseudo, data['weak'])
    half = purifier(tell, trust=torch.tensor([1.0, 0.5, 0.0]))
    half(pseudo, data['weak'])
    scale = torch.tensor([1.0, 0.5, 0.0])[:, None, None]
    assert torch.equal(half.last[0].scores, full.last[0].scores * scale)
    corrected = half.last[0].actions == 1
    assert set(half.last[0].after.labels[corrected].unique().tolist()) == {0}


def test_a_class_that_is_asked_for_but_not_trusted_is_not_denied_either():
    model, inputs, data = unsure()
    pseudo = model.make_pseudo_labels(inputs['weak'], data['weak'])['student']
    trust = torch.tensor([1.0, 1.0, 0.0])
    for asked, protected in (((0, 1, 2), True), ((0, 1), False)):  # else it is a background
        one = purifier(tell, trust=trust, asked=asked)
        purified = one(pseudo, data['weak'])
        denied = (pseudo.labels == 2) & (purified.labels != 2)
        assert bool(denied.any()) != protected
        assert bool(one.last[0].seen[pseudo.labels == 2].any()) != protected
        assert (purified.labels != pseudo.labels)[pseudo.labels != 2].any()


def test_strength_moves_weights_part_of_the_way():
    model, inputs, data = unsure()
    pseudo = model.make_pseudo_labels(inputs['weak'], data['weak'])['student']
    one = purifier(tell)
    whole = one(pseudo, data['weak'])
    one.strength = 0.25
    part = one(pseudo, data['weak'])
    expected = pseudo.weight + 0.25 * (whole.weight - pseudo.weight)
    assert torch.equal(part.weight, expected) and torch.equal(part.labels, whole.labels)
    one.strength = 0.0
    assert one(pseudo, data['weak']) is pseudo


def test_purification_makes_no_host_sync():
    model, inputs, data = unsure()
    pseudo = model.make_pseudo_labels(inputs['weak'], data['weak'])['student']
    boxes = Region(1, (0.0, 0.0, 40.0, 40.0), 0.95, 'b')

    def verify(path):
        found = tell(path)
        return Evidence(found.scores, found.seen, found.size, regions=(boxes,))

    with NoHostSync():
        purifier(verify, within_segments=True)(pseudo, data['weak'])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_purification_on_a_gpu_equals_that_on_the_cpu_and_never_waits():
    model, inputs, data = unsure()
    pseudo = model.make_pseudo_labels(inputs['weak'], data['weak'])['student']
    expected = purifier(tell, trust=learnt_trust(tell))(pseudo, data['weak'])
    moved = PseudoLabel(
        pseudo.labels.cuda(), pseudo.confidence.cuda(), pseudo.weight.cuda(), pseudo.valid.cuda()
    )
    one = purifier(tell, trust=learnt_trust(tell))
    one(moved, data['weak'])  # brings the trust there
    one.forget()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        found = one(moved, data['weak'])
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert torch.equal(found.labels.cpu(), expected.labels)
    torch.testing.assert_close(found.weight.cpu(), expected.weight)


def test_two_students_are_purified_by_evidence_that_is_fetched_once():
    model = build_dual(conf_thresh=0.5)
    inputs, data = dual_batch()
    with_tiles(data)
    calls = []

    def verify(path):
        calls.append(path)
        return tell(path)

    torch.manual_seed(0)
    plain = total(model.loss(inputs, data))
    one = purifier(verify, EvidencePolicy(scope='all'))
    model.purifiers.append(one)
    torch.manual_seed(0)
    assert total(model.loss(inputs, data)) != plain
    assert len(calls) == len(data['weak']) and len(one.last) == 2
    assert set(model.last_step.pseudo) == {'a', 'b'}
    for done, pseudo in zip(one.last, model.last_step.pseudo.values(), strict=True):
        assert torch.equal(done.after.labels, pseudo.labels)
    one.forget()
    model.loss(inputs, data)
    assert len(calls) == 2 * len(data['weak'])


def test_a_box_counts_within_the_teachers_segment_of_its_most_frequent_label():
    labels = torch.zeros(1, 10, 10, dtype=torch.long)
    labels[:, 2:8, 2:8] = 2  # what the teacher takes for class 2 is a building, class 1
    box = Region(1, (1.0, 1.0, 9.0, 9.0), 0.95, 'building')
    scores = np.zeros((CLASSES, 10, 10))
    scores[1, 1:9, 1:9] = 0.95
    seen = np.zeros((10, 10), bool)
    seen[1:9, 1:9] = True
    evidence = Evidence(quantise(scores), seen, (10, 10), regions=(box,))
    ones = torch.ones(1, 10, 10)
    pseudo = PseudoLabel(labels, 0.5 * ones, 0 * ones, ones.bool())
    (sample,) = with_tiles({'weak': [batch(1)[1]['weak'][0]]}, geometry=())['weak']
    sample.set_metainfo(dict(ori_shape=(10, 10), img_shape=(10, 10)))
    spilled = purifier(lambda _: evidence)(pseudo, [sample])
    assert torch.equal(spilled.labels[0] == 1, torch.from_numpy(seen))
    cut = purifier(lambda _: evidence, within_segments=True)(pseudo, [sample])
    assert torch.equal(cut.labels == 1, labels == 2)
    assert torch.equal(cut.weight > 0, labels == 2)


def test_trust_in_boxes_that_will_be_cut_is_learnt_from_cut_boxes():
    labels = np.zeros((40, 40), int)
    for row in range(40):
        labels[row, max(0, row - 2) : row + 3] = 1  # a road across the box that names it
    road = Region(1, (0.0, 0.0, 24.0, 24.0), 0.95, 'road')
    scores = np.zeros((CLASSES, 40, 40))
    scores[1, :24, :24] = 0.95
    evidence = Evidence(quantise(scores), scores[1] > 0, (40, 40), regions=(road,))
    labels[:24, :24][labels[:24, :24] == 0] = 255  # nothing else is labelled in it ...
    labels[:3, :24] = 0  # ... but some land
    whole = learn_trust([(evidence, labels)], CLASSES, 0.8, 0.3, min_pixels=10)
    cut = learn_trust([(evidence, labels)], CLASSES, 0.8, 0.3, min_pixels=10, cut=True)
    inside = labels[:24, :24]
    assert int(whole.confusion[:, 1].sum()) == (inside != 255).sum()
    assert int(cut.confusion[:, 1].sum()) == int(cut.confusion[1, 1]) == (inside == 1).sum()
    assert float(cut.trust[1]) == 1.0 > float(whole.trust[1])


def test_S5_evidence_of_another_size_than_the_tile_is_refused():
    model, inputs, data = unsure()
    small = Evidence(np.zeros((CLASSES, 4, 4), np.uint8), np.ones((4, 4), bool), (40, 40))
    model.purifiers.append(purifier(lambda path: small))
    with pytest.raises(ValueError, match=r'tile_0.*\(40, 40\).*\(80, 80\)'):
        model.make_pseudo_labels(inputs['weak'], data['weak'])['student']


@pytest.mark.parametrize(
    'change, told',
    [(dict(img_shape=(60, 64)), 'recorded geometry makes'), (None, "no \\['geometry'\\]")],
)
def test_S5_a_sample_whose_geometry_is_not_known_is_refused(change, told):
    model, inputs, data = unsure()
    model.purifiers.append(purifier(tell))
    if change is None:
        del data['weak'][1].geometry
    else:
        data['weak'][1].set_metainfo(change)
    with pytest.raises(ValueError, match=told):
        model.make_pseudo_labels(inputs['weak'], data['weak'])['student']


def test_truth_in_the_samples_is_never_read_by_the_loss():
    model, inputs, data = unsure()
    model.purifiers.append(purifier(tell))
    plain = gradients(model, inputs, data)
    for sample in data['weak']:
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, SIZE, SIZE, dtype=torch.long))
    again = gradients(model, inputs, data)
    assert all(torch.equal(plain[name], again[name]) for name in plain)
