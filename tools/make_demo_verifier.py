# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Train the demo's tiny CLIP, which verifies pseudo labels by what the classes are called.

    python tools/make_demo_verifier.py --out data/demo_verifier

Nothing is downloaded, so the demo cannot have CLIP's weights. A network of its architecture takes
their place, trained for half a minute on other fabricated places, which no scene of the demo shows,
with captions: CLIP has seen pictures with words, and so does this one. It sees regions of
photographs with sentences such as 'an aerial photo of a house', with the synonyms and templates
that the verifier asks with, and learns by a contrastive loss which patch goes with which sentence.

So it does learn the names of the demo's classes, from places of the same fabricated kind as the
demo's, and is better at them than CLIP is at real ones. It never sees a scene of the demo, nor its
labels. Nothing is ever called clutter; what is found there has captions of its own, such as 'a
sports court seen from above', as people write them: they are the verifier's distractors.

verifier.pt  Both towers, with the key names of open_clip.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from make_demo_teachers import PATCH, STATISTICS, TILE, Muon
from rich.progress import track
from torch import Tensor, nn

import mmseg_semi_rs  # noqa: F401 - mends the OpenMMLab packages
from mmseg_semi_rs.datasets import synthetic
from mmseg_semi_rs.datasets.synthetic.materials import MATERIAL_ID
from mmseg_semi_rs.models import CLIPVision
from mmseg_semi_rs.models.class_embeddings import TEMPLATES
from mmseg_semi_rs.models.class_embeddings.text_tower import build_text_tower, resolve_arch
from mmseg_semi_rs.purification import PROMPTS

ARCH: dict[str, dict[str, Any]] = dict(
    vision=dict(width=64, layers=4, heads=2, patch_size=PATCH, image_size=TILE, embed_dim=64),
    text=dict(width=64, layers=2, heads=2, embed_dim=64, context_length=24),
)
FILE = 'verifier.pt'
# What is clutter to the classes but something to people, and what it is made of.
DISTRACTORS: dict[str, tuple[str, ...]] = {
    'sports court': ('court', 'marking'),
    'construction site': ('soil', 'rubble', 'container'),
    'pond': ('water',),
}
# Names by the number of a class or, from 6 on, of a distractor; clutter itself has none.
NAMES = (*PROMPTS['potsdam'], *((text,) for text in DISTRACTORS))

SCALES = (1, 2, 2, 3)  # by which photographs are enlarged, one at random; as the verifier does

_VERSION = 1  # raised whenever the same arguments give other weights


class CaptionedPlace(NamedTuple):
    """Two photographs of a place (size, size, 3), and where :data:`NAMES` are, (size, size)."""

    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray


def make_captioned_place(seed: int, index: int, size: int = 256) -> CaptionedPlace:
    """Fabricates a place that is neither a scene of the demo nor one of the other stand-ins'."""
    rng = np.random.default_rng([seed, 200_000 + index])
    layout = synthetic.make_layout(rng, size)
    photographs = [
        synthetic.render_layout(layout, synthetic.SceneStyle.sample(rng), rng) for _ in range(2)
    ]
    clutter = layout.labels == len(synthetic.CLASS_NAMES)
    for number, materials in enumerate(DISTRACTORS.values(), len(PROMPTS['potsdam']) + 1):
        made_of = np.isin(layout.material, [MATERIAL_ID[each] for each in materials])
        layout.labels[clutter & made_of] = number
    return CaptionedPlace(*photographs, synthetic.layout_labels(layout) - 1)


class CaptionContrast(nn.Module):
    """Contrastive loss between patches of photographs and sentences about their regions.

    Args:
        batch: Photographs in a step.
        captions: Sentences about each class in a step.
    """

    def __init__(self, batch: int = 8, captions: int = 2) -> None:
        super().__init__()
        self.batch, self.captions = batch, captions
        self.visual = CLIPVision(arch=ARCH['vision'], value_path=True, dense=True)
        self.visual.init_weights()
        self.visual.proj.requires_grad_(True)
        arch = resolve_arch(ARCH['text'])
        self.text = build_text_tower(arch)
        self.text.token_embedding.sparse = True  # a few dozen words of 49 408 ever get a gradient
        self.tokenizer = open_clip.SimpleTokenizer(context_length=arch.text_cfg['context_length'])
        self.logit_scale = nn.Parameter(torch.tensor(15.0).log())

    def draw_captions(self, rng: np.random.Generator) -> tuple[list[str], Tensor]:
        """Sentences about each class, by a synonym and a template at random; and their classes."""
        pairs = [
            (str(rng.choice(TEMPLATES['aerial'])).replace('{}', str(rng.choice(names))), label)
            for label, names in enumerate(NAMES)
            for _ in range(self.captions if names else 0)
        ]
        return [sentence for sentence, _ in pairs], torch.tensor([label for _, label in pairs])

    def cut(
        self, places: Sequence[CaptionedPlace], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Photographs (B, 3, TILE, TILE), normalised; share of each class in each patch."""
        images, shares = [], []
        one_hot = np.eye(len(NAMES), dtype=np.float32)
        for place in places:
            side = TILE // int(rng.choice(SCALES))
            top, left = rng.integers(0, len(place.labels) - side + 1, 2)
            turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            cuts = []
            for whole in (place[int(rng.integers(2))], one_hot[place.labels]):
                turned = np.rot90(whole[top : top + side, left : left + side], turns)
                cuts.append(torch.tensor(np.array(turned[:, ::-1] if mirrored else turned)))
            image, classes = (each.permute(2, 0, 1)[None].float() for each in cuts)
            images.append(F.interpolate(image, (TILE, TILE), mode='bilinear', antialias=True))
            shares.append(F.adaptive_avg_pool2d(classes, TILE // PATCH))
        mean, std = (torch.tensor(STATISTICS['clip'][key]).view(3, 1, 1) for key in ('mean', 'std'))
        return (torch.cat(images) - mean) / std, torch.cat(shares)

    def forward(self, places: Sequence[CaptionedPlace], rng: np.random.Generator) -> Tensor:
        """Loss of a batch of places."""
        images, shares = self.cut(places, rng)
        share, label = shares.max(1)
        sentences, about = self.draw_captions(rng)
        texts = F.normalize(self.text(self.tokenizer(sentences)), dim=1)
        told = (share > 0.5) & torch.isin(label, about)
        patches = self.visual(images)[-1].permute(0, 2, 3, 1)[told]
        label = label[told]
        logits = self.logit_scale.exp() * patches @ texts.T
        right = label[:, None] == about
        loss = logits.logsumexp(1) - logits.masked_fill(~right, -torch.inf).logsumexp(1)
        # Rare classes have fewer patches, not fewer captions.
        weight = torch.bincount(label, minlength=len(NAMES)).clamp(min=1).float()[label] ** -0.6
        return (weight * loss).sum() / weight.sum()


def pretrain(places: Sequence[CaptionedPlace], iterations: int, seed: int) -> dict[str, Tensor]:
    """Train both towers.

    Args:
        places: What they learn from.
        iterations: Steps.
        seed: Seed of weights, crops and captions.

    Returns:
        Their weights, with the key names of open_clip.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2])
    task = CaptionContrast().train()
    blocks = [*task.visual.blocks.parameters(), *task.text.transformer.parameters()]
    matrices = [weight for weight in blocks if weight.ndim == 2]
    words = task.text.token_embedding.weight
    known = {id(weight) for weight in (*matrices, words)}
    others = [weight for weight in task.parameters() if id(weight) not in known]
    optimizers = [
        Muon(matrices, lr=0.015),
        torch.optim.AdamW(others, lr=3e-3, weight_decay=0.0),
        torch.optim.SparseAdam([words], lr=3e-3),
    ]

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 20) * (1 - step / iterations) ** 0.9

    schedules = [torch.optim.lr_scheduler.LambdaLR(each, rate) for each in optimizers]
    for _ in range(iterations):
        chosen = rng.choice(len(places), min(task.batch, len(places)), replace=False)
        task.zero_grad()
        task([places[index] for index in chosen], rng).backward()
        for each in (*optimizers, *schedules):
            each.step()
    return {
        # open_clip has the text tower at the top.
        key.removeprefix('text.'): weight.detach().clone()
        for key, weight in task.state_dict().items()
    }


def _pretrain_alone(
    places: Sequence[CaptionedPlace], iterations: int, seed: int
) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return pretrain(places, iterations, seed)


def make_demo_verifier(
    out: str | Path,
    seed: int = 0,
    places: int = 64,
    iterations: int = 350,
    workers: int = 2,
) -> None:
    """Fabricate places, train both towers on them and write ``verifier.pt``.

    A file that was made with the same arguments is kept.

    Args:
        out: Folder to make.
        seed: Seed of places and training.
        places: Number of places, at least 8.
        iterations: Training steps.
        workers: Processes to work in; 0 for none beside this one. The training takes one of them.

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
        made = run(partial(make_captioned_place, seed), range(places))
        known = list(track(made, 'photographing places', total=places, transient=True))
        train = partial(_pretrain_alone, iterations=iterations, seed=seed)
        (weights,) = track(run(train, [known]), 'pretraining', total=1, transient=True)
    unfinished = out / f'{FILE}.part'
    torch.save(weights, unfinished)
    unfinished.replace(out / FILE)
    note.write_text(json.dumps(recipe) + '\n', encoding='utf-8')


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tool."""
    parser = argparse.ArgumentParser(
        description="Train the demo's stand-in for a CLIP that verifies pseudo labels",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--out', default='data/demo_verifier', help='folder to make')
    parser.add_argument('--seed', type=int, default=0, help='seed of places and training')
    parser.add_argument('--places', type=int, default=64, help='places to learn from')
    parser.add_argument('--iterations', type=int, default=350, help='training steps')
    parser.add_argument('--workers', type=int, default=2, help='processes to work in')
    args = parser.parse_args(arguments)
    make_demo_verifier(**vars(args))
    print(f'{args.out}: {FILE}')


if __name__ == '__main__':
    main()
