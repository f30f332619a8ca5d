# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What every verifier offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ..evidence import Evidence
from ..prompts import ClassPrompts


class EvidenceMaker(ABC):
    """Looks at tiles, independently of the segmentation network, and says something about them.

    It is cheap to construct: it reads no weights and imports no optional library before
    :meth:`load`, so that a training that only reads stored evidence needs neither.

    Attributes:
        bands: Of tiles of bands the positions, from 0, of those that it is shown as red, green and
            blue, clipped to 8 bits; who loads tiles reads it. None is what pictures show.
    """

    bands: list[int] | None = None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that the evidence depends on beside the tile, as plain JSON.

        Under ``'weights'`` stands a digest of the weight files, or None where they are not on this
        machine, in which case stored evidence of the same other settings is accepted.
        """

    @abstractmethod
    def load(self, device: torch.device | str = 'cpu') -> None:
        """Get ready to verify: import, read weights, move to a device; again: move only.

        Args:
            device: This process's own device.

        Raises:
            ImportError: An optional library is missing; the message says what to install.
            FileNotFoundError: A weight file does not exist; the message says where it comes from.
            ValueError: A weight file does not fit.
        """

    @property
    def needs_calibration(self) -> bool:
        """Whether :meth:`calibrate` has to run before anything else but :meth:`load`."""
        return False

    def calibrate(  # noqa: B027 - most verifiers have nothing to fit
        self, labelled: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """Fit what is to be fitted to labelled tiles, once, and keep it in a file.

        Args:
            labelled: Tiles (H, W, 3), uint8, RGB, and their label maps (H, W), uint8, 255 where
                there is none. A few dozen are enough.

        Raises:
            ValueError: The labels do not allow a fit.
        """

    @abstractmethod
    def verify(self, tiles: Sequence[np.ndarray]) -> list[Evidence]:
        """Look at tiles.

        The same tile gives the same evidence in any company and at any time: greedy decoding, no
        global random state touched.

        Args:
            tiles: Each (H, W, 3), uint8, RGB, of any size.

        Returns:
            One per tile. What could not be read is in ``dropped``; a bad answer never raises.
        """


class Verifier(EvidenceMaker):
    """Tells which class is where.

    Args:
        classes: See :class:`ClassPrompts`.
        bands: See :class:`EvidenceMaker`.

    Attributes:
        prompts: What the classes are called, and which are asked for.
        within_segments: Whether its regions are to be cut to the teacher's own segments.
    """

    within_segments = False

    def __init__(
        self,
        classes: str | Sequence[str | Sequence[str] | None],
        bands: Sequence[int] | None = None,
    ) -> None:
        self.prompts = ClassPrompts(classes)
        self.bands = None if bands is None else list(bands)

    @property
    def num_classes(self) -> int:
        """Number of classes K, those that are never asked for included."""
        return len(self.prompts)
