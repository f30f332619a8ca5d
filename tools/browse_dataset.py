# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Draw training batches as the model sees them: after augmentation, normalisation and padding.

    python tools/browse_dataset.py CONFIG --out browse
    python tools/browse_dataset.py CONFIG --start 5000 --batches 4
    python tools/browse_dataset.py CONFIG --checkpoint CKPT      # with the pseudo labels

The batches are those of the training's steps ``start``, ``start + 1``, ... on one GPU, with the
very CutMix boxes. One PNG file for each: labelled images with label and valid mask; below them, for
each strong view, the weak and the strong view of the unlabelled images, the strong one after CutMix
(pixels of another image are tinted), and the valid mask that goes with it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from torch import Tensor

import mmseg_semi_rs  # noqa: F401 - says what to install if something is missing
from mmseg_semi_rs.engine.command_line import parse
from mmseg_semi_rs.engine.launch import Faults, check_paths, load_config
from mmseg_semi_rs.models.data_preprocessor import stack_valid
from mmseg_semi_rs.models.segmentors import DualStudentSegmentor
from mmseg_semi_rs.models.utils import CutMix
from mmseg_semi_rs.models.utils.cutmix import paste
from mmseg_semi_rs.models.weights import load_weights
from mmseg_semi_rs.structures import PseudoLabel
from mmseg_semi_rs.utils.randomness import seed_step
from mmseg_semi_rs.visualization import (
    colorize,
    denormalise,
    draw_panels,
    legend,
    overlay,
    save_picture,
)

TINT = (255, 0, 160)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Draw training batches as the model sees them')
    parser.add_argument('config', help='config file')
    parser.add_argument('--out', default='browse', metavar='FOLDER', help='folder of the pictures')
    parser.add_argument('--batches', type=int, default=1, help='number of batches')
    parser.add_argument('--start', type=int, default=0, help='training step of the first batch')
    parser.add_argument('--images', type=int, default=8, help='images drawn of each source')
    parser.add_argument('--checkpoint', help='draw the pseudo labels of its teacher too')
    parser.add_argument('--seed', type=int, help='seed, instead of randomness.seed of the config')
    return parse(parser, arguments)


class BatchPainter:
    """Turns preprocessed batches into pictures.

    Args:
        preprocessor: The model's data preprocessor.
        metainfo: Of the dataset, with ``classes`` and ``palette``.
        cutmix: The segmentor's CutMix, None if it has none.
        model: A segmentor whose ``pseudo_label`` is drawn too, None to leave it out.
        images: Images drawn of each source, at most.
        donors: How many of the unlabelled images, the last ones, only give pixels to CutMix.
    """

    def __init__(
        self,
        preprocessor: torch.nn.Module,
        metainfo: dict[str, Any],
        cutmix: CutMix | None,
        model: torch.nn.Module | None = None,
        images: int = 8,
        donors: int = 0,
    ) -> None:
        self.preprocessor = preprocessor
        self.classes, self.palette = metainfo['classes'], metainfo['palette']
        self.cutmix, self.model, self.images, self.donors = cutmix, model, images, donors

    def pixels(self, image: Tensor) -> np.ndarray:
        """Pixels of a normalised image, RGB."""
        mean = getattr(self.preprocessor, 'mean', torch.zeros(3)).flatten().tolist()
        std = getattr(self.preprocessor, 'std', torch.ones(3)).flatten().tolist()
        pixels = denormalise(image, mean, std)
        converted = getattr(self.preprocessor, 'channel_conversion', False)
        return pixels if converted else np.ascontiguousarray(pixels[..., ::-1])

    def labelled(self, images: Tensor, samples: list) -> np.ndarray:
        """Images with their labels and valid masks."""
        valid = stack_valid(samples, images.shape[-2:], images.device)
        rows = []
        for image, sample, mask in list(zip(images, samples, valid, strict=True))[: self.images]:
            pixels = self.pixels(image)
            label = colorize(sample.gt_sem_seg.data[0], self.palette)
            rows.append([pixels, label, overlay(pixels, label), mask.numpy()])
        return draw_panels(
            rows,
            ['labelled image', 'label (grey: ignored)', 'both', 'valid (white)'],
            [str(sample.metainfo.get('img_path', '')) for sample in samples[: self.images]],
        )

    def pseudo_labels(self, weak: Tensor, samples: list, valid: Tensor) -> dict[str, PseudoLabel]:
        """What each network of the model says about the weak views, by a title."""
        if self.model is None:
            return {}
        if isinstance(self.model, DualStudentSegmentor):
            return {
                f'pseudo label of {name}': self.model.pseudo_label(name, weak, valid)[1]
                for name in self.model.students
            }
        return {'pseudo label': self.model.pseudo_label(weak, samples)}

    def unlabelled(self, name: str, weak: Tensor, strong: Tensor, samples: list) -> np.ndarray:
        """Both views of unlabelled images, and what CutMix makes of the strong one.

        Args:
            name: Of the strong view.
            weak: Shape (B, 3, H, W); the last ones may be donors.
            strong: Likewise.
            samples: The B samples.
        """
        valid = stack_valid(samples, weak.shape[-2:], weak.device)
        whole = PseudoLabel(valid.long(), valid.float(), valid.float(), valid)
        pseudo = self.pseudo_labels(weak, samples, valid)
        partners = torch.arange(len(weak) - self.donors)
        mask = torch.zeros_like(valid[: len(partners)])
        if self.cutmix is not None:
            partners, mask = self.cutmix.draw(strong, self.donors)
        mixed, target = paste(strong, partners, mask), whole.mix(partners, mask)
        targets = {title: found.mix(partners, mask) for title, found in pseudo.items()}
        title = name.replace('_', ' ')
        titles = ['weak view', f'{title} view', f'{title} view + CutMix', 'valid + CutMix']
        titles += [
            column
            for each in targets
            for column in (f'{each} + CutMix', 'used by the loss (white)')
        ]
        rows = []
        for index in range(min(self.images, len(partners))):
            pasted = mask[index].numpy()
            tint = np.full((*pasted.shape, 3), TINT, np.uint8)
            row = [
                self.pixels(weak[index]),
                self.pixels(strong[index]),
                overlay(self.pixels(mixed[index]), tint, pasted, 0.2),
                target.valid[index].numpy(),
            ]
            for found in targets.values():
                row += [
                    colorize(found.labels[index], self.palette),
                    (found.weight[index] * 255).byte().numpy(),
                ]
            rows.append(row)
        paths = [str(sample.metainfo.get('img_path', '')) for sample in samples[: len(rows)]]
        return draw_panels(rows, titles, paths)

    def __call__(self, batch: dict) -> np.ndarray:
        """Draw one batch.

        Args:
            batch: As the dataloader collates it.

        Returns:
            (H, W, 3) uint8, RGB.
        """
        data = self.preprocessor(batch, True)
        inputs, samples = data['inputs'], data['data_samples']
        if not isinstance(inputs, dict):
            inputs, samples = {'sup': inputs}, {'sup': samples}
        parts = []
        if 'sup' in inputs:
            parts.append(self.labelled(inputs['sup'], samples['sup']))
        for name in sorted(name for name in inputs if name.startswith('strong')):
            parts.append(self.unlabelled(name, inputs['weak'], inputs[name], samples['weak']))
        width = max(part.shape[1] for part in parts)
        parts.append(legend(self.classes, self.palette, width))
        return np.concatenate([
            np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255)
            for part in parts
        ])  # fmt: skip


def browse(args: argparse.Namespace) -> list[Path]:
    """Draw the batches.

    Returns:
        The pictures.
    """
    cfg: Config = load_config(args.config, args.cfg_options, seed=args.seed)
    check_paths(cfg, ['train_dataloader'], weights=False)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    seed = cfg.get('randomness', {}).get('seed') or 0
    loader_cfg = cfg.train_dataloader
    loader_cfg.update(num_workers=0, persistent_workers=False)
    loader_cfg.pop('prefetch_factor', None)
    loader = Runner.build_dataloader(loader_cfg, seed=seed)
    if args.start and not hasattr(loader.sampler, 'skip'):
        raise ValueError(
            f'--start {args.start} needs a sampler that can skip, such as SemiSampler, but the '
            f'config has {type(loader.sampler).__name__}: leave it out.'
        )
    if args.start:
        loader.sampler.skip(args.start)
    model = None
    if args.checkpoint:
        model = MODELS.build(cfg.model).eval()
        load_weights(model, Path(args.checkpoint))
        preprocessor = model.data_preprocessor
    else:
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
    settings = cfg.model.get('semi_train_cfg') or {}
    mixing = settings.get('cutmix', {})
    painter = BatchPainter(
        preprocessor,
        loader.dataset.metainfo,
        None if mixing is None else CutMix(**mixing),
        model,
        args.images,
        settings.get('donors', 0),
    )
    pictures = []
    for step, batch in zip(range(args.start, args.start + args.batches), loader, strict=False):
        seed_step(seed, step, 0)
        picture = painter(batch)
        pictures.append(save_picture(picture, Path(args.out) / f'batch_{step:06d}.png'))
        print(pictures[-1])
    return pictures


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        browse(args)


if __name__ == '__main__':
    main()
