# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
r"""Which method helps a person with few labels: every method, number of labels and seed compared.

The folder has images/<id>.<suffix>, labels/<id>.png (class ids, 255 = ignored) and lists of ids,
one per line. Labelled tiles are drawn anew for each seed: `32/8` draws 32 tiles of 8 images, `32`
spreads them over as many images as there are, `all` takes all of the training list. `32@suggest`
takes the 32 that tools/suggest.py names; behind each, `@clicks0.05%` keeps so many of their pixels.

    python projects/own_images/compare.py DATA --classes building land road vegetation water \
        --train splits/train.txt --held splits/held.txt --val splits/val.txt \
        --tile 128 --labelled 32/8 210/8 --seeds 0 1 2 --jobs 2

Each run is a process with one thread. Its checkpoint is the best one on the held-out training
tiles, which nothing else is trained on; that one is evaluated on the validation tiles, once.
Finished runs are kept, interrupted ones go on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import torch
from lists import (
    choose_labelled,
    hold_out,
    keep_clicks,
    parse_amount,
    suggest_labelled,
    write_tiles,
)
from mmengine.config import Config, DictAction
from rich.console import Console
from tables import write_results

import mmseg_semi_rs
from mmseg_semi_rs.classes import class_colours
from mmseg_semi_rs.utils.files import read_list
from mmseg_semi_rs.utils.sampling import evenly
from mmseg_semi_rs.visualization.report import write_report

HERE = Path(__file__).resolve().parent
CONFIGS = HERE / 'configs'
METHODS = [
    'supervised',
    'supervised_strong',
    'fixmatch',
    'recipe',
    'unimatchv2',
    'rsmtdf',
    'rsmtdf_labelled',
    'co2s',
]
ON_ONE_CORE = {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('data', type=Path, help='folder with images/ and labels/')
    parser.add_argument('--classes', nargs='+', required=True, help='class names in id order')
    parser.add_argument('--train', required=True, help='list of training ids, within the folder')
    parser.add_argument(
        '--held', required=True, help='list of training ids that choose the checkpoint'
    )
    parser.add_argument('--val', required=True, help='list of ids to evaluate on, once')
    parser.add_argument('--suffix', default='.jpg', help='of the images (default: .jpg)')
    parser.add_argument(
        '--image-regex',
        default=r'^(.+?)(_\d+)?(_\d+)?$',
        help='group 1 of it in an id is the image that a tile is of (default: before two numbers)',
    )
    parser.add_argument('--tile', type=int, help='side that tiles are scaled to (default: as is)')
    parser.add_argument('--crop', type=int, help='side trained on (default: half of the tile)')
    parser.add_argument(
        '--labelled', nargs='+', default=['32/8'], metavar='TILES[/IMAGES]', help='default: 32/8'
    )
    parser.add_argument(
        '--methods', nargs='+', default=METHODS, help='configs beside this file, by name'
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--iters', type=int, default=1200, help='training steps of every method')
    parser.add_argument(
        '--interval', type=int, default=200, help='steps between looks at the held-out tiles'
    )
    parser.add_argument(
        '--held-tiles', type=int, help='look at so many of the held-out tiles (default: all)'
    )
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='runs at a time')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/own_images'))
    parser.add_argument(
        '--no-val', action='store_true', help='stop before the validation tiles: to choose settings'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args(arguments)


def make_config(
    args: argparse.Namespace, root: Path, lists: dict[str, Path], method: str, run: Path, seed: int
) -> Config:
    """Fill a method's config in with the tiles, the lists, the classes, the length and the seed."""
    cfg = Config.fromfile(CONFIGS / f'{method}.py')
    common = dict(
        data_root=str(root),
        metainfo=dict(classes=tuple(args.classes), palette=class_colours(args.classes)),
    )
    sources = cfg.train_dataloader.dataset
    sources.labelled.update(ann_file=str(lists['labelled']), **common)
    if sources.unlabelled is not None:
        sources.unlabelled.update(ann_file=str(lists['unlabelled']), **common)
    for loader, role in ((cfg.val_dataloader, 'held'), (cfg.test_dataloader, 'val')):
        loader.dataset.update(ann_file=str(lists[role]), **common)
    tile = side_of_tiles(root)
    crop = args.crop or tile // 2
    cfg.model.data_preprocessor.size = (crop, crop)
    for source in filter(None, (sources.labelled, sources.unlabelled)):
        scale, cut, _ = next(
            part.transforms for part in source.pipeline if part.type == 'TrackGeometry'
        )
        scale.scale, cut.crop_size = (tile, tile), (crop, crop)
    students = [cfg.model.student] if 'student' in cfg.model else cfg.model.students.values()
    for student in students:
        head = student.decode_head
        head.get('decode_head', head).num_classes = len(args.classes)
    cfg.default_hooks.logger.interval = min(50, args.interval)
    for hook in cfg.custom_hooks:
        if hook.type == 'PseudoLabelStatsHook':
            hook.interval = cfg.default_hooks.logger.interval
        if hook.type == 'VLMPurifyHook':
            hook.store = str(run.parent / f'evidence_seed{seed}')
            if hook.verifier.type == 'SegmentorVerifier':
                verifier = run.parent / f'verifier_seed{seed}'
                hook.verifier.update(
                    classes=args.classes,
                    config=str(verifier / 'config.py'),
                    checkpoint=str(verifier / 'best.pth'),
                    label_map=list(range(len(args.classes))),
                )
        if hook.type == 'CalibrateGateHook':
            hook.interval = args.interval
            learnt, kept = hold_out(lists['labelled'], args.image_regex)
            sources.labelled.ann_file = str(learnt)
            hook.dataset.update(ann_file=str(kept), **common)
    if 'labelled_by' in cfg:
        by, masks = run.parent / f'{cfg.labelled_by}_seed{seed}', run / 'labels'
        words = [by / 'config.py', by / 'best.pth', '--flips', '--out', masks]
        cfg.autolabel = list(map(str, words))
    cfg.train_cfg.update(max_iters=args.iters, val_interval=args.interval)
    cfg.default_hooks.checkpoint.interval = args.interval
    for scheduler in cfg.param_scheduler:
        scheduler.end = args.iters
    cfg.randomness = dict(seed=seed)
    cfg.work_dir = str(run)
    cfg.experiment_name = f'{run.parent.name}_{run.name}_{time.time_ns()}'
    cfg.look_at_val = not args.no_val
    cfg.merge_from_dict(dict(args.cfg_options))
    return cfg


def side_of_tiles(root: Path) -> int:
    """Longest side of the scaled tiles in pixels, by one of them."""
    tile = next((root / 'images').iterdir())
    return max(cv2.imread(str(tile)).shape[:2])


def make_lists(args: argparse.Namespace, root: Path, amount: str, seed: int) -> dict[str, Path]:
    """Draw the labelled tiles of one seed, and write the lists of all roles."""
    ids = {role: read_list(args.data / getattr(args, role)) for role in ('train', 'held', 'val')}
    pool = [name for name in ids['train'] if name not in set(ids['held'])]
    looked_at = evenly(len(ids['held']), args.held_tiles or len(ids['held']))
    ids['held'] = [ids['held'][index] for index in looked_at]
    asked = parse_amount(amount)
    if asked.suggested and asked.tiles is not None:
        kept = args.out.resolve() / 'features.npy'
        labelled = suggest_labelled(pool, asked.tiles, args.image_regex, root / 'images', kept)
    else:
        number, pictures, masks = asked.tiles, asked.images, root / 'labels'
        labelled = choose_labelled(
            pool, number, pictures, args.image_regex, masks, len(args.classes), seed
        )
    ids['labelled'] = labelled
    ids['unlabelled'] = [name for name in pool if name not in set(labelled)]
    folder = args.out.resolve() / asked.name / f'lists_seed{seed}'
    folder.mkdir(parents=True, exist_ok=True)
    paths = {role: folder / f'{role}.txt' for role in ('labelled', 'unlabelled', 'held', 'val')}
    for role, path in paths.items():
        path.write_text(''.join(f'{name}\n' for name in ids[role]), encoding='utf-8')
    return paths


def run_one(folder: Path, console: Console) -> None:
    """Train and evaluate one config in a process of its own, unless that was done before."""
    if (folder / 'result.json').is_file():
        return
    start = time.perf_counter()
    with (folder / 'train.log').open('ab') as log:
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', str(HERE / 'one_run.py'), str(folder / 'config.py')],
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                **ON_ONE_CORE,
                'PYTHONPATH': os.pathsep.join([str(HERE.parents[1]), *sys.path]),
            },
        )
    name = f'{folder.parent.name}/{folder.name}'
    if done.returncode:
        console.print(f'[red]{name} failed: see {folder / "train.log"}[/]')
        return
    best = json.loads((folder / 'result.json').read_text(encoding='utf-8'))
    console.print(
        f'{name}: held out {best["held"]["mIoU"]:.1f} at {best["iteration"]}, '
        f'{time.perf_counter() - start:.0f} s'
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    args = parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    for role in ('train', 'held', 'val'):
        path = args.data / getattr(args, role)
        if not path.is_file():
            raise SystemExit(f'--{role}: there is no list {path}; give its path within the folder.')
    unknown = [method for method in args.methods if not (CONFIGS / f'{method}.py').is_file()]
    if unknown:
        raise SystemExit(f'--methods {" ".join(unknown)}: there is no such config in {CONFIGS}.')
    args.out.mkdir(parents=True, exist_ok=True)
    ids = {
        name
        for role in ('train', 'held', 'val')
        for name in read_list(args.data / getattr(args, role))
    }
    root = write_tiles(args.data.resolve(), sorted(ids), args.suffix, args.tile, args.out.resolve())
    folders = []
    for seed in args.seeds:
        for amount in args.labelled:
            lists, asked = make_lists(args, root, amount, seed), parse_amount(amount)
            masks = 'labels'
            if asked.clicks:
                masks = keep_clicks(root, read_list(lists['labelled']), asked.clicks)
            for method in args.methods:
                folder = args.out.resolve() / asked.name / f'{method}_seed{seed}'
                folder.mkdir(parents=True, exist_ok=True)
                if not (folder / 'result.json').is_file():
                    cfg = make_config(args, root, lists, method, folder, seed)
                    cfg.train_dataloader.dataset.labelled.data_prefix.seg_map_path = masks
                    cfg.dump(folder / 'config.py')
                folders.append(folder)
    # Runs that others build on are first in METHODS' order; threads only wait for processes.
    with ThreadPoolExecutor(args.jobs) as pool:
        for _ in pool.map(lambda folder: run_one(folder, console), folders):
            pass
    options = ' '.join(sys.argv[1:] if arguments is None else arguments)
    made_by = (
        f'projects/own_images/compare.py {options}; mmseg_semi_rs {mmseg_semi_rs.__version__}, '
        f'torch {torch.__version__}, {platform.machine()}, one thread a run'
    )
    print(write_results(args.out, args.classes, made_by))
    finished = [folder for folder in folders if (folder / 'result.json').is_file()]
    if finished:
        page, _ = write_report(finished, args.out / 'report.html', 'Methods compared')
        console.print(f'curves: {page}')


if __name__ == '__main__':
    main()
