# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The only module that depends on versions of mmengine, mmcv, mmseg, mmpretrain, torch and numpy.

Importing it fixes, in memory and only where needed, problems that keep the released OpenMMLab
packages from working together on current Python and PyTorch:

=============================== ====================================================================
problem                         what :func:`apply` does
=============================== ====================================================================
mmseg imports ``mmcv.ops``, but ``load_ext`` returns a stand-in whose operators raise when they are
mmcv-lite has no ``mmcv._ext``  *called*; nothing is put into ``sys.modules``, since mmengine takes
                                any ``mmcv._ext`` for the full mmcv
torch >= 2.6 loads with         the classes of mmengine's message hub and of numpy scalars are
``weights_only=True``, which    declared safe; ``weights_only`` itself stays on
refuses mmengine's checkpoints
mmengine loads downloaded files its ``load_url`` is called with ``weights_only=True``
without ``weights_only``
onedl-mmengine declares these   it calls ``torch.load(weights_only=True)``
classes safe too, but forgets
them after a file, and loads
others ``weights_only=False``
mmpretrain's backbones return   ``train()`` returns the module again, so that ``.eval()`` chains,
None from ``train()``           after :func:`import_mmpretrain` was called
``pkgutil.find_loader`` warns   mmengine and mmcv get one that calls ``importlib.util.find_spec``
on 3.12, and is gone on 3.14
bases named ``mmseg::...`` need mmengine asks ``importlib`` where a package is installed
setuptools' ``pkg_resources``,
which was removed in its 82
mmcv's ``adjust_hue`` converts  negative rotations are done as positive ones of the image with its
a negative number to ``uint8``, red and blue exchanged, which is the same
which numpy 2 refuses
mmcv's ``adjust_contrast``      8-bit images go through a table of 256 values, which is bit-equal
computes a histogram in numpy   and five times as fast
onedl-mmsegmentation's          it has the attribute ``channel_conversion`` again
preprocessor hides its channel
conversion
mmseg's ``CrossEntropyLoss``    the weight of ignored pixels is 0 in its denominator
with ``class_weight`` looks up
a weight of ignored pixels
mmseg's ``FocalLoss`` takes     it gets one-hot maps there; on a GPU without the full mmcv it uses
wrong targets on the CPU, and   mmseg's formula in PyTorch
needs an operator on a GPU
mmengine formats the whole      the text of an unchanged config is cached, so that only the first
config at every checkpoint,     checkpoint of a run costs that second
about a second each
=============================== ====================================================================

Every function may be called any number of times.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import cv2
import numpy as np
import torch

__all__ = ['MissingOps', 'apply', 'import_mmpretrain', 'missing_operator', 'require_openmmlab']

# import name -> requirement to install
_FAMILIES = {
    'mmengine': 'mmengine',
    'mmcv': 'mmcv-lite==2.1.0',
    'mmseg': 'mmsegmentation==1.2.2',
    'mmpretrain': 'mmpretrain==1.2.0',
}


def require_openmmlab() -> None:
    """Check that the OpenMMLab packages are installed, without importing them.

    They are not hard requirements of this distribution, because two distributions provide each
    import name (``mmsegmentation`` and ``onedl-mmsegmentation``, ...), and installing both
    overwrites files.

    Raises:
        ImportError: If any is missing; the message says what to type.
    """
    missing = [name for name in _FAMILIES if importlib.util.find_spec(name) is None]
    if missing:
        requirements = ' '.join(f'"{_FAMILIES[name]}"' for name in missing)
        raise ImportError(
            f'mmseg_semi_rs needs {", ".join(missing)}, which this Python does not have: type '
            f'`{sys.executable} -m pip install {requirements}` (or install mmseg_semi_rs with its '
            'extra "mmlab"; with the onedl-* distributions install their counterparts instead).'
        )


class MissingOps:
    """Stand-in for mmcv's compiled extension module; calling an operator raises.

    Args:
        module: Full name of the missing extension, e.g. ``'mmcv._ext'``.
        names: The operators that the importing file needs from it.
    """

    def __init__(self, module: str, names: Sequence[str]) -> None:
        for name in names:
            setattr(self, name, functools.partial(self._raise, module, name))

    @staticmethod
    def _raise(module: str, name: str, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(
            f'The operator {name!r} lives in the compiled module {module}, which mmcv-lite does '
            'not have: install the full mmcv (built for your PyTorch) to use this model, or '
            'choose one that needs no compiled operator.'
        )


def _mend_ext_loader() -> None:
    """Allow ``mmcv.ops`` to be imported without its compiled extension."""
    ext_loader = importlib.import_module('mmcv.utils.ext_loader')
    original = ext_loader.load_ext
    if getattr(original, 'mended', False):
        return

    @functools.wraps(original)
    def load_ext(name: str, funcs: Sequence[str]) -> Any:
        # Only a missing file is replaced. One that exists but does not load (built for another
        # PyTorch) keeps its own error.
        if importlib.util.find_spec('mmcv.' + name) is None:
            return MissingOps('mmcv.' + name, funcs)
        return original(name, funcs)

    load_ext.mended = True  # type: ignore[attr-defined]
    ext_loader.load_ext = load_ext  # type: ignore[attr-defined]


def missing_operator(network: Any) -> str | None:
    """Find a layer of a network that would call an operator replaced by :class:`MissingOps`.

    Args:
        network: A ``torch.nn.Module``.

    Returns:
        The name of its class; None if there is none.
    """
    for layer in network.modules():
        home = sys.modules.get(type(layer).__module__)
        if isinstance(getattr(home, 'ext_module', None), MissingOps):
            return type(layer).__name__
    return None


def _history_buffer_attribute(owner: Any, name: str) -> Any:
    """Safe replacement of ``builtins.getattr`` in checkpoints: looks up a statistic only.

    mmengine pickles ``HistoryBuffer.mean`` and similar methods as ``getattr(HistoryBuffer,
    'mean')``. The builtin would let a forged file read any attribute of any allowed object.
    """
    from mmengine.logging import HistoryBuffer

    if owner is HistoryBuffer and not name.startswith('_') and hasattr(owner, name):
        return getattr(owner, name)
    raise ValueError(
        f'The checkpoint asks for the attribute {name!r} of {owner!r}, which no checkpoint written '
        'by mmengine does: load it only after you have checked where it comes from.'
    )


def _numpy_core() -> ModuleType:
    try:
        return importlib.import_module('numpy._core.multiarray')
    except ImportError:  # numpy 1
        return importlib.import_module('numpy.core.multiarray')


def _safe_globals() -> list[Any]:
    """Everything except tensors that an mmengine checkpoint contains."""
    from mmengine.logging import HistoryBuffer

    core = _numpy_core()
    dtype_classes = {type(np.dtype(code)) for code in np.typecodes['AllInteger'] + '?efd'}
    names: list[Any] = [
        HistoryBuffer,
        (_history_buffer_attribute, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *sorted(dtype_classes, key=lambda cls: cls.__name__),
    ]
    # Files written under numpy 1 can be read under numpy 2, and vice versa.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        names.append((core._reconstruct, f'{module}._reconstruct'))
        names.append((core.scalar, f'{module}.scalar'))
    return names


def _mend_checkpoints() -> None:
    """Declare the contents of mmengine checkpoints safe for ``torch.load(weights_only=True)``."""
    version = tuple(int(part) for part in torch.__version__.split('.')[:2])
    if version >= (2, 6):  # from here on weights_only is the default
        torch.serialization.add_safe_globals(_safe_globals())
    checkpoint: Any = importlib.import_module('mmengine.runner.checkpoint')
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = functools.partial(torch.load, weights_only=True)
    if not isinstance(checkpoint.load_url, functools.partial):
        checkpoint.load_url = functools.partial(checkpoint.load_url, weights_only=True)


def _subclasses(cls: type) -> Iterator[type]:
    yield cls
    children: list[type] = cls.__subclasses__()
    for child in children:
        yield from _subclasses(child)


def _returning_self(train: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(train)
    def wrapper(self: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
        train(self, mode)
        return self

    wrapper.mended = True  # type: ignore[attr-defined]
    return wrapper


def import_mmpretrain() -> Any:
    """Import mmpretrain, which takes a second, and fix it.

    Returns:
        Its module ``mmpretrain.models.backbones``, whose ``train()`` and ``eval()`` return the
        module.
    """
    backbones = importlib.import_module('mmpretrain.models').backbones
    for cls in _subclasses(backbones.base_backbone.BaseBackbone):
        train = cls.__dict__.get('train')
        if (
            train is not None
            and cls.__module__.startswith('mmpretrain.')
            and not getattr(train, 'mended', False)
        ):
            cls.train = _returning_self(train)  # type: ignore[attr-defined]
    return backbones


def _mend_find_loader() -> None:
    """Give mmengine and mmcv a ``pkgutil.find_loader`` that neither warns nor is missing."""
    if sys.version_info < (3, 12):
        return

    def find_loader(fullname: str) -> Any:
        spec = importlib.util.find_spec(fullname)
        return None if spec is None else spec.loader

    replacement = SimpleNamespace(**{**vars(pkgutil), 'find_loader': find_loader})
    for name in ('mmengine.utils.dl_utils.misc', 'mmcv.utils.ext_loader'):
        module = importlib.import_module(name)
        if getattr(module, 'pkgutil', None) is pkgutil:
            module.pkgutil = replacement  # type: ignore[attr-defined]


def _module_of(package: str) -> str | None:
    """Folder of an installed package, by the name of its module or of its distribution."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        try:
            listed = metadata.distribution(package).read_text('top_level.txt') or ''
        except metadata.PackageNotFoundError:
            return None
        spec = importlib.util.find_spec((listed.split() or [package])[0])
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent)


def _mend_installed() -> None:
    """Make ``mmseg::`` in front of a base config work without setuptools' ``pkg_resources``."""
    if importlib.util.find_spec('pkg_resources') is not None:
        return

    def is_installed(package: str) -> bool:
        return _module_of(package) is not None

    def get_installed_path(package: str) -> str:
        path = _module_of(package)
        if path is None:
            raise ModuleNotFoundError(f'{package} is not installed.')
        return path

    for name in ('mmengine.utils.package_utils', 'mmengine.utils', 'mmengine.config.config'):
        module: Any = importlib.import_module(name)
        module.is_installed, module.get_installed_path = is_installed, get_installed_path


def _mend_adjust_hue() -> None:
    """Make ``mmcv.adjust_hue`` accept negative hue factors under numpy 2."""
    mmcv: Any = importlib.import_module('mmcv')
    original = mmcv.adjust_hue
    if getattr(original, 'mended', False) or int(np.__version__.split('.')[0]) < 2:
        return

    @functools.wraps(original)
    def adjust_hue(img: np.ndarray, hue_factor: float, backend: str | None = None) -> np.ndarray:
        if hue_factor >= 0:
            return original(img, hue_factor, backend=backend)
        # Exchanging red and blue mirrors the hue circle, h -> 240 degrees - h, so a forward
        # rotation of the exchanged image is a backward rotation of the image.
        swap = functools.partial(cv2.cvtColor, code=cv2.COLOR_BGR2RGB)
        return swap(original(swap(img), -hue_factor, backend=backend))

    adjust_hue.mended = True  # type: ignore[attr-defined]
    mmcv.adjust_hue = adjust_hue


def _mend_adjust_contrast() -> None:
    """Speed up ``mmcv.adjust_contrast`` for 8-bit images."""
    mmcv: Any = importlib.import_module('mmcv')
    original = mmcv.adjust_contrast
    if getattr(original, 'mended', False):
        return

    @functools.wraps(original)
    def adjust_contrast(
        img: np.ndarray, factor: float = 1.0, backend: str | None = None
    ) -> np.ndarray:
        if img.dtype != np.uint8 or backend != 'cv2' or img.ndim != 3:
            return original(img, factor, backend=backend)
        grey = mmcv.bgr2gray(img)
        mean = np.float32(round(int(grey.sum(dtype=np.int64)) / grey.size))
        levels = np.arange(256, dtype=np.float32)[None]
        table = cv2.addWeighted(levels, factor, np.full_like(levels, mean), 1 - factor, 0)
        return cv2.LUT(img, np.clip(table, 0, 255).astype(np.uint8))

    adjust_contrast.mended = True  # type: ignore[attr-defined]
    mmcv.adjust_contrast = adjust_contrast


def _mend_preprocessor() -> None:
    """Let every ``SegDataPreProcessor`` tell whether it exchanges red and blue."""
    cls = importlib.import_module('mmseg.models.data_preprocessor').SegDataPreProcessor
    base = importlib.import_module('mmengine.model').ImgDataPreprocessor
    if issubclass(cls, base):  # the fork's base class keeps it private
        cls.channel_conversion = property(lambda self: self._channel_conversion)


def _mend_cross_entropy() -> None:
    """Make ``CrossEntropyLoss`` with class weights work where pixels are ignored."""
    module: Any = importlib.import_module('mmseg.models.losses.cross_entropy_loss')
    original = module.cross_entropy
    if getattr(original, 'mended', False):
        return

    @functools.wraps(original)
    def cross_entropy(
        pred: torch.Tensor,
        label: torch.Tensor,
        weight: torch.Tensor | None = None,
        class_weight: torch.Tensor | None = None,
        reduction: str = 'mean',
        avg_factor: Any = None,
        ignore_index: int = -100,
        avg_non_ignore: bool = False,
    ) -> torch.Tensor:
        fits = class_weight is not None and len(class_weight) == pred.shape[1]  # else it fails
        if class_weight is not None and fits and avg_factor is None and reduction == 'mean':
            counted = label != ignore_index
            avg_factor = (class_weight[label.masked_fill(~counted, 0)] * counted).sum()
        options = (weight, class_weight, reduction, avg_factor, ignore_index, avg_non_ignore)
        return original(pred, label, *options)

    cross_entropy.mended = True  # type: ignore[attr-defined]
    module.cross_entropy = cross_entropy


def _mend_focal_loss() -> None:
    """Make ``FocalLoss`` accept label maps on the CPU, and work on a GPU without the full mmcv."""
    module: Any = importlib.import_module('mmseg.models.losses.focal_loss')
    original = module.FocalLoss.forward
    if getattr(original, 'mended', False):
        return
    formula = module.py_sigmoid_focal_loss

    def sigmoid_focal_loss(
        pred: torch.Tensor, _: Any, one_hot: torch.Tensor, *options: Any, **more: Any
    ) -> torch.Tensor:
        return formula(pred, one_hot, None, *options, **more)

    if isinstance(importlib.import_module('mmcv.ops.focal_loss').ext_module, MissingOps):
        module.sigmoid_focal_loss = sigmoid_focal_loss

    @functools.wraps(original)
    def forward(
        self: Any,
        pred: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: Any = None,
        reduction_override: str | None = None,
        ignore_index: int = 255,
        **kwargs: Any,
    ) -> torch.Tensor:
        if not pred.is_cuda and target.dim() == pred.dim() - 1 and pred.shape[1] > 1:
            counted = target != ignore_index
            weight = counted.to(pred) if weight is None else weight * counted
            target = target.masked_fill(~counted, 0)
            target = torch.nn.functional.one_hot(target, pred.shape[1]).movedim(-1, 1)
        if weight is not None:
            weight = weight.flatten()
        return original(
            self, pred, target, weight, avg_factor, reduction_override, ignore_index, **kwargs
        )

    forward.mended = True  # type: ignore[attr-defined]
    module.FocalLoss.forward = forward


def _mend_pretty_text() -> None:
    """Let mmengine format an unchanged config once, not at every checkpoint."""
    config_class = importlib.import_module('mmengine.config').Config
    original = config_class.pretty_text.fget
    if getattr(original, 'mended', False):
        return
    texts: dict[str, str] = {}

    @functools.wraps(original)
    def pretty_text(self: Any) -> str:
        key = repr(self._cfg_dict)
        if key not in texts:
            texts.clear()  # a process trains one config at a time
            texts[key] = original(self)
        return texts[key]

    pretty_text.mended = True  # type: ignore[attr-defined]
    config_class.pretty_text = property(pretty_text)


def apply() -> None:
    """Apply all fixes; runs once when this module is imported.

    Raises:
        ImportError: If mmengine, mmcv, mmseg or mmpretrain is not installed.
    """
    require_openmmlab()
    _mend_find_loader()
    _mend_installed()
    _mend_ext_loader()
    _mend_checkpoints()
    _mend_adjust_hue()
    _mend_adjust_contrast()
    _mend_preprocessor()
    _mend_cross_entropy()
    _mend_focal_loss()
    _mend_pretty_text()


apply()
