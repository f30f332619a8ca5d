# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Temperatures: fitted to what they were made with, kept beside a checkpoint, used by maps."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_semi_rs.apis import load_predictor, predict_image
from mmseg_semi_rs.engine.calibration import (
    Calibration,
    calibration_file,
    collect_logits,
    fit_calibration,
    fit_temperature,
)
from mmseg_semi_rs.utils.files import file_digest
from tests._support.rasters import picture
from tests._support.tiny_training import run_here
from tests._support.trained_models import CLASSES, PALETTE, mean_teacher, resnet, write_model


def drawn(count=40_000, classes=3, seed=0):
    """Honest logits, and labels that are drawn by them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


@pytest.mark.parametrize('factor', [0.4, 1.0, 3.0])
def test_a_network_that_is_too_sure_by_a_factor_gets_that_temperature(factor):
    logits, labels = drawn()
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)


def test_no_other_temperature_has_a_smaller_cross_entropy():
    logits, labels = drawn(500)
    logits = logits * 2.5

    def cross_entropy(temperature):
        total = 0.0
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            powers = [math.exp(value / temperature) for value in row]
            total -= math.log(powers[label] / sum(powers))
        return total / len(labels)

    best = fit_temperature(logits, labels)
    tried = [best * factor for factor in (0.9, 0.98, 1.02, 1.1)]
    assert cross_entropy(best) < min(map(cross_entropy, tried))


def test_each_class_gets_its_own(tmp_path):
    logits, labels = drawn(classes=4)
    factors = torch.tensor([1.0, 4.0, 2.0, 2.0])
    loud = logits * factors[logits.argmax(1)][:, None]
    rare = loud[:, 3] - 100.0  # never predicted
    loud[:, 3] = rare
    kept = labels != 3
    (tmp_path / 'w.pth').write_bytes(b'weights')
    found = fit_calibration(loud[kept], labels[kept], 'teacher', tmp_path / 'w.pth')
    assert found.by_class[:3] == pytest.approx([1.0, 4.0, 2.0], rel=0.3)
    assert found.by_class[3] == found.temperature
    before, one, each = found.ece
    assert each < one < before
    scaled = found(loud)
    assert torch.equal(scaled.argmax(1), loud.argmax(1))
    index = int((loud.argmax(1) == 1).nonzero()[0])
    torch.testing.assert_close(scaled[index], loud[index] / found.by_class[1])


def test_temperatures_of_classes_that_raise_the_error_are_left_out(tmp_path):
    """One class is always right; of the other no temperature fits both halves."""
    logits = torch.zeros(9000, 2)
    logits[:3000, 0] = 1.0
    logits[3000:6000, 1], logits[6000:, 1] = 1.0, 2.0
    each = torch.arange(3000) / 3000
    labels = torch.cat([each >= 1, each < 0.6, each < 0.95]).long()
    (tmp_path / 'w.pth').write_bytes(b'weights')
    found = fit_calibration(logits, labels, 'teacher', tmp_path / 'w.pth')
    _, one, each = found.ece
    assert each > one
    assert found.by_class == (found.temperature,) * 2


def test_maps_are_made_by_the_calibration_beside_the_checkpoint(tmp_path):
    config, checkpoint = write_model(tmp_path, mean_teacher(resnet()))
    image = picture(64, 64)
    before = predict_image(load_predictor(config, checkpoint), image)
    temperatures = (2.0, 4.0, 3.0)
    calibration = Calibration(
        'teacher', file_digest(checkpoint), 3.0, temperatures, 100, (9.0, 3.0, 2.0)
    )
    path = calibration.write(checkpoint)
    assert path == calibration_file(checkpoint, 'teacher')
    predictor = load_predictor(config, checkpoint)
    after = predict_image(predictor, image)
    np.testing.assert_array_equal(after.labels, before.labels)
    plain = load_predictor(config, checkpoint, calibrated=False)
    assert plain.fingerprint != predictor.fingerprint  # maps of another run are not continued
    windows = torch.from_numpy(image).permute(2, 0, 1)[None]
    logits = plain.probabilities(windows).log()
    divided = logits / torch.tensor(temperatures)[logits.argmax(1)][:, None]
    expected = (divided.softmax(1)[0].amax(0) * 255).round().numpy()
    np.testing.assert_allclose(after.confidence, expected, atol=1)
    assert (after.confidence < before.confidence).mean() > 0.9
    student = load_predictor(config, checkpoint, network='student')
    assert student.calibration is None  # each network has its own

    path.write_text(path.read_text().replace('"checkpoint": "', '"checkpoint": "0'))
    with pytest.raises(ValueError, match='is of other weights than'):
        load_predictor(config, checkpoint)
    path.write_text('{')
    with pytest.raises(ValueError, match='cannot be read'):
        load_predictor(config, checkpoint)


def test_the_tool_fits_to_the_validation_images(tmp_path, capsys):
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
    for index in range(3):
        Image.fromarray(picture(64, 64, index)).save(tmp_path / f'images/{index}.png')
        labels = (picture(64, 64, index + 9)[..., 0] // 86).astype(np.uint8)
        Image.fromarray(labels).save(tmp_path / f'masks/{index}.png')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    dataset = dict(
        type='FolderDataset',
        data_root=str(tmp_path),
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        pipeline=pipeline,
    )
    config, checkpoint = write_model(
        tmp_path / 'model', mean_teacher(resnet()), val_dataloader=dict(dataset=dataset)
    )
    run_here('calibrate', config, checkpoint, '--pixels', 6000)
    told = capsys.readouterr().out
    written = json.loads(calibration_file(checkpoint, 'teacher').read_text())
    assert written['pixels'] == 6000
    assert written['ece'][2] <= written['ece'][0]
    assert written['temperature'] > 1  # labels are by chance, and random weights are sure
    assert f'calibration error {written["ece"][0]} %' in told
    assert all(f'  {name}: ' in told for name in CLASSES)
    assert 'careful: 3 validation images are few' in told
    at_the_end = max(written['temperature'], *written['by_class']) > 19.99
    assert ('is at the end of what is tried' in told) == at_the_end
    assert load_predictor(config, checkpoint).calibration is not None
    after = told.split('next:\n  ')[1]
    assert after.startswith(f'python tools/predict.py {config} {checkpoint} ')
    path = calibration_file(checkpoint, 'teacher')
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())  # as an editor of Windows saves it
    assert load_predictor(config, checkpoint).calibration is not None


@pytest.mark.parametrize(('truth', 'words'), [(None, 'loads no labels'), (7, 'has a label')])
def test_images_without_labels_of_classes_fit_nothing(truth, words):
    sample = SegDataSample(seg_logits=PixelData(data=torch.zeros(2, 4, 4)))
    if truth is not None:
        sample.gt_sem_seg = PixelData(data=torch.full((1, 4, 4), truth))
    model = SimpleNamespace(test_step=lambda _: [sample])
    with pytest.raises(ValueError, match=words):
        collect_logits(model, [dict(inputs=torch.zeros(1))], 10)
