# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Each gate against its formula, pixel by pixel, over several steps."""

import math
from copy import deepcopy

import pytest
import torch

from mmseg_semi_rs.models.gates import (
    AdaptiveGate,
    ClassQuantileGate,
    FixedGate,
    ResidualGate,
    SoftGate,
    build_gate,
)
from tests._support.networks import NoHostSync, samples

M = 0.9
GATES = {
    'fixed': lambda k, **more: FixedGate(k, 0.6, **more),
    'quantile': lambda k, **more: ClassQuantileGate(k, momentum=M, **more),
    'adaptive': lambda k, **more: AdaptiveGate(k, momentum=M, **more),
    'soft': lambda k, **more: SoftGate(k, momentum=M, **more),
    'soft per class': lambda k, **more: SoftGate(k, per_class=True, momentum=M, **more),
    'residual': lambda k, **more: ResidualGate(k, **more),
}
EACH = pytest.mark.parametrize('name', GATES)
EACH_WITH_STATE = pytest.mark.parametrize('name', list(GATES)[1:5])
ALIGNED = pytest.mark.parametrize('align', [False, True])


def batch(seed, classes=4, padding=True):
    """Logits whose confidence goes from 1 / K to nearly 1, and what of them is valid."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 12, 11, generator=rng) * 3
    logits[:, 0] += 1.0
    valid = torch.ones(2, 12, 11, dtype=torch.bool)
    if padding:
        valid[0, 9:] = False
        valid[1, :, 10:] = False
    return logits, valid


def pixels(logits, valid):
    """Probabilities of the valid pixels, as lists of doubles."""
    scores = logits.double().permute(0, 2, 3, 1)[valid]
    return [[math.exp(s) / sum(map(math.exp, row)) for s in row] for row in scores.tolist()]


def mean(values):
    return sum(values) / len(values)


def moved(old, new):
    """The plain moving average: the first value is the batch's, none moves nothing."""
    if new is None:
        return old
    return new if old is None else M * old + (1 - M) * new


# -------------------------------------------------------------- the formulas, in the plainest way


def fixed(state, found):
    return [float(max(p) >= 0.6) for p in found], [max(p) - 0.6 for p in found]


def quantile(state, found, classes=4):
    for k in range(classes):
        own = torch.tensor([max(p) for p in found if p.index(max(p)) == k], dtype=torch.float64)
        surest_half = float(torch.quantile(own, 0.5, interpolation='higher')) if len(own) else None
        state[k] = moved(state.get(k), surest_half)
    thresholds = [max(0.5, state[p.index(max(p))]) for p in found]
    margins = [max(p) - tau for p, tau in zip(found, thresholds, strict=True)]
    # thresholds are read off bins, so that 1 - tau is wrong by 0.8 % at most
    sure = [abs(m) > 0.009 * (1 - t) for m, t in zip(margins, thresholds, strict=True)]
    return [float(m >= 0) for m in margins], [
        m if s else 0 for m, s in zip(margins, sure, strict=True)
    ]


def adaptive(state, found, classes=4):
    state['tau'] = moved(state.get('tau'), mean([max(p) for p in found]))
    for k in range(classes):
        state[k] = moved(state.get(k), mean([p[k] for p in found]))
    top = max(state[k] for k in range(classes))
    margins = [max(p) - state['tau'] * state[p.index(max(p))] / top for p in found]
    return [float(m >= 0) for m in margins], margins


def soft(state, found):
    sure = [max(p) for p in found]
    centre = mean(sure)
    state['mu'] = moved(state.get('mu'), centre)
    state['var'] = moved(state.get('var'), mean([(c - centre) ** 2 for c in sure]))
    return [math.exp(-(min(c - state['mu'], 0) ** 2) / (2 * state['var'])) for c in sure], None


def soft_per_class(state, found, classes=4):
    for k in range(classes):
        own = [max(p) for p in found if p.index(max(p)) == k]
        centre = mean(own) if own else None
        spread = mean([(c - centre) ** 2 for c in own]) if own else None
        state['mu', k] = moved(state.get(('mu', k)), centre)
        state['var', k] = moved(state.get(('var', k)), spread)
    weights = []
    for p in found:
        c, y = max(p), p.index(max(p))
        below = min(c - state['mu', y], 0)
        weights.append(math.exp(-(below**2) / (2 * max(state['var', y], 1e-12))))
    return weights, None


def residual(state, found):
    weights = []
    for p in found:
        others = sorted(p)[:-1]
        centre = mean(others)
        variance = mean([(q - centre) ** 2 for q in others])
        rest = sum(others)
        weights.append(max(0.0, max(p) - len(others) ** 2 * variance / (2 * rest)))
    return weights, None


FORMULAS = {
    'fixed': fixed,
    'quantile': quantile,
    'adaptive': adaptive,
    'soft': soft,
    'soft per class': soft_per_class,
    'residual': residual,
}


def compare(gate, formula, steps, prepare=lambda found: found):
    state = {}
    for logits, valid in steps:
        pseudo = gate(logits, valid)
        found = prepare(pixels(logits, valid))
        expected, margins = formula(state, found)
        weights = pseudo.weight[valid].tolist()
        assert pseudo.labels[valid].tolist() == [p.index(max(p)) for p in found]
        assert pseudo.confidence[valid].tolist() == pytest.approx([max(p) for p in found], abs=1e-5)
        assert (pseudo.weight[~valid] == 0).all()
        compared = 0
        for index, (got, want) in enumerate(zip(weights, expected, strict=True)):
            if margins is None or abs(margins[index]) > 1e-5:
                assert got == pytest.approx(want, abs=2e-4)
                compared += 1
        assert compared > 0.9 * len(weights)
        assert 0.0 < mean(weights) < 1.0, 'all or nothing says little'


@EACH
def test_weights_are_the_restated_formula_over_several_steps(name):
    compare(GATES[name](4), FORMULAS[name], [batch(seed) for seed in range(4)])


@EACH
def test_aligned_probabilities_are_the_restated_formula(name):
    gate = GATES[name](4, align=True)
    gate.momentum = M
    # 3 : 1 : 0 : 0 of 4 pixels a step, and what is ignored or not known
    labels = torch.full((1, 64, 64), 255)
    labels[0, 0, :4] = torch.tensor([0, 0, 0, 1])
    labels[0, 1, :2] = torch.tensor([7, -1])
    counts, averages = [0, 0, 0, 0], {}

    def aligned(found):
        for k, more in enumerate((3, 1, 0, 0)):
            counts[k] += more
            averages[k] = moved(averages.get(k), mean([p[k] for p in found]))
        wanted = [(count + 1) / (sum(counts) + 4) for count in counts]
        scaled = [[p[k] * wanted[k] / averages[k] for k in range(4)] for p in found]
        return [[q / sum(row) for q in row] for row in scaled]

    def steps():
        for seed in range(3):
            gate.observe(samples(1, labels))
            yield batch(seed)

    compare(gate, FORMULAS[name], steps(), aligned)
    assert gate.label_pixels.tolist() == [9, 3, 0, 0]


# ------------------------------------------------------------------------------- the state


@EACH
@ALIGNED
def test_padding_is_never_counted(name, align):
    gate, other = GATES[name](4, align=align), GATES[name](4, align=align)
    for seed in range(3):
        logits, valid = batch(seed)
        changed = torch.where(valid[:, None], logits, 50 * torch.randn_like(logits))
        found, same = gate(logits, valid), other(changed, valid)
        assert torch.equal(found.weight, same.weight)
        assert (found.weight[~valid] == 0).all()
    for buffer, alike in zip(gate.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(buffer, alike, rtol=1e-6, atol=0)


@pytest.mark.parametrize('name', ['quantile', 'soft per class'])
def test_a_class_without_a_pixel_keeps_its_thresholds(name):
    gate = GATES[name](4)
    logits, valid = batch(0)
    gate(logits, valid)
    before = deepcopy(gate.state_dict())
    logits = batch(1)[0]
    logits[:, 2] = -30.0
    weights = gate(logits, valid).weight
    assert weights.isfinite().all()
    for key, value in gate.state_dict().items():
        assert value[2] == before[key][2] and (value[:2] != before[key][:2]).all()


@pytest.mark.parametrize('name', ['quantile', 'soft per class'])
def test_a_class_that_comes_late_begins_with_its_first_batch(name):
    gate = GATES[name](4)
    logits, valid = batch(0)
    logits[:, 2] = -30.0
    gate(logits, valid)
    assert all(value[2].isnan() for value in gate.state_dict().values())
    fresh, (logits, valid) = GATES[name](4), batch(1)
    gate(logits, valid), fresh(logits, valid)
    for key, value in gate.state_dict().items():
        assert value[2] == fresh.state_dict()[key][2]


@EACH
@ALIGNED
def test_state_changes_in_training_mode_only(name, align):
    gate = GATES[name](4, align=align)
    gate(*batch(0))
    before = deepcopy(dict(gate.named_buffers()))
    gate.eval()
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    gate.observe(samples(1, labels))
    weights = gate(*batch(1)).weight
    assert torch.equal(weights, gate(*batch(1)).weight)
    assert all(torch.equal(value, before[key]) for key, value in gate.named_buffers())
    gate.train()
    gate.observe(samples(1, labels))
    gate(*batch(1))
    changed = {key for key, value in gate.named_buffers() if not torch.equal(value, before[key])}
    assert changed == set(gate.state_dict())
    assert bool(changed) is (align or name not in ('fixed', 'residual'))


@EACH
def test_a_gate_that_has_seen_nothing_weighs_by_the_batch_itself(name):
    """An audit or a picture of an untrained model: eval mode, no average yet."""
    gate = GATES[name](4, align=True).eval()
    weights = gate(*batch(0)).weight
    assert 0 < float(weights.mean()) < 1
    assert all(
        value.isnan().all() for key, value in gate.state_dict().items() if 'label' not in key
    )


@EACH
@ALIGNED
def test_state_is_saved_and_loaded_and_goes_on(name, align):
    gate, other = GATES[name](4, align=align), GATES[name](4, align=align)
    gate(*batch(0))
    other.load_state_dict(gate.state_dict())
    assert torch.equal(gate(*batch(1)).weight, other(*batch(1)).weight)
    if name in ('fixed', 'residual') and not align:
        assert not gate.state_dict()


# ------------------------------------------------------------------------------- extreme cases


@EACH
@ALIGNED
@pytest.mark.parametrize('classes', [2, 4])
def test_batches_without_a_valid_pixel_move_nothing_and_give_no_nan(name, align, classes):
    gate = GATES[name](classes, align=align)
    nothing = torch.zeros(2, 12, 11, dtype=torch.bool)
    first = gate(batch(0, classes)[0], nothing)
    assert (first.weight == 0).all() and first.confidence.isfinite().all()
    found = gate(*batch(1, classes))
    fresh = GATES[name](classes, align=align)
    assert torch.equal(found.weight, fresh(*batch(1, classes)).weight)
    before = deepcopy(gate.state_dict())
    gate(batch(2, classes)[0], nothing)
    assert all(torch.equal(value, before[key]) for key, value in gate.state_dict().items())


@EACH
@ALIGNED
@pytest.mark.parametrize('classes', [2, 3])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_give_finite_weights(name, align, classes, dtype):
    gate = GATES[name](classes, align=align)
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    equal = torch.zeros(1, classes, 8, 8)
    certain = equal.clone()
    certain[:, 1] = 1000.0
    ranges = torch.linspace(-100, 100, classes * 64).view(1, classes, 8, 8)
    for logits in (equal, certain, ranges, certain, equal):
        pseudo = gate(logits.to(dtype), valid)
        assert pseudo.weight.dtype == pseudo.confidence.dtype == torch.float32
        assert pseudo.weight.isfinite().all() and pseudo.confidence.isfinite().all()
        assert 0 <= float(pseudo.weight.min()) <= float(pseudo.weight.max()) <= 1
        if logits is certain:
            assert (pseudo.weight > 0.999).all(), 'confidence is exactly 1'
            assert (pseudo.labels == 1).all()
    assert all(value.isfinite().all() for value in gate.buffers())


@EACH
def test_a_pixel_of_which_the_teacher_says_nan_has_no_weight(name):
    gate = GATES[name](3)
    logits, valid = batch(0, 3)
    gate(logits, valid)
    before = deepcopy(gate.state_dict())
    logits[0, 1, 2, 3] = torch.nan
    weights = gate(logits, valid).weight
    assert weights.isfinite().all() and weights[0, 2, 3] == 0
    for key, value in gate.state_dict().items():
        assert value.isfinite().all() == before[key].isfinite().all()


@EACH
def test_half_precision_logits_weigh_like_their_own_values(name):
    logits, valid = batch(0)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = logits.to(dtype)
        one, two = GATES[name](4), GATES[name](4)
        assert torch.equal(one(rounded, valid).weight, two(rounded.float(), valid).weight)


@EACH
def test_two_classes(name):
    formula = {
        'quantile': lambda state, found: quantile(state, found, 2),
        'adaptive': lambda state, found: adaptive(state, found, 2),
        'soft per class': lambda state, found: soft_per_class(state, found, 2),
    }.get(name, FORMULAS[name])
    compare(GATES[name](2), formula, [batch(seed, 2) for seed in range(3)])


@pytest.mark.parametrize('share', [0.1, 0.5, 1.0])
def test_quantile_keeps_the_share_of_each_class_but_nothing_below_the_floor(share):
    logits, valid = batch(0, padding=False)
    everything = ClassQuantileGate(4, share=share, floor=0.0)(logits, valid)
    some = ClassQuantileGate(4, share=share, floor=0.7)(logits, valid)
    for k in range(4):
        own = everything.labels == k
        kept, sure = everything.weight[own] > 0, everything.confidence[own]
        assert int(kept.sum()) == pytest.approx(share * len(kept), abs=1.5)
        assert torch.equal(kept, sure >= sure[kept].min()), 'the surest'
    assert torch.equal(some.weight, everything.weight * (everything.confidence >= 0.7))


def test_residual_of_two_classes_is_the_confidence_and_of_one_rival_the_stated_line():
    pseudo = ResidualGate(2)(*batch(0, 2, padding=False))
    torch.testing.assert_close(pseudo.weight, pseudo.confidence)
    logits = torch.full((1, 5, 1, 9), -200.0)
    logits[:, 0], logits[:, 3] = 0.0, -torch.arange(1.0, 10.0)
    pseudo = ResidualGate(5)(logits, torch.ones(1, 1, 9, dtype=torch.bool))
    c = pseudo.confidence
    torch.testing.assert_close(pseudo.weight, c - (1 - c) * (5 - 2) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize('gap', [6, 10, 12, 14, 18])
def test_residual_has_its_digits_where_the_teacher_is_nearly_certain(gap):
    logits = torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5
    logits[:, 0] += gap
    found = ResidualGate(16)(logits, torch.ones(1, 32, 32, dtype=torch.bool)).weight
    p = logits.double().softmax(1)[:, 1:]
    rest = p.sum(1)
    expected = 1 - rest - 15**2 * p.var(1, unbiased=False) / (2 * rest)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@EACH
@ALIGNED
def test_no_gate_makes_the_host_wait(name, align):
    gate = GATES[name](4, align=align)
    labelled = samples(1, torch.zeros(1, 64, 64, dtype=torch.long))
    with NoHostSync():
        for seed in range(2):
            gate.observe(labelled)
            gate(*batch(seed))


# ------------------------------------------------------------------------------- what it is for


def imbalanced(seed=0):
    """A teacher of 80 / 15 / 5 % of the pixels, the surer the more frequent the class is.

    Half of the rare class's pixels are taken for the frequent class, as it is with few labels.
    """
    rng = torch.Generator().manual_seed(seed)
    truth = torch.multinomial(torch.tensor([0.80, 0.15, 0.05]), 40_000, True, generator=rng)
    said = truth.where(~((truth == 2) & (torch.rand(40_000, generator=rng) < 0.5)), 0)
    centre = torch.tensor([4.5, 2.5, 1.2])[said] - 2.0 * (said != truth)
    gap = centre + 0.7 * torch.randn(40_000, generator=rng)
    logits = torch.zeros(40_000, 3)
    logits.scatter_(1, said[:, None], gap[:, None])
    shape = (1, 200, 200)
    return logits.T.reshape(1, 3, 200, 200), truth.view(shape), torch.ones(shape, dtype=torch.bool)


@pytest.mark.parametrize(
    'gate, expected',
    [
        # Recall of each class among the pixels that count: sum of weights where right / its pixels.
        # Of the rare class 0.5 would be all that the teacher has right. The fixed gate keeps none
        # of it, and a soft one whose mean is that of all classes hardly any.
        (FixedGate(3, 0.95), (0.88, 0.06, 0.00)),
        (ClassQuantileGate(3, share=0.5), (0.52, 0.50, 0.25)),
        (AdaptiveGate(3), (0.93, 1.00, 0.49)),
        (SoftGate(3), (1.00, 0.58, 0.04)),
        (SoftGate(3, per_class=True), (0.96, 0.86, 0.41)),
        (ResidualGate(3), (0.97, 0.84, 0.31)),
    ],
    ids=['fixed', 'quantile', 'adaptive', 'soft', 'soft per class', 'residual'],
)
def test_recall_per_class_of_an_imbalanced_teacher(gate, expected):
    logits, truth, valid = imbalanced()
    pseudo = gate(logits, valid)
    right = pseudo.weight * (pseudo.labels == truth)
    recall = [float(right[truth == k].sum() / (truth == k).sum()) for k in range(3)]
    assert recall == pytest.approx(expected, abs=0.02)


def test_alignment_gives_the_rare_class_back_what_the_teacher_took():
    logits, truth, valid = imbalanced()
    gates = [FixedGate(3, 0.5, align=align) for align in (False, True)]
    gates[1].observe(samples(1, truth[:, :64, :64]))
    shares = [float((gate(logits, valid).labels == 2).float().mean()) for gate in gates]
    assert shares[0] < 0.03 and shares[1] > shares[0]


# ------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(type='FixedGate', threshold=1.5), r'=1\.5 must be within \[0, 1\]'),
        (dict(type='FixedGate', threshold='0.9'), '=0.9 must be within'),
        (dict(type='FixedGate', threshold=[0.5, 0.5]), '2 entries for 3 classes'),
        (dict(type='FixedGate', threshold=math.nan), 'nan must be within'),
        (dict(type='ClassQuantileGate', share=0), r'share=0 must be in \(0, 1\]'),
        (dict(type='ClassQuantileGate', share=1.1), r'share=1\.1'),
        (dict(type='ClassQuantileGate', floor=-0.1), r'floor=-0\.1'),
        (dict(type='AdaptiveGate', momentum=1.0), r'AdaptiveGate momentum=1\.0'),
        (dict(type='SoftGate', momentum=-0.5), r'SoftGate momentum=-0\.5'),
        (dict(type='SoftGat'), "type='SoftGat', which is no gate: choose FixedGate"),
        (dict(type='ResNet'), "type='ResNet', which is no gate"),
        (dict(share=0.5), 'must be a dict such as'),
        ('SoftGate', "gate='SoftGate' must be a dict"),
    ],
)
def test_bad_settings_are_told_in_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message) as told:
        build_gate(settings, 0.95, 3)
    assert '\n' not in str(told.value)


def test_a_key_that_a_gate_does_not_know_is_told():
    with pytest.raises(TypeError, match='shares'):
        build_gate(dict(type='ClassQuantileGate', shares=0.5), 0.95, 3)


def test_the_fixed_gate_is_the_default_and_conf_thresh_its_short_form():
    gate = build_gate(None, [0.5, 0.6, 0.7], 3)
    assert isinstance(gate, FixedGate) and not gate.needs_burn_in and not gate.align
    torch.testing.assert_close(gate.threshold, torch.tensor([0.5, 0.6, 0.7]))
    assert not gate.state_dict()
    assert all(GATES[name](3).needs_burn_in for name in GATES if name != 'fixed')


def test_an_untrained_teacher_misleads_the_alignment_so_that_any_gate_with_it_needs_a_burn_in():
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, :2] = 1
    logits, valid = 0.1 * batch(0)[0], torch.ones(2, 12, 11, dtype=torch.bool)
    gates = [FixedGate(4, align=align) for align in (False, True)]
    for gate in gates:
        gate.observe(samples(1, labels))
    whims = [gate(logits, valid) for gate in gates]
    assert not whims[0].weight.any()
    assert whims[1].weight.mean() > 0.8 and not whims[1].labels[whims[1].weight > 0].any()
    assert [gate.needs_burn_in for gate in gates] == [False, True]
