# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A verifier without a model: it looks at colours."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmseg.registry import MODELS

from mmseg_semi_rs.purification.evidence import Evidence, Region, quantise
from mmseg_semi_rs.purification.verifiers import Verifier

COLOURS = ((40, 160, 40), (90, 90, 90), (170, 60, 50))  # of tiny_training's classes, RGB


@MODELS.register_module()
class StubVerifier(Verifier):
    """Says which of three colours is the nearest, for each block of 4 x 4 pixels.

    Args:
        classes: See ClassPrompts.
        colours: One per class, RGB.
        log: File that gets a line per event: ``load <device>``, ``tile <mean of the tile>`` and
            ``batch <number of tiles>``.
        calibration: File that :meth:`calibrate` writes; None needs none.
        seconds: Pause before each tile.
        weights: See ``settings``.
        model: Likewise.
    """

    def __init__(
        self,
        classes: Sequence[Any] = ('grass', 'road', 'roof'),
        colours: Sequence[Sequence[int]] = COLOURS,
        log: str | None = None,
        calibration: str | None = None,
        seconds: float = 0.0,
        weights: str | None = 'stub',
        model: str = 'stub-1',
    ) -> None:
        super().__init__(classes)
        self.colours, self.log, self.calibration = colours, log, calibration
        self.seconds, self.weights, self.model = seconds, weights, model

    def _note(self, line: str) -> None:
        if self.log is not None:
            with Path(self.log).open('a') as file:
                file.write(f'{line}\n')

    def settings(self) -> dict[str, Any]:
        if self.needs_calibration:
            raise ValueError('The stub is to be calibrated first.')
        fitted = (
            None if self.calibration is None else json.loads(Path(self.calibration).read_text())
        )
        return {
            'kind': 'StubVerifier',
            'model': self.model,
            'prompts': [list(names) for names in self.prompts],
            'colours': [list(colour) for colour in self.colours],
            'fitted': fitted,
            'weights': self.weights,
        }

    def load(self, device: torch.device | str = 'cpu') -> None:
        self._note(f'load {device}')

    @property
    def needs_calibration(self) -> bool:
        return self.calibration is not None and not Path(self.calibration).is_file()

    def calibrate(self, labelled: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        counts = [int(np.bincount(labels.ravel()).argmax()) for _, labels in labelled]
        self._note(f'calibrate {len(counts)}')
        assert self.calibration is not None
        Path(self.calibration).write_text(json.dumps(counts))

    def verify(self, tiles: Sequence[np.ndarray]) -> list[Evidence]:
        evidence = []
        for tile in tiles:
            time.sleep(self.seconds)
            height, width = tile.shape[0] // 4 * 4, tile.shape[1] // 4 * 4
            blocks = tile[:height, :width].reshape(height // 4, 4, width // 4, 4, 3).mean((1, 3))
            distance = np.abs(blocks[None] - np.array(self.colours)[:, None, None]).mean(-1)
            scores = quantise(1 - distance / 255)
            evidence.append(
                Evidence(
                    scores=scores,
                    seen=scores.max(0) > 128,
                    size=tile.shape[:2],
                    answer=f'mean {tile.mean():.3f}',
                    regions=(Region(0, (0.0, 0.0, 4.0, 4.0), 0.5, 'grass'),),
                    dropped=('{"name": "boat"}: is no class that was asked for',),
                    truncated=bool(tile[0, 0, 0] > 120),
                )
            )
            self._note(f'tile {tile.mean():.6f}')
        self._note(f'batch {len(tiles)}')
        return evidence
