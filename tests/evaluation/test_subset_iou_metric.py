# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""SubsetIoUMetric against the definitions, written out pixel by pixel."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from PIL import Image

from mmseg_semi_rs.evaluation import SubsetIoUMetric, confusion_matrix
from tests._support.processes import on_ranks

CLASSES = ('road', 'building', 'tree', 'clutter')


def sample(prediction: torch.Tensor, label: torch.Tensor, **meta: object) -> dict:
    return dict(
        pred_sem_seg=dict(data=prediction[None]),
        gt_sem_seg=dict(data=label[None]),
        img_path='tile.png',
        **meta,
    )


def random_pair(seed: int, classes: int = 4, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (size, size), generator=generator)
    wrong = torch.rand(size, size, generator=generator) < 0.4
    prediction = torch.where(
        wrong, torch.randint(0, classes, (size, size), generator=generator), label
    )
    label[torch.rand(size, size, generator=generator) < 0.1] = 255
    return prediction, label


def evaluate(pairs: list, classes: tuple = CLASSES, **arguments: object) -> dict:
    metric = SubsetIoUMetric(**arguments)
    metric.dataset_meta = dict(classes=classes)
    for prediction, label in pairs:
        metric.process(None, [sample(prediction, label)])
    return metric.evaluate(len(pairs))


def plain_iou(pairs: list, cls: int, left_out: tuple = (255,)) -> float:
    """One loop over the pixels."""
    both = either = 0
    for prediction, label in pairs:
        for p, t in zip(prediction.flatten().tolist(), label.flatten().tolist(), strict=True):
            if t in left_out:
                continue
            both += p == cls and t == cls
            either += p == cls or t == cls
    return 100 * both / either if either else math.nan


PAIRS = [random_pair(seed) for seed in range(3)]


def test_default_is_the_mean_over_all_classes():
    scores = evaluate(PAIRS)
    each = [plain_iou(PAIRS, cls) for cls in range(4)]
    assert scores['mIoU'] == pytest.approx(sum(each) / 4, abs=1e-3)
    for name, value in zip(CLASSES, each, strict=True):
        assert scores[f'IoU.{name}'] == pytest.approx(value, abs=1e-3)


def test_agrees_with_mmseg_where_that_is_right():
    theirs = IoUMetric(iou_metrics=['mIoU', 'mDice', 'mFscore'])
    theirs.dataset_meta = dict(classes=CLASSES)
    for prediction, label in PAIRS:
        theirs.process(None, [sample(prediction, label)])
    ours = evaluate(PAIRS, iou_metrics=['mIoU', 'mDice', 'mFscore'])
    for name, value in theirs.evaluate(len(PAIRS)).items():
        assert ours[name] == pytest.approx(float(value), abs=0.01)


def test_R11_clutter_is_dropped_and_class_0_is_kept():
    scores = evaluate(PAIRS, ignore_gt=['clutter'])
    each = [plain_iou(PAIRS, cls, left_out=(255, 3)) for cls in range(3)]
    assert scores['mIoU'] == pytest.approx(sum(each) / 3, abs=1e-3)
    assert scores['IoU.road'] == pytest.approx(each[0], abs=1e-3)
    assert scores['mIoU'] != pytest.approx(evaluate(PAIRS)['mIoU'], abs=0.1)


def test_R12_the_same_class_set_selects_and_reports():
    """One configured metric serves validation and test: no mode changes what is averaged."""
    setting = dict(type='SubsetIoUMetric', ignore_gt=['clutter'])
    results = []
    for prefix in (None, 'student'):
        metric = METRICS.build({**setting, 'prefix': prefix})
        metric.dataset_meta = dict(classes=CLASSES)
        metric.process(None, [sample(*PAIRS[0])])
        results.append(metric.evaluate(1))
    assert set(results[1]) == {f'student/{name}' for name in results[0]}
    assert results[1]['student/mIoU'] == results[0]['mIoU']


def test_table_is_whole_and_ignored_row_counts_its_own_pixels():
    scores = evaluate(PAIRS, ignore_gt=['clutter'])
    assert {f'IoU.{name}' for name in CLASSES} <= set(scores)
    assert scores['IoU.clutter'] == pytest.approx(plain_iou(PAIRS, 3), abs=1e-3)


def test_a_class_without_pixels_is_absent_from_the_mean(capsys):
    whole = torch.zeros(4, 4, dtype=torch.long)
    scores = evaluate([(whole, whole)])
    assert scores['mIoU'] == 100.0
    rows = [line.split('|') for line in capsys.readouterr().out.splitlines() if '|' in line]
    assert {row[1].strip(): row[-2].strip() for row in rows[1:]} == {
        'road': 'yes', 'building': 'absent', 'tree': 'absent', 'clutter': 'absent',
    }  # fmt: skip


def test_mean_over_named_classes_only():
    scores = evaluate(PAIRS, mean_over=['tree', 'road'])
    each = [plain_iou(PAIRS, cls) for cls in (0, 2)]
    assert scores['mIoU'] == pytest.approx(sum(each) / 2, abs=1e-3)


@pytest.mark.parametrize('bad', [4, 17, 254])
def test_R13_label_outside_the_classes_raises_and_is_never_folded(bad):
    prediction, label = random_pair(0)
    label[2, 3] = bad
    with pytest.raises(ValueError, match=rf'tile\.png.*\[{bad}\] outside 0 \.\. 3'):
        evaluate([(prediction, label)])


def test_R13_ignored_value_is_not_counted():
    prediction, label = random_pair(0)
    label[:] = 255
    label[0, 0] = prediction[0, 0] = 1
    assert evaluate([(prediction, label)])['aAcc'] == 100
    assert confusion_matrix(prediction, label, 4).sum() == 1


@pytest.mark.parametrize('ignore_gt', [[], ['clutter']])
def test_R14_fscore_and_kappa_skip_ignored_pixels(ignore_gt):
    arguments = dict(iou_metrics=['mFscore', 'mDice', 'kappa'], ignore_gt=ignore_gt)
    left_out = (255, 3) if ignore_gt else (255,)
    before = evaluate(PAIRS, **arguments)
    changed = []
    for prediction, label in PAIRS:
        hidden = sum(label == value for value in left_out).bool()
        changed.append((torch.where(hidden, 0, prediction), label))
    after = evaluate(changed, **arguments)
    for name in ('mFscore', 'mPrecision', 'mRecall', 'mDice', 'kappa', 'aAcc'):
        assert after[name] == before[name], name


def test_kappa_is_cohens():
    pairs = PAIRS[:1]
    kept = pairs[0][1] != 255
    p, t = pairs[0][0][kept].tolist(), pairs[0][1][kept].tolist()
    n = len(p)
    observed = sum(a == b for a, b in zip(p, t, strict=True)) / n
    expected = sum(p.count(c) * t.count(c) for c in range(4)) / n**2
    kappa = evaluate(pairs, iou_metrics='kappa')['kappa']
    assert kappa == pytest.approx(100 * (observed - expected) / (1 - expected), abs=1e-3)


def test_C21_absent_class_is_left_out_of_the_mean():
    label = torch.zeros(4, 4, dtype=torch.long)
    label[2:] = 1
    prediction = label.clone()
    prediction[0, 0] = 1
    scores = evaluate([(prediction, label)])
    assert math.isnan(scores['IoU.tree'])
    assert scores['mIoU'] == pytest.approx(100 * (7 / 8 + 8 / 9) / 2, abs=1e-3)
    predicted_only = evaluate([(torch.where(label == 1, 2, 0), label)], mean_over=['tree', 'road'])
    assert predicted_only['mIoU'] == 50, 'a class that is predicted but not there scores 0'


def test_counts_are_exact_beyond_float32():
    """Summing float32 histograms of large tiles loses single pixels from 2**24 on."""
    metric = SubsetIoUMetric()
    metric.dataset_meta = dict(classes=('a', 'b'))
    scores = metric.compute_metrics([('a', np.array([[2**25, 1], [1, 1]], dtype=np.int64))])
    assert scores['IoU.b'] == pytest.approx(100 / 3, abs=1e-3)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (dict(mean_over=['water']), r"mean_over=\['water'\].*\['road', 'building'"),
        (dict(ignore_gt=['Clutter']), r"ignore_gt=\['Clutter'\].*'clutter'\]"),
        (dict(mean_over=['road'], ignore_gt=['road']), r"\['road'\] stand in mean_over and in"),
        (dict(mean_over='road'), 'must be lists of class names'),
        (dict(iou_metrics=['IoU']), r"names \['IoU'\]: choose among"),
        (dict(format_only=True), 'give output_dir too'),
    ],
)
def test_wrong_settings_are_told_before_the_first_image(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        SubsetIoUMetric(**arguments).dataset_meta = dict(classes=CLASSES)


def test_faults_of_the_data_are_one_sentence():
    with pytest.raises(ValueError, match=r'tile\.png: The prediction has shape \(4, 4\)'):
        evaluate([(torch.zeros(4, 4).long(), torch.zeros(4, 5).long())])
    with pytest.raises(ValueError, match='No image was evaluated'):
        evaluate([])
    metric = SubsetIoUMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    with pytest.raises(ValueError, match=r'tile\.png has no ground truth'):
        metric.process(None, [dict(pred_sem_seg=dict(data=PAIRS[0][0][None]), img_path='tile.png')])


@pytest.mark.parametrize('reduce_zero_label', [False, True])
def test_format_only_writes_and_does_not_score(tmp_path, reduce_zero_label):
    metric = SubsetIoUMetric(format_only=True, output_dir=str(tmp_path))
    metric.dataset_meta = dict(classes=CLASSES)
    prediction, label = PAIRS[0]
    metric.process(None, [sample(prediction, label, reduce_zero_label=reduce_zero_label)])
    assert metric.compute_metrics([]) == {}
    written = np.asarray(Image.open(tmp_path / 'tile.png'))
    assert np.array_equal(written, prediction.numpy() + reduce_zero_label)
    assert [path.name for path in tmp_path.iterdir()] == ['tile.png']
    other = dict(sample(prediction, label), img_path='south/tile.png')
    with pytest.raises(ValueError, match=r'tile\.png would be written for .* and for south/tile'):
        metric.process(None, [other])


def shard(count: int, folder: Path) -> None:
    os.chdir(folder)
    torch.distributed.init_process_group('gloo')
    metric = SubsetIoUMetric(ignore_gt=['clutter'])
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = dict(classes=CLASSES)
    for index in DefaultSampler(list(range(count)), shuffle=False):
        metric.process(None, [sample(*random_pair(index))])
    scores = evaluator.evaluate(count)
    if torch.distributed.get_rank() == 0:
        torch.save(scores, 'scores.pth')


def test_R15_C13_S20_two_processes_and_an_odd_number_of_images_give_the_scores_of_one(tmp_path):
    """Five images on two ranks: the sampler doubles one, the sum must not."""
    count = 5
    on_ranks(2, shard, count, tmp_path, folder=tmp_path)
    together = torch.load(tmp_path / 'scores.pth')
    alone = evaluate([random_pair(index) for index in range(count)], ignore_gt=['clutter'])
    assert together == alone
    doubled = evaluate([random_pair(i) for i in (*range(count), 0)], ignore_gt=['clutter'])
    assert doubled != alone, 'the doubled image must matter for this test to mean anything'
