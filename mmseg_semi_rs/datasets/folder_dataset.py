# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A folder of images, some with masks, as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..classes import class_colours
from ..rasters.files import composed, list_images
from ..utils.commands import command
from ..utils.files import read_text


@DATASETS.register_module()
class FolderDataset(BaseSegDataset):
    """Any folder of images, with classes and palette from the config.

    Images may be PNG, JPEG or TIFF, also mixed, and may lie in sub-folders. A mask belongs to an
    image if it has the same path below its folder, whatever the suffixes and the Unicode form of
    accents. Masks hold class ids from 0 in the order of ``classes``, and 255 for no label.
    ``tools/init_dataset.py`` converts other masks and writes the config.

    Args:
        classes: Names in the order of their ids. Defaults to those of ``metainfo``.
        palette: RGB of each class, 0 to 255. Defaults to that of ``metainfo``, else to usual
            colours for the names.
        concepts: Everyday names of each class, for the prompts of vision-language models. Defaults
            to those of ``metainfo``, else to the names with spaces for underscores.
        metainfo: The same settings as mmseg passes them.
        ann_file: List of images, one path below ``data_prefix['img_path']`` per line, with or
            without suffix. Without a list all images are used; if there is a mask folder, those
            with a mask.
        data_prefix: Folders of the images (``img_path``) and, for labelled data, the masks
            (``seg_map_path``). Defaults to ``data_root`` itself, without masks.
        **kwargs: Passed on to ``BaseSegDataset``; suffixes are not used.

    Raises:
        ValueError: If there are no classes, palette or concepts do not match them, or a line of the
            list fits several images or is a URL.
        FileNotFoundError: If a listed image does not exist.

    Examples:
        >>> dataset = FolderDataset(['roof', 'bare_soil'], lazy_init=True)
        >>> dataset.metainfo['concepts']
        [['roof'], ['bare soil']]
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        concepts: Sequence[str | Sequence[str]] | None = None,
        metainfo: dict | None = None,
        ann_file: str = '',
        data_prefix: dict | None = None,
        **kwargs: Any,
    ) -> None:
        given = dict(classes=classes, palette=palette, concepts=concepts)
        meta = {**(metainfo or {}), **{k: v for k, v in given.items() if v is not None}}
        if not meta.get('classes'):
            raise ValueError(
                "FolderDataset needs classes: give them in the order of the masks' ids, e.g. "
                "classes=['building', 'road']."
            )
        names = [str(name) for name in meta['classes']]
        meta['classes'] = tuple(names)
        if not meta.get('palette'):
            meta['palette'] = class_colours(names)
        meta['palette'] = [[int(value) for value in colour] for colour in meta['palette']]
        if not meta.get('concepts'):
            meta['concepts'] = [name.replace('_', ' ') for name in names]
        meta['concepts'] = [
            [concept] if isinstance(concept, str) else list(concept) for concept in meta['concepts']
        ]
        for key in ('palette', 'concepts'):
            if len(meta[key]) != len(names):
                raise ValueError(
                    f'FolderDataset has {len(names)} classes ({", ".join(names)}) but '
                    f'{len(meta[key])} entries of {key}: give one per class.'
                )
        super().__init__(
            metainfo=meta,
            ann_file=ann_file,
            data_prefix=dict(img_path='') if data_prefix is None else data_prefix,
            **kwargs,
        )
        self.METAINFO = self.metainfo  # mmseg's tools read this class attribute

    def load_data_list(self) -> list[dict]:
        """Match images and masks as described in the class."""
        img_dir = self.data_prefix['img_path']
        mask_dir = self.data_prefix.get('seg_map_path')
        images = list_images(img_dir)
        masks = None if mask_dir is None else list_images(mask_dir)
        if self.ann_file:
            lines = read_text(Path(self.ann_file)).splitlines()
            names = [self._resolve(line, images) for line in lines if line.strip()]
        else:
            names = [name for stem in images for name in images[stem]]
        data_list = []
        for name in names:
            info = dict(
                img_path=str(Path(img_dir) / name),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            if masks is not None and mask_dir is not None:
                stem = composed(Path(name).with_suffix('').as_posix())
                if stem not in masks and not self.ann_file:
                    continue
                # A listed image without a mask gets the expected name of its mask, so that the
                # checks before the first step report it.
                found = masks.get(stem, [f'{stem}.png'])
                info['seg_map_path'] = str(Path(mask_dir) / found[0])
            data_list.append(info)
        return data_list

    def _resolve(self, line: str, images: dict[str, list[str]]) -> str:
        """Find the image, relative to the image folder, that a line of the list refers to."""
        line = composed(line)
        if line not in images and Path(line).name == line:
            line = line.replace('\\', '/')  # a list written on Windows
        if all(name not in images for name in (line, Path(line).with_suffix('').as_posix())):
            line = line.strip()  # only now, since names may contain outer spaces
        same = images.get(Path(line).with_suffix('').as_posix(), ())
        found = [name for name in same if composed(name) == line] or images.get(line, [])
        if not found and '://' in line:
            raise ValueError(
                f'{self.ann_file} names {line}, an address, which no training waits for: give the '
                f'list to `{command("init")}`, which fetches its rasters once.'
            )
        if not found:
            raise FileNotFoundError(
                f'{self.ann_file} names {line}, of which there is no image in '
                f'{self.data_prefix["img_path"]}: correct the list.'
            )
        if len(found) > 1:
            raise ValueError(
                f'{self.ann_file} names {line}, which may be {" or ".join(found)}: write the '
                'suffix into the list.'
            )
        return found[0]
