# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""tools/benchmark_predict.py measures what it says."""

import json

import pytest

from tests.tools.tiny_training import run_here, run_tool, write_training


def test_prediction_is_set_against_the_network_alone(tmp_path):
    pytest.importorskip('rasterio')
    config = write_training(tmp_path)
    run_here('train', config, '--work-dir', tmp_path / 'work', '--cfg-options',
             'train_cfg.max_iters=1')  # fmt: skip
    outcome = run_tool(
        'tools/benchmark_predict.py', config, tmp_path / 'work' / 'iter_1.pth', '--sizes', 300, 400,
        '--bare-windows', 4, '--device', 'cpu', '--window', 64, '--json', tmp_path / 'figures.json',
        folder=tmp_path,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    rows = json.loads((tmp_path / 'figures.json').read_text())
    assert [row['side'] for row in rows] == [300, 400]
    assert [row['windows'] for row in rows] == [36, 64]
    for row in rows:
        assert row['ratio'] == pytest.approx(row['seconds'] / row['forward_seconds'])
        assert row['peak_memory_mb'] >= row['before_mb'] > 0
    assert '300 px: 36 windows in' in outcome.stdout and '400 px: 64 windows in' in outcome.stdout
