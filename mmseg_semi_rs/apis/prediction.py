# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Prediction of images, folders of images and rasters of any size into files."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..engine.processes import Processes
from ..rasters.files import IMAGE_SUFFIXES, list_images
from ..rasters.gdal import open_raster
from ..rasters.levels import RasterToBands, RasterToRGB
from ..rasters.reader import raster_info, read_rgb
from ..rasters.remote import is_remote, item_asset, stand_in
from ..rasters.sources import PixelSource, RasterSource, is_raster, open_source
from ..utils.files import held, settings_digest
from .maps import Layers, MapWriter
from .mosaic import MEMORY, Mosaic, Strip, ahead, batches, make_strip, mirror
from .partial import PartialMap
from .predictor import Predictor

JOURNAL = 'predictions.jsonl'
LOCK = '.predictions.lock'
_BACKLOG = 2  # strips that may wait to be written

Progress = Callable[[int, int], None]


@dataclass
class Predicted:
    """The result of a prediction into files.

    Attributes:
        files: Files of each image, the map first.
        skipped: Number of images that were already complete.
        failed: Message that says why, for each image that could not be predicted.
        bands: Number of rasters for each choice of bands.
    """

    files: dict[Path, list[Path]] = field(default_factory=dict)
    skipped: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    bands: Counter[str] = field(default_factory=Counter)

    @property
    def failures(self) -> list[str]:
        """Messages of the images that could not be predicted."""
        return list(self.failed.values())


def predict_image(predictor: Predictor, image: np.ndarray | Image.Image) -> Strip:
    """Predict an image in memory.

    Args:
        predictor: See :func:`~mmseg_semi_rs.apis.load_predictor`.
        image: RGB, shape (H, W, 3), uint8, of any size; or a Pillow image of any 8-bit mode, whose
            alpha is ignored. For a network of N bands, shape (H, W, N), with values as in its files
            and the bands in its order.

    Returns:
        The whole map: ``labels``, ``confidence`` (H, W) and ``probabilities`` (K, H, W).

    Raises:
        ValueError: The image is of another kind.
    """
    if isinstance(image, Image.Image):
        if image.mode.startswith(('I', 'F')):
            raise ValueError(
                f'An image of mode {image.mode} has more than 8 bits: stretch it by RasterToRGB.'
            )
        image = np.asarray(image.convert('RGB'))
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f'predict_image takes one image in memory, not a {type(image).__name__}: give '
            'predict_files the names of files.'
        )
    to_rgb = predictor.to_rgb
    if isinstance(to_rgb, RasterToBands):
        image = to_rgb(image.transpose(2, 0, 1)) if image.ndim == 3 else image
    else:
        to_rgb = RasterToRGB()  # the pixels are already RGB
    source = PixelSource(image, to_rgb=to_rgb)
    mosaic = Mosaic(predictor, source.width, source.height, memory=2**62)
    strips = list(mosaic.predict(source, probabilities=True))
    return Strip(
        0,
        0,
        0,
        np.concatenate([strip.labels for strip in strips]),
        np.concatenate([strip.confidence for strip in strips]),
        np.concatenate([np.asarray(strip.probabilities) for strip in strips], axis=1),
    )


def predict_files(
    predictor: Predictor,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    layers: Layers | None = None,
    memory: int = MEMORY,
    progress: Progress | None = None,
    asset: str | None = None,
) -> Predicted:
    """Predict images, rasters or folders of them into files.

    What an earlier call with the same model and settings finished is not predicted again: whole
    images, and single strips of large images. A file that cannot be read is reported in the result
    while the others are predicted.

    Where a process group is initialised, all its processes call this with the same arguments. They
    share the pictures of a folder and the strips of each raster, over a file system that all of
    them see. The files are bit for bit those of a single process.

    Args:
        predictor: See :func:`~mmseg_semi_rs.apis.load_predictor`.
        images: A file; a folder, searched with its sub-folders; the address of a raster
            (``https://``, ``s3://``, ``gs://``, ``az://``, GDAL's ``/vsi...``) or a STAC item
            (``.json``); or several of these.
        out: Folder of the maps, ``<out>/<image>.tif`` for rasters and ``.png`` for pictures. For a
            single file it may be the path of the map instead.
        layers: Files to write besides the map. Defaults to none.
        memory: See :class:`~mmseg_semi_rs.apis.mosaic.Mosaic`. Defaults to 256 MiB.
        progress: Called with the number of finished windows and the total.
        asset: Name of the asset of STAC items to predict. Defaults to the visual one, or the only
            raster.

    Returns:
        The files and the failures. A remote raster is named by its VRT in ``<out>/.remote``.

    Raises:
        FileNotFoundError: There is nothing to predict.
        RunStoppedError: Another process of the group has ended.
        ValueError: ``images`` are no file names, or ``out`` would overwrite images or other maps.
    """
    given = [images] if isinstance(images, (str, Path)) else images
    if not isinstance(given, Sequence) or not all(isinstance(i, (str, Path)) for i in given):
        raise ValueError(
            f'predict_files takes names of files and folders, not a {type(images).__name__} of '
            'something else: give an image in memory to predict_image.'
        )
    if not given:
        raise FileNotFoundError('predict_files was given an empty list: name images or folders.')
    prediction = _Prediction(predictor, layers or Layers(), memory, progress)
    return prediction.run(given, Path(out), asset)


@dataclass(frozen=True, eq=False)
class _Job:
    """An image, the path of its map and the windows to predict."""

    image: Path
    out: Path
    mosaic: Mosaic
    raster: bool
    small: bool

    @property
    def windows(self) -> int:
        """Number of windows of the image."""
        return self.mosaic.windows


class _Prediction:
    """State of one call of :func:`predict_files`."""

    def __init__(
        self, predictor: Predictor, layers: Layers, memory: int, progress: Progress | None
    ) -> None:
        self.predictor = predictor
        self.layers = layers
        self.memory = memory
        self.progress = progress
        self.writer = MapWriter(predictor.classes, predictor.palette, layers)
        self.fingerprint = settings_digest(
            {'predictor': predictor.fingerprint, 'layers': list(astuple(layers))}
        )
        self.processes = Processes()
        self.result = Predicted()
        self.addresses: dict[Path, str] = {}  # of remote rasters, by their VRT
        self.finished = self.total = 0

    def run(self, given: Sequence[str | Path], out: Path, asset: str | None) -> Predicted:
        """Predict the images that are not done yet."""
        folder, jobs = self._jobs(given, out, asset)
        self.total = sum(job.windows for job in jobs)
        # Other jobs may predict other images into this folder; this job's processes share theirs.
        claim: AbstractContextManager[None] = nullcontext()
        first = self.processes.first
        if first:
            names = [job.out.relative_to(folder).as_posix() for job in jobs]
            claim = held(folder / LOCK, f'A prediction into {folder}', names)
        with claim:
            done = self.processes.together(lambda: self._done(jobs, folder) if first else set())[0]
            with Journal(folder / JOURNAL, self.fingerprint, self.processes.rank) as self.journal:
                todo = []
                for job in jobs:
                    if job.out in done:
                        self.result.files[job.image] = self.writer.files(job.out)
                        self.result.skipped += 1
                        self._advance(job.windows)
                    else:
                        todo.append(job)
                self._predict_small([job for job in jobs if job.small], set(todo))
                for job in todo:
                    if not job.small:
                        self._attempt(job, lambda job=job: self._predict_large(job))  # type: ignore[misc]
            parts = self.processes.gather(self.result)
            if first:
                Journal.merge(folder / JOURNAL)
        self._advance(self.total - self.finished)  # of failed images and other processes
        files = {image: paths for part in parts for image, paths in part.files.items()}
        return replace(
            self.result,
            files={job.image: files[job.image] for job in jobs if job.image in files},
            failed={image: told for part in parts for image, told in part.failed.items()},
        )

    def _jobs(
        self, given: Sequence[str | Path], out: Path, asset: str | None
    ) -> tuple[Path, list[_Job]]:
        """Create the folder of the maps, and return it with the images to predict into it.

        Raises:
            ValueError: A map would lie among the images, or replace an image or another map.
        """
        given = expanded(given)
        single = len(given) == 1 and not Path(given[0]).is_dir()
        named = single and out.suffix.lower() in ('.tif', '.tiff', '.png')
        folder = out.parent if named else out
        roots: dict[Path, Path] = {}  # root of each image's relative path
        for path in (self._local(name, folder, asset) for name in given):
            root = path if path.is_dir() else path.parent
            if path.is_dir() and folder.resolve() == root.resolve():
                raise ValueError(
                    f'{out} is the folder of the images, and the maps would lie among them: give '
                    'another folder.'
                )
            for image in find_images(path, folder):
                roots.setdefault(image, root)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f'--out {folder} is a file: give a folder.')
        folder.mkdir(parents=True, exist_ok=True)
        stems = Counter(image.relative_to(root).with_suffix('') for image, root in roots.items())
        jobs = []
        for image, root in roots.items():
            relative = image.relative_to(root)
            stem = relative.name if stems[relative.with_suffix('')] > 1 else relative.stem
            try:
                jobs.append(self._plan(image, folder / relative.parent / stem))
            except (ValueError, OSError, ImportError) as error:
                self._fail(image, error)
        if named and jobs:
            jobs = [self._named(jobs[0], out)]
        owners: dict[Path, Path] = {}
        for job in jobs:
            for file in self.writer.files(job.out):
                if file.resolve() == job.image.resolve():
                    raise ValueError(
                        f'The map {file} would overwrite its image: give another folder or name.'
                    )
                if owners.setdefault(file, job.image) != job.image:
                    raise ValueError(
                        f'{file} would be written for {owners[file]} and for {job.image}: rename '
                        'one of them.'
                    )
        return folder, jobs

    def _local(self, name: str | Path, folder: Path, asset: str | None) -> Path:
        """Return the path of an input, or of the VRT that stands for a remote one."""
        if str(name).endswith('.json'):
            name = item_asset(name, asset)
        if not is_remote(name):
            return Path(name)
        path = stand_in(str(name), folder)
        self.addresses[path] = str(name)
        return path

    def _done(self, jobs: Sequence[_Job], folder: Path) -> set[Path]:
        """Return the maps that need not be predicted again."""
        Journal.merge(folder / JOURNAL)
        journal = Journal(folder / JOURNAL, self.fingerprint)
        return {job.out for job in jobs if journal.has(job.image, self.writer.files(job.out))}

    def _plan(self, image: Path, out: Path) -> _Job:
        raster = is_raster(image)
        if raster:
            with open_source(image, self.predictor.to_rgb) as source:
                width, height = source.width, source.height
                if isinstance(source, RasterSource):
                    self.result.bands[source.told] += 1
        else:
            info = raster_info(image)
            width, height = info.width, info.height
        return _Job(
            image,
            out.with_name(out.name + ('.tif' if raster else '.png')),
            Mosaic(self.predictor, width, height, self.memory),
            raster,
            not raster and max(width, height) <= self.predictor.window,
        )

    @staticmethod
    def _named(job: _Job, out: Path) -> _Job:
        suffix = ('.tif', '.tiff') if job.raster else ('.png',)
        if out.suffix.lower() not in suffix:
            raise ValueError(
                f'--out {out} does not fit: the map of {job.image} is a {job.out.suffix} file.'
            )
        return replace(job, out=out)

    def _advance(self, windows: int) -> None:
        self.finished = min(self.finished + windows, self.total)
        if self.progress is not None:
            self.progress(self.finished, self.total)

    def _fail(self, image: Path, error: BaseException) -> None:
        reason = ' '.join(str(error).split())
        name = self.addresses.get(image, str(image))
        reason = reason.replace(str(image), name)
        self.result.failed[image] = reason if name in reason else f'{name}: {reason}'

    def _attempt(self, job: _Job, action: Callable[[], list[Path]]) -> None:
        """Run the action of one image, and record its failure instead of stopping the others."""
        try:
            files = action()
        except (ValueError, OSError, ImportError) as error:
            self._fail(job.image, error)
        else:
            self.result.files[job.image] = files

    def _predict_large(self, job: _Job) -> list[Path]:
        """Predict an image strip by strip; strips that any process finished are on disk."""
        folder = job.out.with_name(f'.{job.out.name}.partial')
        first, together = self.processes.first, self.processes.together

        def begin() -> tuple[str, set[int]]:
            stamp = settings_digest({
                'settings': self.fingerprint,
                'image': [str(job.image.resolve()), *_stamp(job.image)],
                'memory': self.memory,
            })  # fmt: skip
            return stamp, PartialMap(folder, stamp).done

        # What may fail is done together: else one process would wait for others that have failed.
        stamp, done = together(lambda: begin() if first else ('', set()))[0]
        try:
            together(lambda: self._predict_strips(job, PartialMap(folder, stamp), done))
        except (ValueError, OSError, ImportError):
            if first and not (partial := PartialMap(folder, stamp)).done:
                partial.remove()
            raise
        return together(lambda: self._write(job, PartialMap(folder, stamp)) if first else [])[0]

    def _predict_strips(self, job: _Job, partial: PartialMap, done: set[int]) -> None:
        """Predict this process's share of the missing strips."""
        self._advance(sum(map(job.mosaic.windows_of, done)))
        rank, count = self.processes.rank, self.processes.count
        missing = sorted(set(range(job.mosaic.strips)) - done)
        # A share is contiguous, since its first strip predicts windows of the strips above again.
        mine = missing[len(missing) * rank // count : len(missing) * (rank + 1) // count]
        others = set(range(job.mosaic.strips)).difference(mine)
        with (
            open_source(job.image, self.predictor.to_rgb) as source,
            in_background(partial.write) as write,
        ):
            for strip in job.mosaic.predict(source, others, self.layers.probabilities):
                write(strip)
                self._advance(count * job.mosaic.windows_of(strip.number))

    def _written(
        self, job: _Job, strips: Iterable[Strip], source: PixelSource | RasterSource
    ) -> list[Path]:
        """Write the files of an image; until all are there, the journal counts them as missing."""
        self.journal.drop(job.out)
        files = self.writer.write(job.out, strips, source)
        self.journal.add(job.image, job.out)
        return files

    def _write(self, job: _Job, partial: PartialMap) -> list[Path]:
        address = self.addresses.get(job.image)
        if address and stand_in(address, job.image.parents[2]) != job.image:
            partial.remove()
            raise ValueError(f'{address} has changed while it was read: predict it again.')
        with open_source(job.image, self.predictor.to_rgb) as source:
            files = self._written(job, partial, source)
        partial.remove()
        return files

    def _predict_small(self, jobs: Sequence[_Job], todo: set[_Job]) -> None:
        """Predict pictures that fit into a window, in batches.

        Batches are made of all pictures, including those already done, so that a picture's result
        does not depend on what was done before.
        """
        wanted = [
            batch
            for batch in batches(jobs, self.predictor.batch_size)
            if not todo.isdisjoint(batch)
        ]
        rank, count = self.processes.rank, self.processes.count
        for batch in ahead(map(self._load, wanted[rank::count])):
            sources = [source for _, source in batch]
            if not batch:
                continue
            strips = predict_small(self.predictor, sources, self.layers.probabilities)
            for (job, source), strip in zip(batch, strips, strict=True):
                if job in todo:
                    self._attempt(
                        job,
                        lambda job=job, strip=strip, source=source: self._written(  # type: ignore[misc]
                            job, [strip], source
                        ),
                    )
                    self._advance(count * job.windows)

    def _pixels(self, image: Path) -> PixelSource:
        to_rgb = self.predictor.to_rgb
        return PixelSource(*read_rgb(image, to_rgb), to_rgb)

    def _load(self, batch: Sequence[_Job]) -> list[tuple[_Job, PixelSource]]:
        loaded = []
        for job in batch:
            try:
                loaded.append((job, self._pixels(job.image)))
            except (ValueError, OSError, ImportError) as error:
                self._fail(job.image, error)
        return loaded


def predict_small(
    predictor: Predictor, sources: Sequence[PixelSource], probabilities: bool = False
) -> list[Strip]:
    """Predict images that fit into a window in one forward pass.

    Args:
        predictor: Predicts the windows.
        sources: Images no larger than a window.
        probabilities: Whether the strips hold the probabilities of all classes.

    Returns:
        The whole map of each image.
    """
    side = predictor.window
    read = [source.read(0, source.height, 0, source.width) for source in sources]
    windows = np.stack([mirror(*image, side, side)[0] for image in read])
    found = predictor.probabilities(torch.from_numpy(windows).permute(0, 3, 1, 2))
    strips = []
    for (pixels, valid), shares in zip(read, found, strict=True):
        shares = shares[:, : pixels.shape[0], : pixels.shape[1]]
        strips.append(make_strip(shares, ~valid, probabilities))
    return strips


def expanded(given: Sequence[str | Path]) -> list[str | Path]:
    """Expand patterns such as ``tiles/*.tif`` that the shell has left unexpanded."""
    found: list[str | Path] = []
    for name in given:
        pattern = isinstance(name, str) and '://' not in name and not Path(name).exists()
        matching = sorted(Path(name).parent.glob(Path(name).name)) if pattern else []
        found += matching or [name]
    return found


def find_images(given: Path, out: Path) -> list[Path]:
    """List an image, or all images of a folder and its sub-folders, sorted.

    Args:
        given: An image or a folder.
        out: Folder of the maps, which is not searched if it is below ``given``.

    Raises:
        FileNotFoundError: There are no images.
        ValueError: A file does not have the suffix of an image.
    """
    known = IMAGE_SUFFIXES
    if given.is_file():
        if given.suffix.lower() not in known:
            raise ValueError(f'{given} is no image: known are {" ".join(known)}.')
        return [given]
    if not given.is_dir():
        raise FileNotFoundError(f'{given} does not exist: give an image or a folder of images.')
    maps = out.resolve()
    below = maps if maps.is_relative_to(given.resolve()) else None
    found = sorted(
        path
        for names in list_images(given).values()
        for path in map(given.joinpath, names)
        if below not in (path.parent.resolve() / path.name).parents
    )
    if not found:
        raise FileNotFoundError(f'{given} has no images: known are {" ".join(known)}.')
    return found


class Journal:
    """Record of the maps written into a folder, one JSON line each.

    Each process that shares the work writes its own file, and the first process merges them.

    Args:
        path: The file, in that folder; the last line of each map counts.
        fingerprint: Digest of the model and the settings.
        rank: Rank of the writing process.
    """

    def __init__(self, path: Path, fingerprint: str, rank: int = 0) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self._own = path.with_name(f'{path.stem}.rank{rank}{path.suffix}') if rank else path
        self._done: dict[str, dict] = {}
        for line in path.read_text('utf-8').splitlines() if path.is_file() else ():
            try:
                entry = json.loads(line)
                self._done[entry['map']] = entry
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a killed run

    def __enter__(self) -> Journal:
        self._file = self._own.open('a', encoding='utf-8')
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @staticmethod
    def merge(path: Path) -> None:
        """Append the lines of all processes to the journal, while none of them writes."""
        for part in sorted(path.parent.glob(f'{path.stem}.rank*{path.suffix}')):
            with path.open('a', encoding='utf-8') as file:
                file.write('\n' + part.read_text('utf-8'))  # the last line may be incomplete
            part.unlink()

    def has(self, image: Path, files: Sequence[Path]) -> bool:
        """Return whether all files, the map first, exist and their image has not changed since."""
        entry = self._entry(image, files[0])
        return all(file.is_file() for file in files) and self._done.get(entry['map']) == entry

    def add(self, image: Path, out: Path) -> None:
        """Record that all files of an image are written; ``out`` is its map."""
        self._note(self._entry(image, out))

    def drop(self, out: Path) -> None:
        """Record that the files of a map are being replaced, so that none of them counts."""
        self._note({'map': self._name(out)})

    def _note(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + '\n')
        self._file.flush()

    def _name(self, out: Path) -> str:
        return str(out.relative_to(self.path.parent))

    def _entry(self, image: Path, out: Path) -> dict[str, Any]:
        return {
            'map': self._name(out),
            'image': str(image.resolve()),
            'stamp': _stamp(image),
            'fingerprint': self.fingerprint,
        }


def _stamp(path: Path) -> list[int]:
    """Return size and time of modification of a file, which change when it is replaced.

    Those of the local files that a VRT is made of follow.
    """
    files = [path]
    if path.suffix.lower() == '.vrt':
        with open_raster(path) as raster:
            files += [file for file in map(Path, raster.files[1:]) if file.is_file()]
    return [number for s in map(Path.stat, files) for number in (s.st_size, s.st_mtime_ns)]


@contextmanager
def in_background(action: Callable[[Any], None]) -> Iterator[Callable[[Any], None]]:
    """Apply an action to items one by one in a thread; a few of them may wait.

    Yields:
        A function that hands over an item, and raises the error of an earlier one.
    """
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(1) as pool:

        def hand_over(item: Any) -> None:
            while len(waiting) >= _BACKLOG:
                waiting.popleft().result()
            waiting.append(pool.submit(action, item))

        yield hand_over
        while waiting:
            waiting.popleft().result()
