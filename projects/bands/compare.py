# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What more bands are worth where a class does not show in RGB, on fabricated scenes.

    python projects/bands/compare.py --out work_dirs/bands --seeds 0 1

Scenes of the demo get five bands of 16 bits: red, green, blue, near infrared and height. Half of
the lawns are artificial turf, which looks like grass in RGB and like asphalt in the near infrared.
One third of the scenes have masks. `rsseg init`, `train` and `predict` then do the same with three
bands and with five, and the maps are compared with the truth of scenes that none has seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmseg_semi_rs import cli
from mmseg_semi_rs.rasters.gdal import import_rasterio
from mmseg_semi_rs.utils.commands import resources
from mmseg_semi_rs.utils.files import write_atomic, write_png

CLASSES = ('paved', 'building', 'grass', 'tree', 'turf')
BANDS = {'RGB': ('1', '2', '3'), '5 bands': ('all',)}
METHODS = ('supervised', 'fixmatch', 'rsmtdf-lite')
_LAWN, _IGNORED = 2, 255
# Of each class, then of cars and of what is none: reflectance in the near infrared, height in dm.
_INFRARED = np.array([0.15, 0.2, 0.6, 0.7, 0.15, 0.2, 0.3])
_HEIGHT = np.array([0, 80, 0, 60, 0, 10, 5])


def fabricate(folder: Path, seed: int, scenes: int, labelled: int, unseen: int, size: int) -> None:
    """Write ``images``, ``masks`` of some of them, and ``unseen`` images with all their masks.

    Args:
        folder: Where to; what is there already is kept.
        seed: Of the scenes.
        scenes: To train with.
        labelled: How many of these have a mask.
        unseen: To evaluate on.
        size: Side of a scene in pixels.
    """
    sys.path.insert(0, str(resources() / 'tools'))
    from demo.scenes import make_scene

    for index in range(scenes + unseen):
        part = folder if index < scenes else folder / 'unseen'
        image = part / 'images' / f'scene_{index:03}.tif'
        if image.is_file():
            continue
        rng = np.random.default_rng([seed, index, 5])
        rgb, ids = make_scene(seed, index, size)
        things = np.array([6, 0, 1, 2, 3, 5, 6])[ids]
        coarse = rng.standard_normal((5, 5)).astype(np.float32)
        field = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        things[(things == _LAWN) & (field > 0)] = CLASSES.index('turf')
        mask = np.where((things < len(CLASSES)) & (ids > 0), things, _IGNORED).astype(np.uint8)
        infrared = _INFRARED[things] * rng.uniform(0.8, 1.2) + rng.normal(0, 0.03, ids.shape)
        height = _HEIGHT[things] + rng.normal(0, 4, ids.shape)
        extra = [cv2.GaussianBlur(band, (0, 0), 0.7) for band in (infrared * 4000, height + 100)]
        bands = np.stack([*(rgb.transpose(2, 0, 1) * 10.0 + 100), *extra])
        image.parent.mkdir(parents=True, exist_ok=True)
        if index < labelled or index >= scenes:
            (part / 'masks').mkdir(parents=True, exist_ok=True)
            write_png(part / 'masks' / f'{image.stem}.png', mask)
        with import_rasterio(image).open(
            image, 'w', driver='GTiff', width=size, height=size, count=5, dtype='uint16'
        ) as out:
            out.write(np.clip(bands, 0, 65535).round().astype(np.uint16))


def evaluate(maps: Path, truth: Path) -> list[float]:
    """IoU of each class in percent, of maps against masks of the same names."""
    confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for path in sorted(truth.glob('*.png')):
        wanted, found = (np.asarray(Image.open(file)) for file in (path, maps / f'{path.stem}.tif'))
        known = wanted != _IGNORED
        pairs = wanted[known].astype(np.int64) * len(CLASSES) + found[known]
        confusion += np.bincount(pairs, minlength=confusion.size).reshape(confusion.shape)
    hits = confusion.diagonal()
    return (100 * hits / (confusion.sum(0) + confusion.sum(1) - hits)).tolist()


def run(data: Path, out: Path, bands: Sequence[str], method: str, seed: int, iters: int) -> Path:
    """Train by one method on some bands, and predict the unseen scenes.

    Returns:
        Folder of the maps.
    """
    settings = ['--classes', *(f'{name}={index}' for index, name in enumerate(CLASSES))]
    settings += ['--bands', *bands, '--method', method, '--iters', str(iters), '--seed', str(seed)]
    folders = [str(data / 'images'), str(data / 'masks'), '--out', str(out / 'data')]
    config = out / 'config.py'
    cli.main(['init', *folders, '--config', str(config), *settings, '--force'])
    work = ['--work-dir', str(out / 'run')]
    cheap = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
    cli.main(
        ['train', str(config), *work, '--cfg-options', *cheap, f'train_cfg.val_interval={iters}']
    )
    checkpoint = out / 'run' / f'iter_{iters}.pth'
    maps = out / 'maps'
    cli.main(
        ['predict', str(config), str(checkpoint), str(data / 'unseen/images'), '--out', str(maps)]
    )
    return maps


def table(results: dict[str, list[list[float]]]) -> str:
    """Mean over the seeds of each class and of all, and the mean of each seed, in Markdown."""
    lines = [
        '| bands | method | mIoU | by seed | ' + ' | '.join(CLASSES) + ' |',
        '|---|---|---|---|' + '---|' * len(CLASSES),
    ]
    for name, seeds in results.items():
        means = np.mean(seeds, 0)
        each = ', '.join(f'{np.mean(one):.1f}' for one in seeds)
        shares = ' | '.join(f'{value:.1f}' for value in means)
        bands, method = name.split('/')
        lines.append(f'| {bands} | {method} | {means.mean():.1f} | {each} | {shares} |')
    return '\n'.join(lines) + '\n'


def main(arguments: Sequence[str] | None = None) -> None:
    """Fabricate, train, predict and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/bands'), help='folder')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1], help='of scenes, training')
    parser.add_argument('--methods', nargs='+', default=METHODS, help='as in rsseg init')
    parser.add_argument('--scenes', type=int, default=48, help='a third of them has a mask')
    parser.add_argument('--unseen', type=int, default=16, help='scenes that are evaluated')
    parser.add_argument('--size', type=int, default=128, help='side of a scene in pixels')
    parser.add_argument('--iters', type=int, default=400, help='steps of each training')
    args = parser.parse_args(arguments)
    results: dict[str, list[list[float]]] = {}
    for seed in args.seeds:
        data = args.out / f'scenes_{seed}'
        fabricate(data, seed, args.scenes, args.scenes // 3, args.unseen, args.size)
        for bands, chosen in BANDS.items():
            for method in args.methods:
                out = args.out / f'{bands.replace(" ", "_")}_{method}_{seed}'
                done = out / 'iou.json'
                if not done.is_file():
                    maps = run(data, out, chosen, method, seed, args.iters)
                    found = evaluate(maps, data / 'unseen/masks')
                    write_atomic(done, json.dumps(found).encode())
                found = json.loads(done.read_text())
                results.setdefault(f'{bands}/{method}', []).append(found)
    text = table(results)
    write_atomic(args.out / 'results.md', text.encode())
    print(text)


if __name__ == '__main__':
    main()
