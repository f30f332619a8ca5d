# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What looks at training images of bands: verifiers, checks, pictures."""

from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_semi_rs.datasets import FolderDataset
from mmseg_semi_rs.engine import data_checks, verifier_test
from mmseg_semi_rs.engine.annotation import StoredTile, evidence_settings
from mmseg_semi_rs.engine.batch_painter import BatchPainter
from mmseg_semi_rs.models.data_preprocessor import rgb_channels
from mmseg_semi_rs.purification.verifiers import CLIPVerifier
from tests._support.bands import RASTER, RGB, STATISTICS, stack, write_bands
from tests._support.stub_verifier import COLOURS, StubVerifier

pytest.importorskip('rasterio')


@pytest.fixture
def folder(tmp_path):
    init_default_scope('mmseg')
    write_bands(tmp_path / 'a.tif', stack(32, 32))

    def dataset(**changes):
        pipeline = [dict(type='LoadBands', **{**RASTER, **changes}), dict(type='PackSegInputs')]
        return FolderDataset(
            ['land', 'water'], data_prefix=dict(img_path=str(tmp_path)), pipeline=pipeline
        )

    return dataset


def test_a_verifier_is_shown_the_bands_that_it_names(folder):
    verifier = CLIPVerifier(['land', 'water'], checkpoint=None, bands=[3, 2, 1])
    dataset = folder()
    tile = StoredTile(dataset, 0, dataset.get_data_info(0)['img_path'])
    levels = dataset[0]['inputs'].numpy()
    shown = np.rint(levels[[3, 2, 1]].clip(0, 255)).transpose(1, 2, 0)
    np.testing.assert_array_equal(tile.image(verifier.bands), shown)
    assert (tile.image() != shown).any()  # a picture's own bands


def test_a_verifier_alone_is_shown_them_too(folder, monkeypatch):
    shown = []

    class Shown(StubVerifier):
        def verify(self, tiles):
            shown.extend(tiles)
            return super().verify(tiles)

    verifier, dataset = Shown(['land', 'water'], COLOURS[:2]), folder()
    verifier.bands = [3, 2, 1]
    monkeypatch.setattr(verifier_test, 'build_verifier', lambda *_: verifier)
    monkeypatch.setattr(verifier_test.DATASETS, 'build', lambda _: dataset)
    monkeypatch.setattr(verifier_test, 'Evaluator', MagicMock())
    verifier_test.evaluate_verifier(MagicMock(), '', 'cpu', 'land')
    tile = StoredTile(dataset, 0, dataset.get_data_info(0)['img_path'])
    np.testing.assert_array_equal(shown[0], tile.image([3, 2, 1]))


def test_evidence_of_other_bands_or_another_stretch_is_other_evidence(folder):
    def settings(bands=None, **changes):
        verifier = CLIPVerifier(['land', 'water'], checkpoint=None, bands=bands)
        return evidence_settings(verifier, folder(**changes))

    one = settings(RGB)
    assert settings(RGB) == one
    assert settings([3, 2, 1]) != one
    assert settings(RGB, high=[2000, 1000, 1000, 5100, 50]) != one
    assert one['weights'] == CLIPVerifier(['land'], checkpoint=None).settings()['weights']


def test_checks_read_rasters_of_five_bands(folder, tmp_path):
    summary = data_checks.check_segmentation_dataset(folder(), False, progress=False)
    assert summary.sizes == {(32, 32): 1}
    path = tmp_path / 'a.tif'
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r'a\.tif cannot be read'):
        data_checks.check_segmentation_dataset(folder(), False, progress=False)


def test_pictures_of_batches_are_red_green_and_blue():
    init_default_scope('mmseg')
    preprocessor = MODELS.build(dict(type='SemiDataPreprocessor', rgb=RGB, **STATISTICS))
    meta = dict(classes=('land',), palette=[[0, 0, 0]])
    levels = torch.zeros(5, 4, 4)
    levels[2], levels[1], levels[0] = 200, 100, 300
    mean, std = (torch.tensor(STATISTICS[key]).view(5, 1, 1) for key in ('mean', 'std'))
    picture = BatchPainter(preprocessor, meta, None).pixels((levels - mean) / std)
    assert picture[0, 0].tolist() == [200, 100, 255]


@pytest.mark.parametrize(
    ('settings', 'loaded', 'handed_on'),
    [
        (dict(bgr_to_rgb=True), [2, 1, 0], [0, 1, 2]),  # as OpenCV loads it
        (dict(), [2, 1, 0], [2, 1, 0]),
        (dict(rgb=[2, 0, 1]), [2, 0, 1], [2, 0, 1]),
    ],
)
def test_where_red_green_and_blue_are(settings, loaded, handed_on):
    init_default_scope('mmseg')
    statistics = dict(mean=[0.0] * 3, std=[1.0] * 3)
    preprocessor = MODELS.build(dict(type='SemiDataPreprocessor', **statistics, **settings))
    assert rgb_channels(preprocessor, loaded=True) == loaded
    assert rgb_channels(preprocessor) == handed_on
