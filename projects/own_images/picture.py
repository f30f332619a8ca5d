# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Draw one evaluated image whole, put together from its tiles: truth, what runs predict, errors.

    python projects/own_images/picture.py RUN RUN ... --out picture.png

RUN is a folder of compare.py, such as OUT/32_of_8/supervised_seed0.

The image is not picked by eye: of all evaluated images it is the one whose gain (last run against
the first) is in the middle, or the one that --image names. Tiles are placed by the two numbers at
the end of their ids, ``<image>_<top>_<left>`` in pixels of the tiles before scaling.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

from mmseg_semi_rs import register_all
from mmseg_semi_rs.classes import class_colours
from mmseg_semi_rs.models.weights import load_weights
from mmseg_semi_rs.visualization.panels import (
    colorize,
    draw_panels,
    legend,
    overlay,
    save_picture,
)

Names = Sequence[str]
ERROR = (230, 0, 60)


class Tiles:
    """Evaluated tiles of one run: pixels and truth, each (H, W, 3) RGB and (H, W) uint8, by id."""

    def __init__(self, cfg: Config) -> None:
        self.dataset = DATASETS.build(cfg.test_dataloader.dataset)
        self.classes = self.dataset.metainfo['classes']
        self.palette = class_colours(self.classes)
        self.images: dict[str, np.ndarray] = {}
        self.truths: dict[str, np.ndarray] = {}
        for sample in map(self.dataset.__getitem__, range(len(self.dataset))):
            name = Path(sample['data_samples'].img_path).stem
            self.images[name] = sample['inputs'].numpy()[::-1].transpose(1, 2, 0)
            truth = sample['data_samples'].gt_sem_seg.data[0].numpy()
            self.truths[name] = truth.astype(np.uint8)

    def predict(self, run: Path) -> dict[str, np.ndarray]:
        """Classes of every tile by a run's best checkpoint, (H, W) uint8, by id."""
        model = MODELS.build(trained_config(run).model)
        load_weights(model, str(run / 'best.pth'))
        model.eval()
        maps = {}
        for index, name in enumerate(self.images):
            with torch.no_grad():
                (result,) = model.test_step(pseudo_collate([self.dataset[index]]))
            maps[name] = result.pred_sem_seg.data[0].numpy().astype(np.uint8)
        return maps


def trained_config(run: Path) -> Config:
    """Read the config that a run has trained: of the method autolabel, the one for its student."""
    student = run / 'student.py'
    return Config.fromfile(student if student.is_file() else run / 'config.py')


def mean_iou(
    maps: Mapping[str, np.ndarray], truths: Mapping[str, np.ndarray], names: Names
) -> float:
    """Mean IoU in percent over the classes that are on some tiles or are predicted there."""
    predicted = np.concatenate([maps[name].ravel() for name in names])
    true = np.concatenate([truths[name].ravel() for name in names])
    predicted, true = predicted[true != 255], true[true != 255]
    either = np.union1d(predicted, true)
    hits = [((predicted == each) & (true == each)).sum() for each in either]
    sums = [((predicted == each) | (true == each)).sum() for each in either]
    return float(100 * np.mean(np.divide(hits, sums)))


def put_together(parts: Mapping[str, np.ndarray], names: Names, scale: float) -> np.ndarray:
    """Lay the tiles of one image on their places; the later covers the earlier.

    Args:
        parts: Tiles by id, (h, w) or (h, w, 3) uint8.
        names: Ids of one image.
        scale: Pixels of a tile here by its pixels before scaling.
    """
    placed = [
        (*(round(int(number) * scale) for number in name.split('_')[-2:]), parts[name])
        for name in names
    ]
    height = max(top + part.shape[0] for top, _, part in placed)
    width = max(left + part.shape[1] for _, left, part in placed)
    whole = np.full((height, width, *placed[0][2].shape[2:]), 255, np.uint8)
    for top, left, part in placed:
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return whole


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(
        description='Draw one evaluated image and what runs make of it'
    )
    parser.add_argument('runs', nargs='+', type=Path, help='folders of runs; the first is the bar')
    parser.add_argument(
        '--side', type=int, default=256, help='side of unscaled tiles (default 256)'
    )
    parser.add_argument('--image', help='which image (default: that of the median gain)')
    parser.add_argument('--out', type=Path, default=Path('picture.png'), help='file to write')
    args = parser.parse_args(arguments)
    absent = [run for run in args.runs if not (run / 'best.pth').is_file()]
    if absent:
        raise SystemExit(f'{absent[0]} holds no best.pth: give folders of finished runs.')
    register_all()
    init_default_scope('mmseg')
    tiles = Tiles(Config.fromfile(args.runs[0] / 'config.py'))
    images = defaultdict(list)
    for name in sorted(tiles.images):
        images[name.rsplit('_', 2)[0]].append(name)
    if args.image not in {None, *images}:
        raise SystemExit(f'--image {args.image} is not evaluated; there are {", ".join(images)}.')
    maps = [tiles.predict(run) for run in args.runs]
    gains = {
        image: mean_iou(maps[-1], tiles.truths, names) - mean_iou(maps[0], tiles.truths, names)
        for image, names in images.items()
    }
    middle = sorted(gains, key=gains.__getitem__)[len(gains) // 2]
    shown = images[args.image or middle]
    scale = next(iter(tiles.truths.values())).shape[0] / args.side
    image, truth = (put_together(part, shown, scale) for part in (tiles.images, tiles.truths))
    grey = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1).astype(np.uint8)
    above, below, titles = [image], [colorize(truth, tiles.palette)], ['image and truth']
    for run, predicted in zip(args.runs, maps, strict=True):
        whole = put_together(predicted, shown, scale)
        wrong = (whole != truth) & (truth != 255)
        above.append(colorize(whole, tiles.palette))
        below.append(overlay(grey, np.full_like(grey, ERROR), wrong, opacity=0.7))
        iou = mean_iou(predicted, tiles.truths, shown)
        titles.append(f'{run.name.rsplit("_seed", 1)[0]}: mIoU {iou:.1f}, errors in red')
    grid = draw_panels([above, below], titles)
    key = legend(tiles.classes, tiles.palette, grid.shape[1])
    save_picture(np.concatenate([grid, key]), args.out)
    print(f'{args.out}: {args.image or middle}; gain of the last run by image:')
    print(', '.join(f'{image} {gain:+.1f}' for image, gain in gains.items()))


if __name__ == '__main__':
    main()
