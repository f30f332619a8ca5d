# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Folders of images and masks with files as people have them, from the survey to ready masks."""

import re
import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmseg_semi_rs.dataprep.folder.conversion import choose_stretch, plan_conversion, prepare_folder
from mmseg_semi_rs.dataprep.folder.mask_classes import parse_class, propose_classes
from mmseg_semi_rs.dataprep.folder.split import split_folder
from mmseg_semi_rs.dataprep.folder.survey import mask_namer, survey_folder, unread_bands
from mmseg_semi_rs.rasters.place import Place, overlapping
from mmseg_semi_rs.rasters.reader import read_rgb

rasterio = pytest.importorskip('rasterio')
affine = pytest.importorskip('affine')
pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
SIDE = 32
UTM = dict(crs='EPSG:32633', transform=affine.Affine(0.5, 0, 500000, 0, -0.5, 4000000))


def ids_of(number, height=SIDE, width=SIDE):
    rng = np.random.default_rng(number)
    blocks = rng.permutation(np.arange(16) % 3).reshape(4, 4)
    return np.kron(blocks, np.ones((height // 4, width // 4), int)).astype(np.uint8)


def colour_of(ids):
    return (ids[..., None] * [80, 60, 40] + 20).astype(np.uint8)


def write_tiff(path, pixels, colours=None, **profile):
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    count, height, width = pixels.shape
    shape = dict(count=count, height=height, width=width, dtype=pixels.dtype)
    with rasterio.open(path.with_suffix('.tif'), 'w', driver='GTiff', **shape, **profile) as raster:
        raster.write(pixels)
        if colours is not None:
            raster.write_colormap(1, colours)


def write_png(path, pixels, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path.with_name(f'{path.name}.png'), **options)


def pairs(root, mask, image=None, count=4, name='t{}', mask_name=None, **shape):
    for part in ('images', 'masks'):
        (root / part).mkdir()
    for number in range(count):
        ids = ids_of(number, **shape)
        stem = name.format(number)
        (image or (lambda path, rgb, k: write_png(path, rgb)))(
            root / 'images' / stem, colour_of(ids), number
        )
        mask(root / 'masks' / (mask_name or name).format(number), ids, number)


class Prepared:
    def __init__(self, root, classes=(), zero='auto', threshold=None, tolerance=None, **options):
        self.survey = survey_folder(root / 'images', root / 'masks', progress=False, **options)
        wanted = [parse_class(text) for text in classes]
        self.plan = propose_classes(self.survey.values, wanted, zero, (), threshold, tolerance)
        to_rgb = choose_stretch(self.survey, None)
        conversion = plan_conversion(self.survey, self.plan, to_rgb)
        self.ready = prepare_folder(self.survey, self.plan, to_rgb, conversion, root / 'out')
        assert not self.ready.problems
        self.told = ' '.join([*self.plan.reasons, *self.survey.notes, *self.survey.problems])

    def masks(self):
        found = {path.stem: path for path in self.ready.mask_dir.glob('t?.*[gf]')}
        return [np.asarray(Image.open(found[f't{k}'])) for k in range(4)]

    def image(self, number):
        (path,) = self.ready.image_dir.glob(f't{number}.*')
        return read_rgb(path).pixels


def png_aside(path, ids, k):
    write_png(path, ids)
    band = '<PAMRasterBand band="1"><NoDataValue>0</NoDataValue></PAMRasterBand>'
    path.with_name(f'{path.name}.png.aux.xml').write_text(f'<PAMDataset>{band}</PAMDataset>')


# --- declared no data that may be a class

NAMES = ('background', 'building', 'road')
DECLARED = {
    'tiff': lambda p, ids, k: write_tiff(p, ids, nodata=0),
    'palette': lambda p, ids, k: write_tiff(p, ids, {v: (9 * v, 0, 0) for v in range(3)}, nodata=0),
    'float': lambda p, ids, k: write_tiff(p, ids.astype(np.float32), nodata=0),
    'beside a png': png_aside,
    'in one of them': lambda p, ids, k: write_tiff(p, ids, nodata=0 if k == 2 else None),
}


@pytest.mark.parametrize('kind', DECLARED)
def test_declared_no_data_is_a_class_by_name_and_told_otherwise(tmp_path, kind):
    pairs(tmp_path, DECLARED[kind])
    named = Prepared(tmp_path, NAMES)
    assert named.plan.classes == NAMES
    assert 'declared as no data' in named.told and 'but is the class background' in named.told
    assert all((mask == ids_of(k)).all() for k, mask in enumerate(named.masks()))
    assert Prepared(tmp_path, zero='class').plan.values == (0, 1, 2)
    unnamed = Prepared(tmp_path)
    assert unnamed.plan.values == (1, 2) and 'ignored (name it by --classes' in unnamed.told
    assert ((unnamed.masks()[0] == 255) == (ids_of(0) == 0)).all()


def test_declared_no_data_of_another_class_and_of_a_colour(tmp_path):
    pairs(tmp_path, lambda p, ids, k: write_tiff(p, ids, nodata=1))
    assert Prepared(tmp_path, NAMES).plan.values == (0, 1, 2)
    assert Prepared(tmp_path).plan.values == (0, 2)
    other = tmp_path / 'colours'
    other.mkdir()
    rgb = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    pairs(other, lambda p, ids, k: write_tiff(p, rgb[ids].transpose(2, 0, 1), nodata=0))
    found = Prepared(other)
    assert found.plan.values == (0x0000FF, 0xFF0000)
    assert '#000000 is declared as no data in 4 masks' in found.told
    assert len(Prepared(other, ['a=#000000', 'b=#ff0000', 'c=#0000ff']).plan.values) == 3


def test_a_binary_mask_that_declares_its_background_is_asked_about(tmp_path):
    pairs(tmp_path, lambda p, ids, k: write_tiff(p, (ids == 1).astype(np.uint8), nodata=0))
    with pytest.raises(ValueError, match=r'show 1 class .*0 is declared as no data'):
        Prepared(tmp_path)
    assert Prepared(tmp_path, ['rest', 'roof']).plan.values == (0, 1)


# --- palettes

COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)


def paletted(order):
    def write(path, ids, k):
        places = np.array(order(k))
        image = Image.fromarray(np.argsort(places)[ids].astype(np.uint8))
        image.putpalette(COLOURS[places].ravel().tolist())
        write_png(path, image)

    return write


SWAPPED = {
    'every second': paletted(lambda k: [0, 1, 2] if k % 2 else [2, 0, 1]),
    'one of them': paletted(lambda k: [0, 1, 2] if k < 3 else [1, 0, 2]),
    'in tiff': lambda p, ids, k: write_tiff(
        p,
        (ids + k % 2) % 3,
        {int(v): (*map(int, COLOURS[(v - k % 2) % 3]), 255) for v in range(3)},
    ),
}


@pytest.mark.parametrize('kind', SWAPPED)
def test_colours_decide_where_palettes_differ(tmp_path, kind):
    pairs(tmp_path, SWAPPED[kind])
    found = Prepared(tmp_path)
    assert 'palettes differ from mask to mask' in found.told
    assert found.plan.values == (0, 0x0000FF, 0xFF0000)
    for k, mask in enumerate(found.masks()):
        assert (mask == np.array([0, 2, 1])[ids_of(k)]).all()


def test_palettes_that_differ_where_nothing_is_drawn_do_not_matter(tmp_path):
    def write(path, ids, k):
        image = Image.fromarray(np.where(ids == 2, 255, ids).astype(np.uint8))
        image.putpalette([*COLOURS[:2].ravel().tolist(), *[k] * 3, *[0] * (253 * 3)])
        write_png(path, image)

    pairs(tmp_path, write)
    assert not Prepared(tmp_path).plan.coloured


def test_a_mask_without_a_palette_among_swapped_ones_is_refused(tmp_path):
    def write(path, ids, k):
        write_png(path, ids) if k == 3 else SWAPPED['every second'](path, ids, k)

    pairs(tmp_path, write)
    with pytest.raises(ValueError, match=r't3\.png has numbers without a colour'):
        Prepared(tmp_path)


# --- ground

A = affine.Affine


def on_ground(transform, step=1, crs=UTM['crs'], wide=SIDE, high=SIDE):
    """A mask of its own ground, drawn by what is at the centre of each of its pixels."""

    def write(path, ids, k):
        columns, rows = np.meshgrid(np.arange(wide) + 0.5, np.arange(high) + 0.5)
        x, y = transform * (columns, rows)
        if crs != UTM['crs']:
            x, y = map(np.reshape, rasterio.warp.transform(crs, UTM['crs'], x.ravel(), y.ravel()),
                       [x.shape] * 2)  # fmt: skip
        column, row = (np.floor(v).astype(int) for v in ~UTM['transform'] * (x, y))
        inside = (column >= 0) & (row >= 0) & (column < SIDE) & (row < SIDE)
        drawn = ids[row.clip(0, SIDE - 1), column.clip(0, SIDE - 1)]
        write_tiff(path, np.where(inside, drawn, 0).astype(np.uint8), crs=crs, transform=transform)

    return write


def geotiff(path, rgb, k):
    write_tiff(path, rgb.transpose(2, 0, 1), **UTM)


BASE = UTM['transform']
OTHER_GROUND = {
    'shifted': (on_ground(BASE * A.translation(8, 0)), 'lies 8 pixels to the right'),
    'south first': (on_ground(BASE * A.translation(0, SIDE) * A.scale(1, -1)), 'rows in the other'),
    'coarser': (on_ground(BASE * A.scale(2), wide=16, high=16), 'has pixels of 1 x 1'),
    'finer': (on_ground(BASE * A.scale(0.5), wide=64, high=64), 'has pixels of 0.25 x 0.25'),
    'larger': (on_ground(BASE * A.translation(-8, -8), wide=48, high=48), 'is 48 x 48 pixels'),
}


@pytest.mark.parametrize('kind', OTHER_GROUND)
def test_masks_of_other_ground_are_refused_or_laid_on_their_image(tmp_path, kind):
    draw, words = OTHER_GROUND[kind]
    pairs(tmp_path, draw, geotiff)
    with pytest.raises(ValueError, match=rf't0\.tif .*{words}.* --warp-masks'):
        Prepared(tmp_path)
    found = Prepared(tmp_path, zero='class', warp_masks=True)
    for k, mask in enumerate(found.masks()):
        inside = mask != 255
        assert inside.mean() == (0.75 if kind == 'shifted' else 1)
        assert (mask == ids_of(k))[inside].all()


def test_masks_in_other_coordinates(tmp_path):
    crs = 'EPSG:32632'
    from rasterio.warp import calculate_default_transform

    corners = (500000, 4000000 - SIDE / 2, 500000 + SIDE / 2, 4000000)
    transform, wide, high = calculate_default_transform(UTM['crs'], crs, SIDE, SIDE, *corners)
    pairs(tmp_path, on_ground(transform, crs=crs, wide=wide, high=high), geotiff)
    with pytest.raises(ValueError, match=r'has coordinates in EPSG:32632 .*EPSG:32633'):
        Prepared(tmp_path)
    for k, mask in enumerate(Prepared(tmp_path, zero='class', warp_masks=True).masks()):
        assert (mask == ids_of(k))[mask != 255].mean() > 0.9


@pytest.mark.parametrize(
    'profile', [{}, dict(transform=BASE), dict(UTM, transform=BASE * A.translation(0.4, 0.4))]
)
def test_masks_of_no_place_or_nearly_the_same_one_lie_as_their_image(tmp_path, profile):
    pairs(tmp_path, lambda p, ids, k: write_tiff(p, ids, **profile), geotiff)
    assert all((mask == ids_of(k)).all() for k, mask in enumerate(Prepared(tmp_path).masks()))


def test_world_files_tell_the_ground_of_pictures(tmp_path):
    def write(path, ids, k):
        write_png(path, ids)
        path.with_name(f'{path.name}.pgw').write_text('0.5\n0\n0\n-0.5\n500004.25\n3999999.75\n')

    pairs(tmp_path, write, geotiff)
    with pytest.raises(ValueError, match='lies 8 pixels to the right'):
        Prepared(tmp_path)
    mask = Prepared(tmp_path, zero='class', warp_masks=True).masks()[0]
    assert (mask[:, 8:] == ids_of(0)[:, :-8]).all() and (mask[:, :8] == 255).all()


# --- orientation

EXIF_METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@pytest.mark.parametrize('orientation', EXIF_METHODS)
@pytest.mark.parametrize('drawn', ['stored', 'upright'])
@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_an_orientation_turns_neither_image_nor_mask(tmp_path, suffix, drawn, orientation):
    def image(path, rgb, k):
        exif = Image.Exif()
        exif[0x0112] = 6 if k == 3 else orientation
        Image.fromarray(rgb).save(path.with_suffix(suffix), exif=exif, quality=95, subsampling=0)

    def mask(path, ids, k):
        found = Image.fromarray(ids)
        if drawn == 'upright':
            found = found.transpose(EXIF_METHODS[6 if k == 3 else orientation])
        write_png(path, found)

    pairs(tmp_path, mask, image, height=32, width=48)
    found = Prepared(tmp_path)
    told = 'turned to lie as their images' if drawn == 'upright' else 'taken as they are stored'
    assert told in found.told
    for k, mask in enumerate(found.masks()):
        assert (mask == ids_of(k, 32, 48)).all()
        assert np.abs(found.image(k).astype(int) - colour_of(mask)).max() < 6
        assert Image.open(next(found.ready.image_dir.glob(f't{k}.*'))).getexif().get(0x0112) is None


# --- smoothed and compressed masks


def smoothed(levels, way='shrink', suffix='.png'):
    def write(path, ids, k):
        drawn = Image.fromarray(np.array(levels, np.uint8)[ids % len(levels)])
        large = drawn.resize((SIDE * 16, SIDE * 16), Image.Resampling.NEAREST)
        if way == 'shrink':
            large = large.rotate(7 + k, fillcolor=int(levels[0]))
        found = large.resize((SIDE * 4 - 5, SIDE * 4 - 5), Image.Resampling.BILINEAR)
        if way == 'blur':
            found = found.filter(ImageFilter.GaussianBlur(0.8))
        found.save(path.with_suffix(suffix), quality=70)

    return write


def large_image(path, rgb, k):
    write_png(path, np.zeros((SIDE * 4 - 5, SIDE * 4 - 5, 3), np.uint8))


@pytest.mark.parametrize('levels', [(0, 255), (20, 200)])
@pytest.mark.parametrize('way', ['shrink', 'blur'])
def test_two_grey_levels_with_smoothed_edges_are_told_and_divided(tmp_path, levels, way):
    pairs(tmp_path, smoothed(levels, way), large_image)
    middle = (sum(levels) + 1) // 2
    with pytest.raises(ValueError, match=rf'{levels[0]}, {levels[1]} are .*threshold {middle}\.'):
        Prepared(tmp_path)
    with pytest.raises(ValueError, match='--mask-threshold'):
        Prepared(tmp_path, ['rest', 'roof'])
    found = Prepared(tmp_path, ['rest', 'roof'], threshold=middle)
    assert found.plan.classes == ('rest', 'roof')
    for k, mask in enumerate(found.masks()):
        grey = np.asarray(Image.open(tmp_path / 'masks' / f't{k}.png'))
        assert (mask == (grey >= middle)).all()
    with pytest.raises(ValueError, match='two names'):
        Prepared(tmp_path, ['a', 'b', 'c'], threshold=middle)
    with pytest.raises(ValueError, match='does not divide the masks'):
        Prepared(tmp_path, threshold=levels[0])


def test_more_grey_levels_are_told_apart_by_a_tolerance(tmp_path):
    pairs(tmp_path, smoothed((0, 100, 220)), large_image)
    names = ['--classes', *(f'name={v}' for v in (0, 100, 220)), '--tolerance 50']
    with pytest.raises(ValueError, match=' '.join(names)):
        Prepared(tmp_path)
    found = Prepared(tmp_path, ['a=0', 'b=100', 'c=220'], tolerance=50)
    grey = np.asarray(Image.open(tmp_path / 'masks' / 't0.png')).astype(int)
    assert (found.masks()[0][grey < 50] == 0).all() and (found.masks()[0][grey > 180] == 2).all()
    assert (found.masks()[0][(grey > 50) & (grey < 150)] == 1).all()


def test_jpeg_masks_of_two_grey_levels(tmp_path):
    pairs(tmp_path, smoothed((0, 255), suffix='.jpg'), large_image)
    assert 'two grey levels: --mask-threshold 12' in Prepared(tmp_path).told
    found = Prepared(tmp_path, threshold=128).masks()[0]
    grey = np.asarray(Image.open(tmp_path / 'masks' / 't0.jpg'))
    assert (found == (grey >= 128)).all()
    near = Prepared(tmp_path, ['rest=0', 'roof=255'], tolerance=127).masks()[0]
    assert (near == (grey >= 128)).all()


def test_pixels_of_jpeg_masks_with_smoothed_edges_are_all_counted(tmp_path):
    rgb = np.array([[60, 16, 152], [226, 169, 41], [110, 193, 228]], np.uint8)

    def write(path, ids, k):
        large = Image.fromarray(rgb[ids]).resize((SIDE * 4, SIDE * 4), Image.Resampling.BICUBIC)
        large.rotate(7 + k).save(path.with_suffix('.jpg'), quality=85)

    def image(path, colours, k):
        write_png(path, np.zeros((SIDE * 4, SIDE * 4, 3), np.uint8))

    pairs(tmp_path, write, image)
    found = Prepared(tmp_path, [f'c{k}=#{r:02x}{g:02x}{b:02x}' for k, (r, g, b) in enumerate(rgb)])
    masks = np.stack(found.masks())
    assert (ignored := (masks == 255).mean()) > 0.02
    told = float(re.search(r'ignored, ([\d.]+)% of the masks', found.told)[1]) / 100
    assert told == pytest.approx(ignored, abs=0.02)
    for k in range(3):
        counted = sum(ids.get(k, 0) for ids in found.ready.presence.values())
        assert counted == pytest.approx((masks == k).sum(), rel=0.05)


@pytest.mark.parametrize('value', [-9999, -3.4028234663852886e38, 1e20])
def test_values_of_masks_that_can_be_no_class(tmp_path, value):
    def write(path, ids, k):
        drawn = ids.astype(np.float32)
        drawn[:4] = value
        write_tiff(path, drawn)

    pairs(tmp_path, write)
    for k, mask in enumerate(Prepared(tmp_path, ['a=0', 'b=1', 'c=2']).masks()):
        assert (mask[:4] == 255).all() and (mask[4:] == ids_of(k)[4:]).all()


def test_tolerance_of_colours(tmp_path):
    rgb = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    pairs(tmp_path, lambda p, ids, k: write_png(p, rgb[ids] ^ np.uint8(k)))
    names = ['a=#000000', 'b=#ff0000', 'c=#0000ff']
    assert (Prepared(tmp_path, names).masks()[2] == 255).all()
    found = Prepared(tmp_path, names, tolerance=3)
    assert all((mask == ids_of(k)).all() for k, mask in enumerate(found.masks()))


@pytest.mark.parametrize('values', [range(8), range(10, 101, 10), (0, 1, 2, 5, 9, 100, 200, 255)])
def test_many_real_classes_are_not_taken_for_smoothed_edges(tmp_path, values):
    table = np.array(list(values), np.uint8)

    def write(path, ids, k):
        drawn = np.where(ids > 0, table[0], table[-2])
        spots = np.random.default_rng(k).integers(0, SIDE, (2, 16))
        drawn[tuple(spots)] = np.resize(table, 16)  # single pixels of each
        write_png(path, drawn.astype(np.uint8))

    pairs(tmp_path, write)
    assert set(Prepared(tmp_path).plan.values) == set(values) - {255}


# --- names


@pytest.mark.parametrize(
    ('pattern', 'image', 'mask'),
    [
        ('{stem}_mask', 't{}', 't{}_mask'),
        ('GT_{stem}', 't{}', 'GT_t{}'),
        ('patch=mask', 'a_patch_{}', 'a_mask_{}'),
        ('_sat=', 't{}_sat', 't{}'),
    ],
)
def test_masks_named_by_a_pattern(tmp_path, pattern, image, mask):
    pairs(tmp_path, lambda p, ids, k: write_png(p, ids), name=image, mask_name=mask)
    with pytest.raises(ValueError, match='--mask-name'):
        Prepared(tmp_path)
    found = Prepared(tmp_path, mask_name=pattern)
    assert not found.survey.problems and len(found.survey.masks) == 4
    for k in range(4):
        written = found.ready.mask_dir / f'{image.format(k)}.png'  # by the image's name
        assert (np.asarray(Image.open(written)) == ids_of(k)).all()
    with pytest.raises(ValueError, match='says nothing of the name'):
        mask_namer('mask')


def test_composed_and_decomposed_accents_are_one_name(tmp_path):
    forms = [unicodedata.normalize(form, 'forêt {}') for form in ('NFC', 'NFD')]
    pairs(tmp_path, lambda p, ids, k: write_png(p, ids), name=forms[0], mask_name=forms[1])
    assert len(Prepared(tmp_path).survey.masks) == 4


# --- ground that images share


def tiles(starts, size=100, step=0.5, crs=None, turn=0.0):
    return {
        f't{k}': Place(size, size, A(step, 0, x, 0, -step, y) * A.rotation(turn), crs)
        for k, (x, y) in enumerate(starts)
    }


def test_pairs_that_share_ground():
    grid = tiles([(50.0 * (k % 4), 50.0 * (k // 4)) for k in range(8)])
    assert not list(overlapping(list(grid.values())))
    assert len(list(overlapping(list(tiles([(40 * k, 0) for k in range(5)]).values())))) == 4
    turned = tiles([(0, 0), (36, -36)], turn=45)  # whose bounds overlap, but not they
    assert not list(overlapping(list(turned.values())))
    zones = [rasterio.crs.CRS.from_epsg(code) for code in (32633, 32632)]
    first = Place(100, 100, A(0.5, 0, 166021, 0, -0.5, 5540000), zones[0])
    from rasterio.warp import transform

    (x,), (y,) = transform(*zones, [166021], [5540000])
    second = Place(100, 100, A(0.5, 0, x, 0, -0.5, y), zones[1])
    assert list(overlapping([first, second])) == [(0, 1)]


def test_images_that_share_ground_are_one_scene():
    names = [f't{k}' for k in range(20)]
    places = tiles([(200.0 * (k // 2) + 20 * (k % 2), 0) for k in range(20)])  # ten couples
    split = split_folder({name: {0: 1} for name in names[:12]}, names[12:], places=places)
    assert 'pairs of images share ground' in split.reason
    for name in split.val:
        couple = f't{int(name[1:]) ^ 1}'
        assert couple in split.val or couple in split.left_out
    assert 3 <= len(split.val) <= 4
    unlabelled_twin = split_folder(
        {f't{k}': {0: 1} for k in range(0, 20, 2)}, names[1::2], places=places
    )
    assert len(unlabelled_twin.left_out) == len(unlabelled_twin.val) == 2


def test_a_carpet_of_overlapping_images_is_divided_by_ground():
    places = tiles([(40.0 * (k % 8), 40.0 * (k // 8)) for k in range(40)])
    labelled = {name: {0: 1} for name in places if int(name[1:]) % 2}
    free = [name for name in places if name not in labelled]
    split = split_folder(labelled, free, places=places)
    assert 'share ground: their eastern end is validated on' in split.reason
    assert len(split.val) >= 4 and split.train and split.unlabelled and split.left_out
    val = [places[name] for name in split.val]
    for name in (*split.train, *split.unlabelled):
        assert not any(0 in pair for pair in overlapping([places[name], *val]))
    for name in split.left_out:
        assert any(0 in pair for pair in overlapping([places[name], *val]))


def test_images_of_one_place_are_divided_and_the_leak_is_told():
    names = [f'summer{k}' for k in range(6)]
    places = tiles([(0, 0)] * 6)
    places = dict(zip(names, places.values(), strict=True))
    split = split_folder({name: {0: 1} for name in names}, [], places=places)
    assert split.val and split.train and not split.left_out
    assert 'validation shows places that are trained on' in split.reason


def test_ground_is_divided_where_a_scene_would_take_most_unlabelled_images_along():
    places = tiles([(40.0 * (k % 10), 1000.0 * (k // 10)) for k in range(20)])  # two strips
    labelled = {name: {0: 1} for name in places if int(name[1:]) not in range(12, 19)}
    free = [name for name in places if name not in labelled]
    split = split_folder(labelled, free, places=places)
    assert len(split.unlabelled) > len(free) / 2 and 2 <= len(split.val) <= 5


def test_tiles_of_overlapping_images_are_divided_by_ground():
    places = {'a': tiles([(0, 0)], 200)['t0'], 'b': tiles([(90, 0)], 200)['t0']}
    names = [f'{image}_{x}_0_{x + 100}_100' for image in 'ab' for x in (0, 100)]
    split = split_folder({name: {0: 1} for name in names}, [], places=places)
    assert split.val == ['b_100_0_200_100'] and 'a_0_0_100_100' in split.train


def test_validation_gets_a_fifth_and_pixels_of_every_class():
    presence = {f'n{k}': {0: 1000, 1: 500 if k in (2, 6) else 1} for k in range(8)}
    for seed in range(10):
        split = split_folder(presence, [], seed)
        assert len(split.val) == 2 and len({'n2', 'n6'} & set(split.val)) == 1
    assert len(split_folder({f'n{k}': {0: 1} for k in range(6)}, []).val) == 2


OTHER_KINDS = {
    'jp2': dict(driver='JP2OpenJPEG', QUALITY='100', REVERSIBLE='YES'),
    'bigtiff.tif': dict(driver='GTiff', BIGTIFF='YES'),
    'lerc.tif': dict(driver='GTiff', compress='LERC'),
    'planes.tif': dict(driver='GTiff', interleave='band', tiled=True, blockxsize=16, blockysize=16),
    'bmp': {},
    'webp': dict(lossless=True),
    'TIF': {},
}


@pytest.mark.parametrize('kind', OTHER_KINDS)
def test_images_of_all_kinds_that_are_predicted_are_trained_on(tmp_path, kind):
    def image(path, rgb, number):
        suffix, options = kind.rpartition('.')[2], OTHER_KINDS[kind]
        path = path.with_name(f'{path.name}.{suffix}')
        if 'driver' in options:
            shape = dict(count=3, height=SIDE, width=SIDE, dtype='uint8')
            with rasterio.open(path, 'w', **shape, **options) as raster:
                raster.write(rgb.transpose(2, 0, 1))
        else:
            Image.fromarray(rgb).save(path, **options)

    pairs(tmp_path, lambda path, ids, k: write_png(path, ids), image)
    found = Prepared(tmp_path)
    for number, mask in enumerate(found.masks()):
        np.testing.assert_array_equal(mask, ids_of(number))
        np.testing.assert_array_equal(found.image(number), colour_of(ids_of(number)))


@pytest.mark.parametrize('kind', ['jpeg.tif', 'webp'])
def test_masks_of_lossy_kinds_are_ones_of_colours(tmp_path, kind):
    def mask(path, ids, number):
        levels = np.where(ids == 1, 255, 0).astype(np.uint8)
        if kind == 'webp':
            Image.fromarray(levels).convert('RGB').save(path.with_name(f'{path.name}.webp'))
        else:
            write_tiff(path, levels, compress='JPEG', jpeg_quality=60)

    pairs(tmp_path, mask)
    found = Prepared(tmp_path, threshold=128)
    assert all(summary.lossy for summary in found.survey.masks.values())
    for number, path in enumerate(sorted(found.ready.mask_dir.iterdir())):
        with Image.open(path) as ids:
            assert (np.asarray(ids) == (ids_of(number) == 1)).mean() > 0.99


def test_odd_names_are_matched_or_told(tmp_path):
    pairs(tmp_path, lambda path, ids, k: write_png(path.with_name(path.name.upper()), ids))
    write_png(tmp_path / 'images' / 'a\nb', colour_of(ids_of(0)))
    (tmp_path / 'images' / 'gone.png').symlink_to('/nowhere.png')
    found = Prepared(tmp_path)
    assert len(found.survey.masks) == 4
    for number, mask in enumerate(found.masks()):
        np.testing.assert_array_equal(mask, ids_of(number))
    assert 'has a line break in its name' in found.told
    assert 'gone.png does not exist' in found.told


def test_a_mask_of_several_pages_is_left_out(tmp_path):
    """As annotation tools write one page for each class; only the first would be read."""

    def mask(path, ids, number):
        pages = [Image.fromarray(np.uint8(ids == k) * 255) for k in range(3 if number else 1)]
        pages[0].save(path.with_suffix('.tif'), save_all=True, append_images=pages[1:])

    pairs(tmp_path, mask)
    survey = survey_folder(tmp_path / 'images', tmp_path / 'masks', progress=False)
    assert list(survey.masks) == ['t0'] and len(survey.problems) == 3
    assert 't1.tif has 3 pages, of which only the first would be read' in survey.problems[0]


def test_pixels_without_a_size_lie_nowhere(tmp_path):
    """A damaged transform, which nothing can be placed by."""
    nowhere = dict(crs='EPSG:32633', transform=affine.Affine(0, 0, 5e5, 0, 0, 4e6))

    def image(path, rgb, number):
        write_tiff(path, rgb.transpose(2, 0, 1), **nowhere)

    pairs(tmp_path, lambda path, ids, number: write_tiff(path, ids, **nowhere), image)
    prepared = Prepared(tmp_path)
    assert not prepared.survey.places
    assert all((mask == ids_of(k)).all() for k, mask in enumerate(prepared.masks()))


@pytest.mark.parametrize(
    ('name', 'told'),
    [('t{}.tif', "'{stem}.tif'"), ('t{}_label', "'{stem}_label'"), ('{}', "'{stem}_mask'")],
)
def test_a_pattern_is_proposed_for_masks_of_other_names(tmp_path, name, told):
    pairs(tmp_path, lambda path, ids, number: write_png(path, ids), mask_name=name)
    with pytest.raises(ValueError, match='say by --mask-name how they differ') as error:
        survey_folder(tmp_path / 'images', tmp_path / 'masks', progress=False)
    assert told in str(error.value)


def test_files_of_kinds_that_are_not_read_are_told(tmp_path):
    pairs(tmp_path, lambda path, ids, number: write_png(path, ids))
    for name in ('masks/t9.gif', 'masks/t8.GIF', 'images/a.heic', 'images/.b.heic', 'images/n.txt'):
        (tmp_path / name).write_bytes(b'')
    survey = survey_folder(tmp_path / 'images', tmp_path / 'masks', progress=False)
    told = [note for note in survey.notes if 'not read' in note]
    assert len(told) == 2 and '(1 .heic)' in told[0] and '(2 .gif)' in told[1]


def test_infinite_values_are_no_data(tmp_path):
    def image(path, rgb, number):
        bands = rgb.transpose(2, 0, 1).astype(np.float32) / 255
        bands[:, :4], bands[:, 4:6], bands[0, 6:8] = np.inf, -np.inf, np.inf
        write_tiff(path, bands, **UTM)

    pairs(tmp_path, lambda path, ids, number: write_png(path, ids), image)
    for number, mask in enumerate(Prepared(tmp_path).masks()):
        assert (mask[:6] == 255).all()
        assert (mask[6:] == ids_of(number)[6:]).all()  # of one band only


@pytest.mark.parametrize(
    ('bands', 'told'), [(4, 'bands 1, 2, 3 of 4 are'), (2, 'band 1 of 2 is'), (3, None), (1, None)]
)
def test_bands_that_are_left_out_are_told(tmp_path, bands, told):
    def image(path, rgb, number):
        write_tiff(path, np.repeat(rgb[..., :1], bands, -1).transpose(2, 0, 1).astype('uint16'))

    pairs(tmp_path, lambda path, ids, number: write_png(path, ids), image)
    notes = unread_bands(survey_folder(tmp_path / 'images', tmp_path / 'masks', progress=False))
    assert len(notes) == (told is not None) and (told or '') in ' '.join(notes)
