# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Brings pages and files from outside of ``docs`` into the site, where links find them.

A page stands where it belongs (the page of a method beside its configs), and its links work in a
checkout. Here every page that is linked becomes a page of the site, every other file that is linked
is copied, and links are rewritten to where both lie.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r'(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to, and what those pages link to."""
    waiting = [ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md')]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if ROOT / 'docs' not in path.parents:
            files.append(File.generated(config, _place(path), abs_src_path=str(path)))
        if path.suffix == '.md':
            for target, _ in _LINK.findall(path.read_text(encoding='utf-8')):
                linked = (path.parent / target).resolve()
                linked = linked / 'README.md' if linked.is_dir() else linked
                if linked.is_file() and linked not in seen:
                    seen.add(linked)
                    waiting.append(linked)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where their files lie in the site."""
    path = Path(page.file.abs_src_path or '')
    here = Path(page.file.src_uri).parent

    def moved(found: re.Match[str]) -> str:
        linked = (path.parent / found[1]).resolve()
        if not linked.exists():
            return found[0]  # mkdocs tells it
        linked = linked / 'README.md' if linked.is_dir() else linked
        return os.path.relpath(_place(linked), here) + (found[2] or '')

    return _LINK.sub(moved, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show names that docstrings mark for Sphinx as code, and its formulas as text."""

    def plain(role: re.Match[str]) -> str:
        said = role[2] if role[1] == 'math' else role[2].removeprefix('~').rsplit('.', 1)[-1]
        return f'<code>{said}</code>'

    html = re.sub(r'(?<![\w:]):(\w+):<code>(.*?)</code>', plain, html, flags=re.DOTALL)
    html = html.replace('<p>.. math::</p>', '')
    return re.sub(r'<p>\.\. math::\s*(.*?)</p>', r'<p><code>\1</code></p>', html, flags=re.DOTALL)


def _place(path: Path) -> str:
    """Where a file of the repository lies in the site."""
    below = path.relative_to(ROOT)
    return (below.relative_to('docs') if below.parts[0] == 'docs' else below).as_posix()
