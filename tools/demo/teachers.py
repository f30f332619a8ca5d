# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Trains the demo's stand-ins for DINOv2 and CLIP, see ``tools/make_demo_teachers.py``."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from rich.progress import track
from torch import Tensor, nn

from mmseg_semi_rs.models.class_embeddings.text_tower import build_text_tower, resolve_arch

from .places import Place, make_place, write_caption

TILE = 128
PATCH = 8
GRID = TILE // PATCH
DINO: dict[str, Any] = dict(
    type='DINOv2',
    arch=dict(embed_dims=64, num_layers=4, num_heads=2, out_indices=(3,)),
    img_size=TILE,
    patch_size=PATCH,
)
# A file has room for a wide vision tower or for a wide table of CLIP's 49 408 words: most of it
# are the 14 numbers of each word.
CLIP: dict[str, dict[str, Any]] = dict(
    vision=dict(width=64, layers=4, heads=2, patch_size=PATCH, image_size=TILE, embed_dim=64),
    text=dict(width=14, layers=2, heads=2, embed_dim=64, context_length=40),
)
STATISTICS: dict[str, dict[str, list[float]]] = {
    'dinov2': dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    'clip': dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]),
}
FILES = {'clip': 'clip.pt', 'dinov2': 'dinov2.pth'}
STEPS = {'clip': 2000, 'dinov2': 600}

_META_NAMES = (
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^layers\.', 'blocks.'),
    (r'^ln1\.', 'norm.'),
    (r'\.ln([12])\.', r'.norm\1.'),
    (r'\.attn\.gamma1\.weight$', '.ls1.gamma'),
    (r'\.ffn\.gamma2\.weight$', '.ls2.gamma'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
)


def _turned(image: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    turned = np.rot90(image, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def _normalised(images: Sequence[np.ndarray], name: str) -> Tensor:
    """Images (TILE, TILE, 3) on the 0-255 scale as (B, 3, TILE, TILE) for a network."""
    mean, std = (torch.tensor(STATISTICS[name][key]).view(1, 3, 1, 1) for key in ('mean', 'std'))
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() - mean) / std


class SelfDistillation(nn.Module):
    """Patches tell the cluster of their spot on the other date, of which an average is sure.

    Args:
        batch: Places in a step.
        clusters: Number of prototypes.
        blanked: Share of patches that the student does not see, in [0, 1).
        jitter: Strength of changes of contrast, brightness and white balance.
    """

    def __init__(
        self, batch: int = 8, clusters: int = 256, blanked: float = 0.3, jitter: float = 0.2
    ) -> None:
        super().__init__()
        self.batch, self.blanked, self.jitter = batch, blanked, jitter
        backbone = MODELS.build(DINO)
        backbone.init_weights()
        head = nn.Sequential(nn.Linear(backbone.embed_dims, 256), nn.GELU(), nn.Linear(256, 64))
        self.student = nn.ModuleDict(
            dict(backbone=backbone, head=head, prototypes=nn.Linear(64, clusters, bias=False))
        )
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        self.updates = 0

    def cut(self, places: Sequence[Place], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Cut an overlapping tile of each date, turned and tinted apart, and match their patches.

        Args:
            places: B places.
            rng: Source of randomness.

        Returns:
            Images (2 B, 3, TILE, TILE), all of the first date before all of the second; and which
            patches show the same spots, (2 B, 64) int64, counted row by row.
        """
        tiles: list[list[np.ndarray]] = [[], []]
        matched: list[list[np.ndarray]] = [[], []]
        for place in places:
            last = (place.photographs.shape[1] - TILE) // PATCH - 1
            start, about = rng.integers(0, PATCH, 2), rng.integers(0, last + 1, 2)
            spots = []
            for date, photograph in enumerate(place.photographs):
                row, column = np.clip(about + rng.integers(-4, 5, 2), 0, last)
                rows, columns = np.mgrid[row : row + GRID, column : column + GRID]
                top, left = start + np.array([row, column]) * PATCH
                turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
                tile = _turned(photograph[top : top + TILE, left : left + TILE], turns, mirrored)
                tint = rng.normal(0, 60) + rng.normal(0, 20, 3)
                changed = (tile - 128.0) * (1 + rng.normal(0, self.jitter)) + 128
                tiles[date].append(np.clip(changed + self.jitter * tint, 0, 255))
                spots.append(_turned(rows * 1000 + columns, turns, mirrored).ravel())
            _, *found = np.intersect1d(*spots, return_indices=True)
            few = rng.choice(len(found[0]), 64, replace=False)
            for date in range(2):
                matched[date].append(found[date][few])
        images = _normalised(tiles[0] + tiles[1], 'dinov2')
        return images, torch.from_numpy(np.stack(matched[0] + matched[1]))

    def forward(self, places: Sequence[Place], rng: np.random.Generator) -> Tensor:
        """Loss of a batch of places; the average follows first."""
        self._follow()
        images, patches = self.cut(places, rng)
        with torch.no_grad():
            first, second = self._similarity(self.average, images, patches).chunk(2)
            target = torch.cat([_balanced(second), _balanced(first)])
        seen = torch.from_numpy(rng.uniform(size=(len(images), 1, GRID, GRID)) >= self.blanked)
        blanked = images * F.interpolate(seen.float(), scale_factor=PATCH)
        logits = self._similarity(self.student, blanked, patches) / 0.1
        return -(target * logits.log_softmax(1)).sum(1).mean()

    @torch.no_grad()
    def _follow(self) -> None:
        self.updates += 1
        share = max(0.01, 1 / (self.updates + 1))
        for old, new in zip(self.average.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, share)

    @staticmethod
    def _similarity(network: Any, images: Tensor, patches: Tensor) -> Tensor:
        """Cosines (B * 64, clusters) of the chosen patches with the prototypes."""
        tokens = network['backbone'](images)[-1].flatten(2).transpose(1, 2)
        index = patches[..., None].expand(-1, -1, tokens.shape[-1])
        codes = F.normalize(network['head'](tokens.gather(1, index)), dim=-1).flatten(0, 1)
        return codes @ F.normalize(network['prototypes'].weight, dim=1).T

    def weights(self) -> dict[str, Tensor]:
        """The backbone's weights with the key names of Meta's release."""
        backbone = self.student['backbone']
        renamed = {'mask_token': torch.zeros(1, backbone.embed_dims)}
        for key, value in backbone.state_dict().items():
            for pattern, replacement in _META_NAMES:
                key = re.sub(pattern, replacement, key)
            renamed[key] = value
        return renamed


def _balanced(similarity: Tensor, sharpness: float = 20.0, rounds: int = 3) -> Tensor:
    """Assign rows to columns so that all columns get equally much (Sinkhorn-Knopp)."""
    share = (similarity * sharpness).exp()
    for _ in range(rounds):
        share = share / share.sum(0, keepdim=True)
        share = share / share.sum(1, keepdim=True)
    return share


class CaptionContrast(nn.Module):
    """Contrastive loss between rectangles of photographs and their captions, as CLIP's.

    The embedding of a rectangle is the mean over the patches it covers. Captions of one content
    count as one another's.

    Args:
        batch: Photographs in a step.
        regions: Rectangles of each, at most.
    """

    def __init__(self, batch: int = 12, regions: int = 10) -> None:
        super().__init__()
        self.batch, self.regions = batch, regions
        self.visual = MODELS.build(
            dict(type='CLIPVision', arch=CLIP['vision'], value_path=True, dense=True)
        )
        self.visual.init_weights()
        self.visual.proj.requires_grad_(True)
        arch = resolve_arch(CLIP['text'])
        self.text = build_text_tower(arch)
        self.text.token_embedding.sparse = True  # a few dozen words of 49 408 ever get a gradient
        self.tokenizer = open_clip.SimpleTokenizer(context_length=arch.text_cfg['context_length'])
        self.logit_scale = nn.Parameter(torch.tensor(10.0).log())

    def cut(
        self, places: Sequence[Place], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Cut a tile of each place, at one of two scales, and rectangles within.

        Args:
            places: B places.
            rng: Source of randomness.

        Returns:
            Images (B, 3, TILE, TILE); of R rectangles the image (R,) int64, the share of each patch
            (R, GRID * GRID), whose sum is 1, and the content.
        """
        images, owners, shares, contents = [], [], [], []
        for number, place in enumerate(places):
            size = place.photographs.shape[1]
            side = TILE // int(rng.choice((1, 1, 2)))
            top, left = (int(each) for each in rng.integers(0, size - side + 1, 2))
            turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            tile = place.photographs[int(rng.integers(2)), top : top + side, left : left + side]
            tile = cv2.resize(tile, (TILE, TILE), interpolation=cv2.INTER_LINEAR)
            images.append(_turned(tile, turns, mirrored))
            inside = [
                each
                for each in place.regions
                if top <= each.top
                and left <= each.left
                and each.top + each.height <= top + side
                and each.left + each.width <= left + side
            ]
            for chosen in rng.permutation(len(inside))[: self.regions]:
                row, column, height, width, content = inside[chosen]
                covered = np.zeros((side, side), np.float32)
                covered[row - top : row - top + height, column - left : column - left + width] = 1
                owners.append(number)
                covered = cv2.resize(covered, (GRID, GRID), interpolation=cv2.INTER_AREA)
                shares.append(_turned(covered / covered.sum(), turns, mirrored).ravel())
                contents.append(content)
        owner, share = torch.tensor(owners), torch.from_numpy(np.stack(shares))
        return _normalised(images, 'clip'), owner, share, contents

    def forward(self, places: Sequence[Place], rng: np.random.Generator) -> Tensor:
        """Loss of a batch of places."""
        images, owner, share, contents = self.cut(places, rng)
        patches = self.visual(images)[-1].flatten(2)
        regions = F.normalize(torch.einsum('rcp,rp->rc', patches[owner], share), dim=1)
        captions = [write_caption(content, rng) for content in contents]
        texts = F.normalize(self.text(self.tokenizer(captions)), dim=1)
        logits = self.logit_scale.exp().clamp(max=50.0) * regions @ texts.T
        same = torch.tensor([[float(one == other) for other in contents] for one in contents])
        target = same / same.sum(1, keepdim=True)
        return -(target * (logits.log_softmax(1) + logits.T.log_softmax(1))).sum(1).mean() / 2

    def weights(self) -> dict[str, Tensor]:
        """Both towers, with the key names of open_clip, which has the text tower at the top."""
        return {key.removeprefix('text.'): value for key, value in self.state_dict().items()}


TASKS: dict[str, type[CaptionContrast] | type[SelfDistillation]] = {
    'clip': CaptionContrast,
    'dinov2': SelfDistillation,
}


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates of matrices (Jordan et al., 2024).

    A vision transformer learns several times as much per second with it as with AdamW, which is
    what makes stand-ins in minutes possible. Re-stated here from the published formula,
    since ``torch.optim.Muon`` is in newer releases of PyTorch only.

    Args:
        matrices: Parameters with two dimensions.
        lr: Step length.
        momentum: Share of the past in the mean gradient, in [0, 1).
    """

    def __init__(self, matrices: Sequence[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all matrices."""
        for group in self.param_groups:
            for matrix in group['params']:
                mean = self.state[matrix].setdefault('mean', torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - group['momentum'])
                update = matrix.grad.lerp(mean, group['momentum'])
                scale = math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
                matrix.add_(_orthogonalise(update), alpha=-group['lr'] * scale)


def _orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards the nearest matrix whose singular values are all about 1."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x


def pretrain(name: str, places: Sequence[Place], steps: int, seed: int) -> dict[str, Tensor]:
    """Train one stand-in.

    Args:
        name: ``'clip'`` or ``'dinov2'``.
        places: What it learns from.
        steps: Training steps.
        seed: Seed of weights, crops and captions.

    Returns:
        Its weights in float16, with the key names of the release that it stands in for.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, list(FILES).index(name)])
    task: Any = TASKS[name]().train()
    words = [task.text.token_embedding.weight] if name == 'clip' else []
    in_blocks = re.compile(r'\.(layers|resblocks)\.')
    matrices = [
        weight
        for key, weight in task.named_parameters()
        if weight.requires_grad and weight.ndim == 2 and in_blocks.search(key)
    ]
    known = {id(weight) for weight in (*matrices, *words)}
    others = [each for each in task.parameters() if each.requires_grad and id(each) not in known]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=0.02),
        torch.optim.AdamW(others, lr=2e-3, weight_decay=0.0),
        *(torch.optim.SparseAdam([table], lr=3e-3) for table in words),
    ]

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 30) * (1 - step / steps)

    schedules = [torch.optim.lr_scheduler.LambdaLR(each, rate) for each in optimizers]
    for _ in range(steps):
        chosen = rng.choice(len(places), min(task.batch, len(places)), replace=False)
        task.zero_grad()
        task([places[index] for index in chosen], rng).backward()
        for each in (*optimizers, *schedules):
            each.step()
    return {key: value.detach().half() for key, value in task.weights().items()}


def make_demo_teachers(
    out: str | Path,
    seed: int = 0,
    places: int = 300,
    steps: int | None = None,
    workers: int = 2,
) -> None:
    """Fabricate places, train both stand-ins on them; write them and what they came from.

    Args:
        out: Folder to write ``clip.pt``, ``clip.json``, ``dinov2.pth`` and ``dinov2.json`` to.
        seed: Seed of places and training.
        places: Number of places, at least 12.
        steps: Training steps of each; None takes :data:`STEPS`.
        workers: Processes to work in; 0 for none beside this one.

    Raises:
        ValueError: There are too few places.
    """
    if places < 12:
        raise ValueError(f'places={places} does not fill a batch: give at least 12.')
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        run: Callable[..., Iterable[Any]] = map
        if workers:
            # Threads of PyTorch do not survive a fork.
            context = get_context('spawn')
            run = stack.enter_context(ProcessPoolExecutor(workers, context)).map
        made = run(partial(make_place, seed), range(places))
        known = list(track(made, 'photographing places', total=places, transient=True))
        train = partial(_pretrain, places=known, steps=steps, seed=seed)
        trained = track(run(train, FILES), 'training', total=len(FILES), transient=True)
        for name, (weights, taken) in zip(FILES, trained, strict=True):
            file = out / FILES[name]
            unfinished = file.with_name(f'{file.name}.part')
            torch.save(weights, unfinished)
            unfinished.replace(file)
            recipe = dict(
                file=file.name,
                sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
                command=f'python tools/make_demo_teachers.py --seed {seed} --places {places}'
                + (f' --steps {steps}' if steps else ''),
                seed=seed,
                steps=taken,
                versions={each.__name__: each.__version__ for each in (torch, np, cv2)},
            )
            file.with_suffix('.json').write_text(json.dumps(recipe, indent=1) + '\n', 'utf-8')


def _pretrain(
    name: str, places: Sequence[Place], steps: int | None, seed: int
) -> tuple[dict[str, Tensor], int]:
    taken = steps or STEPS[name]
    return pretrain(name, places, taken, seed), taken
