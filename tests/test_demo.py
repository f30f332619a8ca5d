# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The demo, shortened: it says nothing about quality, all about the pieces fitting together."""

import contextlib
import io
import re

import numpy as np
import pytest
from demo import runs
from demo.picture import class_iou
from PIL import Image

from mmseg_semi_rs.dataprep.splits.draw import SCENE_REGEX, scene_of
from tests._support import processes
from tests._support.tiny_training import load_tool

# One of each kind, in one run.
METHODS = ('supervised', 'fixmatch', 'semiearth', 'rsmtdf', 'unimatchv2', 'co2s')


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """Folder and output of a demo, whose processes have imported everything before they start."""
    folder = tmp_path_factory.mktemp('demo')
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(runs, 'subprocess', processes)
        patch.chdir(folder)
        patch.setenv('COLUMNS', '300')  # the table has a column for each network
        load_tool('demo').main(['--quick', '--methods', *METHODS])
    return folder, printed.getvalue()


@pytest.mark.slow
def test_demo_trains_resumes_evaluates_and_draws(demo):
    folder, printed = demo
    table = next(line for line in printed.splitlines() if 'mean ' in line)
    figures = [float(word) for word in re.findall(r'\d+\.\d', table)]
    assert len(figures) == 5 * 2 + 3 + 1  # student and EMA; two students and both; CLIP by name
    assert all(0 <= figure <= 100 for figure in figures)
    assert Image.open(folder / 'work_dirs' / 'demo' / 'demo.png').width > 600
    assert 'and resumed' in printed or 'too short' in printed  # as fast as the machine is


@pytest.mark.slow
def test_demo_labels_whole_scenes_and_scores_others(demo):
    lists = demo[0] / 'data' / 'demo_potsdam' / 'splits' / 'scene'
    labelled, unlabelled = (
        (lists / '3-32' / f'{part}.txt').read_text().split() for part in ('labeled', 'unlabeled')
    )
    held_out = (lists / 'val.txt').read_text().split()
    everything = (lists / 'train.txt').read_text().split()
    assert len(labelled) == 1 and set(everything) == {*labelled, *unlabelled}
    places = [
        {scene_of(name, SCENE_REGEX['potsdam']) for name in part} for part in (labelled, unlabelled)
    ]
    assert not places[0] & places[1]
    assert not set(held_out) & set(everything)


@pytest.mark.slow
def test_demo_counts_what_purification_does_and_shows_why(demo):
    folder, printed = demo
    right = [line for line in printed.splitlines() if 'labels that are right' in line]
    assert len([line for line in right if len(re.findall(r'\d+\.\d', line)) == 2]) == 2
    assert len(list((folder / 'data' / 'evidence').glob('*/*/*/*.npz'))) == 11  # all tiles
    for name in ('fixmatch', 'semiearth'):
        audit = folder / 'work_dirs' / 'demo' / f'audit_{name}'
        assert (audit / 'audit.html').stat().st_size > 10_000
        assert len((audit / 'audit.jsonl').read_text().splitlines()) == 10  # unlabelled tiles


def test_picture_reports_iou_of_a_tile():
    truth = np.array([[0, 0, 0, 1], [255, 255, 2, 2]], np.uint8)
    prediction = np.array([[0, 0, 1, 1], [2, 0, 2, 2]], np.uint8)
    iou = class_iou(prediction, truth, classes=4)
    # class 0: 2 of 3, class 1: 1 of 2, class 2: 2 of 2, class 3 is in neither map
    assert np.allclose(iou[:3], [200 / 3, 50, 100]) and np.isnan(iou[3])
