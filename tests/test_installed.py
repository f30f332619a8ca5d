# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Wheel and sdist without a checkout: the commands run in an empty folder, the tests are whole."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import mmseg_semi_rs
from tests._support.processes import finish, forget_package, start
from tests._support.tiny_training import striped

ROOT = Path(mmseg_semi_rs.__file__).parents[1]
LEFT_BY_RUNS = ('.git', '.venv', 'work_dirs', 'data', 'checkpoints', 'build', 'dist', '*.egg-info')
# What earlier builds and runs left, and must not get in.
STALE = (
    'build/lib/mmseg_semi_rs/renamed_since.py',
    'configs/.ipynb_checkpoints/mine.py',
    'projects/bands/data/scene.tif',
    'projects/own_images/work_dirs/mine/iter_60.pth',
    'tools/work_dirs/mine/iter_60.pth',
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        None in map(importlib.util.find_spec, ('pip', 'setuptools')),
        reason='building needs pip and setuptools',
    ),
]


def python(*words: object, folder: Path, path: Path | None = None) -> str:
    """Run Python in a folder, with a package that is found first; what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(path or ''), 'CUDA_VISIBLE_DEVICES': ''},
    )
    assert done.returncode == 0, f'{done.stdout[-1000:]}\n{done.stderr[-3000:]}'
    return done.stdout


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A copy of the sources, from which wheel and sdist were built, and where these lie."""
    source = tmp_path_factory.mktemp('source') / 'project'
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns('.*_cache', *LEFT_BY_RUNS))
    for name in STALE:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    out = source.parent / 'out'
    options = ('--quiet', '--no-deps', '--no-build-isolation', '--no-index', '--wheel-dir', out)
    python('-m', 'pip', 'wheel', *options, '.', folder=source)
    python('setup.py', '-q', 'sdist', '--dist-dir', out, folder=source)
    return source, out


@pytest.fixture(scope='module')
def wheel(built, tmp_path_factory):
    """The folder into which the wheel was unpacked, as pip does."""
    folder = tmp_path_factory.mktemp('site-packages')
    (path,) = built[1].glob('*.whl')
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


def files_below(folder: Path) -> set[str]:
    found = (path for path in folder.rglob('*') if path.is_file())
    return {str(p.relative_to(folder)) for p in found if '__pycache__' not in p.parts}


def test_wheel_holds_package_configs_and_tools_and_leaves_the_sources_alone(built, wheel):
    source, _ = built
    inside = files_below(wheel / 'mmseg_semi_rs')
    resources = {name for name in inside if name.startswith('.mim/')}
    assert inside - resources == files_below(source / 'mmseg_semi_rs')
    expected = {
        f'.mim/{name}'
        for name in files_below(source) - set(STALE)
        if name.startswith(('configs/', 'tools/')) or name == 'model-index.yml'
    }
    assert resources == expected
    assert {
        '.mim/configs/rsmtdf/metafile.yml',
        '.mim/tools/demo/configs/teachers/clip.pt',
    } <= inside
    assert not (source / 'mmseg_semi_rs' / '.mim').exists()
    (entry_points,) = wheel.glob('*.dist-info/entry_points.txt')
    assert 'rsseg = mmseg_semi_rs.cli:main' in entry_points.read_text()


def test_init_train_and_predict_from_an_empty_folder(wheel, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(8):
        for name, picture in zip(('images', 'masks'), striped(rng, index), strict=True):
            (tmp_path / name).mkdir(exist_ok=True)
            if name == 'images' or index < 6:
                picture.save(tmp_path / name / f'{index}.png')

    def rsseg(*words: object) -> str:
        return python('-m', 'mmseg_semi_rs', *words, folder=tmp_path, path=wheel)

    def heavy(*words: object) -> str:
        log = tmp_path / f'{words[0]}.log'
        finish(start(as_installed, wheel, tmp_path, [*map(str, words)], log=log), log)
        return log.read_text()

    assert str(wheel / 'mmseg_semi_rs' / '.mim' / 'configs') in rsseg('--help')
    said = rsseg('init', 'images', 'masks', '--out', 'own', '--method', 'fixmatch', '--iters', 2)
    config = 'own/own_fixmatch.py'
    assert f'python -m mmseg_semi_rs train {config}\n' in said and 'tools/' not in said
    untrained = ('--cfg-options', 'model.student.backbone.checkpoint=None')
    heavy('train', config, *untrained)
    checkpoint = 'work_dirs/own_fixmatch/iter_2.pth'
    assert '8 maps in maps' in heavy('predict', config, checkpoint, 'images', '--out', 'maps')
    assert len(list((tmp_path / 'maps').glob('*.png'))) == 8


def enter(site: Path, folder: Path) -> None:
    """Go to a folder, with the package of another, and with torch and mmseg as they are loaded."""
    forget_package()
    os.chdir(folder)
    sys.path[:] = [str(site), *(path for path in sys.path if Path(path).resolve() != ROOT)]


def as_installed(site: Path, folder: Path, words: list[str]) -> None:
    """Be ``rsseg words``, with the package of an unpacked wheel."""
    enter(site, folder)
    sys.argv = ['rsseg', *words]
    code = importlib.import_module('mmseg_semi_rs.cli').main(words)
    assert Path(sys.modules['mmseg_semi_rs'].__file__).is_relative_to(site)
    sys.exit(code)


def collect(folder: Path) -> None:
    """Collect the tests of an unpacked sdist, with its package."""
    enter(folder, folder)
    code = pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider'])
    assert Path(sys.modules['mmseg_semi_rs'].__file__).is_relative_to(folder)
    sys.exit(code)


def test_sdist_holds_what_its_own_tests_need(built, tmp_path):
    source, out = built
    (path,) = out.glob('*.tar.gz')
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter='data')
    (folder,) = tmp_path.resolve().iterdir()
    left_out = files_below(source) - files_below(folder)
    assert not files_below(folder) & set(STALE)
    left_out = {name for name in left_out if not name.startswith(('build/', 'site/', '.ci/'))}
    assert left_out <= {'.editorconfig', '.gitignore', *STALE}
    log = tmp_path / 'log'
    finish(start(collect, folder, log=log), log)
    assert 'tests collected' in log.read_text()
