# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A verifier of one's own: any trained mmseg segmentor, whatever classes it knows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from mmseg.registry import MODELS

from mmseg_semi_rs.purification.evidence import Evidence, quantise
from mmseg_semi_rs.purification.verifiers import Verifier
from mmseg_semi_rs.utils.files import file_digest
from mmseg_semi_rs.utils.randomness import seeded


@MODELS.register_module()
class SegmentorVerifier(Verifier):
    """Lets a segmentor that was trained elsewhere say which class is where.

    Its probabilities, softmax(logits / temperature), are summed over those of its classes that are
    the same class here. A pixel is seen unless the likeliest of its classes is none of ours.

    Args:
        classes: See ``ClassPrompts``.
        config: Config of the segmentor, with a ``test_dataloader`` or a ``test_pipeline``.
        checkpoint: Its weights.
        label_map: For each class id of the segmentor, in their order, the id here; None for a class
            that is none of ours.
        temperature: By which logits are divided; above 1 makes it less sure. Defaults to 1.
        bands: See ``Verifier``.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: ``label_map`` has an id that is no class, or the temperature is not positive.

    Examples:
        >>> SegmentorVerifier(
        ...     ['building', 'road', None], config='their_config.py', checkpoint='theirs.pth',
        ...     label_map=[None, 0, 0, 1],  # theirs: background, house, shed, road
        ... )
    """

    def __init__(
        self,
        classes: str | Sequence[str | Sequence[str] | None],
        config: str,
        checkpoint: str,
        label_map: Sequence[int | None],
        temperature: float = 1.0,
        bands: Sequence[int] | None = None,
    ) -> None:
        super().__init__(classes, bands)
        wrong = sorted(
            {label for label in label_map if label is not None} - set(self.prompts.asked)
        )
        if wrong or temperature <= 0:
            raise ValueError(
                f'SegmentorVerifier got label_map={list(label_map)} and temperature={temperature}: '
                f'give ids of classes that are asked for, {list(self.prompts.asked)}, or None, and '
                'a temperature above 0.'
            )
        if not Path(config).is_file():
            raise FileNotFoundError(
                f"The segmentor's config {config} does not exist: correct the path."
            )
        self.config, self.checkpoint = config, checkpoint
        self.label_map, self.temperature = list(label_map), temperature
        self._model: Any = None

    def settings(self) -> dict[str, Any]:
        """See :meth:`Verifier.settings`."""
        cfg = Config.fromfile(self.config)
        described = repr((cfg.model.to_dict(), _test_pipeline(cfg)))
        weights = Path(self.checkpoint)
        return {
            'verifier': type(self).__name__,
            'classes': [list(names) for names in self.prompts],
            'config': hashlib.sha256(described.encode()).hexdigest(),
            'label_map': self.label_map,
            'temperature': self.temperature,
            'weights': file_digest(weights) if weights.is_file() else None,
        }

    def load(self, device: torch.device | str = 'cpu') -> None:
        """See :meth:`Verifier.load`."""
        if self._model is None:
            if not Path(self.checkpoint).is_file():
                raise FileNotFoundError(
                    f"The segmentor's weights {self.checkpoint} do not exist: put them there, or "
                    'train its config.'
                )
            cfg = Config.fromfile(self.config)
            cfg.test_pipeline = _test_pipeline(cfg)  # where mmseg's inference looks for it
            with seeded(0):  # weights are drawn before they are read
                self._model = init_model(cfg, self.checkpoint, device='cpu')
            if self._model.out_channels != len(self.label_map):
                raise ValueError(
                    f'The segmentor of {self.config} has {self._model.out_channels} classes, but '
                    f'label_map has {len(self.label_map)}: give an id or None for each of its '
                    'classes.'
                )
        self._model.to(device)

    def verify(self, tiles: Sequence[np.ndarray]) -> list[Evidence]:
        """See :meth:`Verifier.verify`."""
        return [self._verify(tile) for tile in tiles]

    def _verify(self, tile: np.ndarray) -> Evidence:
        bgr = np.ascontiguousarray(tile[..., ::-1])  # as mmseg loads images
        logits = inference_model(self._model, bgr).seg_logits.data
        theirs = (logits.float() / self.temperature).softmax(dim=0)
        ours = theirs.new_zeros(self.num_classes, *theirs.shape[1:])
        for probability, label in zip(theirs, self.label_map, strict=True):
            if label is not None:
                ours[label] += probability
        is_ours = torch.tensor([label is not None for label in self.label_map])
        seen = is_ours.to(theirs.device)[theirs.argmax(dim=0)]
        shares = torch.bincount(ours.argmax(dim=0)[seen], minlength=self.num_classes) / seen.numel()
        return Evidence(
            scores=quantise(ours.cpu().numpy()),
            seen=seen.cpu().numpy(),
            size=(tile.shape[0], tile.shape[1]),
            answer=', '.join(
                f'{self.prompts.name(label)} {share:.0%}'
                for label, share in enumerate(shares.tolist())
                if share
            ),
        )


def _test_pipeline(cfg: Config) -> list[dict[str, Any]]:
    """The transforms with which a config's model is tested."""
    if 'test_pipeline' in cfg:
        return cfg.test_pipeline
    return cfg.test_dataloader.dataset.pipeline
