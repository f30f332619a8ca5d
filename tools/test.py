# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint, or a verifier without any training, on the test set of a config.

    python tools/test.py CONFIG work_dirs/NAME/best_mIoU_iter_5000.pth
    python tools/test.py CONFIG CHECKPOINT --predict-on student --out predictions/
    python tools/test.py configs/co2s/CONFIG CHECKPOINT --predict-on a
    python tools/test.py CONFIG CHECKPOINT --tta     # resized and mirrored copies of each image
    python tools/test.py CONFIG --verifier                 # that of the config's VLMPurifyHook
    python tools/test.py CONFIG --verifier Sam3Verifier --cfg-options verifier.model=FOLDER

Frozen teachers are neither built nor needed. Confusion, scores of each class and pictures of the
worst images go into the folder test of the work folder, where tools/report.py finds them.
--verifier makes the row of a table for 0 labels: each pixel is of the class with the highest score,
and no network is built.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse, print_next

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('test', 'Evaluate a checkpoint, or a verifier without any training')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file')
    parser.add_argument(
        '--verifier',
        nargs='?',
        const='',
        metavar='NAME',
        help='evaluate the map of a verifier instead: a registered name, a config that has one, or '
        "nothing for that of the config's VLMPurifyHook",
    )
    parser.add_argument(
        '--unclaimed',
        metavar='CLASS',
        help='with --verifier, the class of pixels of which it says nothing (default: the one '
        'class that it is not asked for)',
    )
    parser.add_argument(
        '--predict-on',
        metavar='NETWORK',
        help='the network to evaluate: teacher or student; of two students a, b or fused (default: '
        'all are, and the one the config names is plain)',
    )
    parser.add_argument('--work-dir', help='folder of logs (default: work_dirs/<config name>)')
    parser.add_argument('--out', metavar='FOLDER', help='write the predicted class ids as PNG')
    parser.add_argument('--json', metavar='FILE', help='write the metrics')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average over resized and mirrored copies of each image, as tta_pipeline of the '
        'config says or, without one, as in mmseg: six sizes, two directions',
    )
    parser.add_argument('--show-dir', metavar='FOLDER', help='write pictures of the predictions')
    return parse(parser, arguments, launcher=True)


def show_predictions(cfg: Config, folder: str) -> None:
    """Let the visualization hook draw every prediction into a folder."""
    from mmseg_semi_rs.engine.launch import section

    hook = section(cfg, 'default_hooks', 'visualization')
    hook.update(type=hook.get('type', 'PredictionVisHook'), draw=True, interval=1)
    visualizer = section(cfg, 'visualizer')
    for key, default in (
        ('type', 'SegLocalVisualizer'),
        ('name', 'visualizer'),
        ('vis_backends', [{'type': 'LocalVisBackend'}]),
    ):
        if visualizer.get(key) is None:
            visualizer[key] = default
    visualizer.save_dir = folder


def write_record(path: Path, args: argparse.Namespace, runner: Runner) -> bool:
    """Write what a report shows of a test: confusion, scores of each class, and of each image.

    Args:
        path: The file.
        args: The command line.
        runner: After the test.

    Returns:
        Whether there is something to write.
    """
    from mmseg_semi_rs.engine.data_checks import list_of
    from mmseg_semi_rs.utils.files import write_atomic

    loop = runner.test_loop
    evaluators = getattr(loop, 'evaluators', None) or {args.predict_on or '': loop.evaluator}
    networks = {
        name: metric.record
        for name, evaluator in evaluators.items()
        for metric in evaluator.metrics
        if getattr(metric, 'record', None) is not None
    }
    if not networks:
        return False
    dataset = loop.dataloader.dataset
    about = {
        'config': args.config,
        'checkpoint': args.checkpoint,
        'data': list_of(dataset),
        'networks': networks,  # that which predict_on names is the last
    }
    write_atomic(path, (json.dumps(about) + '\n').encode())
    return True


def test_verifier(cfg: Config, args: argparse.Namespace) -> dict[str, float]:
    """Evaluate a verifier's own map."""
    from mmengine.device import get_device
    from mmengine.registry import init_default_scope

    from mmseg_semi_rs.engine.launch import check_paths
    from mmseg_semi_rs.engine.verifier_test import evaluate_verifier

    for flag in ('checkpoint', 'predict_on', 'show_dir', 'tta'):
        if getattr(args, flag):
            raise ValueError(
                f'--verifier needs no network, but {flag.replace("_", "-")} '
                f'{getattr(args, flag)} is given: leave one of the two out.'
            )
    if args.launcher != 'none':
        raise ValueError(f'--launcher {args.launcher}: --verifier works in one process.')
    check_paths(cfg, ['test_dataloader'], weights=False)
    write_maps(cfg, args.out)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    metrics = evaluate_verifier(cfg, args.verifier, get_device(), args.unclaimed)
    tell_metrics(args, metrics)
    return metrics


def add_calibration_error(cfg: Config) -> None:
    """Let every network's confidence be judged too, where the truth is known."""
    evaluators = cfg.get('test_evaluator') or []
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    if evaluators and not any(evaluator.get('format_only') for evaluator in evaluators):
        cfg.test_evaluator = [*evaluators, dict(type='CalibrationErrorMetric')]


def test(args: argparse.Namespace) -> dict[str, float]:
    """Prepare the config, build the runner and evaluate."""
    register_all()
    from mmengine.dist import get_rank, is_main_process
    from mmseg.registry import RUNNERS

    from mmseg_semi_rs.apis.predictor import choose_network
    from mmseg_semi_rs.engine.checkpoints import load_to_test
    from mmseg_semi_rs.engine.console import ConsoleRunner
    from mmseg_semi_rs.engine.launch import (
        check_paths,
        leave_process_group,
        load_config,
        set_launcher,
    )
    from mmseg_semi_rs.engine.test_time_aug import augment_tests

    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    if cfg.get('test_dataloader') is None:
        raise ValueError(f'{args.config} has no test_dataloader: give it one to evaluate on.')
    if args.verifier is None and args.checkpoint is None:
        raise ValueError('There is nothing to evaluate: give a checkpoint, or --verifier.')
    if args.verifier is not None:
        return test_verifier(cfg, args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    check_paths(cfg, ['test_dataloader'], weights=False)
    if args.predict_on:
        choose_network(cfg, args.predict_on)
        cfg.test_cfg = {'type': 'TestLoop'}
    if args.tta:
        augment_tests(cfg)
    if args.show_dir:
        show_predictions(cfg, args.show_dir)
    count_by_image(cfg)
    write_maps(cfg, args.out)
    if not args.tta:  # whose probabilities no logits stand for
        add_calibration_error(cfg)
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    record = Path(cfg.work_dir) / 'test' / f'{Path(args.checkpoint).stem}.json'
    worst = record.with_suffix('')
    if get_rank() == 0:
        shutil.rmtree(worst, ignore_errors=True)  # pictures of an earlier test
    cfg.custom_hooks = [dict(type='WorstImagesHook', folder=str(worst))]
    set_launcher(cfg, args.launcher)
    cfg.load_from = None
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else ConsoleRunner.from_cfg(cfg)
    load_to_test(runner.model, args.checkpoint, runner.test_dataloader.dataset.metainfo)
    metrics = runner.test()
    if is_main_process():
        tell_metrics(args, metrics)
        if write_record(record, args, runner):
            print_next(('report', cfg.work_dir))
    leave_process_group()
    return metrics


def count_by_image(cfg: Config) -> None:
    """Replace mmseg's metric of mIoU by this package's, which gives the same and keeps a record."""
    evaluators = cfg.test_evaluator
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators or {}]:
        asked = evaluator.get('iou_metrics', ['mIoU'])
        if evaluator.get('type') == 'IoUMetric' and list(asked) == ['mIoU']:
            evaluator['type'] = 'SubsetIoUMetric'


def write_maps(cfg: Config, folder: str | None) -> None:
    """Let the metrics write the predicted class ids into a folder, if there is one."""
    evaluators = cfg.test_evaluator
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        if folder:
            evaluator.output_dir = folder


def tell_metrics(args: argparse.Namespace, metrics: dict[str, float]) -> None:
    """Print the metrics but those of each class, of which there is a table; write all if wanted."""
    from mmseg_semi_rs.utils.files import write_atomic

    whole = (f'{name} {value:.2f}' for name, value in metrics.items() if '.' not in name)
    print(', '.join(whole), flush=True)
    if args.json:
        numbers = {name: float(value) for name, value in metrics.items()}
        write_atomic(Path(args.json), (json.dumps(numbers, indent=1) + '\n').encode())


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        test(args)


if __name__ == '__main__':
    main()
