# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Boxes from a model's frame to the tile's, painting, and masks from boxes."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmseg_semi_rs.purification import Region
from mmseg_semi_rs.purification.replay import region_map
from mmseg_semi_rs.purification.verifiers.boxes import paint, processed_size, to_tile
from mmseg_semi_rs.purification.verifiers.masks import SegmentAnything
from tests._support.tiny_vlm import save_sam, save_sam2


@pytest.mark.parametrize(
    ('coordinates', 'box', 'processed', 'tile', 'expected'),
    [
        ('absolute', (0, 0, 448, 448), (448, 448), (512, 512), (0, 0, 512, 512)),
        ('absolute', (112, 56, 336, 224), (448, 448), (512, 512), (128, 64, 384, 256)),
        ('absolute', (112, 56, 336, 224), (448, 448), (518, 518), (129.5, 64.75, 388.5, 259)),
        ('absolute', (10, 20, 30, 40), (100, 200), (50, 400), (20, 10, 60, 20)),
        ('thousand', (250, 125, 750, 500), (448, 448), (512, 512), (128, 64, 384, 256)),
        ('thousand', (0, 0, 1000, 1000), (28, 56), (300, 200), (0, 0, 200, 300)),
        ('unit', (0.25, 0.125, 0.75, 0.5), (448, 448), (512, 512), (128, 64, 384, 256)),
        ('absolute', (-50, -1e9, 500, 1e308), (448, 448), (448, 448), (0, 0, 448, 448)),
    ],
)
def test_s6_boxes_are_brought_to_the_tile_and_clipped(coordinates, box, processed, tile, expected):
    assert to_tile(box, coordinates, processed, tile) == pytest.approx(expected)


@pytest.mark.parametrize('seed', range(3))
def test_s6_against_the_plain_formula(seed):
    random = np.random.default_rng(seed)
    for _ in range(100):
        (h, w), (th, tw) = random.integers(28, 1000, 2), random.integers(16, 1000, 2)
        x = np.sort(random.uniform(-0.2, 1.2, 2)) * w
        y = np.sort(random.uniform(-0.2, 1.2, 2)) * h
        left, right = np.clip(x / w * tw, 0, tw)
        top, bottom = np.clip(y / h * th, 0, th)
        found = to_tile((x[0], y[0], x[1], y[1]), 'absolute', (h, w), (th, tw))
        if found is not None:
            np.testing.assert_allclose(found, (left, top, right, bottom))
        else:
            assert right - left <= 1 or bottom - top <= 1


@pytest.mark.parametrize('box', [(460, 0, 500, 90), (-9, -9, 0, 0), (5.1, 5.1, 5.3, 90)])
def test_a_box_that_covers_no_pixel_is_none(box):
    assert to_tile(box, 'absolute', (448, 448), (448, 448)) is None


def test_the_size_that_a_model_saw():
    grid = {'image_grid_thw': torch.tensor([[1, 4, 6], [1, 32, 30]])}
    assert processed_size(grid, 1, SimpleNamespace(patch_size=14), (9, 9)) == (448, 420)
    fixed = SimpleNamespace(size={'height': 384, 'width': 512})
    assert processed_size({}, 0, fixed, (9, 9)) == (384, 512)
    assert processed_size({}, 0, SimpleNamespace(size={'longest_edge': 5}), (9, 8)) == (9, 8)
    assert processed_size({}, 0, SimpleNamespace(), (9, 8)) == (9, 8)


REGIONS = (
    Region(0, (0, 0, 4, 4), 0.5, 'a'),
    Region(2, (2, 2, 6, 6), 0.75, 'c'),
    Region(0, (3, 0, 6, 4), 0.25, 'a'),
    Region(1, (2, 2, 6, 6), 0.75, 'b'),
)


def plain_paint(regions, masks, num_classes, tile):
    scores = np.zeros((num_classes, *tile))
    for y, x in itertools.product(*map(range, tile)):
        for index, (label, (left, top, right, bottom), score, _) in enumerate(regions):
            inside = left <= x + 0.5 < right and top <= y + 0.5 < bottom
            if masks[index][y, x] if masks is not None else inside:
                scores[label, y, x] = max(scores[label, y, x], score)
    return scores, scores.any(0)


def test_s14_the_highest_score_wins_in_any_order_and_equal_ones_are_a_tie():
    random = np.random.default_rng(0)
    given = [random.random((6, 7)) > 0.5 for _ in REGIONS]
    for masks in (None, given):
        expected, expected_seen = plain_paint(REGIONS, masks, 4, (6, 7))
        for order in itertools.permutations(range(4)):
            scores, seen = paint(
                [REGIONS[i] for i in order],
                None if masks is None else [masks[i] for i in order],
                4,
                (6, 7),
            )
            np.testing.assert_array_equal(scores, expected)
            np.testing.assert_array_equal(seen, expected_seen)
    scores, _ = paint(REGIONS, None, 4, (6, 7))
    assert scores[:, 5, 5].tolist() == [0, 0.75, 0.75, 0]
    assert scores[:, 2, 2].tolist() == [0.5, 0.75, 0.75, 0]


def test_nothing_is_painted_where_nothing_is_found():
    scores, seen = paint((), None, 3, (4, 5))
    assert scores.shape == (3, 4, 5) and not scores.any() and not seen.any()


def test_boxes_fill_the_pixels_to_which_replay_gives_their_number():
    random = np.random.default_rng(0)
    for _ in range(50):
        left, right = np.sort(random.uniform(0, 20, 2))
        top, bottom = np.sort(random.uniform(0, 30, 2))
        regions = [Region(0, (left, top, right, bottom), 1.0, 'a')]
        _, seen = paint(regions, None, 1, (30, 20))
        np.testing.assert_array_equal(seen, region_map(regions, (30, 20)) > 0)


TILE = np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8)
BOXES = [(1, 2, 30, 40), (5.5, 5, 90, 100), (50, 60, 80, 120), (0, 0, 96, 128), (7, 7, 9, 9)]


@pytest.fixture(scope='module', params=['sam', 'sam2'])
def sam_folder(request, tmp_path_factory):
    pytest.importorskip('transformers')
    save = {'sam': save_sam, 'sam2': save_sam2}[request.param]
    return save(tmp_path_factory.mktemp(request.param))


def test_masks_are_those_of_the_best_predicted_iou(sam_folder, monkeypatch):
    import transformers

    segment = SegmentAnything(str(sam_folder), boxes_at_once=2)
    segment.load()
    encoded = []
    encode = segment._model.get_image_embeddings
    monkeypatch.setattr(
        segment._model, 'get_image_embeddings', lambda image: encoded.append(1) or encode(image)
    )
    found = segment(TILE, BOXES)
    assert len(encoded) == 1

    model = transformers.AutoModelForMaskGeneration.from_pretrained(sam_folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(sam_folder)
    for box, (mask, quality) in zip(BOXES, found, strict=True):
        inputs = processor(images=TILE, input_boxes=[[list(map(float, box))]], return_tensors='pt')
        inputs['input_boxes'] = inputs['input_boxes'].float()
        sizes = [inputs[k] for k in ('original_sizes', 'reshaped_input_sizes') if k in inputs]
        kept = {k: inputs[k] for k in ('pixel_values', 'input_boxes')}
        with torch.no_grad():
            output = model(**kept, multimask_output=True)
        masks = processor.post_process_masks(output.pred_masks, *sizes)[0][0].numpy()
        iou = output.iou_scores[0, 0].numpy()
        assert mask.shape == TILE.shape[:2] and mask.dtype == bool
        assert quality == pytest.approx(min(max(iou.max(), 0), 1), abs=1e-5)
        assert (mask == masks[iou.argmax()]).mean() > 0.999


def test_no_boxes_no_masks(sam_folder):
    segment = SegmentAnything(str(sam_folder))
    segment.load()
    assert segment(TILE, []) == []


def test_sam_that_is_not_there_or_none(tmp_path):
    pytest.importorskip('transformers')
    with pytest.raises(FileNotFoundError, match=r'save sam-vit-base.*Apache-2.0'):
        SegmentAnything(str(tmp_path / 'sam-vit-base')).load()
    with pytest.raises(ValueError, match='boxes_at_once=0'):
        SegmentAnything(boxes_at_once=0)
    (tmp_path / 'config.json').write_text('{"model_type": "resnet"}')
    (tmp_path / 'model.safetensors').write_bytes(b'')
    with pytest.raises(ValueError, match='give a SAM'):
        SegmentAnything(str(tmp_path)).load()
