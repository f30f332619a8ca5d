# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The audit record counts what plain loops count, and its lines stay whole."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mmseg_semi_rs.purification.audit import BOUNDARY, AuditRecord, append_summaries, totals
from mmseg_semi_rs.purification.evidence import Region

CLASSES = ['road', 'building', 'tree', 'car']
ACTIONS = {'corrected': 1, 'supported': 2, 'vetoed': 3}
SIZE = (12, 17)


def fabricate(seed: int = 0, truth: bool = True) -> AuditRecord:
    """A tile with all actions, padding, unknown truth and evidence on a part."""
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 3, SIZE)
    actions = rng.integers(0, 4, SIZE).astype(np.uint8)
    after = np.where(actions == 1, (before + rng.integers(1, 4, SIZE)) % 4, before)
    true = rng.integers(0, 4, SIZE)
    true[rng.random(SIZE) < 0.2] = 255
    valid = np.ones(SIZE, bool)
    valid[:, -3:] = False
    return AuditRecord(
        name=f'tile {seed}',
        key=f'{seed:064x}',
        image=rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
        labels_before=before,
        labels_after=after,
        confidence=rng.random(SIZE, dtype=np.float32),
        weight_before=rng.random(SIZE, dtype=np.float32),
        weight_after=rng.random(SIZE, dtype=np.float32),
        actions=actions,
        valid=valid,
        truth=true if truth else None,
        scores=rng.integers(0, 256, (4, *SIZE), dtype=np.uint8),
        seen=rng.random(SIZE) < 0.7,
        boxes=(Region(3, (1.0, 2.0, 5.5, 7.25), 0.87654, 'vehicle'),),
        answer='[{"label": "vehicle"',
        dropped=('railroad: unknown label',),
        truncated=True,
    )


def pixels_of(record):
    return [
        (row, column)
        for row in range(SIZE[0])
        for column in range(SIZE[1])
        if record.valid[row, column]
    ]


def test_counts_and_means_equal_plain_loops():
    record = fabricate()
    summary = record.summary(CLASSES)
    counts, rates = summary['counts'], summary['rates']
    pixels = pixels_of(record)
    by_action = {action: {} for action in ACTIONS}
    corrections = {}
    for pixel in pixels:
        target = CLASSES[record.labels_after[pixel]]
        for action, number in ACTIONS.items():
            if record.actions[pixel] == number:
                by_action[action][target] = by_action[action].get(target, 0) + 1
        if record.actions[pixel] == 1:
            targets = corrections.setdefault(CLASSES[record.labels_before[pixel]], {})
            targets[target] = targets.get(target, 0) + 1
    assert counts['pixels'] == len(pixels) < record.valid.size
    assert {action: counts[action] for action in ACTIONS} == by_action
    assert counts['corrections'] == corrections
    for name in ('confidence', 'weight_before', 'weight_after'):
        values = [float(getattr(record, name)[pixel]) for pixel in pixels]
        assert rates[name] == pytest.approx(sum(values) / len(values))
    assert rates['covered'] == sum(record.seen[pixel] for pixel in pixels) / len(pixels)
    for action in ACTIONS:
        assert rates[action] == pytest.approx(sum(by_action[action].values()) / len(pixels))


def test_accuracies_and_verdicts_equal_plain_loops():
    record = fabricate()
    summary = record.summary(CLASSES)
    known = [pixel for pixel in pixels_of(record) if record.truth[pixel] != 255]
    rates, truth = summary['rates'], summary['counts']['truth']
    assert 0 < truth['pixels'] == len(known) < summary['counts']['pixels']
    for moment in ('before', 'after'):
        labels = getattr(record, f'labels_{moment}')
        weights = getattr(record, f'weight_{moment}')
        right = [labels[pixel] == record.truth[pixel] for pixel in known]
        weight = [float(weights[pixel]) for pixel in known]
        assert rates[f'accuracy_{moment}'] == sum(right) / len(known)
        assert rates[f'weighted_accuracy_{moment}'] == pytest.approx(
            sum(w for w, hit in zip(weight, right, strict=True) if hit) / sum(weight)
        )
        for label, name in enumerate(CLASSES):
            found = sum(
                hit for hit, pixel in zip(right, known, strict=True) if record.truth[pixel] == label
            )
            assert truth['classes'][f'right_{moment}'].get(name, 0) == found

    expected = {action: {} for action in ACTIONS}
    for pixel in known:
        was = record.labels_before[pixel] == record.truth[pixel]
        is_now = record.labels_after[pixel] == record.truth[pixel]
        if record.actions[pixel] == 1:
            verdict = 'right' if is_now and not was else 'wrong' if was else 'neutral'
            place = expected['corrected'].setdefault(verdict, {})
        elif record.actions[pixel] == 2:
            place = expected['supported'].setdefault('right' if was else 'wrong', {})
        elif record.actions[pixel] == 3:
            place = expected['vetoed'].setdefault('wrong' if was else 'right', {})
        else:
            continue
        name = CLASSES[record.labels_after[pixel]]
        place[name] = place.get(name, 0) + 1
    assert {action: truth[action] for action in ACTIONS} == expected
    assert set(truth['corrected']) == {'right', 'wrong', 'neutral'}


def test_totals_are_those_of_all_pixels_at_once():
    """Not a mean over tiles: the tiles here differ in what is valid and known."""
    first, second = fabricate(0), fabricate(1)
    second.valid[6:] = False
    together = AuditRecord(
        'both',
        None,
        *(
            np.concatenate([getattr(first, name), getattr(second, name)])
            for name in (
                'image',
                'labels_before',
                'labels_after',
                'confidence',
                'weight_before',
                'weight_after',
                'actions',
                'valid',
                'truth',
            )
        ),
        scores=np.concatenate([first.scores, second.scores], axis=1),
        seen=np.concatenate([first.seen, second.seen]),
    ).summary(CLASSES)
    added = totals(json.loads(json.dumps(record.summary(CLASSES))) for record in (first, second))
    assert (added['tiles'], added['truncated'], added['dropped']) == (2, 2, 2)
    for name, value in together['rates'].items():
        assert added['rates'][name] == pytest.approx(value), name
    flat, expected = _flatten(added['counts']), _flatten(together['counts'])
    assert flat.keys() == expected.keys()
    assert all(math.isclose(flat[name], expected[name], rel_tol=1e-9) for name in expected)


def _flatten(counts, before=()):
    flat = {}
    for name, value in counts.items():
        if isinstance(value, dict):
            flat |= _flatten(value, (*before, name))
        else:
            flat[(*before, name)] = value
    return flat


def test_totals_take_accuracy_from_the_tiles_with_truth():
    known, unknown = fabricate(0), fabricate(1, truth=False)
    added = totals([unknown.summary(CLASSES), known.summary(CLASSES)])
    expected = known.summary(CLASSES)
    assert added['counts']['truth'] == expected['counts']['truth']
    assert added['rates']['accuracy_after'] == expected['rates']['accuracy_after']
    assert added['counts']['pixels'] == 2 * expected['counts']['pixels']


def test_nothing_to_divide_by_is_none():
    assert set(totals([])['rates'].values()) == {None}
    record = fabricate(truth=False)
    record.valid[:] = False
    assert set(record.summary(CLASSES)['rates'].values()) == {None}
    silent = replace(fabricate(truth=False), scores=None, seen=None, boxes=(), answer='')
    rates = silent.summary(CLASSES)['rates']
    assert rates['covered'] == 0.0
    assert rates['accuracy_before'] is None


def test_a_summary_names_boxes_and_keeps_the_answer():
    summary = fabricate().summary(CLASSES)
    assert summary['boxes'] == [
        {'class': 'car', 'name': 'vehicle', 'box': [1.0, 2.0, 5.5, 7.25], 'score': 0.8765}
    ]
    assert summary['answer'] == '[{"label": "vehicle"'
    assert summary['dropped'] == ['railroad: unknown label']
    assert summary['truncated'] is True


def test_padding_is_counted_nowhere():
    record = fabricate()
    expected = record.summary(CLASSES)
    for values in (record.labels_before, record.labels_after, record.actions, record.seen):
        values[~record.valid] = 1
    record.truth[~record.valid] = 1
    for values in (record.confidence, record.weight_before, record.weight_after):
        values[~record.valid] = 7
    assert record.summary(CLASSES) == expected


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'labels_after': np.zeros((3, 3), int)}, r"labels_after of 'tile 0'.*\(3, 3\)"),
        ({'scores': np.zeros((4, 5, 5), np.uint8)}, r'a plane of scores.*\(5, 5\)'),
        ({'seen': None}, 'only one of scores and seen'),
    ],
)
def test_maps_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(fabricate(), **changes)


def test_a_class_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r'class 3, but there are 3 names'):
        fabricate().summary(CLASSES[:3])


def test_lines_are_whole_whatever_the_answer(tmp_path):
    path = tmp_path / 'log' / 'audit.jsonl'
    hostile = replace(fabricate(), answer='a\nb\r\u2028c"\\\x00\ud800')
    append_summaries(path, [hostile.summary(CLASSES)])
    append_summaries(path, [fabricate(1).summary(CLASSES), fabricate(2).summary(CLASSES)])
    lines = path.read_bytes().split(b'\n')
    assert lines.pop() == b''
    assert [json.loads(line)['name'] for line in lines] == ['tile 0', 'tile 1', 'tile 2']
    assert json.loads(lines[0])['answer'] == hostile.answer


def test_a_line_cut_by_a_kill_spoils_no_other(tmp_path):
    path = tmp_path / 'audit.jsonl'
    append_summaries(path, [fabricate(0).summary(CLASSES)])
    path.write_bytes(path.read_bytes() + b'{"name": "cut')
    append_summaries(path, [fabricate(1).summary(CLASSES)])
    first, cut, last = path.read_bytes().splitlines()
    assert json.loads(first)['name'] == 'tile 0'
    assert cut == b'{"name": "cut'
    assert json.loads(last)['name'] == 'tile 1'


def test_appending_nothing_leaves_the_file(tmp_path):
    path = tmp_path / 'audit.jsonl'
    append_summaries(path, [])
    assert path.read_bytes() == b''


def test_boundaries_and_regions_are_counted_as_plain_loops_do():
    record = fabricate()
    regions = np.random.default_rng(3).integers(0, 5, SIZE)
    record = replace(record, regions=regions)
    counts = record.summary(CLASSES)['counts']['boundary']
    height, width = SIZE
    reach, band = BOUNDARY - 1, set()
    for row, column in pixels_of(record):
        for below, right in ((1, 0), (0, 1)):
            other = (row + below, column + right)
            inside = other[0] < height and other[1] < width and record.valid[other]
            if inside and record.labels_before[row, column] != record.labels_before[other]:
                for at in ((row, column), other):
                    band |= {
                        (at[0] + i, at[1] + j)
                        for i in range(-reach, reach + 1)
                        for j in range(-reach, reach + 1)
                    }
    band = [pixel for pixel in pixels_of(record) if pixel in band]
    assert counts['pixels'] == len(band) > 0
    for moment, labels in (('before', record.labels_before), ('after', record.labels_after)):
        usual = {
            region: np.bincount(labels[(regions == region) & record.valid]).argmax()
            for region in range(1, 5)
        }
        against = [p for p in band if regions[p] and labels[p] != usual[regions[p]]]
        assert counts[f'against_{moment}'] == len(against) > 0
        right = [p for p in band if labels[p] == record.truth[p]]
        assert counts[f'right_{moment}'] == len(right)
        rates = record.summary(CLASSES)['rates']
        assert rates[f'against_regions_{moment}'] == len(against) / len(band)
        known = [p for p in band if record.truth[p] < len(CLASSES)]
        assert rates[f'boundary_accuracy_{moment}'] == len(right) / len(known)
    inside = replace(record, labels_after=record.labels_before, actions=record.actions * 0)
    rates = inside.summary(CLASSES)['rates']
    assert rates['inside_accuracy_before'] == rates['inside_accuracy_after']
    assert fabricate().summary(CLASSES)['rates']['against_regions_before'] is None
    added = totals([record.summary(CLASSES)] * 2)
    assert added['counts']['boundary']['against_before'] == 2 * counts['against_before']
