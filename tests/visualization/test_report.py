# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The report says what the runs logged, whatever became of them, and takes nothing from outside."""

import json
import math
import re
import statistics
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmseg_semi_rs.visualization.report import write_report
from mmseg_semi_rs.visualization.report_curves import Chart, Line, draw_chart, split_key
from mmseg_semi_rs.visualization.run_groups import (
    ABSENT,
    differences,
    group_runs,
    mean_series,
    summarise,
)
from mmseg_semi_rs.visualization.run_records import Run, find_runs, read_run
from tests._support.browser import check_looks, needs_browser
from tests._support.tiny_training import load_tool, run_here, write_training

VOID = {'meta', 'img', 'input', 'br', 'link'}
HOSTILE = '</title><script>document.title="owned"</script><img src=x onerror=alert(1)>&\x00'
CONFIG = """
model = dict(type='MeanTeacherSegmentor', student=dict(type='EncoderDecoder', {student}))
train_cfg = dict(type='SemiTrainLoop', max_iters=40)
randomness = dict(seed={seed})
load_from = {load_from!r}
resume = {resume}
labelled = dict(ann_file='splits/seed{seed}/labelled.txt')
train_dataloader = dict(dataset=dict(labelled=labelled))
work_dir = {work_dir!r}
"""
LOG = """{start} - mmengine - INFO -
    Python: 3.11.7 (main)
    CUDA available: {cuda}
    PyTorch: 2.15.0
    MMEngine: 0.10.7
{end} - mmengine - INFO - Iter(train) [40/40]
"""


def lines_of(begin, end, seed=0, network='teacher'):
    """What a start logs from one iteration to another: training every 5, validation every 10."""
    for step in range(begin, end + 1, 5):
        yield {'lr': 0.1 / step, 'loss': 9 / step + seed, 'memory': 2048, 'time': 0.5, 'iter': step,
               'pseudo_kept': step / 100, 'step': step}  # fmt: skip
        if step % 10 == 0:
            good = 50 + 10 * math.sin(step + seed)
            scores = {'mIoU': good, 'IoU.road': good + seed, 'IoU.<roof>': good - seed}
            other = {f'student/{name}': value - 1 for name, value in scores.items()}
            named = {f'{network}/{name}': value for name, value in scores.items()}
            yield {**other, **named, **scores, 'time': 99.0, 'step': step}


def write_run(folder, lines, seed=0, stamp='20260101_000000', student='depth=18', resume=False):
    start = Path(folder) / stamp
    (start / 'vis_data').mkdir(parents=True)
    (start / 'vis_data' / 'scalars.json').write_text(
        ''.join(json.dumps(line) + '\n' for line in lines)
    )
    text = CONFIG.format(
        seed=seed,
        student=student,
        work_dir=str(folder),
        resume=resume,
        load_from=f'{folder}/iter_20.pth' if resume else None,
    )
    (start / 'vis_data' / 'config.py').write_text(text)
    begin, end = (f'2026/01/01 {hour}:00:00' for hour in ('10', '11'))
    (start / f'{stamp}.log').write_text(LOG.format(start=begin, end=end, cuda=False))
    return Path(folder)


def add_picture(run, name, size=(40, 24), colour=(200, 30, 30)):
    folder = next(run.glob('*/vis_data')) / 'vis_image'
    folder.mkdir(exist_ok=True)
    Image.new('RGB', size, colour).save(folder / f'{name}.png')


class Page(HTMLParser):
    """Elements and texts of a page, with a check that tags are balanced and ids differ."""

    def __init__(self, source):
        super().__init__()
        self.source, self.elements, self._open = source, [], []
        self.rows, self.texts = [], {}
        self.feed(source)
        self.close()
        assert self._open == []
        ids = [attrs['id'] for _, attrs in self.elements if 'id' in attrs]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append('')
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        for tag in set(self._open):
            self.texts[tag][-1] += data
        if {'td', 'th'} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, wanted):
        return [attrs for tag, attrs in self.elements if tag == wanted]

    def row(self, *begin):
        """The cells of the first row that begins so."""
        return next(row for row in self.rows if row[: len(begin)] == list(begin))


def report(folders, path, **options):
    written, faults = write_report(folders, path, **options)
    return Page(written.read_text(encoding='utf-8')), faults


# ---------------------------------------------------------------------------------------- contents


@pytest.fixture(scope='module')
def seeds(tmp_path_factory):
    """Three seeds of one recipe and one run of another."""
    root = tmp_path_factory.mktemp('runs')
    runs = [
        write_run(root / f'fixmatch_seed{seed}', lines_of(5, 40, seed), seed) for seed in range(3)
    ]
    for name in ('pseudo_labels_20', 'pseudo_labels_40', 'val_tile_1.png_40'):
        add_picture(runs[0], name, colour=(200, 30, 30) if name.endswith('40') else (0, 0, 255))
    runs.append(write_run(root / 'deep', lines_of(5, 30, 7), 0, student='depth=50'))
    return runs


@pytest.fixture(scope='module')
def whole(seeds, tmp_path_factory):
    return report(seeds, tmp_path_factory.mktemp('page') / 'deep' / 'report.html')[0]


def spread(values):
    return f'{statistics.mean(values):.2f} ± {np.std(values, ddof=1):.2f}'


def test_means_and_deviations_are_those_of_the_logged_values(whole):
    logged = [
        {line['step']: line for line in lines_of(5, 40, seed) if 'iter' not in line}
        for seed in range(3)
    ]
    last = [run[40] for run in logged]
    best = [max(run.values(), key=lambda line: line['mIoU']) for run in logged]
    assert [line['step'] for line in best] != [40] * 3
    # Of the student, what it had when the teacher was best, not its own best.
    for network, prefix in (('teacher', ''), ('student', 'student/')):
        assert whole.row('fixmatch', network)[2:] == [
            spread([line[f'{prefix}mIoU'] for line in last]),
            spread([line[f'{prefix}mIoU'] for line in best]),
            '40',
            '3 (seeds 0, 1, 2)',
        ]
    for name in ('road', '<roof>'):
        rows = [row for row in whole.rows if row[0] == name]
        found = [[line[f'IoU.{name}'] for line in lines] for lines in (last, best)]
        assert [row[1] for row in rows] == [spread(values) for values in found]
    single = next(line for line in lines_of(30, 30, 7) if 'iter' not in line)
    assert whole.row('deep', 'teacher')[2] == f'{single["mIoU"]:.2f}'
    assert whole.row('deep', 'teacher')[4:] == ['30 of 40', '1 (seed 0)']


def test_folds_are_runs_of_one_recipe_with_mean_and_deviation(tmp_path):
    runs = []
    for fold in (1, 2):
        run = write_run(tmp_path / f'mine_fold{fold}', lines_of(5, 40, fold))
        with next(run.glob('*/vis_data/config.py')).open('a') as file:
            lists = dict(ann_file=f'splits/fold_{fold}/val.txt')
            file.write(f'val_dataloader = dict(dataset={lists})\n')
            file.write(f"split = 'splits/fold_{fold}'\n")
        runs.append(run)
    leave_test(runs[1])
    page, faults = report(runs, tmp_path / 'page.html')
    assert not faults
    last, best = (
        [pick(50 + 10 * math.sin(step + fold) for step in (10, 20, 30, 40)) for fold in (1, 2)]
        for pick in (lambda values: list(values)[-1], max)
    )
    assert [row for row in page.rows if row[:2] == ['mine', 'teacher']] == [
        ['mine', 'teacher', spread(last), spread(best), '40', '2 (folds 1, 2)']
    ]
    assert page.row('road')[1] == spread([score + fold for fold, score in enumerate(last, 1)])


def test_the_higher_of_two_recipes_is_told(whole):
    rows = [row for row in whole.rows if row[0] == 'mIoU']
    fix, deep = (float(cell.split(' ')[0]) for cell in rows[0][1:])
    better = 'fixmatch' if fix > deep else 'deep'
    assert f', {better} (teacher).' in whole.texts['header'][0]


def test_facts_of_each_run(whole, seeds):
    row = whole.row('deep', 'deep', '0')
    assert row[3:5] == ['30 of 40', 'stopped or running']
    assert row[8:14] == ['1:00:00', '0.500', '2.0 GiB', 'CPU', '3.11.7', '2.15.0']
    assert row[-1] == str(seeds[3])
    assert whole.row('fixmatch_seed1', 'fixmatch', '1')[4] == 'finished'
    assert whole.row('loss')[1:] == [f'{9 / 40 + seed:.4g}' for seed in range(3)] + ['7.3']


def test_config_differences_are_the_recipe_and_neither_seeds_nor_folders(whole):
    heads = next(row for row in whole.rows if row[0] == 'key')
    assert heads == ['key', 'fixmatch', 'deep']
    keys = [row for row in whole.rows if '.' in row[0] and 'student.' in row[0]]
    assert keys == [['model.student.depth', '18', '50']]
    assert not [row for row in whole.rows if row[0].startswith(('randomness', 'train_dataloader'))]


def test_curves_are_there_in_words_and_lines(whole):
    charts = {svg['aria-label'].split(' by ')[0]: svg['aria-label'] for svg in whole.all('svg')
              if svg.get('class') == 'chart'}  # fmt: skip
    assert set(charts) >= {'mIoU', 'loss', 'lr', 'pseudo_kept', 'IoU.road'}
    mean = [statistics.mean(9 / step + seed for seed in range(3)) for step in (5, 40)]
    assert f'fixmatch: {mean[0]:.4g} at 5 to {mean[1]:.4g} at 40' in charts['loss']
    assert 'deep, student: ' in charts['mIoU'] and 'fixmatch, teacher: ' in charts['mIoU']
    assert charts['mIoU'].count(' to ') == 4, 'what predict_on names is drawn once'
    keys = next(text for text in whole.texts['ul'] if 'fixmatch' in text)
    assert keys == 'fixmatchdeepteacherstudent'


def test_the_last_picture_of_each_name_is_embedded(whole):
    alts = [picture['alt'] for picture in whole.all('img')]
    assert alts == [
        'pseudo_labels, iteration 40 of fixmatch_seed0',
        'val_tile_1.png, iteration 40 of fixmatch_seed0',
    ]
    assert all(picture['src'].startswith('data:image/webp;') for picture in whole.all('img'))


def test_the_page_is_whole_accessible_and_refers_to_nothing_outside(whole):
    for tag, attrs in whole.elements:
        for name in ('src', 'href', 'srcset', 'action', 'data', 'poster'):
            assert attrs.get(name, '#').startswith(('data:', '#')), (tag, attrs)
        assert not [name for name in attrs if name.startswith('on')]
    assert not whole.all('script') and not whole.all('link')
    bare = re.sub(r'"data:[^"]*"', '', whole.source)
    assert not re.search(r'https?:|@import|url\((?!#)', bare)
    assert len(whole.texts['caption']) == len(whole.all('table'))
    assert all('scope' in head for head in whole.all('th'))
    assert all(picture['alt'] for picture in whole.all('img'))
    # Colours are the page's, so that they change with it.
    assert '#01f' not in whole.source
    assert len(set(re.findall(r'var\(--(s\d)\)', whole.source))) == 2


# ------------------------------------------------------------------------------ damaged, resumed


def test_a_resumed_run_is_what_its_last_start_made_of_it(tmp_path):
    run = write_run(tmp_path / 'run', lines_of(5, 35, seed=5))
    write_run(run, lines_of(25, 30, seed=1), seed=1, stamp='20260102_000000', resume=True)
    found = read_run(run)
    assert sorted(found.train['loss']) == [5, 10, 15, 20, 25, 30]  # 35 is of the abandoned start
    assert found.train['loss'][20] == 9 / 20 + 5 and found.train['loss'][25] == 9 / 25 + 1
    assert sorted(found.val['mIoU']) == [10, 20, 30]
    assert found.val['IoU.road'][30] == pytest.approx(50 + 10 * math.sin(31) + 1)
    assert (found.starts, found.seed, found.duration) == (2, 1, timedelta(hours=2))
    # It is one recipe with a run that was not interrupted.
    other = write_run(tmp_path / 'other', lines_of(5, 40), seed=2)
    groups = group_runs([found, read_run(other)])
    assert [[run.name for run in group.runs] for group in groups] == [['run', 'other']]
    page, faults = report([run], tmp_path / 'page.html')
    assert faults == []
    assert page.row('run', 'run')[4] == 'stopped or running, started 2 times'


def says(run, *lines):
    """What a guard wrote into the log of the last start."""
    log = sorted(run.glob('*/*.log'))[-1]
    stamp = '2026/01/01 10:30:00 - mmengine - WARNING - '
    log.write_text(log.read_text() + ''.join(f'{stamp}{line}\n' for line in lines))


def test_what_the_guard_found_stands_near_the_top_as_it_holds(tmp_path):
    run = write_run(tmp_path / 'run', lines_of(5, 40))
    says(
        run,
        'Pseudo label guard at iteration 20: road is starved (1.2 % of the kept weight).',
        'Pseudo label guard at iteration 35: <roof> is flooded (40.0 % of the kept weight).',
        'Pseudo label guard at iteration 40: car is starved (0.0 % of the kept weight).',
    )
    write_run(run, lines_of(30, 40), stamp='20260102_000000', resume=True)
    says(
        run,
        'Pseudo label guard at iteration 35: road is no longer starved (12.0 %).',
        "Pseudo label guard of 'b' at iteration 40: road is starved (0.1 %).",
    )
    page, faults = report([run], tmp_path / 'page.html')
    assert faults == [] and 'guard' in page.texts['h2'][0]
    # What was said of <roof> and of a car belongs to steps that were made again, and not said then.
    begin = 'run, pseudo labels'
    assert page.texts['li'][:2] == [
        f'{begin} from iteration 35 on: road is no longer starved (12.0 %).',
        f'{begin} of b from iteration 40 on: road is starved (0.1 %).',
    ]
    assert 'flooded' not in page.source and 'car is' not in page.source


def test_without_a_guard_nothing_is_said_of_it(whole):
    assert 'guard' not in whole.source


def test_pseudo_labels_are_drawn_by_class_beside_the_labels(tmp_path):
    def logged():
        for line in lines_of(5, 40):
            if 'iter' in line:
                for name, share in (('road', 0.01), ('roof', 0.99)):
                    line |= {
                        f'pseudo_share/{name}': share,
                        f'pseudo_precision/{name}': math.nan if line['step'] < 20 else 0.9,
                        f'pseudo_recall/{name}': 0.05,
                        f'labelled_share/{name}': 0.5,
                        f'guard/{name}': share / 0.5,
                    }
            yield line

    page, _ = report([write_run(tmp_path / 'run', logged())], tmp_path / 'page.html')
    spoken = [svg['aria-label'] for svg in page.all('svg') if 'aria-label' in svg]
    charts = {said.split(' by ')[0]: said for said in spoken}
    assert 'run: 0.01 at 5 to 0.01 at 40' in charts['pseudo_share/road']
    assert 'labels of run: 0.5 at 5 to 0.5 at 40' in charts['pseudo_share/road']
    assert 'run: 0.9 at 20 to 0.9 at 40' in charts['pseudo_precision/road']
    assert 'run: 0.02 at 5' in charts['guard/road']
    assert 'pseudo_recall/roof' in charts and 'labelled_share/road' not in charts
    for heading in ('Precision and recall of each class', 'over its share of the labels'):
        assert any(heading in found for found in page.texts['h3'])


def test_the_lists_of_joined_validation_data_tell_them_apart(tmp_path):
    def data(*lists):
        parts = [dict(type='A', ann_file=name, data_prefix=dict(img_path='x')) for name in lists]
        dataset = parts[0] if len(parts) == 1 else dict(type='ConcatDataset', datasets=parts)
        return Run(tmp_path, 'a', dict(val_dataloader=dict(dataset=dataset))).data

    assert data('a.txt') == ('A', 'None', 'a.txt', 'x')
    assert data('a.txt', 'b.txt') == ('A', 'None', 'a.txt, b.txt', 'x') != data('a.txt', 'c.txt')


def test_damaged_lines_are_named_and_the_rest_is_kept(tmp_path):
    run = write_run(tmp_path / 'run', lines_of(5, 40))
    file = next(run.glob('*/vis_data/scalars.json'))
    lines = file.read_text().splitlines()
    lines[1] = f'{{"loss": 1{"0" * 400}, "iter": 10, "step": 10}}'
    lines[3] = '[1, 2]'
    lines.append('{"loss": 1, "iter": 45')
    file.write_text('\n'.join(lines))
    page, faults = report([run], tmp_path / 'page.html')
    assert faults == [f'{file}: lines 2, 4, {len(lines)} are damaged and left out.']
    assert faults[0] in page.texts['section'][0]
    assert sorted(read_run(run).train['loss']) == [5, 20, 25, 30, 35, 40]


def test_what_is_no_run_or_lacks_something_is_one_sentence_and_the_rest_goes_on(tmp_path):
    good = write_run(tmp_path / 'good', lines_of(5, 40))
    young = write_run(tmp_path / 'young', [line for line in lines_of(5, 9) if 'iter' in line])
    bare = write_run(tmp_path / 'bare', lines_of(5, 40))
    next(bare.glob('*/vis_data/config.py')).unlink()
    broken = write_run(tmp_path / 'broken', lines_of(5, 40))
    next(broken.glob('*/vis_data/config.py')).write_text('model = dict(')
    add_picture(good, 'pseudo_labels_40')
    add_picture(bare, 'test_tile_0')  # a test has its worst images, and no iteration
    assert not read_run(bare).pictures
    picture = next(good.glob('*/vis_data/vis_image/*'))
    picture.write_bytes(picture.read_bytes()[:30])
    (tmp_path / 'empty').mkdir()
    folders = [good, young, bare, broken, tmp_path / 'empty', tmp_path / 'nowhere']
    page, faults = report(folders, tmp_path / 'page.html')
    for folder, words in (
        ('empty', 'holds no run'),
        ('nowhere', 'is no folder'),
        ('young', 'has no validation yet'),
        ('bare', 'holds no config'),
        ('broken', 'cannot be read as a config'),
        ('good', 'is no readable picture'),
    ):
        assert [f for f in faults if str(tmp_path / folder) in f and words in f], words
    assert len(faults) == 6
    assert page.texts['h2'][0] == 'What is missing' and 'img' not in page.texts
    assert {row[0] for row in page.rows} >= {'good', 'young', 'bare', 'broken'}
    assert page.texts['p'][0].startswith('4 runs of 3 recipes.')


def test_a_config_is_read_and_not_run(tmp_path):
    run = write_run(tmp_path / 'run', lines_of(5, 40))
    touch = f"__import__('pathlib').Path({str(tmp_path / 'harm')!r}).touch()"
    next(run.glob('*/vis_data/config.py')).write_text(
        f"{touch}\nmodel = dict(type='X', sizes=(1, -2), **{{'more': {touch}}})\n"
        f'train_cfg = dict(max_iters=7, other={{3: [None, float("inf")]}}, harm={touch})\n'
    )
    read = read_run(run)
    assert not (tmp_path / 'harm').exists() and read.faults == []
    assert read.planned == 7
    assert read.config['train_cfg'] == {
        'max_iters': 7,
        'other': {'3': [None, "float('inf')"]},
        'harm': touch,
    }
    assert read.config['model'].startswith("dict(type='X', sizes=(1, -2), **")


def test_a_run_is_one_by_whatever_path(tmp_path, monkeypatch):
    run = write_run(tmp_path / 'run', lines_of(5, 40))
    (tmp_path / 'link').symlink_to(run)
    monkeypatch.chdir(tmp_path)
    runs, faults = find_runs(['run', run, 'link', tmp_path])
    assert [found.name for found in runs] == ['run'] and not faults
    assert runs[0].folder == Path('run')


def leave_test(run, name='iter_40', classes=('road', '<roof>'), matrix=((30, 10), (0, 0))):
    """What tools/test.py leaves of a test."""
    record = dict(
        classes=classes, averaged=classes[:1], matrix=matrix,
        scores={'IoU': [75.0, 0.0], 'F1': [85.7, 0.0], 'precision': [100.0, 0.0],
                'recall': [75.0, None]},
        images=[dict(name='a.png', hit=[30, 0], truth=[40, 0], predicted=[30, 10])])  # fmt: skip
    start = run / '20260102_000000' / 'vis_data'
    start.mkdir(parents=True)
    (start / 'config.py').write_text('model = dict(type="Any")\ntrain_cfg = None\n')
    begin, end = (f'2026/01/02 {hour}:00:00' for hour in ('10', '15'))
    (start.parent / 'test.log').write_text(LOG.format(start=begin, end=end, cuda=False))
    (run / 'test' / name).mkdir(parents=True)
    about = dict(
        checkpoint=f'work/{name}.pth', data='splits/val.txt', networks=dict(teacher=record)
    )
    (run / 'test' / f'{name}.json').write_text(json.dumps(about))
    for share in ('0.2500_b', '0.0300_a'):
        Image.new('RGB', (90, 20)).save(run / 'test' / name / f'{share}.png')


def test_tests_are_told_by_class_with_confusion_and_the_worst_images(tmp_path):
    run = write_run(tmp_path / 'run', lines_of(5, 40))
    leave_test(run)
    (run / 'test' / 'torn.json').write_text('{"networks": {"a": {"classes": ["x"]')
    odd = json.loads((run / 'test' / 'iter_40.json').read_text())
    odd['networks']['teacher']['averaged'] = ['sea']
    (run / 'test' / 'odd.json').write_text(json.dumps(odd))
    page, faults = report([run], tmp_path / 'page.html')
    for name in ('torn', 'odd'):
        assert [fault for fault in faults if f'{name}.json is no record of a test' in fault]
    heads, road, roof = (page.row(*begin) for begin in (['class', 'pixels'], ['road', '100.0%'],
                                                         ['<roof>', '0.0%']))  # fmt: skip
    assert heads == ['class', 'pixels', 'IoU, %', 'F1, %', 'precision, %', 'recall, %']
    assert road[2:] == ['75.00', '85.70', '100.00', '75.00']
    assert roof[2:] == ['0.00', '0.00', '0.00', '\N{EN DASH}']
    assert page.row('mean', '\N{EN DASH}', '75.00')
    assert page.row('road', '75.00', '25.00')
    told = [text for text in page.texts['figcaption'] if 'right' in text]
    assert told == ['a, 3% right', 'b, 25% right']


def test_a_test_leaves_the_recipe_that_was_trained(tmp_path):
    runs = [
        write_run(tmp_path / name, lines_of(5, 40), student=f'depth={depth}')
        for name, depth in (('flat', 18), ('deep', 50))
    ]
    for run in runs:
        leave_test(run)
    page, _ = report(runs, tmp_path / 'page.html')
    assert page.row('key') == ['key', 'flat', 'deep']
    assert page.row('model.student.depth') == ['model.student.depth', '18', '50']
    assert page.row('deep', 'deep', '0')[8] == '1:00:00'


def test_two_data_sets_are_two_sections(tmp_path):
    runs = []
    for name in ('north', 'south'):
        runs.append(write_run(tmp_path / name, lines_of(5, 40)))
        config = next(runs[-1].glob('*/vis_data/config.py'))
        listed = dict(
            dataset=dict(type='FolderDataset', data_root=f'/d/{name}', ann_file='val.txt')
        )
        config.write_text(config.read_text() + f'val_dataloader = {listed}\n')
    page, _ = report(runs, tmp_path / 'page.html')
    assert [text for text in page.texts['h2'] if 'val.txt' in text] == [
        'north: val.txt (north)', 'south: val.txt (south)']  # fmt: skip
    assert len([row for row in page.rows if row[:2] == ['recipe', 'network']]) == 2
    assert 'different data' in page.texts['p'][0]
    alone, _ = report(runs[:1], tmp_path / 'page.html')
    assert not [text for text in alone.texts['h2'] if 'val.txt' in text]


def test_a_loss_that_is_no_number_is_told(tmp_path):
    for name, bad in (('nan', math.nan), ('inf', math.inf)):
        lines = [dict(line) for line in lines_of(5, 40)]
        for line in lines:
            if 'iter' in line and line['step'] in (20, 30):
                line['loss'] = bad
        _, faults = report([write_run(tmp_path / name, lines)], tmp_path / 'page.html')
        assert len(faults) == 1 and 'no finite number at iteration 20,' in faults[0]


def test_a_picture_too_large_to_open_is_left_out(tmp_path, monkeypatch):
    run = write_run(tmp_path / 'run', lines_of(5, 40))
    add_picture(run, 'pseudo_labels_40')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    page, faults = report([run], tmp_path / 'page.html')
    assert len(faults) == 1 and 'pseudo_labels_40.png is no readable picture' in faults[0]
    assert not page.all('img')


def test_many_pictures_are_few_and_a_score_that_is_no_number_is_not_the_best(tmp_path):
    lines = [dict(line) for line in lines_of(5, 40)]
    next(line for line in lines if 'mIoU' in line)['mIoU'] = math.nan
    run = write_run(tmp_path / 'run', lines)
    for number in range(8):
        add_picture(run, f'val_{number}_40')
    page, _ = report([run], tmp_path / 'page.html')
    assert len(page.all('img')) == 6 and '2 more are in' in page.source
    scores = {k: v for k, v in read_run(run).val['mIoU'].items() if v == v}
    assert read_run(run).best_step == max(scores, key=scores.get)


def test_a_page_is_no_folder(tmp_path):
    run = write_run(tmp_path / 'run', lines_of(5, 10))
    with pytest.raises(ValueError, match='is a folder: name a file'):
        write_report([run], tmp_path)
    assert not list(tmp_path.parent.glob(f'{tmp_path.name}.part'))


def test_no_run_at_all_is_told_with_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        load_tool('report').main([str(tmp_path / 'nowhere')])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f'error: {tmp_path / "nowhere"} is no folder: give')


def test_runs_without_validation_have_curves(tmp_path):
    run = write_run(tmp_path / 'run', [line for line in lines_of(5, 40) if 'iter' in line])
    page, _ = report([run], tmp_path / 'page.html')
    assert 'Results' not in page.texts['h2'] and 'Curves' in page.texts['h2']


def test_hostile_names_stay_text(tmp_path):
    lines = [
        {key.replace('road', HOSTILE): value for key, value in line.items()}
        for line in lines_of(5, 40)
    ]
    run = write_run(tmp_path / 'a&<b>', lines, student=f'name={HOSTILE!r}')
    other = write_run(tmp_path / 'other', lines_of(5, 40))
    page, _ = report([run, other], tmp_path / 'page.html', title=HOSTILE)
    shown = HOSTILE.replace('\x00', '\ufffd')
    assert page.texts['title'] == [shown]
    assert not page.all('script') and not page.all('img')
    assert page.row(shown) and page.row('a&<b>')
    assert page.row('model.student.name')[1] == json.dumps(HOSTILE)


def test_folders_with_several_runs_and_equal_names(tmp_path):
    for part in ('x', 'y'):
        write_run(tmp_path / part / 'run', lines_of(5, 10), student=f'part={part!r}')
    runs, faults = find_runs([tmp_path, tmp_path / 'x' / 'run'])
    assert [run.name for run in runs] == ['x/run', 'y/run'] and not faults


# ------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ('runs', 'name'),
    [
        (['co2s_seed0'], 'co2s'),
        (['co2s-Seed-3', 'co2s-Seed-12'], 'co2s'),
        (['a_1', 'a_2'], 'a'),
        (['vit16'], 'vit16'),
        (['seed0', 'seed1'], 'seed0'),
        (['one', 'two'], 'one'),
    ],
)
def test_a_recipe_has_the_name_that_its_runs_share(runs, name):
    config = {'model': {'type': 'X'}}
    (group,) = group_runs([Run(Path(run), run, config) for run in runs])
    assert group.name == name


def test_statistics_leave_out_absent_classes():
    assert summarise([1.0, math.nan, 4.0]).mean == 2.5
    assert summarise([1.0, 4.0]).deviation == pytest.approx(np.std([1, 4], ddof=1))
    assert summarise([3.0]).deviation is None
    assert summarise([math.nan]) is None
    assert mean_series([{1: 2.0, 2: 4.0}, {2: 6.0, 3: 1.0}]) == {2: 5.0}


def test_differences_look_into_dicts_of_one_type_and_lists_of_one_length():
    one = {'a': {'type': 'X', 'n': 1}, 'hooks': [{'type': 'H', 'k': 1}, {'type': 'I'}], 'same': 3}
    two = {'a': {'type': 'X', 'n': 2}, 'hooks': [{'type': 'H', 'k': 2}, {'type': 'I'}], 'same': 3}
    assert differences([one, two]) == [('a.n', [1, 2]), ('hooks.0.k', [1, 2])]
    three = {**one, 'a': {'type': 'Y', 'n': 1}, 'hooks': one['hooks'][:1]}
    found = dict(differences([one, three]))
    assert found == {'a': [one['a'], three['a']], 'hooks': [one['hooks'], three['hooks']]}
    assert differences([{'a': 1}, {}]) == [('a', [1, ABSENT])]
    assert differences([one, one]) == []


def test_networks_are_told_from_scalars():
    assert split_key('a.decode.loss_ce', ['fused', 'b', 'a']) == ('a', 'decode.loss_ce')
    assert split_key('a/pseudo_share/b', ['b', 'a']) == ('a', 'pseudo_share/b')
    assert split_key('aAcc', ['a']) == ('', 'aAcc')


def test_a_chart_has_a_thin_line_for_each_run_and_a_thick_one_for_their_mean():
    runs = [{1: 1.0, 2: 2.0}, {1: 3.0, 2: 5.0}]
    drawn = {}
    for count in (1, 2):
        svg = draw_chart(Chart('loss', 'Losses', [Line('x', 2, 1, runs[:count])]))
        drawn[count] = len(re.findall(r'stroke: var\(--s2\)', svg))
        Page(svg)
    assert drawn == {1: 1, 2: 3}
    assert 'stroke-dasharray' in svg


def test_a_class_at_zero_has_an_axis_from_zero_and_an_absent_one_no_chart():
    svg = draw_chart(Chart('IoU.road', 'Each class', [Line('x', 0, 0, [{5: 0.0, 10: 0.0}])]))
    assert '\u2212' not in svg  # no number below 0
    absent = Chart('IoU.roof', 'Each class', [Line('x', 0, 0, [{5: math.nan}, {}])])
    assert not absent.has_values
    absent.lines.append(Line('y', 1, 0, [{5: 0.0}]))
    assert absent.has_values


# ------------------------------------------------------------------------------------ real runs


@pytest.mark.slow
def test_a_real_training_is_read_as_it_was_logged(tmp_path):
    config = write_training(tmp_path / 'data')
    run_here('train', config, '--work-dir', tmp_path / 'run', '--cfg-options',
             'train_cfg.val_interval=2')  # fmt: skip
    (found,), faults = find_runs([tmp_path / 'run'])
    assert not faults and not found.faults
    assert sorted(found.train['loss']) == [1, 2, 3, 4] and sorted(found.val['mIoU']) == [2, 4]
    assert found.networks == ['teacher', 'student']
    assert found.val['mIoU'] == found.val['teacher/mIoU']
    assert (found.seed, found.planned, found.reached, found.checkpoint) == (0, 4, 4, 4)
    assert found.environment['device'] and found.environment['PyTorch']
    classes = [found.val[f'IoU.{name}'][4] for name in ('grass', 'road', 'roof')]
    load_tool('report').main([str(tmp_path / 'run'), '--out', str(tmp_path / 'report.html')])
    page = Page((tmp_path / 'report.html').read_text(encoding='utf-8'))
    assert page.row('grass')[1] == f'{classes[0]:.2f}'
    assert float(page.row('mIoU')[1]) == pytest.approx(np.nanmean(classes), abs=0.01)


@pytest.mark.slow
@needs_browser
def test_a_browser_renders_charts_tables_and_pictures(browser, seeds, tmp_path):
    url = write_report(seeds, tmp_path / 'report.html', title='Seen')[0].as_uri()
    check_looks(browser, url)
    seen = browser.evaluate(
        "[[...document.querySelectorAll('.chart')].map(c => c.getBoundingClientRect().height),"
        ' [...document.images].map(i => i.naturalWidth)]'
    )
    assert sum(height > 50 for height in seen[0]) >= 4 and seen[1] == [40, 40]
    browser.open(url)
    browser.evaluate("document.getElementById('curves').scrollIntoView()")
    pixels = browser.shoot().reshape(-1, 3).astype(int)
    for colour in ((0, 105, 180), (204, 77, 0)):  # --s0 and --s1 in the light
        assert (np.abs(pixels - colour).max(1) < 8).sum() > 100, colour
