# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Show what purification does to the pseudo labels of a trained network, and why.

    python tools/audit_purification.py configs/semiearth/CONFIG work_dirs/NAME/iter_5000.pth
    python tools/audit_purification.py CONFIG CHECKPOINT --tiles 500 --out audit --json audit.json
    python tools/audit_purification.py CONFIG CHECKPOINT --source val --verify   # where is truth

The network labels whole tiles, the evidence of the store purifies the labels by the policy of the
config's VLMPurifyHook. Printed are the accuracies before and after, where labels of the tiles
exist; written are audit.html, a page that opens from disk (image, the teacher's label, evidence,
purified label, changed pixels, the verifier's answer and boxes of each tile), and audit.jsonl with
one line per tile.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmseg_semi_rs.engine.hooks import VLMPurifyHook
    from mmseg_semi_rs.models.segmentors import SemiSegmentor


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('audit', 'Show what purification does to pseudo labels, and why')
    parser.add_argument('config', help='config file with a VLMPurifyHook')
    parser.add_argument('checkpoint', help='checkpoint of the network that labels')
    parser.add_argument(
        '--out', metavar='FOLDER', help='where to (default: work_dirs/<config name>/audit)'
    )
    parser.add_argument(
        '--source',
        choices=['unlabelled', 'labelled', 'val'],
        default='unlabelled',
        help='whose tiles (default: unlabelled)',
    )
    parser.add_argument(
        '--tiles', type=int, default=100, help='tiles to look at, evenly chosen (default: 100)'
    )
    parser.add_argument('--show', type=int, default=40, help='most tiles on the page (default: 40)')
    parser.add_argument(
        '--network',
        metavar='NAME',
        help='which network labels: teacher, student, a, b (default: as in the training)',
    )
    parser.add_argument(
        '--verify',
        action='store_true',
        help='let the verifier look at tiles of which the store knows nothing, and keep it',
    )
    parser.add_argument('--json', metavar='FILE', help='write the totals')
    parser.add_argument(
        '--hook', type=int, metavar='INDEX', help='which of custom_hooks, if several are meant'
    )
    return parse(parser, arguments)


def load_model(cfg: Config, checkpoint: str) -> Any:
    """Build the model of a config and load its weights.

    Args:
        cfg: The config.
        checkpoint: A file of a training with it.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The model has no pseudo labels to purify, or the file is of another one.
    """
    from mmengine.device import get_device
    from mmseg.registry import MODELS

    from mmseg_semi_rs.models.segmentors import SemiSegmentor
    from mmseg_semi_rs.models.weights import load_weights

    model = MODELS.build(cfg.model)
    if not isinstance(model, SemiSegmentor):
        raise ValueError(
            f'{type(model).__name__} of {cfg.filename} makes no pseudo labels: give a config of '
            'MeanTeacherSegmentor or DualStudentSegmentor.'
        )
    load_weights(model, Path(checkpoint))
    return model.to(get_device()).eval().requires_grad_(False)


def choose_network(model: SemiSegmentor, name: str | None) -> str:
    """The network that labels.

    Args:
        model: The segmentor.
        name: What was asked for, None for the one that labels in the training.

    Raises:
        ValueError: There is no such network.
    """
    known = list(model.predictors)
    if name not in (None, *known):
        raise ValueError(f'--network {name} is none of this model: choose {" or ".join(known)}.')
    return name or known[0]


def show_totals(found: Mapping[str, Any], console: Console) -> None:
    """Print what was done, and how often it was right."""
    rates, counts = found['rates'], found['counts']

    def percent(value: float | None) -> str:
        return '-' if value is None else f'{100 * value:.2f}'

    table = Table(title=f'Pseudo labels of {found["tiles"]} tiles, %')
    for name in ('', 'before', 'after'):
        table.add_column(name, justify='right' if name else 'left')
    for name, key in (
        ('labels that are right', 'accuracy'),
        ('weight that lies on right labels', 'weighted_accuracy'),
        ('mean weight', 'weight'),
    ):
        table.add_row(name, *(percent(rates[f'{key}_{when}']) for when in ('before', 'after')))
    console.print(table)
    told = [f'covered by evidence {percent(rates["covered"])} %']
    for action in ('corrected', 'supported', 'vetoed'):
        text = f'{action} {percent(rates[action])} %'
        verdicts = counts.get('truth', {}).get(action, {})
        if sum(sum(per_class.values()) for per_class in verdicts.values()):
            text += ' (' + ', '.join(
                f'{sum(per_class.values()):,} px {verdict}'
                for verdict, per_class in verdicts.items()
            )
            text += ')'
        told.append(text)
    console.print('\n'.join(told))


def claims(hook: VLMPurifyHook, classes: Sequence[str]) -> dict[str, Any]:
    """What makes a claim of each class count: thresholds, trust, or nothing."""
    if hook.fitted is not None:
        name, values = 'thresholds', hook.fitted.threshold
    elif hook.trust is not None:
        name, values = 'trust', hook.trust.trust
    else:
        return {'trust': 'full'}
    return {name: {k: round(v, 3) for k, v in zip(classes, values.tolist(), strict=True)}}


def audit(args: argparse.Namespace) -> dict[str, Any]:
    """Audit as the command line says.

    Returns:
        The totals.
    """
    register_all()
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS, HOOKS

    from mmseg_semi_rs.engine.annotation import find_hook
    from mmseg_semi_rs.engine.launch import check_paths, load_config
    from mmseg_semi_rs.engine.purification_audit import audit_dataset, audit_tiles
    from mmseg_semi_rs.purification.audit import append_summaries, totals
    from mmseg_semi_rs.visualization.audit_page import write_audit_page

    for name, value in (('--tiles', args.tiles), ('--show', args.show)):
        if value < 1:
            raise ValueError(f'{name} {value} leaves nothing to show: give 1 or more.')
    cfg = load_config(args.config, args.cfg_options)
    hook_cfg = cfg.custom_hooks[find_hook(cfg, args.hook)]
    check_paths(cfg, ['train_dataloader', 'val_dataloader'], weights=False)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    out = Path(args.out or Path(cfg.work_dir) / 'audit')
    model = load_model(cfg, args.checkpoint)
    network = choose_network(model, args.network)
    hook = HOOKS.build(hook_cfg)
    hook.budget = int(args.verify)  # tiles per "step", of which each has one here
    train = DATASETS.build(cfg.train_dataloader.dataset)
    hook.prepare(train, next(model.parameters()).device)
    dataset = audit_dataset(cfg, args.source)
    classes, palette = (dataset.metainfo[key] for key in ('classes', 'palette'))
    count = min(args.tiles, len(dataset))
    every = max(1, -(-count // args.show))
    summaries, shown = [], []
    records = audit_tiles(model, hook, dataset, network, count)
    for index, record in enumerate(track(records, 'auditing', total=count, transient=True)):
        summaries.append(record.summary(classes))
        if index % every == 0:
            shown.append(record)
    found = totals(summaries)
    (out / 'audit.jsonl').unlink(missing_ok=True)
    append_summaries(out / 'audit.jsonl', summaries)
    settings = {
        'checkpoint': args.checkpoint,
        'network': network,
        'tiles': f'{len(summaries)} of {len(dataset)} {args.source}',
        'policy': hook_cfg.get('policy') or {'type': type(hook.policy).__name__},
        **claims(hook, classes),
        'verifier': hook.source.store.settings,
    }
    page = write_audit_page(
        shown, out / 'audit.html', classes, palette, found, settings=settings, limit=args.show
    )
    console = Console(highlight=False)
    show_totals(found, console)
    console.print(f'page   {page}\nlog    {out / "audit.jsonl"}', soft_wrap=True)
    if args.json:
        path = Path(args.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        audit(args)


if __name__ == '__main__':
    main()
