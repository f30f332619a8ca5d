# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Base classes of all verifiers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ..evidence import Evidence
from ..prompts import ClassPrompts


class EvidenceMaker(ABC):
    """Makes evidence about tiles, independently of the segmentation network.

    Construction is cheap: weights and optional libraries are not loaded before :meth:`load`, so a
    training that only reads stored evidence needs neither.

    Attributes:
        bands: For multi-band tiles, the positions, from 0, of the bands shown to the model as red,
            green and blue, clipped to 8 bits. Code that loads tiles reads this attribute. None for
            the bands that pictures show.
    """

    bands: list[int] | None = None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return everything except the tile that the evidence depends on, as plain JSON.

        ``'weights'`` is a digest of the weight files, or None if they are not on this machine. In
        that case stored evidence with the same other settings is accepted.
        """

    @abstractmethod
    def load(self, device: torch.device | str = 'cpu') -> None:
        """Prepare to verify: import, read weights, move to a device. Further calls only move.

        Args:
            device: This process's own device.

        Raises:
            ImportError: If an optional library is missing; the message says what to install.
            FileNotFoundError: If a weight file does not exist; the message says where to get it.
            ValueError: If a weight file does not fit.
        """

    def check_classes(self, classes: Sequence[str]) -> None:  # noqa: B027 - some have no classes
        """Raise ValueError if a data set's classes, in their order, are not those asked for."""

    @property
    def needs_calibration(self) -> bool:
        """Whether :meth:`calibrate` must run before anything but :meth:`load`."""
        return False

    def calibrate(  # noqa: B027 - most verifiers have nothing to fit
        self, labelled: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """Fit parameters to labelled tiles once, and store them in a file.

        Args:
            labelled: Tiles (H, W, 3), uint8, RGB, and their label maps (H, W), uint8, 255 where
                there is no label. A few dozen are enough.

        Raises:
            ValueError: If the labels do not allow a fit.
        """

    @abstractmethod
    def verify(self, tiles: Sequence[np.ndarray]) -> list[Evidence]:
        """Make the evidence of tiles.

        The same tile always gives the same evidence, whatever the other tiles: decoding is greedy,
        and global random state is not used or changed.

        Args:
            tiles: Each (H, W, 3), uint8, RGB, of any size.

        Returns:
            The evidence of each tile. Unreadable parts are in ``dropped``; a bad answer never
            raises.
        """


class Verifier(EvidenceMaker):
    """Tells which class is where.

    Args:
        classes: See :class:`ClassPrompts`.
        bands: See :class:`EvidenceMaker`.

    Attributes:
        prompts: Names of the classes, and which are asked for.
        within_segments: Whether its regions should be cut to the teacher's own segments.
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
        """Number of classes K, including those that are never asked for."""
        return len(self.prompts)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Check that the prompts are for the classes of a data set, in its order.

        Args:
            classes: Names of the classes of the data set, by id.

        Raises:
            ValueError: If their number differs, or the name of a class is a prompt of another one.
        """
        if len(classes) != self.num_classes:
            raise ValueError(
                f'The verifier has prompts for {self.num_classes} classes, but the data has '
                f'{len(classes)} ({", ".join(classes)}): give one entry of names per class in '
                'verifier.classes, None for those that nobody could point at.'
            )
        for label, name in enumerate(classes):
            found = self.prompts.find(name)
            if found not in (None, label):
                raise ValueError(
                    f'Class {label} of the data is {name!r}, which verifier.classes gives as a '
                    f'name of class {found} ({classes[found]!r}): give the entries in the order of '
                    f'the class ids ({", ".join(classes)}).'
                )
