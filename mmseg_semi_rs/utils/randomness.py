# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Randomness as a function of (seed, draw), so that results do not depend on the process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class Draw(int):
    """A dataset index that remembers its position among all draws of the training.

    A sampler yields it, and the dataset seeds its transforms from ``entropy``. Being an int it
    passes through any DataLoader, and it survives pickling into worker processes.

    Args:
        index: Index into the dataset.
        entropy: Non-negative integers that identify the draw: (seed, source, position in the
            source's endless sequence), the same for every world size.
    """

    entropy: tuple[int, ...]

    def __new__(cls, index: int, entropy: tuple[int, ...]) -> Draw:
        """Create the index."""
        draw = super().__new__(cls, index)
        draw.entropy = entropy
        return draw

    def __reduce__(self) -> tuple[type[Draw], tuple[int, tuple[int, ...]]]:
        return Draw, (int(self), self.entropy)


def derive_seed(*numbers: int) -> int:
    """Hash integers into one 63-bit seed; neighbouring inputs give unrelated seeds.

    Args:
        *numbers: Non-negative integers, e.g. (seed, source, draw).

    Returns:
        The seed, in [0, 2**63).
    """
    words = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed python, numpy and torch (CPU) inside the block, and restore their states after it.

    Library transforms draw from the global generators; this makes their draws reproducible without
    changing the random state of the process.

    Args:
        *numbers: Non-negative integers, e.g. (seed, source, draw).
    """
    seed = derive_seed(*numbers)
    before: tuple[Any, Any, torch.Tensor] = (
        random.getstate(),
        np.random.get_state(),  # noqa: NPY002 - the transforms use the global generator
        torch.get_rng_state(),
    )
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def seed_step(*numbers: int) -> None:
    """Seed python, numpy and torch (all devices) for one training step, without a host sync.

    Draws on the device (CutMix, dropout) then depend on the step alone, so a resumed training
    repeats those of an uninterrupted one without any state in the checkpoint.

    Args:
        *numbers: Non-negative integers, e.g. (seed, iteration, rank).
    """
    seed = derive_seed(*numbers)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
