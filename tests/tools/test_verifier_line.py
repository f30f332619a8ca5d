# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""tools/test.py --verifier: the row for 0 labels."""

import json

import numpy as np
import pytest
from PIL import Image

from mmseg_semi_rs.purification.evidence import Evidence
from tests._support.stub_verifier import StubVerifier
from tests._support.tiny_training import run_here, write_training

HOOK = """
custom_hooks.append(dict(type='VLMPurifyHook', store='store', verifier=dict(
    type='StubVerifier', colours=[(40, 160, 40), (170, 60, 50), (90, 90, 90)])))
"""


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    config = write_training(tmp_path_factory.mktemp('line') / 'data')
    leaf = config.with_name('leaf.py')
    leaf.write_text(config.read_text() + HOOK)
    return leaf


def run(config, *arguments):
    file = config.with_name('found.json')
    run_here('test', config, *arguments, '--json', file)
    return json.loads(file.read_text())


def test_a_verifier_by_name_is_asked_for_the_classes_and_evaluated_by_the_metric(tiny):
    out = tiny.with_name('ids')
    found = run(tiny, '--verifier', 'StubVerifier', '--out', out)
    hits, total = 0, 0
    for name in ('tile_4', 'tile_5', 'tile_6'):
        truth = np.asarray(Image.open(tiny.parent / 'ann' / f'{name}.png'))
        said = np.asarray(Image.open(out / f'{name}.png'))
        hits, total = hits + (truth == said).sum(), total + truth.size
    assert found['aAcc'] == pytest.approx(100 * hits / total, abs=0.01) and found['aAcc'] > 95
    assert {'IoU.grass', 'IoU.road', 'IoU.roof', 'mIoU'} <= set(found)


def test_that_of_the_config_and_of_another_one_and_changed_arguments(tiny):
    swapped = run(tiny, '--verifier')  # its colours of road and roof are swapped
    assert swapped['IoU.grass'] > 90 and swapped['IoU.road'] < 10
    assert run(tiny, '--verifier', tiny) == swapped
    other = tiny.with_name('other.py')
    other.write_text("verifier = dict(type='StubVerifier')\n")
    assert run(tiny, '--verifier', other)['mIoU'] > 90
    colours = 'verifier.colours=[[40,160,40],[90,90,90],[170,60,50]]'
    assert run(tiny, '--verifier', '--cfg-options', colours)['mIoU'] > 90


def test_what_nothing_is_said_of_is_the_class_that_is_not_asked_for(tiny, monkeypatch, capsys):
    said = StubVerifier.verify

    def half(self, tiles):
        found = said(self, tiles)
        for evidence in found:
            evidence.seen[:, : evidence.seen.shape[1] // 2] = False
        return found

    monkeypatch.setattr(StubVerifier, 'verify', half)
    with pytest.raises(SystemExit):
        run(tiny, '--verifier', 'StubVerifier')
    assert 'says nothing of 50% of the pixels' in capsys.readouterr().err
    roof = run(
        tiny, '--verifier', 'StubVerifier', '--unclaimed', 'roof', '--out', tiny.parent / 'r'
    )
    assert (
        np.asarray(Image.open(tiny.parent / 'r' / 'tile_4.png'))[:, :30].tolist() == [[2] * 30] * 64
    )
    unasked = 'verifier.classes=["grass","road",None]'
    assert run(tiny, '--verifier', 'StubVerifier', '--cfg-options', unasked) == roof


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], 'give a checkpoint, or --verifier'),
        (['a.pth', '--verifier'], '--verifier needs no network, but checkpoint a.pth is given'),
        (['--verifier', 'Nobody'], 'Nobody is no verifier'),
        (['--verifier', 'SuperpixelProposer'], 'SuperpixelProposer is no verifier'),
        (['--verifier', 'gone.py'], 'gone.py does not exist'),
        (['--verifier', '--unclaimed', 'sea'], '--unclaimed sea is no class'),
        (['--verifier', '--cfg-options', 'verifier.classes=["grass"]'], 'prompts for 1 classes'),
        (
            ['--verifier', '--cfg-options', 'verifier.calibration=no.json'],
            'is to be fitted to labelled tiles first',
        ),
    ],
)
def test_bad_input_is_one_sentence(tiny, arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    (tiny.parent / 'a.pth').touch()
    with pytest.raises(SystemExit) as left:
        run(tiny, *arguments)
    assert left.value.code == 2 and words in capsys.readouterr().err


def test_evidence_of_another_size_is_told(tiny, monkeypatch, capsys):
    monkeypatch.setattr(
        StubVerifier,
        'verify',
        lambda self, tiles: [Evidence(np.ones((3, 2, 2), np.uint8), np.ones((2, 2), bool), (8, 8))],
    )
    with pytest.raises(SystemExit):
        run(tiny, '--verifier')
    assert 'is for (8, 8) pixels, the tile has (64, 64)' in capsys.readouterr().err
