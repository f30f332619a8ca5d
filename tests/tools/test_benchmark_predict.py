# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""tools/benchmark_predict.py measures what it says."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests._support.processes import on_ranks
from tests._support.tiny_training import load_tool, run_here, write_training

PARTS = ('reading', 'forward', 'blending', 'writing')


def measure(config, raster, out):
    """What a process of its own is started for."""
    run_here('benchmark_predict', config, '--sizes', 300, '--device', 'cpu', '--window', 64,
             '--probabilities', '--raster', raster, '--json', out)  # fmt: skip


@pytest.mark.parametrize('processes', [1, 2])
def test_prediction_is_set_against_the_network_alone(tmp_path, processes):
    pytest.importorskip('rasterio')
    config, out = write_training(tmp_path), tmp_path / 'row.json'
    load_tool('benchmark_predict').fabricate(tmp_path / 'a.tif', 300)
    if processes == 1:
        measure(config, tmp_path / 'a.tif', out)
    else:
        on_ranks(2, measure, config, tmp_path / 'a.tif', out, folder=tmp_path)
    row = json.loads(out.read_text())
    assert (row['side'], row['windows'], row['processes']) == (300, 36, processes)
    # before, after each strip, and at the end
    assert row['timed_windows'] == 8 * (6 // processes + 2)
    assert row['ratio'] == pytest.approx(row['seconds'] * processes / row['forward_seconds'])
    assert row['peak_memory_mb'] >= row['before_mb'] > 0
    told = {part for part in PARTS if row.get(f'{part}_seconds', 0) > 0}
    assert told == set(PARTS if processes == 1 else ['forward'])


def test_each_raster_has_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    tool = load_tool('benchmark_predict')
    commands = []
    monkeypatch.chdir(tmp_path)
    for name in ('a.py', 'b.pth'):
        Path(name).touch()

    def run(command, check, env):
        assert check and '127.0.0.1' in env['no_proxy']
        commands.append(command)
        given = dict(pairwise(command))  # of what is there twice the last
        row = {f'{part}_seconds': 2.0 for part in PARTS} | dict(
            side=int(given['--sizes']),
            remote=given['--raster'].startswith('http'), ratio=1.25, timed_windows=8,
            windows=9, seconds=2.0, peak_memory_mb=1, before_mb=1,
            processes=2 if 'torch.distributed.run' in command else 1,
        )  # fmt: skip
        row['seconds'] /= row['processes']
        Path(command[-1]).write_text(json.dumps(row))

    monkeypatch.setattr(tool.subprocess, 'run', run)
    tool.main(['a.py', 'b.pth', '--sizes', '300', '400', '--window', '64', '--remote',
               '--processes', '2', '--json', str(tmp_path / 'all.json')])  # fmt: skip
    assert len(commands) == 6 and all('--window' in command for command in commands)
    rows = json.loads((tmp_path / 'all.json').read_text())
    assert [row['side'] for row in rows] == [300] * 3 + [400] * 3
    assert [(row['remote'], row['processes']) for row in rows[:3]] == [(0, 1), (1, 1), (0, 2)]
    told = capsys.readouterr().out
    assert '300 px, local: 9 windows in 2.0 s' in told and 'overhead +25.0%' in told
    assert '1.00 times the local file' in told and '2.00 times as fast as one process' in told
