# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Rasters of any depth and bands as 8-bit RGB."""

import sys
import zlib

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from mmseg_semi_rs.rasters.levels import RasterToRGB
from mmseg_semi_rs.rasters.masks import read_mask
from mmseg_semi_rs.rasters.reader import raster_info, read_rgb
from mmseg_semi_rs.rasters.stretch import UndeclaredFill, estimate_stretch

rasterio = pytest.importorskip('rasterio')
copy_raster = pytest.importorskip('rasterio.shutil').copy
pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')


def write_tiff(path, bands, **options):
    count, height, width = bands.shape
    with rasterio.open(
        path, 'w', driver='GTiff', count=count, height=height, width=width,
        dtype=bands.dtype, **options,
    ) as raster:  # fmt: skip
        raster.write(bands)
    return path


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_stretch_is_linear_clipped_and_rounded(dtype):
    bands = np.array([[[0, 10, 60, 110, 120]], [[10, 10, 10, 10, 10]], [[5, 10, 15, 20, 25]]])
    rgb = RasterToRGB(low=[10, 0, 5], high=[110, 20, 25])(bands.astype(dtype))
    assert rgb.dtype == np.uint8
    assert rgb[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert rgb[0, :, 1].tolist() == [128] * 5
    assert rgb[0, :, 2].tolist() == [0, 64, 128, 191, 255]


def test_bytes_are_left_as_they_are_and_one_band_is_grey():
    bands = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    rgb = RasterToRGB()(bands)
    assert rgb.shape == (16, 16, 3)
    assert (rgb == bands[0][..., None]).all()


def test_nan_becomes_black():
    bands = np.full((3, 1, 1), np.nan, np.float32)
    assert RasterToRGB(low=[-1] * 3, high=[1] * 3)(bands).tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(bands=[1, 2]), 'one or three numbers'),
        (dict(bands=[0, 1, 2]), 'from 1'),
        (dict(low=[1, 2, 3]), 'both or neither'),
        (dict(bands=[1], low=[1, 2, 3], high=[4, 5, 6]), 'one number per band'),
        (dict(low=[1, 2, 3], high=[4, 2, 6]), 'empty in a band'),
    ],
)
def test_wrong_settings_are_told(options, words):
    with pytest.raises(ValueError, match=words):
        RasterToRGB(**options)


def test_wrong_bands_are_told():
    with pytest.raises(ValueError, match='uint16 need low and high'):
        RasterToRGB()(np.zeros((3, 2, 2), np.uint16))
    with pytest.raises(ValueError, match='give 3 of them'):
        RasterToRGB(low=[0] * 3, high=[1] * 3)(np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r'scene has 3 bands but bands \[4, 3, 2\]'):
        RasterToRGB([4, 3, 2]).choose(3, 'scene')
    assert RasterToRGB().choose(7) == [1, 2, 3]
    assert RasterToRGB().choose(2) == [1]


def test_bands_of_a_deep_raster_in_the_asked_order(tmp_path):
    bands = np.stack([np.full((1030, 3), 100 * k, np.uint16) for k in range(1, 5)])
    bands[:, 1025, 1] = 0  # beyond the first strip
    path = write_tiff(tmp_path / 'scene.tif', bands, nodata=0)
    read = read_rgb(path, RasterToRGB([4, 3, 2], low=[0] * 3, high=[510] * 3))
    assert read.pixels[0, 0].tolist() == [200, 150, 100]
    assert np.argwhere(~read.valid).tolist() == [[1025, 1]]
    info = raster_info(path)
    assert (info.width, info.height, info.bands, info.dtype) == (3, 1030, 4, 'uint16')
    assert info.transparent and info.by_gdal and not info.plain


def test_every_kind_of_file_gives_the_same_pixels(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / 'a.png')
    Image.fromarray(rgb).save(tmp_path / 'b.tif', compression='tiff_lzw')
    write_tiff(tmp_path / 'c.tif', rgb.transpose(2, 0, 1))
    write_tiff(tmp_path / 'd.tif', np.concatenate([rgb, rgb[..., :1]], 2).transpose(2, 0, 1),
               photometric='minisblack')  # fmt: skip
    Image.fromarray(rgb).quantize(256).save(tmp_path / 'palette.png')
    for name in ('a.png', 'b.tif', 'c.tif', 'd.tif'):
        read = read_rgb(tmp_path / name)
        assert (read.pixels == rgb).all(), name
        assert read.valid is None
    with Image.open(tmp_path / 'palette.png') as image:
        assert (read_rgb(tmp_path / 'palette.png').pixels == np.asarray(image.convert('RGB'))).all()


def test_sixteen_bits_of_a_png_are_not_halved(tmp_path):
    values = np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * 50
    cv2.imwrite(str(tmp_path / 'deep.png'), values)  # BGR
    assert raster_info(tmp_path / 'deep.png').dtype == 'uint16'
    read = read_rgb(tmp_path / 'deep.png', RasterToRGB(low=[0] * 3, high=[550] * 3))
    assert (read.pixels == np.rint(values[..., ::-1] / 550 * 255)).all()
    with pytest.raises(ValueError, match=r'deep\.png.*need low and high'):
        read_rgb(tmp_path / 'deep.png')


RGB = cv2.GaussianBlur(
    np.random.default_rng(5).integers(0, 256, (12, 16, 3), dtype=np.uint8), (0, 0), 2
)
GREY = RGB[..., 0]
HOLE = np.zeros((12, 16), bool)
HOLE[:3, :5] = True


PLANES = RGB.transpose(2, 0, 1)


def tiff_file(bands=PLANES, mask=False, aside=None, **options):
    def write(path):
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=mask == 'inside'):
            profile = dict(driver='GTiff', count=len(bands), height=12, width=16, dtype=bands.dtype)
            with rasterio.open(path.with_suffix('.tif'), 'w', **profile, **options) as raster:
                raster.write(bands)
                if mask:
                    raster.write_mask(~HOLE)
        if aside is not None:
            path.with_name(f'{path.name}.tif.aux.xml').write_text(aside)
        return path.with_suffix('.tif')

    return write


def picture_file(suffix, pixels=RGB, orientation=None, aside=(), **options):
    def write(path):
        path = path.with_suffix(suffix)
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        if orientation is not None:
            options['exif'] = Image.Exif()
            options['exif'][0x0112] = orientation
        image.save(path, **options)
        for name, text in aside:
            path.with_name(name.format(stem=path.stem, name=path.name)).write_text(text)
        return path

    return write


def late_exif(path):
    """A PNG whose orientation follows its pixels, which is allowed."""
    path = path.with_suffix('.png')
    Image.fromarray(RGB).save(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    contents = b'eXIf' + exif.tobytes()[6:]
    chunk = (len(contents) - 4).to_bytes(4, 'big') + contents
    chunk += zlib.crc32(contents).to_bytes(4, 'big')
    whole = path.read_bytes()
    path.write_bytes(whole[:-12] + chunk + whole[-12:])
    return path


def turned_tiff(path):
    """A TIFF with an orientation, which GDAL does not apply and Pillow and OpenCV do."""
    path = path.with_suffix('.tif')
    Image.fromarray(RGB).save(path, tiffinfo={0x0112: 3})
    return path


PAM = '<PAMDataset>{}</PAMDataset>'
NODATA = PAM.format(
    ''.join(
        f'<PAMRasterBand band="{k}"><NoDataValue>9</NoDataValue></PAMRasterBand>' for k in (1, 2, 3)
    )
)
GREY_9 = np.where(HOLE, 9, GREY | 16).astype(np.uint8)[None].repeat(3, 0)
KINDS = {
    'plain tiff': tiff_file(),
    'lzw with predictor': tiff_file(compress='lzw', predictor=2, tiled=True, blockxsize=16,
                                    blockysize=16),
    'separate planes': tiff_file(interleave='band'),
    'webp': tiff_file(compress='webp', WEBP_LOSSLESS='YES'),
    'zstd': tiff_file(compress='zstd'),
    'lerc': tiff_file(compress='lerc'),
    'jpeg in tiff': tiff_file(compress='jpeg', photometric='ycbcr'),
    'min is white': tiff_file(GREY[None], photometric='miniswhite'),
    'internal mask': tiff_file(mask='inside'),
    'mask file': tiff_file(mask='beside'),
    'alpha': tiff_file(np.concatenate([RGB, np.where(HOLE, 0, 255)[..., None]], 2)
                       .astype(np.uint8).transpose(2, 0, 1), photometric='rgb', alpha='yes'),
    'grey and alpha': tiff_file(np.stack([GREY, np.where(HOLE, 0, 255).astype(np.uint8)]),
                                alpha='yes'),
    'declared': tiff_file(GREY_9, nodata=9),
    'declared aside': tiff_file(GREY_9, aside=NODATA),
    'turned tiff': turned_tiff,
    'jpeg': picture_file('.jpg', quality=70),
    'progressive jpeg': picture_file('.jpg', quality=70, progressive=True),
    'grey jpeg': picture_file('.jpeg', GREY),
    'turned jpeg': picture_file('.jpg', orientation=6),
    'turned png': picture_file('.png', orientation=3),
    'late exif': late_exif,
    'interlaced grey png': picture_file('.png', GREY),
    'png with mask file': lambda path: masked_png(path),
    'png declared aside': picture_file('.png', GREY_9.transpose(1, 2, 0),
                                       aside=[('{name}.aux.xml', NODATA)]),
    'jpeg with world file': picture_file('.jpg', aside=[('{stem}.jgw', '1\n0\n0\n-1\n5\n5\n')]),
}  # fmt: skip


def masked_png(path):
    path = picture_file('.png')(path)
    beside = tiff_file(mask='beside')(path.with_name('m'))
    beside.with_name('m.tif.msk').rename(path.with_name(f'{path.name}.msk'))
    return path


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_file_is_read_as_by_gdal_and_where_plain_as_by_mmseg(kind, tmp_path):
    path = KINDS[kind](tmp_path / 'a')
    with rasterio.open(path) as raster:
        bands = [1, 2, 3] if raster.count >= 3 else [1, 1, 1]
        expected, marked = raster.read(bands), raster.dataset_mask() > 0
        transform = raster.transform
    info, read = raster_info(path), read_rgb(path)
    stray = 9 if path.suffix == '.jpg' else 0  # decoders of JPEG widen colours in ways of their own
    assert np.abs(read.pixels - expected.transpose(1, 2, 0).astype(int)).max() <= stray
    assert (np.ones_like(HOLE) if read.valid is None else read.valid).tolist() == marked.tolist()
    assert (info.width, info.height, info.dtype) == (16, 12, 'uint8')
    assert info.transparent or marked.all()
    assert transform.is_identity == (info.place is None)
    if info.plain:
        assert (mmcv.imread(str(path))[..., ::-1] == read.pixels).all()
    assert info.plain == (path.suffix != '.tif' and not any(
        word in kind for word in ('turned', 'late', 'mask', 'declared')))  # fmt: skip


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_few_bits_are_widened_in_images_and_not_in_masks(bits, tmp_path):
    top = 2**bits - 1
    ids = (np.arange(192) % (top + 1)).reshape(12, 16).astype(np.uint8)
    path = tiff_file(ids[None], nbits=bits)(tmp_path / 'a')
    copy_raster(path, tmp_path / 'b.png', driver='PNG', NBITS=bits)
    for found in (path, tmp_path / 'b.png'):
        assert (read_rgb(found).pixels[..., 0] == ids * (255 // top)).all()
        assert (read_mask(found).pixels == ids).all()


def test_colours_of_16_bits_are_not_taken_for_ids(tmp_path):
    bands = np.full((3, 4, 4), 7, np.uint16)
    assert (read_mask(write_tiff(tmp_path / 'ids.tif', bands)).pixels == 7).all()
    bands[1] = 255
    with pytest.raises(ValueError, match='3 bands of type uint16 that differ'):
        read_mask(write_tiff(tmp_path / 'colours.tif', bands))
    cv2.imwrite(str(tmp_path / 'ids.png'), np.full((4, 4, 3), 7, np.uint16))
    with pytest.raises(ValueError, match='several channels of 16 bits'):  # Pillow drops the 7
        read_mask(tmp_path / 'ids.png')


@pytest.mark.parametrize('kind', ['mask', 'alpha'])
def test_what_a_file_of_labels_marks_as_empty_has_no_label(kind, tmp_path):
    ids = (np.arange(HOLE.size) % 3).reshape(HOLE.shape).astype(np.uint8)
    write = tiff_file(ids[None], mask=True)
    if kind == 'alpha':
        bands = np.stack([ids, ids, ids, ~HOLE * np.uint8(255)])
        write = tiff_file(bands, photometric='RGB', alpha='YES')
    found = read_mask(write(tmp_path / 'a'))
    assert found.declared is None and (found.pixels == ids).all()
    np.testing.assert_array_equal(found.valid, ~HOLE)


def test_signed_bytes_and_complex_numbers(tmp_path):
    path = tiff_file((GREY[None].astype(int) - 128).astype(np.int8))(tmp_path / 'a')
    for to_rgb in (RasterToRGB(low=[-128], high=[127]), RasterToRGB()):
        assert (read_rgb(path, to_rgb).pixels[..., 0] == GREY).all()
    assert not raster_info(path).deep
    path = tiff_file(np.ones((1, 12, 16), np.complex64))(tmp_path / 'b')
    with pytest.raises(ValueError, match=r'holds complex numbers .*amplitude'):
        read_rgb(path)


def test_transparent_pixels_have_no_data(tmp_path):
    rgba = np.full((2, 3, 4), 255, np.uint8)
    rgba[0, 1, 3] = 0
    Image.fromarray(rgba).save(tmp_path / 'a.png')
    assert (~read_rgb(tmp_path / 'a.png').valid).nonzero() == (np.array([0]), np.array([1]))
    write_tiff(tmp_path / 'b.tif', np.array([[[7, 9]]] * 3, np.uint8), nodata=7)
    assert read_rgb(tmp_path / 'b.tif').valid.tolist() == [[False, True]]


def test_stretch_leaves_out_what_has_no_data_and_files_that_are_broken(tmp_path):
    for number in range(2):
        band = np.linspace(1000, 2000, 10000).reshape(100, 100).astype(np.uint16)
        band[:50] = 0
        write_tiff(
            tmp_path / f'{number}.tif', np.stack([band, np.where(band, band + 5000, 0)]), nodata=0
        )
    (tmp_path / 'broken.tif').write_bytes(b'II*\0 nothing')
    to_rgb = estimate_stretch(sorted(tmp_path.iterdir()), [2])
    assert to_rgb.bands == [2]
    assert to_rgb.low == [pytest.approx(6510, abs=5)]
    assert to_rgb.high == [pytest.approx(6990, abs=5)]
    with pytest.raises(ValueError, match='cannot be estimated'):
        estimate_stretch([tmp_path / 'broken.tif'])


@pytest.mark.parametrize(
    ('offset', 'spread', 'kind'),
    [(20000, 4, np.uint16), (0, 0, np.uint16), (-5, 3, np.int8), (1e6, 0.5, np.float32),
     (0.2, 1e-4, np.float64), (3e9, 50, np.uint32)],
)  # fmt: skip
def test_small_spread_on_a_large_offset_is_stretched(tmp_path, offset, spread, kind):
    steps = np.linspace(0, 1, 1024).reshape(1, 32, 32)
    values = (offset + steps * spread).astype(kind)
    path = write_tiff(tmp_path / 'a.tif', values)
    to_rgb = estimate_stretch([path])
    assert to_rgb.low[0] < to_rgb.high[0]
    levels = len(np.unique(read_rgb(path, to_rgb).pixels))
    assert levels >= min(200, len(np.unique(values)) * 2 // 3)


@pytest.mark.parametrize(
    ('kind', 'fill'),
    [(np.float32, -9999), (np.float32, np.finfo(np.float32).min), (np.uint16, 65535),
     (np.int16, -32768), (np.uint16, 0), (np.float64, 1e20)],
)  # fmt: skip
def test_a_lonely_value_is_asked_about_and_left_out_when_it_is_none(tmp_path, kind, fill):
    values = (np.random.default_rng(0).normal(2000, 300, (3, 64, 64))).astype(kind)
    paths = [write_tiff(tmp_path / 'whole.tif', values)]
    estimate_stretch(paths)
    values[:, :4] = fill
    paths.append(write_tiff(tmp_path / 'border.tif', values))
    with pytest.raises(UndeclaredFill, match=r'3\.1% of the pixels .* do not declare') as asked:
        estimate_stretch(paths)
    assert f'--nodata={float(fill)!r}' in str(asked.value)
    told = estimate_stretch(paths, nodata=fill)
    assert 1200 < min(told.low) < max(told.high) < 2800
    assert (read_rgb(paths[1], told).valid[:4] == 0).all() and told.has_data(values)[4:].all()
    estimate_stretch(paths, ask=False)


def test_percentiles(tmp_path):
    path = write_tiff(tmp_path / 'a.tif', np.arange(1000, dtype=np.uint16).reshape(1, 20, 50))
    assert estimate_stretch([path], percentiles=(0, 100)).high == [999]
    with pytest.raises(ValueError, match='90 and 10 are no range'):
        estimate_stretch([path], percentiles=(90, 10))


def test_bad_files_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no\.png does not exist'):
        read_rgb(tmp_path / 'no.png')
    Image.new('RGB', (64, 64)).save(tmp_path / 'cut.jpg')
    (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'cut.jpg').read_bytes()[:300])
    (tmp_path / 'text.tif').write_text('no raster')
    for name in ('cut.jpg', 'text.tif'):
        with pytest.raises(ValueError, match=f'{name} cannot be read .*: replace the file'):
            read_rgb(tmp_path / name)


def test_without_rasterio_the_extra_is_named(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / 'deep.tif', np.ones((4, 5, 5), np.uint16))
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    with pytest.raises(ImportError, match=r"deep\.tif .* pip install 'mmseg_semi_rs\[geo\]'"):
        read_rgb(path, RasterToRGB(low=[0] * 3, high=[9] * 3))
    Image.new('RGB', (4, 4)).save(tmp_path / 'plain.tif')
    with pytest.raises(ImportError, match=r'plain\.tif .*pip install'):
        read_rgb(tmp_path / 'plain.tif')
