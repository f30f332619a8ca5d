# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Make maps of images, of folders of images, or of rasters of any size.

    python tools/predict.py CONFIG CHECKPOINT photo.jpg
    python tools/predict.py CONFIG CHECKPOINT flights/*_ortho.tif --out maps/
    python tools/predict.py CONFIG CHECKPOINT tiles/ --out maps/ --preview
    python tools/predict.py CONFIG CHECKPOINT city.tif --out city_map.tif --confidence --polygons
    python tools/predict.py CONFIG CHECKPOINT https://host/city.tif s3://box/a.tif --out maps/
    torchrun --nproc_per_node 4 tools/predict.py CONFIG CHECKPOINT city.tif --out maps/

A raster (GeoTIFF, VRT, JPEG 2000; needs rasterio: pip install 'mmseg_semi_rs[geo]') becomes a
cloud-optimised GeoTIFF of the same CRS and transform, with the palette, and 255 where there is no
data; a picture becomes a PNG. Windows overlap and are blended; memory does not grow with the
raster. A run that was killed goes on where it stopped when the same command is given again.
Processes of torchrun or srun (tools/slurm_predict.sh) share the pictures of a folder and the rows
of a raster; their map is that of one process.
"""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse, print_next

_STDERR = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('predict', 'Make maps of images and rasters')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        'input',
        nargs='+',
        help='images, rasters, or folders of them; addresses of rasters; STAC items (.json)',
    )
    parser.add_argument(
        '--out',
        default='predictions',
        help='folder of the maps, or the name of the map of a single image (default: predictions)',
    )
    parser.add_argument(
        '--asset', metavar='KEY', help='of STAC items (default: the visual one, or the only raster)'
    )
    parser.add_argument(
        '--network',
        '--predict-on',
        metavar='NETWORK',
        help='the network that predicts: teacher or student; of two students a, b or fused '
        "(default: the config's)",
    )
    parser.add_argument(
        '--device', help='default: a GPU where there is one (each process its own), else cpu'
    )
    parser.add_argument(
        '--window',
        type=int,
        metavar='PX',
        help="side of the windows (default: the config's window_size, else crop_size)",
    )
    parser.add_argument(
        '--overlap', type=int, metavar='PX', help='of neighbouring windows (default: a quarter)'
    )
    parser.add_argument('--batch-size', type=int, default=4, metavar='N', help='windows at a time')
    parser.add_argument(
        '--bands',
        type=int,
        nargs='+',
        metavar='N',
        help="bands that are red, green and blue, from 1 (default: the config's raster.bands)",
    )
    for option, what in (('--low', '0'), ('--high', '255')):
        parser.add_argument(
            option,
            type=float,
            nargs='+',
            metavar='V',
            help=f"values of these bands that become {what} (default: the config's raster.*)",
        )
    parser.add_argument(
        '--nodata',
        type=float,
        metavar='V',
        help="value of pixels without data that files do not declare (default: the config's)",
    )
    parser.add_argument('--flips', action='store_true', help='mean over four mirror images')
    parser.add_argument('--amp', action='store_true', help='bfloat16, on a GPU')
    parser.add_argument(
        '--confidence', action='store_true', help='also write the probability of the class'
    )
    parser.add_argument(
        '--probabilities', action='store_true', help='also write those of all classes'
    )
    parser.add_argument(
        '--polygons',
        action='store_true',
        help='also write a GeoPackage of outlines, with area and mean confidence',
    )
    parser.add_argument(
        '--preview', action='store_true', help='also write a picture of image and map side by side'
    )
    parser.add_argument(
        '--background',
        action='store_true',
        help='show classes called background, other or the like in polygons and preview too',
    )
    parser.add_argument(
        '--memory',
        type=int,
        default=256,
        metavar='MB',
        help='for the probabilities that are summed up (default: 256)',
    )
    return parse(parser, arguments)


def predict(args: argparse.Namespace) -> int:
    """Predict, and say what became of it.

    Returns:
        The exit code: 1 if some images failed.
    """
    register_all()
    from mmseg_semi_rs.apis import Layers, load_predictor, predict_files
    from mmseg_semi_rs.engine.launch import leave_process_group, load_config
    from mmseg_semi_rs.engine.processes import Processes, launcher_of

    cfg = load_config(args.config, args.cfg_options)
    processes = Processes.start(cfg, launcher_of())
    asked = {'low': args.low, 'high': args.high, 'nodata': args.nodata}
    predictor = load_predictor(
        cfg,
        args.checkpoint,
        device=args.device,
        network=args.network,
        window=args.window,
        bands=args.bands,
        raster={key: value for key, value in asked.items() if value is not None},
        overlap=args.overlap,
        batch_size=args.batch_size,
        flips=args.flips,
        amp=args.amp,
    )
    layers = Layers(
        args.confidence, args.probabilities, args.polygons, args.preview, args.background
    )
    start = time.perf_counter()
    columns = (
        TextColumn('windows'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_STDERR, disable=not processes.first) as bar:
        task = bar.add_task('windows', total=None)
        result = predict_files(
            predictor,
            args.input,
            args.out,
            layers,
            memory=args.memory * 2**20,
            asset=args.asset,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    leave_process_group()
    if not processes.first:
        return 0
    for bands, rasters in result.bands.items():
        _STDERR.print(f'{rasters} raster{"s" if rasters > 1 else ""}: {bands}')
    for failure in result.failures:
        _STDERR.print(f'failed: {failure}', style='red')
    took = time.perf_counter() - start
    print(
        f'{len(result.files)} maps in {args.out} ({result.skipped} were there), '
        f'{len(result.failures)} images failed, {took:.1f} s'
    )
    if result.files:
        told = (args.config, args.checkpoint)
        fits = predictor.calibration is None and cfg.get('val_dataloader') is not None
        print_next(
            *([('calibrate', *told)] if fits else []),  # what the confidence means
            ('export', *told, '--out', 'exported'),
        )
    return 1 if result.failures else 0


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        code = predict(args)
    if code:
        sys.exit(code)


if __name__ == '__main__':
    main()
