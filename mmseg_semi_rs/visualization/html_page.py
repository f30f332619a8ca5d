# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Static HTML pages from templates, in one style (light and dark) and without network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from ..utils.files import replacing

__all__ = ['NONE', 'Cell', 'Table', 'data_uri', 'embed_picture', 'text', 'write_page']

#: Text for a missing value.
NONE = '\N{EN DASH}'


class Cell(NamedTuple):
    """A table cell with more than text.

    Attributes:
        text: Text of the cell.
        bar: Whether the cell holds a number that may have a bar behind it.
        size: Length of the bar in percent of the cell; None for no bar.
        best: Whether the number is the highest of its row.
        whole: Full value that ``text`` abbreviates; shown when unfolded.
    """

    text: str
    bar: bool = False
    size: float | None = None
    best: bool = False
    whole: str = ''


class Table(NamedTuple):
    """A table; the first entry of each row is its header.

    Attributes:
        caption: Caption of the table.
        heads: Header of each column; empty for a list of names and values.
        rows: Texts or :class:`Cell`.
        bars: Indices of columns with numbers.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    bars: Iterable[int] = ()


def _visible(value: Any) -> Any:
    """Replace control characters in text by visible ones; keep markup as it is."""
    if isinstance(value, Markup):
        return value
    return ''.join(
        sign
        if sign in '\n\r\t' or (sign >= ' ' and sign != '\x7f')
        else '\N{REPLACEMENT CHARACTER}'
        for sign in str(value)
    )


def text(raw: object) -> Markup:
    """Escape text for element content and quoted attributes; control characters become visible."""
    return escape(_visible(raw))


_PAGES = Environment(
    loader=PackageLoader('mmseg_semi_rs.visualization'),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_visible,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: str | Path, template: str, **context: Any) -> Path:
    """Write a page that needs no network and allows no script but its own.

    Iterables in the context are consumed lazily while the page is written. Lone surrogates, which a
    model's answer may contain, become question marks.

    Args:
        path: Output file, written atomically; its folder is created.
        template: File name in ``templates``.
        **context: Variables of the template. Text is escaped.

    Returns:
        The path.

    Raises:
        ValueError: The path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f'{path} is a folder: name a file for the page, e.g. {path}/page.html.')
    with (
        replacing(path) as partial,
        partial.open('w', encoding='utf-8', errors='replace', newline='\n') as file,
    ):
        file.writelines(_PAGES.get_template(template).generate(**context))
    return path


def data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    """Encode a picture as a data URI.

    Args:
        image: The picture.
        kind: File format, such as ``'png'``.
        **options: Options of the format.
    """
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f'data:image/{kind};base64,' + base64.b64encode(buffer.getvalue()).decode()


def embed_picture(path: Path, longest: int) -> tuple[str, tuple[int, int]]:
    """Shrink a picture and encode it as a data URI.

    Args:
        path: File of the picture.
        longest: Largest length of its longer side in pixels.

    Returns:
        The URI and the size (width, height) in pixels.

    Raises:
        OSError: The file is damaged or not a picture.
    """
    with Image.open(path) as opened:
        image = opened.convert('RGB')
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return data_uri(image, 'webp', quality=82, method=4), image.size
