# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Calibrated thresholds: the formula, what it promises, and that liars cost nothing."""

import math

import numpy as np
import pytest
import torch

from mmseg_semi_rs.purification import ConformalThresholds, EvidencePolicy
from mmseg_semi_rs.purification.evidence import Evidence, quantise
from mmseg_semi_rs.structures import PseudoLabel
from tests._support.evidence import evidence_of, purifier, truth_in_crop, truth_of, unsure
from tests._support.networks import CLASSES

GRID = torch.arange(1, 21) / 20


def random_tiles(seed, tiles=5, pixels=60, classes=3):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(tiles):
        truth = rng.integers(0, classes, pixels)
        truth[rng.random(pixels) < 0.1] = 255
        scores = rng.integers(0, 20, (classes, pixels)) / 20
        hit = rng.random(pixels) < 0.7
        known = truth < classes
        scores[truth[known & hit], np.flatnonzero(known & hit)] = 1.0
        found.append((torch.from_numpy(scores), torch.from_numpy(truth)))
    return found


@pytest.mark.parametrize('alpha', [0.05, 0.3, 0.5])
@pytest.mark.parametrize('seed', range(3))
def test_the_threshold_is_the_formula_written_out(alpha, seed):
    tiles = random_tiles(seed)
    fitted = ConformalThresholds(alpha).fit(tiles, GRID)
    for k in range(3):
        expected = math.inf
        for t in GRID.tolist():
            claimed = [
                int(y) == k
                for scores, truth in tiles
                for score, y in zip(scores[k].tolist(), truth.tolist(), strict=True)
                if score >= t - 1e-9 and y < 3
            ]
            n = len(claimed)
            # the precision r / n is to be at least ceil((n + 1) (1 - alpha)) / n
            if n and sum(claimed) >= math.ceil(round((n + 1) * (1 - alpha), 9)):
                expected = t
                assert fitted.claims[k] == n and fitted.right[k] == sum(claimed)
                break
        assert float(fitted.threshold[k]) == pytest.approx(expected)
        assert bool(fitted.used[k]) == math.isfinite(expected)


def test_by_tiles_each_tile_counts_once():
    tiles = random_tiles(1, tiles=12)
    fitted = ConformalThresholds(0.3, unit='tile').fit(tiles, GRID)
    for k in range(3):
        expected = math.inf
        for t in GRID.tolist():
            shares = []
            for scores, truth in tiles:
                claimed = (scores[k] >= t - 1e-9) & (truth < 3)
                if claimed.any():
                    shares.append(float((truth[claimed] == k).double().mean()))
            if shares and sum(shares) >= (len(shares) + 1) * 0.7 - 1e-9:
                expected = t
                break
        assert float(fitted.threshold[k]) == pytest.approx(expected)
    few = ConformalThresholds(0.1, unit='tile').fit(tiles[:8], GRID)
    assert not few.used.any()  # 9 are needed, however good they are


@pytest.mark.parametrize('shape', ['flat', 'rising'])
@pytest.mark.parametrize('count', [30, 300])
def test_of_what_is_claimed_at_most_alpha_is_wrong_in_the_mean_over_draws(shape, count):
    """By simulation; without the correction the promise is broken where it is hardest to keep."""
    alpha, draws = 0.1, 200
    rng = np.random.default_rng(0)
    grid = torch.arange(1, 256) / 255
    edges = grid.numpy()
    # true precision of scores >= t, for scores evenly drawn from [0, 1]
    chance = {
        'flat': lambda score: np.full_like(score, 0.88),
        'rising': lambda score: 1 / (1 + np.exp(-12 * (score - 0.6))),
    }[shape]
    fine = np.linspace(0, 1, 5001)
    above = np.array([chance(fine[fine >= t]).mean() for t in edges])
    errors, naive = [], []
    for _ in range(draws):
        score = rng.random(count)
        right = rng.random(count) < chance(score)
        truth = torch.from_numpy(np.where(right, 0, 1))
        scores = torch.from_numpy(np.stack([score, np.zeros(count)]))
        fitted = ConformalThresholds(alpha).fit([(scores, truth)], grid)
        chosen = int(torch.searchsorted(grid, fitted.threshold[0]))
        errors.append(1 - above[chosen] if fitted.used[0] else 0.0)
        if count == 30:
            claimed = (score >= edges[:, None]).astype(int)
            good = (claimed @ right >= (1 - alpha) * claimed.sum(1)) & (claimed.sum(1) > 0)
            naive.append(1 - above[good.argmax()] if good.any() else 0.0)
    assert np.mean(errors) <= alpha
    assert np.mean(np.array(errors) > 0) > 0  # it is not kept by using nothing
    if count == 30 and shape == 'flat':
        assert np.mean(naive) > alpha


def liar(path, honest):
    """Tells the truth about some classes, and calls the others by each other's names."""
    truth = truth_of(path)
    liars = [k for k in range(CLASSES) if k not in honest]
    said = truth.copy()
    for place, k in enumerate(liars):
        said[truth == k] = liars[(place + 1) % len(liars)]
    return evidence_of(said)


def fitted_to(verify):
    pairs = [(verify(f'tile_{i}'), truth_of(f'tile_{i}').astype(np.uint8)) for i in range(6)]
    return ConformalThresholds().fit_evidence(pairs, CLASSES)


def accuracy(pseudo, truth, classes):
    """Share of the pixels of some classes that are rightly labelled."""
    of = torch.isin(truth, torch.tensor(classes))
    return float((pseudo.labels == truth)[of].float().mean())


def purified(verify, thresholds):
    model, inputs, data = unsure()
    before = model.make_pseudo_labels(inputs['weak'], data['weak'])['student']
    model.purifiers.append(purifier(verify, thresholds=thresholds))
    after = model.make_pseudo_labels(inputs['weak'], data['weak'])['student']
    truth = torch.stack([truth_in_crop(f'tile_{index}') for index in range(3)])
    return before, after, truth


def test_a_verifier_that_lies_on_half_of_the_classes_costs_nothing():
    """Of four classes it calls the last two by each other's name."""
    rng = np.random.default_rng(0)

    def tile():
        truth = rng.integers(0, 4, (16, 16)).repeat(4, 0).repeat(4, 1)
        said = np.select([truth == 2, truth == 3], [3, 2], truth)
        scores = np.stack([(said == k) * 0.95 for k in range(4)])
        return Evidence(quantise(scores), np.ones(truth.shape, bool), truth.shape), truth

    fitted = ConformalThresholds().fit_evidence([tile() for _ in range(4)], 4)
    assert fitted.used.tolist() == [True, True, False, False]
    evidence, truth = tile()
    labels = torch.from_numpy(np.where(rng.random(truth.shape) < 0.6, truth, (truth + 1) % 4))[None]
    confidence = torch.from_numpy(rng.random(truth.shape, dtype=np.float32))[None]
    valid = torch.ones_like(labels, dtype=torch.bool)
    before = PseudoLabel(labels, confidence, (confidence > 0.9).float(), valid)
    truth = torch.from_numpy(truth)[None]
    policy = EvidencePolicy(scope='all', band=dict(radius=0))
    scores = torch.from_numpy(evidence.scores)[None] / 255

    def wrong(pseudo, classes):
        of = torch.isin(truth, torch.tensor(classes)) & (pseudo.labels != truth)
        return float(pseudo.weight[of].sum())

    after = policy(before, fitted.apply(scores), valid).pseudo
    lied = truth >= 2
    assert torch.equal(after.labels[lied], before.labels[lied])
    assert torch.equal(after.weight[lied], before.weight[lied])
    for k in (0, 1):
        assert accuracy(after, truth, [k]) > accuracy(before, truth, [k]) + 0.2
        assert wrong(after, [k]) <= wrong(before, [k])
    believed = policy(before, scores, valid).pseudo  # as it is, it costs
    assert wrong(believed, [2, 3]) > wrong(before, [2, 3]) + 100


def test_one_that_tells_the_truth_on_one_class_helps_that_class():
    def verify(path):
        return liar(path, honest=(1,))

    fitted = fitted_to(verify)
    assert fitted.used.tolist() == [k == 1 for k in range(CLASSES)]
    before, after, truth = purified(verify, fitted)
    assert accuracy(after, truth, [1]) > accuracy(before, truth, [1]) + 0.2
    others = truth != 1
    assert torch.equal(after.labels[others], before.labels[others])
    assert torch.equal(after.weight[others], before.weight[others])


def test_scores_become_the_precision_that_they_are_good_for():
    fitted = ConformalThresholds(0.2).fit(random_tiles(2), GRID)
    scores = torch.rand(2, 3, 4, 4)
    found = fitted.apply(scores)
    assert torch.equal(found > 0, scores >= fitted.threshold.view(1, 3, 1, 1))
    assert found.unique().tolist() == pytest.approx([0.0, 0.8])
    table = fitted.table(['a', 'b', 'c']).splitlines()
    assert all(
        ('not used' in line) != bool(used) for line, used in zip(table, fitted.used, strict=True)
    )


def test_what_is_not_seen_claims_nothing():
    truth = truth_of('tile_0').astype(np.uint8)
    right = evidence_of(truth)
    wrong_beside = Evidence(right.scores[::-1].copy(), np.zeros(truth.shape, bool), truth.shape)
    fitted = ConformalThresholds().fit_evidence([(right, truth), (wrong_beside, truth)], CLASSES)
    present = torch.bincount(torch.from_numpy(truth).flatten().long(), minlength=CLASSES) > 0
    assert torch.equal(fitted.used, present)


@pytest.mark.parametrize('wrong', [dict(alpha=0.0), dict(alpha=1.0), dict(unit='image')])
def test_wrong_settings_are_told(wrong):
    with pytest.raises(ValueError, match='ConformalThresholds got'):
        ConformalThresholds(**wrong)


def test_no_tile_is_told():
    with pytest.raises(ValueError, match='there is none'):
        ConformalThresholds().fit([], GRID)
