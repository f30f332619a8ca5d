# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Choices without chance."""

from __future__ import annotations


def evenly(count: int, wanted: int) -> list[int]:
    """Choose some of a number of indices, evenly spaced.

    Args:
        count: Number of indices.
        wanted: How many of them, at most.

    Returns:
        Ascending, in ``[0, count)``, none twice.

    Examples:
        >>> evenly(10, 2), evenly(2, 10)
        ([2, 7], [0, 1])
    """
    wanted = min(count, wanted)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]
