# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The demo's tiny CLIP, shortened: it says nothing about quality."""

import importlib
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmseg_semi_rs.datasets import synthetic
from mmseg_semi_rs.purification import PROMPTS
from mmseg_semi_rs.purification.verifiers.clip_verifier import CLIPVerifier
from tests.tools.tiny_training import ROOT


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    return importlib.import_module('make_demo_verifier')


@pytest.fixture
def few_places(tool, monkeypatch):
    """Places of one kind, which are quick to make."""
    made = [tool.make_captioned_place(0, index, size=128) for index in range(2)]
    monkeypatch.setattr(tool, 'make_captioned_place', lambda seed, index: made[index % 2])
    return made


def test_the_file_is_read_by_the_verifier_and_kept(tool, few_places, tmp_path):
    out = tmp_path / 'verifier'
    options = dict(places=8, iterations=2, workers=0)
    tool.make_demo_verifier(out, **options)
    assert sorted(each.name for each in out.iterdir()) == ['fabricated.json', 'verifier.pt']
    weights = out / 'verifier.pt'
    verifier = CLIPVerifier('potsdam', tool.ARCH, str(weights), distractors=tool.DISTRACTORS)
    verifier.load()
    stored = torch.load(weights)
    vision = verifier._similarity.vision.state_dict()
    assert all(torch.equal(stored[f'visual.{key}'], value) for key, value in vision.items())
    (found,) = verifier.verify([few_places[0].first])
    assert found.scores.shape == (6, 32, 32) and not found.scores[5].any()

    written = weights.stat().st_mtime_ns
    tool.make_demo_verifier(out, **options)
    assert weights.stat().st_mtime_ns == written
    tool.make_demo_verifier(out, **{**options, 'seed': 1})
    assert json.loads((out / 'fabricated.json').read_text())['seed'] == 1
    assert not torch.equal(
        torch.load(weights)['visual.conv1.weight'], stored['visual.conv1.weight']
    )


def test_every_tensor_of_both_towers_learns_and_repeats(tool, few_places):
    torch.manual_seed(0)
    before = tool.CaptionContrast().state_dict()
    after, again = (tool.pretrain(few_places, 2, seed=0) for _ in range(2))
    assert all(torch.equal(after[name], again[name]) for name in after)
    still = {
        name
        for name, tensor in before.items()
        if torch.equal(tensor, after[name.removeprefix('text.')])
    }
    assert not still


def test_the_loss_is_a_cross_entropy_over_captions(tool, few_places, monkeypatch):
    task = tool.CaptionContrast(batch=2, captions=2).eval()
    rng = np.random.default_rng(3)
    cut, draw = task.cut(few_places, rng), task.draw_captions(rng)
    monkeypatch.setattr(task, 'cut', lambda *_: cut)
    monkeypatch.setattr(task, 'draw_captions', lambda *_: draw)
    loss = task(few_places, rng)
    (images, shares), (sentences, about) = cut, draw
    texts = F.normalize(task.text(task.tokenizer(sentences)), dim=1)
    codes = task.visual(images)[-1]
    found = []
    for image, row, column in np.ndindex(2, 16, 16):
        share, label = shares[image, :, row, column].max(0)
        if share > 0.5 and label != 5:
            likely = torch.softmax(15 * texts @ codes[image, :, row, column], 0)
            found.append((int(label), -likely[about == label].sum().log()))
    count = {label: sum(each == label for each, _ in found) for label, _ in found}
    weights = [count[label] ** -0.6 for label, _ in found]
    total = sum(weight * each for weight, (_, each) in zip(weights, found, strict=True))
    assert len(count) > 3 and torch.allclose(loss, total / sum(weights), rtol=1e-3)


def test_captions_use_the_verifiers_words_and_never_clutter(tool):
    task, rng = tool.CaptionContrast(), np.random.default_rng(0)
    words = set()
    for _ in range(40):
        sentences, about = task.draw_captions(rng)
        for sentence, label in zip(sentences, about.tolist(), strict=True):
            names = [name for name in tool.NAMES[label] if name in sentence]
            assert names and '{}' not in sentence
            words.update(names)
    assert {name for names in PROMPTS['potsdam'] for name in names} <= words
    assert 5 not in about and not any('clutter' in word for word in words)


def test_places_are_their_own_and_labels_agree_with_the_scenes(tool, monkeypatch):
    seeds = []
    make = np.random.default_rng
    monkeypatch.setattr(
        tool.np.random, 'default_rng', lambda seed: seeds.append(seed) or make(seed)
    )
    place = tool.make_captioned_place(7, 3, size=256)
    assert seeds == [[7, 200_003]]
    rng = make([7, 200_003])
    expected = synthetic.layout_labels(synthetic.make_layout(rng, 256)) - 1
    assert np.array_equal(np.minimum(place.labels, 5), expected)
    assert set(np.unique(place.labels)) - set(range(5)) <= {5, 6, 7, 8}
    assert (place.labels == 5).sum() < 0.2 * max(1, (expected == 5).sum())  # the rest has a name
    assert not np.array_equal(place.first, place.second)


def test_too_few_places_are_refused(tool, tmp_path):
    with pytest.raises(ValueError, match='places=7 does not fill a batch: give at least 8'):
        tool.make_demo_verifier(tmp_path, places=7)
