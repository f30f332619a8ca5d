# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Class-free regions of tiles: which pixels belong together, whatever their class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import torch
from mmseg.registry import MODELS

from .evidence import Evidence
from .verifiers.base import EvidenceMaker
from .verifiers.masks import SegmentAnything

_METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        'felzenszwalb': MappingProxyType(dict(scale=100.0, sigma=0.5, min_size=50)),
        'slic': MappingProxyType(dict(n_segments=300, compactness=10.0, sigma=0.0)),
    }
)


class RegionProposer(EvidenceMaker):
    """Divides tiles into regions without classes, for the policy ``RegionVote``."""

    @abstractmethod
    def propose(self, tile: np.ndarray) -> np.ndarray:
        """Divide a tile into regions.

        Args:
            tile: Shape (H, W, 3), uint8, RGB.

        Returns:
            Region number of each pixel, shape (H, W), integers of 0 or more; 0 for no region.
        """

    def verify(self, tiles: Sequence[np.ndarray]) -> list[Evidence]:
        """See :meth:`EvidenceMaker.verify`; the evidence has ``region_ids`` and no scores."""
        found = []
        for tile in tiles:
            ids = consecutive(self.propose(tile))
            nothing = np.zeros((0, 1, 1), np.uint8)
            seen = np.zeros((1, 1), np.bool_)
            answer = f'{ids.max()} regions'
            found.append(Evidence(nothing, seen, tile.shape[:2], answer, region_ids=ids))
        return found


def consecutive(ids: np.ndarray) -> np.ndarray:
    """Renumber regions as 1, 2, ... in the order of their numbers; 0 stays 0.

    Args:
        ids: Shape (H, W), integers of 0 or more.

    Returns:
        The same regions, as uint16, or uint32 if there are more than 65,535.
    """
    used, found = np.unique(ids, return_inverse=True)
    ids = found.reshape(ids.shape) + (used[0] != 0)  # numpy 1 gives them flat
    return ids.astype(np.uint16 if ids.max() < 2**16 else np.uint32)


def stack_masks(masks: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Stack masks, the largest at the bottom, so that small ones are not hidden.

    Args:
        masks: Each (H, W), bool.
        size: Height and width of the tile in pixels.

    Returns:
        Number of the topmost mask at each pixel, shape (H, W), int64, 0 for none.
    """
    ids = np.zeros(size, np.int64)
    for number, mask in enumerate(sorted(masks, key=lambda mask: -mask.sum()), start=1):
        ids[mask] = number
    return ids


@MODELS.register_module()
class SuperpixelProposer(RegionProposer):
    """Superpixels of scikit-image, without weights and the same on every machine.

    Args:
        method: 'felzenszwalb' (regions of any size, along edges) or 'slic' (compact regions of
            about one size).
        settings: Arguments of the function of that name in ``skimage.segmentation``. Defaults to
            None: ``scale``, ``sigma`` and ``min_size`` of 100, 0.5 and 50, or ``n_segments``,
            ``compactness`` and ``sigma`` of 300, 10 and 0.

    Raises:
        ValueError: If the method or a setting is unknown.
    """

    def __init__(
        self, method: str = 'felzenszwalb', settings: Mapping[str, float] | None = None
    ) -> None:
        known = dict(_METHODS.get(method, {}))
        if not known or set(settings or {}) - set(known):
            raise ValueError(
                f'SuperpixelProposer got method={method!r}, settings={settings}: give one of '
                + ' or '.join(f'{name} with {sorted(keys)}' for name, keys in _METHODS.items())
                + '.'
            )
        self.method, self.arguments = method, {**known, **(settings or {})}
        self._segmentation: ModuleType | None = None

    def settings(self) -> dict[str, Any]:
        """See :meth:`EvidenceMaker.settings`; the library's version replaces the weights."""
        try:
            release: str | None = '.'.join(version('scikit-image').split('.')[:2])
        except PackageNotFoundError:
            release = None
        return {
            'proposer': type(self).__name__,
            'method': self.method,
            **self.arguments,
            'weights': release and f'scikit-image {release}',
        }

    def load(self, device: torch.device | str = 'cpu') -> None:
        """See :meth:`EvidenceMaker.load`; always works on the CPU."""
        try:
            from skimage import segmentation
        except ImportError as error:
            raise ImportError(
                f'Superpixels need scikit-image ({error}): '
                "run pip install 'mmseg_semi_rs[regions]'."
            ) from error
        self._segmentation = segmentation

    def propose(self, tile: np.ndarray) -> np.ndarray:
        """See :meth:`RegionProposer.propose`; every pixel is in a region."""
        ids = getattr(self._segmentation, self.method)(tile, **self.arguments)
        return np.asarray(ids) + (1 - ids.min())


@MODELS.register_module()
class SAMProposer(RegionProposer):
    """All masks that a Segment Anything model finds on a grid of points (SAM, SAM 2, SAM 3).

    Masks are stacked, the largest at the bottom; pixels without a mask belong to no region.

    Args:
        model: A folder, or ``owner/name`` on the Hugging Face hub, of any model that
            ``AutoModelForMaskGeneration`` loads.
        revision: Revision on the hub. Defaults to None, the main branch.
        points: Points per side of the grid.
        quality: Smallest predicted IoU of a mask.
        stability: Smallest IoU between a mask at a stricter and at a laxer threshold.
        overlap: Box IoU above which the worse of two masks is dropped.
        local_files_only: Whether :meth:`load` must not download missing files.

    Raises:
        ValueError: If ``points`` is below 1.
    """

    def __init__(
        self,
        model: str = 'facebook/sam-vit-base',
        revision: str | None = None,
        points: int = 32,
        quality: float = 0.88,
        stability: float = 0.95,
        overlap: float = 0.7,
        local_files_only: bool = True,
    ) -> None:
        if points < 1:
            raise ValueError(f'SAMProposer points={points} must be 1 or more per side.')
        self.segment = SegmentAnything(model, revision, download=not local_files_only)
        self.arguments: dict[str, Any] = dict(
            points=points, quality=quality, stability=stability, overlap=overlap
        )

    def settings(self) -> dict[str, Any]:
        """See :meth:`EvidenceMaker.settings`; needs neither transformers nor the model."""
        return {
            'proposer': type(self).__name__,
            **self.segment.settings(),
            **self.arguments,
            'weights': self.segment.digest(),
        }

    def load(self, device: torch.device | str = 'cpu') -> None:
        """See :meth:`EvidenceMaker.load`."""
        self.segment.load(device)

    def propose(self, tile: np.ndarray) -> np.ndarray:
        """See :meth:`RegionProposer.propose`."""
        return stack_masks(self.segment.everything(tile, **self.arguments), tile.shape[:2])
