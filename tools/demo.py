# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The whole story in minutes on a CPU, with nothing downloaded: data, training, figures.

    make demo
    make demo-co2s
    make demo-semiearth
    python tools/demo.py --iters 400 --seed 0 --out work_dirs/demo
    python tools/demo.py --quick                # a few iterations, to see that everything works

1. Fabricates aerial scenes in Potsdam's on-disk layout; 3 of 32 training scenes are labelled.
2. Trains the same student for the same number of steps, each run in a process of its own, two at a
   time: on the three scenes' labels alone; by RS-MTDF and by SemiEarth, with the other 29 scenes
   unlabelled; and with all 32 labelled. The first run is killed half-way and resumed.
   Small stand-ins for DINOv2 and CLIP know hundreds of other places (tools/make_demo_teachers.py);
   they lie in tools/demo/configs/teachers. RS-MTDF distils them; SemiEarth asks the CLIP about
   pseudo labels.
   With --methods supervised co2s-supervised co2s co2s-all: two students that start from the
   stand-ins and teach each other.
   With --methods supervised fixmatch semiearth all: what the CLIP does to the pseudo labels of
   FixMatch, counted and on a page.
3. Validates all on scenes that none has seen, prints a table and draws a picture.

No setting was chosen on the scenes of the seeds that are shown or reported (0, 1 and 2), but on
those of seeds from 7 on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from demo.runs import NETWORKS, ROOT, Run, run_tool, train
from make_demo_data import make_demo_data
from rich.console import Console
from rich.table import Table

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.command_line import command_parser

CONFIGS = ROOT / 'tools' / 'demo' / 'configs'
# Title and config by name.
METHODS = {
    'supervised': ('supervised', 'supervised_potsdam_3-32'),
    'fixmatch': ('FixMatch', 'fixmatch_potsdam_3-32'),
    'unimatchv2': ('UniMatch V2', 'unimatchv2_potsdam_3-32'),
    'rsmtdf': ('RS-MTDF', 'rsmtdf_potsdam_3-32'),
    'semiearth': ('SemiEarth', 'semiearth_potsdam_3-32'),
    'all': ('all labels', 'supervised_potsdam_all'),
    'co2s-supervised': ('labels alone, same start', 'co2s_supervised_potsdam_3-32'),
    'co2s': ('Co2S', 'co2s_potsdam_3-32'),
    'co2s-all': ('all labels', 'co2s_supervised_potsdam_all'),
}
WITH_STAND_INS = {'rsmtdf', 'semiearth', 'co2s-supervised', 'co2s', 'co2s-all'}
BY_NAME = 'CLIP by name'
FULL = dict(train=32, val=8, size=256, tile=128)
QUICK = dict(train=11, val=4, size=128, tile=128)  # one of the 11 is labelled


@contextmanager
def timed(console: Console, what: str) -> Iterator[None]:
    """Say what was done and how long it took."""
    start = time.perf_counter()
    yield
    console.print(f'{what}: {time.perf_counter() - start:.0f} s')


def show_table(
    runs: Sequence[Run], classes: Sequence[str], by_name: np.ndarray | None, console: Console
) -> None:
    """Print the IoU of each class for every network of each run, and of the CLIP alone."""
    table = Table(title='IoU on unseen scenes, %')
    table.add_column('class', no_wrap=True)
    columns = [(run, name) for run in runs for name in run.networks()]
    for run, name in columns:
        table.add_column(f'{run.title}\n{NETWORKS[name]}', justify='right')
    if by_name is not None:
        table.add_column(f'{BY_NAME}\nno labels', justify='right')
    for index, name in enumerate((*classes, 'mean')):
        key = 'mIoU' if name == 'mean' else f'IoU.{name}'
        cells = [f'{run.metrics()[f"{network}/{key}"]:.1f}' for run, network in columns]
        if by_name is not None:
            cells.append(f'{np.nanmean(by_name) if name == "mean" else by_name[index]:.1f}')
        if name == 'mean':
            table.add_section()
        table.add_row(name, *cells)
    console.print(table)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(
        'demo',
        'Train and compare on fabricated aerial scenes, on the CPU',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--out', default='work_dirs/demo', help='logs, checkpoints, demo.png')
    parser.add_argument('--data', default='data', help='folder of what is fabricated')
    parser.add_argument('--iters', type=int, help='training steps (default: as the configs say)')
    parser.add_argument('--seed', type=int, default=0, help='seed of scenes and training')
    parser.add_argument('--quick', action='store_true', help='very little of everything')
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=METHODS,
        default=['supervised', 'rsmtdf', 'semiearth', 'all'],
        help='what runs',
    )
    args = parser.parse_args(arguments)
    if args.iters is not None and args.iters < 2:
        parser.error(f'--iters {args.iters} is too short: give at least 2')
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo."""
    args = parse_args(arguments)
    register_all()
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    init_default_scope('mmseg')
    # a table of nine columns of figures, which a narrow console would cut off
    console = Console(highlight=False, width=max(120, shutil.get_terminal_size().columns))
    start = time.perf_counter()
    data = Path(args.data).resolve()
    out = Path(args.out).resolve()
    size = QUICK if args.quick else FULL
    cores = min(2, os.cpu_count() or 1)
    with timed(console, 'scenes'):
        make_demo_data(data / 'demo_potsdam', seed=args.seed, workers=cores, **size)
    configs = {name: CONFIGS / f'{METHODS[name][1]}.py' for name in args.methods}
    iterations = args.iters or (4 if args.quick else None)
    iterations = iterations or max(
        Config.fromfile(config).train_cfg.max_iters for config in configs.values()
    )
    places = {name: located(config, data) for name, config in configs.items()}
    runs = [
        planned(name, config, out, places[name], args.seed, iterations)
        for name, config in configs.items()
    ]
    if 'semiearth' in args.methods:
        with timed(console, 'evidence of all training tiles'):
            run_tool('vlm_annotate', configs['semiearth'], options=places['semiearth'])
    with timed(console, f'training, {iterations} steps each'):
        story = train(runs, iterations, cores, console)
    with_stand_ins = bool(WITH_STAND_INS & set(args.methods))
    with timed(console, 'picture'):
        classes, by_name = draw_picture(runs, data, out / 'demo.png', with_stand_ins)
    show_table(runs, classes, by_name, console)
    console.print(
        f'{size["train"]} training scenes of which {3 * size["train"] // 32} labelled, '
        f'{size["val"]} other scenes for this table; {iterations} steps each. The {runs[0].title} '
        f'run {story}.'
    )
    show_best(runs, by_name, console)
    labelling = [run for run in runs if run.folder.name in ('fixmatch', 'semiearth')]
    for run in labelling if len(labelling) == 2 else ():
        console.print(f'\nThe unlabelled tiles, labelled by the EMA of {run.title} and purified:')
        where = ['--out', out / f'audit_{run.folder.name}', '--tiles', '1000']
        words = [configs['semiearth'], run.checkpoint, *where]
        print(run_tool('audit_purification', *words, options=places['semiearth']))
    if with_stand_ins:
        console.print(
            'The stand-ins for foundation models know hundreds of other places that were '
            'fabricated like these: how much they help says nothing about real images.'
        )
    console.print(f'picture      {out / "demo.png"}')
    console.print(f'logs         {out}/*/train.log')
    for run in runs:
        megabytes = run.checkpoint.stat().st_size / 2**20
        console.print(f'checkpoint   {run.checkpoint} ({megabytes:.1f} MiB)')
    console.print(f'data         {data}')
    console.print(f'whole demo: {time.perf_counter() - start:.0f} s')


def planned(
    name: str, config: Path, out: Path, place: Mapping[str, Any], seed: int, iterations: int
) -> Run:
    """A training that is ready to start, in a folder without an earlier one."""
    options = {
        **place,
        'randomness.seed': seed,
        'train_cfg.max_iters': iterations,
        'train_cfg.val_interval': iterations,
        'default_hooks.checkpoint.interval': max(1, iterations // 2),
        'default_hooks.logger.interval': max(1, min(20, iterations // 4)),
    }
    run = Run(METHODS[name][0], config, out / name, options)
    run.clear()
    return run


def draw_picture(
    runs: Sequence[Run], data: Path, path: Path, with_stand_ins: bool
) -> tuple[Sequence[str], np.ndarray | None]:
    """Draw what the first and the last run that had few labels predict, and the CLIP by name.

    Returns:
        Names of the classes, and the IoU that the CLIP has of each, in percent; None without it.
    """
    from demo.picture import ask_by_name, class_iou, draw, predict, shown_tiles, truth_of
    from mmengine.config import Config
    from mmseg.registry import DATASETS

    dataset = Config.fromfile(CONFIGS / '_base_demo.py').val_dataloader.dataset
    dataset = DATASETS.build({**dataset, 'data_root': str(data / 'demo_potsdam')})
    classes = dataset.metainfo['classes']
    few = [run for run in runs if run.title != 'all labels'] or list(runs)
    tiles = shown_tiles(dataset)
    maps = {run.title: predict(run, tiles) for run in few[:1] + few[1:][-1:]}
    by_name: np.ndarray | None = None
    if with_stand_ins:
        verifier = Config.fromfile(CONFIGS / 'semiearth_potsdam_3-32.py').purify.verifier
        verifier.checkpoint = str(ROOT / verifier.checkpoint)
        every = range(len(dataset))
        asked = ask_by_name(verifier, dataset, every)
        maps[BY_NAME] = [asked[tile] for tile in tiles]
        truth = np.stack([truth_of(dataset[tile]) for tile in every])
        by_name = class_iou(np.stack(asked), truth, len(classes))
    draw(maps, dataset, path)
    return classes, by_name


def show_best(runs: Sequence[Run], by_name: np.ndarray | None, console: Console) -> None:
    """Print what can be won at most, and who has won most without all labels."""
    if runs[-1].title == 'all labels':
        console.print(
            '"supervised" is what the few labels give alone, "all labels" what labels for all '
            'training scenes would give: a method can win what lies between.'
        )
    scores = {
        f'{run.title}, {NETWORKS[network]}': run.metrics()[f'{network}/mIoU']
        for run in runs
        if run.title != 'all labels'
        for network in run.networks()
    }
    if by_name is not None:
        scores[f'{BY_NAME}, no labels'] = float(np.nanmean(by_name))
    if scores:
        best = max(scores, key=lambda title: scores[title])
        console.print(f'Highest mean IoU without all labels: {best} ({scores[best]:.1f}).')


def located(config: Path, data: Path) -> dict[str, Any]:
    """Settings that lead a demo config to another data folder."""
    from mmengine.config import Config

    cfg = Config.fromfile(config)
    root = str(data / 'demo_potsdam')
    options = {f'{part}_dataloader.dataset.data_root': root for part in ('val', 'test')}
    for source in ('labelled', 'unlabelled'):
        if cfg.train_dataloader.dataset.get(source):
            options[f'train_dataloader.dataset.{source}.data_root'] = root
    for index, hook in enumerate(cfg.custom_hooks):
        if hook.type == 'VLMPurifyHook':
            options[f'custom_hooks.{index}.store'] = str(data / 'evidence' / 'demo_potsdam')
    return options


if __name__ == '__main__':
    main()
