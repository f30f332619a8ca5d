# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Fit temperatures to the validation images, so that the confidence of maps means what it says.

    python tools/calibrate.py CONFIG CHECKPOINT
    python tools/calibrate.py CONFIG CHECKPOINT --network student

They are kept beside the checkpoint, and tools/predict.py uses them: in the layers --confidence and
--probabilities and in the attribute of polygons. A class stays the likeliest at each pixel of a
window. Use images that the network was not trained on; those that chose a checkpoint are a little
too kind to it.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse, print_next

if TYPE_CHECKING:
    from mmseg_semi_rs.engine.calibration import Calibration


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('calibrate', 'Fit the confidence of a network to validation images')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--network',
        metavar='NETWORK',
        help="teacher or student; of two students a, b or fused (default: the config's)",
    )
    parser.add_argument('--device', help='default: cuda:0 where there is one, else cpu')
    parser.add_argument(
        '--pixels',
        type=int,
        default=200_000,
        metavar='N',
        help='pixels that are fitted to, of all images alike (default: 200000)',
    )
    return parse(parser, arguments)


def calibrate(args: argparse.Namespace) -> None:
    """Predict, fit, write, and say what it was worth."""
    register_all()
    from mmseg.registry import DATASETS

    from mmseg_semi_rs.apis import load_predictor
    from mmseg_semi_rs.engine.calibration import collect_logits, fit_calibration
    from mmseg_semi_rs.engine.launch import load_config

    if args.pixels < 1:
        raise ValueError(f'--pixels {args.pixels} fits nothing: give 1 or more.')
    cfg = load_config(args.config, args.cfg_options)
    if cfg.get('val_dataloader') is None:
        raise ValueError(f'{args.config} has no val_dataloader: give it one with labelled images.')
    predictor = load_predictor(
        cfg, args.checkpoint, device=args.device, network=args.network, calibrated=False
    )
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    logits, labels = collect_logits(predictor.model, dataset, args.pixels)
    found = fit_calibration(logits, labels, predictor.network, args.checkpoint)
    path = found.write(args.checkpoint)
    before, one, each = found.ece
    kept = ', so all keep the one' if each >= one else ''
    print(
        f'calibration error {before} %; with one temperature ({found.temperature}) {one} %; with '
        f'one of each class {each} %{kept}, on {found.pixels} pixels of {len(dataset)} images:'
    )
    for name, value in zip(predictor.classes, found.by_class, strict=True):
        print(f'  {name}: {value}')
    for doubt in doubts(found, len(dataset)):
        print(f'careful: {doubt}')
    print(f'wrote {path}, by which maps of this checkpoint are made from now on')
    print_next(('predict', args.config, args.checkpoint, 'IMAGES', '--out', 'maps', '--confidence'))


def doubts(found: Calibration, images: int) -> list[str]:
    """Why the temperatures may not hold for other images."""
    from mmseg_semi_rs.dataprep.folder.config import ENOUGH_TO_CHOOSE
    from mmseg_semi_rs.engine.calibration import TEMPERATURES

    said, (low, high) = [], TEMPERATURES
    if images < ENOUGH_TO_CHOOSE:
        said.append(
            f'{images} validation images are few, and temperatures vary with them: from '
            f'{ENOUGH_TO_CHOOSE} on they are steadier.'
        )
    fitted = (found.temperature, *found.by_class)
    extreme = [value for value in fitted if not low * 1.001 < value < high * 0.999]
    if extreme:
        said.append(
            f'the temperature {extreme[0]:g} is at the end of what is tried, as where a network is '
            'always right, always wrong or trained on these images: check val_dataloader.'
        )
    return said


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        calibrate(args)


if __name__ == '__main__':
    main()
