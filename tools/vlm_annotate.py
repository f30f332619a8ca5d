# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Let the verifier of a config look at all its training tiles, once, and keep what it says.

A region proposer in its place divides the tiles into regions without classes.

    python tools/vlm_annotate.py CONFIG --check     # four tiles, their answers, the time for all
    python tools/vlm_annotate.py CONFIG
    torchrun --nproc_per_node 4 tools/vlm_annotate.py CONFIG --launcher pytorch      # 4 GPUs

The verifier and the folder are those of the config's VLMPurifyHook, of several one after the other;
the tiles those of its train_dataloader, shown as they are stored, neither augmented nor padded. The
network that is to be trained is not built. What is in the store already is left as it is, so that
the tool can be stopped at any time and started again; damaged entries are made anew. A tile that
cannot be read is named at the end, and the exit code is then 2.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.command_line import BAD_INPUT, Faults, command_parser, parse
from mmseg_semi_rs.utils.commands import command

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmseg_semi_rs.engine.annotation import StoredTile
    from mmseg_semi_rs.engine.processes import Processes
    from mmseg_semi_rs.purification.verifiers import EvidenceMaker

INTERRUPTED = 130  # exit code, as of a shell
LISTED = 10  # failed tiles that are named


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(
        'annotate', 'Make the evidence that a training with VLMPurifyHook reads'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--store', metavar='FOLDER', help='store, instead of that of the hook')
    parser.add_argument(
        '--sources',
        nargs='+',
        choices=['labelled', 'unlabelled'],
        default=['labelled', 'unlabelled'],
        help='labelled tiles are needed to learn how far the verifier can be trusted (default: '
        'both)',
    )
    parser.add_argument(
        '--limit', type=int, metavar='N', help='only the first N tiles of each source'
    )
    parser.add_argument(
        '--device',
        default='auto',
        help='where the verifier works (default: the GPU if there is one)',
    )
    parser.add_argument(
        '--batch', type=int, default=8, metavar='N', help='tiles at once (default: 8)'
    )
    parser.add_argument(
        '--hook', type=int, metavar='INDEX', help='which of custom_hooks (default: all)'
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='show the answers for four tiles and the time that all take; keep no evidence',
    )
    return parse(parser, arguments, launcher=True)


def list_tiles(
    cfg: Config, sources: list[str], limit: int | None, held_out: Any = None
) -> tuple[Any, list[StoredTile]]:
    """The training data, and its tiles.

    Args:
        cfg: The config.
        sources: ``'labelled'``, ``'unlabelled'``.
        limit: Most tiles of each source, None for all.
        held_out: Config of more labelled tiles, None for none.

    Raises:
        ValueError: The training data is not divided into these, or there is nothing to do.
    """
    from mmseg.registry import DATASETS

    from mmseg_semi_rs.datasets.tiles import tile_paths
    from mmseg_semi_rs.engine.annotation import StoredTile

    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    if not hasattr(dataset, 'labelled') or not hasattr(dataset, 'unlabelled'):
        raise ValueError(
            f'train_dataloader.dataset of {cfg.filename} is a {type(dataset).__name__} without '
            'labelled and unlabelled tiles: use a SemiDataset.'
        )
    tiles = []
    parts = [getattr(dataset, source) for source in dict.fromkeys(sources)]
    if held_out is not None and 'labelled' in sources:
        parts.append(DATASETS.build(held_out))
    for part in parts:
        if part is not None:
            paths = tile_paths(part)[:limit]
            tiles += [StoredTile(part, index, path) for index, path in enumerate(paths)]
    if not tiles:
        raise ValueError(
            f'{cfg.filename} has no {" and no ".join(sources)} tiles: choose other --sources.'
        )
    return dataset, tiles


def own_device(name: str) -> str:
    """This process's device; ``'auto'`` and ``'cuda'`` are the one that the launcher gave it."""
    import torch
    from mmengine.device import get_device

    try:
        return str(torch.device(get_device() if name == 'auto' else name))
    except RuntimeError as error:
        raise ValueError(
            f'--device {name} is no device: give auto, cpu, cuda or cuda:1.'
        ) from error


def duration(seconds: float) -> str:
    """A time as people say it."""
    for unit, size in (('days', 86400), ('h', 3600), ('min', 60)):
        if seconds >= 2 * size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.2g} s'


def show_answers(
    verifier: EvidenceMaker, tiles: list[StoredTile], device: str, args: argparse.Namespace
) -> None:
    """Verify four tiles and say what came out, and how long all will take."""
    from mmseg_semi_rs.engine.annotation import try_out

    answers, seconds = try_out(verifier, tiles, device, args.batch)
    for path, evidence in answers:
        print(f'{path}\n  answer: {evidence.answer or "(none)"}')
        if evidence.region_ids is not None:
            notes = [f'{(evidence.region_ids > 0).mean():.0%} of the tile in regions']
        else:
            grid = 'x'.join(map(str, evidence.seen.shape))
            notes = [f'{evidence.seen.mean():.0%} of {grid} seen']
        if evidence.regions:
            notes.append(f'{len(evidence.regions)} regions')
        if evidence.truncated:
            notes.append('ends before it is complete')
        print(f'  {", ".join(notes)}')
        for part in evidence.dropped:
            print(f'  not used: {part}')
    print(
        f'{seconds:.3g} s per tile on {device}: about {duration(seconds * len(tiles))} for '
        f'{len(tiles)} tiles in one process. Nothing was kept.'
    )


def run(args: argparse.Namespace) -> bool:
    """Prepare everything, then fill the store of each hook or try its verifier out.

    Returns:
        Whether all tiles could be read.
    """
    register_all()
    from mmengine.registry import init_default_scope

    from mmseg_semi_rs.engine.annotation import find_hooks
    from mmseg_semi_rs.engine.launch import check_paths, leave_process_group, load_config
    from mmseg_semi_rs.engine.processes import Processes

    for name, value in (('--batch', args.batch), ('--limit', args.limit)):
        if value is not None and value < 1:
            raise ValueError(f'{name} {value} leaves nothing to do: give 1 or more.')
    cfg = load_config(args.config, args.cfg_options)
    places = find_hooks(cfg, args.hook)
    for place in places:
        hook = cfg.custom_hooks[place]
        needed = ['verifier'] if args.store else ['verifier', 'store']
        missing = [key for key in needed if not hook.get(key)]
        if missing:
            raise ValueError(
                f'The VLMPurifyHook of {args.config} names no {missing[-1]}: set both in the '
                'config.'
            )
    check_paths(cfg, ['train_dataloader'], weights=False)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    processes = Processes.start(cfg, args.launcher)
    device = own_device(args.device)
    whole = [fill(cfg, place, args, processes, device) for place in places]
    leave_process_group()
    return all(whole)


def fill(
    cfg: Config, place: int, args: argparse.Namespace, processes: Processes, device: str
) -> bool:
    """Fill the store of one hook, or try its verifier out.

    Returns:
        Whether all tiles could be read.
    """
    from mmseg.registry import MODELS

    from mmseg_semi_rs.engine.annotation import annotate, calibrate, evidence_settings
    from mmseg_semi_rs.purification.store import EvidenceStore

    hook = cfg.custom_hooks[place]
    folder = args.store or hook.store
    verifier = MODELS.build(hook.verifier)
    dataset, tiles = list_tiles(cfg, args.sources, args.limit, hook.get('held_out'))
    verifier.check_classes(dataset.metainfo['classes'])
    if processes.first:
        calibrate(verifier, dataset.labelled, device)
        if verifier.settings().get('weights', '') is None:
            with suppress(FileNotFoundError, ImportError):
                verifier.load(device)  # fetches its model, where that is allowed
    processes.gather(None)
    again = f'{command("annotate")} {shlex.quote(args.config)}'
    train = f'{command("train")} {shlex.quote(args.config)}'
    if args.store:
        again += f' --store {shlex.quote(folder)}'
        train += f' --cfg-options custom_hooks.{place}.store={shlex.quote(folder)}'
    if args.check:
        if processes.first:
            show_answers(verifier, tiles, device, args)
            print(f'next: {again}')
        return True
    started = time.perf_counter()
    settings = evidence_settings(verifier, dataset.labelled)
    store = EvidenceStore(folder, settings, cache_bytes=0)
    done = annotate(verifier, store, tiles, device, args.batch, processes)
    if processes.first:
        print(done)
        print(
            f'{store.folder} holds {len(store)} entries, {store.size_bytes / 2**20:.2f} MiB; took '
            f'{duration(time.perf_counter() - started)}'
        )
        tell_failed(list(done.failed.values()))
        repair = f'repair these tiles or take them off the lists, then {again}'
        print(f'next: {repair if done.failed else train}')
    return not done.failed


def tell_failed(reasons: list[str]) -> None:
    """Name tiles that could not be read on stderr, the first ten."""
    for reason in reasons[:LISTED]:
        print(f'error: {reason}', file=sys.stderr)
    if len(reasons) > LISTED:
        print(f'error: and {len(reasons) - LISTED} more tiles', file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    try:
        with Faults(args.traceback, __name__):
            whole = run(args)
    except KeyboardInterrupt:
        print('interrupted: what is in the store stays, start again to go on', file=sys.stderr)
        sys.exit(INTERRUPTED)
    if not whole:
        sys.exit(BAD_INPUT)


if __name__ == '__main__':
    main()
