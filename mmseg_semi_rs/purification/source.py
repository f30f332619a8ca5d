# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Source of evidence for a training: the store and, within a budget, the verifier itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log

from ..utils.files import write_atomic
from .evidence import Evidence
from .store import EvidenceStore
from .verifiers import EvidenceMaker

_READERS = 4  # files read at once
_LINE = re.compile(r'-?\d+ [0-9a-f]{64}')  # a line of the journal: iteration and key


class EvidenceSource:
    """Returns the evidence of tiles, and reads ahead in threads.

    Missing evidence may be made during the training, up to ``budget`` tiles per step. To make a
    resumed training equal to an uninterrupted one even if the store has changed, a journal records
    at which iteration each entry became known. An entry that is not yet known costs budget, even if
    it is only read from the store.

    Args:
        store: The store of evidence.
        verifier: Makes missing evidence.
        load_image: Reads a tile as (H, W, 3), uint8, RGB.
        budget: Tiles per step and process that are verified during the training.
        device: Device of the verifier.
        journal: Journal file of this process, needed with a budget.
    """

    def __init__(
        self,
        store: EvidenceStore,
        verifier: EvidenceMaker,
        load_image: Callable[[str], np.ndarray],
        budget: int = 0,
        device: torch.device | str = 'cpu',
        journal: Path | None = None,
    ) -> None:
        self.store, self.verifier, self.load_image = store, verifier, load_image
        self.budget, self.device, self.journal = budget, device, journal
        self._known: set[str] = set()
        self._iteration = 0
        self._left = 0
        self._ahead: dict[str, Future[tuple[str, Evidence | None]]] = {}
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix='evidence')

    def start(self, iteration: int) -> None:
        """Determine which entries are known at the beginning of a training.

        Args:
            iteration: First iteration, 0 unless the training is resumed.
        """
        if self.journal is None:
            return
        if iteration and self.journal.is_file():
            lines = self.journal.read_text(encoding='utf-8').splitlines()
            # A killed process may have left half a line.
            whole = [line for line in lines if _LINE.fullmatch(line)]
            kept = [line for line in whole if int(line.split()[0]) < iteration]
        else:
            if iteration:
                print_log(
                    f'{self.journal} is not there, so that all evidence in {self.store.folder} is '
                    'taken as known: the resumed training may differ from an uninterrupted one.',
                    logger='current',
                    level=logging.WARNING,
                )
            kept = [f'-1 {key}' for key in sorted(self.store.keys())]
        self._known = {line.split()[1] for line in kept}
        write_atomic(self.journal, ''.join(f'{line}\n' for line in kept).encode())

    def begin_step(self, iteration: int, paths: Sequence[str]) -> None:
        """Start reading the evidence of a step's tiles.

        Args:
            iteration: The step.
            paths: Files of the tiles.
        """
        self._iteration, self._left = iteration, self.budget
        self._ahead = {path: self._readers.submit(self._read, path) for path in paths}

    def _read(self, path: str) -> tuple[str, Evidence | None]:
        key = self.store.key(path)
        return key, self.store.read(key)

    def __call__(self, paths: Sequence[str]) -> list[Evidence | None]:
        """Return the evidence of tiles, within the rest of the budget since :meth:`begin_step`.

        Args:
            paths: Files of the tiles.

        Returns:
            The evidence of each tile; None if it is missing and the budget is used up.
        """
        for path in paths:  # start all reads that are not yet under way
            if path not in self._ahead:
                self._ahead[path] = self._readers.submit(self._read, path)
        return [self._settle(path, *self._ahead[path].result()) for path in paths]

    def _settle(self, path: str, key: str, found: Evidence | None) -> Evidence | None:
        """Decide whether read evidence may be used, or make it within the budget."""
        if found is None and key in self._known:  # just made for an identical tile
            found = self.store.read(key)
        if not self.budget or (key in self._known and found is not None):
            return found
        if not self._left:
            return None
        self._left -= 1
        if found is None:
            found = self.verify(path, key)
        self._known.add(key)
        if self.journal is not None:
            with self.journal.open('a', encoding='utf-8') as journal:
                journal.write(f'{self._iteration} {key}\n')
        self._ahead[path] = self._readers.submit(lambda: (key, found))
        return found

    def verify(self, path: str, key: str, image: np.ndarray | None = None) -> Evidence:
        """Make the evidence of a tile, and store it.

        Autocast is off, so that the result does not depend on the state of the training.

        Args:
            path: File of the tile.
            key: Its key in the store.
            image: Its pixels, (H, W, 3), uint8, RGB, if already loaded.

        Returns:
            The evidence.
        """
        pixels = self.load_image(path) if image is None else image
        with torch.no_grad(), torch.autocast(torch.device(self.device).type, enabled=False):
            self.verifier.load(self.device)
            (evidence,) = self.verifier.verify([pixels])
        self.store.write(key, evidence)
        return evidence

    def close(self) -> None:
        """End the threads, and release what they have read."""
        self._readers.shutdown()
        self._ahead = {}
