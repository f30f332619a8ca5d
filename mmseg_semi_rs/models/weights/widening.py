# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Weights of a first layer for red, green and blue, put into one for more bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.error import URLError

from mmengine.model import PretrainedInit
from mmseg.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from ...utils.errors import one_line

#: What the channels get that are neither red, green nor blue.
RULES = ('mean', 'copy', 'zero')


def check_widening(bands: Sequence[int], widen: str) -> None:
    """Refuse what :func:`widened` could not do.

    Raises:
        ValueError: ``bands`` are not three positions, or the rule is unknown.
    """
    if widen not in RULES or len(set(bands)) != len(bands) or len(bands) not in (0, 3):
        raise ValueError(
            f'init_cfg has bands={list(bands)} and widen={widen!r}: give the positions of red, '
            f'green and blue among the channels, from 0, or none, and one of {", ".join(RULES)}.'
        )


def widened(
    stored: Tensor, wanted: Tensor, bands: Sequence[int] = (0, 1, 2), widen: str = 'mean'
) -> Tensor:
    """Widen the weight of a convolution over red, green and blue; others are returned as they are.

    The channels ``bands`` get the weights of red, green and blue unchanged. Each other channel gets
    their mean (``'mean'``), those of red, green and blue in turn (``'copy'``), or zeros
    (``'zero'``), with which the network begins as if it did not see the other bands.

    Args:
        stored: Shape (O, 3, kh, kw).
        wanted: That of the model, (O, N, kh, kw).
        bands: Positions of red, green and blue. Defaults to (0, 1, 2).
        widen: One of :data:`RULES`.

    Returns:
        Shape (O, N, kh, kw) where all but N fits.

    Raises:
        ValueError: The model has no such channel as ``bands`` names.
    """
    shapes = [(*each.shape[:1], *each.shape[2:]) for each in (stored, wanted)]
    same = wanted.dim() == 4 and stored.dim() == 4 and shapes[0] == shapes[1]
    if not same or stored.shape[1] != 3 or wanted.shape[1] == 3:
        return stored
    channels = wanted.shape[1]
    if bands and not 0 <= min(bands) <= max(bands) < channels:
        raise ValueError(
            f'init_cfg has bands={list(bands)}, but the first layer has {channels} channels: give '
            'the positions of red, green and blue among them, from 0.'
        )
    found = stored.new_zeros(wanted.shape)
    others = [channel for channel in range(channels) if channel not in bands]
    for place, channel in enumerate(others):
        if widen == 'mean':
            found[:, channel] = stored.mean(1)
        elif widen == 'copy':
            found[:, channel] = stored[:, place % 3]
    if bands:
        found[:, list(bands)] = stored
    return found


@WEIGHT_INITIALIZERS.register_module()
class Pretrained(PretrainedInit):
    """mmengine's ``Pretrained`` that fits a first layer for RGB into one of ``in_channels=N``.

    ``init_cfg=dict(type='Pretrained', checkpoint=..., bands=[2, 1, 0], widen='mean')``. Without it
    mmengine leaves such a layer at random, with a line in the log. Where shapes agree it does what
    mmengine does.

    Args:
        checkpoint: See ``PretrainedInit``.
        prefix: Likewise.
        map_location: Likewise.
        bands: See :func:`widened`.
        widen: Likewise.

    Raises:
        ValueError: See :func:`check_widening`; or, when they are loaded, if the weights cannot be
            had.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: str = 'cpu',
        bands: Sequence[int] = (0, 1, 2),
        widen: str = 'mean',
    ) -> None:
        check_widening(bands, widen)
        super().__init__(checkpoint, prefix, map_location)
        self.bands, self.widen = bands, widen

    def __call__(self, module: nn.Module) -> None:
        """Load the weights into a module."""
        wanted = module.state_dict()

        def widen(state: dict[str, Tensor], *_: Any) -> None:
            for name in state.keys() & wanted.keys():
                state[name] = widened(state[name], wanted[name], self.bands, self.widen)

        handle = module._register_load_state_dict_pre_hook(widen)
        try:
            super().__call__(module)
        except (AssertionError, KeyError, URLError) as error:  # no such prefix, name or address
            raise ValueError(
                f'The weights {self.checkpoint} (pretrained or init_cfg of '
                f'{type(module).__name__}) cannot be loaded ({one_line(error)}): correct them, or '
                'set None for random weights.'
            ) from error
        finally:
            handle.remove()
