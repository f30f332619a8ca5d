# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""SAM 3 asked in words: the real class, tiny and random."""

import numpy as np
import pytest
import torch

from mmseg_semi_rs.purification.evidence import quantise
from mmseg_semi_rs.purification.verifiers import Sam3Verifier
from tests._support.tiny_vlm import save_sam3

transformers = pytest.importorskip('transformers')
if not hasattr(transformers, 'Sam3Model'):
    pytest.skip('this transformers has no SAM 3', allow_module_level=True)

NAMES = [['building', 'house'], None, 'water']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return save_sam3(tmp_path_factory.mktemp('sam3'))


@pytest.fixture(scope='module')
def verifier(folder):
    made = Sam3Verifier(NAMES, str(folder), score=0.2)
    made.load()
    return made


def tile(height=40, width=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_scores_are_those_of_both_heads_written_out(verifier, folder):
    image = tile()
    (evidence,) = verifier.verify([image])
    processor = transformers.Sam3Processor.from_pretrained(folder)
    model = transformers.Sam3Model.from_pretrained(folder).eval()
    planes = np.zeros((3, 16, 16))
    objects = 0
    for label, names in ((0, ('building', 'house')), (2, ('water',))):
        for name in names:
            inputs = processor(images=image, text=name, return_tensors='pt')
            with torch.no_grad():
                output = model(**{key: inputs[key] for key in (
                    'pixel_values', 'input_ids', 'attention_mask')})  # fmt: skip
            there = float(output.presence_logits.sigmoid())
            plane = output.semantic_seg[0, 0].sigmoid().numpy() * there
            scores = output.pred_logits[0].sigmoid() * there
            for score, mask in zip(scores, output.pred_masks[0], strict=True):
                if score > 0.2:
                    objects += 1
                    plane = np.where(mask > 0, np.maximum(plane, float(score)), plane)
            planes[label] = np.maximum(planes[label], plane)
    assert objects and len(evidence.regions) == objects
    assert np.abs(evidence.scores.astype(int) - quantise(planes)).max() <= 1
    assert not evidence.scores[1].any() and evidence.seen.all() and evidence.size == (40, 56)
    for region in evidence.regions:
        assert region.label in (0, 2) and region.name in ('building', 'house', 'water')
        assert max(region.box[0], region.box[2]) <= 56 and max(region.box[1::2]) <= 40


def test_any_company_gives_the_same_evidence_and_no_grid_is_finer_than_the_tile(verifier):
    one, small = verifier.verify([tile(), tile(9, 12, seed=1)])
    (alone,) = verifier.verify([tile(9, 12, seed=1)])
    np.testing.assert_array_equal(alone.scores, small.scores)
    assert small.scores.shape == (3, 9, 12) and one.scores.shape == (3, 16, 16)


def test_settings_tell_models_names_and_scores_apart(verifier, folder):
    settings = verifier.settings()
    assert len(settings['weights']) == 64 and settings['classes'][1] == []
    for other in (dict(score=0.3), dict(classes=['a', None, 'b']), dict(revision='v2')):
        made = Sam3Verifier(**{'classes': NAMES, 'model': str(folder), 'score': 0.2, **other})
        assert made.settings() != settings


def test_what_is_missing_is_told_in_one_sentence(folder, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match='is not on this machine'):
        Sam3Verifier(NAMES, str(tmp_path / 'gone')).load()
    with pytest.raises(ValueError, match='score=1'):
        Sam3Verifier(NAMES, score=1)
    broken = tmp_path / 'broken'
    broken.mkdir()
    (broken / 'config.json').write_text('{"model_type": "sam3"}')
    (broken / 'model.safetensors').write_bytes(b'')
    with pytest.raises(ValueError, match='cannot be loaded as a SAM 3'):
        Sam3Verifier(NAMES, str(broken)).load()

    class Older:
        __version__ = '4.57'

    monkeypatch.setattr(
        'mmseg_semi_rs.purification.verifiers.sam3_verifier.import_transformers', Older
    )
    with pytest.raises(ImportError, match=r'4\.57 has no Sam3Model: run pip install -U'):
        Sam3Verifier(NAMES, str(folder)).load()
