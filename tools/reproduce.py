# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Make a row of a published table: convert, split, train with several seeds, test, compare.

    python tools/reproduce.py rsmtdf potsdam 1pct --dry-run        # what is missing, each command
    python tools/reproduce.py rsmtdf potsdam 1pct --download --gpus 4
    python tools/reproduce.py fixmatch potsdam 1pct --slurm PARTITION --gpus 4
    python tools/reproduce.py co2s loveda 1-8 --archives ~/Downloads/LoveDA

Method, data set and share are those of the configs that come with the package; a wrong one is
answered with those that there are. Everything that is missing is told at once, before anything
begins. A step that is finished is not done again: the same command goes on where it stopped. On
fewer GPUs than a method was published with, steps are accumulated to the published batch. The row
goes to <work-dir>/row.md and row.json, beside published figures of the same protocol and the rows
of other methods that were made here.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse
from mmseg_semi_rs.utils.commands import resources
from mmseg_semi_rs.utils.steps import RSSEG, Step, carry_out, overriding, shown, trained

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmseg_semi_rs.dataprep.experiments import Experiment

EVIDENCE, ZERO = 'evidence.done', 'zero_labels.json'
CLIP_TEMPERATURE = 0.01  # its own, of the row for 0 labels


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(
        'reproduce', __doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('method', help='such as rsmtdf, co2s, semiearth, fixmatch, supervised')
    parser.add_argument('data_set', help='such as potsdam')
    parser.add_argument('share', help='labelled share, such as 1pct or 1-4; full for all labels')
    parser.add_argument('--variant', help='which config, where there are several')
    parser.add_argument('--seeds', type=int, default=3, help='default: %(default)s')
    parser.add_argument('--gpus', type=int, default=1, help='for training (default: %(default)s)')
    parser.add_argument('--slurm', metavar='PARTITION', help='train and test as SLURM jobs')
    parser.add_argument('--amp', action='store_true', help='train in bfloat16')
    parser.add_argument('--archives', type=Path, help='default: ~/Downloads/<data set>')
    parser.add_argument('--data-root', type=Path, help="tiles (default: the config's)")
    parser.add_argument(
        '--work-dir', type=Path, help='default: work_dirs/reproduce/<method>_<data set>_<share>'
    )
    parser.add_argument('--download', action='store_true', help='fetch weights that are missing')
    parser.add_argument('--dry-run', action='store_true', help='print the commands, do nothing')
    args = parse(parser, arguments)
    for name in ('seeds', 'gpus'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} {getattr(args, name)}: give at least 1')
    return args


class Reproduction:
    """What the command line asks for, and all that follows from it.

    Args:
        args: The command line.
        experiment: The config that it names.
    """

    def __init__(self, args: argparse.Namespace, experiment: Experiment) -> None:
        from mmseg_semi_rs.dataprep.experiments import read_config, source
        from mmseg_semi_rs.dataprep.weights import needed

        self.args, self.experiment = args, experiment
        one = experiment
        given = dict(args.cfg_options or {})
        cfg = read_config(one.config, given)
        own: dict[str, str] = {}
        for file in needed(cfg):
            if not file.here and file.known and file.known.instead:  # need not be asked for
                twin = str(file.path.with_name(file.known.instead))
                own |= dict.fromkeys(file.keys, twin)
        if args.data_root is not None:
            own |= dict.fromkeys(_root_keys(cfg), str(args.data_root))
        self.options = {**own, **given}
        self.training = {**self._accumulation(cfg), **self.options}
        self.cfg = read_config(one.config, self.training)
        self.weights = needed(self.cfg)
        test = self.cfg.test_dataloader.dataset
        self.root, self.test_list = Path(test.data_root), Path(test.ann_file)
        self.split = self.test_list.parts[1]  # splits/<name>/test.txt
        self.source = source(one.data_set)
        self.archives = args.archives or Path('~/Downloads') / one.data_set
        parts = [one.method, one.data_set, one.share, *([args.variant] if args.variant else [])]
        self.folder = args.work_dir or Path('work_dirs/reproduce') / '_'.join(parts)

    def _accumulation(self, cfg: Config) -> dict[str, Any]:
        """Settings that keep the published batch on fewer GPUs."""
        published = cfg.auto_scale_lr.base_batch_size // cfg.train_dataloader.batch_size
        gpus = self.args.gpus
        if published % gpus:
            raise ValueError(
                f'--gpus {gpus} does not divide the {published} GPUs that {self.experiment.config} '
                'is published with: give a number that does, so that the batch stays the same.'
            )
        times = published // gpus
        if times == 1:
            return {}
        settings = {
            'optim_wrapper.accumulative_counts': times,
            'train_cfg.max_iters': times * cfg.train_cfg.max_iters,
            'train_cfg.val_interval': times * cfg.train_cfg.val_interval,
        }
        for index, hook in enumerate(cfg.custom_hooks):
            if hook.type == 'MeanTeacherHook':
                settings[f'custom_hooks.{index}.interval'] = times
        return settings

    @property
    def config(self) -> str:
        """The config as a user types it."""
        return _short(self.experiment.config, resources())

    def steps(self) -> list[Step]:
        """All commands, in their order."""
        one, args, root = self.experiment, self.args, self.root
        options = overriding(self.options)
        on_gpu = ['srun', '-p', args.slurm, '--gres=gpu:1'] if args.slurm else []
        splits = ['--preset', self.split] if self.split != 'scene' else []
        place = ['--data-root', str(root)] if root != Path('data') / one.data_set else []
        steps = [
            Step(
                'convert',
                [RSSEG, 'convert', self.source.converter, *self._conversion()],
                self._converted,
            ),
            Step(
                'split',
                [RSSEG, 'splits', one.data_set, *splits, *place],
                (root / 'splits' / self.split / 'manifest.json').is_file,
            ),
        ]
        if not self._weights_ready():
            fetch = [RSSEG, 'weights', self.config, '--download', *options]
            steps.insert(0, Step('weights', fetch, self._weights_ready))
        hooks = [hook for hook in self.cfg.custom_hooks if hook.type == 'VLMPurifyHook']
        if hooks:
            words = [*on_gpu, RSSEG, 'annotate', self.config, *options]
            alone = [*on_gpu, RSSEG, 'test', self.config, '--verifier', '--json']
            alone += [str(self.folder / ZERO), '--work-dir', str(self.folder / 'zero_labels')]
            # the store may know more tiles than these, so that a file says that it was gone through
            mark = self.folder / EVIDENCE
            steps.append(Step('evidence', words, mark.is_file, mark))
            done = (self.folder / ZERO).is_file
            if isinstance(hooks[0].verifier.get('temperature'), str):  # fitted to labels
                alone += overriding({**self.options, 'verifier.temperature': CLIP_TEMPERATURE})
            else:
                alone += options
            steps.append(Step('test, the verifier alone', alone, done))
        for seed in range(args.seeds):
            folder = self.folder / f'seed_{seed}'
            begun = (folder / 'last_checkpoint').is_file()
            words = [
                *self._starter('train', seed),
                *('--work-dir', str(folder), '--seed', str(seed)),
                *(['--resume'] if begun else []),
                *(['--amp'] if args.amp else []),
                *overriding(self.training),
            ]
            done = trained(folder, self.cfg.train_cfg.max_iters)
            steps.append(Step(f'train, seed {seed}', words, done))
            best = str(folder / 'best_mIoU_iter_*.pth')
            figures = folder / 'test.json'
            words = [*self._starter('test', seed), best, '--json', str(figures)]
            words += ['--work-dir', str(folder / 'test'), *options]
            steps.append(Step(f'test, seed {seed}', words, figures.is_file))
        return steps

    def _weights_ready(self) -> bool:
        return all(file.ready for file in self.weights)

    def _starter(self, name: str, seed: int) -> list[str]:
        """How ``train`` or ``test`` begins, with the config."""
        gpus, tools = self.args.gpus if name == 'train' else 1, resources() / 'tools'
        if self.args.slurm:
            script = _short(tools / f'slurm_{name}.sh', Path.cwd())
            job = f'{self.experiment.config.stem}_{seed}'
            return ['env', f'GPUS={gpus}', 'bash', script, self.args.slurm, job, self.config]
        if gpus > 1:
            script = _short(tools / f'dist_{name}.sh', Path.cwd())
            return ['bash', script, self.config, str(gpus)]
        return [RSSEG, name, self.config]

    def _conversion(self) -> list[str]:
        return [str(self.archives), '-o', str(self.root), *self.source.cut(self.split)]

    def _converter(self) -> tuple[Any, argparse.Namespace]:
        module = importlib.import_module(f'dataset_converters.{self.source.converter}')
        words = [str(self.archives.expanduser()), *self._conversion()[1:]]
        return module, module.build_parser().parse_args(words)

    def _converted(self) -> bool:
        """Whether the tiles are there, all of them.

        Raises:
            ValueError: They are cut otherwise than this protocol wants them.
        """
        from mmseg_semi_rs.dataprep.convert.conversion import SUMMARY, Cut

        try:
            summary = json.loads((self.root / SUMMARY).read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return False
        _, args = self._converter()
        for key, value in asdict(Cut(args.window, args.stride, args.edge)).items():
            if summary['options'][key] != value:
                raise ValueError(
                    f'{self.root} holds tiles with {key} {summary["options"][key]}, and the lists '
                    f'{self.split} want {key} {value}: give another --data-root for these.'
                )
        return not summary['failures']

    def missing(self) -> list[str]:
        """What the user has to bring first, each in a sentence."""
        found = []
        for file in self.weights:
            if not file.ready and not (self.args.download and file.fetchable):
                found.append(f'The weights {file.name} are missing: {file.how}.')
        if not self._converted():
            module, args = self._converter()
            try:
                absent = list(module.plan(args).missing)
            except (FileNotFoundError, ValueError) as error:
                absent = [str(error)]
            if absent:
                found += absent
                found.append(
                    f'{self.source.title} comes from {self.source.url} ({self.source.terms}): put '
                    f'{self.source.files} into {self.archives}, or name their folder by '
                    '--archives.'
                )
        return found

    def noted(self) -> dict[str, str]:
        """Settings of the trainings other than the config's, for people and comparison."""
        options = {key: str(value) for key, value in self.training.items()}
        return {**options, '--amp': 'True'} if self.args.amp else options

    def check_same(self) -> None:
        """Refuse a work folder of another command, whose seeds would be mixed with these.

        Raises:
            ValueError: It is one.
        """
        from mmseg_semi_rs.utils.files import write_atomic

        note = self.folder / 'reproduce.json'
        now = {'config': self.experiment.config.stem, 'options': self.noted()}
        if note.is_file():
            before = json.loads(note.read_text(encoding='utf-8'))
            if before != now:
                raise ValueError(
                    f'{self.folder} was begun with {before["config"]} and {before["options"]}, not '
                    f'{now["config"]} and {now["options"]}: give another --work-dir, or delete it.'
                )
        else:
            write_atomic(note, (json.dumps(now, indent=1) + '\n').encode())


def _root_keys(cfg: Config) -> list[str]:
    """Where a config names the folder of the tiles."""
    keys = [f'{part}_dataloader.dataset.data_root' for part in ('val', 'test')]
    train = cfg.train_dataloader.dataset
    parts = [part for part in ('labelled', 'unlabelled') if train.get(part)]
    return keys + [f'train_dataloader.dataset.{part}.data_root' for part in parts]


def _short(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def measure(work: Reproduction) -> dict[str, Any]:
    """The row of a finished reproduction."""
    from mmseg_semi_rs import __version__
    from mmseg_semi_rs.utils.files import read_list
    from mmseg_semi_rs.visualization.run_records import read_run

    folders = [work.folder / f'seed_{seed}' for seed in range(work.args.seeds)]
    scores = [json.loads((f / 'test.json').read_text(encoding='utf-8'))['mIoU'] for f in folders]
    runs = [read_run(folder) for folder in folders]
    hours = [run.duration.total_seconds() / 3600 for run in runs if run.duration]
    memory = [max(run.train['memory'].values()) for run in runs if run.train.get('memory')]
    manifest = work.root / 'splits' / work.split / 'manifest.json'
    leak = json.loads(manifest.read_text(encoding='utf-8')).get('leak', {}).get('test', {})
    zero = work.folder / ZERO
    one = work.experiment
    return {
        'method': one.method,
        'data_set': one.data_set,
        'share': one.share,
        'variant': one.variant,
        'split': work.split,
        'seeds': len(scores),
        'miou': scores,
        'mean': statistics.fmean(scores),
        'spread': statistics.stdev(scores) if len(scores) > 1 else None,
        'zero_labels': json.loads(zero.read_text('utf-8'))['mIoU'] if zero.is_file() else None,
        'hours': statistics.fmean(hours) if hours else None,
        'memory_mb': max(memory) if memory else None,
        'test_tiles': len(read_list(work.root / work.test_list)),
        'scene_in_training': leak.get('scene_in_training'),
        'versions': {'mmseg_semi_rs': __version__} | runs[0].environment,
        'options': work.noted(),
    }


def table(row: dict[str, Any], others: Sequence[dict[str, Any]]) -> str:
    """A row beside those of others, in Markdown.

    Args:
        row: See :func:`measure`.
        others: Rows that were made here, of any data set.
    """
    from mmseg_semi_rs.dataprep.experiments import published

    same = [one for one in others if all(one[k] == row[k] for k in ('data_set', 'split'))]
    zero = {one['variant']: one['zero_labels'] for one in same if one['zero_labels'] is not None}
    same = [one for one in same if one != row and one['share'] in (row['share'], 'full')]
    lines = [
        f'# {row["data_set"]}, {row["share"]}, lists {row["split"]}',
        '',
        '| method | labels | mIoU, % | seeds | hours a seed | memory | origin |',
        '|---|---|---|---|---|---|---|',
    ]
    for one in sorted([row, *same], key=lambda one: one is not row):
        spread = '' if one['spread'] is None else f' ± {one["spread"]:.2f}'
        hours = '' if one['hours'] is None else f'{one["hours"]:.2f}'
        memory = '' if one['memory_mb'] is None else f'{one["memory_mb"] / 1000:.1f} GB'
        cells = [f'{one["method"]}, {one["variant"]}', _labels(one['share'])]
        cells += [f'{one["mean"]:.2f}{spread}', str(one['seeds']), hours, memory, 'made here']
        lines.append(f'| {" | ".join(cells)} |')
    for variant, figure in zero.items():
        cells = [f'verifier of {variant}', _labels('0'), f'{figure:.2f}', '', '', '', 'made here']
        lines.append(f'| {" | ".join(cells)} |')
    shares = dict.fromkeys(['0', row['share'], 'full'])
    known = {one['share'] for one in [row, *same]} | ({'0'} if zero else set())
    for share in shares:
        for method, figure, origin in published(row['data_set'], row['split'], share):
            known.add(share)
            lines.append(f'| {method} | {_labels(share)} | {figure:.2f} | | | | {origin} |')
    unknown = [_labels(share) for share in shares if share not in known]
    leak = row['scene_in_training']
    versions = ', '.join(f'{name} {value}' for name, value in row['versions'].items())
    lines += [
        '',
        f'Tested on {row["test_tiles"]} tiles, by the checkpoint that was best in validation; ± is '
        'the standard deviation over seeds.',
        '' if leak is None else f'{leak:.1%} of the test tiles have their scene in training.',
        f'Not known on these lists: {", ".join(unknown)}.' if unknown else '',
        f'Made with {versions}.',
        f'Settings: {json.dumps(row["options"])}.' if row['options'] else '',
    ]
    return '\n'.join([*lines[:-5], *filter(None, lines[-5:])]) + '\n'


def _labels(share: str) -> str:
    return {'0': '0 labels', 'full': 'all labels'}.get(share, share)


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        from mmseg_semi_rs.dataprep.experiments import choose_one
        from mmseg_semi_rs.utils.files import write_atomic

        work = Reproduction(args, choose_one(args.method, args.data_set, args.share, args.variant))
        steps, missing = work.steps(), work.missing()
        for sentence in missing:
            print(f'missing: {sentence}', file=sys.stderr, flush=True)
        if args.dry_run:
            print('\n'.join(shown(step.words) for step in steps if not step.done()))
            return
        if missing:
            raise ValueError('Nothing was begun: bring what is missing first, and try again.')
        work.check_same()
        carry_out(steps)
        row = measure(work)
        write_atomic(work.folder / 'row.json', (json.dumps(row, indent=1) + '\n').encode())
        files = sorted(work.folder.parent.glob('*/row.json'))
        others = [json.loads(file.read_text(encoding='utf-8')) for file in files]
        text = table(row, others)
        write_atomic(work.folder / 'row.md', text.encode())
        print(text)


if __name__ == '__main__':
    main()
