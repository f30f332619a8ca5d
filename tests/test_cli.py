# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""rsseg: it finds each tool, calls it by its name, and imports nothing before the arguments."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import mmseg_semi_rs
from mmseg_semi_rs import cli
from mmseg_semi_rs.utils import commands
from mmseg_semi_rs.utils.command_line import as_typed, command_parser

ROOT = Path(mmseg_semi_rs.__file__).parents[1]
HEAVY = ('torch', 'torchvision', 'mmcv', 'mmseg', 'mmpretrain', 'open_clip', 'timm', 'transformers')


@pytest.fixture
def started(monkeypatch):
    """Make the process one that was started by these words."""

    def start(*argv: str, python: tuple[str, ...] = ('python',)) -> None:
        monkeypatch.setattr(sys, 'argv', list(argv))
        monkeypatch.setattr(sys, 'orig_argv', [*python, *argv[1:]])

    return start


def test_every_tool_is_a_command_and_every_command_a_tool():
    files = {path.stem for path in (ROOT / 'tools').glob('*.py')}
    known = {command.file for command in commands.COMMANDS.values()}
    assert known == {*files, 'dataset_converters'}
    assert commands.converters() == [
        *('deepglobe', 'gid15', 'loveda', 'mars', 'potsdam', 'whdld')
    ]  # fmt: skip


@pytest.mark.parametrize('words', [[], ['--help'], ['-h'], ['help']])
def test_the_listing_names_each_command(words, capsys):
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    for name, (_, about) in commands.COMMANDS.items():
        assert f'  {name} ' in said and about in said


@pytest.mark.parametrize(
    ('words', 'error'),
    [
        (['trian'], "There is no command 'trian': did you mean train?"),
        (['convert', 'posdam'], "There is no data set 'posdam': did you mean potsdam?"),
        (['convert', 'x'], "There is no data set 'x': choose one of deepglobe, gid15, "),
    ],
)
def test_a_wrong_word_is_one_sentence(words, error, capsys):
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == '' and said.err.startswith(f'error: {error}') and said.err.count('\n') == 1


def test_a_converter_is_named_by_its_data_set(started, tmp_path, capsys):
    started('/somewhere/bin/rsseg', 'convert')
    assert cli.main(['convert']) == 0
    assert 'DATASET: deepglobe, ' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(['convert', 'potsdam', '--help'])
    said = capsys.readouterr().out
    assert said.startswith('usage: rsseg convert potsdam ')
    assert 'rsseg convert potsdam ~/Downloads/potsdam -o' in said and 'python tools' not in said
    assert cli.main(['convert', 'potsdam', str(tmp_path / 'no'), '-o', str(tmp_path)]) == 2
    assert f'{tmp_path / "no"} does not exist' in capsys.readouterr().err


def test_a_command_is_called_as_it_was_started(started):
    started('tools/train.py', 'x.py')
    assert commands.command('train') == 'python tools/train.py'
    assert commands.command('convert mars') == 'python tools/dataset_converters/mars.py'
    assert (
        as_typed('so: python tools/make_splits.py mine') == 'so: python tools/make_splits.py mine'
    )
    started('/somewhere/bin/rsseg', 'train')
    assert commands.command('convert') == 'rsseg convert DATASET'
    text = 'python tools/dataset_converters/mars.py a; python tools/vlm_annotate.py b'
    assert as_typed(text) == 'rsseg convert mars a; rsseg annotate b'
    assert as_typed('python tools/mine.py') == 'python tools/mine.py'  # no command
    assert command_parser('splits', text).format_usage() == 'usage: rsseg splits [-h]\n'
    started('-m', '-m', 'mmseg_semi_rs', 'train')
    assert commands.command('train') == 'python -m mmseg_semi_rs train'
    started(str(ROOT / 'mmseg_semi_rs' / '__main__.py'), 'train')
    assert commands.command('train') == 'python -m mmseg_semi_rs train'


def test_a_file_that_does_not_exist_is_told_before_anything_heavy_is_imported(tmp_path):
    """Of every command that reads a config or a checkpoint."""
    code = """
        import io, sys
        from contextlib import redirect_stderr
        config, gone = sys.argv[1:]
        sys.argv = ['rsseg']
        from mmseg_semi_rs import cli
        open(config, 'w').close()
        for words in (
            *([name, gone] for name in ('train', 'browse', 'benchmark', 'annotate')),
            *([name, gone, config] for name in ('test', 'calibrate', 'export', 'autolabel')),
            *([name, config, gone] for name in ('test', 'calibrate', 'export', 'autolabel')),
            *([name, gone, config, '.'] for name in ('predict', 'benchmark-predict')),
            ['predict', config, gone, '.'], ['audit', config, gone],
            ['suggest', '.', '--count', '1', '--out', gone, '--config', gone, '--checkpoint', gone],
            ['weights', gone],
        ):
            said = io.StringIO()
            try:
                with redirect_stderr(said):
                    cli.main(words)
            except SystemExit as left:
                assert left.code == 2, (words, left.code)
            else:
                raise AssertionError(words)
            said = said.getvalue()
            assert said.startswith('error: ') and said.count(chr(10)) == 1, (words, said)
            assert gone in said and 'does not exist' in said, (words, said)
            assert not {'torch', 'mmcv', 'mmseg'} & set(sys.modules), words
    """
    files = [str(tmp_path / 'a.py'), str(tmp_path / 'gone')]
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code), *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_a_checkout_commands_are_those_of_the_console_script(started, monkeypatch):
    started('notebook.py')
    monkeypatch.setattr(commands, 'resources', lambda: commands.PACKAGE / '.mim')
    assert commands.command('train') == 'rsseg train'


def test_only_the_own_commands_register_by_themselves(started):
    for argv in (
        ['/somewhere/bin/rsseg', 'train'],
        ['-m', '-m', 'mmseg_semi_rs', 'train'],
        [str(ROOT / 'mmseg_semi_rs' / '__main__.py'), 'train'],
        [str(ROOT / 'tools' / 'train.py')],
        [str(ROOT / 'tools' / 'dataset_converters' / 'mars.py')],
    ):
        started(*argv)
        assert commands.registers_itself(), argv
    for argv in (
        ['train.py'],
        ['-m', '-m', 'pytest', 'mmseg_semi_rs'],
        ['-c'],
        [''],
        ['rsseg.py'],
        [str(ROOT / 'tools' / 'mine.py')],
        ['/elsewhere/tools/train.py'],
    ):
        started(*argv)
        assert not commands.registers_itself(), argv


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process that was started as rsseg."""
    head = "import sys\nsys.argv = ['rsseg']\nfrom mmseg_semi_rs.cli import main\n"
    return subprocess.run(
        [sys.executable, '-c', head + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={'PYTHONPATH': str(ROOT), 'PATH': ''},
    )


def test_help_and_wrong_options_of_every_command_import_neither_torch_nor_mmseg(tmp_path):
    code = f"""
        from mmseg_semi_rs.utils.commands import COMMANDS, converters
        words = [[name] for name in COMMANDS if name != 'convert']
        words += [['convert', name] for name in converters()]
        for word in words:
            for option in ('--help', '--no-such-option'):
                try:
                    main([*word, option])
                except SystemExit as end:
                    assert end.code == (0 if option == '--help' else 2), word
        found = [name for name in {HEAVY} if name in sys.modules]
        assert not found, found
    """
    outcome = run(code, tmp_path)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert outcome.stdout.count('usage: rsseg ') == len(commands.COMMANDS) + 5


def test_offline_commands_import_neither_torch_nor_mmseg(tmp_path):
    """init, splits, convert and report do their whole work without them."""
    code = f"""
        import json, numpy as np
        from pathlib import Path
        from PIL import Image

        rng = np.random.default_rng(0)
        for index in range(12):
            labels = (np.indices((64, 64))[index % 2] // 16 + index) % 3
            noise = rng.integers(0, 60, (64, 64, 1))
            pixels = (np.array([[40, 160, 40], [90, 90, 90], [170, 60, 50]])[labels] + noise)
            for folder, values in (('images', pixels), ('masks', labels)):
                path = Path(folder, f'{{"abcd"[index % 4]}}_{{index}}.png')
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(path)
        assert main(['init', 'images', 'masks', '--out', 'own', '--method', 'supervised']) == 0

        for part, to in (('images', 'img_dir'), ('masks', 'ann_dir')):
            Path('data/mine').mkdir(parents=True, exist_ok=True)
            Path(part).rename(Path('data/mine') / to)
        words = ['--scene-regex', '^([a-d])', '--ratios', '1-2']
        assert main(['splits', 'mine', *words]) == 0

        run = Path('run/20260101_000000/vis_data')
        run.mkdir(parents=True)
        lines = [dict(loss=1 / step, iter=step, step=step) for step in (1, 2)]
        (run / 'scalars.json').write_text(''.join(json.dumps(line) + '\\n' for line in lines))
        (run / 'config.py').write_text('import os\\nmodel = dict(type="X")\\n')
        assert main(['report', 'run', '--out', 'report.html']) == 0

        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save('1024.png')
        assert main(['convert', 'whdld', '.', '-o', 'tiles']) == 1  # most is missing
        found = [name for name in {HEAVY} if name in sys.modules]
        assert not found, found
    """
    outcome = run(code, tmp_path)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert (tmp_path / 'own' / 'own_supervised.py').is_file()
    assert (tmp_path / 'data' / 'mine' / 'splits' / 'scene' / 'manifest.json').is_file()
    assert (tmp_path / 'report.html').is_file()
    assert 'rsseg train own/own_supervised.py' in outcome.stdout
