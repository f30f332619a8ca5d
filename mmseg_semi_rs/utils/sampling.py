# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Selection without randomness."""

from __future__ import annotations


def evenly(count: int, wanted: int) -> list[int]:
    """Choose evenly spaced indices.

    Args:
        count: Number of indices to choose from.
        wanted: Largest number of chosen indices.

    Returns:
        Distinct ascending indices in ``[0, count)``.

    Examples:
        >>> evenly(10, 2), evenly(2, 10)
        ([2, 7], [0, 1])
    """
    wanted = min(count, wanted)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]
