# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Makes the evidence of all tiles of a data set before the training, and stores it."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from mmengine.config import Config
from tqdm import tqdm

from ..datasets.tiles import band_reading, load_tile
from ..purification.evidence import Evidence
from ..purification.store import EvidenceStore
from ..purification.verifiers import EvidenceMaker
from ..utils.sampling import evenly
from .processes import Processes

__all__ = [
    'Annotation',
    'StoredTile',
    'annotate',
    'calibrate',
    'find_hook',
    'find_hooks',
    'try_out',
]

_CALIBRATION_TILES = 50
_LOADERS = 4  # threads that read tiles, and compress evidence
_LOG_SECONDS = 60.0  # between lines of progress if there is no terminal
_TOP_REASONS = 5

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


class StoredTile(NamedTuple):
    """A tile that is listed but not loaded.

    Attributes:
        dataset: The dataset that lists it.
        number: Its index in the dataset.
        path: Its file.
    """

    dataset: Any
    number: int
    path: str

    def image(self, bands: Sequence[int] | None = None) -> np.ndarray:
        """Load the pixels, (H, W, 3) uint8 RGB; see ``bands`` of a verifier."""
        return load_tile(self.dataset, self.number, with_labels=False, bands=bands).image


class _StoreState(NamedTuple):
    """State of a tile's entry in the store."""

    number: int
    key: str
    state: str  # 'kept', 'missing', 'damaged' or, with a reason, 'failed'
    reason: str = ''
    truncated: bool = False
    dropped: tuple[str, ...] = ()


@dataclass
class Annotation:
    """Statistics of what was done, and of the entries that the store now has.

    Attributes:
        tiles: Number of tiles.
        duplicates: Tiles with the same content as an earlier one.
        kept: Entries that already existed.
        new: Missing entries that were made.
        redone: Damaged entries that were made again.
        failed: Tiles that could not be read: reason by path.
        truncated: Entries whose answer ends before it is complete.
        dropped: Number of unusable parts of answers, by reason.
        seconds: Time for verifying and waiting for images, summed over processes.
    """

    tiles: int = 0
    duplicates: int = 0
    kept: int = 0
    new: int = 0
    redone: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    truncated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add_answer(self, truncated: bool, dropped: Iterable[str]) -> None:
        """Count the faults of an answer; the reason is the text after the last colon."""
        self.truncated += truncated
        self.dropped.update(part.rsplit(': ', 1)[-1] for part in dropped)

    def merge(self, other: Annotation) -> None:
        """Add the statistics of another process."""
        self.kept += other.kept
        self.new += other.new
        self.redone += other.redone
        self.failed.update(other.failed)
        self.truncated += other.truncated
        self.dropped.update(other.dropped)
        self.seconds += other.seconds

    def __str__(self) -> str:
        made = self.new + self.redone
        lines = [
            f'{self.tiles} tiles: {self.new} new, {self.kept} kept, {self.redone} damaged and made '
            f'again, {self.duplicates} with the content of another, {len(self.failed)} failed'
        ]
        if made:
            lines[0] += f'; {self.seconds / made:.3g} s per tile and process'
        if self.truncated:
            lines.append(f'{self.truncated} answers end before they are complete')
        if self.dropped:
            reasons = ', '.join(f'{n} x {why}' for why, n in self.dropped.most_common(_TOP_REASONS))
            lines.append(f'{self.dropped.total()} parts of answers could not be used: {reasons}')
        return '\n'.join(lines)


def find_hooks(cfg: Config, index: int | None = None) -> list[int]:
    """Find the VLMPurifyHooks in the ``custom_hooks`` of a config.

    Args:
        cfg: The config.
        index: Position of the only wanted hook; None for all.

    Returns:
        Positions in ``custom_hooks``.

    Raises:
        ValueError: If there is none, or none at that position.
    """
    hooks = cfg.get('custom_hooks') or []
    places = [
        place
        for place, hook in enumerate(hooks)
        if str(getattr(hook.get('type'), '__name__', hook.get('type'))).endswith('VLMPurifyHook')
    ]
    if not places:
        raise ValueError(
            f'custom_hooks of {cfg.filename} has no VLMPurifyHook, whose verifier and store are '
            'wanted: use a config of configs/semiearth, or add the hook.'
        )
    if index is None:
        return places
    if index not in places:
        raise ValueError(_choose(cfg, index, places))
    return [index]


def find_hook(cfg: Config, index: int | None = None) -> int:
    """Find the position of the one VLMPurifyHook that is meant; see :func:`find_hooks`.

    Raises:
        ValueError: If there is none, or if there are several and ``index`` chooses none of them.
    """
    places = find_hooks(cfg, index)
    if len(places) > 1:
        raise ValueError(_choose(cfg, index, places))
    return places[0]


def _choose(cfg: Config, index: int | None, places: Sequence[int]) -> str:
    return (
        f'--hook {index} chooses no VLMPurifyHook of {cfg.filename}: give one of '
        f'{", ".join(map(str, places))}, which are their places in custom_hooks.'
    )


def evidence_settings(verifier: EvidenceMaker, dataset: Any) -> dict[str, Any]:
    """Everything except the files that the evidence of a dataset's tiles depends on.

    Args:
        verifier: The verifier, calibrated if necessary.
        dataset (BaseSegDataset): The dataset of the tiles, with its pipeline.

    Returns:
        The verifier's settings; for multi-band tiles also how they are converted to RGB.
    """
    reading = band_reading(dataset)
    if reading is None:
        return verifier.settings()
    return {**verifier.settings(), 'pixels': reading, 'bands': verifier.bands}


def calibrate(verifier: EvidenceMaker, labelled: Any, device: str) -> None:
    """Fit a verifier that needs it to up to 50 labelled tiles, evenly chosen.

    Args:
        verifier: Loaded and calibrated in place.
        labelled (BaseSegDataset): Dataset with a pipeline that loads labels.
        device: Device of the verifier.

    Raises:
        ValueError: If the dataset loads no labels, or they do not allow a fit.
    """
    if not verifier.needs_calibration:
        return
    verifier.load(device)

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in evenly(len(labelled), _CALIBRATION_TILES):
            tile = load_tile(labelled, index, bands=verifier.bands)
            if tile.labels is None:
                raise ValueError(
                    f'{type(verifier).__name__} is to be fitted to labelled tiles, but the '
                    f'pipeline of {tile.path} loads no labels: add LoadAnnotations to it.'
                )
            yield tile.image, tile.labels

    verifier.calibrate(pairs())


def annotate(
    verifier: EvidenceMaker,
    store: EvidenceStore,
    tiles: Sequence[StoredTile],
    device: str,
    batch: int,
    processes: Processes,
) -> Annotation:
    """Make the evidence that the store lacks.

    First each process checks the entries for its share of the tiles. The missing ones, each content
    once, are then distributed anew. The verifier is loaded only if some are missing. Entries are
    written batch by batch, so that at most one batch is lost if the process is killed.

    Args:
        verifier: The verifier, not yet loaded.
        store: The store for the verifier's settings.
        tiles: The tiles, the same in all processes.
        device: Device of this process's verifier.
        batch: Tiles per call of the verifier.
        processes: The processes that share the work.

    Returns:
        Statistics of all processes, the same in each.

    Raises:
        ValueError: If the store is not writable.
    """
    store.prepare()
    states = _look(store, tiles, processes)
    done = Annotation(len(tiles))
    unique: dict[str, _StoreState] = {}
    for entry in states:
        if entry.state == 'failed':
            done.failed[tiles[entry.number].path] = entry.reason
        elif unique.setdefault(entry.key, entry) is not entry:
            done.duplicates += 1
    for entry in unique.values():
        if entry.state == 'kept':
            done.kept += 1
            done.add_answer(entry.truncated, entry.dropped)
    lacking = [entry for entry in unique.values() if entry.state != 'kept']
    mine = lacking[processes.rank :: processes.count]
    for part in processes.gather(_make(verifier, store, tiles, mine, device, batch, processes)):
        done.merge(part)
    return done


def try_out(
    verifier: EvidenceMaker, tiles: Sequence[StoredTile], device: str, batch: int
) -> tuple[list[tuple[str, Evidence]], float]:
    """Verify four tiles, evenly chosen, without storing the evidence.

    Args:
        verifier: Loaded in place.
        tiles: One or more tiles.
        device: Device of the verifier.
        batch: Tiles per call of the verifier.

    Returns:
        Path and evidence of each; and seconds per tile, without the slower first one if there are
        others.
    """
    verifier.load(device)
    chosen = [tiles[index] for index in evenly(len(tiles), 4)]
    answers: list[tuple[str, Evidence]] = []
    seconds = 0.0
    rest = [chosen[start : start + batch] for start in range(1, len(chosen), batch)]
    for number, part in enumerate([chosen[:1], *rest]):
        images = [tile.image(verifier.bands) for tile in part]
        started = time.perf_counter()
        evidence = verifier.verify(images)
        passed = time.perf_counter() - started
        seconds = passed if number < 2 else seconds + passed
        answers += zip((tile.path for tile in part), evidence, strict=True)
    return answers, seconds / max(1, len(chosen) - 1)


def _look(
    store: EvidenceStore, tiles: Sequence[StoredTile], processes: Processes
) -> list[_StoreState]:
    """State of all tiles in the store, in their order; each process checks its share."""

    def look(number: int) -> _StoreState:
        try:
            key = store.key(tiles[number].path)
        except OSError as error:
            return _StoreState(number, '', 'failed', str(error))
        evidence = store.read(key)
        if evidence is None:
            return _StoreState(number, key, 'damaged' if key in store else 'missing')
        return _StoreState(number, key, 'kept', '', evidence.truncated, evidence.dropped)

    share = range(processes.rank, len(tiles), processes.count)
    with ThreadPoolExecutor(_LOADERS) as pool, _meter('looking', len(share), processes) as meter:
        states = []
        for _, future in _ahead(pool, look, share, 4 * _LOADERS):
            states.append(future.result())
            meter.update()
    return sorted(entry for part in processes.gather(states) for entry in part)


def _make(
    verifier: EvidenceMaker,
    store: EvidenceStore,
    tiles: Sequence[StoredTile],
    lacking: Sequence[_StoreState],
    device: str,
    batch: int,
    processes: Processes,
) -> Annotation:
    """Verify tiles batch by batch while the next images are loaded."""
    done = Annotation()
    if not lacking:
        return done
    verifier.load(device)
    started = time.perf_counter()

    def load(entry: _StoreState) -> np.ndarray:
        image = tiles[entry.number].image(verifier.bands)
        if store.key(tiles[entry.number].path) != entry.key:
            raise ValueError('It was changed a moment ago: run the tool again.')
        return image

    with (
        ThreadPoolExecutor(_LOADERS) as pool,
        _meter('verifying', len(lacking), processes) as meter,
    ):
        loaded: list[tuple[_StoreState, np.ndarray]] = []

        def flush() -> None:
            entries = [entry for entry, _ in loaded]
            evidence = verifier.verify([image for _, image in loaded])
            if len(evidence) != len(entries):
                raise RuntimeError(
                    f'{type(verifier).__name__} gave {len(evidence)} results for {len(entries)} '
                    'tiles.'
                )
            list(pool.map(store.write, [entry.key for entry in entries], evidence))
            for entry, result in zip(entries, evidence, strict=True):
                done.new += entry.state == 'missing'
                done.redone += entry.state == 'damaged'
                done.add_answer(result.truncated, result.dropped)
            loaded.clear()
            meter.update(len(entries))

        for entry, future in _ahead(pool, load, lacking, 2 * batch):
            try:
                loaded.append((entry, future.result()))
            except (FileNotFoundError, ValueError) as error:
                done.failed[tiles[entry.number].path] = str(error)
                meter.update()
            if len(loaded) == batch:
                flush()
        if loaded:
            flush()
    done.seconds = time.perf_counter() - started
    return done


def _ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    count: int,
) -> Iterator[tuple[_Item, Future[_Result]]]:
    """Yield each item with its future result, in order; ``count`` items are processed ahead."""
    waiting: deque[tuple[_Item, Future[_Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def _meter(title: str, total: int, processes: Processes) -> Any:
    """Progress bar for the first process's share."""
    return tqdm(
        total=total,
        desc=title,
        unit='tile',
        disable=not (processes.first and total),
        mininterval=0.1 if sys.stderr.isatty() else _LOG_SECONDS,
    )
