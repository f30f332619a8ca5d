# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What every test starts from."""

import os
import tempfile

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ['XDG_CACHE_HOME'] = tempfile.mkdtemp(prefix='mmseg_semi_rs_tests_')  # not the user's

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

import mmseg_semi_rs  # noqa: F401 - mends the OpenMMLab packages before a test imports them

from tests._support.tiny_training import forget_runs  # isort: skip

torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """Let workers begin with the files of slow tests, so that none waits in the end."""
    if hasattr(config, 'workerinput'):
        slow = {item.path for item in items if item.get_closest_marker('slow')}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def mmseg_scope():
    """Let configs name mmseg's parts by their bare names, whatever an earlier test left behind."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture(autouse=True)
def plain_config_text(monkeypatch):
    """Write configs without yapf, whose formatting takes longer than a tiny training."""
    monkeypatch.setattr(
        Config,
        'pretty_text',
        property(lambda cfg: ''.join(f'{k} = {v!r}\n' for k, v in cfg.to_dict().items())),
    )


@pytest.fixture(autouse=True)
def fresh_singletons():
    """Forget the logger, message hub and visualizer of an earlier test's training."""
    forget_runs()


@pytest.fixture(scope='session')
def browser(tmp_path_factory):
    """One browser for all tests of pages; those that take it are marked ``needs_browser``."""
    from tests._support.browser import Browser

    with Browser(tmp_path_factory.mktemp('browser')) as opened:
        yield opened


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server of the folder ``www``, that answers in ranges and fails when it is told to."""
    from tests._support.http_rasters import serve

    for name in ('http_proxy', 'https_proxy', 'all_proxy'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setenv('GDAL_HTTP_RETRY_DELAY', '0.02')
    (tmp_path / 'www').mkdir()
    with serve(tmp_path / 'www') as server:
        yield server
