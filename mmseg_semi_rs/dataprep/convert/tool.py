# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Shared parts of the converters' command lines, ``tools/dataset_converters/*.py``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from rich.console import Console

from ...rasters.windows import Edge
from ...utils.command_line import command_parser
from .archives import SourceFile, find_sources
from .conversion import Cut, Job, convert
from .raw_labels import LabelDecoder

Key = TypeVar('Key', bound=Hashable)


@dataclass
class Pair:
    """Files of one image; several if a download holds copies.

    Attributes:
        images: Copies of the image.
        labels: Copies of its label.
    """

    images: list[SourceFile] = field(default_factory=list)
    labels: list[SourceFile] = field(default_factory=list)

    def job(self, key: str, subset: str, labelled: bool = True, whole: bool = True) -> Job:
        """Create the job for these files; ``labelled`` is False if no labels were published."""
        labels = tuple(self.labels) if labelled else None
        return Job(key, subset, tuple(self.images), labels, whole)


class Plan(NamedTuple):
    """What a converter is going to do.

    Attributes:
        jobs: Images to convert.
        decoder: Decoder of their labels.
        missing: Messages about files that were not found.
    """

    jobs: Sequence[Job]
    decoder: LabelDecoder
    missing: Sequence[str]


def tool_parser(
    data_set: str,
    description: str | None,
    out_dir: str | None,
    every: str,
    window: int | str = 512,
    stride: int | None = None,
    edge: Edge = 'shift',
) -> argparse.ArgumentParser:
    """Create a parser with the options of all converters and the defaults of one dataset.

    Args:
        data_set: File name of the tool without suffix.
        description: Docstring of the tool.
        out_dir: Default output folder; None makes the option required.
        every: What must be there unless ``--allow-missing`` is given, e.g. ``'all 38 tiles'``.
        window: Default side of a tile in pixels, or ``'whole'``.
        stride: Default distance between tiles; None takes the window.
        edge: Default treatment of the last row and column.
    """
    parser = command_parser(
        f'convert {data_set}',
        description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'source',
        type=Path,
        nargs='+',
        help='folder with the downloaded archives or with their unpacked contents, or the archives',
    )
    parser.add_argument(
        '-o',
        '--out-dir',
        type=Path,
        default=None if out_dir is None else Path(out_dir),
        required=out_dir is None,
        help='folder of the tiles' if out_dir is None else 'default: %(default)s',
    )
    parser.add_argument(
        '--window',
        type=_window,
        default=str(window),
        help="side of a tile in pixels, or 'whole' for uncut images (default: %(default)s)",
    )
    parser.add_argument(
        '--stride',
        type=int,
        default=stride,
        help=f'distance between tiles (default: {stride or "the window"})',
    )
    parser.add_argument(
        '--edge',
        choices=('shift', 'pad'),
        default=edge,
        help='last row and column: moved inside the image, or padded with ignored pixels '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=1,
        help='processes; one needs up to 0.8 GB on images of 6000 x 6000 (default: %(default)s)',
    )
    parser.add_argument('--allow-missing', action='store_true', help=f'do not ask for {every}')
    return parser


def add_unknown_colours(parser: argparse.ArgumentParser) -> None:
    """Add the option for converters that read coloured labels."""
    parser.add_argument(
        '--unknown-colours',
        choices=('error', 'nearest', 'ignore'),
        default='error',
        help='what happens to pixels of other colours (default: %(default)s)',
    )


def _window(text: str) -> int | None:
    return None if text == 'whole' else int(text)


def find_pairs(
    locations: Iterable[Path],
    pattern: re.Pattern[str],
    describe: Callable[[re.Match[str]], tuple[Key, bool]],
) -> tuple[dict[Key, Pair], list[str]]:
    """Find images and their labels in folders and archives.

    Args:
        locations: Folders or zip archives.
        pattern: See :func:`find_sources`.
        describe: Returns the key of the image that a match belongs to, and whether it is the label.

    Returns:
        Files by key, and a message for each archive that cannot be opened.

    Raises:
        FileNotFoundError: A location does not exist.
    """
    found, broken = find_sources(locations, pattern)
    pairs: dict[Key, Pair] = {}
    for match, source in found:
        key, is_label = describe(match)
        pair = pairs.setdefault(key, Pair())
        (pair.labels if is_label else pair.images).append(source)
    return pairs, broken


def too_few(args: argparse.Namespace, there: int, published: int, images: str) -> list[str]:
    """Return a message if images are missing, unless ``--allow-missing`` was given.

    Args:
        args: Command line.
        there: Number of images found; 0 is always an error.
        published: Number of images expected.
        images: Name of the images, e.g. ``'labelled images'``.
    """
    if there >= published or (args.allow_missing and there):
        return []
    return [
        f'{published - there} of {published} {images} are in none of '
        f'{", ".join(map(str, args.source))}: download them again, or pass --allow-missing.'
    ]


def run_tool(args: argparse.Namespace, plan: Callable[[argparse.Namespace], Plan]) -> int:
    """Convert a dataset and print the result.

    Args:
        args: Command line, see :func:`tool_parser`.
        plan: Finds the files and the decoder.

    Returns:
        Exit status: 1 if an image failed or is missing, 2 for bad input or disk errors, 130 if
        interrupted, else 0.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        jobs, decoder, missing = plan(args)
        report = convert(
            jobs,
            args.out_dir,
            Cut(args.window, args.stride, args.edge),
            decoder,
            args.workers,
            missing,
            console,
        )
    except (ValueError, FileNotFoundError) as error:
        console.print(f'error: {error}', style='red')
        return 2
    except OSError as error:  # full disk or missing permission
        console.print(f'error: {error}; what is finished is kept.', style='red')
        return 2
    except KeyboardInterrupt:
        console.print('interrupted: the same command goes on from here.')
        return 130
    for note in report.notes:
        console.print(f'note: {note}', style='yellow')
    tiles = sum(len(item.names) for item in report.done)
    console.print(
        f'{len(report.done)} images ({report.skipped} of them already there), {tiles} tiles in '
        f'{args.out_dir}'
    )
    if report.failures:
        console.print(f'{len(report.failures)} failed:', style='red')
        for failure in report.failures:
            console.print(f'  {failure}', style='red')
    return 1 if report.failures else 0
