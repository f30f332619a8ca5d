# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The expected calibration error against its definition, pixel by pixel."""

import math

import pytest
import torch
from mmseg.registry import METRICS


def sample(seed, scale, classes=4, size=14):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(classes, size, size, generator=generator)
    label = torch.distributions.Categorical(logits=logits.permute(1, 2, 0) / scale).sample()
    label[:2] = 255
    found = logits.argmax(0)
    return dict(
        seg_logits=dict(data=logits),
        pred_sem_seg=dict(data=found[None]),
        gt_sem_seg=dict(data=label[None]),
    )


def by_definition(samples, bins):
    pixels = []
    for each in samples:
        logits, label = each['seg_logits']['data'], each['gt_sem_seg']['data'][0]
        for row in range(label.shape[0]):
            for column in range(label.shape[1]):
                truth = int(label[row, column])
                if truth == 255:
                    continue
                powers = [math.exp(value) for value in logits[:, row, column].tolist()]
                shares = [power / sum(powers) for power in powers]
                pixels.append((max(shares), shares.index(max(shares)) == truth))
    error = 0.0
    for number in range(bins):
        inside = [(p, hit) for p, hit in pixels if number / bins < p <= (number + 1) / bins]
        if inside:
            accuracy = sum(hit for _, hit in inside) / len(inside)
            confidence = sum(p for p, _ in inside) / len(inside)
            error += len(inside) / len(pixels) * abs(accuracy - confidence)
    return 100 * error


@pytest.mark.parametrize('bins', [1, 10, 15])
def test_the_formula(bins):
    samples = [sample(seed, 2.0) for seed in range(3)]
    metric = METRICS.build(dict(type='CalibrationErrorMetric', bins=bins))
    metric.process(None, samples[:2])
    metric.process(None, samples[2:])
    found = metric.evaluate(3)
    assert found['ECE'] == pytest.approx(by_definition(samples, bins), abs=0.006)


def test_a_network_that_is_too_sure_is_told():
    honest, loud = sample(0, 1.0, size=60), sample(0, 4.0, size=60)
    errors = []
    for each in (honest, loud):
        metric = METRICS.build(dict(type='CalibrationErrorMetric'))
        metric.process(None, [each])
        errors.append(metric.evaluate(1)['ECE'])
    assert errors[0] < 4 < 15 < errors[1]


def test_one_channel_is_a_sigmoid():
    logits = torch.tensor([[[2.0, -2.0, 0.5, -0.5]]])
    found = (logits > 0).long()
    each = dict(
        seg_logits=dict(data=logits),
        pred_sem_seg=dict(data=found),
        gt_sem_seg=dict(data=torch.tensor([[[1, 0, 0, 0]]])),
    )
    metric = METRICS.build(dict(type='CalibrationErrorMetric', bins=1))
    metric.process(None, [each])
    shares = [1 / (1 + math.exp(-value)) for value in (2.0, 2.0, 0.5, 0.5)]
    assert metric.evaluate(1)['ECE'] == pytest.approx(100 * abs(0.75 - sum(shares) / 4), abs=0.006)


def test_without_truth_or_bins_it_is_refused():
    with pytest.raises(ValueError, match='bins=0'):
        METRICS.build(dict(type='CalibrationErrorMetric', bins=0))
    each = sample(0, 1.0)
    del each['gt_sem_seg']
    with pytest.raises(ValueError, match='has no ground truth'):
        METRICS.build(dict(type='CalibrationErrorMetric')).process(None, [each])
