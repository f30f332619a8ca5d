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

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('browse', 'Draw training batches as the model sees them')
    parser.add_argument('config', help='config file')
    parser.add_argument('--out', default='browse', metavar='FOLDER', help='folder of the pictures')
    parser.add_argument('--batches', type=int, default=1, help='number of batches')
    parser.add_argument('--start', type=int, default=0, help='training step of the first batch')
    parser.add_argument('--images', type=int, default=8, help='images drawn of each source')
    parser.add_argument('--checkpoint', help='draw the pseudo labels of its teacher too')
    parser.add_argument('--seed', type=int, help='seed, instead of randomness.seed of the config')
    return parse(parser, arguments)


def browse(args: argparse.Namespace) -> list[Path]:
    """Draw the batches.

    Returns:
        The pictures.
    """
    register_all()
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner
    from mmseg.registry import MODELS

    from mmseg_semi_rs.engine.batch_painter import BatchPainter
    from mmseg_semi_rs.engine.launch import check_paths, load_config
    from mmseg_semi_rs.models.utils import CutMix
    from mmseg_semi_rs.models.weights import load_weights
    from mmseg_semi_rs.utils.randomness import seed_step
    from mmseg_semi_rs.visualization import save_picture

    cfg = load_config(args.config, args.cfg_options, seed=args.seed)
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
