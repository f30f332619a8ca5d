# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Train the stand-ins for DINOv2 and CLIP, and write them with a note of where they come from."""

from __future__ import annotations

import json
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
import torch
from rich.progress import track
from torch import Tensor

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.files import file_digest, replacing

from .caption_contrast import CaptionContrast
from .muon import Muon
from .places import Place, make_place
from .self_distillation import SelfDistillation

FILES = {'clip': 'clip.pt', 'dinov2': 'dinov2.pth'}
STEPS = {'clip': 2000, 'dinov2': 600}
TASKS: dict[str, type[CaptionContrast] | type[SelfDistillation]] = {
    'clip': CaptionContrast,
    'dinov2': SelfDistillation,
}


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
    register_all()
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
    stepped: list[Any] = [*optimizers, *schedules]
    for _ in range(steps):
        chosen = rng.choice(len(places), min(task.batch, len(places)), replace=False)
        task.zero_grad()
        task([places[index] for index in chosen], rng).backward()
        for each in stepped:
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
            with replacing(file) as unfinished:
                torch.save(weights, unfinished)
            recipe = dict(
                file=file.name,
                sha256=file_digest(file),
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
