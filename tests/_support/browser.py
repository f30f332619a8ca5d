# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A headless Chromium that says how a page looks, by its DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, (
    'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'))), None)  # fmt: skip
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason='needs chromium or google-chrome')
#: Widths in pixels, and whether it is dark, in which every page is looked at.
LOOKS = [(1280, False), (1280, True), (400, False), (400, True)]
_LAYOUT = """(() => { const wide = [...document.querySelectorAll('body *')].filter(e => {
    const box = e.getBoundingClientRect();
    if (!box.width || box.right <= innerWidth + 1) return false;
    for (let p = e.parentElement; p; p = p.parentElement)
      if (/auto|scroll|hidden|clip/.test(getComputedStyle(p).overflowX) && p !== document.body
          && p !== document.documentElement) return false;
    return true; }).slice(0, 3).map(e => e.outerHTML.slice(0, 120));
  return { view: innerWidth, width: document.documentElement.scrollWidth, wide,
    missing: [...document.images].filter(i => i.complete && !i.naturalWidth && i.src)
      .map(i => i.src.slice(0, 120)),
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
    paper: getComputedStyle(document.body).backgroundColor }; })()"""


@dataclass
class Seen:
    """How a page looks.

    Attributes:
        view: Width of the window in CSS pixels.
        width: Of the page; more than ``view`` if it has to be scrolled sideways.
        wide: Elements that stick out.
        missing: Pictures that did not load.
        paper: Colour of the background.
        errors: What scripts threw, and what the console calls an error: files not found, too.
    """

    view: int
    width: int
    wide: list[str]
    missing: list[str]
    dark: bool
    paper: str
    errors: list[str] = field(default_factory=list)


class Browser:
    """One browser for many pages.

    Args:
        profile: Folder of its own.
    """

    def __init__(self, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # The protocol is spoken on descriptors 3 and 4.
        script = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        words = ['bash', '-c', script, 'bash', str(theirs_in), str(theirs_out), str(CHROMIUM),
                 '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
                 '--disable-background-networking', '--disable-component-update', '--disable-sync',
                 '--disable-dev-shm-usage', '--hide-scrollbars', '--remote-debugging-pipe',
                 f'--user-data-dir={profile}', 'about:blank']  # fmt: skip
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            words, pass_fds=(theirs_in, theirs_out), stdout=quiet, stderr=quiet
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out, self._rest, self._last = ours_in, ours_out, b'', 0
        self._events: list[dict] = []
        self._session = None
        target = next(t for t in self._pages() if t['type'] == 'page')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def _pages(self) -> list[dict]:
        for _ in range(100):
            found = self.call('Target.getTargets')['targetInfos']
            if any(target['type'] == 'page' for target in found):
                return found
            time.sleep(0.1)
        raise RuntimeError('Chromium opened no page.')

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)

    def _read(self, seconds: float) -> dict:
        while b'\0' not in self._rest:
            if not select.select([self._in], [], [], seconds)[0]:
                raise TimeoutError(f'Chromium said nothing for {seconds} s.')
            block = os.read(self._in, 1 << 20)
            if not block:
                raise RuntimeError('Chromium ended.')
            self._rest += block
        message, self._rest = self._rest.split(b'\0', 1)
        return json.loads(message)

    def call(self, method: str, **params: Any) -> dict:
        """What a command of the protocol answers."""
        self._last += 1
        request = dict(id=self._last, method=method, params=params)
        if self._session:
            request['sessionId'] = self._session
        os.write(self._out, json.dumps(request).encode() + b'\0')
        while (answer := self._read(120)).get('id') != self._last:
            self._events.append(answer)
        assert 'error' not in answer, (method, answer['error'])
        return answer['result']

    def evaluate(self, script: str) -> Any:
        """Value of an expression in the page, whatever the page's own policy allows."""
        found = self.call('Runtime.evaluate', expression=script, returnByValue=True)
        assert 'exceptionDetails' not in found, found
        return found['result'].get('value')

    def open(self, url: str, width: int = 1280, dark: bool = False) -> Seen:
        """Load a page and look at it."""
        self._events = []
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=900,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = dict(name='prefers-color-scheme', value='dark' if dark else 'light')
        self.call('Emulation.setEmulatedMedia', features=[scheme])
        self.call('Page.navigate', url=url)
        while not any(event.get('method') == 'Page.loadEventFired' for event in self._events):
            self._events.append(self._read(120))
        # pictures further down load when they are near
        self.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager' })")
        for _ in range(50):
            if self.evaluate('[...document.images].every(i => i.complete)'):
                break
            time.sleep(0.1)
        return Seen(**self.evaluate(_LAYOUT), errors=list(self._errors()))

    def _errors(self):
        for event in self._events:
            params = event.get('params', {})
            if event.get('method') == 'Runtime.exceptionThrown':
                details = params['exceptionDetails']
                yield details.get('exception', {}).get('description', details['text'])
            elif event.get('method') == 'Log.entryAdded' and params['entry']['level'] == 'error':
                yield f'{params["entry"]["text"]} {params["entry"].get("url", "")}'

    def shoot(self) -> np.ndarray:
        """What the window shows, (H, W, 3) RGB."""
        shot = self.call('Page.captureScreenshot', format='png')
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot['data']))).convert('RGB'))


def check_looks(browser: Browser, url: str) -> None:
    """A page is whole, fits and has no fault, wide and narrow, in light and dark."""
    papers = set()
    for width, dark in LOOKS:
        seen = browser.open(url, width, dark)
        where = f'{url} at {width} px, {"dark" if dark else "light"}'
        assert (seen.view, seen.dark) == (width, dark), where
        assert not seen.errors, f'{where}: {seen.errors}'
        assert not seen.missing, f'{where} lacks {seen.missing}'
        assert seen.width <= seen.view, f'{where} is {seen.width} px wide: {seen.wide}'
        papers.add((dark, seen.paper))
    assert len(papers) == 2, f'{url} looks the same in the dark: {papers}'
