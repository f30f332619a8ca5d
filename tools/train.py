# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Train a segmentor.

python tools/train.py configs/rsmtdf/dinov2_clip_potsdam_1-4.py
python tools/train.py CONFIG --check              # look at everything, take one step, stop
python tools/train.py CONFIG --resume             # go on from the latest checkpoint
bash tools/dist_train.sh CONFIG 4 --amp           # 4 GPUs, bfloat16
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_semi_rs import register_all
from mmseg_semi_rs.dataprep.splits.files import changed_originals
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse, print_next

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(
        'train', 'Train a segmentor', formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help='folder of logs and checkpoints (default: work_dirs/<config name>)'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint; without a path, from the latest one in the work folder',
    )
    parser.add_argument(
        '--amp', action='store_true', help='train in bfloat16 on the GPU, in float32 on the CPU'
    )
    parser.add_argument('--seed', type=int, help='seed, instead of randomness.seed of the config')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the effective batch',
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='build everything, check the data, take one step, report, write no checkpoint',
    )
    return parse(parser, arguments, launcher=True)


def train(args: argparse.Namespace, faults: Faults) -> None:
    """Prepare the config, build the runner and train."""
    register_all()
    from mmengine.dist import get_world_size, is_main_process
    from mmseg.registry import RUNNERS

    from mmseg_semi_rs.engine.console import ConsoleRunner, ProgressHook
    from mmseg_semi_rs.engine.dry_run import dry_run
    from mmseg_semi_rs.engine.launch import (
        BegunHook,
        batch_summary,
        check_paths,
        leave_process_group,
        load_config,
        section,
        set_amp,
        set_launcher,
        set_resume,
        set_safe_checkpoints,
        work_folder,
    )
    from mmseg_semi_rs.utils.progress import progress_bar

    cfg = load_config(args.config, args.cfg_options, args.work_dir, args.seed)
    weight_files = check_paths(cfg)
    notes = [set_amp(cfg, args.amp), changed_originals(Path(cfg.get('data_root', '')) / 'splits')]
    set_launcher(cfg, args.launcher)
    if args.auto_scale_lr:
        scaling = section(cfg, 'auto_scale_lr')
        scaling.enable = True
        if 'base_batch_size' not in scaling:
            raise ValueError(
                f'--auto-scale-lr needs auto_scale_lr.base_batch_size in {args.config}: set the '
                'batch that its learning rate was chosen for.'
            )
    if args.check:
        for note in filter(None, notes):
            print(note)
        dry_run(cfg, weight_files)
        return
    set_safe_checkpoints(cfg)
    with work_folder(cfg.work_dir):
        notes.append(set_resume(cfg, args.resume))
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else ConsoleRunner.from_cfg(cfg)
        for note in filter(None, notes):
            runner.logger.warning(note)
        runner.logger.info(batch_summary(cfg, get_world_size()))
        runner.register_hook(BegunHook(faults.begun))
        if isinstance(runner, ConsoleRunner):
            with progress_bar(runner.console) as bar:
                runner.register_hook(ProgressHook(bar))
                runner.train()
        else:
            runner.train()
    if is_main_process():
        show_next(args.config, cfg)
    leave_process_group()


def show_next(config: str, cfg: Config) -> None:
    """Print what to do with the newest checkpoint; the best one if the training chose one."""
    work_dir, images = Path(cfg.work_dir), cfg.get('image_dir', '')  # as rsseg init writes it
    age = lambda path: path.stat().st_mtime  # noqa: E731
    found = sorted(work_dir.glob('best_*.pth'), key=age) or sorted(work_dir.glob('*.pth'), key=age)
    if not found:
        return
    data = cfg.train_dataloader.dataset
    unlabelled = isinstance(data, dict) and data.get('unlabelled')
    words, masks = (config, found[-1]), work_dir / 'labelled_all'
    shown = images if Path(images).is_absolute() else 'IMAGES'
    print_next(
        ('predict', *words, shown, '--out', work_dir / 'maps', '--preview'),
        *([('test', *words, '--work-dir', work_dir)] if 'test_dataloader' in cfg else []),
        ('report', work_dir),
        *([('autolabel', *words, '--flips', '--out', masks)] if unlabelled else []),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__) as faults:
        train(args, faults)


if __name__ == '__main__':
    main()
