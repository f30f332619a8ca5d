# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Is a method better than supervised training on your images? Train both, test both, and tell.

    python tools/compare.py data/mine/mine_supervised.py data/mine/mine_rsmtdf-lite.py
    python tools/compare.py data/mine/mine_*.py --seeds 3
    python tools/compare.py data/mine/mine_supervised.py data/mine/mine_rsmtdf-lite.py --autolabel

Each config is trained with each seed and tested by its best checkpoint, or by its last one where
the config keeps no best. With --autolabel, each method that uses unlabelled images also labels all
of them once, and a student trained on these masks is compared too. The differences of mIoU, with
an interval, are printed and stand first on the page <work-dir>/report.html. What is finished is not
done again: the same command goes on where it stopped, and a larger --seeds adds to what there is.
Results of other settings, lists or masks in the same folder are refused.
Trainings of your own, on a cluster, are compared in the same way by tools/report.py, if they were
tested.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_semi_rs.dataprep.splits.files import MANIFEST
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse
from mmseg_semi_rs.utils.files import settings_digest, write_atomic
from mmseg_semi_rs.utils.steps import RSSEG, Step, carry_out, expanded, overriding, shown, trained

if TYPE_CHECKING:
    from mmengine.config import Config


_EACH_CLASS = overriding({'val_evaluator.type': 'SubsetIoUMetric'})  # mmseg's logs only means
_DECIDE = ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'custom_hooks')
BY_MASKS = '_autolabel'
"""Follows the name of a config in the folder of the student of its masks."""


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(
        'compare', __doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='+', help='configs, one of them of supervised training')
    parser.add_argument('--seeds', type=int, default=1, help='of each (default: %(default)s)')
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/compare'), help='default: %(default)s'
    )
    parser.add_argument(
        '--autolabel',
        action='store_true',
        help='compare a student of the masks that each method makes, too (tools/autolabel.py)',
    )
    parser.add_argument('--dry-run', action='store_true', help='print the commands, do nothing')
    args = parse(parser, arguments)
    if args.seeds < 1:
        parser.error(f'--seeds {args.seeds}: give at least 1')
    return args


def read_configs(args: argparse.Namespace) -> dict[str, Config]:
    """The configs by their paths.

    Raises:
        ValueError: They cannot be compared.
    """
    from mmseg_semi_rs.dataprep.experiments import read_config

    configs = {path: read_config(path, args.cfg_options) for path in dict.fromkeys(args.config)}
    stems = [Path(path).stem for path in configs]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(
            f'Several configs are named {twice[0]}.py, and would share a folder: rename one.'
        )
    lists = {}
    for path, cfg in configs.items():
        data = cfg.test_dataloader.dataset if cfg.get('test_dataloader') else {}
        lists[path] = (data.get('data_root'), data.get('ann_file'), data.get('data_prefix'))
    (first, tested), *others = lists.items()
    for path, other in others:
        if other != tested:
            raise ValueError(
                f'{first} is tested on {tested[1]} of {tested[0]}, and {path} on {other[1]} of '
                f'{other[0]}: compare configs that are tested on the same images.'
            )
    if not any(is_supervised(cfg) for cfg in configs.values()):
        raise ValueError(
            'None of these configs is of supervised training, against which the others are '
            'compared: give one too, as rsseg init --method supervised writes it.'
        )
    return configs


def makes_masks(args: argparse.Namespace, cfg: Config) -> bool:
    """Whether a student of a config's masks is compared too."""
    return args.autolabel and not is_supervised(cfg)


def is_supervised(cfg: Config) -> bool:
    """Whether a config trains on labelled images alone."""
    return not cfg.train_dataloader.dataset.get('unlabelled')


def run_folder(args: argparse.Namespace, path: str, seed: int, by: str = '') -> Path:
    """Where a config, or the student of its masks, is trained with a seed."""
    return Path(args.work_dir / f'{Path(path).stem}{by}_seed{seed}')


def run_folders(args: argparse.Namespace, configs: dict[str, Config]) -> list[Path]:
    """Where everything is trained."""
    return [
        run_folder(args, path, seed, by)
        for path, cfg in configs.items()
        for by in ('', *([BY_MASKS] if makes_masks(args, cfg) else []))
        for seed in range(args.seeds)
    ]


def check_unchanged(args: argparse.Namespace, configs: dict[str, Config]) -> None:
    """Note what the results in the folders come from, and refuse those of anything else.

    Raises:
        ValueError: A folder has results of other settings, lists or masks.
    """
    for path, cfg in configs.items():
        loader, tests = cfg.train_dataloader, (cfg.get('test_dataloader') or {}).get('dataset', {})
        manifest = Path(tests.get('data_root') or '') / 'splits' / MANIFEST
        lists = json.loads(manifest.read_text('utf-8')) if manifest.is_file() else {}
        settings = [loader.dataset, loader.batch_size, tests, *map(cfg.get, _DECIDE)]
        made_of = settings_digest({
            'lists': {key: lists.get(key) for key in ('lists', 'classes', 'values', 'pixels')},
            'config': repr(settings),
        })  # fmt: skip
        for seed in range(args.seeds):
            mark = run_folder(args, path, seed) / 'made_of'
            if mark.is_file() and mark.read_text('utf-8') != made_of:
                raise ValueError(
                    f'{mark.parent} is of other settings, lists or masks than {path} is of now: '
                    'choose another --work-dir, or delete this one.'
                )
            if not args.dry_run:
                write_atomic(mark, made_of.encode())


def plan(args: argparse.Namespace, configs: dict[str, Config]) -> list[Step]:
    """All commands, in their order: seed by seed, so that the first answer comes early."""
    steps, options = [], overriding(args.cfg_options or {})
    for seed in range(args.seeds):
        for path, cfg in configs.items():
            folder = run_folder(args, path, seed)
            steps += train_and_test(path, cfg, folder, seed, options)
            if makes_masks(args, cfg):
                made = run_folder(args, path, seed, BY_MASKS)
                masks = made / 'labelled_all'
                words = [
                    RSSEG,
                    'autolabel',
                    path,
                    tested_checkpoint(cfg, folder),
                    '--flips',
                    '--out',
                ]
                student = masks / 'student.py'
                steps.append(
                    Step(f'label by {folder.name}', [*words, str(masks), *options], student.is_file)
                )
                steps += train_and_test(str(student), cfg, made, seed, _EACH_CLASS)
    return steps


def train_and_test(
    path: str, cfg: Config, folder: Path, seed: int, options: Sequence[str] = ()
) -> list[Step]:
    """A training and its test; ``cfg`` has the length and says which checkpoint counts."""
    begun = ['--resume'] if (folder / 'last_checkpoint').is_file() else []
    words = [RSSEG, 'train', path, '--work-dir', str(folder), '--seed', str(seed)]
    done = trained(folder, cfg.train_cfg.max_iters)
    checkpoint = tested_checkpoint(cfg, folder)
    test = [RSSEG, 'test', path, checkpoint, '--work-dir', str(folder)]
    return [
        Step(f'train {folder.name}', [*words, *begun, *options], done),
        Step(f'test {folder.name}', [*test, *options], tested(checkpoint)),
    ]


def tested_checkpoint(cfg: Config, folder: Path) -> str:
    """Pattern of the checkpoint that is tested."""
    hooks = cfg.get('default_hooks') or {}
    best = 'best_*' if (hooks.get('checkpoint') or {}).get('save_best') else 'iter_*'
    return str(folder / f'{best}.pth')


def tested(pattern: str) -> Callable[[], bool]:
    """Whether the newest checkpoint was tested, to be asked later."""

    def done() -> bool:
        try:
            (checkpoint,) = map(Path, expanded([pattern]))
        except FileNotFoundError:  # not trained yet, or tested and then deleted
            return any(Path(pattern).parent.glob('test/*.json'))
        return (checkpoint.parent / 'test' / f'{checkpoint.stem}.json').is_file()

    return done


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        configs = read_configs(args)
        check_unchanged(args, configs)
        steps = plan(args, configs)
        if args.dry_run:
            print('\n'.join(shown(step.words) for step in steps if not step.done()))
            return
        carry_out(steps)
        from mmseg_semi_rs.visualization.report import write_report
        from mmseg_semi_rs.visualization.report_gains import find_gains
        from mmseg_semi_rs.visualization.run_groups import group_runs
        from mmseg_semi_rs.visualization.run_records import find_runs

        folders = run_folders(args, configs)
        page, _ = write_report(folders, args.work_dir / 'report.html', 'Methods compared')
        for gain in find_gains(group_runs(find_runs(folders)[0])):
            print(gain)
        print(f'page: {page}')


if __name__ == '__main__':
    main()
