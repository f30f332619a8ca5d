# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Measure the prediction of rasters: time against the bare forward, and memory by size.

    python tools/benchmark_predict.py CONFIG CHECKPOINT --sizes 5000 10000 20000

For each size a process of its own fabricates a GeoTIFF and predicts it into a cloud-optimised
GeoTIFF as tools/predict.py does. After each strip it stops the clock and times the network
alone, so that both share whatever else the machine is doing. The network alone is all that turns
normalised windows in memory into logits of their size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmseg_semi_rs import register_all
from mmseg_semi_rs.rasters.gdal import import_rasterio
from mmseg_semi_rs.rasters.sources import RasterSource, open_source
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse

if TYPE_CHECKING:
    from mmseg_semi_rs.apis import Predictor


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('benchmark-predict', 'Measure the prediction of rasters')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--sizes', type=int, nargs='+', default=[5000, 10000], metavar='PX', help='sides of rasters'
    )
    parser.add_argument('--device', help='default: cuda:0 where there is one, else cpu')
    parser.add_argument('--window', type=int, metavar='PX', help='side of the windows')
    parser.add_argument('--batch-size', type=int, default=4, metavar='N', help='windows at a time')
    parser.add_argument('--amp', action='store_true', help='bfloat16, on a GPU')
    parser.add_argument(
        '--bare-windows',
        type=int,
        default=8,
        metavar='N',
        help='windows on which the network alone is timed after each strip (default: 8)',
    )
    parser.add_argument('--json', metavar='FILE', help='write the figures')
    return parse(parser, arguments)


def fabricate(path: Path, side: int, seed: int = 0) -> None:
    """Write a square raster of coloured blocks, three bands of 8 bits."""
    rasterio = import_rasterio(path)
    rng = np.random.default_rng(seed)
    profile = {
        'driver': 'GTiff',
        'width': side,
        'height': side,
        'count': 3,
        'dtype': 'uint8',
        'tiled': True,
        'crs': 'EPSG:32633',
        'transform': rasterio.Affine(0.1, 0, 4e5, 0, -0.1, 5.8e6),
        'bigtiff': 'IF_SAFER',
    }
    with rasterio.open(path, 'w', **profile) as raster:
        for top in range(0, side, 256):
            rows = min(256, side - top)
            blocks = rng.integers(0, 256, (3, -(-rows // 16), -(-side // 16)), np.uint8)
            strip = blocks.repeat(16, 1).repeat(16, 2)[:, :rows, :side]
            raster.write(strip, window=rasterio.windows.Window(0, top, side, rows))


class BareNetwork:
    """Times the network alone, between the strips of a prediction.

    Args:
        predictor: Whose model is timed.
        source: A window is cut from its upper left corner.
        windows: How many are timed at each call.
    """

    def __init__(self, predictor: Predictor, source: RasterSource, windows: int) -> None:
        import torch
        from mmseg.structures import SegDataSample

        self.predictor = predictor
        side, batch = predictor.window, predictor.batch_size
        shape = predictor.input_size or (side, side)
        pixels, _ = source.read(0, side, 0, side)
        images = torch.from_numpy(pixels).permute(2, 0, 1).to(predictor.device)[None].float()
        images = torch.nn.functional.interpolate(images, shape, mode='bilinear')
        samples = [SegDataSample() for _ in range(batch)]
        data = {'inputs': [images[0]] * batch, 'data_samples': samples}
        self.inputs = predictor.model.data_preprocessor(data, False)['inputs']
        padded = tuple(self.inputs.shape[-2:])
        self.metas = [{'img_shape': shape, 'ori_shape': shape, 'pad_shape': padded}] * batch
        self.rounds = max(windows // batch, 1)
        self._run()  # warm
        self.seconds, self.windows = 0.0, 0

    def __call__(self, done: int, total: int) -> None:
        """Time some windows, whatever the progress."""
        self._wait()
        start = time.perf_counter()
        for _ in range(self.rounds):
            self._run()
        self._wait()
        self.seconds += time.perf_counter() - start
        self.windows += self.rounds * len(self.metas)

    def _run(self) -> None:
        import torch

        with (
            torch.inference_mode(),
            torch.autocast('cuda', torch.bfloat16, enabled=self.predictor.amp),
        ):
            self.predictor.model.encode_decode(self.inputs, self.metas)

    def _wait(self) -> None:
        if self.predictor.device.type == 'cuda':
            import torch

            torch.cuda.synchronize(self.predictor.device)


def measure(args: argparse.Namespace, side: int) -> dict[str, Any]:
    """Fabricate and predict one raster in this process."""
    register_all()
    import torch

    from mmseg_semi_rs.apis import load_predictor, predict_files
    from mmseg_semi_rs.apis.mosaic import Mosaic
    from mmseg_semi_rs.engine.launch import load_config

    predictor = load_predictor(
        load_config(args.config, args.cfg_options),
        args.checkpoint,
        device=args.device,
        window=args.window,
        batch_size=args.batch_size,
        amp=args.amp,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f'{side}.tif'
        fabricate(path, side)
        windows = Mosaic(predictor, side, side).windows
        with open_source(path, predictor.to_rgb) as source:
            assert isinstance(source, RasterSource)
            bare = BareNetwork(predictor, source, args.bare_windows)
        memory_before = _peak_memory()
        start = time.perf_counter()
        result = predict_files(predictor, path, Path(folder) / 'map.tif', progress=bare)
        seconds = time.perf_counter() - start - bare.seconds
        if result.failures:
            raise ValueError(result.failures[0])
    forward = bare.seconds / bare.windows * windows
    figures = {
        'side': side,
        'windows': windows,
        'seconds': seconds,
        'forward_seconds': forward,
        'ratio': seconds / forward,
        'timed_windows': bare.windows,
        'peak_memory_mb': _peak_memory(),
        'before_mb': memory_before,
        'device': str(predictor.device),
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
    }
    if predictor.device.type == 'cuda':
        figures['peak_gpu_mb'] = torch.cuda.max_memory_allocated(predictor.device) // 2**20
    return figures


def _peak_memory() -> int:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == 'darwin' else 2**10)


def benchmark(args: argparse.Namespace, arguments: list[str]) -> None:
    """Measure every size in a process of its own, since a peak never falls."""
    if len(args.sizes) == 1:
        rows = [measure(args, args.sizes[0])]
    else:
        rows = []
        given = list(arguments)
        at = given.index('--sizes') if '--sizes' in given else len(given)
        rest = [*given[:at], *given[at + 1 + len(args.sizes) :]]
        for side in args.sizes:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / 'figures.json'
                command = [sys.executable, __file__, *rest, '--sizes', str(side)]
                subprocess.run([*command, '--json', str(file)], check=True)
                rows += json.loads(file.read_text(encoding='utf-8'))
        print()
    if len(args.sizes) == 1 or args.json:
        _report(rows)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + '\n', encoding='utf-8')


def _report(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(
            f'{row["side"]} px: {row["windows"]} windows in {row["seconds"]:.1f} s, the network '
            f'alone {row["forward_seconds"]:.1f} s ({row["timed_windows"]} timed), ratio '
            f'{row["ratio"]:.2f}; peak memory {row["peak_memory_mb"]} MB, '
            f'{row["before_mb"]} MB before'
            + (f', {row["peak_gpu_mb"]} MB on the GPU' if 'peak_gpu_mb' in row else '')
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        benchmark(args, arguments)


if __name__ == '__main__':
    main()
