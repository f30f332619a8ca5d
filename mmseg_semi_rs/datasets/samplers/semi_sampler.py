# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Batches of labelled and unlabelled samples in a fixed ratio, resumable in O(1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count, islice

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from ...utils.randomness import Draw, derive_seed
from ..semi_dataset import SemiDataset


@DATA_SAMPLERS.register_module()
class SemiSampler(Sampler[int]):
    """Endless sampler of batches with first the labelled samples, then the unlabelled ones.

    Each source is an endless sequence of seeded permutations of its samples. In step t, rank r of W
    takes the positions ``t * W * n + r * n ... + n - 1`` of each source, where n is the number of
    samples of the source per batch. The ranks' samples are therefore disjoint, W ranks with batch B
    see the same samples as one rank with batch W * B, and any step is found by arithmetic, without
    reading data.

    Args:
        dataset: The dataset to sample from.
        batch_size: Samples per batch on one rank; must equal that of the dataloader.
        source_ratio: Ratio labelled : unlabelled, e.g. ``[1, 1]``; ``[1, 0]`` uses labelled samples
            only. Defaults to (1, 1).
        seed: Seed of the order and of every sample's transforms. The runner passes its own.
            Defaults to None, a random seed shared by all ranks.
        shuffle: Must be True; accepted because stock configs pass it to their samplers.

    Raises:
        ValueError: If shuffle is False, the ratio does not divide the batch size, or a required
            source is empty.
        TypeError: If the dataset is not a ``SemiDataset``.
    """

    def __init__(
        self,
        dataset: SemiDataset,
        batch_size: int,
        source_ratio: Sequence[int] = (1, 1),
        seed: int | None = None,
        shuffle: bool = True,
    ) -> None:
        if not shuffle:
            raise ValueError(f'{type(self).__name__} always shuffles: leave shuffle=False out.')
        if not isinstance(dataset, SemiDataset):
            raise TypeError(
                f'{type(self).__name__} samples from a SemiDataset(labelled=..., unlabelled=...), '
                f'got {type(dataset).__name__}.'
            )
        self.sizes = dataset.source_sizes
        ratio = tuple(source_ratio)
        if len(ratio) != 2 or min(ratio) < 0 or sum(ratio) == 0:
            raise ValueError(
                f'source_ratio={list(ratio)} must be two non-negative numbers, labelled and '
                'unlabelled, not both 0.'
            )
        if batch_size < 1 or batch_size % sum(ratio):
            raise ValueError(
                f'batch_size={batch_size} cannot be split in the ratio source_ratio={list(ratio)} '
                f'(labelled : unlabelled): use a multiple of {sum(ratio)}.'
            )
        for name, size, part in zip(('labelled', 'unlabelled'), self.sizes, ratio, strict=True):
            if part and not size:
                raise ValueError(
                    f'source_ratio={list(ratio)} with batch_size={batch_size} asks for {name} '
                    f'samples, but the dataset has {self.sizes[0]} labelled and {self.sizes[1]} '
                    'unlabelled ones: give a list with samples or set that part of the ratio to 0.'
                )
        self.batch_size = batch_size
        self.per_batch = [batch_size * part // sum(ratio) for part in ratio]
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.skip(0)
        self._permutation = lru_cache(maxsize=4)(self._make_permutation)

    _steps: int | None

    def skip(self, steps: int) -> None:
        """Start the next iteration over the sampler at a later step, without reading data.

        Args:
            steps: Number of batches already trained on.
        """
        self._first_step, self._steps = steps, None

    def _make_permutation(self, source: int, epoch: int) -> list[int]:
        generator = torch.Generator()
        generator.manual_seed(derive_seed(self.seed, source, epoch))
        return torch.randperm(self.sizes[source], generator=generator).tolist()

    def draw(self, source: int, position: int) -> int:
        """Return the sample at a position of a source's endless sequence.

        Args:
            source: 0 for labelled, 1 for unlabelled.
            position: Any non-negative position.

        Returns:
            Index within the source.
        """
        epoch, offset = divmod(position, self.sizes[source])
        return self._permutation(source, epoch)[offset]

    def batch(self, step: int) -> list[Draw]:
        """Return the batch of one step on this rank, labelled samples first.

        Args:
            step: Training step, from 0.

        Returns:
            ``batch_size`` indices into the dataset.
        """
        draws = []
        for source, size in enumerate(self.per_batch):
            first = (step * self.world_size + self.rank) * size
            for position in range(first, first + size):
                index = self.draw(source, position) + (self.sizes[0] if source else 0)
                draws.append(Draw(index, (self.seed, source, position)))
        return draws

    def __iter__(self) -> Iterator[int]:
        steps = count(self._first_step)
        for step in steps if self._steps is None else islice(steps, self._steps):
            yield from self.batch(step)

    def __len__(self) -> int:
        """Number of samples of one nominal pass over the larger source."""
        return max(self.sizes)

    def set_epoch(self, epoch: int) -> None:
        """Limit the next iteration to one nominal pass, for loops that train by epochs.

        The sequence depends only on the step: successive passes continue the endless sequence.

        Args:
            epoch: Number of previous passes.
        """
        self._steps = -(-len(self) // self.batch_size)
        self._first_step = epoch * self._steps
