# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Conversion of downloaded datasets into tiles in mmseg's ``img_dir`` / ``ann_dir`` layout.

Every tile is written under a temporary name and renamed, and every finished image is recorded in
``conversion_journal.jsonl``: a killed run resumes where it stopped, and a file that was downloaded
again is converted again. Damaged or missing files are reported at the end.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.console import Console

from ...rasters.windows import Edge, cut_window, tile_name, tile_windows, window_starts
from ...utils.files import write_atomic, write_png
from ...utils.progress import progress_bar
from .archives import SourceError, SourceFile
from .raw_labels import LabelDecoder

JOURNAL = 'conversion_journal.jsonl'
SUMMARY = 'conversion.json'


@dataclass(frozen=True)
class Cut:
    """How images are cut into tiles.

    Args:
        window: Side of a tile in pixels; None keeps whole images.
        stride: Distance between tiles. Defaults to ``window``.
        edge: ``'shift'`` moves the last row and column inside the image, as mmseg does; ``'pad'``
            lets them extend beyond it, with image pixels 0 and ignored labels.
    """

    window: int | None = 512
    stride: int | None = None
    edge: Edge = 'shift'

    def __post_init__(self) -> None:
        if self.window is None and self.stride is not None:
            raise ValueError(f'A stride ({self.stride}) needs a window.')
        if self.window is not None:  # raises a ValueError for invalid values
            window_starts(self.window, self.window, self.stride or self.window, self.edge)


@dataclass(frozen=True)
class Job:
    """One image of a dataset and its label.

    Attributes:
        key: Beginning of the names of its tiles.
        subset: Folder below ``img_dir`` and ``ann_dir``.
        images: Copies of the image, of which the first readable one is used.
        labels: Copies of the label; None for an image that was published without one.
        whole: Whether an uncut image is named ``key`` (otherwise ``key_0_0_<width>_<height>``).
    """

    key: str
    subset: str
    images: tuple[SourceFile, ...]
    labels: tuple[SourceFile, ...] | None
    whole: bool = True

    @property
    def fingerprint(self) -> str:
        """Text that changes when one of the files is replaced, added or removed."""
        return '|'.join(source.fingerprint for source in (*self.images, *(self.labels or ())))


@dataclass
class Converted:
    """Result of one job.

    Attributes:
        names: Names of the tiles, without folder and suffix.
        pixels: Number of labelled pixels of each id, with overlaps counted twice.
        notes: Remarks for the log.
        failure: Why there are no tiles; None if there are.
    """

    key: str
    subset: str
    fingerprint: str
    labelled: bool
    names: list[str] = field(default_factory=list)
    pixels: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failure: str | None = None


@dataclass
class Report:
    """Result of the conversion of a dataset.

    Attributes:
        done: Images converted in this run or already complete.
        skipped: Number of images in ``done`` that were already complete.
        failures: A message for each image that could not be converted or found.
    """

    done: list[Converted]
    skipped: int
    failures: list[str]

    @property
    def notes(self) -> list[str]:
        """Remarks on all images, ordered by name."""
        return [note for item in self.done for note in item.notes]


def convert_one(job: Job, out_dir: Path, cut: Cut, decoder: LabelDecoder) -> Converted:
    """Convert one image and its label; an unusable file is returned as a ``failure``."""
    result = Converted(job.key, job.subset, job.fingerprint, job.labels is not None)
    try:
        if not job.images:
            raise SourceError(f'{job.key} has a label but no image: download the images again.')
        if job.labels is not None and not job.labels:
            raise SourceError(f'{job.key} has an image but no label: download the labels again.')
        ids = None
        if job.labels:
            for number, source in enumerate(job.labels):
                try:
                    decoded = decoder.decode(source.open_image(), str(source))
                    break
                except SourceError as error:
                    if number + 1 == len(job.labels):
                        raise
                    result.notes.append(f'{error} The label was taken from another file.')
            ids = decoded.ids
            result.notes += decoded.notes
        for number, source in enumerate(job.images):
            try:
                image = source
                pixels = source.read_pixels()
                break
            except SourceError as error:
                if number + 1 == len(job.images):
                    raise
                result.notes.append(f'{error} The image was taken from another file.')
        if ids is not None and ids.shape != pixels.shape[:2]:
            raise SourceError(
                f'{job.key}: the label is {ids.shape[1]} x {ids.shape[0]} pixels but the image '
                f'{pixels.shape[1]} x {pixels.shape[0]}: download both again.'
            )
    except SourceError as error:
        result.failure = str(error)
        return result

    whole_name = cut.window is None and job.whole
    counts = np.zeros(256, np.int64)
    height, width = pixels.shape[:2]
    for window in tile_windows(width, height, cut.window, cut.stride, cut.edge):
        name = tile_name(job.key, None if whole_name else window)
        # the label first, since an image without label would be taken as unlabelled
        if ids is not None:
            tile = cut_window(ids, window, decoder.ignore_id)
            counts += np.bincount(tile.ravel(), minlength=256)
            write_png(out_dir / 'ann_dir' / job.subset / f'{name}.png', tile)
        path = out_dir / 'img_dir' / job.subset / f'{name}{image.suffix}'
        image.write_tile(path, pixels, window)
        result.names.append(name)
    result.pixels = {int(k): int(counts[k]) for k in np.flatnonzero(counts)}
    return result


def convert(
    jobs: Sequence[Job],
    out_dir: Path,
    cut: Cut,
    decoder: LabelDecoder,
    workers: int = 1,
    missing: Iterable[str] = (),
    console: Console | None = None,
) -> Report:
    """Convert a dataset.

    Args:
        jobs: Images of the dataset.
        out_dir: Output folder for ``img_dir/<subset>``, ``ann_dir/<subset>``, a journal and a
            summary.
        cut: How to cut tiles.
        decoder: Decoder of the labels.
        workers: Number of processes; each holds one image and its label in memory.
        missing: Messages about files that were not found, counted as failures.
        console: Console for the progress bar. Defaults to standard error.

    Raises:
        ValueError: ``out_dir`` is a file or holds other tiles, two jobs have one name, or a worker
            was killed.
    """
    twice = [item for item, count in Counter((j.subset, j.key) for j in jobs).items() if count > 1]
    if twice:
        raise ValueError(
            f'Two images are called {"/".join(twice[0])}: give one copy of the data set.'
        )
    if out_dir.exists() and not out_dir.is_dir():
        raise ValueError(f'{out_dir} is no folder, for tiles to go to: choose another --out-dir.')
    options = {**asdict(cut), 'labels': repr(decoder)}
    finished = _read_journal(out_dir, options)
    done = [
        finished[job.subset, job.key]
        for job in jobs
        if (job.subset, job.key) in finished and _complete(out_dir, job, finished)
    ]
    skipped = {(item.subset, item.key) for item in done}
    waiting = [job for job in jobs if (job.subset, job.key) not in skipped]
    for job in waiting:
        for folder in ('img_dir', 'ann_dir') if job.labels is not None else ('img_dir',):
            (out_dir / folder / job.subset).mkdir(parents=True, exist_ok=True)
    failures = list(missing)
    with (
        _open_journal(out_dir, options) as log,
        progress_bar(console, transient=False) as progress,
    ):
        for job in waiting:
            if (job.subset, job.key) in finished:  # its tiles are going to be replaced
                dropped = Converted(job.key, job.subset, '', job.labels is not None)
                log.write(json.dumps(asdict(dropped)) + '\n')
        log.flush()
        task = progress.add_task('converting', total=len(jobs), completed=len(skipped))
        for result in _run(waiting, out_dir, cut, decoder, workers):
            if result.failure is None:
                done.append(result)
                log.write(json.dumps(asdict(result)) + '\n')
                log.flush()
            else:
                failures.append(result.failure)
                progress.console.print(f'failed: {result.failure}', style='red')
            progress.advance(task)
    done.sort(key=lambda item: (item.subset, item.key))
    report = Report(done, len(skipped), failures)
    _write_summary(out_dir, options, report)
    return report


def _run(
    jobs: Sequence[Job], out_dir: Path, cut: Cut, decoder: LabelDecoder, workers: int
) -> Iterator[Converted]:
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield convert_one(job, out_dir, cut, decoder)
        return
    # fork, where available, saves each worker the import of the package
    fork = 'fork' in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context('fork' if fork else 'spawn')
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)),
        mp_context=context,
        initializer=_end_with_parent,
        initargs=(os.getpid(),),
    )
    try:
        futures: list[Future[Converted]] = [
            pool.submit(convert_one, job, out_dir, cut, decoder) for job in jobs
        ]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise ValueError(
            f'A worker process was killed, probably for want of memory: start again with fewer '
            f'than {workers} --workers; what is finished is kept.'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent(parent: int) -> None:
    """Let a worker exit when its parent was killed, instead of waiting for work forever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _complete(out_dir: Path, job: Job, finished: dict[tuple[str, str], Converted]) -> bool:
    item = finished[job.subset, job.key]
    folders = {'img_dir': job.images[0].suffix if job.images else '.png'}
    if job.labels is not None:
        folders['ann_dir'] = '.png'
    return item.fingerprint == job.fingerprint and all(
        (out_dir / folder / job.subset / f'{name}{suffix}').is_file()
        for folder, suffix in folders.items()
        for name in item.names
    )


def _read_journal(out_dir: Path, options: dict[str, Any]) -> dict[tuple[str, str], Converted]:
    """Return the finished images of earlier runs with the same options."""
    journal = out_dir / JOURNAL
    if not journal.is_file():
        if any((out_dir / 'img_dir').glob('*/*')):
            raise ValueError(
                f'{out_dir / "img_dir"} holds files that this converter did not write: choose '
                'another --out-dir, or move them away.'
            )
        return {}
    finished: dict[tuple[str, str], Converted] = {}
    for line in journal.read_text(encoding='utf-8').splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the run was killed while writing this line
            continue
        if 'options' in entry:
            changed = [key for key in options if entry['options'].get(key) != options[key]]
            if 'labels' in changed:
                raise ValueError(
                    f'{out_dir} holds tiles of labels that mean something else, as of another data '
                    'set: choose another --out-dir, or delete that one.'
                )
            if changed:
                before = ', '.join(f'{key} {entry["options"].get(key)}' for key in changed)
                now = ', '.join(f'{key} {options[key]}' for key in changed)
                raise ValueError(
                    f'{out_dir} holds tiles cut with {before}, not {now}: choose another '
                    '--out-dir, or delete that one.'
                )
            continue
        entry['pixels'] = {int(key): value for key, value in entry['pixels'].items()}
        finished[entry['subset'], entry['key']] = Converted(**entry)
    return finished


def _open_journal(out_dir: Path, options: dict[str, Any]) -> TextIO:
    """Open the journal for appending, and create it if missing."""
    journal = out_dir / JOURNAL
    if not journal.exists():
        out_dir.mkdir(parents=True, exist_ok=True)
        write_atomic(journal, (json.dumps({'options': options}) + '\n').encode())
    killed_within_a_line = not journal.read_bytes().endswith(b'\n')
    log = journal.open('a', encoding='utf-8')
    if killed_within_a_line:
        log.write('\n')
    return log


def _write_summary(out_dir: Path, options: dict[str, Any], report: Report) -> None:
    subsets: dict[str, dict[str, int]] = {}
    pixels: Counter[int] = Counter()
    for item in report.done:
        subset = subsets.setdefault(item.subset, {'images': 0, 'tiles': 0, 'labelled_tiles': 0})
        subset['images'] += 1
        subset['tiles'] += len(item.names)
        subset['labelled_tiles'] += len(item.names) if item.labelled else 0
        pixels.update(item.pixels)
    summary = {
        'options': options,
        'subsets': subsets,
        'pixels_by_id': {str(key): pixels[key] for key in sorted(pixels)},
        'notes': report.notes,
        'failures': report.failures,
    }
    write_atomic(out_dir / SUMMARY, (json.dumps(summary, indent=1) + '\n').encode())
