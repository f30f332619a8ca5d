# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A tool that dies while it writes leaves no half file, and the same command makes it good."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmseg_semi_rs.rasters.windows import POTSDAM_TILES
from tests._support.archives import converted, grid_names, potsdam_members, write_zip
from tests._support.processes import exit_code
from tests._support.tiny_training import load_tool, run_here
from tests.faults.die import KILLED, die_at, train, undisturbed, write_configs

SCENES = {tile: subset for subset, tiles in POTSDAM_TILES.items() for tile in tiles[:6]}


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    """A download, a converted data set, and a finished training."""
    folder = tmp_path_factory.mktemp('inputs')
    images, labels, _ = potsdam_members(('2_10',))
    write_zip(folder / 'in' / '2_Ortho_RGB.zip', images)
    write_zip(folder / 'in' / '5_Labels_all.zip', labels)
    config = write_configs(folder / 'data')['mean teacher']
    undisturbed(config, folder / 'run')
    return folder


def convert(inputs: Path, out: Path) -> None:
    tool = load_tool('dataset_converters/potsdam')
    words = ['-o', str(out), '--window', '64', '--allow-missing', '--workers', '1']
    raise SystemExit(tool.main([str(inputs / 'in'), *words]))


def splits(inputs: Path, out: Path) -> None:
    words = ['potsdam', '--data-root', str(out), '--ratios', '1-4']
    raise SystemExit(load_tool('make_splits').main(words))


def export(inputs: Path, out: Path) -> None:
    run_here('export_student', inputs / 'data' / 'tiny.py', inputs / 'run' / 'iter_8.pth',
             '--out', out)  # fmt: skip


def report(inputs: Path, out: Path) -> None:
    run_here('report', inputs / 'run', '--out', out / 'report.html')


def evaluate(inputs: Path, out: Path) -> None:
    run_here('test', inputs / 'data' / 'tiny.py', inputs / 'run' / 'iter_8.pth', '--work-dir',
             out.with_suffix('.work'), '--json', out / 'metrics.json')  # fmt: skip


FILES = {
    convert: ('.png', '.part'),
    splits: ('.txt', '.json', '.part'),
    export: ('.py.part',),
    report: ('.html', '.part'),
    evaluate: ('metrics.json.part',),
}


def visible(out: Path) -> dict[str, int]:
    """Files that are not on their way, and their lengths."""
    return {
        str(path.relative_to(out)): path.stat().st_size
        for path in out.rglob('*')
        if path.is_file() and not path.name.startswith('.')
    }


def die_in(tool: Callable[[Path, Path], None], inputs: Path, out: Path, way: str) -> None:
    """Be a tool that dies at its first write of such a file."""
    die_at(1, way, lambda name: name.endswith(FILES[tool]))
    tool(inputs, out)


@pytest.mark.parametrize('way', ['killed half-way', 'disk full'])
@pytest.mark.parametrize('tool', FILES)
def test_I14_a_tool_that_dies_in_a_write_leaves_no_half_file(tmp_path, inputs, tool, way):
    out, log = tmp_path / 'out', tmp_path / 'log'
    if tool is splits:
        converted(out, grid_names(SCENES, 3, window=8))

    code = exit_code(die_in, tool, inputs, out, way, log=log)
    said = log.read_text()
    assert code == (KILLED if way == 'killed half-way' else 2), said[-2000:]
    assert 'Traceback' not in said
    if way == 'disk full':
        assert 'cannot be written (No space left on device)' in said
        assert not list(out.rglob('*.part'))
    left = visible(out)
    assert exit_code(tool, inputs, out, log=log) == 0, log.read_text()[-2000:]
    whole = visible(out)
    assert len(whole) > len(left)
    assert not list(out.rglob('*.part'))
    journal = {'converted.jsonl', 'conversion.jsonl'}
    for name, size in left.items():
        assert size == whole[name] or Path(name).name in journal, name


@pytest.mark.parametrize('tool', [export, report, evaluate, train])
def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path, inputs, tool):
    (tmp_path / 'file').write_text('')
    out, log = tmp_path / 'file' / 'out', tmp_path / 'log'
    given = inputs / 'data' / 'tiny.py' if tool is train else inputs
    assert exit_code(tool, given, out, log=log) == 2, log.read_text()[-2000:]
    said = log.read_text()
    assert 'Traceback' not in said and 'error: ' in said and str(tmp_path / 'file') in said
