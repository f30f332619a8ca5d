# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Suggest which tiles a person should label, before any label or with a trained network.

    python tools/suggest.py data/mine/images --count 24 --out suggested
    python tools/suggest.py data/mine/images --count 24 --out suggested \
        --labelled data/mine/labelled.txt --config CONFIG --checkpoint CHECKPOINT
    python tools/suggest.py orthophotos --tile 512 --count 24 --clicks 20 --out suggested

Tiles are chosen that resemble as many others as possible and each other as little as possible, in
turn of all scenes: with the same number of labels that gives more than any way of training. It
writes suggested.txt (one name a line, the most useful first), suggested.png to look at, and for
georeferenced images suggested.gpkg, which QGIS opens. A network's doubts and rare classes count
where its config and checkpoint are given. --clicks chooses pixels of these tiles as well, for who
labels points: write the class of each into the layer clicks of suggested.gpkg, or draw into its
layer areas, and give the file to tools/init_dataset.py in the place of masks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.command_line import (
    Faults,
    command_parser,
    nodata_value,
    parse,
    print_next,
)

_SAMPLED = 30  # images that the stretch of deep ones is estimated from


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('suggest', __doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('images', type=Path, help='folder of images, or one image')
    parser.add_argument('--count', type=int, required=True, help='number of tiles to label')
    parser.add_argument('--out', type=Path, required=True, help='folder to write to')
    parser.add_argument('--tile', type=int, help='cut larger images into tiles of this side')
    parser.add_argument(
        '--clicks', metavar='N', help='pixels to label in each tile, e.g. 20 or 0.05%%'
    )
    parser.add_argument('--labelled', type=Path, help='list of tiles that have labels already')
    parser.add_argument(
        '--scene-regex',
        default=r'^(.+?)(?:_\d+)*$',
        help='the scene of a tile is group 1 in its name (default: all before the last numbers)',
    )
    parser.add_argument('--config', help='config of a trained network')
    parser.add_argument('--checkpoint', help='its checkpoint')
    parser.add_argument(
        '--bands', nargs=3, type=int, metavar='BAND', help='red, green and blue (default: 1 2 3)'
    )
    parser.add_argument(
        '--nodata',
        metavar='V',
        help='value of pixels without data that the images do not declare; none if it is measured',
    )
    return parse(parser, arguments, config=False)


def suggest(args: argparse.Namespace) -> None:
    """Choose the tiles and write the files."""
    from mmseg_semi_rs.dataprep.splits.draw import scene_of
    from mmseg_semi_rs.rasters.files import composed, list_images
    from mmseg_semi_rs.rasters.levels import RasterToRGB
    from mmseg_semi_rs.rasters.reader import raster_info
    from mmseg_semi_rs.rasters.stretch import estimate_stretch
    from mmseg_semi_rs.utils.files import read_list, write_atomic
    from mmseg_semi_rs.utils.sampling import evenly

    nodata = nodata_value(args.nodata)
    if args.count < 1 or (args.tile or 1) < 1:
        raise ValueError(f'--count {args.count} and --tile {args.tile} must be at least 1.')
    if bool(args.config) != bool(args.checkpoint):
        raise ValueError('--config and --checkpoint belong together: give both or none.')
    if args.images.is_dir():
        found = [(stem, args.images / files[0]) for stem, files in list_images(args.images).items()]
    else:
        found = [(args.images.stem, args.images)]
    if not found:
        raise FileNotFoundError(f'{args.images} has no images: give the folder they are in.')
    register_all()
    from mmseg_semi_rs.apis import suggestion
    from mmseg_semi_rs.apis.clicks import count_clicks
    from mmseg_semi_rs.apis.predictor import load_predictor

    if args.clicks:
        count_clicks(args.clicks, 1)
    predictor = load_predictor(args.config, args.checkpoint) if args.config else None
    to_rgb = predictor.to_rgb if predictor else RasterToRGB(args.bands, nodata=nodata)
    if predictor is None and raster_info(found[0][1]).deep:
        sample = [found[index][1] for index in evenly(len(found), _SAMPLED)]
        to_rgb = estimate_stretch(sample, args.bands, nodata=nodata, ask=args.nodata is None)
    tiles = suggestion.list_candidates(found, args.tile, to_rgb)
    if not tiles:
        raise ValueError(f'No pixel of {args.images} has data: correct --nodata, or the images.')
    names = {tile.name: index for index, tile in enumerate(tiles)}
    known = read_list(args.labelled) if args.labelled else []
    known = [composed(name) for name in known]
    unknown = [name for name in known if name not in names]
    if unknown:
        raise ValueError(f'{args.labelled} names {unknown[0]}, which is none of the tiles.')
    scenes = [scene_of(tile.name, args.scene_regex) for tile in tiles]
    features = suggestion.tile_features(tiles, to_rgb)
    needs = suggestion.tile_needs(tiles, predictor) if predictor else None
    chosen = suggestion.choose_tiles(
        features, scenes, args.count, [names[name] for name in known], needs
    )
    best = [tiles[index] for index in chosen]
    write_atomic(args.out / 'suggested.txt', ''.join(f'{tile.name}\n' for tile in best).encode())
    written = [args.out / 'suggested.txt']
    written.append(suggestion.write_contact_sheet(best, to_rgb, args.out / 'suggested.png'))
    clicks = suggestion.click_points(best, args.clicks, to_rgb, predictor) if args.clicks else None
    places = suggestion.write_places(best, args.out / 'suggested.gpkg', clicks)
    if args.clicks and places is None:
        raise ValueError(
            f'--clicks {args.clicks} are points on a map, and no image of {args.images} says where '
            'it lies: leave it out.'
        )
    written += [places] if places else []
    chosen_scenes = len({scenes[index] for index in chosen})
    print(
        f'{len(best)} of {len(tiles)} tiles, of {chosen_scenes} of {len(set(scenes))} scenes: '
        f'{", ".join(map(str, written))}'
    )
    images = args.images if args.images.is_dir() else args.images.parent
    cut = any(tile.name not in dict(found) for tile in best)
    print(
        'draw masks of their images, of the same names and sizes, with 255 outside these tiles, '
        'into a folder; then'
        if cut
        else 'draw their masks, as class ids or colours in files of the same names, into a folder; '
        'then'
    )
    tile = ['--tile', args.tile] if cut else []
    print_next(*(('init', images, masks, *tile) for masks in ('MASKS', places) if masks))


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        suggest(args)


if __name__ == '__main__':
    main()
