# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The generative verifier, end to end with tiny random models of the real classes, without net."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from mmseg.registry import MODELS

from mmseg_semi_rs.purification.verifiers import generative_verifier, masks, pretrained
from mmseg_semi_rs.purification.verifiers.generative_verifier import GenerativeVerifier
from mmseg_semi_rs.purification.verifiers.pretrained import model_digest, need_model
from tests._support.tiny_vlm import save_qwen, save_sam

transformers = pytest.importorskip('transformers')

FAMILIES = ('qwen2_5_vl', 'qwen3_vl')
SMALL = dict(max_new_tokens=12, min_pixels=56 * 56, max_pixels=112 * 112)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Saved models."""
    made = {name: save_qwen(tmp_path_factory.mktemp(name), name) for name in FAMILIES}
    return made | {'sam': save_sam(tmp_path_factory.mktemp('sam'))}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def tiles(*sizes):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def loaded(folder, classes='potsdam', **settings):
    verifier = MODELS.build(
        dict(type='GenerativeVerifier', classes=classes, model=str(folder), **settings)
    )
    verifier.load()
    return verifier


def model_of(part):
    return part._model


def processor_of(verifier):
    return verifier._processor


def let_answer(verifier, monkeypatch, *answers, end='<|im_end|>'):
    """Make the model's answers known; returns the questions that it was asked."""
    words, asked, remaining = processor_of(verifier).tokenizer, [], list(answers)

    def generate(input_ids, **inputs):
        asked.extend(words.batch_decode(input_ids))
        rows = [words(f'{remaining.pop(0)}{end}')['input_ids'] for _ in input_ids]
        longest = max(map(len, rows))
        rows = [row + [words.pad_token_id] * (longest - len(row)) if end else row for row in rows]
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)

    monkeypatch.setattr(model_of(verifier), 'generate', generate)
    return asked


def answer_of(*objects):
    items = [{'bbox_2d': list(box), 'label': label} for label, box in objects]
    return f'```json\n{json.dumps(items)}\n```'


def test_s6_boxes_of_the_448_frame_land_on_the_right_pixels(folders, monkeypatch):
    verifier = loaded(folders['qwen2_5_vl'], max_pixels=448 * 448)
    # 448 x 448 for the square tile; 252 x 756 fits the limit for the long one as 252 x 756.
    answer = answer_of(('building', (112, 56, 336, 224)), ('grass', (0, 0, 42, 448)))
    let_answer(verifier, monkeypatch, answer, answer_of(('car', (63, 63, 126, 126))))
    square, long = verifier.verify(tiles((512, 512), (256, 768)))
    assert [region.box for region in square.regions] == [(128, 64, 384, 256), (0, 0, 48, 512)]
    assert [region.name for region in square.regions] == ['building', 'grass']
    assert square.answer == answer and not square.dropped and not square.truncated
    expected = np.zeros((6, 512, 512), dtype=np.uint8)
    expected[1, 64:256, 128:384] = expected[2, :, :48] = round(0.95 * 255)
    np.testing.assert_array_equal(square.scores, expected)
    np.testing.assert_array_equal(square.seen, expected.any(0))
    grid = processor_of(verifier)(
        text=['<|image_pad|>'], images=tiles((256, 768)), return_tensors='pt'
    )['image_grid_thw'][0]
    height, width = (int(count) * 14 for count in grid[1:])
    box = (63 * 768 / width, 63 * 256 / height, 126 * 768 / width, 126 * 256 / height)
    assert long.regions[0].box == pytest.approx(box)
    assert long.regions[0].label == 4


@pytest.mark.parametrize(
    ('coordinates', 'box'),
    [('auto', (250, 125, 750, 500)), ('unit', (0.25, 0.125, 0.75, 0.5))],
)
def test_s6_relative_coordinates(folders, monkeypatch, coordinates, box):
    verifier = loaded(folders['qwen3_vl'], coordinates=coordinates, max_pixels=160 * 160)
    let_answer(verifier, monkeypatch, answer_of(('building', box)))
    (evidence,) = verifier.verify(tiles((512, 256)))
    assert evidence.regions[0].box == (64, 64, 192, 256)
    assert evidence.seen.sum() == 128 * 192 and evidence.seen[64:256, 64:192].all()


def test_random_answers_are_handled(folders, family):
    state = torch.get_rng_state()
    found = loaded(folders[family], **SMALL).verify(tiles((64, 64), (30, 50)))
    assert torch.equal(torch.get_rng_state(), state)
    assert [evidence.size for evidence in found] == [(64, 64), (30, 50)]
    for evidence in found:
        assert evidence.answer and evidence.dropped and evidence.truncated
        assert not evidence.seen.any() and not evidence.scores.any()


def test_any_company_gives_the_same_answer(folders, family):
    verifier = loaded(folders[family], batch_size=3, **SMALL)
    given = tiles((64, 64), (128, 96), (200, 60))
    together = verifier._generate(given)
    lengths = {verifier._generate([tile])[0][1] for tile in given}
    assert len(lengths) == 3  # so that two of the three questions are padded
    assert len({answer for answer, _, _ in together}) > 1  # and the answers tell tiles apart
    assert [verifier._generate([tile])[0] for tile in given] == together
    assert verifier._generate(given[::-1])[::-1] == together


def test_decoding_is_greedy_and_without_penalty(folders, caplog):
    verifier = loaded(folders['qwen2_5_vl'], dtype='float32', **SMALL)
    config = model_of(verifier).generation_config
    assert not config.do_sample and config.max_new_tokens == 12
    assert config.repetition_penalty in (None, 1.0) and config.temperature in (None, 1.0)
    assert model_of(verifier).dtype == torch.float32 and not model_of(verifier).training
    (tile,) = tiles((64, 64))
    inputs = processor_of(verifier)(
        text=['<|vision_start|><|image_pad|><|vision_end|>'], images=[tile], return_tensors='pt'
    )
    ids = model_of(verifier).generate(**inputs)
    logits = model_of(verifier)(**inputs).logits
    assert ids[0, inputs['input_ids'].shape[1]] == logits[0, -1].argmax()


def test_s9_an_answer_without_its_end_is_truncated(folders, monkeypatch):
    verifier = loaded(folders['qwen2_5_vl'])
    complete = answer_of(('car', (0, 0, 28, 28)))
    for text, end, truncated in (
        (complete, '<|im_end|>', False),
        (complete, '<|endoftext|>', False),
        (complete, '', True),
        (complete[:-8], '<|im_end|>', True),
    ):
        let_answer(verifier, monkeypatch, text, end=end)
        (evidence,) = verifier.verify(tiles((56, 56)))
        assert evidence.truncated == truncated
        assert len(evidence.regions) == (text == complete)


def test_s8_and_reasons_in_the_tiles_record(folders, monkeypatch):
    verifier = loaded(folders['qwen2_5_vl'])
    objects = [('Railroad', (0, 0, 9, 9)), ('road', (60, 60, 90, 90)), ('tree', (3, 3, 3, 9))]
    let_answer(verifier, monkeypatch, answer_of(*objects))
    (evidence,) = verifier.verify(tiles((56, 56)))
    assert not evidence.regions and not evidence.seen.any()
    for reason, words in zip(evidence.dropped, ('Railroad', 'tree', 'road'), strict=True):
        assert words in reason
    assert 'covers no pixel' in evidence.dropped[2]


def test_silence_is_no_claim(folders, monkeypatch):
    verifier = loaded(folders['qwen2_5_vl'])
    let_answer(verifier, monkeypatch, '[]')
    (evidence,) = verifier.verify(tiles((56, 56)))
    assert not evidence.seen.any() and not evidence.dropped and not evidence.truncated


def test_s10_natural_names_are_generateed_for_and_nothing_else(folders, monkeypatch):
    verifier = loaded(folders['qwen2_5_vl'], batch_size=2)
    asked = let_answer(verifier, monkeypatch, '[]', '[]', '[]')
    verifier.verify(tiles((56, 56), (84, 84), (56, 56)))
    assert len(asked) == 3
    for question in asked:
        assert question.count('<|vision_start|>') == 1
        assert 'impervious surface (also road, ' in question and 'bbox_2d' in question
        assert question.rstrip().endswith('<|im_start|>assistant')
    for classes in ('potsdam', 'loveda', 'deepglobe', ['low_vegetation', None]):
        question = GenerativeVerifier(classes).question.lower()
        for word in ('background', 'clutter', 'ignore', 'no-data', 'imsurf', 'unknown', '_veg'):
            assert word not in question
    assert GenerativeVerifier(['a_b', None], prompt='Find {classes}!').question == 'Find a b!'


def test_too_little_memory_halves_the_batch(folders, monkeypatch):
    monkeypatch.delattr(torch, 'OutOfMemoryError', raising=False)  # not before torch 2.5
    verifier = loaded(folders['qwen2_5_vl'], batch_size=8)
    let_answer(verifier, monkeypatch, *(answer_of(('car', (0, 0, 28, i))) for i in range(1, 8)))
    generate, sizes = model_of(verifier).generate, []

    def limited(input_ids, **inputs):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.cuda.OutOfMemoryError('too much')
        return generate(input_ids, **inputs)

    monkeypatch.setattr(model_of(verifier), 'generate', limited)
    found = verifier.verify(tiles(*[(56, 56)] * 7))
    assert sizes == [7, 3, *[1] * 7]
    assert [evidence.regions[0].box[3] for evidence in found] == list(range(1, 8))

    def never(**inputs):
        raise torch.cuda.OutOfMemoryError('too much')

    monkeypatch.setattr(model_of(verifier), 'generate', never)
    with pytest.raises(ValueError, match=r'one tile of .56, 56.: set a smaller max_pixels'):
        verifier.verify(tiles((56, 56)))


def test_masks_of_a_sam(folders, monkeypatch):
    verifier = loaded(
        folders['qwen2_5_vl'], masks=dict(model=str(folders['sam'])), score=0.8, **SMALL
    )
    boxes = [(0, 0, 28, 28), (14, 14, 56, 50)]
    segmented = verifier.segment(*tiles((56, 56)), boxes)
    monkeypatch.setattr(
        verifier,
        'segment',
        lambda tile, asked: [
            (mask, quality)
            for wanted, (mask, _), quality in zip(boxes, segmented, (0.5, 0.75), strict=True)
            if wanted in asked
        ],
    )
    let_answer(verifier, monkeypatch, answer_of(('car', boxes[0]), ('tree', boxes[1])), '[]')
    evidence, silent = verifier.verify(tiles((56, 56), (64, 64)))
    assert [region.score for region in evidence.regions] == pytest.approx([0.4, 0.6])
    expected = np.zeros((6, 56, 56), dtype=np.uint8)
    expected[4][segmented[0][0]], expected[3][segmented[1][0]] = round(0.4 * 255), round(0.6 * 255)
    np.testing.assert_array_equal(evidence.scores, expected)
    np.testing.assert_array_equal(evidence.seen, segmented[0][0] | segmented[1][0])
    assert not silent.seen.any()


def test_s17_all_parts_are_on_the_same_device(folders):
    verifier = loaded(folders['qwen2_5_vl'], masks=dict(model=str(folders['sam'])))
    assert model_of(verifier).device == model_of(verifier.segment).device == torch.device('cpu')
    verifier.load('meta')
    assert model_of(verifier).device == model_of(verifier.segment).device == torch.device('meta')


def test_settings_name_everything_and_do_not_change_on_loading(folders):
    arguments = dict(classes='potsdam', model=str(folders['qwen2_5_vl']))
    verifier = GenerativeVerifier(**arguments)
    settings = verifier.settings()
    verifier.load()
    assert verifier.settings() == settings
    assert json.loads(json.dumps(settings)) == settings
    assert len(settings['weights']) == 64
    for other in (
        dict(classes='loveda'),
        dict(model=str(folders['qwen3_vl'])),
        dict(revision='v1'),
        dict(coordinates='thousand'),
        dict(masks=dict(model=str(folders['sam']))),
        dict(score=0.9),
        dict(dtype='float32'),
        dict(max_new_tokens=5),
        dict(min_pixels=5),
        dict(max_pixels=5000),
        dict(prompt='Where are {classes}?'),
    ):
        assert GenerativeVerifier(**{**arguments, **other}).settings() != settings
    for same in (dict(batch_size=1), dict(masks='teacher'), dict(local_files_only=False)):
        assert GenerativeVerifier(**{**arguments, **same}).settings() == settings
    assert GenerativeVerifier(**arguments, masks='teacher').within_segments
    assert not verifier.within_segments


def test_the_digest_tells_models_apart(folders, tmp_path):
    def digest(folder, **others):
        return GenerativeVerifier('potsdam', model=str(folder), **others).settings()['weights']

    first = digest(folders['qwen2_5_vl'])
    copy = shutil.copytree(folders['qwen2_5_vl'], tmp_path / 'copy')
    assert digest(copy) == first
    (copy / 'chat_template.jinja').write_text('other')
    second = digest(copy)
    weights = copy / 'model.safetensors'
    content = bytearray(weights.read_bytes())
    content[-4096:] = bytes(4096)
    weights.write_bytes(content)
    third = digest(copy)
    assert len({first, second, third}) == 3
    weights.unlink()
    assert digest(copy) is None
    assert digest(tmp_path / 'nowhere') is None
    assert digest(folders['qwen2_5_vl'], masks=dict(model=str(tmp_path / 'nowhere'))) is None
    with_sam = digest(folders['qwen2_5_vl'], masks=dict(model=str(folders['sam'])))
    assert with_sam not in (None, first)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    return tmp_path / 'hub'


@pytest.mark.parametrize(
    ('model', 'words'),
    [
        ('Qwen/Qwen2.5-VL-7B-Instruct', ['Apache-2.0', 'hf download Qwen/Qwen2.5-VL-7B-Instruct']),
        ('Qwen/Qwen2.5-VL-3B-Instruct', ['non-commercial', 'huggingface.co/Qwen/Qwen2.5-VL-3B']),
        ('/nowhere/Qwen3-VL-4B', ['/nowhere/Qwen3-VL-4B', 'save Qwen3-VL-4B', 'Apache-2.0']),
    ],
)
def test_a_missing_model_is_not_downloaded(cache, model, words):
    verifier = GenerativeVerifier('potsdam', model=model)
    assert verifier.settings()['weights'] is None
    with pytest.raises(FileNotFoundError) as error:
        verifier.load()
    for word in (model, 'not on this machine', *words):
        assert word in str(error.value)


@pytest.mark.parametrize('local_files_only', [True, False])
def test_the_hub_is_asked_only_where_that_is_allowed(folders, monkeypatch, local_files_only):
    asked, here = [], set()

    def snapshot_download(model, revision, local_files_only):
        asked.append((model, revision, local_files_only))
        if local_files_only and model not in here:
            raise LocalEntryNotFoundError(model)
        here.add(model)
        return str(folders['sam' if model == 'a/sam' else 'qwen2_5_vl'])

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    verifier = GenerativeVerifier(
        'potsdam',
        model='a/tiny',
        revision='v1',
        masks=dict(model='a/sam'),
        local_files_only=local_files_only,
    )
    assert verifier.settings()['weights'] is None
    assert {local for *_, local in asked} == {True}
    if local_files_only:
        with pytest.raises(FileNotFoundError, match='a/tiny'):
            verifier.load()
        assert {local for *_, local in asked} == {True}
        return
    verifier.load()
    fetched = [each for each in asked if not each[2]]
    assert fetched == [('a/tiny', 'v1', False), ('a/sam', None, False)]
    settings = verifier.settings()
    asked.clear()
    verifier._model = None
    verifier.load()  # what is here is not exchanged for what the hub has meanwhile
    assert {local for *_, local in asked} == {True} and verifier.settings() == settings


def test_a_model_that_the_hub_does_not_give_is_told(monkeypatch):
    def snapshot_download(*_, local_files_only, **__):
        if local_files_only:
            raise LocalEntryNotFoundError('')
        raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    with pytest.raises(FileNotFoundError, match='SAM licence of Meta, to be accepted on its page'):
        need_model('facebook/sam3', None, download=True)


def test_half_a_model_has_no_digest(tmp_path):
    (tmp_path / 'config.json').write_text('{}')
    shards = [tmp_path / f'model-0000{number}-of-00002.safetensors' for number in (1, 2)]
    shards[0].write_bytes(b'1')
    assert model_digest(tmp_path) is None
    shards[1].write_bytes(b'2')
    assert model_digest(tmp_path) is not None


def test_a_model_in_the_hubs_cache_is_found(cache, folders):
    commit = '0123456789abcdef0123456789abcdef01234567'
    repository = cache / 'models--owner--tiny'
    shutil.copytree(folders['qwen2_5_vl'], repository / 'snapshots' / commit)
    (repository / 'refs').mkdir()
    (repository / 'refs' / 'main').write_text(commit)
    verifier = loaded('owner/tiny', **SMALL)
    assert verifier.settings()['weights'] is not None
    assert len(verifier.verify(tiles((56, 56)))) == 1
    with pytest.raises(FileNotFoundError, match='hf download owner/tiny --revision v2'):
        GenerativeVerifier('potsdam', model='owner/tiny', revision='v2').load()


def test_a_folder_of_something_else(folders, tmp_path, monkeypatch):
    (tmp_path / 'config.json').write_text('{"model_type": "resnet"}')
    (tmp_path / 'model.safetensors').write_bytes(b'')
    with pytest.raises(ValueError, match='cannot be loaded as a model that answers'):
        loaded(tmp_path)
    monkeypatch.setattr(generative_verifier, 'NATIVE_COORDINATES', {})
    with pytest.raises(ValueError, match=r'qwen2_5_vl\) gives boxes: set coordinates to one of'):
        loaded(folders['qwen2_5_vl'])


def test_s18_transformers_is_generateed_for_only_on_loading(folders, monkeypatch):
    for module in (generative_verifier, masks, pretrained):
        assert 'transformers' not in vars(module)
    monkeypatch.setitem(sys.modules, 'transformers', None)
    verifier = GenerativeVerifier('potsdam', model=str(folders['qwen2_5_vl']))
    assert verifier.settings()['weights'] is not None
    with pytest.raises(ImportError, match=r"pip install 'mmseg_semi_rs\[vlm\]'"):
        verifier.load()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(coordinates='pixels'), "coordinates='pixels'"),
        (dict(masks='sam'), "masks='sam'"),
        (dict(masks={}), 'masks={}'),
        (dict(masks=dict(model='a/b', size=3)), 'masks='),
        (dict(score=0), 'score=0'),
        (dict(score=1.5), 'score=1.5'),
        (dict(batch_size=0), 'batch_size=0'),
        (dict(dtype='int8'), "dtype='int8'"),
        (dict(max_new_tokens=0), 'max_new_tokens=0'),
        (dict(min_pixels=0), 'min_pixels=0'),
        (dict(min_pixels=9, max_pixels=8), 'min_pixels=9'),
        (dict(max_pixels=0), 'max_pixels=0'),
        (dict(prompt='Where?'), 'classes'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError) as error:
        GenerativeVerifier('potsdam', **settings)
    assert message in str(error.value)
