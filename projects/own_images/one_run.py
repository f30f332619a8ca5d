# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Train one config of the comparison and evaluate its best checkpoint: the process of one run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import Runner, load_checkpoint

import mmseg_semi_rs  # noqa: F401 - registers everything
from mmseg_semi_rs.visualization.run_records import find_runs


def main() -> None:
    """Train, take the checkpoint that is best on the held-out tiles, and validate it once."""
    torch.set_num_threads(1)
    cfg = Config.fromfile(sys.argv[1])
    folder = Path(cfg.work_dir)
    start = time.perf_counter()
    if 'autolabel' in cfg:
        cfg = student_of_masks(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    (run,), _ = find_runs([folder])
    (best,) = folder.glob('best_mIoU_iter_*.pth')
    step = int(best.stem.rsplit('_', 1)[1])
    result: dict[str, Any] = {
        'iteration': step,
        'held': {name: values[step] for name, values in run.val.items() if step in values},
        'held_by_step': run.val['mIoU'],
        'pseudo': {name: values for name, values in run.train.items() if 'pseudo_' in name},
        'seconds': time.perf_counter() - start,
    }
    if cfg.look_at_val:
        # What is seen from here on must not choose another checkpoint.
        runner._hooks = [
            hook for hook in runner.hooks if not isinstance(hook, CheckpointHook | EMAHook)
        ]
        load_checkpoint(runner.model, str(best), map_location='cpu')
        result['val'] = runner.test_loop.run()
    for checkpoint in folder.glob('iter_*.pth'):
        checkpoint.unlink()
    best.rename(folder / 'best.pth')
    unfinished = folder / 'result.json.part'
    unfinished.write_text(json.dumps(result, indent=1), encoding='utf-8')
    unfinished.replace(folder / 'result.json')


def student_of_masks(asked: Config) -> Config:
    """Let `rsseg autolabel` make masks and a student's config.

    Seed, folder and the metrics, which give the IoU of each class too, are those of the run.
    """
    subprocess.run(
        [sys.executable, '-m', 'mmseg_semi_rs', 'autolabel', *asked.autolabel], check=True
    )
    cfg = Config.fromfile(Path(asked.autolabel[-1]) / 'student.py')
    for key in ('work_dir', 'experiment_name', 'randomness', 'resume', 'look_at_val'):
        cfg[key] = asked[key]
    cfg.val_evaluator = cfg.test_evaluator = asked.test_evaluator
    return cfg


if __name__ == '__main__':
    main()
