# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Loss denominators that do not depend on how many ranks share the batch."""

from __future__ import annotations

import torch
from mmengine.dist import get_world_size
from torch import Tensor


class RankSum:
    """A count summed over all ranks, without making the host wait.

    The all-reduce starts when the object is created and is awaited when the value is read, so that
    it overlaps with the work in between. DDP averages gradients over W ranks. Dividing a local sum
    by (total / W) therefore gives the gradient of one process with the whole batch.

    Args:
        count: Count of this rank, of any shape; it is copied.
    """

    def __init__(self, count: Tensor) -> None:
        self.world_size = get_world_size()
        self._total = count.detach().to(torch.float32, copy=True)
        self._work = None
        if self.world_size > 1:
            self._work = torch.distributed.all_reduce(self._total, async_op=True)

    def per_rank(self) -> Tensor:
        """Return the mean count per rank, which is never 0.

        Returns:
            Shape of ``count``, float32: max(total, 1) / world_size.
        """
        if self._work is not None:
            self._work.wait()
            self._work = None
        return self._total.clamp(min=1.0) / self.world_size
