# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The processes of one job, which share work and exchange results."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size, init_dist

from ..utils.errors import RunStoppedError
from .launch import set_launcher

__all__ = ['Processes', 'launcher_of']

_PATIENCE = timedelta(days=30)  # timeout for ranks that have more work

_Result = TypeVar('_Result')


def launcher_of() -> str:
    """Launcher of this process as one of several: ``'pytorch'``, ``'slurm'`` or ``'none'``.

    Only srun sets the number of tasks of a step; a script of sbatch that calls a tool without srun
    has the number of tasks of its job, and is alone.
    """
    for launcher, count in (('pytorch', 'WORLD_SIZE'), ('slurm', 'SLURM_STEP_NUM_TASKS')):
        rank = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID'}[launcher]
        if rank in os.environ and int(os.environ.get(count, '1')) > 1:
            return launcher
    return 'none'


class Processes:
    """The processes that share work; they wait for each other only to exchange results.

    Without a process group there is only this process.

    Attributes:
        rank: Rank of this process.
        count: Number of processes.
    """

    def __init__(self) -> None:
        self.rank, self.count = get_rank(), get_world_size()
        self._group: Any = None
        if self.count > 1:
            self._group = torch.distributed.new_group(backend='gloo', timeout=_PATIENCE)

    @classmethod
    def start(cls, cfg: Config, launcher: str = 'none') -> Processes:
        """Join the group that a launcher has started.

        Args:
            cfg: The config; its launcher is set.
            launcher: ``'none'``, ``'pytorch'`` (torchrun) or ``'slurm'``. With GPUs, each process
                gets its own as the current device.

        Raises:
            ValueError: If the launcher's environment variables are missing.
        """
        set_launcher(cfg, launcher)
        if launcher != 'none' and not torch.distributed.is_initialized():
            init_dist(launcher, backend='gloo')
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the first process, which reports for all."""
        return self.rank == 0

    def gather(self, result: _Result) -> list[_Result]:
        """Exchange results; waits for all processes.

        Args:
            result: Result of this process.

        Returns:
            Results of all processes, by rank.

        Raises:
            RunStoppedError: If a process has ended meanwhile. Its launcher says which.
        """
        if self._group is None:
            return [result]
        results: list[Any] = [None] * self.count
        try:
            torch.distributed.monitored_barrier(self._group, _PATIENCE)
            torch.distributed.all_gather_object(results, result, group=self._group)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise RunStoppedError(
                f'Another process of this job has ended ({reason}): what is finished is kept; '
                'give the same command again to go on.'
            ) from error
        return results

    def together(self, action: Callable[[], _Result]) -> list[_Result]:
        """Run a function in all processes; an error in one is raised in all.

        Args:
            action: The function for this process.

        Returns:
            The results, by rank.

        Raises:
            ValueError: If any process raised it.
            OSError: Likewise.
            ImportError: Likewise.
        """
        result, fault = None, None
        try:
            result = action()
        except (ValueError, OSError, ImportError) as error:
            if self._group is None:
                raise
            fault = error
        outcomes = self.gather((result, fault))
        for _, other in outcomes:
            if other is not None:
                raise other
        return [result for result, _ in outcomes]  # type: ignore[misc]
