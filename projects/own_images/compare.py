# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Train supervised, FixMatch, RS-MTDF and Co2S on one folder of images and masks, and compare them.

The folder has images/<id>.<suffix>, labels/<id>.png (class ids, 255 = ignored) and lists of ids,
one per line. A ``{seed}`` in a list's path is replaced by the seed, so that each seed has its own
split.

    python projects/own_images/compare.py DATA --classes building land road vegetation water \
        --labelled 'splits/1_7_seed{seed}/labeled.txt' \
        --unlabelled 'splits/1_7_seed{seed}/unlabeled.txt' --val splits/val.txt --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

import mmseg_semi_rs

CONFIGS = Path(__file__).parent / 'configs'
NETWORKS = {
    'student': 'student',
    'teacher': 'EMA',
    'a': 'student a',
    'b': 'student b',
    'fused': 'both',
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('data', type=Path, help='folder with images/ and labels/')
    parser.add_argument('--classes', nargs='+', required=True, help='class names in id order')
    parser.add_argument('--labelled', required=True, help='list of labelled ids, within the folder')
    parser.add_argument('--unlabelled', required=True, help='list of unlabelled ids')
    parser.add_argument('--val', required=True, help='list of ids to evaluate on')
    parser.add_argument('--suffix', default='.jpg', help='image suffix (default: .jpg)')
    parser.add_argument(
        '--methods',
        nargs='+',
        default=['supervised', 'fixmatch', 'rsmtdf', 'co2s'],
        help='configs of projects/own_images/configs, by name',
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--iters', type=int, default=300, help='training steps of every method')
    parser.add_argument('--student-weights', help='state dict of the MobileNetV2 student')
    parser.add_argument(
        '--second-weights',
        help='state dict of a MobileNetV2 of another training: frozen teacher, or second student',
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/own_images'))
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args()


def make_config(args: argparse.Namespace, method: str, seed: int) -> Config:
    """Fill a method's config in with the user's data."""
    cfg = Config.fromfile(CONFIGS / f'{method}.py')
    root = args.data.resolve()
    lists = {
        name: str((root / getattr(args, name).format(seed=seed)).resolve())
        for name in ('labelled', 'unlabelled', 'val')
    }
    for name, path in lists.items():
        if not Path(path).is_file():
            raise SystemExit(f'--{name}: there is no list {path}; give its path within {root}.')
    palette = np.random.default_rng(0).integers(0, 255, (len(args.classes), 3)).tolist()
    common = dict(
        data_root=str(root),
        img_suffix=args.suffix,
        metainfo=dict(classes=tuple(args.classes), palette=palette),
    )
    sources = cfg.train_dataloader.dataset
    sources.labelled.update(ann_file=lists['labelled'], **common)
    if sources.unlabelled is not None:
        sources.unlabelled.update(ann_file=lists['unlabelled'], **common)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.update(ann_file=lists['val'], **common)
    fill_students(cfg.model, args, other=method == 'verifier')
    fill_verifier(cfg, args, seed)
    cfg.train_cfg.update(max_iters=args.iters, val_interval=args.iters)
    cfg.default_hooks.checkpoint.interval = args.iters
    for scheduler in cfg.param_scheduler:
        scheduler.end = args.iters
    cfg.randomness = dict(seed=seed)
    cfg.work_dir = str(args.out / f'{method}_seed{seed}')
    cfg.experiment_name = f'{method}_seed{seed}_{time.time_ns()}'
    cfg.merge_from_dict(dict(args.cfg_options))
    return cfg


def fill_students(model: ConfigDict, args: argparse.Namespace, other: bool = False) -> None:
    """Fill in the number of classes and the weights: one student, or two of other trainings.

    A student that is to be an ``other`` one has the second weights.
    """
    students = [model.student] if 'student' in model else list(model.students.values())
    weights = [args.student_weights, args.second_weights][:: -1 if other else 1]
    for student, checkpoint in zip(students, weights, strict=False):
        head = student.decode_head
        head.get('decode_head', head).num_classes = len(args.classes)
        if checkpoint:
            student.backbone.init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
        for teacher in head.get('teachers', {}).values() if args.second_weights else ():
            teacher.backbone.init_cfg = dict(type='Pretrained', checkpoint=args.second_weights)


def fill_verifier(cfg: Config, args: argparse.Namespace, seed: int) -> None:
    """Let the network of the verifier's run with the same seed verify."""
    run = args.out / f'verifier_seed{seed}'
    for hook in cfg.custom_hooks:
        if hook.type == 'VLMPurifyHook':
            hook.store = str(args.out / 'evidence')
            hook.verifier.update(
                classes=args.classes,
                config=str(run / 'verifier.py'),
                checkpoint=str(run / f'iter_{args.iters}.pth'),
                label_map=list(range(len(args.classes))),
            )


def train(cfg: Config, classes: list[str]) -> dict[str, Any]:
    """Train one config and return the final metrics of every network it has.

    Returns:
        dict: ``{network: {'mIoU': float, class: IoU, ...}}`` in percent, and ``seconds``.
    """
    start = time.perf_counter()
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    result: dict[str, Any] = {'seconds': time.perf_counter() - start}
    for network in NETWORKS:
        keys = {'mIoU': 'mIoU', **{name: f'IoU.{name}' for name in classes}}
        values = {
            name: scalars[f'val/{network}/{key}'].current()
            for name, key in keys.items()
            if f'val/{network}/{key}' in scalars
        }
        if values:
            result[network] = values
    return result


def summarise(results: dict[str, dict[str, Any]], classes: list[str]) -> Table:
    """Make the table: mean and, for several seeds, standard deviation of every IoU in percent."""
    table = Table(title='IoU in percent on the evaluation list (mean ± spread over seeds)')
    table.add_column('method')
    for name in ('network', 'mIoU', *classes):
        table.add_column(name, justify='left' if name == 'network' else 'right')
    methods = dict.fromkeys(key.rsplit('/', 1)[0] for key in results)
    for method in methods:
        runs = [run for key, run in results.items() if key.rsplit('/', 1)[0] == method]
        for network, shown in NETWORKS.items():
            if network not in runs[0]:
                continue
            cells = []
            for name in ('mIoU', *classes):
                values = np.array([run[network][name] for run in runs])
                spread = f' ± {values.std(ddof=1):.1f}' if len(values) > 1 else ''
                cells.append(f'{values.mean():.1f}{spread}')
            table.add_row(method, shown, *cells)
    return table


def main() -> None:
    """Run the comparison."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    store = args.out / 'results.json'
    results: dict[str, dict[str, Any]] = json.loads(store.read_text()) if store.exists() else {}
    for seed in args.seeds:
        for method in args.methods:
            key = f'{method}/{seed}'
            if key in results:
                continue
            results[key] = train(make_config(args, method, seed), args.classes)
            store.write_text(json.dumps(results, indent=1))
    console = Console()
    console.print(summarise(results, args.classes))
    console.print(
        f'{args.iters} steps; mmseg_semi_rs {mmseg_semi_rs.__version__}, '
        f'torch {torch.__version__}, '
        f'{platform.machine()} with {torch.get_num_threads()} threads; details: {store}'
    )


if __name__ == '__main__':
    main()
