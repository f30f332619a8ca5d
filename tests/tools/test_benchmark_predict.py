# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""tools/benchmark_predict.py measures what it says."""

import json
from pathlib import Path

import pytest

from tests._support.tiny_training import load_tool, run_here, write_training


def test_prediction_is_set_against_the_network_alone(tmp_path, capsys):
    pytest.importorskip('rasterio')
    config = write_training(tmp_path)
    run_here('train', config, '--work-dir', tmp_path / 'work', '--cfg-options',
             'train_cfg.max_iters=1')  # fmt: skip
    run_here('benchmark_predict', config, tmp_path / 'work' / 'iter_1.pth', '--sizes', 300,
             '--device', 'cpu', '--window', 64, '--json', tmp_path / 'one.json')  # fmt: skip
    (row,) = json.loads((tmp_path / 'one.json').read_text())
    assert (row['side'], row['windows']) == (300, 36)
    assert row['timed_windows'] == 8 * (6 + 2)  # before, after each strip, and at the end
    assert row['ratio'] == pytest.approx(row['seconds'] / row['forward_seconds'])
    assert row['peak_memory_mb'] >= row['before_mb'] > 0
    assert '300 px: 36 windows in' in capsys.readouterr().out


def test_each_size_has_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    tool = load_tool('benchmark_predict')
    commands = []

    def run(command, check):
        assert check
        commands.append(command)
        row = dict.fromkeys(('seconds', 'forward_seconds', 'ratio'), 1.0) | dict.fromkeys(
            ('windows', 'timed_windows', 'peak_memory_mb', 'before_mb'), 1
        )
        side = int(command[command.index('--sizes') + 1])
        Path(command[-1]).write_text(json.dumps([{**row, 'side': side}]))

    monkeypatch.setattr(tool.subprocess, 'run', run)
    tool.main(['a.py', 'b.pth', '--sizes', '300', '400', '--window', '64', '--json',
               str(tmp_path / 'all.json')])  # fmt: skip
    assert [command[2:4] for command in commands] == [['a.py', 'b.pth']] * 2
    assert [command[command.index('--sizes') + 1] for command in commands] == ['300', '400']
    assert all('--window' in command for command in commands)
    rows = json.loads((tmp_path / 'all.json').read_text())
    assert [row['side'] for row in rows] == [300, 400]
