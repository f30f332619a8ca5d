# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The audit page shows every tile, takes nothing from the network and lets no answer in."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmseg_semi_rs.purification.audit import AuditRecord, totals
from mmseg_semi_rs.purification.evidence import Region
from mmseg_semi_rs.visualization import draw_panels
from mmseg_semi_rs.visualization.audit_page import write_audit_page
from mmseg_semi_rs.visualization.purification_panels import (
    ACTION_COLOURS,
    DISAGREES,
    ERROR_COLOURS,
    HATCH,
    NO_SCORE,
    OUTLINE,
    purification_row,
)
from tests._support.browser import check_looks, needs_browser

CLASSES = ['road', 'building & roof', '<tree>']
PALETTE = [(255, 255, 255), (255, 0, 0), (0, 160, 0)]
HOSTILE = (
    '</pre></article><script>document.title="owned"</script>'
    '<img src=x onerror="document.title=\'owned\'">&lt;b&gt;\x00\x1b[31m\ud800'
)
VOID = {'meta', 'img', 'input', 'br', 'link'}


def fabricate(name: str = 'tile', changed: int = 4, truth: bool = True) -> AuditRecord:
    """A tile of 16 x 24 px: ``changed`` pixels corrected from road to building, some rightly."""
    size = (16, 24)
    rng = np.random.default_rng(changed)
    before = np.zeros(size, np.int64)
    after = before.copy()
    actions = np.zeros(size, np.uint8)
    after.flat[:changed] = 1
    actions.flat[:changed] = 1
    actions[8, :5] = 2
    actions[9, :3] = 3
    valid = np.ones(size, bool)
    valid[-2:] = False
    true = np.zeros(size, np.int64)
    true.flat[: changed // 2] = 1
    true[:, -1] = 255
    scores = np.zeros((3, *size), np.uint8)
    scores[1] = 204
    seen = np.ones(size, bool)
    seen[:, 20:] = False
    weight = np.ones(size, np.float32)
    return AuditRecord(
        name=name,
        key='0f' * 32,
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        labels_before=before,
        labels_after=after,
        confidence=np.full(size, 0.5, np.float32),
        weight_before=weight,
        weight_after=weight * 0.75,
        actions=actions,
        valid=valid,
        truth=true if truth else None,
        scores=scores,
        seen=seen,
        boxes=(Region(1, (2.0, 3.0, 12.0, 14.0), 0.9, 'roof'),),
        answer='building: [2, 3, 12, 14]',
    )


class Page(HTMLParser):
    """Elements of a page, with a check that tags are balanced."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append('')

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def all(self, wanted):
        return [attrs for tag, attrs in self.elements if tag == wanted]


def write(path, records, **options):
    counted = totals([record.summary(CLASSES) for record in records])
    return write_audit_page(records, path, CLASSES, PALETTE, counted, **options)


def parse(path):
    return Page(path.read_text(encoding='utf-8'))


def decode(uri):
    header, data = uri.split(',')
    assert header == 'data:image/png;base64'
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB'))


def test_each_tile_has_its_panels_numbers_and_answer(tmp_path):
    records = [fabricate('first', 4), fabricate('second', 10)]
    page = parse(write(tmp_path / 'deep' / 'page.html', records, title='A & B', settings={'a': 1}))
    assert [tile['id'] for tile in page.all('article')] == ['tile-1', 'tile-2']
    assert [int(tile['data-changed']) for tile in page.all('article')] == [12, 18]
    # Of the corrected the second half is wrong, all support is right, all vetoes are wrong.
    assert [int(tile['data-wrong']) for tile in page.all('article')] == [2 + 3, 5 + 3]
    titles = purification_row(records[0], CLASSES, PALETTE)[1]
    for record, pictures in zip(records, np.split(np.array(page.all('img')), 2), strict=True):
        assert [picture['alt'] for picture in pictures] == [
            f'{title} of {record.name}' for title in titles
        ]
    assert page.texts['h1'] == ['A & B']
    assert page.texts['pre'] == ['\nbuilding: [2, 3, 12, 14]'] * 2
    article = page.texts['article'][0]
    assert 'road → building & roof' in article
    assert '1.000 → 0.750' in article
    assert 'roof' in article
    main = page.texts['main'][0]
    known = 2 * 14 * 23  # As many pixels were wrong as are now.
    assert f'{100 - 700 / known:.2f} % → {100 - 700 / known:.2f} % (+0.00)' in main


def test_pictures_in_the_page_are_those_drawn(tmp_path):
    record = fabricate()
    page = parse(write(tmp_path / 'page.html', [record], side=96))
    drawn, titles = purification_row(record, CLASSES, PALETTE, side=96)
    shown = [decode(picture['src']) for picture in page.all('img')]
    for title, expected, found in zip(titles, drawn, shown, strict=True):
        if len(np.unique(expected.reshape(-1, 3), axis=0)) <= 256:
            assert np.array_equal(found, expected), title
        else:
            assert np.abs(found.astype(int) - expected).mean() < 16, title


def test_the_page_refers_to_nothing_outside_and_has_no_duplicate_id(tmp_path):
    path = write(tmp_path / 'page.html', [fabricate('a'), fabricate('b')])
    page = parse(path)
    for tag, attrs in page.elements:
        for name in ('src', 'href', 'srcset', 'action', 'data', 'poster'):
            assert attrs.get(name, 'data:').startswith('data:'), (tag, name)
        assert not [name for name in attrs if name.startswith('on')]
    assert not page.all('link')
    assert len(page.all('script')) == 1
    text = path.read_text(encoding='utf-8')
    assert not re.search(r'https?:|//[a-z]|@import|url\(', re.sub(r'"data:[^"]*"', '', text))
    ids = [attrs['id'] for _, attrs in page.elements if 'id' in attrs]
    assert len(ids) == len(set(ids))


def test_hostile_text_stays_text_wherever_it_stands(tmp_path):
    record = replace(
        fabricate(HOSTILE),
        key=HOSTILE,
        answer=HOSTILE,
        dropped=(HOSTILE,),
        boxes=(Region(1, (0.0, 0.0, 9.0, 9.0), 0.5, HOSTILE),),
        truncated=True,
    )
    plain = parse(
        write(
            tmp_path / 'plain.html',
            [replace(record, name='n', key='k', answer='a', dropped=('d',), boxes=record.boxes)],
            title='t',
            settings={'s': 'v'},
        )
    )
    page = parse(
        write(
            tmp_path / 'page.html',
            [record],
            title=HOSTILE,
            settings={HOSTILE: HOSTILE, 'nested': [HOSTILE]},
        )
    )
    added = len(page.elements) - len(plain.elements)
    assert added == 3  # the row of the second setting: tr, th, td
    assert len(page.all('script')) == 1
    assert len(page.all('img')) == len(plain.all('img'))
    shown = HOSTILE.replace('\x00', '\ufffd').replace('\x1b', '\ufffd').replace('\ud800', '?')
    assert page.texts['pre'] == ['\n' + shown]
    assert page.all('img')[0]['alt'] == f'image of {shown}'
    assert page.texts['title'] == [shown]
    assert page.texts['strong'] == ['answer truncated']


def test_tiles_without_evidence_truth_boxes_or_answer(tmp_path):
    bare = replace(
        fabricate('bare', truth=False), key=None, scores=None, seen=None, boxes=(), answer=''
    )
    page = parse(write(tmp_path / 'page.html', [bare]))
    titles = ['image', 'teacher', 'confidence', 'evidence', 'purified', 'changes']
    assert page.texts['figcaption'] == titles
    assert 'pre' not in page.texts
    assert 'No answer of a verifier.' in page.texts['article'][0]
    assert 'wrong' not in ''.join(page.texts['main'][0].split())
    evidence = decode(page.all('img')[3]['src'])
    assert {tuple(colour) for colour in evidence.reshape(-1, 3)} == set(HATCH)


def test_an_empty_audit_is_a_page_too(tmp_path):
    page = parse(write(tmp_path / 'page.html', []))
    assert page.all('article') == []
    assert '0 tiles' in page.texts['h2']


def test_of_many_tiles_those_with_most_changes_are_shown(tmp_path):
    records = [fabricate(f'n{changed}', changed) for changed in (2, 30, 4, 20, 6)]
    page = parse(write(tmp_path / 'page.html', records, limit=2))
    assert page.texts['h3'][-2:] == ['n30', 'n20']
    assert '3 more are counted above and not shown.' in page.texts['main'][0]


def test_a_long_answer_is_cut_and_says_so(tmp_path):
    record = replace(fabricate(), answer='<' * 20_000 + 'x' * 1_234)
    page = parse(write(tmp_path / 'page.html', [record]))
    assert page.texts['pre'] == ['\n' + '<' * 20_000]
    assert '1,234 more characters.' in page.texts['main'][0]


def test_a_failure_leaves_the_page_before_and_no_litter(tmp_path):
    path = write(tmp_path / 'page.html', [fabricate('old')])
    before = path.read_bytes()
    bad = replace(fabricate('bad'), image=np.zeros((16, 24), np.float64))
    with pytest.raises(Exception):  # noqa: B017 - whatever drawing says about such an image
        write(path, [fabricate('fine'), bad])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ['page.html']


def test_a_palette_of_another_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match='2 colours for 3 classes'):
        write_audit_page([], tmp_path / 'page.html', CLASSES, PALETTE[:2], totals([]))


# ------------------------------------------------------------------------------------- pictures


def row(record, side=24):
    pictures, titles = purification_row(record, CLASSES, PALETTE, side)
    return dict(zip(titles, pictures, strict=True))


def test_pictures_say_what_happened_pixel_by_pixel():
    record = fabricate()
    record.actions[-1] = 3  # In the padding, where nothing counts.
    pictures = row(record)
    height, width = record.valid.shape
    names = {1: 'corrected', 2: 'supported', 3: 'vetoed'}
    for pixel in np.ndindex(height, width):
        shown = {
            title: tuple(int(v) for v in picture[pixel]) for title, picture in pictures.items()
        }
        if not record.valid[pixel]:
            hatched = set(shown) - {'image', 'changes'}
            assert all(shown[title] in HATCH for title in hatched)
            assert shown['changes'] not in ACTION_COLOURS.values()
            continue
        assert shown['teacher'] == PALETTE[record.labels_before[pixel]]
        assert shown['purified'] == PALETTE[record.labels_after[pixel]]
        action = record.actions[pixel]
        if action:
            assert shown['changes'] == ACTION_COLOURS[names[action]]
        else:
            assert shown['changes'] not in ACTION_COLOURS.values()
            assert max(shown['changes']) <= 110
        if record.seen[pixel]:  # class 1 with a score of 204 / 255 = 0.8
            opaque = np.array(PALETTE[1]) * 0.8 + np.array(NO_SCORE) * 0.2
            assert shown['evidence'] == tuple(np.rint(opaque))
        else:
            assert shown['evidence'] in HATCH
        if record.truth[pixel] == 255:
            assert shown['truth'] in HATCH
            assert shown['errors after'] in HATCH
            continue
        was = record.labels_before[pixel] == record.truth[pixel]
        now = record.labels_after[pixel] == record.truth[pixel]
        after = {(1, 1): 'right', (0, 0): 'wrong', (0, 1): 'fixed', (1, 0): 'broken'}[was, now]
        assert shown['errors before'] == ERROR_COLOURS['right' if was else 'wrong']
        assert shown['errors after'] == ERROR_COLOURS[after]


def test_a_single_changed_pixel_survives_scaling_down():
    record = fabricate(changed=0)
    record.actions[:] = 0
    record.actions[7, 13] = 3
    changes = row(record, side=7)['changes']
    assert (changes == ACTION_COLOURS['vetoed']).all(axis=2).any()


def test_tied_scores_are_no_evidence():
    record = fabricate()
    record.scores[2] = record.scores[1]
    record.scores[2, 0, 0] -= 1
    evidence = row(record)['evidence']
    assert tuple(evidence[0, 0]) != NO_SCORE
    assert (evidence[:14, 1:20] == NO_SCORE).all()


@pytest.mark.parametrize('side', [16, 24, 96])
def test_all_pictures_have_one_size_and_fit_below_each_other(side):
    known, unknown = fabricate(), fabricate(truth=False)
    pictures, titles = purification_row(known, CLASSES, PALETTE, side)
    assert {picture.shape for picture in pictures} == {(round(side * 16 / 24), side, 3)}
    assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
    fewer, same = purification_row(unknown, CLASSES, PALETTE, side)
    assert same == titles[: len(fewer)]
    draw_panels([pictures, fewer], titles)


def test_boxes_are_drawn_where_they_are():
    record = replace(
        fabricate(),
        image=np.full((16, 24, 3), 128, np.uint8),
        boxes=(
            Region(1, (6.0, 4.0, 18.0, 12.0), 0.9, 'roof'),
            Region(2, (-50.0, -50.0, -2.0, -2.0), 0.9, 'outside'),
            Region(2, (np.inf, 0.0, np.inf, 5.0), 0.9, 'outside'),
        ),
    )
    image = row(record, side=240)['image']
    red = (image == PALETTE[1]).all(axis=2)
    assert red[40, 60:180].mean() > 0.95  # letters of the name may reach into it
    assert red[119, 60:180].all()
    assert red[40:120, 60].all()
    assert red[40:120, 179].all()
    assert not red[60:110, 80:170].any()
    assert not (image == PALETTE[2]).all(axis=2).any()


def test_action_colours_differ_for_the_colour_blind():
    """Deuteranopia and protanopia by Vienot, Brettel and Mollon (1999), on linear RGB."""
    blind = {
        'protan': [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
        'deutan': [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
    }
    colours = [*ACTION_COLOURS.values(), (110, 110, 110), (20, 20, 20)]
    linear = (np.array(colours) / 255) ** 2.2
    for kind, matrix in blind.items():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2) * 255
        gaps = np.linalg.norm(seen[:, None] - seen[None], axis=2)
        assert gaps[:3][gaps[:3] > 0].min() > 45, kind


# -------------------------------------------------------------------------------------- browser


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_sorts_and_filters_the_tiles(browser, tmp_path):
    records = [fabricate(f'n{changed}', changed) for changed in (2, 30, 4)]
    records[2] = replace(records[2], answer=HOSTILE, truncated=True)
    url = write(tmp_path / 'page.html', records, title='Audit').as_uri()
    check_looks(browser, url)

    def shown():
        return browser.evaluate(
            "[...document.querySelectorAll('article')].map(a => [a.id, a.hidden])"
        )

    assert shown() == [['tile-2', False], ['tile-3', False], ['tile-1', False]]
    assert browser.evaluate("document.getElementById('controls').hidden") is False
    assert browser.evaluate("document.querySelector('output').textContent") == '3 of 3 shown'
    assert browser.evaluate('document.title') == 'Audit'
    assert browser.evaluate('document.scripts.length') == 1
    for name, value in (('sort', 'order'), ('show', 'faulty')):
        browser.evaluate(
            f"(() => {{ const box = document.getElementById('{name}'); box.value = '{value}';"
            "box.dispatchEvent(new Event('change')); })()"
        )
    assert shown() == [['tile-1', True], ['tile-2', True], ['tile-3', False]]
    assert browser.evaluate("document.querySelector('output').textContent") == '1 of 3 shown'


@pytest.mark.slow
@needs_browser
def test_the_pages_policy_forbids_any_other_script(browser, tmp_path):
    path = write(tmp_path / 'page.html', [fabricate()], title='Audit')
    added = path.read_text(encoding='utf-8').replace(
        '</body>', "<script>document.title = 'owned'</script></body>"
    )
    path.write_text(added, encoding='utf-8')
    assert any('Content Security Policy' in error for error in browser.open(path.as_uri()).errors)
    assert browser.evaluate('document.title') == 'Audit'


def test_regions_are_drawn_and_what_disagrees_with_them_is_told(tmp_path):
    record = fabricate(changed=6)
    regions = np.ones((16, 24), np.int64)
    regions[:, 12:] = 2
    regions[:4, 16:] = 0
    before = record.labels_before.copy()
    before[5:8, 3:6] = 2
    after = np.where(record.actions == 1, 1, before)
    record = replace(record, regions=regions, labels_before=before, labels_after=after)
    pictures, titles = purification_row(record, CLASSES, PALETTE, side=24)
    picture = pictures[titles.index('evidence')]
    assert (picture[:14] == DISAGREES).all(2)[5:8, 3:6].all()
    assert (picture[4:14, 12] == OUTLINE).all()
    assert not (picture == OUTLINE).all(2)[5:8, 3:6].any()
    summary = record.summary(CLASSES)
    page = write_audit_page([record], tmp_path / 'p.html', CLASSES, PALETTE, totals([summary]))
    text = page.read_text()
    share = 100 * summary['rates']['against_regions_before']
    assert 'boundary pixels against their region' in text and f'{share:.2f} %' in text
    assert 'label before that is not the most frequent of its region' in text
    assert 'boundary accuracy' in text and 'inside accuracy' in text
