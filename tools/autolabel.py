# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Label all unlabelled images of a training once, and write a config that trains a student on them.

    python tools/autolabel.py CONFIG CHECKPOINT --out labelled_all --flips
    python tools/autolabel.py CONFIG SEED_0.pth SEED_1.pth --out labelled_all
    python tools/autolabel.py CONFIG CHECKPOINT --also OTHER_CONFIG OTHER.pth --out labelled_all
    python tools/autolabel.py CONFIG CHECKPOINT --calibrate held_out.txt --out labelled_all

Networks predict together. Of each class the surest pixels are kept, the others are 255, and an
image stands in the list as often as its mask is worth. A person's masks are copied and stand in
half of the lines; labels.json says of each mask whose it is. An automatic mask that you correct in
labelled_all/masks is yours from then on. A run that was killed goes on where it stopped when the
same command is given again. Then:

    python tools/train.py labelled_all/student.py
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse, print_next


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('autolabel', __doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('config', help='config of the training, whose images are labelled')
    parser.add_argument('checkpoint', nargs='+', help='its checkpoint, or several')
    parser.add_argument('--out', type=Path, required=True, help='folder to write to')
    parser.add_argument(
        '--also',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='another network of the same classes that predicts too',
    )
    parser.add_argument(
        '--network', help='teacher, student, a, b or fused, of all (default: the config says)'
    )
    parser.add_argument('--flips', action='store_true', help='average over mirror images')
    parser.add_argument('--window', type=int, metavar='PX', help='side of the windows in pixels')
    parser.add_argument(
        '--keep',
        type=float,
        default=0.8,
        metavar='SHARE',
        help='of the pixels of each class, the surest ones (default: 0.8)',
    )
    parser.add_argument(
        '--calibrate',
        type=Path,
        metavar='LIST',
        help='instead of --keep: bars at which claims are right often enough, fitted to\n'
        'these labelled images, which none of the networks was trained on',
    )
    parser.add_argument(
        '--alpha',
        type=float,
        default=0.1,
        help='largest share of wrong claims for --calibrate (default: 0.1)',
    )
    parser.add_argument(
        '--person-share',
        type=float,
        default=0.5,
        metavar='SHARE',
        help="of the list's lines, a person's masks (default: 0.5)",
    )
    parser.add_argument(
        '--student', metavar='CONFIG', help='config whose network is trained (default: the same)'
    )
    parser.add_argument('--iters', type=int, help="steps of the student (default: the config's)")
    return parse(parser, arguments)


def autolabel(args: argparse.Namespace) -> int:
    """Predict, write masks, lists and the student's config.

    Returns:
        Number of images that could not be predicted.
    """
    if not 0 < args.keep <= 1 or not 0 < args.person_share < 1:
        raise ValueError(
            f'--keep {args.keep} must be in (0, 1], and --person-share {args.person_share} within '
            '(0, 1).'
        )
    if args.iters is not None and args.iters < 1:
        raise ValueError(f'--iters {args.iters} trains nothing: choose 1 or more.')
    register_all()
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS

    from mmseg_semi_rs.apis import autolabel as labels
    from mmseg_semi_rs.apis import label_bars
    from mmseg_semi_rs.apis.ensemble import PredictorEnsemble
    from mmseg_semi_rs.apis.predictor import load_predictor
    from mmseg_semi_rs.apis.student_config import mask_datasets, plain_config
    from mmseg_semi_rs.engine.launch import load_config
    from mmseg_semi_rs.utils.files import file_digest, held, write_atomic

    cfg = load_config(args.config, args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    known, images = labels.sources_of(DATASETS.build(cfg.train_dataloader.dataset))
    pairs = [*((cfg, path) for path in args.checkpoint), *args.also]
    predictor = PredictorEnsemble([
        load_predictor(
            labels.of_training_images(config if config is cfg else load_config(config)),
            path, network=args.network, window=args.window, flips=args.flips,
        )
        for config, path in pairs
    ])  # fmt: skip
    with held(args.out / '.autolabel.lock', f'Labelling into {args.out}'):
        root = labels.common_root([*known, *images], args.out)
        found, failures = label_bars.predict_all(predictor, images, root, args.out / 'predicted')
        count = len(predictor.classes)
        if args.calibrate:
            held_out = labels.find_listed(known, args.calibrate)
            claimed, more = label_bars.predict_all(predictor, held_out, root, args.out / 'held_out')
            failures += more
            bars = label_bars.trusted(claimed, known, count, args.alpha)
        else:
            bars = label_bars.surest_share(found, count, args.keep)
        done = labels.write_masks(known, found, bars, root, args.out)
        made_by = {
            'networks': [[str(path), file_digest(Path(path))] for _, path in pairs],
            'flips': args.flips,
            'bars': {
                name: None if bar >= label_bars.NEVER else round(bar / 255, 3)
                for name, bar in zip(predictor.classes, bars.tolist(), strict=True)
            },
        }
        suffixes = labels.write_lists(done, root, args.out, args.person_share, made_by)
        student = load_config(args.student) if args.student else None
        data = mask_datasets(suffixes, root, args.out)
        made = [str(path) for _, path in pairs]
        about = (predictor.classes, predictor.palette)
        written = plain_config(cfg, data, *about, student, args.iters, labelled_by=made)
        write_atomic(args.out / 'student.py', written.pretty_text.encode())
    by = Counter(image.source for image in done)
    weights = [image.weight for image in done if image.source == 'automatic']
    print(
        f'{by["person"]} masks of a person, {by["edited"]} edited, {by["automatic"]} automatic of '
        f'weight {sum(weights) / max(1, len(weights)):.2f} in the mean'
    )
    for name, bar in made_by['bars'].items():
        print(
            f'  {name}: ' + ('not used' if bar is None else f'from a probability of {bar:.2f} on')
        )
    print(f'{args.out / "labels.json"}, {args.out / "student.py"}')
    print_next(('train', args.out / 'student.py'))
    for failure in failures:
        print(failure, file=sys.stderr)
    return len(failures)


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2, images left out exit code 1."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        if autolabel(args):
            sys.exit(1)


if __name__ == '__main__':
    main()
