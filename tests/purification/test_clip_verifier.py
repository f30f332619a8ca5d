# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import json
import re
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS

from mmseg_semi_rs.models.class_embeddings import TEMPLATES
from mmseg_semi_rs.models.teachers.frozen_teacher import cpu_has_half
from mmseg_semi_rs.purification import PROMPTS
from mmseg_semi_rs.purification.verifiers import clip_verifier
from mmseg_semi_rs.purification.verifiers.clip_verifier import CLIPVerifier, fit_temperature
from mmseg_semi_rs.purification.verifiers.dense_similarity import average_windows, window_starts

# Patches of 8 px, windows of 32 px.
VISION = dict(width=16, layers=2, heads=2, patch_size=8, image_size=32, embed_dim=8)
TEXT = dict(width=16, layers=2, heads=2, embed_dim=8)
ARCH = dict(vision=VISION, text=TEXT)
CLASSES = [['building', 'house'], None, ['low_vegetation', 'grass'], 'car']
DISTRACTORS = ('pond', 'clutter')
MEAN = torch.tensor([122.771, 116.746, 104.094]).view(1, 3, 1, 1)
STD = torch.tensor([68.501, 66.632, 70.323]).view(1, 3, 1, 1)


def shake(model):
    """Give every tensor values of its own, so that places and sentences differ."""
    for name, parameter in model.named_parameters():
        norm = parameter.dim() == 1 and name.endswith('weight')
        torch.nn.init.normal_(parameter, mean=float(norm), std=0.3)
    return model.eval()


@pytest.fixture(scope='module')
def clip():
    """A CLIP whose similarities differ from place to place."""
    torch.manual_seed(3)
    model = open_clip.CLIP(
        embed_dim=8,
        vision_cfg=dict(width=16, layers=2, head_width=8, patch_size=8, image_size=32),
        text_cfg=dict(width=16, layers=2, heads=2),
    )
    return shake(model)


@pytest.fixture(scope='module')
def weights(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'tiny.pt'
    torch.save(clip.state_dict(), path)
    return str(path)


@pytest.fixture(scope='module')
def any_arch(tmp_path_factory):
    """A model of open_clip that is no plain ViT, known to open_clip by its name."""
    config = dict(
        embed_dim=8,
        vision_cfg=dict(image_size=32, layers=[1, 1, 1, 1], width=8),
        text_cfg=dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=2),
    )
    path = tmp_path_factory.mktemp('configs') / 'RN-tiny.json'
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    yield path.stem
    open_clip.factory._MODEL_CONFIG_PATHS.remove(path)
    open_clip.factory._MODEL_CONFIGS.pop(path.stem)


def build(checkpoint, **kwargs):
    cfg = dict(type='CLIPVerifier', classes=CLASSES, arch=ARCH, distractors=DISTRACTORS)
    return MODELS.build({**cfg, 'checkpoint': checkpoint, 'temperature': 0.05, **kwargs})


def loaded(checkpoint, **kwargs):
    verifier = build(checkpoint, **kwargs)
    verifier.load()
    return verifier


def tile(height=32, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def restated_texts(clip, concepts):
    """Mean of the raw features over names and templates, brought to length 1."""
    rows = []
    for names in concepts:
        features = []
        for name in names:
            for template in TEMPLATES['aerial']:
                sentence = template.format(name.replace('_', ' '))
                features.append(clip.encode_text(open_clip.tokenize([sentence]))[0])
        mean = sum(features) / len(features)
        rows.append(mean / mean.norm())
    return torch.stack(rows).detach()


def similarity_of(verifier):
    return verifier._similarity


def restated_cosines(clip, images, texts):
    """MaskCLIP: the last block gives each place its own value; then ln_post and projection."""
    visual = clip.visual
    with torch.no_grad():
        patches = visual.conv1(images).flatten(2).permute(0, 2, 1)
        tokens = torch.cat([visual.class_embedding.expand(len(images), 1, -1), patches], 1)
        tokens = visual.ln_pre(tokens + visual.positional_embedding)
        tokens = visual.transformer.resblocks[0](tokens)
        last = visual.transformer.resblocks[1]
        width = last.attn.embed_dim
        value = last.ln_1(tokens) @ last.attn.in_proj_weight[2 * width :].T
        value = value + last.attn.in_proj_bias[2 * width :]
        tokens = tokens + value @ last.attn.out_proj.weight.T + last.attn.out_proj.bias
        tokens = tokens + last.mlp(last.ln_2(tokens))
        found = visual.ln_post(tokens[:, 1:]) @ visual.proj
        found = found / found.norm(dim=-1, keepdim=True)
        return (found @ texts.T).permute(0, 2, 1).unflatten(2, (4, 4))


CONCEPTS = [['building', 'house'], ['low_vegetation', 'grass'], ['car'], ['pond'], ['clutter']]


# What it computes.


def test_one_window_is_the_softmax_of_cosines(clip, weights):
    image = tile()
    found = loaded(weights, scales=[1.0]).verify([image])[0]
    normal = (torch.tensor(image).permute(2, 0, 1)[None] - MEAN) / STD
    cosines = restated_cosines(clip, normal, restated_texts(clip, CONCEPTS))[0]
    assert cosines.std(0).mean() > 0.02  # else nothing would be compared
    powers = [torch.exp(each / 0.05) for each in cosines]
    for label, index in ((0, 0), (2, 1), (3, 2)):
        expected = (powers[index] / sum(powers) * 255).numpy()
        assert np.abs(found.scores[label] - expected).max() < 0.51
    assert found.scores.shape == (4, 4, 4) and found.scores.dtype == np.uint8
    assert found.seen.all() and found.size == (32, 32)


def test_classes_that_are_not_asked_for_have_no_score(weights):
    scores = loaded(weights).verify([tile()])[0].scores
    assert not scores[1].any() and scores[[0, 2, 3]].any(axis=(1, 2)).all()


def test_synonyms_are_averaged(weights):
    both = loaded(weights).verify([tile()])[0].scores
    one = [['building'], *CLASSES[1:]]
    assert not np.array_equal(loaded(weights, classes=one).verify([tile()])[0].scores, both)


def test_distractors_take_mass_and_are_no_evidence(weights):
    image = tile()
    few = loaded(weights, distractors=()).verify([image])[0].scores
    more = loaded(weights).verify([image])[0].scores
    assert few.shape == more.shape
    assert np.abs(few.sum(0, dtype=int) - 255).max() <= 2  # all mass is on the classes
    assert (more.sum(0, dtype=int) < 250).all()


def test_a_colder_softmax_is_surer(weights):
    warm, cold = (
        loaded(weights, temperature=each, distractors=()).verify([tile()])[0].scores
        for each in (1, 0.02)
    )
    assert cold.max(0).mean() > warm.max(0).mean() + 20


# Windows.


@pytest.mark.parametrize('length', [1, 7, 8, 9, 20, 33])
@pytest.mark.parametrize(('window', 'stride'), [(8, 8), (8, 3), (8, 1)])
def test_windows_cover_every_place_and_stay_inside(length, window, stride):
    starts = window_starts(length, window, stride)
    covered = {place for start in starts for place in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert starts == sorted(set(starts)) and max(starts) + min(window, length) == length


class Reading(torch.nn.Module):
    """Stands for a model: the mean colour of a patch, and how bright its window is."""

    cell, texts = 4, torch.zeros(4, 1)

    def forward(self, images):
        mean = F.avg_pool2d(images, 4)
        return torch.cat([mean, images.mean((1, 2, 3)).view(-1, 1, 1, 1).expand_as(mean[:, :1])], 1)


@pytest.mark.parametrize('batch', [1, 5, 100])
def test_overlapping_windows_are_averaged(batch):
    image = torch.randn(3, 28, 40, generator=torch.Generator().manual_seed(0))
    found = average_windows(Reading(), image, window=16, stride=8, batch=batch)
    values = [[[] for _ in range(10)] for _ in range(7)]
    for top in (0, 8, 12):
        for left in (0, 8, 16, 24):
            window = image[:, top : top + 16, left : left + 16]
            for row in range(4):
                for column in range(4):
                    colour = window[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                    parts = [*colour.mean((1, 2)), window.mean()]
                    values[top // 4 + row][left // 4 + column].append(torch.stack(parts))
    for row in range(7):
        for column in range(10):
            expected = sum(values[row][column]) / len(values[row][column])
            assert torch.allclose(found[:, row, column], expected, atol=1e-5)


def test_scales_are_averaged_on_the_finest_grid(weights):
    image = tile(48, 32)
    maps = {}
    for scales in ([1.0], [2.0], [1.0, 2.0]):
        maps[len(scales), scales[0]] = loaded(weights, scales=scales)._cosines(image)
    coarse, fine, both = maps[1, 1.0], maps[1, 2.0], maps[2, 1.0]
    assert coarse.shape[1:] == (6, 4) and fine.shape == both.shape and fine.shape[1:] == (12, 8)
    enlarged = F.interpolate(coarse[None], (12, 8), mode='bilinear')[0]
    assert torch.allclose(both, (enlarged + fine) / 2, atol=1e-5)


def test_the_grid_has_a_cap(weights):
    full = loaded(weights, scales=[1.0]).verify([tile(64, 96)])[0]
    capped = loaded(weights, scales=[1.0], grid=6).verify([tile(64, 96)])[0]
    assert full.scores.shape[1:] == (8, 12) and capped.scores.shape[1:] == (4, 6)


@pytest.mark.parametrize('size', [(1, 1), (3, 50), (37, 41), (70, 33)])
def test_any_size_will_do(weights, size):
    found = loaded(weights).verify([tile(*size), np.full((*size, 3), 128, np.uint8)])
    for evidence in found:
        assert evidence.size == size and evidence.answer
        assert evidence.scores.any()


def test_the_grid_is_no_finer_than_the_tile(weights):
    (found,) = loaded(weights, scales=[16.0]).verify([tile(3, 5)])
    assert found.scores.shape == (4, 3, 5)


def test_evidence_lies_where_its_cause_is(weights):
    """A change in one corner of the tile changes the evidence there more than elsewhere."""
    verifier = loaded(weights, temperature=0.1)
    image = tile(64, 96)
    other = image.copy()
    other[:16, 80:] = 255 - other[:16, 80:]
    before, after = (each.scores.astype(int) for each in verifier.verify([image, other]))
    change = np.abs(after - before).sum(0)
    height, width = change.shape
    corner = change[: height // 4, -width // 6 :].mean()
    assert corner > 5 * change[height // 2 :, : width // 2].mean()


# Settings and determinism.


def test_company_order_and_random_state_change_nothing(weights):
    tiles = [tile(40, 40, seed) for seed in range(3)]
    verifier = loaded(weights, batch=4)
    together = verifier.verify(tiles)
    torch.manual_seed(11)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = loaded(weights, batch=4)
    for image, expected in zip(reversed(tiles), reversed(together), strict=True):
        (alone,) = again.verify([image])
        assert alone.scores.tobytes() == expected.scores.tobytes()
        assert alone.answer == expected.answer
    assert torch.equal(state[0], torch.get_rng_state())
    assert np.array_equal(state[1], np.random.get_state()[1])  # noqa: NPY002


def test_random_weights_are_always_the_same():
    torch.manual_seed(0)
    first = loaded(None).verify([tile()])[0]
    torch.manual_seed(1)
    second = loaded(None).verify([tile()])[0]
    assert np.array_equal(first.scores, second.scores)


def test_settings_tell_what_changes_the_evidence(weights, clip, tmp_path):
    plain = build(weights).settings()
    assert json.loads(json.dumps(plain)) == plain
    assert len(plain['weights']) == 64 and plain['temperature'] == 0.05
    other = tmp_path / 'other.pt'
    torch.save({**clip.state_dict(), 'logit_scale': torch.tensor(9.0)}, other)
    changes = dict(
        classes=[['building', 'hut'], *CLASSES[1:]],
        arch=dict(vision=dict(VISION, mlp_ratio=2), text=TEXT),
        templates='photo',
        distractors=('pond',),
        temperature=0.2,
        scales=[1.0],
        window=24,
        stride=8,
        grid=5,
        input_stats=dict(mean=[127.5] * 3, std=[127.5] * 3),
        dtype='bfloat16',
        checkpoint=str(other),
        dense=False,
    )
    for name, value in changes.items():
        if name == 'dense':
            changed = build(weights, arch='RN50', dense=False)
        else:
            changed = build(**{'checkpoint': weights, name: value})
        assert changed.settings() != plain, name
    assert build(weights, batch=3).settings() == plain
    assert build(str(tmp_path / 'missing.pt')).settings() == {**plain, 'weights': None}
    assert build(None).settings()['weights'] == 'random'


def test_nothing_is_read_before_load(tmp_path, monkeypatch):
    for name in ('PatchSimilarity', 'WindowSimilarity'):
        monkeypatch.setattr(clip_verifier, name, None)
    verifier = build(str(tmp_path / 'missing.pt'))
    assert not verifier.needs_calibration and verifier.num_classes == 4
    with pytest.raises(RuntimeError, match=r'call load\(\) first'):
        verifier.verify([tile()])


def test_S26_weights_are_those_of_the_file_after_load(clip, weights):
    verifier = loaded(weights)
    verifier.load()
    similarity = similarity_of(verifier)
    expected = clip.visual.state_dict()
    state = similarity.vision.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert torch.allclose(similarity.texts, restated_texts(clip, CONCEPTS), atol=1e-6)


@pytest.mark.skipif(
    not cpu_has_half(), reason='attention of this PyTorch does not know autocast on the CPU'
)
def test_half_precision_says_nearly_the_same(weights):
    full, half = (
        loaded(weights, dtype=dtype).verify([tile()])[0].scores.astype(int)
        for dtype in ('float32', 'bfloat16')
    )
    assert 0 < np.abs(full - half).max() < 20


# Temperature.


def test_the_fit_recovers_the_temperature_that_made_the_labels():
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(20_000, 5, generator=generator, dtype=torch.float64) * 0.4
    likely = torch.softmax(cosines / 0.07, 1)
    targets = torch.multinomial(likely, 1, generator=generator)[:, 0]
    assert abs(fit_temperature(cosines, targets) / 0.07 - 1) < 0.03


def test_a_useless_verifier_ends_unsure():
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(500, 4, generator=generator, dtype=torch.float64)
    assert fit_temperature(cosines, cosines.argmin(1)) > 0.99


def labelled(verifier, temperature=0.03, count=6):
    """Tiles with labels drawn by the verifier's own probabilities at a temperature."""
    generator = torch.Generator().manual_seed(5)
    for seed in range(count):
        image = tile(128, 128, seed)
        likely = torch.softmax(verifier._cosines(image).double()[:3] / temperature, 0)
        drawn = torch.multinomial(likely.flatten(1).T, 1, generator=generator).view(32, 32)
        labels = np.array([0, 2, 3], np.uint8)[drawn.numpy()]
        labels[:3] = 255
        labels[3:5] = 1  # not asked for
        yield image, np.kron(labels, np.ones((4, 4), np.uint8))


def test_calibration_goes_into_a_file_and_comes_back(weights, tmp_path):
    path = tmp_path / 'deep' / 'temperature.json'
    verifier = loaded(weights, distractors=(), temperature=str(path))
    assert verifier.needs_calibration
    for ask in (verifier.settings, lambda: verifier.verify([tile()])):
        with pytest.raises(ValueError, match=rf'{path}.* does not exist.*vlm_annotate.py CONFIG'):
            ask()
    verifier.calibrate(labelled(verifier))
    assert not verifier.needs_calibration
    temperature = verifier.settings()['temperature']
    assert abs(temperature / 0.03 - 1) < 0.05
    record = json.loads(path.read_text())
    assert record['temperature'] == temperature and record['places'] == 6 * 27 * 32
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    other = loaded(weights, distractors=(), temperature=str(path))
    fixed = loaded(weights, distractors=(), temperature=temperature)
    assert other.settings() == verifier.settings() == fixed.settings()
    found = [each.verify([tile()])[0].scores for each in (verifier, other, fixed)]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_an_interrupted_write_leaves_the_old_file(weights, tmp_path, monkeypatch):
    path = tmp_path / 'temperature.json'
    path.write_text('old')
    verifier = loaded(weights, temperature=str(path))

    def fail(*_):
        raise OSError('no space')

    monkeypatch.setattr(Path, 'replace', fail)
    with pytest.raises(OSError, match='no space'):
        verifier.calibrate([(tile(), np.zeros((32, 32), np.uint8))])
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_labels_that_do_not_count_do_not(weights, tmp_path):
    temperatures = []
    for fill in (255, 1):
        path = tmp_path / f'{fill}.json'
        verifier = loaded(weights, distractors=(), temperature=str(path))
        pairs = list(labelled(verifier, count=2))
        for _, labels in pairs:
            labels[labels == 1] = fill
        verifier.calibrate(pairs)
        temperatures.append(verifier.settings()['temperature'])
    assert temperatures[0] == temperatures[1]


def test_a_temperature_of_other_settings_is_refused(weights, tmp_path):
    path = tmp_path / 'temperature.json'
    verifier = loaded(weights, temperature=str(path))
    verifier.calibrate([(tile(), np.zeros((32, 32), np.uint8))])
    stranger = build(weights, temperature=str(path), scales=[3.0])
    words = re.escape('scales=[1.0, 2.0]') + '.*' + re.escape('scales=[3.0]')
    with pytest.raises(ValueError, match=f'{path}.*{words}'):
        stranger.settings()
    # Weights that are not on this machine cannot be compared.
    elsewhere = build(str(tmp_path / 'missing.pt'), temperature=str(path))
    assert elsewhere.settings()['temperature'] == verifier.settings()['temperature']
    path.write_text('{"temperature": 0.1')
    with pytest.raises(ValueError, match='is not the file of a fitted temperature'):
        build(weights, temperature=str(path)).settings()


def test_calibration_without_a_use_is_refused(weights, tmp_path):
    path = tmp_path / 'temperature.json'
    verifier = loaded(weights, temperature=str(path))
    for labels in (np.full((32, 32), 255, np.uint8), np.ones((32, 32), np.uint8)):
        with pytest.raises(ValueError, match='none of 1 labelled tiles shows a class'):
            verifier.calibrate([(tile(), labels)])
    assert not path.exists()
    with pytest.raises(ValueError, match=r'temperature=0\.05.*path of the file'):
        loaded(weights).calibrate([(tile(), np.zeros((32, 32), np.uint8))])


# Any model of open_clip, by windows.


def test_windows_of_any_model(any_arch, tmp_path):
    torch.manual_seed(5)
    model = shake(open_clip.create_model(any_arch))
    path = tmp_path / 'any.pt'
    torch.save(model.state_dict(), path)
    verifier = loaded(
        str(path), arch=any_arch, dense=False, scales=[1.0], window=16, stride=8, temperature=0.2
    )
    state = similarity_of(verifier).model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    image = tile(24, 32)
    normal = (torch.tensor(image).permute(2, 0, 1)[None] - MEAN) / STD
    texts = restated_texts(model, CONCEPTS)
    total, count = torch.zeros(5, 3, 4), torch.zeros(3, 4)
    for top in (0, 8):
        for left in (0, 8, 16):
            crop = normal[:, :, top : top + 16, left : left + 16]
            crop = F.interpolate(crop, (32, 32), mode='bilinear', antialias=True)
            with torch.no_grad():
                features = model.encode_image(crop)[0]
            cosines = texts @ (features / features.norm())
            total[:, top // 8 : top // 8 + 2, left // 8 : left // 8 + 2] += cosines[:, None, None]
            count[top // 8 : top // 8 + 2, left // 8 : left // 8 + 2] += 1
    likely = torch.softmax(total / count / 0.2, 0)
    found = verifier.verify([image])[0]
    assert np.abs(found.scores[[0, 2, 3]] - likely[:3].numpy() * 255).max() < 0.6
    assert found.scores.std() > 1
    # The windows are not all of the tile.
    assert len({column.tobytes() for column in found.scores.reshape(4, -1).T}) > 4


def test_a_folder_of_the_hub_tells_the_architecture(any_arch, tmp_path):
    folder = tmp_path / 'snapshot'
    folder.mkdir()
    torch.manual_seed(6)
    model = open_clip.create_model(any_arch)
    torch.save(model.state_dict(), folder / 'open_clip_pytorch_model.bin')
    config = dict(model_cfg=open_clip.get_model_config(any_arch))
    (folder / 'open_clip_config.json').write_text(json.dumps(config))
    verifier = loaded(str(folder), arch='', dense=False)
    loaded_state = similarity_of(verifier).model.state_dict()
    assert torch.equal(model.visual.conv1.weight, loaded_state['visual.conv1.weight'])
    before = verifier.settings()['weights']
    (folder / 'open_clip_config.json').write_text(json.dumps(config, indent=1))
    assert len(before) == 64 and build(str(folder), arch='', dense=False).settings() != before


def test_a_tokenizer_of_the_hub_is_not_downloaded(any_arch, monkeypatch):
    pytest.importorskip('transformers')
    config = open_clip.get_model_config(any_arch)
    config['text_cfg']['hf_tokenizer_name'] = 'nobody/has-this-tokenizer'
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, any_arch, config)
    asked = []
    monkeypatch.setattr('socket.getaddrinfo', lambda *args, **_: asked.append(args[0]) or [])
    with pytest.raises(FileNotFoundError, match=rf'{any_arch}.*nothing is downloaded.*folder'):
        loaded(None, arch=any_arch, dense=False)
    assert not asked
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


# What it says.


def test_the_answer_reads_well(weights, monkeypatch):
    verifier = loaded(weights, scales=[1.0], temperature=0.1)
    cosines = torch.zeros(5, 4, 4)
    cosines[1, :3] = 0.5  # low vegetation
    cosines[1, 2, 1] = 0.9
    cosines[0, 3, :2] = 0.4  # building
    cosines[4, 3, 2:] = 0.7  # a distractor
    monkeypatch.setattr(verifier, '_cosines', lambda tile: cosines)
    (found,) = verifier.verify([tile()])
    grass = np.exp(5) / (np.exp(5) + 4)
    mean = (11 * grass + np.exp(9) / (np.exp(9) + 4)) / 12
    house = np.exp(4) / (np.exp(4) + 4)
    assert found.answer == (
        f'low vegetation 75% ({mean:.2f}, best 1.00 at (12, 20)), '
        f'building 12% ({house:.2f}, best {house:.2f} at (4, 28)), none of them 12%'
    )


@pytest.mark.parametrize('classes', sorted(PROMPTS))
def test_default_distractors_are_names_of_no_class(classes):
    assert CLIPVerifier(classes).num_classes == len(PROMPTS[classes])


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(distractors=('Houses',)), "'Houses'.*class 'building'.*take it out"),
        (dict(classes=['car'], distractors=()), "'car' alone.*distractors"),
        (dict(templates='poem'), "templates='poem'.*aerial"),
        (dict(templates=['no place']), 'no place'),
        (dict(temperature=0), 'temperature=0'),
        (dict(scales=[]), r'scales=\[\]'),
        (dict(scales=[-1.0]), 'scales'),
        (dict(stride=0), 'stride=0'),
        (dict(window=16, stride=24), 'stride=24.*at most the window'),
        (dict(batch=0), 'batch=0'),
        (dict(dtype='int8'), "dtype='int8'"),
        (dict(input_stats=dict(mean=[1, 2, 3])), 'input_stats'),
        (dict(arch=dict(vision={})), 'arch=.*vision and text'),
        (dict(dense=False), 'arch='),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        build(None, **wrong)


def test_windows_in_broken_patches_are_refused():
    with pytest.raises(ValueError, match=r'window=20.*patch size 8: give 24'):
        loaded(None, window=20)
    with pytest.raises(ValueError, match=r'stride=9.*patch size 8: give 16'):
        loaded(None, stride=9)


@pytest.mark.parametrize('dense', [True, False])
def test_missing_weights_say_where_they_come_from(any_arch, tmp_path, dense):
    missing = str(tmp_path / 'missing.pt')
    with pytest.raises(FileNotFoundError, match=f'{missing}.*licen.*nothing is downloaded'):
        loaded(missing, arch='ViT-B-32' if dense else any_arch, dense=dense)


def test_weights_of_another_model_are_refused(any_arch, weights, tmp_path):
    with pytest.raises(ValueError, match=rf'{weights}.*RN-tiny'):
        loaded(weights, arch=any_arch, dense=False)
    damaged = tmp_path / 'damaged.pt'
    damaged.write_bytes(Path(weights).read_bytes()[:1000])
    for kwargs in (dict(arch=ARCH), dict(arch=any_arch, dense=False)):
        with pytest.raises(ValueError, match=str(damaged)):
            loaded(str(damaged), **kwargs)
    with pytest.raises(ValueError, match='no model'):
        loaded(None, arch='no-such-model', dense=False)


def test_the_module_is_registered_and_moves(weights):
    verifier = loaded(weights)
    assert isinstance(verifier, CLIPVerifier)
    verifier.load('meta')
    assert similarity_of(verifier).texts.device.type == 'meta'
