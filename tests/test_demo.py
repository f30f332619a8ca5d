# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The demo, shortened: it says nothing about quality, all about the pieces fitting together."""

import importlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmseg_semi_rs.dataprep.splits.draw import SCENE_REGEX, scene_of
from tests.tools.tiny_training import ROOT

QUICK = [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / 'demo.py'), '--quick']


def run_demo(folder, *methods):
    words = ['--methods', *methods] if methods else []
    done = subprocess.run([*QUICK, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert Image.open(folder / 'work_dirs' / 'demo' / 'demo.png').width > 600
    table = next(line for line in done.stdout.splitlines() if 'mean ' in line)
    figures = [float(word) for word in re.findall(r'\d+\.\d', table)]
    assert all(0 <= figure <= 100 for figure in figures)
    return done.stdout, figures


@pytest.mark.slow
@pytest.mark.parametrize(
    ('methods', 'figures'), [(('co2s-supervised', 'co2s'), 6), (('supervised', 'unimatchv2'), 4)]
)
def test_demo_of_own_networks(tmp_path, methods, figures):
    assert len(run_demo(tmp_path, *methods)[1]) == figures


@pytest.mark.slow
def test_demo_of_purification_counts_what_it_did_and_shows_why(tmp_path):
    printed, figures = run_demo(tmp_path, 'fixmatch', 'semiearth')
    assert len(figures) == 5  # two rows with student and EMA, and the CLIP by name
    right = [line for line in printed.splitlines() if 'labels that are right' in line]
    assert len([line for line in right if len(re.findall(r'\d+\.\d', line)) == 2]) == 2
    assert len(list((tmp_path / 'data' / 'evidence').glob('*/*/*/*.npz'))) == 44  # all tiles
    for name in ('fixmatch', 'semiearth'):
        folder = tmp_path / 'work_dirs' / 'demo' / f'audit_{name}'
        assert (folder / 'audit.html').stat().st_size > 10_000
        assert len((folder / 'audit.jsonl').read_text().splitlines()) == 40  # unlabelled tiles


@pytest.mark.slow
def test_demo_trains_resumes_evaluates_and_draws(tmp_path):
    printed, figures = run_demo(tmp_path)
    assert len(figures) == 9  # four rows with student and EMA, and the CLIP by name
    assert 'and resumed' in printed or 'too short' in printed  # as fast as the machine is
    lists = tmp_path / 'data' / 'demo_potsdam' / 'splits' / 'scene'
    labelled, unlabelled = (
        (lists / '3-32' / f'{part}.txt').read_text().split() for part in ('labeled', 'unlabeled')
    )
    held_out = (lists / 'val.txt').read_text().split()
    everything = (lists / 'train.txt').read_text().split()
    assert len(labelled) == 4 and set(everything) == {*labelled, *unlabelled}
    places = [
        {scene_of(name, SCENE_REGEX['potsdam']) for name in part} for part in (labelled, unlabelled)
    ]
    assert not places[0] & places[1]
    assert not set(held_out) & set(everything)


def test_picture_reports_iou_of_a_tile(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    picture = importlib.import_module('demo.picture')
    truth = np.array([[0, 0, 0, 1], [255, 255, 2, 2]], np.uint8)
    prediction = np.array([[0, 0, 1, 1], [2, 0, 2, 2]], np.uint8)
    iou = picture.class_iou(prediction, truth, classes=4)
    # class 0: 2 of 3, class 1: 1 of 2, class 2: 2 of 2, class 3 is in neither map
    assert np.allclose(iou[:3], [200 / 3, 50, 100]) and np.isnan(iou[3])
