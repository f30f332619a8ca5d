# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A segmentation model that is told in words what to look for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmseg.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from ..evidence import Evidence, Region, quantise
from .base import Verifier
from .pretrained import (
    find_model,
    import_transformers,
    load_model,
    model_digest,
    need_model,
    short_name,
)

#: Version of the processing, to be raised when the same outputs give other evidence.
READING = 1


@MODELS.register_module()
class Sam3Verifier(Verifier):
    r"""Segments each name of each class with SAM 3 of transformers (arXiv 2511.16719).

    The tile is encoded once, and each name is one text prompt. With p the probability that anything
    of that name is present, a pixel's score is the larger of p times the probability of the
    semantic head, and the highest score (p times its own) of the objects that cover it. A class has
    the highest score of its names. SegEarth-OV3 (arXiv 2512.08730) found that land cover, which
    does not consist of objects, needs both heads. The whole tile counts as seen.

    Args:
        classes: See :class:`ClassPrompts`.
        model: A folder, or ``owner/name`` on the Hugging Face hub. Defaults to 'facebook/sam3',
            whose licence must be accepted there.
        revision: Revision on the hub. Defaults to None, the main branch.
        score: Score from which an object counts, in [0, 1).
        local_files_only: Whether :meth:`load` must not download missing files.

    Raises:
        ValueError: If the score is out of its range.
    """

    def __init__(
        self,
        classes: str | Sequence[str | Sequence[str] | None],
        model: str = 'facebook/sam3',
        revision: str | None = None,
        score: float = 0.3,
        local_files_only: bool = True,
    ) -> None:
        super().__init__(classes)
        if not 0 <= score < 1:
            raise ValueError(f'Sam3Verifier score={score} must be within [0, 1).')
        self.model_name, self.revision, self.score = model, revision, float(score)
        self.local_files_only = local_files_only
        self._model: Any = None
        self._processor: Any = None

    def settings(self) -> dict[str, Any]:
        """See :meth:`Verifier.settings`; needs neither transformers nor the model."""
        return {
            'verifier': type(self).__name__,
            'reading': READING,
            'classes': [list(names) for names in self.prompts],
            'model': short_name(self.model_name),
            'revision': self.revision,
            'score': self.score,
            'weights': model_digest(find_model(self.model_name, self.revision)),
        }

    def load(self, device: torch.device | str = 'cpu') -> None:
        """See :meth:`Verifier.load`."""
        if self._model is None:
            transformers = import_transformers()
            if not hasattr(transformers, 'Sam3Model'):
                raise ImportError(
                    f'transformers {transformers.__version__} has no Sam3Model: run '
                    "pip install -U 'transformers>=5'."
                )
            folder = need_model(self.model_name, self.revision, not self.local_files_only)
            self._model, self._processor = load_model(
                folder,
                transformers.Sam3Model,
                transformers.Sam3Processor,
                'a SAM 3 ({reason}): give a folder with its config, weights and processor.',
            )
        self._model.to(device)

    @torch.no_grad()
    def verify(self, tiles: Sequence[np.ndarray]) -> list[Evidence]:
        """See :meth:`Verifier.verify`."""
        return [self._look(tile) for tile in tiles]

    def _look(self, tile: np.ndarray) -> Evidence:
        device = self._model.device
        pixels = self._processor(images=tile, return_tensors='pt')['pixel_values']
        vision = self._model.get_vision_features(pixel_values=pixels.to(device))
        planes: list[Tensor] = []
        regions: list[Region] = []
        for label, names in enumerate(self.prompts):
            found = []
            for name in names:
                words = self._processor(text=name, return_tensors='pt').to(device)
                output = self._model(
                    vision_embeds=vision,
                    input_ids=words['input_ids'],
                    attention_mask=words['attention_mask'],
                )
                plane, objects = self._read(output, tile.shape[:2])
                found.append(plane)
                regions += [Region(label, box, score, name) for box, score in objects]
            planes.append(torch.stack(found).amax(0) if found else torch.empty(0))
        grid = next(plane.shape for plane in planes if plane.numel())
        scores = torch.stack([plane if plane.numel() else torch.zeros(grid) for plane in planes])
        present = [names[0] for names, plane in zip(self.prompts, scores, strict=True)
                   if names and plane.max() > self.score]  # fmt: skip
        return Evidence(
            scores=quantise(scores.numpy()),
            seen=np.ones(grid, bool),
            size=tile.shape[:2],
            answer=f'{len(regions)} objects; present: {", ".join(present) or "nothing"}',
            regions=tuple(regions),
        )

    def _read(
        self, output: Any, size: tuple[int, int]
    ) -> tuple[Tensor, list[tuple[tuple[float, float, float, float], float]]]:
        """Scores on the grid of the masks, or of the tile if that is smaller; and the objects."""
        height, width = (
            min(own, side) for own, side in zip(output.pred_masks.shape[-2:], size, strict=True)
        )
        there = output.presence_logits.sigmoid().reshape(())
        semantic = F.interpolate(
            output.semantic_seg.sigmoid(), (height, width), mode='bilinear', align_corners=False
        )
        plane = (semantic[0, 0] * there).cpu()
        (objects,) = self._processor.post_process_instance_segmentation(
            output, threshold=self.score, target_sizes=[(height, width)]
        )
        listed = []
        zoom = torch.tensor([size[1] / width, size[0] / height] * 2)
        for mask, box, score in zip(
            *(objects[key].cpu() for key in ('masks', 'boxes', 'scores')), strict=True
        ):
            plane = torch.where(mask.bool(), plane.clamp(min=float(score)), plane)
            left, top, right, bottom = (box * zoom).tolist()
            listed.append(((left, top, right, bottom), float(score)))
        return plane, listed
