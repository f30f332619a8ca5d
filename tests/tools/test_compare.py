# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""``rsseg compare`` trains a method and supervised training, tests both, and tells the gain."""

import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from mmseg_semi_rs.utils import steps
from mmseg_semi_rs.utils.commands import COMMANDS
from tests._support.tiny_training import load_tool, run_here, write_training

SUPERVISED = """
_base_ = './tiny.py'
train_dataloader = dict(
    batch_size=2, sampler=dict(batch_size=2, source_ratio=[1, 0]), dataset=dict(unlabelled=None))
"""


@pytest.fixture
def configs(tmp_path):
    """A method and the supervised training beside it."""
    method = write_training(tmp_path / 'data')
    bar = method.with_name('plain.py')
    bar.write_text(SUPERVISED)
    return [bar, method]


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Run the tool in this process; exit status, what it began, what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*words, fail=''):
        begun = []

        def start(command):
            begun.append(' '.join(command[1:3]))
            if command[1] == fail:
                return 9
            run_here(COMMANDS[command[1]].file, *command[2:])
            time.sleep(1 - time.time() % 1)  # mmengine's folders have the second as their name
            return 0

        monkeypatch.setattr(steps, 'start', start)
        code = 0
        try:
            load_tool('compare').main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, begun, said.out + said.err

    return run


def test_both_are_trained_tested_and_told_apart(compare, configs, tmp_path):
    code, begun, said = compare(*configs)
    assert code == 0, said
    bar, method = map(str, configs)
    assert begun == [f'train {bar}', f'test {bar}', f'train {method}', f'test {method}']
    assert re.search(
        r'^tiny: mIoU \d+\.\d in the test, \d+\.\d (above|below) plain \(95 % interval ', said, re.M
    )
    page = (tmp_path / 'work_dirs/compare/report.html').read_text()
    assert 'Does it help?' in page and '3 images' in page
    # The same command has nothing to do, a further seed goes on from there.
    assert compare(*configs)[1] == []
    steps_of_seed = compare(*configs, '--seeds', 2, '--dry-run')[2].splitlines()
    assert len(steps_of_seed) == 4 and all('seed1' in line for line in steps_of_seed)


def test_a_student_of_automatic_masks_is_compared_too(compare, configs, tmp_path):
    bar, method = configs
    code, begun, said = compare(bar, method, '--autolabel')
    assert code == 0, said
    root = Path('work_dirs/compare/tiny_autolabel_seed0')
    student = root / 'labelled_all' / 'student.py'
    assert begun[2:] == [
        f'train {method}',
        f'test {method}',
        f'autolabel {method}',
        f'train {student}',
        f'test {student}',
    ]
    # It is compared with supervised training, and is none itself.
    names = re.findall(r'^(\w+): mIoU .* (?:above|below) plain \(', said, re.M)
    assert sorted(names) == ['tiny', 'tiny_autolabel']
    assert compare(bar, method, '--autolabel')[1] == []
    labelled = json.loads((root / 'labelled_all' / 'labels.json').read_text())
    made = Path(labelled['made_by']['networks'][0][0])
    assert made == Path('work_dirs/compare/tiny_seed0/iter_4.pth') and labelled['made_by']['flips']


def test_results_of_other_settings_or_lists_are_not_passed_off(compare, configs):
    data = Config.fromfile(configs[0]).test_dataloader.dataset
    manifest = Path(data.data_root) / 'splits' / 'manifest.json'
    assert compare(*configs, fail='train')[0] == 2
    manifest.parent.mkdir()
    for options in (['--cfg-options', 'train_cfg.max_iters=3'], []):
        manifest.write_text('{"pixels": "other"}' if not options else '{}')
        code, begun, said = compare(*configs, *options)
        assert code == 2 and not begun
        assert 'plain_seed0 is of other settings, lists or masks' in said


def test_a_test_of_an_earlier_checkpoint_does_not_count(tmp_path):
    done = load_tool('compare').tested(str(tmp_path / 'iter_*.pth'))
    assert not done()
    for step in (4, 8):
        (tmp_path / f'iter_{step}.pth').touch()
        os.utime(tmp_path / f'iter_{step}.pth', (step, step))
        assert not done()
        (tmp_path / 'test').mkdir(exist_ok=True)
        (tmp_path / 'test' / f'iter_{step}.json').touch()
        assert done()


@pytest.mark.parametrize(
    'argv, first',
    [
        (['/env/bin/rsseg', 'compare'], ['/env/bin/rsseg', 'train']),
        (['tools/compare.py'], [sys.executable, '-m', 'mmseg_semi_rs', 'train']),
    ],
)
def test_steps_are_started_as_the_user_started(monkeypatch, argv, first):
    """Their own words say then what to type next."""
    started = []
    monkeypatch.setattr(sys, 'argv', argv)
    monkeypatch.setattr(
        steps.subprocess,
        'run',
        lambda words: started.extend(words) or SimpleNamespace(returncode=3),
    )
    assert steps.start([steps.RSSEG, 'train', 'a.py']) == 3
    assert started == [*first, 'a.py']


def test_what_failed_is_gone_on_with(compare, configs):
    code, begun, said = compare(*configs, fail='test')
    assert code == 2 and len(begun) == 2
    assert 'The step "test plain_seed0" is not finished (exit status 9)' in said
    left = compare(*configs, '--dry-run')[2].splitlines()
    assert [line.split()[1] for line in left] == [
        'tools/test.py',
        'tools/train.py',
        'tools/test.py',
    ]


def test_what_cannot_be_compared_is_told(compare, configs, tmp_path):
    bar, method = configs
    code, begun, said = compare(method)
    assert code == 2 and not begun and 'None of these configs is of supervised training' in said
    other = tmp_path / 'other' / 'plain.py'
    other.parent.mkdir()
    other.write_text(bar.read_text().replace('./tiny.py', str(method)))
    code, begun, said = compare(bar, other)
    assert code == 2 and not begun and 'Several configs are named plain.py' in said
    other = tmp_path / 'data' / 'moved.py'
    other.write_text(
        "_base_ = './plain.py'\ntest_dataloader = dict(dataset=dict(ann_file='x.txt'))"
    )
    code, begun, said = compare(bar, other)
    assert code == 2 and not begun and 'is tested on val.txt of' in said and 'x.txt' in said
    code, begun, said = compare(bar, method, '--seeds', 0)
    assert code == 2 and '--seeds 0: give at least 1' in said


def test_commands_are_shown_as_a_shell_reads_them():
    words = ['rm', "work dirs/l'été_seed0/iter_*.pth", '~/a b/c', 'plain', '', 'a~b']
    told = "rm 'work dirs/l'\"'\"'été_seed0/iter_'*.pth ~/'a b/c' plain '' 'a~b'"
    assert steps.shown(words) == told


@pytest.mark.parametrize(
    'evaluator, counted',
    [
        (dict(type='IoUMetric'), True),
        (dict(type='IoUMetric', iou_metrics=['mIoU']), True),
        (dict(type='IoUMetric', iou_metrics=['mDice']), False),
        (dict(type='CityscapesMetric'), False),
    ],
)
def test_tests_of_plain_mmseg_configs_count_by_image(evaluator, counted):
    cfg = Config(dict(test_evaluator=[evaluator]))
    load_tool('test').count_by_image(cfg)
    assert (cfg.test_evaluator[0].type == 'SubsetIoUMetric') == counted
    load_tool('test').count_by_image(Config(dict(test_evaluator=None)))
