# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The report says whether a recipe is better than supervised training, and how sure that is."""

import json

import numpy as np
import pytest
import torch

from mmseg_semi_rs.evaluation import SubsetIoUMetric, confusion_matrix
from mmseg_semi_rs.visualization.report import write_report
from mmseg_semi_rs.visualization.report_gains import find_gains
from mmseg_semi_rs.visualization.run_groups import group_runs
from mmseg_semi_rs.visualization.run_records import find_runs

CLASSES = ('land', 'road', 'clutter')


def evaluated(truths, predictions, names=None):
    """The record of SubsetIoUMetric for maps, (N, H, W) each."""
    metric = SubsetIoUMetric(ignore_gt=['clutter'])
    metric.dataset_meta = dict(classes=CLASSES)
    names = names or [f'{number}.png' for number in range(len(truths))]
    results = [
        (name, confusion_matrix(*map(torch_of, (guess, true)), len(CLASSES)).numpy())
        for name, guess, true in zip(names, predictions, truths, strict=True)
    ]
    metric.compute_metrics(results)
    return metric.record


def torch_of(array):
    return torch.from_numpy(np.array(array, np.int64))


def leave(folder, record, seed=0, supervised=False, weights=None):
    """A run that was tested."""
    start = folder / '20260101_000000' / 'vis_data'
    start.mkdir(parents=True)
    unlabelled = None if supervised else dict(ann_file='unlabelled.txt')
    dataset = dict(labelled=dict(ann_file='labelled.txt'), unlabelled=unlabelled)
    config = dict(
        train_dataloader=dict(dataset=dataset),
        randomness=dict(seed=seed),
        load_from=weights,
        work_dir=str(folder),
    )
    lines = [f'{key} = {value!r}' for key, value in config.items()]
    (start / 'config.py').write_text('\n'.join(lines) + '\n')
    (start / 'scalars.json').write_text(json.dumps(dict(loss=1.0, iter=5, step=5)) + '\n')
    (folder / 'test').mkdir()
    about = dict(checkpoint='iter_5.pth', data='val', networks={'teacher': record})
    (folder / 'test' / 'iter_5.json').write_text(json.dumps(about))
    return folder


def gains_of(*folders):
    runs, faults = find_runs(folders)
    assert not faults and not any(run.faults for run in runs)
    return find_gains(group_runs(runs))


@pytest.fixture(scope='module')
def maps():
    """Truth of 40 images, guesses that are right in 70 % of the pixels, and in 80 % of them."""
    rng = np.random.default_rng(0)
    truths = rng.integers(0, 3, (40, 12, 12))
    noise = rng.random(truths.shape)
    wrong = (truths + rng.integers(1, 3, truths.shape)) % 3
    return truths, *(np.where(noise < right, truths, wrong) for right in (0.7, 0.8))


def plain_miou(truth, guess):
    """IoU of land and road, clutter left out of the truth; by hand."""
    counted = truth != 2
    ious = []
    for k in (0, 1):
        true, claimed = (truth == k) & counted, (guess == k) & counted
        ious.append((true & claimed).sum() / (true | claimed).sum())
    return 100 * np.mean(ious)


def test_difference_and_interval_are_those_of_images_drawn_again(maps, tmp_path):
    truths, poor, good = maps
    plain = leave(tmp_path / 'plain', evaluated(truths, poor), supervised=True)
    ours = leave(tmp_path / 'ours', evaluated(truths, good))
    (gain,) = gains_of(plain, ours)
    assert (gain.recipe, gain.bar, gain.images) == ('ours', 'plain', 40)
    expected = plain_miou(truths, good) - plain_miou(truths, poor)
    assert gain.mean == pytest.approx(expected) and gain.pairs == [pytest.approx(expected)]
    assert gain.score == pytest.approx(plain_miou(truths, good))
    rng, drawn = np.random.default_rng(1), []
    for _ in range(400):
        index = rng.integers(40, size=40)
        drawn.append(
            plain_miou(truths[index], good[index]) - plain_miou(truths[index], poor[index])
        )
    assert [gain.low, gain.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.5)
    assert gain.low > 0 and 'above plain' in str(gain) and 'apart' not in str(gain)


def test_what_is_equal_is_not_told_apart(maps, tmp_path):
    truths, poor, _ = maps
    plain = leave(tmp_path / 'plain', evaluated(truths, poor), supervised=True)
    flipped = leave(tmp_path / 'flipped', evaluated(truths[:, ::-1], poor[:, ::-1]))
    other = np.roll(poor, 1, axis=0)
    worse = leave(tmp_path / 'worse', evaluated(truths, other), weights='bad.pth')
    same, below = gains_of(plain, flipped, worse)
    assert (same.mean, same.low, same.high) == (0, 0, 0) and 'do not tell apart' in str(same)
    assert below.recipe == 'worse' and below.high < 0 and 'below plain' in str(below)


def test_seeds_are_paired_and_the_better_supervised_recipe_is_the_bar(maps, tmp_path):
    truths, poor, good = maps
    bad = np.full_like(truths, 2)
    for name, guesses in (('worst', (bad, bad)), ('plain', (poor, good))):
        for seed, guess in enumerate(guesses):
            record = evaluated(truths, guess)
            leave(tmp_path / f'{name}_seed{seed}', record, seed, supervised=True, weights=name)
    for seed, guess in enumerate((good, good)):
        leave(tmp_path / f'ours_seed{seed}', evaluated(truths, guess), seed)
    ours, worst = gains_of(tmp_path)
    assert (ours.recipe, ours.bar, worst.recipe) == ('ours', 'plain', 'worst')
    step = plain_miou(truths, good) - plain_miou(truths, poor)
    assert ours.pairs == pytest.approx([step, 0]) and ours.mean == pytest.approx(step / 2)
    assert ours.low < 0.1 and ours.high > 0.9 * step  # two runs that differ so much say little


def test_nothing_is_said_without_a_bar_or_of_other_images(maps, tmp_path):
    truths, poor, good = maps
    ours = leave(tmp_path / 'ours', evaluated(truths, good))
    assert gains_of(ours) == []
    names = [f'other{number}.png' for number in range(40)]
    plain = leave(tmp_path / 'plain', evaluated(truths, poor, names), supervised=True)
    assert gains_of(plain, ours) == []
    empty = dict(evaluated(truths, poor), images=[])
    leave(tmp_path / 'none' / 'plain', empty, supervised=True)
    leave(tmp_path / 'none' / 'ours', empty)
    assert gains_of(tmp_path / 'none') == []


def test_images_without_a_class_leave_the_interval_alone(maps, tmp_path):
    truths, poor, good = (each[:2].copy() for each in maps)
    truths[0] = 255  # nothing is known of it; drawn twice, there is no score at all
    plain = leave(tmp_path / 'plain', evaluated(truths, poor), supervised=True)
    (gain,) = gains_of(plain, leave(tmp_path / 'ours', evaluated(truths, good)))
    assert gain.low == pytest.approx(gain.mean) == gain.high


def test_the_page_answers_the_question(maps, tmp_path):
    truths, poor, good = maps
    leave(tmp_path / 'runs' / 'plain', evaluated(truths, poor), supervised=True)
    leave(tmp_path / 'runs' / 'ours', evaluated(truths, good))
    path, _ = write_report([tmp_path / 'runs'], tmp_path / 'page.html')
    page = path.read_text()
    assert 'Does it help?' in page and 'above plain' in page
    assert 'One run of each says nothing of other seeds' in page
