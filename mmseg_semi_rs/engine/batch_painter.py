# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pictures of training batches after augmentation, normalisation, padding and CutMix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.data_preprocessor import rgb_channels, stack_valid
from ..models.segmentors import SemiSegmentor
from ..models.utils import CutMix
from ..models.utils.cutmix import paste
from ..models.utils.renormalise import image_statistics
from ..structures import PseudoLabel
from ..visualization import colorize, denormalise, draw_panels, legend, overlay

TINT = (255, 0, 160)


class BatchPainter:
    """Draws pictures of preprocessed batches.

    Args:
        preprocessor: The model's data preprocessor.
        metainfo: The dataset's metainfo with ``classes`` and ``palette``.
        cutmix: The segmentor's CutMix, None if it has none.
        model: A segmentor whose pseudo labels are drawn too; None draws none.
        images: Maximum number of images drawn of each source.
        donors: How many unlabelled images, taken from the end, only provide pixels for CutMix.
    """

    def __init__(
        self,
        preprocessor: torch.nn.Module,
        metainfo: dict[str, Any],
        cutmix: CutMix | None,
        model: SemiSegmentor | None = None,
        images: int = 8,
        donors: int = 0,
    ) -> None:
        self.preprocessor = preprocessor
        self.classes, self.palette = metainfo['classes'], metainfo['palette']
        self.model: Any = model
        self.cutmix, self.images, self.donors = cutmix, images, donors

    def pixels(self, image: Tensor) -> np.ndarray:
        """Convert a normalised image to RGB pixels."""
        mean, std = (each.flatten().tolist() for each in image_statistics(self.preprocessor))
        return denormalise(image, mean, std, rgb_channels(self.preprocessor))

    def labelled(self, images: Tensor, samples: list) -> np.ndarray:
        """Draw images with their labels and valid masks."""
        valid = stack_valid(samples, images.shape[-2:], images.device)
        rows = []
        for image, sample, mask in list(zip(images, samples, valid, strict=True))[: self.images]:
            pixels = self.pixels(image)
            label = colorize(sample.gt_sem_seg.data[0], self.palette)
            rows.append([pixels, label, overlay(pixels, label), mask.numpy()])
        return draw_panels(
            rows,
            ['labelled image', 'label (grey: ignored)', 'both', 'valid (white)'],
            _names(samples[: self.images]),
        )

    def pseudo_labels(self, weak: Tensor, samples: list) -> dict[str, PseudoLabel]:
        """Pseudo labels of the weak views by each network of the model, by title."""
        if self.model is None:
            return {}
        found = self.model.make_pseudo_labels(weak, samples)
        if len(found) == 1:
            return dict(zip(['pseudo label'], found.values(), strict=True))
        return {f'pseudo label of {name}': pseudo for name, pseudo in found.items()}

    def unlabelled(self, name: str, weak: Tensor, strong: Tensor, samples: list) -> np.ndarray:
        """Draw both views of unlabelled images, and the strong one after CutMix, if there is any.

        Args:
            name: Name of the strong view.
            weak: Weak views, shape (B, 3, H, W); the last ones may be donors.
            strong: Strong views, likewise.
            samples: The B samples.
        """
        valid = stack_valid(samples, weak.shape[-2:], weak.device)
        whole = PseudoLabel(valid.long(), valid.float(), valid.float(), valid)
        pseudo = self.pseudo_labels(weak, samples)
        partners = torch.arange(len(weak) - self.donors)
        mask = torch.zeros_like(valid[: len(partners)])
        if self.cutmix is not None:
            partners, mask = self.cutmix.draw(strong, self.donors)
        mixed, target = paste(strong, partners, mask), whole.mix(partners, mask)
        targets = {title: found.mix(partners, mask) for title, found in pseudo.items()}
        title = name.replace('_', ' ')
        mixing = ' + CutMix' if self.cutmix else ''
        titles = ['weak view', f'{title} view']
        titles += [f'{title} view + CutMix'] if self.cutmix else []
        titles += [f'valid{mixing}']
        titles += [
            column for each in targets for column in (f'{each}{mixing}', 'used by the loss (white)')
        ]
        rows = []
        for index in range(min(self.images, len(partners))):
            row = [self.pixels(weak[index]), self.pixels(strong[index])]
            if self.cutmix:
                pasted = mask[index].numpy()
                tint = np.full((*pasted.shape, 3), TINT, np.uint8)
                row.append(overlay(self.pixels(mixed[index]), tint, pasted, 0.2))
            row.append(target.valid[index].numpy())
            for found in targets.values():
                row += [
                    colorize(found.labels[index], self.palette),
                    (found.weight[index] * 255).byte().numpy(),
                ]
            rows.append(row)
        return draw_panels(rows, titles, _names(samples[: len(rows)]))

    def __call__(self, batch: dict) -> np.ndarray:
        """Draw one batch.

        Args:
            batch: As the dataloader collates it.

        Returns:
            (H, W, 3) uint8, RGB.
        """
        data = self.preprocessor(batch, True)
        inputs, samples = data['inputs'], data['data_samples']
        if not isinstance(inputs, dict):
            inputs, samples = {'sup': inputs}, {'sup': samples}
        parts = []
        if 'sup' in inputs:
            parts.append(self.labelled(inputs['sup'], samples['sup']))
        for name in sorted(name for name in inputs if name.startswith('strong')):
            parts.append(self.unlabelled(name, inputs['weak'], inputs[name], samples['weak']))
        width = max(part.shape[1] for part in parts)
        names, colours = [*self.classes], [*self.palette]
        if self.cutmix and 'weak' in inputs:
            names, colours = [*names, 'pasted by CutMix'], [*colours, TINT]
        parts.append(legend(names, colours, width))
        return np.concatenate([
            np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255)
            for part in parts
        ])  # fmt: skip


def _names(samples: list) -> list[str]:
    """File names of samples' images, without their folders."""
    return [Path(sample.metainfo.get('img_path') or '').name for sample in samples]
