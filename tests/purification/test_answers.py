# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Answers of vision-language models, in the shapes in which they come."""

import json

import numpy as np
import pytest

from mmseg_semi_rs.purification.prompts import ClassPrompts
from mmseg_semi_rs.purification.verifiers.answers import MAX_LENGTH, MAX_OBJECTS, parse_answer

PROMPTS = ClassPrompts([['building', 'house', 'roof'], ['road', 'street'], None, 'low_vegetation'])
B = (0, (10.0, 20.0, 110.0, 120.0))
R = (1, (5.0, 6.0, 50.0, 60.0))
V = (3, (0.0, 0.0, 9.5, 9.5))

# What was answered -> class and box of each object that is in it.
COMPLETE = {
    'qwen_fenced': (
        '```json\n[\n\t{"bbox_2d": [10, 20, 110, 120], "label": "building"},\n'
        '\t{"bbox_2d": [5, 6, 50, 60], "label": "road"}\n]\n```',
        [B, R],
    ),
    'bare_list': ('[{"bbox_2d":[10,20,110,120],"label":"building"}]', [B]),
    'single_object': ('{"bbox_2d": [10, 20, 110, 120], "label": "building"}', [B]),
    'keys_in_other_order': ('[{"label": "building", "bbox_2d": [10, 20, 110, 120]}]', [B]),
    'nested_objects': ('{"objects": [{"box": [10, 20, 110, 120], "class": "house"}]}', [B]),
    'by_class': (
        '{"building": [[10, 20, 110, 120], [5, 6, 50, 60]], "road": [5, 6, 50, 60]}',
        [B, (0, R[1]), R],
    ),
    'by_class_nested': ('{"objects": {"building": [[10, 20, 110, 120]]}}', [B]),
    'by_class_of_objects': ('{"building": [{"bbox": [10, 20, 110, 120]}], "road": []}', [B]),
    'class_key_twice': ('{"building": [10,20,110,120], "building": [5,6,50,60]}', [B, (0, R[1])]),
    'list_of_maps': ('[{"building": [10, 20, 110, 120]}, {"road": [5, 6, 50, 60]}]', [B, R]),
    'boxes_of_one_label': (
        '[{"label": "building", "boxes": [[10, 20, 110, 120], [5, 6, 50, 60]]}]',
        [B, (0, R[1])],
    ),
    'instances_of_category': ('{"category": "road", "instances": [[5, 6, 50, 60]]}', [R]),
    'bounding_box_key': ('[{"category_name":"road","bounding_box":[5,6,50,60]}]', [R]),
    'camel_case': ('[{"className": "road", "boundingBox": [5, 6, 50, 60]}]', [R]),
    'corner_keys': ('[{"name": "road", "x1": 5, "y1": 6, "x2": 50, "y2": 60}]', [R]),
    'nested_corner_keys': (
        '[{"name": "road", "bbox": {"xmin": 5, "ymin": 6, "xmax": 50, "ymax": 60}}]',
        [R],
    ),
    'corner_points': ('[{"label": "road", "bbox": [[5, 6], [50, 60]]}]', [R]),
    'floats': ('[{"bbox_2d": [0.0, 0, 9.5, 9.50], "label": "low vegetation"}]', [V]),
    'exponents': ('[{"bbox_2d": [0e0, 0, 9.5e0, 95e-1], "label": "low vegetation"}]', [V]),
    'codified_name': ('[{"bbox_2d": [0, 0, 9.5, 9.5], "label": "Low_Vegetation"}]', [V]),
    'number_strings': ('[{"bbox_2d": ["5", "6", "50.0", "60"], "label": "road"}]', [R]),
    'box_string': ('[{"bbox_2d": "[5, 6, 50, 60]", "label": "road"}]', [R]),
    'single_quotes': ("[{'bbox_2d': [5, 6, 50, 60], 'label': 'road'}]", [R]),
    'trailing_commas': ('[{"bbox_2d": [5, 6, 50, 60,], "label": "road",},]', [R]),
    'no_quotes': ('[{bbox_2d: [0, 0, 9.5, 9.5], label: low vegetation}]', [V]),
    'json_lines': (
        '{"bbox_2d": [10, 20, 110, 120], "label": "building"}\n'
        '{"bbox_2d": [5, 6, 50, 60], "label": "road"}',
        [B, R],
    ),
    'no_comma': ('[{"bbox_2d": [5, 6, 50, 60] "label": "road"}]', [R]),
    'missing_brace': ('[{"bbox_2d": [5, 6, 50, 60], "label": "road"]', [R]),
    'released_lines': ('building: [10, 20, 110, 120]\nroad: [5, 6, 50, 60]', [B, R]),
    'released_one_line': ('building: [10,20,110,120], road: [5,6,50,60]', [B, R]),
    'released_many_boxes': ('building: [10,20,110,120], [5,6,50,60]', [B, (0, R[1])]),
    'markdown': ('**Building**:\n- [10, 20, 110, 120]\n\n1. Road: [5, 6, 50, 60]', [B, R]),
    'class_name_with_space': ('low vegetation: [0, 0, 9.5, 9.5]', [V]),
    'prose_around': (
        "Sure! Here's what I can see:\n```json\n"
        '[{"bbox_2d": [5, 6, 50, 60], "label": "road"}]\n```\nLet me know if it\'s right.',
        [R],
    ),
    'label_in_list': ('[["road", 5, 6, 50, 60], ["building", [10, 20, 110, 120]]]', [R, B]),
    'plural_and_case': ('[{"bbox_2d": [10, 20, 110, 120], "label": "BUILDINGS"}]', [B]),
    'counted': ('[{"bbox_2d": [10, 20, 110, 120], "label": "building 2"}]', [B]),
    'reversed_corners': ('[{"bbox_2d": [110, 120, 10, 20], "label": "building"}]', [B]),
    'other_fields': (
        '[{"id": 7, "bbox_2d": [5, 6, 50, 60], "label": "road", "note": "a [grey] \\"one\\""}]',
        [R],
    ),
    'apostrophe': (
        "[{'note': 'the farmer's house', 'bbox': [5, 6, 50, 60], 'label': 'road'}]",
        [R],
    ),
    'escaped': ('[{"bbox_2d": [5, 6, 50, 60], "label": "r\\u006fad"}]', [R]),
    'other_digits': ('road: [٥, ٦, ٥٠, ٦٠]', [R]),  # noqa: RUF001
    'windows_lines': ('[\r\n{"bbox_2d": [5, 6, 50, 60],\r\n"label": "road"}]', [R]),
    'thinking_before': (
        '<think>road or house?</think>\n[{"bbox_2d":[5,6,50,60],"label":"road"}]',
        [R],
    ),
    'same_twice': (
        '[{"bbox_2d": [5, 6, 50, 60], "label": "road"}, {"bbox_2d": [5, 6, 50, 60], '
        '"label": "street"}]',
        [R],
    ),
    'empty_list': ('[]', []),
    'empty_fenced': ('```json\n[]\n```', []),
    'empty_object': ('{}', []),
    'empty_per_class': ('{"building": [], "road": null}', []),
    'none': ('None', []),
    'no_objects': ('There are no objects of these classes in the image.', []),
    'said_in_json': ('{"message": "No objects found", "objects": []}', []),
}


def found(text):
    return [
        (detection.label, detection.box) for detection in parse_answer(text, PROMPTS).detections
    ]


@pytest.mark.parametrize('name', COMPLETE)
def test_s7_reads_complete_answers_of_any_shape(name):
    text, expected = COMPLETE[name]
    answer = parse_answer(text, PROMPTS)
    assert [(detection.label, detection.box) for detection in answer.detections] == expected
    assert not answer.dropped and not answer.truncated


WHOLE = json.dumps(
    [{'bbox_2d': [i, i, i + 10, i + 20], 'label': 'low vegetation'} for i in range(4)]
)


def test_s9_wherever_an_answer_is_cut_its_complete_objects_are_kept():
    for end in range(1, len(WHOLE)):
        answer = parse_answer(WHOLE[:end], PROMPTS)
        assert answer.truncated
        complete = WHOLE[:end].count('}')
        assert [detection.box[0] for detection in answer.detections] == list(range(complete))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('```json\n[{"bbox_2d": [5, 6, 50, 60], "label": "road"}, {"bbox_2d": [10, 20', [R]),
        ('{"building": [[10, 20, 110, 120], [5, 6, 5', [B]),
        ('{"label": "building", "boxes": [[10, 20, 110, 120], [5, 6, 50, 6', [B]),
        ('building: [10, 20, 110, 120]\nroad: [5, 6, 5', [B]),
        ("[{'bbox_2d': [5, 6, 50, 60], 'label': 'ro", []),
        ('[{"bbox_2d": [5, 6, 50, 60], "label": "road"', []),
    ],
)
def test_s9_cut_answers_in_other_shapes(text, expected):
    answer = parse_answer(text, PROMPTS)
    assert [(detection.label, detection.box) for detection in answer.detections] == expected
    assert answer.truncated


def test_s9_a_complete_answer_is_not_called_cut():
    assert not parse_answer(WHOLE, PROMPTS).truncated
    assert len(parse_answer(WHOLE, PROMPTS).detections) == 4


@pytest.mark.parametrize(
    'name', ['Railroad', 'building site', 'rooftop garden', 'not a building', 'class name', '']
)
def test_s8_a_name_is_matched_as_a_whole(name):
    for text in (
        json.dumps([{'bbox_2d': [5, 6, 50, 60], 'label': name}]),
        f'{name}: [5, 6, 50, 60]',
        json.dumps({name: [[5, 6, 50, 60]]}),
    ):
        answer = parse_answer(text, PROMPTS)
        assert not answer.detections
        assert len(answer.dropped) == 1 and '[5, 6, 50, 60]' in answer.dropped[0]
        assert name in answer.dropped[0]


@pytest.mark.parametrize(
    ('item', 'reason'),
    [
        ('{"bbox_2d": [5, 6, 5, 60], "label": "road"}', 'no area'),
        ('{"bbox_2d": [5, 6, 50, 6], "label": "road"}', 'no area'),
        ('{"bbox_2d": [5, 6, NaN, 60], "label": "road"}', 'not finite'),
        ('{"bbox_2d": [5, 6, Infinity, 60], "label": "road"}', 'not finite'),
        ('{"bbox_2d": [5, 6, 1e999, 60], "label": "road"}', 'not finite'),
        ('{"bbox_2d": [5, 6, "-inf", 60], "label": "road"}', 'not finite'),
        ('{"bbox_2d": [5, 6, 50], "label": "road"}', '4 numbers, not 3'),
        ('{"bbox_2d": [5, 6, 50, null], "label": "road"}', '4 numbers, not 3'),
        ('{"bbox_2d": [1, 2, 3, 4, 5, 6, 7, 8], "label": "road"}', '4 numbers, not 8'),
        ('{"bbox_2d": "here", "label": "road"}', 'no box'),
        ('{"label": "road"}', 'no box'),
        ('{"bbox_2d": [5, 6, 50, 60]}', 'no name'),
        ('{"bbox_2d": [5, 6, 50, 60], "label": 7}', 'no name'),
        ('{"bbox_2d": [5, 6, 50, 60], "label": "lake"}', 'no class'),
    ],
)
def test_what_cannot_be_used_is_dropped_with_the_reason(item, reason):
    good = '{"bbox_2d": [10, 20, 110, 120], "label": "building"}'
    answer = parse_answer(f'[{good}, {item}]', PROMPTS)
    assert [(detection.label, detection.box) for detection in answer.detections] == [B]
    assert len(answer.dropped) == 1 and reason in answer.dropped[0]
    assert not answer.truncated


@pytest.mark.parametrize(
    ('field', 'score', 'dropped'),
    [
        ('', 0.9, 0),
        (', "score": 0.25', 0.25, 0),
        (', "confidence": "0.25"', 0.25, 0),
        (', "confidence": "25%"', 0.25, 0),
        (', "probability": 25', 0.25, 0),
        (', "score": null', 0.9, 0),
        (', "score": -1', 0.9, 1),
        (', "score": NaN', 0.9, 1),
        (', "score": 1e9', 0.9, 1),
        (', "confidence": "high"', 0.9, 1),
        (', "confidence": [1, 2]', 0.9, 1),
    ],
)
def test_scores(field, score, dropped):
    text = f'[{{"bbox_2d": [5, 6, 50, 60], "label": "road"{field}}}]'
    answer = parse_answer(text, PROMPTS, score=0.9)
    assert [detection.score for detection in answer.detections] == [score]
    assert len(answer.dropped) == dropped


def test_score_as_fifth_number():
    (detection,) = parse_answer('road: [5, 6, 50, 60, 0.5]', PROMPTS).detections
    assert (detection.label, detection.box, detection.score) == (*R, 0.5)


def test_of_duplicates_the_highest_score_is_kept():
    items = [{'bbox_2d': [5, 6, 50, 60], 'label': 'road', 'score': s} for s in (0.2, 0.7, 0.4)]
    (detection,) = parse_answer(json.dumps(items), PROMPTS).detections
    assert detection.score == 0.7


@pytest.mark.parametrize(
    'text',
    [
        '',
        ' \n ',
        'I cannot see the image.',
        'The picture shows a quiet village.',
        '{"answer": 42}',
        '[1 2',
        'class_name: [x1, y1, x2, y2]',
        '<html><body style="{color: red}">hello</body></html>',
        'def f(x):\n    return {"a": x[0]}',
        '\x00\x01\x02',
        '�\ud800 ☃',
        '"' * 50,
    ],
)
def test_what_is_no_answer_is_reported(text):
    answer = parse_answer(text, PROMPTS)
    assert not answer.detections
    assert answer.dropped or answer.truncated


HOSTILE = {
    'deep_lists': '[' * 200_000,
    'deep_objects': '{"a":' * 100_000 + '1' + '}' * 100_000,
    'deep_then_closed': '[' * 30_000 + ']' * 30_000,
    'closers': ']' * 200_000 + '}' * 200_000,
    'mixed': '[{' * 16_000 + ']}' * 16_000,
    'quotes': '["' * 100_000,
    'apostrophes': '[' + "'a" * 100_000,
    'escapes': '["' + '\\' * 200_000,
    'spaces': "['" + ' ' * 100_000 + "'",
    'digits': f'road: [{"9" * 60_000}, 1, 2, 3]',
    'digits_of_a_word': f'road: [{"9" * 60_000}x, 1, 2, 3]',
    'dots': f'road: [{"1." * 30_000}]',
    'letters': 'road' * 100_000 + ': [5, 6, 50, 60]',
    'commas': '[' + ',' * 200_000 + ']',
    'colons': '{' + ':' * 200_000 + '}',
    'marks': '-' * 60_000 + 'x: [5, 6, 50, 60]',
    'lines': '\n' * 60_000 + 'x: [5, 6, 50, 60]',
    'many_names': '[' + '"road",' * 20_000 + ']',
    'many_lists': '[1,2]' * 40_000,
    'surrogates': '[{"bbox_2d": [5, 6, 50, 60], "label": "\ud800"}]',
    'control': '[{"bbox_2d": [5, 6, 50, 60], "label": "ro\x00ad"}]',
    'bomb': '{"a": "' + '\\u0000' * 20_000 + '"}',
    'bools': '[true, false, true, true]',
}


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_answers_raise_nothing_and_stay_small(name):
    answer = parse_answer(HOSTILE[name], PROMPTS)
    assert not answer.detections
    assert sum(map(len, answer.dropped)) < 20_000
    assert answer.truncated or len(HOSTILE[name]) <= MAX_LENGTH


def test_damaged_answers_raise_nothing():
    random = np.random.default_rng(0)
    texts = [text for text, _ in COMPLETE.values()]
    signs = list('[]{}:,"\'\\0-.eN \n')
    for _ in range(3000):
        damaged = list(texts[random.integers(len(texts))])
        for _ in range(random.integers(1, 6)):
            place = random.integers(len(damaged) + 1)
            damaged[place : place + random.integers(3)] = signs[random.integers(len(signs))]
        for detection in parse_answer(''.join(damaged), PROMPTS).detections:
            left, top, right, bottom = detection.box
            assert detection.label in (0, 1, 3) and left < right and top < bottom
            assert 0 <= detection.score <= 1


def test_too_long_an_answer_is_cut_and_reported():
    text = f'{WHOLE}{" " * MAX_LENGTH}building: [10, 20, 110, 120]'
    answer = parse_answer(text, PROMPTS)
    assert len(answer.detections) == 4
    assert answer.truncated and str(MAX_LENGTH) in answer.dropped[0]


def test_too_many_objects_are_not_kept():
    text = ''.join(f'road: [0, 0, {i}, 9]\n' for i in range(1, MAX_OBJECTS + 201))
    answer = parse_answer(text, PROMPTS)
    assert len(answer.detections) == MAX_OBJECTS
    assert any(str(MAX_OBJECTS) in reason for reason in answer.dropped)
    assert answer.dropped[-1] == 'and 150 more'


def test_s10_a_class_that_is_not_asked_for_is_not_taken():
    prompts = ClassPrompts('loveda')
    for name in ('background', 'ignore', 'no-data', 'Background'):
        answer = parse_answer(f'[{{"bbox_2d": [5, 6, 50, 60], "label": "{name}"}}]', prompts)
        assert not answer.detections and 'no class' in answer.dropped[0]
