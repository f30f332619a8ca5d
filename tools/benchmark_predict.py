# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Measure the prediction of rasters: each part of it, and the whole against the bare network.

    python tools/benchmark_predict.py CONFIG --sizes 5000 10000 20000
    python tools/benchmark_predict.py CONFIG CHECKPOINT --sizes 10000 --remote --processes 2

For each size a GeoTIFF is fabricated, and a process of its own predicts it into a cloud-optimised
GeoTIFF as tools/predict.py does. After each strip it stops the clock and times the network
alone, so that both share whatever else the machine is doing. The network alone is all that turns
normalised windows in memory into logits of their size. Reading, blending and writing are then
timed without it: in a prediction they run beside it, in threads.

With --remote the same raster is predicted from a web server on this machine too, and with
--processes by several processes, which share its rows.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmseg_semi_rs import register_all
from mmseg_semi_rs.rasters.gdal import import_rasterio
from mmseg_semi_rs.rasters.sources import RasterSource, open_source
from mmseg_semi_rs.utils import range_server
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse

if TYPE_CHECKING:
    from mmseg_semi_rs.apis import Predictor
    from mmseg_semi_rs.apis.mosaic import Mosaic


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('benchmark-predict', 'Measure the prediction of rasters')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='default: random weights, which take as long')
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
    parser.add_argument('--overlap', type=int, metavar='PX', help='default: a quarter of a window')
    parser.add_argument(
        '--probabilities', action='store_true', help='also write those of all classes'
    )
    parser.add_argument(
        '--processes', type=int, default=1, metavar='N', help='predict by N processes too'
    )
    parser.add_argument(
        '--remote', action='store_true', help='predict from a web server on this machine too'
    )
    parser.add_argument('--json', metavar='FILE', help='write the figures')
    parser.add_argument('--raster', help=argparse.SUPPRESS)  # of the process that measures
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


class NoSource:
    """An image in no time: grey, whatever is read of it."""

    def __init__(self, predictor: Predictor, side: int) -> None:
        self.width = self.height = side
        bands = len(predictor.to_rgb.bands or (1, 2, 3))
        self.pixels = np.zeros((predictor.window, side, bands), np.uint8)
        self.valid = np.ones((predictor.window, side), bool)

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`~mmseg_semi_rs.rasters.sources.Source`."""
        here = slice(0, bottom - top), slice(left, right)
        return self.pixels[here], self.valid[here]


def time_reading(source: RasterSource, rows: int) -> float:
    """Seconds of reading a raster once, so many rows at a time as a prediction does."""
    start = time.perf_counter()
    for top in range(0, source.height, rows):
        source.read(top, min(top + rows, source.height), 0, source.width)
    return time.perf_counter() - start


def time_blending(predictor: Predictor, side: int, probabilities: bool) -> float:
    """Seconds of making a map of windows whose probabilities cost nothing."""
    import torch

    from mmseg_semi_rs.apis.mosaic import Mosaic

    free = copy.copy(predictor)
    shape = (predictor.batch_size, len(predictor.classes), predictor.window, predictor.window)
    known = torch.rand(shape, device=predictor.device)
    free.probabilities = lambda windows: known[: len(windows)]  # type: ignore[method-assign]
    start = time.perf_counter()
    for _ in Mosaic(free, side, side).predict(NoSource(free, side), probabilities=probabilities):
        pass
    return time.perf_counter() - start


def time_writing(
    predictor: Predictor, mosaic: Mosaic, made: Path, source: RasterSource, probabilities: bool
) -> float:
    """Seconds of keeping the strips of a map and of writing the map from them, as it was made."""
    from mmseg_semi_rs.apis import Layers
    from mmseg_semi_rs.apis.maps import MapWriter
    from mmseg_semi_rs.apis.mosaic import Strip
    from mmseg_semi_rs.apis.partial import PartialMap

    rasterio = import_rasterio(made)
    partial = PartialMap(made.with_name('strips'), '')
    seconds, rows = 0.0, -(-source.height // mosaic.strips)
    files = [made, *made.parent.glob(f'{made.stem}_probabilities.tif')]
    for number in range(mosaic.strips):
        window = rasterio.windows.Window(0, number * rows, source.width, rows)
        pixels = []
        for file in files:
            with rasterio.open(file) as raster:
                pixels.append(raster.read(window=window))
        strip = Strip(number, number * rows, 0, pixels[0][0], pixels[0][0], *pixels[1:])
        start = time.perf_counter()
        partial.write(strip)
        seconds += time.perf_counter() - start
    layers = Layers(probabilities=probabilities)
    writer = MapWriter(predictor.classes, predictor.palette, layers)
    start = time.perf_counter()
    writer.write(made.with_name('again.tif'), partial, source)
    return seconds + time.perf_counter() - start


def measure(args: argparse.Namespace, side: int, raster: str) -> dict[str, Any]:
    """Predict one raster in this process, or in this and others that a launcher has started."""
    register_all()
    import torch

    from mmseg_semi_rs.apis import Layers, load_predictor, predict_files
    from mmseg_semi_rs.apis.mosaic import Mosaic
    from mmseg_semi_rs.engine.launch import leave_process_group, load_config
    from mmseg_semi_rs.engine.processes import Processes, launcher_of
    from mmseg_semi_rs.rasters.remote import is_remote, stand_in

    cfg = load_config(args.config, args.cfg_options)
    processes = Processes.start(cfg, launcher_of())
    with tempfile.TemporaryDirectory() as own:
        predictor = load_predictor(
            cfg,
            args.checkpoint or _random_weights(cfg, Path(own)),
            device=args.device,
            window=args.window,
            overlap=args.overlap,
            batch_size=args.batch_size,
            amp=args.amp,
        )
        folder = Path(processes.gather(own)[0])
        local = stand_in(raster, Path(own)) if is_remote(raster) else Path(raster)
        mosaic = Mosaic(predictor, side, side)
        with open_source(local, predictor.to_rgb) as source:
            assert isinstance(source, RasterSource)
            bare = BareNetwork(predictor, source, args.bare_windows)
        before = _peak_memory()
        processes.gather(None)
        start = time.perf_counter()
        result = predict_files(
            predictor,
            raster,
            folder / 'map.tif',
            Layers(probabilities=args.probabilities),
            progress=bare,
        )
        seconds = time.perf_counter() - start - bare.seconds
        if result.failures:
            raise ValueError(result.failures[0])
        peaks = processes.gather((before, _peak_memory()))
        forward = bare.seconds / bare.windows * mosaic.windows
        figures: dict[str, Any] = {
            'side': side,
            'remote': is_remote(raster),
            'processes': processes.count,
            'windows': mosaic.windows,
            'seconds': seconds,
            'forward_seconds': forward,
            'ratio': seconds * processes.count / forward,
            'timed_windows': bare.windows,
            'before_mb': max(first for first, _ in peaks),
            'peak_memory_mb': max(peak for _, peak in peaks),
            'device': str(predictor.device),
            'threads': torch.get_num_threads(),
            'torch': torch.__version__,
        }
        if predictor.device.type == 'cuda':
            figures['peak_gpu_mb'] = torch.cuda.max_memory_allocated(predictor.device) // 2**20
        if processes.count == 1:
            with open_source(local, predictor.to_rgb) as source:
                assert isinstance(source, RasterSource)
                figures['reading_seconds'] = time_reading(source, predictor.window)
                figures['blending_seconds'] = time_blending(predictor, side, args.probabilities)
                figures['writing_seconds'] = time_writing(
                    predictor, mosaic, folder / 'map.tif', source, args.probabilities
                )
        processes.gather(None)  # before the folder of the map goes
    leave_process_group()
    return figures if processes.first else {}


def _random_weights(cfg: Any, folder: Path) -> Path:
    """A checkpoint of a network as it is built."""
    import torch
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope('mmseg')
    path = folder / 'random.pth'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, path)
    return path


def _peak_memory() -> int:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == 'darwin' else 2**10)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder from another process: GDAL waits for it without letting threads run."""
    command = [sys.executable, range_server.__file__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def benchmark(args: argparse.Namespace, arguments: list[str]) -> None:
    """Measure every raster in a process of its own, since a peak never falls."""
    if args.raster:
        row = measure(args, args.sizes[0], args.raster)
        if row:
            Path(args.json).write_text(json.dumps(row), encoding='utf-8')
        return
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(served(folder)) if args.remote else ''
        for side in args.sizes:
            raster = folder / f'{side}.tif'
            fabricate(raster, side)
            runs = [(str(raster), 1)]
            if args.remote:
                runs.append((f'{address}/{raster.name}', 1))
            if args.processes > 1:
                runs.append((str(raster), args.processes))
            local: dict[str, Any] | None = None
            for place, processes in runs:
                row = _run(arguments, side, place, processes, folder / 'row.json')
                local = local or row
                _report(row, local)
                rows.append(row)
            raster.unlink()
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + '\n', encoding='utf-8')


def _run(arguments: list[str], side: int, raster: str, processes: int, out: Path) -> dict[str, Any]:
    """Measure a raster in as many new processes, on as many threads each as this one has."""
    launcher = []
    if processes > 1:
        launcher = ['-m', 'torch.distributed.run', '--standalone']
        launcher += [f'--nproc_per_node={processes}']
    command = [sys.executable, *launcher, __file__, *arguments, '--sizes', str(side)]
    local = {'no_proxy': ','.join(filter(None, (os.environ.get('no_proxy'), '127.0.0.1')))}
    subprocess.run(
        [*command, '--raster', raster, '--json', str(out)], check=True, env={**os.environ, **local}
    )
    return json.loads(out.read_text(encoding='utf-8'))


def _report(row: dict[str, Any], local: dict[str, Any]) -> None:
    """Print a row; ``local`` is that of one process and the local file."""
    pixels = row['side'] ** 2 / 1e6
    where = 'from a web server' if row['remote'] else 'local'
    many = f', {row["processes"]} processes' if row['processes'] > 1 else ''
    alone = row['forward_seconds'] / row['processes']
    print(
        f'{row["side"]} px, {where}{many}: {row["windows"]} windows in {row["seconds"]:.1f} s '
        f'({pixels / row["seconds"]:.2f} Mpx/s); the network alone {alone:.1f} s '
        f'({row["timed_windows"]} windows timed), overhead {row["ratio"] - 1:+.1%}; '
        f'peak memory {row["peak_memory_mb"]} MB, {row["before_mb"]} MB '
        'before' + (f', {row["peak_gpu_mb"]} MB on the GPU' if 'peak_gpu_mb' in row else '')
    )
    if row['processes'] == 1:
        keys = dict(reading='reading', network='forward', blending='blending', writing='writing')
        told = (f'{part} {pixels / row[f"{key}_seconds"]:.1f}' for part, key in keys.items())
        print(f'  Mpx/s of each alone: {", ".join(told)}')
    if row['remote']:
        print(f'  {row["ratio"] / local["ratio"]:.2f} times the local file')
    if row['processes'] > 1:
        speedup = local['seconds'] / row['seconds']
        print(f'  {speedup:.2f} times as fast as one process')


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        benchmark(args, arguments)


if __name__ == '__main__':
    main()
