# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A verifier that compares every place of a tile with the names of the classes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from ...models.class_embeddings import TEMPLATES
from ...utils.commands import command
from ...utils.files import file_digest, settings_digest, write_atomic
from ..evidence import Evidence, quantise
from .base import Verifier
from .dense_similarity import PatchSimilarity, WindowSimilarity, average_windows

_VERSION = 1  # to be raised whenever the same settings give other evidence
_CLIP_STATS = dict(mean=(122.771, 116.746, 104.094), std=(68.501, 66.632, 70.323))
_TEMPERATURES = (1e-4, 1.0)  # a useless verifier gets the largest, at which all scores are equal
_IGNORED = 255


@MODELS.register_module()
class CLIPVerifier(Verifier):
    """Dense comparison of a tile with class prompts, by the two towers of a CLIP.

    The tile is processed in overlapping windows at several scales. At each place the cosines with
    the texts, one per class (the mean over its names and the templates) and one per distractor, are
    averaged over windows and scales. A softmax over cosines / temperature gives probabilities;
    those of the distractors are evidence for no class. Classes that are not asked for have score 0.
    The whole tile counts as seen.

    Args:
        classes: See :class:`ClassPrompts`.
        arch: With ``dense``, the name of an open_clip model with CLIP's own towers, or a dict with
            **vision** and **text** (as for ``CLIPVision`` and ``TextEmbedding``); else the name of
            any open_clip model.
        checkpoint: Weight file with both towers. With ``dense``, of OpenAI, open_clip (as published
            by RemoteCLIP and GeoRSCLIP, with arch='ViT-L-14') or Hugging Face. Otherwise in
            open_clip format, or a folder of the Hugging Face hub with open_clip_config.json,
            weights and tokenizer, which then determines the architecture. None uses random weights
            of a fixed seed, which are useful for tests only.
        dense: Whether to compare patches, by the value path (MaskCLIP, arXiv 2112.01071). False
            compares whole windows, which works with any model: SigLIP, ConvNeXt, ResNet, text
            towers of transformers.
        templates: Sentences with '{}' for a name, or 'photo' or 'aerial'.
        distractors: Things that may be present but belong to no class. Defaults to ('clutter',
            'sports court', 'swimming pool', 'railway').
        temperature: Divisor of the cosines; or the JSON file that stores it, fitted to labelled
            tiles by :meth:`calibrate`. Defaults to 0.01, as in CLIP.
        scales: Factors by which the tile is resized. Defaults to (1.0, 2.0).
        window: Side of a window in pixels of the resized tile, a multiple of the patch size, or of
            ``stride`` with ``dense=False``. None takes the size that the model was trained with, or
            two strides with ``dense=False``.
        stride: Step between windows in pixels of the resized tile, a multiple of the patch size.
            None takes half a window, or 32 with ``dense=False``.
        grid: Longest side of the evidence in places; finer similarities are averaged.
        input_stats: ``mean`` and ``std`` per channel, RGB, of pixels in [0, 255]. None takes
            CLIP's; SigLIP has 127.5 throughout.
        dtype: 'float32', or 'bfloat16' or 'float16' for the matrix products.
        batch: Windows per forward pass. Windows of different tiles are never mixed.
        bands: See :class:`Verifier`.

    Raises:
        ValueError: If an argument is out of its range, or a distractor is the name of a class.

    Examples:
        >>> verifier = CLIPVerifier(
        ...     ['building', ['low vegetation', 'grass'], None], checkpoint=None, scales=[1.0]
        ... )
        >>> verifier.load()
        >>> verifier.verify([np.zeros((64, 48, 3), np.uint8)])[0].scores.shape
        (3, 4, 3)
    """

    def __init__(
        self,
        classes: str | Sequence[str | Sequence[str] | None],
        arch: str | Mapping[str, Any] = 'ViT-B-16-quickgelu',
        checkpoint: str | None = 'checkpoints/ViT-B-16.pt',
        dense: bool = True,
        templates: str | Sequence[str] = 'aerial',
        distractors: Sequence[str] = ('clutter', 'sports court', 'swimming pool', 'railway'),
        temperature: float | str = 0.01,
        scales: Sequence[float] = (1.0, 2.0),
        window: int | None = None,
        stride: int | None = None,
        grid: int = 128,
        input_stats: Mapping[str, Sequence[float]] | None = None,
        dtype: str = 'float32',
        batch: int = 32,
        bands: Sequence[int] | None = None,
    ) -> None:
        super().__init__(classes, bands)
        stats = _CLIP_STATS if input_stats is None else input_stats
        limits = dict(window=window, stride=stride, grid=grid, batch=batch)
        for name, right, value, remedy in (
            *(
                (name, side is None or side >= 1, side, 'a number of 1 or more')
                for name, side in limits.items()
            ),
            (
                'arch',
                isinstance(arch, str) or (dense and set(arch) == {'vision', 'text'}),
                arch,
                'a name, or with dense=True a dict with vision and text',
            ),
            ('scales', bool(scales) and min(scales) > 0, scales, 'factors above 0'),
            (
                'temperature',
                isinstance(temperature, str) or temperature > 0,
                temperature,
                'a number above 0, or the path of a file',
            ),
            (
                'input_stats',
                set(stats) == {'mean', 'std'} and {len(each) for each in stats.values()} == {3},
                stats,
                'mean and std, each of three numbers',
            ),
            ('dtype', dtype in ('float32', 'bfloat16', 'float16'), dtype, "'float32', 'bfloat16'"),
            ('stride', not (window and stride) or stride <= window, stride, 'at most the window'),
        ):
            if not right:
                raise ValueError(f'CLIPVerifier got {name}={value!r}: give {remedy}.')
        self.arch = arch
        self.checkpoint = checkpoint
        self.dense = dense
        self.templates = _read_templates(templates)
        self.distractors = tuple(distractors)
        self.temperature = temperature
        self.scales = tuple(float(scale) for scale in scales)
        self.window = window
        self.stride = stride if stride or dense else 32
        self.grid = grid
        self.input_stats = {key: [float(each) for each in stats[key]] for key in ('mean', 'std')}
        self.dtype = dtype
        self.batch = batch
        for text in self.distractors:
            label = self.prompts.find(text)
            if label is not None:
                raise ValueError(
                    f'CLIPVerifier got the distractor {text!r}, which is a name of the class '
                    f'{self.prompts.name(label)!r}: take it out of distractors.'
                )
        if len(self.prompts.asked) + len(self.distractors) < 2:
            raise ValueError(
                f'CLIPVerifier asks for {self.prompts.name(self.prompts.asked[0])!r} alone, which '
                'would be found everywhere: give one or more distractors.'
            )
        self._similarity: PatchSimilarity | WindowSimilarity | None = None
        self._fitted: float | None = None

    # ---- settings

    def settings(self) -> dict[str, Any]:
        """Return everything except the tile that the evidence depends on, as plain JSON.

        Raises:
            ValueError: If the temperature is not fitted yet, or was fitted with other settings.
        """
        return {**self._settings(), 'temperature': self._known_temperature()}

    def _settings(self) -> dict[str, Any]:
        """All settings except the temperature."""
        settings = dict(
            kind='CLIPVerifier',
            version=_VERSION,
            arch=self.arch,
            dense=self.dense,
            prompts=list(self.prompts),
            templates=self.templates,
            distractors=self.distractors,
            scales=self.scales,
            window=self.window,
            stride=self.stride,
            grid=self.grid,
            normalisation=self.input_stats,
            dtype=self.dtype,
            weights=_weights_digest(self.checkpoint),
        )
        return dict(json.loads(json.dumps(settings)))

    @property
    def needs_calibration(self) -> bool:
        """Whether the file of the temperature is missing."""
        return isinstance(self.temperature, str) and not Path(self.temperature).is_file()

    def _known_temperature(self) -> float:
        """The temperature, given or fitted."""
        if not isinstance(self.temperature, str):
            return float(self.temperature)
        if self._fitted is None:
            self._fitted = _read_temperature(Path(self.temperature), self._settings())
        return self._fitted

    # ---- evidence

    def load(self, device: torch.device | str = 'cpu') -> None:
        """Build both towers, load their weights and encode the texts. Further calls only move.

        Args:
            device: This process's own device.

        Raises:
            ImportError: If the model needs transformers, which is not installed.
            FileNotFoundError: If the weights, or files of the tokenizer, are not on this machine.
            ValueError: If the weights do not fit, or window and stride are not in whole patches.
        """
        if self._similarity is None:
            asked = [list(self.prompts)[label] for label in self.prompts.asked]
            concepts = [*asked, *((text,) for text in self.distractors)]
            similarity: PatchSimilarity | WindowSimilarity
            if self.dense:
                similarity = PatchSimilarity(concepts, self.templates, self.arch, self.checkpoint)
            else:
                similarity = WindowSimilarity(
                    concepts, self.templates, str(self.arch), self.checkpoint, self.stride or 32
                )
            for name, side in (('window', self.window), ('stride', self.stride)):
                if side is not None and side % similarity.cell:
                    what = 'patch size' if self.dense else 'stride'
                    raise ValueError(
                        f'CLIPVerifier got {name}={side}, which is no multiple of its {what} '
                        f'{similarity.cell}: give {-(-side // similarity.cell) * similarity.cell}.'
                    )
            self._similarity = similarity
        self._similarity.to(device)

    def verify(self, tiles: Sequence[np.ndarray]) -> list[Evidence]:
        """Make the evidence of tiles, one by one, so that other tiles make no difference.

        Args:
            tiles: Each (H, W, 3), uint8, RGB, of any size.

        Returns:
            The evidence of each tile. The grid is that of the finest scale, at most ``grid`` long
            and not finer than the tile.

        Raises:
            RuntimeError: If :meth:`load` was not called.
            ValueError: If the temperature is not fitted yet, or was fitted with other settings.
        """
        temperature = self._known_temperature()
        return [self._verify_one(tile, temperature) for tile in tiles]

    def _verify_one(self, tile: np.ndarray, temperature: float) -> Evidence:
        likely = F.softmax(self._cosines(tile).double() / temperature, dim=0).cpu().numpy()
        asked = self.prompts.asked
        scores = np.zeros((self.num_classes, *likely.shape[1:]), np.uint8)
        scores[list(asked)] = quantise(likely[: len(asked)])
        height, width = tile.shape[:2]
        return Evidence(
            scores=scores,
            seen=np.ones(likely.shape[1:], bool),
            size=(height, width),
            answer=self._describe(likely, (height, width)),
        )

    def _precision(self, device: torch.device) -> torch.autocast:
        if self.dtype == 'float32':  # old PyTorch refuses this dtype even if disabled
            return torch.autocast(device.type, enabled=False)
        return torch.autocast(device.type, getattr(torch, self.dtype))

    @torch.no_grad()
    def _cosines(self, tile: np.ndarray) -> Tensor:
        """Mean cosines with the texts of the asked classes, then of the distractors, (N, h, w)."""
        similarity = self._similarity
        if similarity is None:
            raise RuntimeError('CLIPVerifier has no weights yet: call load() first.')
        device = similarity.texts.device
        mean, std = (
            torch.tensor(self.input_stats[key], device=device).view(3, 1, 1)
            for key in ('mean', 'std')
        )
        # A copy, since tiles may be views with negative strides.
        image = torch.from_numpy(np.array(tile)).to(device).permute(2, 0, 1).float()
        cell = similarity.cell
        window = self.window or max(similarity.window, self.stride or 0)
        stride = self.stride or max(window // 2 // cell, 1) * cell
        maps = []
        for scale in self.scales:
            sides = [max(1, round(side * scale / cell)) * cell for side in image.shape[1:]]
            resized = F.interpolate(image[None], sides, mode='bilinear', antialias=True)[0]
            with self._precision(device):
                maps.append(
                    average_windows(similarity, (resized - mean) / std, window, stride, self.batch)
                )
        finest = max(maps, key=lambda cosines: cosines[0].numel()).shape[1:]
        excess = max(1.0, max(finest) / self.grid)
        grid = [
            min(max(1, round(places / excess)), side)
            for places, side in zip(finest, image.shape[1:], strict=True)
        ]
        levels = [
            F.interpolate(cosines[None], grid, mode='bilinear', antialias=True)[0]
            for cosines in maps
        ]
        return torch.stack(levels).mean(0)

    def _describe(self, likely: np.ndarray, size: tuple[int, int]) -> str:
        """Describe in one line each class's share of the tile, mean score and best place (x, y)."""
        winners = likely.argmax(0)
        parts = []
        for index, label in enumerate(self.prompts.asked):
            won = winners == index
            if won.any():
                scores = np.where(won, likely[index], -1.0)
                row, column = np.unravel_index(int(scores.argmax()), scores.shape)
                x = int((column + 0.5) * size[1] / scores.shape[1])
                y = int((row + 0.5) * size[0] / scores.shape[0])
                share, score = won.mean(), likely[index][won].mean()
                best = f'best {scores.max():.2f} at ({x}, {y})'
                line = f'{self.prompts.name(label)} {share:.0%} ({score:.2f}, {best})'
                parts.append((share, line))
        none = float((winners >= len(self.prompts.asked)).mean())
        lines = [line for _, line in sorted(parts, key=lambda part: -part[0])]
        return ', '.join([*lines, f'none of them {none:.0%}'] if none else lines)

    # ---- calibration

    def calibrate(self, labelled: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Fit the temperature to labelled tiles by the mean negative log likelihood, and store it.

        The places are those of the evidence, with the label at their centre. Places without a
        label, or of a class that is not asked for, do not count. The likelihood is convex in 1 /
        temperature.

        Args:
            labelled: Tiles (H, W, 3), uint8, RGB, and their label maps (H, W), uint8, 255 where
                there is no label.

        Raises:
            RuntimeError: If :meth:`load` was not called.
            ValueError: If ``temperature`` is a number, or no label is of a class that is asked for.
        """
        if not isinstance(self.temperature, str):
            raise ValueError(
                f'CLIPVerifier has temperature={self.temperature}, so that nothing is to be fitted:'
                ' give the path of the file in which the fitted one is kept.'
            )
        index_of = np.full(256, -1)
        index_of[list(self.prompts.asked)] = np.arange(len(self.prompts.asked))
        index_of[_IGNORED] = -1
        cosines, targets, tiles = [], [], 0
        for tile, labels in labelled:
            found = self._cosines(tile).cpu().double()
            rows, columns = (
                ((np.arange(places) + 0.5) * side / places).astype(int)
                for places, side in zip(found.shape[1:], labels.shape, strict=True)
            )
            target = torch.from_numpy(index_of[labels[np.ix_(rows, columns)]])
            cosines.append(found[:, target >= 0].T)
            targets.append(target[target >= 0])
            tiles += 1
        if not sum(len(target) for target in targets):
            raise ValueError(
                f'The temperature {self.temperature} cannot be fitted, since none of {tiles} '
                'labelled tiles shows a class that is asked for '
                f'({", ".join(map(self.prompts.name, self.prompts.asked))}): give other tiles, or '
                'a number as temperature.'
            )
        every, target = torch.cat(cosines), torch.cat(targets)
        temperature = fit_temperature(every, target)
        record = dict(
            temperature=temperature,
            tiles=tiles,
            places=len(target),
            loss=F.cross_entropy(every / temperature, target).item(),
            settings=self._settings(),
        )
        _write_json(Path(self.temperature), record)
        self._fitted = temperature
        print_log(
            f'CLIPVerifier: temperature {temperature:.4g} fitted to {len(target)} places of '
            f'{tiles} tiles, kept in {self.temperature}',
            logger='current',
            level=logging.INFO,
        )


def fit_temperature(cosines: Tensor, targets: Tensor) -> float:
    """Find the temperature with the lowest mean negative log likelihood.

    Args:
        cosines: Shape (M, N), float64.
        targets: Index of the right one of the N texts, shape (M,), int64.

    Returns:
        Temperature in [1e-4, 1].
    """
    from scipy.optimize import minimize_scalar

    low, high = np.log(_TEMPERATURES)
    found = minimize_scalar(
        lambda power: F.cross_entropy(cosines / float(np.exp(power)), targets).item(),
        bounds=(low, high),
        method='bounded',
        options=dict(xatol=1e-5),
    )
    return float(f'{np.exp(found.x):.4g}')  # further digits differ between machines


def _read_temperature(path: Path, settings: dict[str, Any]) -> float:
    """Read a fitted temperature, and check that it was fitted with these settings."""
    if not path.is_file():
        raise ValueError(
            f'The fitted temperature {path} does not exist: run {command("annotate")} CONFIG, '
            'which fits it to the labelled tiles, or give a number as temperature.'
        )
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
        temperature, fitted = float(record['temperature']), dict(record['settings'])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is not the file of a fitted temperature ({error!r}): remove it, and run '
            f'{command("annotate")} CONFIG to fit it anew.'
        ) from error
    if settings['weights'] is None:  # not on this machine: all other settings must agree
        settings = {**settings, 'weights': fitted.get('weights')}
    if fitted != settings:
        key = next(key for key in {**settings, **fitted} if fitted.get(key) != settings.get(key))
        raise ValueError(
            f'The temperature in {path} was fitted with {key}={fitted.get(key)!r} (settings '
            f'{settings_digest(fitted)[:16]}), while this CLIPVerifier has {key}='
            f'{settings.get(key)!r} (settings {settings_digest(settings)[:16]}): give another path '
            f'as temperature, or remove the file, and run {command("annotate")} CONFIG.'
        )
    return temperature


def _write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_atomic(path, (json.dumps(record, indent=1) + '\n').encode(), shared=True)


def _read_templates(templates: str | Sequence[str]) -> list[str]:
    """Return sentences, each with a place for the name."""
    sentences = TEMPLATES.get(templates, ()) if isinstance(templates, str) else templates
    if not sentences or not all('{}' in sentence for sentence in sentences):
        raise ValueError(
            f'CLIPVerifier got templates={templates!r}: give one of {sorted(TEMPLATES)}, or '
            "sentences with '{}' for the name."
        )
    return list(sentences)


def _weights_digest(checkpoint: str | None) -> str | None:
    """Hash a weight file, or all files of a folder; None if there is none."""
    if checkpoint is None:
        return 'random'
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        return settings_digest({file.name: _digest(file) for file in files})
    return _digest(path) if path.is_file() else None


def _digest(path: Path) -> str:
    known = path.stat()
    return _digest_once(path, known.st_size, known.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest_once(path: Path, size: int, changed: int) -> str:
    """Hash a file once as long as its size and date do not change."""
    return file_digest(path)
