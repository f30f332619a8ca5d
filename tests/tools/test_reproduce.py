# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""From archives to the row of a table, with fabricated archives and tiny weights."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mmseg_semi_rs.dataprep import experiments
from mmseg_semi_rs.dataprep.splits import draw
from mmseg_semi_rs.rasters.windows import POTSDAM_TILES
from mmseg_semi_rs.utils import steps
from mmseg_semi_rs.utils.commands import COMMANDS
from tests._support import weight_files
from tests._support.archives import potsdam_members, write_zip
from tests._support.tiny_training import ROOT, load_tool, run_here

# The real config with networks of a few channels, whose weights are files in the real formats.
LEAF = """
_base_ = '{base}'
tiny = dict(_delete_=True, embed_dims=16, num_layers=4, num_heads=2)
one = dict(_delete_=True, embed_dims=16, num_layers=1, num_heads=2)
clip = dict(
    _delete_=True, width=16, layers=1, heads=2, patch_size=14, image_size=224, quick_gelu=True)
model = dict(student=dict(
    backbone=dict(arch=tiny, out_indices=None, checkpoint='weights/dinov2_vits14_pretrain.pth'),
    decode_head=dict(
        decode_head=dict(
            arch=None, in_channels=[16] * 4, post_process_channels=[8] * 4, channels=8),
        translator=dict(hidden=8),
        teachers=dict(
            dino=dict(backbone=dict(
                arch=one, out_indices=(0,), checkpoint='weights/dinov2_vitb14_pretrain.pth')),
            clip=dict(backbone=dict(
                arch=clip, out_indices=(0,), checkpoint='weights/ViT-L-14.pt'))))))
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, sampler=dict(batch_size=2))
val_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=4)
"""
CUT = ['--cfg-options', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with configs of its own, in which the tool's commands run in this process."""
    configs = tmp_path / 'package/configs'
    (configs / 'rsmtdf').mkdir(parents=True)
    shutil.copy(ROOT / 'configs/published.yml', configs)
    base = ROOT / 'configs/rsmtdf/dinov2_clip_potsdam_10pct.py'
    (configs / 'rsmtdf/tiny_potsdam_10pct.py').write_text(LEAF.format(base=base))
    monkeypatch.setattr(experiments, 'resources', lambda: tmp_path / 'package')
    monkeypatch.setattr(draw, 'RATIOS', ('10pct',))  # of 38 tiles, 1 % is none
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reproduce(monkeypatch, *words: object, fail: str = '') -> tuple[int, list[str]]:
    """Run the tool.

    Args:
        monkeypatch: Of the test.
        *words: Its arguments.
        fail: The command that fails.

    Returns:
        Its exit status, and the commands that it started.
    """
    tool = load_tool('reproduce')
    begun = []

    def start(words: list[str]) -> int:
        begun.append(' '.join(words))
        if fail and fail in begun[-1]:
            return 7
        assert words[0] == tool.RSSEG
        name, *rest = words[1:]
        file = COMMANDS[name].file
        if name == 'convert':
            file, *rest = f'{file}/{rest[0]}', *rest[1:]
        try:
            run_here(file, *rest)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    monkeypatch.setattr(steps, 'start', start)
    monkeypatch.setattr(sys, 'argv', ['/bin/rsseg', 'reproduce'])
    try:
        tool.main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0), begun
    return 0, begun


def write_weights(folder: Path) -> None:
    """Tiny files with the names of the public ones and the keys of their formats."""
    folder.mkdir()
    for name, depth in (('dinov2_vits14_pretrain.pth', 4), ('dinov2_vitb14_pretrain.pth', 1)):
        torch.save(weight_files.fill(weight_files.meta_dinov2(16, depth)), folder / name)
    shapes = weight_files.openai_clip(
        width=16, depth=1, embed=8, text_width=8, text_depth=1, vocabulary=49
    )
    torch.save(weight_files.fill(shapes), folder / 'ViT-L-14.pt')


def write_archives(folder: Path) -> None:
    tiles = [tile for part in POTSDAM_TILES.values() for tile in part]
    images, labels, _ = potsdam_members(tiles, 64)
    write_zip(folder / '2_Ortho_RGB.zip', images)
    write_zip(folder / '5_Labels_all.zip', labels)


def test_from_archives_to_a_row_beside_the_published_ones(place, monkeypatch, capsys):
    archives = place / 'archives'
    words = ['rsmtdf', 'potsdam', '10pct', '--seeds', 2, '--archives', archives, *CUT]

    status, begun = reproduce(monkeypatch, *words)  # all that is missing is told at once
    said = capsys.readouterr().err
    assert status == 2 and not begun and not (place / 'work_dirs').exists()
    for name in ('dinov2_vits14_pretrain.pth', 'dinov2_vitb14_pretrain.pth', 'ViT-L-14.pt'):
        assert f'missing: The weights weights/{name} are missing: give --download' in said
    assert f'{archives} does not exist' in said
    assert 'www.isprs.org' in said and '2_Ortho_RGB.zip and 5_Labels_all.zip' in said
    assert said.splitlines()[-1].startswith('error: Nothing was begun')

    write_archives(archives)
    write_weights(place / 'weights')
    status, begun = reproduce(monkeypatch, *words, fail='seed_1 --seed')
    said = capsys.readouterr()
    assert status == 2 and 'The step "train, seed 1" is not finished (exit status 7)' in said.err
    assert [line.split()[1] for line in begun] == ['convert', 'splits', 'train', 'test', 'train']
    assert '--edge pad' in begun[0] and '--preset dwl' in begun[1]

    status, begun = reproduce(monkeypatch, *words)  # goes on where it stopped
    said = capsys.readouterr().out
    assert status == 0 and [line.split()[1] for line in begun] == ['train', 'test']
    folder = place / 'work_dirs/reproduce/rsmtdf_potsdam_10pct'
    row = json.loads((folder / 'row.json').read_text())
    assert len(row['miou']) == row['seeds'] == 2 and 0 <= row['mean'] <= 100
    assert row['mean'] == pytest.approx(sum(row['miou']) / 2)
    assert row['spread'] == pytest.approx(abs(row['miou'][0] - row['miou'][1]) / 2**0.5)
    assert row['test_tiles'] == 9 and row['scene_in_training'] == 0
    assert row['hours'] is not None and row['versions']['PyTorch'].startswith(torch.__version__[:3])
    assert row['options']['optim_wrapper.accumulative_counts'] == '2'
    table = (folder / 'row.md').read_text()
    assert table in said
    assert f'| rsmtdf, tiny | 10pct | {row["mean"]:.2f} ± {row["spread"]:.2f} | 2 |' in table
    assert '| SemiEarth | 10pct | 80.78 | | | | UFFM paper' in table
    assert 'Not known on these lists: 0 labels, all labels.' in table

    status, begun = reproduce(monkeypatch, *words)
    assert status == 0 and not begun
    status, _ = reproduce(monkeypatch, *words, '--amp')
    assert status == 2 and 'give another --work-dir' in capsys.readouterr().err
    status, _ = reproduce(monkeypatch, *words[:3], '--archives', archives)  # another length
    assert status == 2 and 'give another --work-dir' in capsys.readouterr().err

    # the rows of other methods that were made here stand beside it
    full = dict(method='supervised', variant='tiny', share='full', mean=90.0, spread=None)
    named = dict(method='semiearth', variant='dinov2_clip', share='1pct', zero_labels=45.6)
    for other in (full, named):
        (folder.parent / other['method']).mkdir()
        (folder.parent / other['method'] / 'row.json').write_text(json.dumps(row | other))
    reproduce(monkeypatch, *words)
    table = (folder / 'row.md').read_text()
    assert '| supervised, tiny | all labels | 90.00 | 2 |' in table
    assert '| verifier of dinov2_clip | 0 labels | 45.60 |' in table
    assert 'Not known' not in table and 'semiearth' not in table

    # tiles that another protocol wants cut otherwise are not taken
    summary = place / 'data/potsdam/conversion.json'
    summary.write_text(summary.read_text().replace('"pad"', '"shift"'))
    status, begun = reproduce(monkeypatch, *words)
    assert status == 2 and not begun
    assert 'with edge shift, and the lists dwl want edge pad' in capsys.readouterr().err


def dry_run(monkeypatch, capsys, *words: object) -> list[str]:
    status, begun = reproduce(monkeypatch, *words, '--dry-run')
    assert status == 0 and not begun
    return capsys.readouterr().out.splitlines()


def test_dry_run_prints_each_command_as_a_user_types_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = 'configs/rsmtdf/dinov2_clip_potsdam_1pct.py'
    folder = 'work_dirs/reproduce/rsmtdf_potsdam_1pct'
    said = dry_run(monkeypatch, capsys, 'rsmtdf', 'potsdam', '1pct', '--seeds', 2, '--gpus', 4)
    script = ROOT / 'tools/dist_train.sh'
    assert said == [
        f'rsseg weights {config} --download',
        'rsseg convert potsdam ~/Downloads/potsdam -o data/potsdam --edge pad',
        'rsseg splits potsdam --preset dwl',
        *(
            line
            for seed in range(2)
            for line in (
                f'bash {script} {config} 4 --work-dir {folder}/seed_{seed} --seed {seed}',
                f'rsseg test {config} {folder}/seed_{seed}/best_mIoU_iter_*.pth --json '
                f'{folder}/seed_{seed}/test.json --work-dir {folder}/seed_{seed}/test',
            )
        ),
    ]
    assert not list(tmp_path.iterdir())

    seed = tmp_path / folder / 'seed_0'  # a training that was killed is gone on with
    seed.mkdir(parents=True)
    (seed / 'last_checkpoint').write_text(f'{seed}/iter_500.pth')
    again = dry_run(monkeypatch, capsys, 'rsmtdf', 'potsdam', '1pct', '--seeds', 2, '--gpus', 4)
    assert again == [*said[:3], f'{said[3]} --resume', *said[4:]]
    (seed / 'last_checkpoint').write_text(f'{seed}/iter_6060.pth')
    again = dry_run(monkeypatch, capsys, 'rsmtdf', 'potsdam', '1pct', '--seeds', 2, '--gpus', 4)
    assert again == [*said[:3], *said[4:]]


def test_each_method_has_its_steps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = dry_run(monkeypatch, capsys, 'semiearth', 'potsdam', '1-4', '--slurm', 'gpu')
    begin = 'srun -p gpu --gres=gpu:1 rsseg annotate configs/semiearth/semiearth_dinov2_clip_'
    assert said[3].startswith(begin)
    assert said[2] == 'rsseg splits potsdam'
    assert said[4].startswith(begin.replace('annotate', 'test'))
    assert '_1-4.py --verifier --json work_dirs/' in said[4]
    assert said[4].endswith('verifier.temperature=0.01')  # which no label was fitted to
    assert re.match(r'env GPUS=1 bash \S+/slurm_train\.sh gpu semiearth_\S+_0 configs/', said[5])
    assert 'accumulative_counts=8' in said[5] and 'custom_hooks.0.interval=8' in said[5]
    assert re.match(r'env GPUS=1 bash \S+/slurm_test\.sh gpu semiearth_\S+_0 configs/', said[6])

    said = dry_run(monkeypatch, capsys, 'co2s', 'loveda', '1-40', '--data-root', '/d')
    twin = 'checkpoint=checkpoints/vit_base_patch16_dinov3_qkvb.lvd1689m.safetensors'
    assert twin in said[0] and 'train_dataloader.dataset.unlabelled.data_root=/d' in said[0]
    assert said[1] == 'rsseg convert loveda ~/Downloads/loveda -o /d --window whole'
    assert said[2] == 'rsseg splits loveda --preset co2s --data-root /d'
    assert twin in said[3] and 'train_cfg.max_iters=294400' in said[3]

    said = dry_run(monkeypatch, capsys, 'supervised', 'deepglobe', 'full', '--seeds', 1)
    assert len(said) == 5 and 'configs/baselines/supervised_dinov2_deepglobe_full.py' in said[3]


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        ('rsmdtf potsdam 1pct', "for the method 'rsmdtf': choose one of fixmatch, supervised, "),
        ('rsmtdf posdam 1pct', "of rsmtdf for the data set 'posdam': choose one of deepglobe, "),
        ('co2s mer 1pct', "of co2s mer for the share '1pct': choose one of 1-4, 1-8."),
        ('co2s potsdam 1-4 --variant x', "the variant 'x': choose one of clip_clip, clip_dinov2, "),
        ('rsmtdf potsdam 1pct --gpus 3', '--gpus 3 does not divide the 4 GPUs that'),
    ],
)
def test_a_wrong_word_names_those_that_there_are(monkeypatch, capsys, words, said):
    status, begun = reproduce(monkeypatch, *words.split(), '--dry-run')
    assert status == 2 and not begun
    told = capsys.readouterr().err
    assert said in told and told.count('\n') == 1


def test_every_config_can_be_reproduced():
    tables = yaml.safe_load((ROOT / 'configs/published.yml').read_text('utf-8'))
    found = experiments.experiments()
    files = [p for p in (ROOT / 'configs').glob('*/*.py') if not p.parent.name.startswith('_')]
    assert sorted(one.config for one in found) == sorted(files)
    assert {one.data_set for one in found} == set(tables['data_sets'])
    assert len({(one.method, one.data_set, one.share, one.variant) for one in found}) == len(files)
    for name in tables['data_sets']:
        assert (ROOT / f'tools/dataset_converters/{experiments.source(name).converter}.py').exists()
    assert experiments.choose_one('co2s', 'potsdam', '1-4').variant == 'clip_dinov3'
    assert experiments.choose_one('semiearth', 'potsdam', '1pct').variant == 'dinov2_clip'


def test_the_pages_show_the_figures_that_are_compared_with():
    """The tables of the pages, whose columns are data sets and cells figures by share."""
    names = {'DeepGlobe': 'deepglobe', 'Potsdam': 'potsdam', 'GID-15': 'gid15'}
    compared = 0
    for page in ('rsmtdf', 'semiearth', 'baselines', 'co2s'):
        head: list[str] = []
        for line in (ROOT / f'configs/{page}/README.md').read_text('utf-8').splitlines():
            cells = [cell.strip() for cell in line.strip('|').split('|')]
            if cells[0] == 'method' or not line.startswith('|'):
                head = cells
            for title, cell in zip(head[1:], cells[1:], strict=False):
                name, _, shares = title.partition(' ')
                data_set = names.get(name.rstrip(','), name.lower())
                figures = re.findall(r'\d+\.\d+', cell)
                if page == 'co2s':
                    split, listed = 'co2s', [s.replace('/', '-') for s in shares.split(', ')]
                else:
                    split, listed = 'dwl', ['1pct', '5pct', '10pct']
                if not figures or (data_set not in ('deepglobe', 'potsdam') and page != 'co2s'):
                    continue
                for share, figure in zip(listed, figures, strict=False):
                    told = {m: f for m, f, _ in experiments.published(data_set, split, share)}
                    if cells[0] in told:
                        assert told[cells[0]] == float(figure), (page, line, share)
                        compared += 1
    assert compared > 120
