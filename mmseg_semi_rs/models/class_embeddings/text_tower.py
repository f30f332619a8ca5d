# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""CLIP's text tower (Radford et al., arXiv 2103.00020) on open_clip: build, load, encode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.clip_vision import clip_origin, wants_quick_gelu
from ..backbones.foundation import read_arch
from ..weights import Translation, WeightFile, load_pretrained

_ARCH_KEYS = {'width', 'layers', 'heads', 'embed_dim'}
_ARCH_OPTIONS = {'context_length', 'quick_gelu'}
_BATCH = 64  # prompts encoded at once


@dataclass(frozen=True)
class TextArch:
    """Settings of a text tower.

    Attributes:
        label: Its name in messages.
        origin: File, project and licence of its public weights.
        embed_dim: Width of the embeddings.
        quick_gelu: Whether the activation is x * sigmoid(1.702 x) instead of GELU.
        activation_named: Whether the user's arch specifies the activation.
        text_cfg: open_clip's config of the text tower.
    """

    label: str
    origin: str
    embed_dim: int
    quick_gelu: bool
    activation_named: bool
    text_cfg: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """Everything except the weights that the embeddings depend on."""
        return {**self.text_cfg, 'embed_dim': self.embed_dim, 'quick_gelu': self.quick_gelu}


def resolve_arch(arch: str | Mapping[str, Any]) -> TextArch:
    """Look up the settings of a text tower.

    Args:
        arch: Name of an open_clip model ('ViT-B/16-quickgelu' also works), or a dict with
            **width**, **layers**, **heads** and **embed_dim**, and optionally **context_length**
            (default 77) and **quick_gelu** (default False).

    Returns:
        Its settings.

    Raises:
        ValueError: If there is no such model, its text tower needs another library's tokenizer, or
            the dict is wrong.
    """
    label = f'TextEmbedding arch={arch!r}'
    if not isinstance(arch, str):
        arch = read_arch('TextEmbedding', arch, {}, _ARCH_KEYS, _ARCH_OPTIONS)
        text_cfg = {key: arch[key] for key in ('width', 'layers', 'heads')}
        text_cfg['context_length'] = arch.get('context_length', 77)
        quick_gelu = arch.get('quick_gelu')
        return TextArch(
            label,
            clip_origin(''),
            arch['embed_dim'],
            bool(quick_gelu),
            quick_gelu is not None,
            text_cfg,
        )
    import open_clip

    name = arch.replace('/', '-')
    config = open_clip.get_model_config(name)
    text_cfg = dict(config['text_cfg']) if config else {}
    if not text_cfg or text_cfg.get('hf_model_name') or text_cfg.get('hf_tokenizer_name'):
        raise ValueError(
            f"{label}: give the name of an open_clip model with CLIP's own text tower and "
            f'tokenizer, such as ViT-B-16-quickgelu or ViT-L-14, or a dict with '
            f'{", ".join(sorted(_ARCH_KEYS))}.'
        )
    text_cfg['output_tokens'] = False
    quick_gelu = bool(config.get('quick_gelu', False))
    return TextArch(label, clip_origin(name), config['embed_dim'], quick_gelu, quick_gelu, text_cfg)


def build_text_tower(arch: TextArch) -> nn.Module:
    """Build a text tower with random weights of a fixed seed, without changing global random state.

    Args:
        arch: Its settings.

    Returns:
        open_clip's text transformer on the CPU, in evaluation mode, float32.
    """
    from open_clip.model import _build_text_tower

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        tower = _build_text_tower(arch.embed_dim, dict(arch.text_cfg), quick_gelu=arch.quick_gelu)
    return tower.eval()


@dataclass
class _LoadableTower:
    """A text tower with the interface of :func:`~mmseg_semi_rs.models.weights.load_pretrained`."""

    tower: nn.Module
    arch: TextArch
    label: str
    origin: str
    family: str = 'CLIP text'
    depth: int = 0  # no block may be left out
    block_prefix: str = 'transformer.resblocks.'
    position_name: str = ''
    name_aliases: Mapping[str, str] = field(default_factory=dict)
    widening: Mapping[str, Any] = field(default_factory=dict)

    def state_dict(self, *, keep_vars: bool) -> dict[str, Tensor]:
        return self.tower.state_dict(keep_vars=keep_vars)

    def fit_position(self, embedding: Tensor) -> Tensor:
        return embedding

    def adapt_weights(self, translation: Translation, path: Path) -> None:
        pass

    def check_weights(self, file: WeightFile, format_name: str) -> None:
        """Refuse weights that were trained with the other activation, or might have been."""
        arch, wanted = self.arch, wants_quick_gelu(file)
        remedy = 'an arch whose name ends in -quickgelu or has quick_gelu=True'
        if wanted is None:
            if not arch.activation_named and format_name == 'Hugging Face':
                raise ValueError(
                    f'The weight file {file.path} (CLIP text, {format_name} names) does not tell '
                    f'its activation, nor does {arch.label}: put its config.json next to it, or '
                    f'give {remedy} if it stems from OpenAI.'
                )
        elif wanted != arch.quick_gelu:
            trained, built = ('QuickGELU', 'GELU') if wanted else ('GELU', 'QuickGELU')
            raise ValueError(
                f'The weight file {file.path} was trained with {trained}, while {arch.label} is '
                f'built with {built}: give {remedy if wanted else "the arch without quick GELU"}.'
            )


def load_text_tower(tower: nn.Module, arch: TextArch, path: Path) -> None:
    """Set every tensor of a text tower from a weight file; the rest of the file is ignored.

    Args:
        tower: From :func:`build_text_tower`.
        arch: Its settings.
        path: File of OpenAI, open_clip or Hugging Face, with or without the image tower.

    Raises:
        ValueError: If the file holds no or several text towers, was trained with the other
            activation, or has other tensors than the arch.
    """
    load_pretrained(_LoadableTower(tower, arch, arch.label, arch.origin), path)


@torch.no_grad()
def encode_prompts(tower: nn.Module, arch: TextArch, prompts: Sequence[str]) -> Tensor:
    """Encode prompts.

    Args:
        tower: From :func:`build_text_tower`.
        arch: Its settings.
        prompts: Sentences.

    Returns:
        Features projected into the common space, not normalised, shape (len(prompts), embed_dim),
        float32.

    Raises:
        ValueError: If a prompt is longer than the tower's context.
    """
    import open_clip

    length = arch.text_cfg.get('context_length', 77)
    tokenizer = open_clip.SimpleTokenizer(
        context_length=length, **arch.text_cfg.get('tokenizer_kwargs', {})
    )
    for prompt in prompts:
        tokens = len(tokenizer.encode(prompt)) + 2
        if tokens > length:
            raise ValueError(
                f'The prompt {prompt!r} has {tokens} tokens, of which {arch.label} takes {length}: '
                'shorten the concept or the template.'
            )
    batches = [prompts[at : at + _BATCH] for at in range(0, len(prompts), _BATCH)]
    return torch.cat([tower(tokenizer(list(batch))) for batch in batches])
