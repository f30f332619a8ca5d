# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Class embeddings from the names of the classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from ...classes.concepts import class_concepts
from ...utils.files import file_digest, settings_digest
from ..weights import read_weight_file
from .cache import read_embedding, write_embedding
from .text_tower import build_text_tower, encode_prompts, load_text_tower, resolve_arch

# Templates by name; Co2S and SemiVL use 'photo'.
TEMPLATES: dict[str, tuple[str, ...]] = {
    'photo': ('a photo of a {}',),
    'aerial': (
        'an aerial photo of a {}',
        'a satellite image of a {}',
        'a remote sensing image of a {}',
        'a {} seen from above',
    ),
}

_Concepts = str | Sequence[str | Sequence[str]]


@MODELS.register_module()
class TextEmbedding(BaseModule):
    """Fixed class embeddings from CLIP's text tower (Co2S, arXiv 2512.23035; SemiVL).

    The feature of a concept is the mean over the templates; the embedding of a class is the
    L2-normalised mean of the raw features of its concepts.

    The text tower runs once, in ``init_weights`` (float32, on the CPU), and is then dropped. The
    result is a buffer, which is saved with the model and never trained. It is also cached in a file
    named by the hash of everything it depends on, including the content of the weight file, so that
    later runs need no tower.

    A checkpoint holds the embedding and a fingerprint of the prompts and of the tower's shape
    (without its weights). If the fingerprints agree, the checkpoint's embedding is loaded, and
    neither tower nor weight file is needed. Otherwise (other classes or options) this module keeps
    its own embedding and computes it if necessary. Before initialisation the embedding is NaN.

    Args:
        concepts: Name of a list in :mod:`mmseg_semi_rs.classes.concepts` such as 'potsdam', or a
            sequence with one entry per class: its name, or several concepts, the name first.
        arch: Name of an open_clip model, or a dict for other sizes, see
            :func:`~.text_tower.resolve_arch`.
        checkpoint: Weight file with a text tower, with the names of OpenAI, open_clip or Hugging
            Face. None uses a random tower with a fixed seed, which is useful for tests only.
        templates: Sentences with '{}' for the concept, or the name of an entry of
            :data:`TEMPLATES`, 'photo' or 'aerial'. Defaults to ('a photo of a {}',).
        variant: 'conceptavg' averages the concepts of a class, 'single' takes the first. Averages
            separate the classes less: their mean cosine is 0.86 to 0.89 with Co2S's lists, that of
            the names alone 0.78 to 0.85.
        center: Whether to subtract the mean over the classes, and normalise again.
        underscores: 'space' writes 'low_vegetation' as 'low vegetation', 'verbatim' keeps it.
        cache_dir: Folder of the cached embeddings; None caches nothing.
        num_classes: Number of classes that the concepts must have; None accepts any.

    Attributes:
        embedding: Shape (num_classes, channels), rows of unit length, float32.
        fingerprint: SHA-256 of prompts and settings, shape (32,), uint8.
        num_classes: Number of classes N.
        channels: Width C, the embedding dimension of ``arch``.
        prompts: The sentences of each class.
        origin: File, project and licence of the tower's public weights.

    Raises:
        ValueError: If an argument is out of its range; the message names it.

    Examples:
        >>> embedding = TextEmbedding(['building', ['water', 'lake']], checkpoint=None)
        >>> embedding.prompts
        [['a photo of a building'], ['a photo of a water', 'a photo of a lake']]
        >>> embedding.init_weights()
        >>> embedding().shape
        torch.Size([2, 512])
    """

    embedding: Tensor
    fingerprint: Tensor

    def __init__(
        self,
        concepts: _Concepts,
        arch: str | Mapping[str, Any] = 'ViT-B-16-quickgelu',
        checkpoint: str | None = 'checkpoints/ViT-B-16.pt',
        templates: str | Sequence[str] = TEMPLATES['photo'],
        variant: str = 'conceptavg',
        center: bool = False,
        underscores: str = 'space',
        cache_dir: str | None = 'checkpoints/text_embeddings',
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ('variant', variant, ('conceptavg', 'single')),
            ('underscores', underscores, ('space', 'verbatim')),
        ):
            if value not in allowed:
                raise ValueError(f'TextEmbedding {name}={value!r} is none of {allowed}.')
        classes = _read_concepts(concepts)
        if num_classes not in (None, len(classes)):
            raise ValueError(
                f'TextEmbedding has concepts for {len(classes)} classes, but num_classes='
                f'{num_classes}: give one entry per class.'
            )
        if variant == 'single':
            classes = [known[:1] for known in classes]
        if underscores == 'space':
            classes = [[concept.replace('_', ' ') for concept in known] for known in classes]
        sentences = _read_templates(templates)
        self.prompts = [
            [sentence.replace('{}', concept) for concept in known for sentence in sentences]
            for known in classes
        ]
        self.arch = resolve_arch(arch)
        self.origin = self.arch.origin
        self.checkpoint = checkpoint
        self.center = center
        self.cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
        self.num_classes = len(classes)
        self.channels = self.arch.embed_dim
        self.settings = dict(tower=self.arch.settings, prompts=self.prompts, center=center)
        digest = bytes.fromhex(settings_digest(self.settings))
        self.register_buffer('embedding', torch.full((self.num_classes, self.channels), torch.nan))
        self.register_buffer('fingerprint', torch.tensor(list(digest), dtype=torch.uint8))

    def forward(self) -> Tensor:
        """Return the embeddings, shape (num_classes, channels).

        Raises:
            RuntimeError: If they have not been computed or loaded yet.
        """
        if not self.is_init:
            raise RuntimeError(
                'TextEmbedding has no embeddings yet: call init_weights(), or load a checkpoint '
                'that has them (its names end in class_embedding.embedding).'
            )
        return self.embedding

    def init_weights(self) -> None:
        """Compute the embeddings, or read them from the cache.

        Does nothing if they are already computed or loaded from a checkpoint.

        Raises:
            FileNotFoundError: If the weight file does not exist.
            ValueError: If the weight file does not fit, or a prompt is too long.
        """
        if not self.is_init:
            self.embedding.copy_(self._compute())
            self._is_init = True

    def _compute(self) -> Tensor:
        """Embeddings of shape (num_classes, channels) on the CPU, cached or computed."""
        if self.checkpoint is None:
            print_log(
                'TextEmbedding has no checkpoint: its embeddings come from a random text tower and '
                'mean nothing.',
                logger='current',
                level=logging.WARNING,
            )
            return self._run_tower(None)
        weights = Path(self.checkpoint).expanduser()
        if not weights.is_file():  # a folder of the Hugging Face hub, or missing
            weights = read_weight_file(weights, self.arch.origin).path
        if self.cache_dir is None:
            return self._run_tower(weights)
        settings = {**self.settings, 'weights': file_digest(weights)}
        kept = self.cache_dir / f'{settings_digest(settings)}.safetensors'
        embedding = read_embedding(kept, (self.num_classes, self.channels))
        if embedding is None:
            embedding = self._run_tower(weights)
            if is_main_process():
                write_embedding(kept, embedding, settings)
        return embedding

    def _run_tower(self, weights: Path | None) -> Tensor:
        tower = build_text_tower(self.arch)
        if weights is not None:
            load_text_tower(tower, self.arch, weights)
        distinct = list(dict.fromkeys(prompt for known in self.prompts for prompt in known))
        features = dict(zip(distinct, encode_prompts(tower, self.arch, distinct), strict=True))
        # Every concept has the same number of templates, so the mean of means is the mean.
        means = [
            torch.stack([features[prompt] for prompt in known]).mean(0) for known in self.prompts
        ]
        embedding = F.normalize(torch.stack(means), dim=1)
        if self.center:
            embedding = F.normalize(embedding - embedding.mean(0), dim=1)
        return embedding

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load the embedding of a checkpoint only if its prompts and its tower are the same."""
        stored = state_dict.get(prefix + 'fingerprint')
        if stored is None or torch.equal(stored.cpu(), self.fingerprint.cpu()):
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
            self._is_init = bool(self.embedding.isfinite().all())
            return
        print_log(
            f'The text embeddings of the checkpoint ({prefix}embedding) are of other prompts or of '
            'another text tower: they are left out, and the model takes its own.',
            logger='current',
            level=logging.WARNING,
        )
        self.init_weights()

    def extra_repr(self) -> str:
        """Show the size."""
        return f'num_classes={self.num_classes}, channels={self.channels}, center={self.center}'


def _read_concepts(concepts: _Concepts) -> list[list[str]]:
    """Return one non-empty list of concepts per class."""
    entries = class_concepts(concepts) if isinstance(concepts, str) else concepts
    classes = [[entry] if isinstance(entry, str) else list(entry) for entry in entries]
    if not classes:
        raise ValueError('TextEmbedding needs concepts for at least one class, got none.')
    for index, known in enumerate(classes):
        if not known or not all(isinstance(concept, str) and concept.strip() for concept in known):
            raise ValueError(
                f'TextEmbedding got the concepts {known} for class {index}: give one or several '
                'non-empty strings.'
            )
    return classes


def _read_templates(templates: str | Sequence[str]) -> list[str]:
    """Return sentences, each with a place for the concept."""
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            raise ValueError(
                f'TextEmbedding has no templates {templates!r}: give one of {sorted(TEMPLATES)}, '
                "or a list of sentences with '{}' for the concept."
            )
        templates = TEMPLATES[templates]
    if not templates or not all('{}' in sentence for sentence in templates):
        raise ValueError(
            f"TextEmbedding templates need '{{}}' for the concept in each, got {list(templates)}."
        )
    return list(templates)
