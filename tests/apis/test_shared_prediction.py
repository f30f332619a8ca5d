# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Processes that share the pictures of a folder, and the strips of a raster."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmseg_semi_rs.apis import Layers, predict_files
from mmseg_semi_rs.engine.processes import Processes, launcher_of
from tests._support.blur import Blur, predictor
from tests._support.processes import ROOT, free_port, on_ranks, start
from tests._support.rasters import picture, write_raster

pytest.importorskip('rasterio')
LAYERS = Layers(confidence=True)


class Dying(Blur):
    """Ends its process at the 20th window, as the kernel does when memory runs out."""

    def inference(self, inputs, metas):
        if self.windows >= 20:
            os._exit(9)
        return super().inference(inputs, metas)


def share(folder: Path, dying_rank: int | None = None) -> None:
    """What each process does; its windows are written down."""
    processes = Processes.start(Config(dict()), launcher_of())
    assert processes.count == 2
    model = Dying() if processes.rank == dying_rank else Blur()
    result = predict_files(predictor(model=model), folder / 'in', folder / 'out', LAYERS, memory=1)
    assert not result.failures and len(result.files) == len(list((folder / 'in').iterdir()))
    (folder / f'windows_{processes.rank}').write_text(str(model.windows))
    torch.distributed.destroy_process_group()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'in').mkdir()
    write_raster(tmp_path / 'in' / 'raster.tif', picture(300, 90))
    for index in range(9):
        Image.fromarray(picture(30, 32, seed=index)).save(tmp_path / 'in' / f'{index}.png')
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob('*.[tp][in][fg]')}


def test_two_processes_make_the_files_of_one(folder):
    alone = Blur()
    predict_files(predictor(model=alone), folder / 'in', folder / 'alone', LAYERS, memory=1)
    on_ranks(2, share, folder, folder=folder)
    assert contents(folder / 'out') == contents(folder / 'alone')
    assert len(contents(folder / 'out')) == 20
    windows = [int((folder / f'windows_{rank}').read_text()) for rank in range(2)]
    assert max(windows) < 0.65 * alone.windows  # each about a half, and what both look at
    assert [path.name for path in (folder / 'out').glob('*jsonl')] == ['predictions.jsonl']
    again = Blur()  # the journals of both are one
    result = predict_files(predictor(model=again), folder / 'in', folder / 'out', LAYERS, memory=1)
    assert result.skipped == 10 and again.windows == 0


@pytest.mark.parametrize('dying', [0, 1])
def test_what_a_lost_process_leaves_is_kept_and_goes_on(folder, dying):
    shared = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()), WORLD_SIZE='2')
    logs = [folder / f'rank_{rank}.log' for rank in range(2)]
    ranks = [
        start(share, folder, dying, log=log, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank, log in enumerate(logs)
    ]
    for process in ranks:
        process.join(100)
    assert ranks[dying].exitcode == 9
    assert ranks[1 - dying].exitcode == 1
    said = logs[1 - dying].read_text()
    assert 'Another process of this job has ended' in said and 'give the same command again' in said
    alone, rest = Blur(), Blur()
    predict_files(predictor(model=alone), folder / 'in', folder / 'alone', LAYERS, memory=1)
    predict_files(predictor(model=rest), folder / 'in', folder / 'out', LAYERS, memory=1)
    assert contents(folder / 'out') == contents(folder / 'alone')
    assert rest.windows < alone.windows - 9  # all pictures were done, and some of the raster


def test_what_one_process_cannot_read_fails_in_all(folder):
    (folder / 'in' / 'raster.tif').write_bytes((folder / 'in' / 'raster.tif').read_bytes()[:9000])
    on_ranks(2, fails_together, folder, folder=folder)


def fails_together(folder: Path) -> None:
    Processes.start(Config(dict()), launcher_of())
    result = predict_files(predictor(), folder / 'in', folder / 'out', LAYERS, memory=1)
    (failure,) = result.failures
    assert 'raster.tif' in failure and len(result.files) == 9
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    'variables, launcher',
    [
        ({}, 'none'),
        ({'RANK': '0', 'WORLD_SIZE': '1'}, 'none'),
        ({'RANK': '1', 'WORLD_SIZE': '2'}, 'pytorch'),
        ({'SLURM_PROCID': '0', 'SLURM_NTASKS': '1', 'SLURM_STEP_NUM_TASKS': '1'}, 'none'),
        ({'SLURM_PROCID': '0', 'SLURM_NTASKS': '4'}, 'none'),  # sbatch alone, without srun
        ({'SLURM_PROCID': '3', 'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '4'}, 'slurm'),
    ],
)
def test_the_launcher_is_known_by_what_it_sets(monkeypatch, variables, launcher):
    for name in ('RANK', 'WORLD_SIZE', 'SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_STEP_NUM_TASKS'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launcher_of() == launcher


def test_slurm_gets_the_command(tmp_path):
    (tmp_path / 'srun').write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    done = subprocess.run(
        ['bash', str(ROOT / 'tools' / 'slurm_predict.sh'), 'gpu', 'maps', 'c.py', 'a.pth', 'in'],
        env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'GPUS': '6'},
        capture_output=True,
        text=True,
        check=True,
    )
    assert '-p gpu --job-name=maps' in done.stdout and '--ntasks=6' in done.stdout
    assert done.stdout.rstrip().endswith('tools/predict.py c.py a.pth in')
