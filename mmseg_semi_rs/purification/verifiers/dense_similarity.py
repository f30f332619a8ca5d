# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Cosines between the places of an image and texts, by both towers of a CLIP, window by window."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models import CLIPVision, TextEmbedding
from ...models.weights import read_weight_file


class PatchSimilarity(nn.Module):
    """Cosine of each patch with each text, by the value path (MaskCLIP, arXiv 2112.01071).

    Args:
        concepts: Names of each of N texts; their features are averaged.
        templates: Sentences with '{}' for the name.
        arch: Name of an open_clip model with CLIP's own towers, or a dict with **vision** and
            **text**, see :class:`~mmseg_semi_rs.models.CLIPVision` and
            :class:`~mmseg_semi_rs.models.TextEmbedding`.
        checkpoint: Weight file with both towers; None uses random weights of a fixed seed.

    Attributes:
        cell: Side of a place in pixels, here of a patch.
        window: Side in pixels of the images that the model was trained with.

    Raises:
        FileNotFoundError: If the weight file does not exist.
        ValueError: If the weight file does not fit.
    """

    texts: Tensor

    def __init__(
        self,
        concepts: Sequence[Sequence[str]],
        templates: Sequence[str],
        arch: str | Mapping[str, Any],
        checkpoint: str | None,
    ) -> None:
        super().__init__()
        vision, text = (arch, arch) if isinstance(arch, str) else (arch['vision'], arch['text'])
        with _own_random_state():
            self.vision = CLIPVision(
                vision,
                value_path=True,
                dense=True,
                frozen=True,
                checkpoint=checkpoint,
            ).eval()
            self.vision.init_weights()
        embedding = TextEmbedding(
            concepts,
            arch=text,
            checkpoint=checkpoint,
            templates=templates,
            cache_dir=None,
        )
        embedding.init_weights()
        self.register_buffer('texts', embedding())
        self.cell = self.vision.patch_size
        self.window = self.vision.grid_size[0] * self.cell

    def forward(self, images: Tensor) -> Tensor:
        """Compute the cosines of images with the texts.

        Args:
            images: Shape (B, 3, H, W), normalised; H and W are multiples of ``cell``.

        Returns:
            Cosines, shape (B, N, H / cell, W / cell), float32.
        """
        patches = self.vision(images)[-1]
        with torch.autocast(images.device.type, enabled=False):
            return torch.einsum('bchw,nc->bnhw', patches.float(), self.texts)


class WindowSimilarity(nn.Module):
    """Cosine of a whole window with each text, by any model of open_clip.

    Args:
        concepts: Names of each of N texts; their features are averaged.
        templates: Sentences with '{}' for the name.
        arch: Name of an open_clip model; not needed for a folder.
        checkpoint: Weight file in open_clip's format, or a snapshot folder of the Hugging Face hub
            with open_clip_config.json, weights and tokenizer; None uses random weights of a fixed
            seed. Nothing is downloaded.
        cell: Side of a place in pixels.

    Attributes:
        cell: Side of a place in pixels.
        window: Default side of a window in pixels, two places.

    Raises:
        FileNotFoundError: If the weight file does not exist, or the model's tokenizer or text tower
            needs a file of the Hugging Face hub that is not on this machine.
        ImportError: If the model needs transformers.
        ValueError: If the weight file does not fit, or there is no such model.
    """

    texts: Tensor
    model: Any

    def __init__(
        self,
        concepts: Sequence[Sequence[str]],
        templates: Sequence[str],
        arch: str,
        checkpoint: str | None,
        cell: int,
    ) -> None:
        super().__init__()
        model, tokenizer = _open_model(arch, checkpoint)
        self.model = model
        side = model.visual.image_size
        self.side: tuple[int, int] = (side, side) if isinstance(side, int) else tuple(side)
        self.cell, self.window = cell, 2 * cell
        with torch.no_grad():
            # One class at a time, with one sentence for each name and template.
            means = [
                model.encode_text(
                    tokenizer([line.replace('{}', name) for name in names for line in templates])
                ).mean(0)
                for names in concepts
            ]
        self.register_buffer('texts', F.normalize(torch.stack(means).float(), dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Compute the cosines of images with the texts.

        Args:
            images: Shape (B, 3, H, W), normalised.

        Returns:
            Cosines, shape (B, N, 1, 1), float32: one for all places of a window.
        """
        images = F.interpolate(images, self.side, mode='bilinear', antialias=True)
        found = F.normalize(self.model.encode_image(images).float(), dim=1)
        with torch.autocast(images.device.type, enabled=False):
            return (found @ self.texts.T)[..., None, None]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Starts of windows along one side: every ``stride``, the last one flush with the end.

    Args:
        length: Length of the side.
        window: Length of a window; one longer than the side starts at 0.
        stride: Step, at most ``window``.

    Returns:
        Ascending starts; every place of the side lies in a window.

    Examples:
        >>> window_starts(10, 4, 3), window_starts(3, 4, 3)
        ([0, 3, 6], [0])
    """
    last = max(0, length - window)
    return [*range(0, last, stride), last]


def average_windows(
    similarity: PatchSimilarity | WindowSimilarity,
    image: Tensor,
    window: int,
    stride: int,
    batch: int,
) -> Tensor:
    """Process overlapping windows of an image, and average where they overlap.

    Args:
        similarity: The model.
        image: Shape (3, H, W), normalised; H and W are multiples of the model's ``cell``.
        window: Side of a window in pixels, a multiple of ``cell``; cut to the image.
        stride: Step between windows in pixels, a multiple of ``cell``.
        batch: Windows per forward pass.

    Returns:
        Cosines, shape (N, H / cell, W / cell), float32.
    """
    cell = similarity.cell
    sides = image.shape[1:]
    high, wide = (min(window, side) for side in sides)
    starts = list(itertools.product(*(window_starts(side, window, stride) for side in sides)))
    grid = [side // cell for side in sides]
    total = image.new_zeros(len(similarity.texts), *grid)
    count = image.new_zeros(grid)
    for first in range(0, len(starts), batch):
        chosen = starts[first : first + batch]
        crops = torch.stack([image[:, y : y + high, x : x + wide] for y, x in chosen])
        for (y, x), cosines in zip(chosen, similarity(crops), strict=True):
            rows = slice(y // cell, (y + high) // cell)
            columns = slice(x // cell, (x + wide) // cell)
            total[:, rows, columns] += cosines
            count[rows, columns] += 1
    return total / count


def _open_model(arch: str, checkpoint: str | None) -> tuple[Any, Any]:
    """Build an open_clip model with its tokenizer, and load it from this machine only."""
    import open_clip

    path = None if checkpoint is None else Path(checkpoint).expanduser()
    folder = path is not None and path.is_dir()
    if path is not None and not path.exists():
        raise FileNotFoundError(
            f'The weight file {path} does not exist: fetch one of {arch} in open_clip format '
            '(listed with licences on each model card of huggingface.co), since nothing is '
            'downloaded, and give its path as checkpoint.'
        )
    name = f'local-dir:{path}' if folder else arch.replace('/', '-')
    if not folder and open_clip.get_model_config(name) is None:
        raise ValueError(
            f'open_clip has no model {arch!r}: give one of open_clip.list_models() as arch.'
        )
    if path is not None:  # safety: open_clip would run code in the file
        read_weight_file(path)
    try:
        with _own_random_state(), _without_network():
            model = open_clip.create_model(
                name,
                pretrained=None if path is None or folder else str(path.resolve()),
                pretrained_text=False,
                require_pretrained=path is not None,
            )
            tokenizer = open_clip.get_tokenizer(name)
    except ImportError as error:
        raise ImportError(
            f'The open_clip model {arch!r} needs transformers ({error}): pip install '
            "'mmseg_semi_rs[vlm]'."
        ) from error
    except OSError as error:
        raise FileNotFoundError(
            f'The open_clip model {arch!r} needs files that are not on this machine '
            f'({str(error).splitlines()[0]}): nothing is downloaded, so fetch the model as a '
            'folder with "hf download" (weights, open_clip_config.json and tokenizer) and give the '
            'folder as checkpoint.'
        ) from error
    except (RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(
            f'The weights {path} cannot be loaded into the open_clip model {name!r} '
            f'({" ".join(str(error).split())[:300]}): give the file of this model, in open_clip '
            'format.'
        ) from error
    return model.eval().requires_grad_(False), tokenizer


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Use a fixed seed inside the block, and restore the global random state after it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


@contextmanager
def _without_network() -> Iterator[None]:
    """Restrict the Hugging Face hub to files on this machine."""
    import huggingface_hub

    before = huggingface_hub.constants.HF_HUB_OFFLINE
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = before
