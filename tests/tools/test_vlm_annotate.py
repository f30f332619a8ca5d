# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""tools/vlm_annotate.py: every tile once, whatever is killed, damaged or missing."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmseg_semi_rs.purification import SuperpixelProposer
from mmseg_semi_rs.purification.store import EvidenceStore
from tests._support.stub_verifier import COLOURS, StubVerifier
from tests._support.tiny_training import run_here, write_training

FORK = multiprocessing.get_context('fork')


@pytest.fixture
def tiny(tmp_path):
    """A config with a hook; 2 labelled and 8 unlabelled tiles."""
    config = write_training(tmp_path, images=13)
    names = [f'tile_{index}' for index in range(2, 10)]
    (tmp_path / 'unlabelled.txt').write_text('\n'.join(names))
    with config.open('a') as file:
        file.write(
            f"""
custom_imports['imports'].append('tests._support.stub_verifier')
custom_hooks.append(dict(
    type='VLMPurifyHook', store='{tmp_path / 'store'}',
    verifier=dict(
        type='StubVerifier', classes=('grass', 'road', 'roof'), log='{tmp_path / 'log.txt'}')))
"""
        )
    return config


def store_of(tiny: Path, **settings) -> EvidenceStore:
    return EvidenceStore(tiny.parent / 'store', StubVerifier(**settings).settings())


def log_of(tiny: Path) -> list[str]:
    path = tiny.with_name('log.txt')
    return path.read_text().splitlines() if path.is_file() else []


def verified(tiny: Path) -> Counter[str]:
    return Counter(line for line in log_of(tiny) if line.startswith('tile'))


def annotate(tiny: Path, *arguments: object) -> None:
    run_here('vlm_annotate', tiny, '--device', 'cpu', *arguments)


def test_fills_the_store_and_then_has_nothing_to_do(tiny, capsys):
    annotate(tiny, '--batch', 4)
    store = store_of(tiny)
    assert len(store) == 10 and len(verified(tiny)) == 10
    assert log_of(tiny)[0] == 'load cpu'
    assert [line for line in log_of(tiny) if line.startswith('batch')] == [
        'batch 4',
        'batch 4',
        'batch 2',
    ]
    path = tiny.parent / 'img' / 'tile_7.png'
    (expected,) = StubVerifier().verify([np.array(Image.open(path))])
    found = store.read(store.key(path))
    assert np.array_equal(found.scores, expected.scores) and found.answer == expected.answer
    out = capsys.readouterr().out
    assert '10 tiles: 10 new, 0 kept, 0 damaged' in out and 's per tile' in out
    assert '10 parts of answers could not be used: 10 x is no class that was asked for' in out
    assert 'holds 10 entries' in out and '3 answers end before they are complete' in out
    assert out.splitlines()[-1] == f'next: python tools/train.py {tiny}'

    tiny.with_name('log.txt').unlink()
    annotate(tiny)
    assert log_of(tiny) == []  # neither asked nor loaded
    assert '10 tiles: 0 new, 10 kept' in capsys.readouterr().out


def test_present_entries_are_not_decoded_again(tiny, monkeypatch):
    annotate(tiny)
    monkeypatch.setattr('mmseg_semi_rs.engine.annotation.load_tile', None)
    annotate(tiny)


def test_chosen_tiles_and_another_store(tiny, tmp_path, capsys):
    annotate(tiny, '--sources', 'unlabelled', '--limit', 3, '--store', tmp_path / 'other')
    store = EvidenceStore(tmp_path / 'other', StubVerifier().settings())
    expected = {store.key(tiny.parent / 'img' / f'tile_{index}.png') for index in (2, 3, 4)}
    assert store.keys() == expected and not (tmp_path / 'store').exists()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f'--cfg-options custom_hooks.1.store={tmp_path / "other"}')


def test_no_label_is_opened(tiny):
    for path in (tiny.parent / 'ann').iterdir():
        path.unlink()
    annotate(tiny)
    assert len(store_of(tiny)) == 10


def test_other_settings_are_made_beside(tiny):
    annotate(tiny)
    annotate(tiny, '--cfg-options', 'custom_hooks.1.verifier.model=stub-2')
    assert len(verified(tiny)) == 10 and set(verified(tiny).values()) == {2}
    assert len(store_of(tiny)) == len(store_of(tiny, model='stub-2')) == 10


def test_one_content_is_verified_once(tiny, capsys):
    for index in (5, 6, 8):
        shutil.copy(tiny.parent / 'img' / 'tile_1.png', tiny.parent / 'img' / f'tile_{index}.png')
    annotate(tiny)
    assert sum(verified(tiny).values()) == 7 and len(store_of(tiny)) == 7
    assert '7 new, 0 kept, 0 damaged and made again, 3 with the content of another' in (
        capsys.readouterr().out
    )


def test_damaged_entries_are_made_again(tiny, capsys):
    annotate(tiny)
    store = store_of(tiny)
    keys = sorted(store.keys())
    store.path(keys[0]).write_bytes(b'')
    store.path(keys[1]).write_bytes(store.path(keys[2]).read_bytes())
    tiny.with_name('log.txt').unlink()
    annotate(tiny)
    assert sum(verified(tiny).values()) == 2
    assert '0 new, 8 kept, 2 damaged and made again' in capsys.readouterr().out
    fresh = store_of(tiny)
    assert None not in [fresh.read(key) for key in keys] and fresh.damaged == 0


def test_tiles_that_cannot_be_read_are_named_and_the_others_done(tiny, capsys):
    (tiny.parent / 'img' / 'tile_3.png').write_text('<html>404</html>')
    (tiny.parent / 'img' / 'tile_5.png').unlink()
    with pytest.raises(SystemExit) as exit:
        annotate(tiny, '--batch', 1)
    assert exit.value.code == 2
    told = capsys.readouterr()
    errors = [line for line in told.err.splitlines() if line.startswith('error:')]
    assert len(errors) == 2
    assert any('tile_3.png' in line and 'cannot be read' in line for line in errors)
    assert any('tile_5.png does not exist' in line for line in errors)
    assert '8 new' in told.out and '2 failed' in told.out and 'next: repair' in told.out
    assert len(store_of(tiny)) == 8


def test_a_tile_that_changes_while_it_is_read_is_not_kept(tiny, monkeypatch, capsys):
    """Evidence must never stand under the key of another content."""
    from mmseg_semi_rs.engine import annotation

    load = annotation.load_tile
    path = tiny.parent / 'img' / 'tile_4.png'

    def change(dataset, index, **more):
        tile = load(dataset, index, **more)
        if tile.path == str(path):
            Image.fromarray(255 - tile.image).save(path)
        return tile

    monkeypatch.setattr(annotation, 'load_tile', change)
    old = store_of(tiny).key(path)
    with pytest.raises(SystemExit):
        annotate(tiny)
    assert 'changed a moment ago' in capsys.readouterr().err
    assert old not in store_of(tiny) and len(store_of(tiny)) == 9


def test_goes_on_after_a_kill(tiny):
    """At most the batch that was under way is verified again."""
    slow = 'custom_hooks.1.verifier.seconds=0.1'
    worker = FORK.Process(target=annotate, args=(tiny, '--batch', 2, '--cfg-options', slow))
    worker.start()
    while worker.is_alive() and sum(verified(tiny).values()) < 5:
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    before = store_of(tiny)
    assert 4 <= len(before) < 10 and None not in [before.read(key) for key in sorted(before.keys())]
    annotate(tiny, '--batch', 2)
    assert len(verified(tiny)) == 10 and 10 <= sum(verified(tiny).values()) <= 12
    assert len(store_of(tiny)) == 10


def test_interrupt_keeps_what_is_there(tiny, monkeypatch, capsys):
    verify, calls = StubVerifier.verify, []

    def interrupted(self, tiles):
        calls.append(len(tiles))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return verify(self, tiles)

    monkeypatch.setattr(StubVerifier, 'verify', interrupted)
    with pytest.raises(SystemExit) as exit:
        annotate(tiny, '--batch', 3)
    assert exit.value.code == 130 and 'start again to go on' in capsys.readouterr().err
    assert len(store_of(tiny)) == 6


def one_of(ranks: int, rank: int, port: int, tiny: Path, *arguments: object) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(ranks),
        LOCAL_RANK=str(rank),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    log = f'custom_hooks.1.verifier.log={tiny.with_name(f"log_{rank}.txt")}'
    with (
        tiny.with_name(f'out_{rank}.txt').open('w') as out,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        annotate(tiny, '--launcher', 'pytorch', '--cfg-options', log, *arguments)


def run_ranks(ranks: int, tiny: Path, *arguments: object) -> list[list[str]]:
    """Events of each rank."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    workers = [
        FORK.Process(target=one_of, args=(ranks, rank, port, tiny, *arguments))
        for rank in range(ranks)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    outputs = [tiny.with_name(f'out_{rank}.txt').read_text() for rank in range(ranks)]
    assert [worker.exitcode for worker in workers] == [0] * ranks, '\n'.join(outputs)
    logs = [tiny.with_name(f'log_{rank}.txt') for rank in range(ranks)]
    return [log.read_text().splitlines() if log.is_file() else [] for log in logs]


def test_ranks_share_what_is_missing(tiny, monkeypatch):
    monkeypatch.setattr('mmseg_semi_rs.engine.launch.has_gpu', lambda: False)
    shutil.copy(tiny.parent / 'img' / 'tile_2.png', tiny.parent / 'img' / 'tile_3.png')
    annotate(tiny, '--sources', 'labelled')
    fitted = f'custom_hooks.1.verifier.calibration={tiny.with_name("fit.json")}'
    for arguments, entries in (((), 7), ((fitted,), 9)):
        logs = run_ranks(2, tiny, *arguments)
        tiles = [[line for line in log if line.startswith('tile')] for log in logs]
        assert len(tiles[0]) + len(tiles[1]) == len({*tiles[0], *tiles[1]}) == entries
        assert abs(len(tiles[0]) - len(tiles[1])) <= 1  # of what was missing
        calibrated = [[line for line in log if line.startswith('calibrate')] for log in logs]
        assert calibrated == [['calibrate 2'] if arguments else [], []]
        for rank in range(2):
            tiny.with_name(f'log_{rank}.txt').unlink()
    assert '10 tiles: 9 new' in tiny.with_name('out_0.txt').read_text()
    assert tiny.with_name('out_1.txt').read_text() == ''  # one rank speaks
    assert len(store_of(tiny)) == 9


def test_calibrates_first_on_labelled_tiles(tiny):
    fit = tiny.with_name('fit.json')
    option = f'custom_hooks.1.verifier.calibration={fit}'
    annotate(tiny, '--sources', 'unlabelled', '--cfg-options', option)
    assert log_of(tiny)[:2] == ['load cpu', 'calibrate 2'] and fit.is_file()
    assert len(store_of(tiny, calibration=str(fit))) == 8
    tiny.with_name('log.txt').unlink()
    annotate(tiny, '--cfg-options', option)
    assert not any(line.startswith('calibrate') for line in log_of(tiny))


def test_check_shows_four_answers_and_keeps_nothing(tiny, capsys):
    annotate(tiny, '--check', '--batch', 2)
    out = capsys.readouterr().out
    assert out.count('answer: mean') == 4 and sum(verified(tiny).values()) == 4
    assert 's per tile on cpu: about' in out and 'for 10 tiles' in out
    assert 'not used: {"name": "boat"}' in out and '1 regions' in out
    assert out.splitlines()[-1] == f'next: python tools/vlm_annotate.py {tiny}'
    assert not (tiny.parent / 'store').exists()


def test_the_network_is_not_built(tiny):
    annotate(tiny, '--limit', 1, '--cfg-options', 'model.type=NoSuchThing')
    assert len(store_of(tiny)) == 2


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--cfg-options', 'custom_hooks.1.type=Other'], 'has no VLMPurifyHook'),
        (['--cfg-options', 'custom_hooks.0.type=VLMPurifyHook'], 'names no store'),
        (['--hook', 0], '--hook 0 chooses no'),
        (['--cfg-options', 'custom_hooks.1.store='], 'names no store'),
        (['--batch', 0], '--batch 0 leaves nothing'),
        (['--limit', 0], '--limit 0 leaves nothing'),
        (['--device', 'gpu'], '--device gpu is no device'),
        (['--launcher', 'pytorch'], 'needs the environment variables'),
        (['--store', 'FILE'], 'Evidence cannot be written to'),
        (['--cfg-options', 'custom_hooks.1.verifier.classes=["grass","road"]'],
         'prompts for 2 classes, but the data has 3'),
        (['--cfg-options', 'custom_hooks.1.verifier.weights=None'], 'copy the store here'),
        (['--cfg-options', 'train_dataloader.dataset.unlabelled=None', '--sources', 'unlabelled'],
         'has no unlabelled tiles'),
        (['--cfg-options', 'train_dataloader.dataset.labelled.ann_file=gone.txt'],
         'which does not exist'),
    ],
    ids=[
        'no_hook', 'two_hooks', 'other_hook', 'no_store', 'batch', 'limit', 'device', 'launcher',
        'read_only', 'few_classes', 'no_weights', 'no_tiles', 'no_list',
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(tiny, options, words, capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    file = tiny.with_name('file')
    file.write_text('')
    with pytest.raises(SystemExit) as exit:
        annotate(tiny, *[file if option == 'FILE' else option for option in options])
    assert exit.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith('error: ') and words in errors[-1]
    assert not any(line.startswith('tile') for line in log_of(tiny))


def test_one_of_two_hooks(tiny):
    from mmengine.config import Config

    from mmseg_semi_rs.engine.annotation import find_hook

    cfg = Config.fromfile(tiny)
    assert find_hook(cfg) == 1
    cfg.custom_hooks[0].type = 'VLMPurifyHook'
    assert [find_hook(cfg, index) for index in (0, 1)] == [0, 1]


def test_stub_recognises_the_colours_of_the_tiles():
    tile = np.repeat(np.array(COLOURS, np.uint8)[:, None], 4, axis=1).repeat(4, axis=0)
    (evidence,) = StubVerifier().verify([tile])
    assert evidence.scores.argmax(0)[:, 0].tolist() == [0, 1, 2]


def test_several_hooks_are_filled_one_after_the_other(tiny, capsys):
    regions = tiny.with_name('regions.py')
    regions.write_text(
        f"_base_ = ['{tiny.name}']\n"
        'custom_hooks = [*_base_.custom_hooks, dict(type="VLMPurifyHook", store="STORE", '
        'verifier=dict(type="SuperpixelProposer"))]\n'.replace('STORE', str(tiny.parent / 'store'))
    )
    annotate(regions, '--check')
    out = capsys.readouterr().out
    assert out.count('answer: mean') == 4 and '100% of the tile in regions' in out
    annotate(regions)
    assert len(store_of(tiny)) == 10
    proposer = SuperpixelProposer()
    store = EvidenceStore(tiny.parent / 'store', proposer.settings())
    assert len(store) == 10
    ids = store.read(store.key(tiny.parent / 'img' / 'tile_0.png')).region_ids
    assert ids.shape == (64, 64) and ids.min() == 1


def test_a_model_that_may_be_fetched_is_fetched_first(tiny, monkeypatch):
    def load(self, device='cpu'):
        self.weights = 'fetched'

    monkeypatch.setattr(StubVerifier, 'load', load)
    annotate(tiny, '--limit', 1, '--cfg-options', 'custom_hooks.1.verifier.weights=None')
    assert len(store_of(tiny, weights='fetched')) == 2
