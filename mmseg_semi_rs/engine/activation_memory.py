# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Measures how much memory autograd stores for the backward pass, on any device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class SavedActivations:
    """Counts the bytes of the tensors that autograd saves, each storage once.

    Parameters do not count, since they exist anyway. Tensors saved inside ``recompute`` (activation
    checkpointing) count while they exist.

    Args:
        parameters: Tensors that do not count.

    Attributes:
        current: Bytes saved now.
        peak: Maximum of ``current`` inside the ``with`` block.

    Examples:
        >>> weight, image = torch.nn.Parameter(torch.rand(4, 4)), torch.rand(8, 4)
        >>> with SavedActivations([weight]) as saved:
        ...     loss = (image @ weight).sum()
        >>> saved.peak  # the image, 8 x 4 floats
        128
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._excluded = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        self._users: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)
        self.current = 0
        self.peak = 0

    def __enter__(self) -> SavedActivations:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._hooks.__exit__(*exception)

    def _pack(self, tensor: Tensor) -> _Saved:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        counted = address not in self._excluded
        if counted:
            self._users[address] = self._users.get(address, 0) + 1
            if self._users[address] == 1:
                self.current += storage.nbytes()
                self.peak = max(self.peak, self.current)
        return _Saved(tensor, self if counted else None)

    def release(self, tensor: Tensor) -> None:
        """Uncount one use of a saved tensor."""
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        self._users[address] -= 1
        if not self._users[address]:
            del self._users[address]
            self.current -= storage.nbytes()


class _Saved:
    """A saved tensor; it is deleted with the graph node that saved it."""

    def __init__(self, tensor: Tensor, owner: SavedActivations | None) -> None:
        self.tensor, self.owner = tensor, owner

    def __del__(self) -> None:
        if self.owner is not None:
            self.owner.release(self.tensor)


def _unpack(saved: _Saved) -> Tensor:
    return saved.tensor
