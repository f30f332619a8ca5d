# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The demo, shortened: it says nothing about quality, all about the pieces fitting together."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.tools.tiny_training import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    ('methods', 'figures'), [(('co2s-supervised', 'co2s'), 6), (('supervised', 'unimatchv2'), 4)]
)
def test_demo_of_own_networks_needs_no_stand_ins(tmp_path, methods, figures):
    demo = [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / 'demo.py'), '--quick']
    done = subprocess.run(
        [*demo, '--methods', *methods],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert Image.open(tmp_path / 'work_dirs' / 'demo' / 'demo.png').width > 600
    table = next(line for line in done.stdout.splitlines() if 'mean' in line)
    assert len(re.findall(r'\d+\.\d', table)) == figures
    assert not (tmp_path / 'data' / 'demo_teachers').exists()


@pytest.mark.slow
def test_demo_of_purification_counts_what_it_did_and_shows_why(tmp_path):
    demo = [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / 'demo.py'), '--quick']
    done = subprocess.run(
        [*demo, '--methods', 'fixmatch', 'semiearth'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    table = next(line for line in done.stdout.splitlines() if 'mean ' in line)
    assert len(re.findall(r'\d+\.\d', table)) == 4
    right = [line for line in done.stdout.splitlines() if 'labels that are right' in line]
    assert len([line for line in right if len(re.findall(r'\d+\.\d', line)) == 2]) == 2
    assert len(list((tmp_path / 'data' / 'evidence').glob('*/*/*/*.npz'))) == 16  # all tiles
    for name in ('fixmatch', 'semiearth'):
        folder = tmp_path / 'work_dirs' / 'demo' / f'audit_{name}'
        assert (folder / 'audit.html').stat().st_size > 10_000
        assert len((folder / 'audit.jsonl').read_text().splitlines()) == 12  # unlabelled tiles


@pytest.mark.slow
def test_demo_trains_resumes_evaluates_and_draws(tmp_path):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / 'demo.py'), '--quick'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert Image.open(tmp_path / 'work_dirs' / 'demo' / 'demo.png').width > 600
    table = next(line for line in done.stdout.splitlines() if 'mean' in line)
    figures = [float(word) for word in re.findall(r'\d+\.\d', table)]
    assert len(figures) == 4 and all(0 <= figure <= 100 for figure in figures)
    lists = tmp_path / 'data' / 'demo_potsdam' / 'splits' / 'scene'
    labelled = (lists / '1-4' / 'labeled.txt').read_text().split()
    unlabelled = (lists / '1-4' / 'unlabeled.txt').read_text().split()
    held_out = (lists / 'val.txt').read_text().split()
    scenes = [{name.split('/')[1][:4] for name in part} for part in (labelled, unlabelled)]
    assert not scenes[0] & scenes[1]
    assert not set(held_out) & {*labelled, *unlabelled}
    weights = tmp_path / 'data' / 'demo_teachers'
    assert (weights / 'dinov2.pth').is_file() and (weights / 'clip.pt').is_file()
