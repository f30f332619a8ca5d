# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The commands of the README and of the page on own images, run as they are written."""

import re
import shlex
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests._support.processes import ROOT, run
from tests._support.tiny_training import striped

README = (ROOT / 'README.md').read_text(encoding='utf-8')
PAGE = (ROOT / 'docs' / 'own_images.md').read_text(encoding='utf-8')


def commands(page: str) -> list[str]:
    """Lines of the bash blocks of a page, comments left out, started by this interpreter."""
    blocks = re.findall(r'```bash\n(.*?)```', page, re.DOTALL)
    lines = [line.split('  # ')[0].strip() for block in blocks for line in block.splitlines()]
    return [line.replace('rsseg ', 'python -m mmseg_semi_rs ', 1) for line in lines]


def python_block() -> str:
    return next(
        code for code in re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL) if 'apis' in code
    )


def own_images(folder: Path) -> None:
    """20 photographs, 8 of them with masks, and a raster."""
    rng = np.random.default_rng(0)
    (folder / 'IMAGES').mkdir()
    (folder / 'MASKS').mkdir()
    for index in range(20):
        image, mask = striped(rng, index, side=96)
        image.save(folder / 'IMAGES' / f'{index}.jpg', quality=95)
        if index < 8:
            mask.save(folder / 'MASKS' / f'{index}.png')


@pytest.mark.slow
def test_own_images_from_masks_to_maps_a_report_and_an_export(tmp_path, monkeypatch):
    pytest.importorskip('rasterio')
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    from tests._support.rasters import picture, write_raster

    own_images(tmp_path)
    write_raster(tmp_path / 'city.tif', picture(200, 150))
    # but for those that need what a person drew, or several machines, or train twice
    left_out = ('.gpkg', 'CONFIG', ' compare ')
    lines = [line for line in commands(PAGE) if not any(word in line for word in left_out)]
    named = [line.split()[3] for line in lines]
    maps = ['suggest', 'init', 'train', 'autolabel', 'train', 'predict']
    assert named == [*maps, 'report', 'export']
    # The first page has the same commands, with fewer options.
    told = [line for line in commands(README) if not any(word in line for word in left_out)]
    short = [line.split() for line in told if 'mmseg_semi_rs' in line]
    assert [line[3] for line in short] == maps
    for line, whole in zip(short, lines, strict=False):
        assert set(line) <= set(whole.split()), line
    lines[1] += ' --iters 4'
    for line in lines:
        first, *words = shlex.split(line)
        assert first == 'python', line
        expanded = (
            sorted(map(str, tmp_path.glob(word))) if '*' in word else [word] for word in words
        )
        outcome = run([sys.executable, *chain.from_iterable(expanded)], cwd=tmp_path)
        assert outcome.returncode == 0, outcome.stdout[-2500:]
    assert len((tmp_path / 'suggested' / 'suggested.txt').read_text().split()) == 20
    assert len(list((tmp_path / 'maps').glob('*_preview.png'))) == 20
    assert len(list((tmp_path / 'maps').glob('*[0-9].png'))) == 20
    assert (tmp_path / 'report.html').stat().st_size > 10_000
    kinds = {path.suffix for path in (tmp_path / 'exported').iterdir()}
    assert kinds == {'.py', '.pth', '.onnx', '.json'}
    code = re.sub(r'iter_\d+\.pth', 'iter_4.pth', python_block())
    monkeypatch.chdir(tmp_path)
    known = dict(Image=Image, np=np, pixels=np.asarray(Image.open('IMAGES/3.jpg')))
    exec(code, known)
    found = known['found']
    assert found.labels.shape == (96, 96) and found.probabilities.shape == (3, 96, 96)
    assert (tmp_path / 'city_map.tif').is_file()


def test_every_make_target_of_the_pages_exists():
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    paths = [*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md')]
    text = '\n'.join(path.read_text(encoding='utf-8') for path in paths)
    named = set(re.findall(r'^`?make ([\w-]+)', text, re.MULTILINE))
    assert named >= {'demo', 'test', 'install', 'docs'}
    for target in named:
        assert re.search(rf'^{target}:', makefile, re.MULTILINE), target
