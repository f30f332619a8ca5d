# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The demo's stand-ins for DINOv2 and CLIP: the files that are kept, and a shortened training."""

import hashlib
import json

import make_demo_teachers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from demo import caption_contrast, places, teachers
from demo import scenes as fabricated
from demo.caption_contrast import CaptionContrast
from demo.self_distillation import SelfDistillation, balanced
from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_semi_rs.models.weights import read_weight_file
from mmseg_semi_rs.purification import PROMPTS
from tests._support.tiny_training import ROOT

KEPT = ROOT / 'tools' / 'demo' / 'configs' / 'teachers'


@pytest.fixture(scope='module')
def made():
    return [places.make_place(0, index, size=192, regions=60) for index in range(2)]


@pytest.fixture
def known(made, monkeypatch):
    """Two places, which stand for all that the tool asks for."""
    monkeypatch.setattr(teachers, 'make_place', lambda seed, index: made[(seed + index) % 2])
    monkeypatch.setattr(SelfDistillation.__init__, '__defaults__', (2, 16, 0.3, 0.2))
    monkeypatch.setattr(CaptionContrast.__init__, '__defaults__', (2, 6))
    return made


@pytest.mark.parametrize('name', ['clip.pt', 'dinov2.pth'])
def test_kept_weights_are_small_and_what_their_note_says(name):
    note = json.loads((KEPT / name).with_suffix('.json').read_text())
    assert note['file'] == name
    assert hashlib.sha256((KEPT / name).read_bytes()).hexdigest() == note['sha256']
    assert (KEPT / name).stat().st_size <= 2_000_000
    command = 'python tools/make_demo_teachers.py '
    assert note['command'].startswith(command) and f'--seed {note["seed"]}' in note['command']
    assert {'torch', 'numpy'} <= set(note['versions'])
    assert note['steps'] == teachers.STEPS['clip' if name == 'clip.pt' else 'dinov2']


@pytest.mark.parametrize('name', ['dino', 'clip'])
def test_teachers_of_the_demo_hold_the_kept_weights_and_nothing_else(name):
    cfg = Config.fromfile(ROOT / 'tools/demo/configs/rsmtdf_potsdam_3-32.py')
    backbone = cfg.model.student.decode_head.teachers[name].backbone
    path = ROOT / backbone.checkpoint
    module = MODELS.build({**backbone, 'checkpoint': str(path)})
    module.init_weights()  # refuses tensors that are missing, left over or of another shape
    stored = [tensor.float() for tensor in read_weight_file(path).tensors.values()]
    for key, tensor in module.state_dict().items():
        assert any(
            tensor.numel() == other.numel() and torch.equal(tensor.flatten(), other.flatten())
            for other in stored
        ), key


def test_verifier_of_the_demo_reads_the_same_file():
    cfg = Config.fromfile(ROOT / 'tools/demo/configs/semiearth_potsdam_3-32.py')
    verifier = dict(cfg.purify.verifier, checkpoint=str(ROOT / cfg.purify.verifier.checkpoint))
    built = MODELS.build(verifier)
    built.load()
    image, _ = fabricated.make_scene(seed=7, index=0, size=128)
    (found,) = built.verify([image])
    assert found.scores.shape == (6, 32, 32) and found.scores.reshape(6, -1).any(1).all()


def test_the_command_is_reproducible_and_writes_its_note(known, tmp_path):
    options = ['--places', '12', '--steps', '2', '--workers', '0']
    for folder, seed in (('one', '0'), ('again', '0'), ('other', '1')):
        make_demo_teachers.main(['--out', str(tmp_path / folder), '--seed', seed, *options])
    names = sorted(path.name for path in (tmp_path / 'one').iterdir())
    assert names == ['clip.json', 'clip.pt', 'dinov2.json', 'dinov2.pth']
    for name in ('clip', 'dinov2'):
        one, again, other = (
            json.loads((tmp_path / folder / f'{name}.json').read_text())
            for folder in ('one', 'again', 'other')
        )
        assert one['sha256'] == again['sha256'] != other['sha256']
        assert one['command'].endswith('--seed 0 --places 12 --steps 2')


@pytest.mark.parametrize('name', ['clip', 'dinov2'])
def test_every_tensor_learns(known, name):
    task = teachers.TASKS[name]()
    task(known, np.random.default_rng(0)).backward()
    learnt = {key for key, each in task.named_parameters() if each.requires_grad}
    idle = {key for key in learnt if not task.get_parameter(key).grad.to_dense().any()}
    assert not idle
    average = {key for key, _ in task.named_parameters() if key.startswith('average.')}
    assert learnt | average == {key for key, _ in task.named_parameters()}


def test_the_average_follows_the_student(known):
    task = SelfDistillation()
    for weight in task.student.parameters():
        weight.data += 1
    before = [weight.clone() for weight in task.average.parameters()]
    task(known, np.random.default_rng(0))
    for old, now, new in zip(
        before, task.average.parameters(), task.student.parameters(), strict=True
    ):
        assert torch.allclose(now, (old + new) / 2)  # the first of many updates


def test_teachers_are_given_photographs_and_words_but_no_class_map(known):
    assert places.Place._fields == ('photographs', 'regions')
    assert places.Region._fields == ('top', 'left', 'height', 'width', 'content')
    place = places.make_place(3, 5, size=192, regions=60)
    assert place.photographs.shape == (2, 192, 192, 3) and place.photographs.dtype == np.uint8
    for region in place.regions:
        assert min(region.height, region.width) >= 10  # a rectangle, not the outline of a thing
        assert region.top + region.height <= 192 and region.left + region.width <= 192
        assert isinstance(region.content, str)
    # And all that a training step needs is in there.
    for task in teachers.TASKS.values():
        assert task()(known, np.random.default_rng(0)).isfinite()


def test_places_are_never_scenes_of_the_demo(monkeypatch):
    seeds = []
    make = np.random.default_rng
    monkeypatch.setattr(
        places.np.random, 'default_rng', lambda seed: seeds.append(seed) or make(seed)
    )
    places.make_place(7, 3, size=64, regions=1)
    assert seeds == [[7, 100_003]]  # scenes are [seed, 0] to [seed, 47]


def test_captions_say_what_is_in_the_rectangle():
    kinds = list(places.WORDS)
    things = np.full((20, 40), kinds.index('lawn'), np.uint8)
    things[:, 28:] = kinds.index('road')
    things[2:5, 31:37] = things[10:13, 31:37] = kinds.index('car')
    content = places._content(things)
    assert content == 'lawn, road, car 2'
    rng = np.random.default_rng(0)
    sentences = {places.write_caption(content, rng) for _ in range(3000)}
    assert len(sentences) > 50
    assert any('a grass, a road and two cars' in sentence for sentence in sentences)
    assert not any('{}' in sentence or 'clutter' in sentence for sentence in sentences)
    alone = {places.write_caption('site', rng) for _ in range(50)}
    assert 'an aerial photo of a construction site' in alone
    words = {word for names in places.WORDS.values() for word in names}
    asked = {name for names in PROMPTS['potsdam'] for name in names} - {'bush'}  # a hedge is low
    assert asked <= words


def test_the_contrast_is_a_cross_entropy_over_captions_and_regions(known, monkeypatch):
    task, rng = CaptionContrast(2, 6).eval(), np.random.default_rng(3)
    cut = task.cut(known, rng)
    monkeypatch.setattr(task, 'cut', lambda *_: cut)
    monkeypatch.setattr(
        caption_contrast, 'write_caption', lambda content, _: f'a photo of {content}'
    )
    loss = task(known, rng)
    images, owner, share, contents = cut
    assert torch.allclose(share.sum(1), torch.ones(len(share)), atol=1e-5)
    maps = task.visual(images)[-1]
    codes = [
        F.normalize((maps[image] * weight.view(1, 16, 16)).sum((1, 2)), dim=0)
        for image, weight in zip(owner, share, strict=True)
    ]
    sentences = [f'a photo of {content}' for content in contents]
    texts = F.normalize(task.text(task.tokenizer(sentences)), dim=1)
    total = 0.0
    for one in range(len(codes)):
        same = [other for other, content in enumerate(contents) if content == contents[one]]
        told = torch.softmax(torch.stack([10 * codes[one] @ text for text in texts]), 0)
        found = torch.softmax(torch.stack([10 * code @ texts[one] for code in codes]), 0)
        total -= sum(told[other].log() + found[other].log() for other in same) / len(same)
    assert torch.allclose(loss, total / len(codes) / 2, rtol=1e-4)


def test_both_dates_are_compared_at_the_same_spots():
    ramp = np.add.outer(np.arange(192) * 0.5, np.arange(192) * 0.5)  # brightness tells the place
    photograph = np.repeat(ramp[..., None], 3, axis=-1).astype(np.uint8)
    place = places.Place(np.stack([photograph, photograph]), [])
    task = SelfDistillation(2, 16, 0.0, 0.0)
    images, patches = task.cut([place, place], np.random.default_rng(0))
    brightness = F.avg_pool2d(images.mean(1, keepdim=True), 8).flatten(1).gather(1, patches)
    first, second = brightness.chunk(2)
    assert patches.shape == (4, 64) and torch.allclose(first, second, atol=0.02)
    assert first.std() > 0.1


def test_clusters_are_filled_evenly_and_patches_are_assigned_once():
    torch.manual_seed(0)
    share = balanced(torch.randn(400, 8) * 0.1 + torch.arange(8) * 0.1, rounds=20)
    assert torch.allclose(share.sum(1), torch.ones(400))
    assert torch.allclose(share.sum(0), torch.full((8,), 50.0), rtol=0.05)


def test_too_few_places_are_refused(tmp_path):
    with pytest.raises(ValueError, match='places=7 does not fill a batch: give at least 12'):
        teachers.make_demo_teachers(tmp_path, places=7)
