# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Train the demo's two tiny stand-ins for foundation models, without any label of its classes.

    python tools/make_demo_teachers.py --out data/demo_teachers

Nothing is downloaded, so the demo cannot have the weights of DINOv2 and CLIP. Two vision
transformers of their architectures take their places, trained for half a minute on other fabricated
places, which no scene of the demo shows, by tasks that need no class labels:

dinov2.pth  Each patch of 8 px has to tell elevation and clear-day colour (mean and spread) as a
            survey flight would measure them: dense knowledge of shape and material.
clip.pt     CLIP's symmetric contrastive loss, with pairs that need no words: two photographs of one
            place on two dates, cropped and turned at random; a patch of 16 px has to find its
            counterpart among all patches of the batch (as in SeCo, Manas et al., ICCV 2021). Sees
            tiles at half their size, as CLIP sees 224 px of the student's 518.

The files have the key names of Meta's and OpenAI's releases and are loaded as those would be.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from rich.progress import track
from torch import Tensor, nn

import mmseg_semi_rs  # noqa: F401 - registers the backbones
from mmseg_semi_rs.datasets import synthetic

TILE = 128
PATCH = 8
SIZES = {'dinov2': TILE, 'clip': TILE // 2}
BACKBONES: dict[str, dict[str, Any]] = {
    'dinov2': dict(
        type='DINOv2',
        arch=dict(embed_dims=64, num_layers=4, num_heads=2, out_indices=(3,)),
        img_size=SIZES['dinov2'],
        patch_size=PATCH,
    ),
    'clip': dict(
        type='CLIPVision',
        arch=dict(width=64, layers=4, heads=2, patch_size=PATCH, image_size=SIZES['clip']),
    ),
}
STATISTICS: dict[str, dict[str, list[float]]] = {
    'dinov2': dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    'clip': dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]),
}
FILES = {'dinov2': 'dinov2.pth', 'clip': 'clip.pt'}
CLEAR_DAY = synthetic.SceneStyle(ambient=0.95, haze=0.0, blur=0.3, noise=0.0)

_VERSION = 1  # raised whenever the same arguments give other weights
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


class Place(NamedTuple):
    """What is known about a place; all arrays (size, size, ...)."""

    first: np.ndarray
    second: np.ndarray
    clear: np.ndarray
    elevation: np.ndarray


def make_place(seed: int, index: int, size: int = 256) -> Place:
    """Fabricates a place: two photographs, its clear-day colour and its elevation in metres."""
    rng = np.random.default_rng([seed, 100_000 + index])
    layout = synthetic.make_layout(rng, size)
    photographs = [
        synthetic.render_layout(layout, style, rng)
        for style in (synthetic.SceneStyle.sample(rng), synthetic.SceneStyle.sample(rng), CLEAR_DAY)
    ]
    return Place(*photographs, synthetic.layout_elevation(layout))


def _turned(image: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    turned = np.rot90(image, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def _turn(rng: np.random.Generator, *maps: np.ndarray) -> list[np.ndarray]:
    """Several maps, turned and mirrored alike."""
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    return [_turned(each, turns, mirrored) for each in maps]


def _to_input(tiles: Sequence[np.ndarray], name: str) -> Tensor:
    """What a stand-in sees of tiles (TILE, TILE, 3), as FrozenTeacher makes it."""
    mean, std = (torch.tensor(STATISTICS[name][key]).view(1, 3, 1, 1) for key in ('mean', 'std'))
    images = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float()
    if SIZES[name] != TILE:
        images = F.interpolate(images, (SIZES[name],) * 2, mode='bilinear', antialias=True)
    return (images - mean) / std


class SurveyRegression(nn.Module):
    """Each patch tells what a survey would have measured: elevation and clear-day colour."""

    batch = 8

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.predict = nn.Linear(width, 10)

    def forward(self, places: Sequence[Place], rng: np.random.Generator) -> Tensor:
        """Loss of a batch of places."""
        tiles = []
        for place in places:
            top, left = rng.integers(0, place.first.shape[0] - TILE + 1, 2)
            window = (slice(top, top + TILE), slice(left, left + TILE))
            known = (place[int(rng.integers(2))], place.clear, place.elevation)
            tiles.append(_turn(rng, *(each[window] for each in known)))
        images, clear, elevation = zip(*tiles, strict=True)
        colour = torch.from_numpy(np.stack(clear)).permute(0, 3, 1, 2).float() / 51.0
        metres = torch.from_numpy(np.stack(elevation))[:, None]
        survey = torch.cat([metres.clamp(max=8.0) / 3.0, colour], dim=1)
        mean = F.avg_pool2d(survey, PATCH)
        spread = (F.avg_pool2d(survey**2, PATCH) - mean**2).clamp(min=1e-6).sqrt()
        raised = [F.avg_pool2d((metres > limit).float(), PATCH) * 2.0 for limit in (0.4, 2.7)]
        target = torch.cat([mean, spread, *raised], dim=1).permute(0, 2, 3, 1)
        tokens = self.backbone(_to_input(images, 'dinov2'))[-1].permute(0, 2, 3, 1)
        return F.smooth_l1_loss(self.predict(tokens), target, beta=0.3)


class SeasonContrast(nn.Module):
    """InfoNCE between patches of one place on two dates, in both directions as in CLIP."""

    batch = 12
    stride = PATCH * TILE // SIZES['clip']  # pixels of the tile per patch

    def __init__(self, backbone: nn.Module, width: int, patches: int = 12) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(width)  # CLIP's ln_post: what is distilled is before it
        self.project = nn.Linear(width, 64)
        self.patches = patches

    def pairs(self, places: Sequence[Place], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Cut two tiles of each place that overlap, and find patches that show the same spot.

        Args:
            places: B places.
            rng: Source of randomness.

        Returns:
            Images (2 B, 3, H, W), normalised, all of the first date before all of the second; and
            which patches are compared, (2 B, patches) int64, counted row by row.
        """
        tiles: list[list[np.ndarray]] = [[], []]
        chosen: list[list[np.ndarray]] = [[], []]
        stride, grid = self.stride, TILE // self.stride
        for place in places:
            span = (place.first.shape[0] - TILE) // stride
            start = rng.integers(0, stride, 2)
            spots = []
            for photograph, cut in zip(place[:2], tiles, strict=True):
                row, column = rng.integers(span // 4, 3 * span // 4, 2)
                rows, columns = np.mgrid[row : row + grid, column : column + grid]
                spot = rows * 1000 + columns
                top, left = start + np.array([row, column]) * stride
                tile = photograph[top : top + TILE, left : left + TILE]
                turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
                cut.append(_turned(tile, turns, mirrored))
                spots.append(_turned(spot, turns, mirrored).ravel())
            _, first, second = np.intersect1d(*spots, return_indices=True)
            few = rng.choice(len(first), self.patches, replace=False)
            chosen[0].append(first[few])
            chosen[1].append(second[few])
        images = _to_input(tiles[0] + tiles[1], 'clip')
        return images, torch.from_numpy(np.stack(chosen[0] + chosen[1]))

    def forward(self, places: Sequence[Place], rng: np.random.Generator) -> Tensor:
        """Loss of a batch of places."""
        images, patches = self.pairs(places, rng)
        tokens = self.backbone(images)[-1].flatten(2).transpose(1, 2)
        tokens = self.project(self.norm(tokens))
        index = patches[..., None].expand(-1, -1, tokens.shape[-1])
        codes = F.normalize(tokens.gather(1, index), dim=-1)
        first, second = codes.flatten(0, 1).chunk(2)
        similarity = first @ second.T / 0.1
        same = torch.arange(len(similarity))
        return (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2


TASKS: dict[str, type[SeasonContrast] | type[SurveyRegression]] = {
    'dinov2': SurveyRegression,
    'clip': SeasonContrast,
}


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates of matrices (Jordan et al., 2024).

    A vision transformer learns several times as much per second with it as with AdamW, which is
    what makes stand-ins in half a minute possible. Re-stated here from the published formula,
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


def pretrain(name: str, places: Sequence[Place], iterations: int, seed: int) -> nn.Module:
    """Train one stand-in.

    Args:
        name: ``'dinov2'`` or ``'clip'``.
        places: What it learns from.
        iterations: Steps.
        seed: Seed of weights and crops.

    Returns:
        The backbone, in eval mode.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, list(BACKBONES).index(name)])
    backbone = MODELS.build(BACKBONES[name])
    backbone.init_weights()
    task: nn.Module = TASKS[name](backbone, backbone.embed_dims).train()
    in_blocks = {id(p) for p in backbone.blocks.parameters() if p.ndim == 2}
    matrices = [p for p in task.parameters() if id(p) in in_blocks]
    others = [p for p in task.parameters() if id(p) not in in_blocks]
    optimizers = [Muon(matrices, lr=0.03), torch.optim.AdamW(others, lr=3e-3, weight_decay=0.0)]

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 20) * (1 - step / iterations) ** 0.9

    schedules = [torch.optim.lr_scheduler.LambdaLR(each, rate) for each in optimizers]
    for _ in range(iterations):
        chosen = rng.choice(len(places), min(task.batch, len(places)), replace=False)
        task.zero_grad()
        task([places[index] for index in chosen], rng).backward()
        for each in (*optimizers, *schedules):
            each.step()
    return backbone.eval()


def released_names(name: str, backbone: nn.Module) -> dict[str, Tensor]:
    """A backbone's weights with the key names of the release that it stands in for."""
    weights = {key: value.detach().clone() for key, value in backbone.state_dict().items()}
    if name == 'clip':
        return {f'visual.{key}': value for key, value in weights.items()}
    renamed = {'mask_token': torch.zeros(1, backbone.embed_dims)}
    for key, value in weights.items():
        for pattern, replacement in _META_NAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def _make_one(name: str, places: Sequence[Place], iterations: int, seed: int) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return released_names(name, pretrain(name, places, iterations, seed))


def make_demo_teachers(
    out: str | Path,
    seed: int = 0,
    places: int = 64,
    iterations: int = 300,
    workers: int = 2,
) -> None:
    """Fabricate places, train both stand-ins on them and write ``dinov2.pth`` and ``clip.pt``.

    Files that were made with the same arguments are kept.

    Args:
        out: Folder to make.
        seed: Seed of places and training.
        places: Number of places, at least 8.
        iterations: Training steps of each stand-in.
        workers: Processes to work in; 0 for none beside this one.

    Raises:
        ValueError: There are too few places.
    """
    if places < 8:
        raise ValueError(f'places={places} does not fill a batch: give at least 8.')
    out = Path(out)
    recipe = dict(version=_VERSION, seed=seed, places=places, iterations=iterations)
    note = out / 'fabricated.json'
    if note.is_file() and json.loads(note.read_text(encoding='utf-8')) == recipe:
        return
    out.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    with ExitStack() as stack:
        run: Callable[..., Iterable[Any]] = map
        if workers:
            # Threads of PyTorch do not survive a fork.
            context = get_context('spawn')
            run = stack.enter_context(ProcessPoolExecutor(workers, context)).map
        made = run(partial(make_place, seed), range(places))
        known = list(track(made, 'surveying places', total=places, transient=True))
        train = partial(_make_one, places=known, iterations=iterations, seed=seed)
        trained = track(run(train, FILES), 'pretraining', total=len(FILES), transient=True)
        for name, weights in zip(FILES, trained, strict=True):
            unfinished = out / f'{FILES[name]}.part'
            torch.save(weights, unfinished)
            unfinished.replace(out / FILES[name])
    note.write_text(json.dumps(recipe) + '\n', encoding='utf-8')


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tool."""
    parser = argparse.ArgumentParser(
        description="Train the demo's stand-ins for foundation models",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--out', default='data/demo_teachers', help='folder to make')
    parser.add_argument('--seed', type=int, default=0, help='seed of places and training')
    parser.add_argument('--places', type=int, default=64, help='places to learn from')
    parser.add_argument('--iterations', type=int, default=300, help='training steps of each')
    parser.add_argument('--workers', type=int, default=2, help='processes to work in')
    args = parser.parse_args(arguments)
    make_demo_teachers(**vars(args))
    print(f'{args.out}: {", ".join(FILES.values())}')


if __name__ == '__main__':
    main()
