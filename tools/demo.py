# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The whole story in minutes on a CPU, with nothing downloaded: data, teachers, training, figures.

    make demo
    make demo-co2s
    make demo-semiearth
    python tools/demo.py --iters 400 --seed 0 --out work_dirs/demo
    python tools/demo.py --quick                # a few iterations, to see that everything works

1. Fabricates aerial scenes in Potsdam's on-disk layout, a quarter of the training scenes labelled.
2. Trains tiny stand-ins for DINOv2 and CLIP on other fabricated places, without class labels.
3. Trains the same student twice, for the same number of steps: on the labels alone, and by RS-MTDF
   on labelled and unlabelled tiles with both stand-ins as frozen teachers. The supervised run is
   killed half-way and resumed from its checkpoint.
   With --methods co2s-supervised co2s: the same two students on the labels alone, and by Co2S; no
   stand-ins are needed.
   With --methods fixmatch unimatchv2: one strong view, and two that share out the channels; no
   stand-ins either.
   With --methods fixmatch semiearth: FixMatch as it is, and with pseudo labels that a tiny CLIP
   purifies, trained on captions of other fabricated places; and how often the labels are right
   before and after.
4. Validates both on scenes that neither has seen, prints a table and draws a picture.

Nothing was tuned on the scenes that are evaluated here (seed 0); difficulty, learning rate and the
stand-ins' recipe were chosen on scenes of other seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_demo_data import make_demo_data
from make_demo_teachers import make_demo_teachers
from make_demo_verifier import make_demo_verifier
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import DATASETS, MODELS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import mmseg_semi_rs  # noqa: F401 - registers everything
from mmseg_semi_rs.visualization.panels import colorize, draw_panels, legend, save_picture

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'demo'
# Title and config by name.
METHODS = {
    'supervised': ('supervised', 'supervised'),
    'fixmatch': ('FixMatch', 'fixmatch'),
    'unimatchv2': ('UniMatch V2', 'unimatchv2'),
    'rsmtdf': ('RS-MTDF', 'rsmtdf'),
    'semiearth': ('SemiEarth', 'semiearth'),
    'co2s-supervised': ('supervised', 'co2s_supervised'),
    'co2s': ('Co2S', 'co2s'),
}
NETWORKS = {
    'student': 'student',
    'teacher': 'EMA',
    'a': 'student a',
    'b': 'student b',
    'fused': 'both',
}
FULL = dict(train=32, val=8, size=256, tile=128)
QUICK = dict(train=4, val=1, size=256, tile=128)


ON_ONE_CORE = {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}


def command(tool: str, *words: object, options: Mapping[str, Any]) -> list[str]:
    """The words that run one of the other tools with settings of the config overridden."""
    overridden = ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    script = str(ROOT / 'tools' / f'{tool}.py')
    return [sys.executable, '-W', 'ignore', script, *map(str, words), *overridden]


def run_tool(tool: str, *words: object, options: Mapping[str, Any]) -> str:
    """Run one of the other tools to its end.

    Returns:
        What it printed.

    Raises:
        RuntimeError: It has failed.
    """
    done = subprocess.run(
        command(tool, *words, options=options),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **ON_ONE_CORE},
    )
    if done.returncode:
        tail = done.stderr.splitlines()[-15:]
        raise RuntimeError('\n'.join([f'{tool} failed:', *tail]))
    return done.stdout.rstrip()


@dataclass
class Run:
    """One training: its config, its folder, and the process that does it."""

    title: str
    config: Path
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, resume: bool = False) -> None:
        """Start, or go on from the latest checkpoint."""
        words = [self.config, '--work-dir', self.folder, *(['--resume'] if resume else [])]
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open('ab') as log:
            self.process = subprocess.Popen(
                command('train', *words, options=self.options),
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **ON_ONE_CORE},
            )

    def clear(self) -> None:
        """Remove an earlier run.

        Raises:
            ValueError: The folder holds something else.
        """
        if self.folder.exists() and not self.log.is_file():
            raise ValueError(
                f'{self.folder} exists and holds no earlier demo ({self.log.name} is missing): '
                'give another --out, or remove it.'
            )
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def log(self) -> Path:
        """What the training printed."""
        return self.folder / 'train.log'

    @property
    def checkpoint(self) -> Path | None:
        """The latest checkpoint, None before the first."""
        note = self.folder / 'last_checkpoint'
        return Path(note.read_text(encoding='utf-8').strip()) if note.is_file() else None

    def records(self) -> list[dict[str, Any]]:
        """The logged scalars so far, of all starts of this run."""
        lines = [
            line
            for path in sorted(self.folder.glob('*/vis_data/scalars.json'))
            for line in path.read_text(encoding='utf-8').splitlines()
        ]
        # The last line may be half written.
        return [json.loads(line) for line in lines if line.endswith('}')]

    def iteration(self) -> int:
        """How far it is, as far as logged."""
        return max((int(record.get('step', 0)) for record in self.records()), default=0)

    def metrics(self) -> dict[str, float]:
        """The last validation's metrics, with the network in front: ``student/mIoU``."""
        return [record for record in self.records() if 'mIoU' in record][-1]

    def networks(self) -> list[str]:
        """Names of the networks that were validated."""
        metrics = self.metrics()
        return [name for name in NETWORKS if f'{name}/mIoU' in metrics]

    def is_running(self) -> bool:
        """Whether it works.

        Raises:
            RuntimeError: It has failed.
        """
        if self.process is None or self.process.poll() is None:
            return self.process is not None
        if self.process.returncode:
            tail = self.log.read_text(encoding='utf-8', errors='replace').splitlines()[-15:]
            raise RuntimeError('\n'.join([f'{self.title} failed; the end of {self.log}:', *tail]))
        return False

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def timed(console: Console, what: str, times: dict[str, float]) -> Iterator[None]:
    """Say what is done and how long it took."""
    start = time.perf_counter()
    yield
    times[what] = time.perf_counter() - start
    console.print(f'{what}: {times[what]:.0f} s')


def train(runs: Sequence[Run], iterations: int, console: Console) -> str:
    """Train all runs at the same time; the first one is killed half-way and resumed.

    Returns:
        What happened to the first.
    """
    interrupted, story = False, 'was too short to be interrupted'
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        tasks = {run.title: bars.add_task(run.title, total=iterations) for run in runs}
        for run in runs:
            run.start()
        try:
            working = list(runs)
            while working:
                time.sleep(0.3)
                working = [run for run in working if run.is_running()]
                for run in runs:
                    bars.update(tasks[run.title], completed=run.iteration())
                first = runs[0]
                if not interrupted and first.checkpoint and first in working:
                    interrupted = True
                    at = first.checkpoint.stem.removeprefix('iter_')
                    story = f'was killed after iteration {first.iteration()} and resumed at {at}'
                    first.kill()
                    first.start(resume=True)
        finally:
            for run in runs:
                run.kill()
    return story


def predict(run: Run, tiles: Sequence[int], options: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """Predict some validation tiles from the run's checkpoint; no teacher is built.

    Returns:
        For each tile ``image`` (H, W, 3), ``truth`` and ``prediction`` (H, W), uint8, and ``name``.
    """
    cfg = Config.fromfile(run.config)
    cfg.merge_from_dict(options)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    model = MODELS.build(cfg.model)
    load_checkpoint(model, str(run.checkpoint), map_location='cpu')
    model.eval()
    panels = []
    for tile in tiles:
        sample = dataset[tile]
        with torch.no_grad():
            result = model.test_step(pseudo_collate([sample]))[0]
        panels.append(
            dict(
                name=Path(result.img_path).stem,
                image=sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1],
                truth=result.gt_sem_seg.data[0].numpy().astype(np.uint8),
                prediction=result.pred_sem_seg.data[0].numpy().astype(np.uint8),
            )
        )
    return panels


def draw(runs: Sequence[Run], options: dict[str, Any], path: Path, count: int = 5) -> None:
    """Draw tiles of different scenes: image, truth and the prediction of each run."""
    cfg = Config.fromfile(runs[0].config)
    cfg.merge_from_dict(options)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    # One tile each of evenly spaced places in the list, whatever they look like.
    count = min(count, len(dataset))
    tiles = [round((index + 0.5) * len(dataset) / count - 0.5) for index in range(count)]
    shown = [predict(run, tiles, options) for run in runs]
    palette = dataset.metainfo['palette']
    rows, names = [], []
    for panels in zip(*shown, strict=True):
        truth = panels[0]['truth']
        counted = truth != 255
        rows.append(
            [
                panels[0]['image'],
                colorize(truth, palette),
                *(colorize(panel['prediction'], palette) for panel in panels),
            ]
        )
        right = [(panel['prediction'] == truth)[counted].mean() for panel in panels]
        told = ', '.join(f'{run.title} {share:.0%}' for run, share in zip(runs, right, strict=True))
        names.append(f'{panels[0]["name"]}: pixels right: {told}')
    grid = draw_panels(rows, ['image', 'truth', *(run.title for run in runs)], names, cell=256)
    below = legend(dataset.metainfo['classes'], palette, grid.shape[1])
    save_picture(np.concatenate([grid, below]), path)


def show_table(runs: Sequence[Run], classes: Sequence[str], console: Console) -> None:
    """Print the IoU of each class for every network of each run."""
    table = Table(title='IoU on unseen scenes, %')
    table.add_column('class', no_wrap=True)
    columns = [(run, name) for run in runs for name in run.networks()]
    for run, name in columns:
        table.add_column(f'{run.title}\n{NETWORKS[name]}', justify='right')
    for name in (*classes, 'mean'):
        key = 'mIoU' if name == 'mean' else f'IoU.{name}'
        cells = [f'{run.metrics()[f"{network}/{key}"]:.1f}' for run, network in columns]
        if name == 'mean':
            table.add_section()
        table.add_row(name, *cells)
    console.print(table)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Train and compare on fabricated aerial scenes, on the CPU',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--out', default='work_dirs/demo', help='logs, checkpoints, demo.png')
    parser.add_argument('--data', default='data', help='folder of what is fabricated')
    parser.add_argument('--iters', type=int, help='training steps (default: as the configs say)')
    parser.add_argument('--seed', type=int, default=0, help='seed of scenes, teachers and training')
    parser.add_argument('--quick', action='store_true', help='very little of everything')
    parser.add_argument(
        '--methods', nargs='+', choices=METHODS, default=['supervised', 'rsmtdf'], help='what runs'
    )
    args = parser.parse_args(arguments)
    if args.iters is not None and args.iters < 2:
        parser.error(f'--iters {args.iters} is too short: give at least 2')
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo."""
    args = parse_args(arguments)
    init_default_scope('mmseg')
    console = Console(highlight=False)
    start, times = time.perf_counter(), {}
    data = Path(args.data).resolve()
    out = Path(args.out).resolve()
    size = QUICK if args.quick else FULL
    cores = min(2, os.cpu_count() or 1)
    with timed(console, 'scenes', times):
        make_demo_data(data / 'demo_potsdam', seed=args.seed, workers=cores, **size)
    if 'rsmtdf' in args.methods:
        with timed(console, 'stand-ins for DINOv2 and CLIP', times):
            few = dict(places=8, iterations=4) if args.quick else {}
            make_demo_teachers(data / 'demo_teachers', seed=args.seed, workers=cores, **few)
    if 'semiearth' in args.methods:
        with timed(console, 'stand-in for a CLIP that knows the classes by name', times):
            few = dict(places=8, iterations=4) if args.quick else {}
            make_demo_verifier(data / 'demo_verifier', seed=args.seed, workers=cores, **few)

    configs = {name: CONFIGS / f'{METHODS[name][1]}_potsdam_1-4.py' for name in args.methods}
    iterations = args.iters or (8 if args.quick else None)
    iterations = iterations or max(
        Config.fromfile(config).train_cfg.max_iters for config in configs.values()
    )
    runs, places = [], {}
    for name, config in configs.items():
        run = Run(METHODS[name][0], config, out / name)
        run.clear()
        places[name] = located(run.config, data)
        run.options = {
            **places[name],
            'randomness.seed': args.seed,
            'train_cfg.max_iters': iterations,
            'train_cfg.val_interval': iterations,
            'default_hooks.checkpoint.interval': max(1, iterations // 2),
            'default_hooks.logger.interval': max(1, min(20, iterations // 4)),
        }
        runs.append(run)
    if 'semiearth' in args.methods:
        with timed(console, 'evidence of all training tiles', times):
            run_tool('vlm_annotate', configs['semiearth'], options=places['semiearth'])
    with timed(console, f'training, {iterations} steps each', times):
        story = train(runs, iterations, console)
    with timed(console, 'picture', times):
        draw(runs, places[args.methods[0]], out / 'demo.png')
    classes = DATASETS.get('PotsdamDataset').METAINFO['classes']
    show_table(runs, classes, console)
    scenes = size['train'], size['train'] // 4, size['val']
    console.print(
        f'{scenes[0]} training scenes of which {scenes[1]} labelled, {scenes[2]} other scenes for '
        f'this table; {iterations} steps each. The {runs[0].title} run {story}.'
    )
    for run in runs if 'semiearth' in args.methods else ():
        console.print(f'\nThe unlabelled tiles, labelled by the EMA of {run.title} and purified:')
        where = ['--out', out / f'audit_{run.folder.name}', '--tiles', '1000']
        words = [configs['semiearth'], run.checkpoint, *where]
        print(run_tool('audit_purification', *words, options=places['semiearth']))
    if 'semiearth' in args.methods:
        console.print(
            'The verifier is a stand-in that has learnt the names of the classes on other '
            'fabricated places: it is better at these scenes than CLIP is at real ones.'
        )
    if 'rsmtdf' in args.methods:
        console.print(
            'The frozen teachers are stand-ins, trained for seconds on other fabricated places '
            'without class labels: the table shows the machinery at work, not what it gains on '
            'real images.'
        )
    console.print(f'picture      {out / "demo.png"}')
    console.print(f'logs         {out}/*/train.log')
    for run in runs:
        megabytes = run.checkpoint.stat().st_size / 2**20
        console.print(f'checkpoint   {run.checkpoint} ({megabytes:.1f} MiB)')
    console.print(f'data         {data}')
    console.print(f'whole demo: {time.perf_counter() - start:.0f} s')


def located(config: Path, data: Path) -> dict[str, Any]:
    """Settings that lead a demo config to another data folder."""
    cfg = Config.fromfile(config)
    root = str(data / 'demo_potsdam')
    options = {f'{part}_dataloader.dataset.data_root': root for part in ('val', 'test')}
    for source in ('labelled', 'unlabelled'):
        if cfg.train_dataloader.dataset.get(source):
            options[f'train_dataloader.dataset.{source}.data_root'] = root
    for name, file in (('dino', 'dinov2.pth'), ('clip', 'clip.pt')):
        if name in cfg.model.get('student', {}).get('decode_head', {}).get('teachers', {}):
            key = f'model.student.decode_head.teachers.{name}.backbone.checkpoint'
            options[key] = str(data / 'demo_teachers' / file)
    for index, hook in enumerate(cfg.custom_hooks):
        if hook.type == 'VLMPurifyHook':
            evidence, key = data / 'evidence' / 'demo_potsdam', f'custom_hooks.{index}'
            options[f'{key}.store'] = str(evidence)
            options[f'{key}.verifier.checkpoint'] = str(data / 'demo_verifier' / 'verifier.pt')
            options[f'{key}.verifier.temperature'] = str(evidence / 'clip_temperature.json')
    return options


if __name__ == '__main__':
    main()
