# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Masks from a Segment Anything model: of the objects in boxes, or of everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .boxes import Box
from .pretrained import (
    find_model,
    import_transformers,
    load_model,
    model_digest,
    need_model,
    short_name,
)


class SegmentAnything:
    """Masks of the objects in boxes, or of all objects (SAM and its successors, transformers).

    Args:
        model: A folder, or ``owner/name`` on the Hugging Face hub, such as
            ``'facebook/sam-vit-base'``.
        revision: Revision on the hub. Defaults to None, the main branch.
        boxes_at_once: Boxes per pass of the mask decoder.
        download: Whether :meth:`load` downloads missing files.

    Raises:
        ValueError: If ``boxes_at_once`` is not positive.
    """

    def __init__(
        self,
        model: str = 'facebook/sam-vit-base',
        revision: str | None = None,
        boxes_at_once: int = 32,
        download: bool = False,
    ) -> None:
        if boxes_at_once < 1:
            raise ValueError(f'boxes_at_once={boxes_at_once} must be 1 or more.')
        self.model_name, self.revision = model, revision
        self.boxes_at_once, self.download = boxes_at_once, download
        self._model: Any = None
        self._processor: Any = None

    def settings(self) -> dict[str, Any]:
        """Return what the masks depend on, except for tile and boxes."""
        return {'model': short_name(self.model_name), 'revision': self.revision}

    def digest(self) -> str | None:
        """Digest of the model's files; None if they are not on this machine."""
        return model_digest(find_model(self.model_name, self.revision))

    def load(self, device: torch.device | str = 'cpu') -> None:
        """Read the weights and move them to a device. Further calls only move.

        Raises:
            ImportError: If transformers is not installed.
            FileNotFoundError: If the model is not on this machine.
            ValueError: If the model does not make masks.
        """
        if self._model is None:
            transformers = import_transformers()
            folder = need_model(self.model_name, self.revision, self.download)
            self._model, self._processor = load_model(
                folder,
                transformers.AutoModelForMaskGeneration,
                transformers.AutoProcessor,
                'a model for masks ({reason}): give a SAM of transformers.',
            )
        self._model.to(device)

    @torch.no_grad()
    def __call__(self, tile: np.ndarray, boxes: Sequence[Box]) -> list[tuple[np.ndarray, float]]:
        """Segment the objects in boxes; the tile is encoded once.

        Args:
            tile: Shape (H, W, 3), uint8, RGB.
            boxes: Left, top, right, bottom in pixels of the tile.

        Returns:
            For each box the mask with the best predicted IoU, shape (H, W), bool, and this IoU, in
            [0, 1].
        """
        found: list[tuple[np.ndarray, float]] = []
        embeddings: Any = None
        for start in range(0, len(boxes), self.boxes_at_once):
            chunk = [list(map(float, box)) for box in boxes[start : start + self.boxes_at_once]]
            inputs = self._processor(images=tile, input_boxes=[chunk], return_tensors='pt')
            if embeddings is None:
                embeddings = self._model.get_image_embeddings(
                    inputs['pixel_values'].to(self._model.device)
                )
            output = self._model(
                image_embeddings=embeddings,
                input_boxes=inputs['input_boxes'].to(self._model.device, torch.float32),
                multimask_output=True,
            )
            quality, best = output.iou_scores[0].max(dim=1)
            chosen = output.pred_masks[0][torch.arange(len(chunk)), best.cpu()]
            sizes = {
                key: inputs[key]
                for key in ('original_sizes', 'reshaped_input_sizes')
                if key in inputs
            }
            masks = self._processor.post_process_masks([chosen[:, None].cpu()], **sizes)[0]
            found += [
                (mask, min(max(iou, 0.0), 1.0))
                for mask, iou in zip(masks[:, 0].numpy(), quality.tolist(), strict=True)
            ]
        return found

    def everything(
        self, tile: np.ndarray, points: int, quality: float, stability: float, overlap: float
    ) -> list[np.ndarray]:
        """Segment whatever lies at the points of a grid.

        Args:
            tile: Shape (H, W, 3), uint8, RGB.
            points: Points per side of the grid.
            quality: Smallest predicted IoU of a mask, in [0, 1].
            stability: Smallest IoU between a mask at a stricter and at a laxer threshold, in [0,
                1].
            overlap: Box IoU above which the worse of two masks is dropped, in [0, 1].

        Returns:
            Masks, each (H, W), bool.
        """
        generate = import_transformers().MaskGenerationPipeline(
            model=self._model,
            image_processor=getattr(self._processor, 'image_processor', self._processor),
            device=self._model.device,
        )
        found = generate(
            Image.fromarray(tile),
            points_per_crop=points,
            pred_iou_thresh=quality,
            stability_score_thresh=stability,
            crops_nms_thresh=overlap,
        )
        return [np.asarray(mask).astype(bool) for mask in found['masks']]
