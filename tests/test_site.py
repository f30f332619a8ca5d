# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The site is built without a warning, and its pages look well in a browser."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests._support.browser import LOOKS, check_looks, needs_browser

ROOT = Path(__file__).parents[1]
# one of each kind: first page, code, wide tables, formulas, docstrings, pages from elsewhere
PAGES = (
    'index', 'own_images', 'invariants', 'methods', 'configs/rsmtdf/index', 'api/data',
    'projects/own_images/index', 'add_a_teacher',
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """Folder of the site."""
    beside = Path(sys.executable).parent
    mkdocs = shutil.which('mkdocs', path=f'{beside}{os.pathsep}{os.environ["PATH"]}')
    if mkdocs is None:
        pytest.skip("needs mkdocs: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [mkdocs, 'build', '--strict', '-d', folder], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope='module')
def address(site):
    """Where the site is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_the_site_has_every_page_and_no_mark_of_another_dialect(site):
    for source in [*ROOT.glob('docs/**/*.md'), *ROOT.glob('configs/*/README.md')]:
        below = source.relative_to(ROOT / 'docs' if 'docs' in source.parts[-3:] else ROOT)
        page = site / str(below).replace('README.md', 'index.md').replace('.md', '.html')
        assert page.is_file(), source
    for page in site.glob('api/*.html'):
        text = page.read_text(encoding='utf-8')
        assert ':class:' not in text and '.. math::' not in text, page
    assert (site / 'configs/rsmtdf/dinov2_clip_potsdam_1-4.py').is_file()


@needs_browser
@pytest.mark.parametrize('page', PAGES)
def test_a_page_of_the_site_looks_well(browser, address, page):
    check_looks(browser, f'{address}/{page}.html')


@needs_browser
def test_the_site_can_be_searched(browser, address):
    browser.open(f'{address}/index.html', *LOOKS[0])
    field = "document.querySelector('.md-search__form')"
    assert browser.evaluate(f'{field}.getBoundingClientRect().width') > 100
