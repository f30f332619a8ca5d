# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Adapts the weights of a first layer for red, green and blue to more bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.error import URLError

from mmengine.model import PretrainedInit
from mmseg.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from ...utils.errors import one_line

#: Ways to initialise the channels other than red, green and blue.
RULES = ('mean', 'copy', 'zero')


def check_widening(bands: Sequence[int], widen: str) -> None:
    """Check the options of :func:`widened`.

    Raises:
        ValueError: If ``bands`` are not three positions (or none), or if the rule is unknown.
    """
    if widen not in RULES or len(set(bands)) != len(bands) or len(bands) not in (0, 3):
        raise ValueError(
            f'init_cfg has bands={list(bands)} and widen={widen!r}: give the positions of red, '
            f'green and blue among the channels, from 0, or none, and one of {", ".join(RULES)}.'
        )


def widened(
    stored: Tensor, wanted: Tensor, bands: Sequence[int] = (0, 1, 2), widen: str = 'mean'
) -> Tensor:
    """Widen the weight of a convolution over red, green and blue; others are returned unchanged.

    The channels ``bands`` get the weights of red, green and blue. Each other channel gets their
    mean (``'mean'``), those of red, green and blue in turn (``'copy'``), or zeros (``'zero'``), so
    that the network initially ignores the other bands.

    Args:
        stored: Weight in the file, shape (O, 3, kh, kw).
        wanted: Weight of the model, shape (O, N, kh, kw).
        bands: Positions of red, green and blue. Defaults to (0, 1, 2).
        widen: One of :data:`RULES`.

    Returns:
        Shape (O, N, kh, kw) if all dimensions but the channels agree, else ``stored``.

    Raises:
        ValueError: If ``bands`` names a channel that the model does not have.
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
    """mmengine's ``Pretrained``, extended to fit a first layer for RGB to ``in_channels=N``.

    Use ``init_cfg=dict(type='Pretrained', checkpoint=..., bands=[2, 1, 0], widen='mean')``.
    mmengine alone would keep such a layer random and only log it. If the shapes agree, the
    behaviour is that of mmengine.

    Args:
        checkpoint: See ``PretrainedInit``.
        prefix: Likewise.
        map_location: Likewise.
        bands: See :func:`widened`.
        widen: Likewise.

    Raises:
        ValueError: See :func:`check_widening`; also, during loading, if the weights cannot be read.
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
