# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Parts of static pages: escaped text, tables, embedded pictures, one look in light and dark."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

# Colours of series: Okabe and Ito's, darker on paper and lighter in the dark.
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --card: #f6f7f9; --ink: #1b1d21; --soft: #596070;
  --line: #d4d8df; --warn: #8a3b00; --focus: #0b62d6; --bar: #dbe6f7;
  --s0: #0069b4; --s1: #cc4d00; --s2: #00855f; --s3: #a83d82; --s4: #8a6a00; --s5: #1d8bbf;
  --s6: #6a4fc0; --s7: #5c6068; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14161a; --card: #1c1f25; --ink: #e7e9ed; --soft: #a4abb8; --line: #383d48;
    --warn: #ffb27a; --focus: #7db4ff; --bar: #23395a;
    --s0: #5ab0ff; --s1: #ff9454; --s2: #3fcf9f; --s3: #e58cc4; --s4: #e3c04b; --s5: #7fd6ff;
    --s6: #b3a1ff; --s7: #b4bac5; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 74rem; margin: 0 auto; padding: 1rem clamp(.75rem, 3vw, 2rem) 3rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: .75rem 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { max-width: 48rem; margin: .5rem 0; }
code, pre { font-family: ui-monospace, monospace; font-size: .8125rem; }
.note, .lead { color: var(--soft); }
.note { font-size: .875rem; }
.faults { border: 1px solid var(--warn); border-radius: 8px; padding: .5rem 1rem; margin: 1rem 0; }
.faults h2 { color: var(--warn); font-size: 1rem; margin: .25rem 0; }
.faults ul { margin: .25rem 0; padding-left: 1.25rem; font-size: .875rem; }
.table { max-width: 100%; overflow-x: auto; margin: .75rem 0 1.25rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; vertical-align: top; }
th { font-weight: 500; }
thead th { color: var(--soft); vertical-align: bottom; }
th:first-child { padding-left: 0; }
.bar { text-align: right; }
td[style] { background: linear-gradient(90deg, var(--bar) var(--size), transparent 0) no-repeat;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
td.best { font-weight: 700; }
details { margin: .5rem 0; }
summary { cursor: pointer; font-weight: 500; padding: .25rem 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .75rem;
  max-height: 28rem; overflow: auto; white-space: pre-wrap; margin: .5rem 0; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .8125rem; color: var(--soft); }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 1px; }
@media print {
  :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --soft: #444;
    --line: #bbb; --warn: #8a3b00; --bar: #dbe6f7; --s0: #0069b4; --s1: #cc4d00; --s2: #00855f;
    --s3: #a83d82; --s4: #8a6a00; --s5: #1d8bbf; --s6: #6a4fc0; --s7: #5c6068; }
  pre, .table { max-height: none; overflow: visible; }
  figure, tr { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
}
"""


def write_page(path: str | Path, title: str, style: str, body: str) -> Path:
    """Write a page that needs no network and allows no script.

    Args:
        path: Where to; folders are made. Written under a temporary name and renamed.
        title: Text.
        style: CSS that is added to ``STYLE``.
        body: HTML.

    Returns:
        The path.

    Raises:
        ValueError: The path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f'{path} is a folder: name a file for the page, e.g. {path}/page.html.')
    path.parent.mkdir(parents=True, exist_ok=True)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    source = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{text(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n'
        f'{body}</main>\n</body>\n</html>\n'
    )
    partial = path.with_name(path.name + '.part')
    partial.write_text(source, encoding='utf-8', errors='replace', newline='\n')
    partial.replace(path)
    return path


def text(raw: object) -> str:
    """Escape for element content and quoted attributes; control characters become visible."""
    kept = ''.join(
        sign
        if sign in '\n\r\t' or (sign >= ' ' and sign != '\x7f')
        else '\N{REPLACEMENT CHARACTER}'
        for sign in str(raw)
    )
    return html.escape(kept, quote=True)


def table(caption: str, heads: Sequence[str], rows: Iterable[str], bars: range = range(0)) -> str:
    """A table that scrolls where it is too wide.

    Args:
        caption: Text.
        heads: Text over each column.
        rows: HTML of the cells of each row; the first is its header.
        bars: Columns of numbers, whose cells are of class ``bar``.
    """
    columns = ''.join(
        f'<th scope="col" class="{"bar" if index in bars else "word"}">{text(head)}</th>'
        for index, head in enumerate(heads)
    )
    lines = '\n'.join(f'<tr>{row}</tr>' for row in rows)
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table><caption>{text(caption)}</caption>\n<thead><tr>{columns}</tr></thead>\n'
        f'<tbody>\n{lines}\n</tbody></table></div>\n'
    )


def row(first: object, cells: Iterable[object]) -> str:
    """Cells of a row of plain text, the first of which is its header."""
    return f'<th scope="row">{text(first)}</th>' + ''.join(f'<td>{text(c)}</td>' for c in cells)


def embed_picture(path: Path, longest: int) -> tuple[str, tuple[int, int]]:
    """A picture as a data URI, made smaller.

    Args:
        path: Its file.
        longest: Most pixels of its longer side.

    Returns:
        The URI and the size (width, height) in pixels.

    Raises:
        OSError: It is no picture, or damaged.
    """
    with Image.open(path) as opened:
        image = opened.convert('RGB')
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format='WEBP', quality=82, method=4)
    return 'data:image/webp;base64,' + base64.b64encode(buffer.getvalue()).decode(), image.size
