# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The package as a whole: imports, registration, packaging."""

import ast
import doctest
import functools
import importlib
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import traceback
import types
from pathlib import Path

import pytest

import mmseg_semi_rs
from tests._support.processes import finish, forget_package, start

ROOT = Path(mmseg_semi_rs.__file__).parents[1]
PACKAGE = ROOT / 'mmseg_semi_rs'


def packages() -> list[str]:
    found = (path.parent.relative_to(ROOT).parts for path in PACKAGE.rglob('__init__.py'))
    return sorted('.'.join(parts) for parts in found if len(parts) > 1)


def import_alone(names: list[str]) -> None:
    """Import each in a fork that has none of ours, and no root that would import the others."""
    forget_package()
    for name in names:
        child = os.fork()
        if child == 0:
            root = types.ModuleType('mmseg_semi_rs')
            root.__path__ = [str(PACKAGE)]
            sys.modules['mmseg_semi_rs'] = root
            try:
                importlib.import_module(name)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, name


def test_every_sub_package_can_be_the_first_import(tmp_path):
    """No circle: the root imports everything in an order that works, which would hide one."""
    log = tmp_path / 'log'
    finish(start(import_alone, packages(), log=log), log)


# A lower layer never imports an upper one.
LAYERS = {
    'classes': set(),
    'utils': set(),
    'structures': set(),
    'rasters': {'utils'},
    'dataprep': {'classes', 'utils', 'rasters'},
    'datasets': {'classes', 'utils', 'rasters', 'structures'},
    'evaluation': {'utils', 'structures'},
    'visualization': {'utils', 'structures'},
    'models': {'classes', 'utils', 'structures'},
    'purification': {'utils', 'structures', 'models'},
    'engine': {
        *('classes', 'utils', 'rasters', 'structures', 'models', 'purification', 'datasets'),
        *('visualization', 'evaluation'),
    },
    'apis': {'classes', 'utils', 'rasters', 'structures', 'models', 'visualization', 'engine'},
}


def imported_packages(path: Path) -> set[str]:
    """First-level sub-packages of mmseg_semi_rs that a file imports at its top level."""
    parts = path.relative_to(ROOT).parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom):
            base = list(parts[: -node.level]) if node.level else []
            target = [*base, *(node.module or '').split('.')] if node.module or base else []
            if target[:1] == ['mmseg_semi_rs']:
                names = target[1:2] or [alias.name for alias in node.names]
                found.update(name for name in names if name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                target = alias.name.split('.')
                if target[0] == 'mmseg_semi_rs' and len(target) > 1:
                    found.add(target[1])
    return found - {'compat'}


@pytest.mark.parametrize('layer', LAYERS)
def test_imports_point_downwards(layer):
    for path in (PACKAGE / layer).rglob('*.py'):
        above = imported_packages(path) - LAYERS[layer] - {layer}
        assert not above, f'{path.relative_to(ROOT)} imports {above}'


@pytest.mark.parametrize('layer', sorted(set(LAYERS) - {'classes', 'utils', 'structures'}))
def test_what_imports_openmmlab_mends_it_first(layer):
    """The commands, and processes that they start, do not import the whole package first."""
    libraries = re.compile(r'^(?:from|import) (?:mmseg|mmcv)\b', re.MULTILINE)
    files = [path.read_text(encoding='utf-8') for path in (PACKAGE / layer).rglob('*.py')]
    if any(libraries.search(text) for text in files):
        parsed = ast.parse((PACKAGE / layer / '__init__.py').read_text(encoding='utf-8'))
        first = next(node for node in parsed.body if isinstance(node, ast.Import | ast.ImportFrom))
        assert ast.unparse(first) == 'from .. import compat'


def test_what_tests_share_is_in_support():
    """No test module imports from another."""
    for path in (ROOT / 'tests').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom):
                module = '.' * node.level + (node.module or '')
                assert not re.match(r'\.|tests\.(?!_support|faults\.die)', module), (path, module)


def test_one_custom_imports_line_registers_everything():
    """And no library of models is imported for that, unless mmseg or mmengine do."""
    code = (
        'import sys\n'
        'sys.modules.update(timm=None, transformers=None)\n'  # importing them is an error now
        'from mmengine.config import Config\n'
        'from mmengine.utils import import_modules_from_strings\n'
        "import_modules_from_strings(['mmseg_semi_rs'], allow_failed_imports=False)\n"
        'from mmseg.registry import *\n'
        "assert MODELS.get('MeanTeacherSegmentor')\n"
        "assert METRICS.get('SubsetIoUMetric')\n"
        "assert HOOKS.get('MeanTeacherHook')\n"
        "assert LOOPS.get('SemiTrainLoop')\n"
        "assert DATA_SAMPLERS.get('SemiSampler')\n"
        "assert TRANSFORMS.get('MultiBranch')\n"
        "heavy = ('mmpretrain', 'open_clip', 'onnx', 'matplotlib', 'rasterio', 'pandas')\n"
        'assert not [name for name in heavy if name in sys.modules]\n'
    )
    outcome = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert outcome.returncode == 0, outcome.stderr[-2000:]


@functools.cache
def setup_arguments() -> dict:
    """Run setup.py with a setuptools that only listens, in a process that knows no distutils."""
    if importlib.util.find_spec('setuptools') is None:
        pytest.skip('needs setuptools')
    code = (
        'import json, setuptools\n'
        'told = {}\n'
        'setuptools.setup = lambda **arguments: told.update(arguments)\n'
        "source = open('setup.py', encoding='utf-8').read()\n"
        "exec(compile(source, 'setup.py', 'exec'), {'__file__': 'setup.py', '__name__': 'setup'})\n"
        "del told['cmdclass']\n"
        'print(json.dumps(told))\n'
    )
    outcome = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


def test_setup_offers_the_extras_and_requires_no_openmmlab_family():
    from packaging.requirements import Requirement

    arguments = setup_arguments()
    assert arguments['version'] == mmseg_semi_rs.__version__
    extras = {'mmlab', 'vlm', 'regions', 'geo', 'onnx', 'weights', 'interop', 'test', 'docs', 'dev'}
    assert set(arguments['extras_require']) == extras
    required = {Requirement(line).name for line in arguments['install_requires']}
    assert not {name for name in required if re.match('mm|onedl|opencv', name)}
    for extra in arguments['extras_require'].values():
        for line in extra:
            Requirement(line)
    assert any(
        Requirement(line).name == 'mmsegmentation' for line in arguments['extras_require']['mmlab']
    )
    assert 'mmseg_semi_rs.evaluation' in arguments['packages']


@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12', '3.13'])
def test_constraints_pin_each_requirement_once_inside_its_range(python):
    from packaging.requirements import Requirement

    arguments = setup_arguments()
    lines = (ROOT / 'requirements' / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    pins: dict[str, str] = {}
    for line in lines:
        if not line or line.startswith('#'):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({'python_version': python}):
            name = pin.name.lower().replace('_', '-')
            assert name not in pins, f'{name} is pinned twice for Python {python}'
            pins[name] = str(pin.specifier).removeprefix('==')
    groups = [arguments['install_requires'], *arguments['extras_require'].values()]
    for wanted in [Requirement(line) for group in groups for line in group]:
        pin_version = pins.get(wanted.name.lower().replace('_', '-'))
        if pin_version is not None:
            assert wanted.specifier.contains(pin_version), f'{wanted} against {pin_version}'
    assert {'torch', 'torchvision', 'mmengine', 'mmcv-lite', 'mmsegmentation'} <= set(pins)


def test_every_source_file_names_its_licence():
    head = '# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0'
    for folder in ('mmseg_semi_rs', 'tools', 'tests', 'configs', 'projects'):
        for path in (ROOT / folder).rglob('*.py'):
            assert head in path.read_text(encoding='utf-8')[:200], path
    assert 'Version 2.0, January 2004' in (ROOT / 'LICENSE').read_text(encoding='utf-8')


WITH_EXAMPLES = sorted(
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in PACKAGE.rglob('*.py')
    if '>>> ' in path.read_text(encoding='utf-8')
)


@pytest.mark.parametrize('name', WITH_EXAMPLES)
def test_the_examples_of_docstrings_say_what_happens(name):
    logging.disable(logging.WARNING)  # which may go to the same stream
    try:
        outcome = doctest.testmod(importlib.import_module(name))
    finally:
        logging.disable(logging.NOTSET)
    assert outcome.attempted and not outcome.failed
