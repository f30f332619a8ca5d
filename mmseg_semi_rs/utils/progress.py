# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Threaded work on many files, and progress bars for the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


def progress_bar(
    console: Console | None = None, transient: bool = True, of_bytes: bool = False
) -> Progress:
    """Create a progress bar with count and remaining time.

    Args:
        console: Console to draw on. Defaults to standard error.
        transient: Whether the bar disappears when done; otherwise its last state stays.
        of_bytes: Whether the count is in bytes.

    Returns:
        A context manager. A transient bar is not drawn if the console is not a terminal.
    """
    console = console or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    return Progress(
        TextColumn('{task.description}', markup=False),
        BarColumn(),
        DownloadColumn() if of_bytes else MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        disable=transient and not console.is_terminal,
    )


def map_threaded(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    description: str | None = None,
    workers: int | None = None,
) -> list[_Result]:
    """Apply an I/O-bound function to each item in threads.

    Args:
        function: The function; its first error is raised.
        items: Its arguments.
        description: Title of the progress bar. Defaults to no bar.
        workers: Number of threads. Defaults to two per core, at most 16.

    Returns:
        The results in the order of the items.
    """
    threads = workers or min(16, 2 * (os.cpu_count() or 1))
    bar = progress_bar()
    bar.disable = bar.disable or description is None
    with bar, ThreadPoolExecutor(threads) as pool:
        results = pool.map(function, items)
        return list(bar.track(results, total=len(items), description=description or ''))
