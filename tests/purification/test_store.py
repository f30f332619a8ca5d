# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The store of evidence: whole entries or none, whoever writes, dies or does damage."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mmengine.logging import MMLogger

from mmseg_semi_rs.purification.evidence import Evidence, Region
from mmseg_semi_rs.purification.store import EvidenceStore

SETTINGS = {'kind': 'X', 'model': 'm-1', 'prompts': [['road'], []], 'weights': 'abc'}
FORK = multiprocessing.get_context('fork')


def make(seed: int = 0, side: int = 16, classes: int = 3) -> Evidence:
    rng = np.random.default_rng(seed)
    return Evidence(
        scores=rng.integers(0, 256, (classes, side, side - 3), dtype=np.uint8),
        seen=rng.random((side, side - 3)) < 0.5,
        size=(4 * side, 4 * side),
        answer=f'answer {seed} — “ü”\n',
        regions=(Region(1, (0.5, 1.0, 3.25, 4.0), 0.75, 'road'),),
        dropped=('boat: unknown',),
        truncated=bool(seed % 2),
    )


def same(one: Evidence | None, other: Evidence) -> bool:
    return (
        one is not None
        and np.array_equal(one.scores, other.scores)
        and np.array_equal(one.seen, other.seen)
        and replace(one, scores=other.scores, seen=other.seen) == other
    )


def key_of(number: int) -> str:
    return f'{number:064x}'


def parts(store: EvidenceStore) -> list[Path]:
    return [path for path in store.folder.rglob('*') if path.name.endswith('.part')]


@pytest.fixture
def warnings_of(caplog, monkeypatch):
    """Messages of the package's logger."""
    logger = MMLogger.get_instance('store_test')
    logger.addHandler(caplog.handler)
    monkeypatch.setattr(MMLogger, 'get_current_instance', lambda: logger)
    return lambda: [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.parametrize('cache_bytes', [0, 2**20])
def test_round_trip(tmp_path, cache_bytes):
    store = EvidenceStore(tmp_path / 'deep' / 'store', SETTINGS, cache_bytes)
    assert store.read(key_of(1)) is None and not len(store) and store.keys() == set()
    for seed in range(3):
        store.write(key_of(seed), make(seed))
    assert store.keys() == {key_of(0), key_of(1), key_of(2)} and len(store) == 3
    assert key_of(2) in store and key_of(3) not in store
    other = EvidenceStore(tmp_path / 'deep' / 'store', SETTINGS, cache_bytes)
    for opened in (store, other):
        for seed in range(3):
            assert same(opened.read(key_of(seed)), make(seed))
            found = opened.read(key_of(seed))
            assert type(found.size) is tuple and type(found.regions[0].box) is tuple
    many = [other.read(key) for key in (key_of(2), key_of(7), key_of(0))]
    assert same(many[0], make(2)) and many[1] is None and same(many[2], make(0))
    assert not parts(store) and store.damaged == 0
    with np.load(store.path(key_of(1)), allow_pickle=False) as archive:
        assert np.array_equal(archive['scores'], make(1).scores)
    store.write(key_of(1), make(5))
    assert same(store.read(key_of(1)), make(5)) and len(store) == 3


def test_layout(tmp_path):
    store = EvidenceStore(tmp_path, SETTINGS)
    store.write('ab' + '0' * 62, make())
    assert store.folder.parent == tmp_path and len(store.folder.name) == 16
    assert (store.folder / 'ab' / f'ab{"0" * 62}.npz').is_file()
    assert '"model": "m-1"' in (store.folder / 'settings.json').read_text()


@pytest.mark.parametrize(
    'change',
    [{'model': 'm-2'}, {'prompts': [['street'], []]}, {'version': 2}, {'weights': 'abd'}],
    ids=['model', 'prompt', 'version', 'weights'],
)
def test_other_settings_miss(tmp_path, change):
    EvidenceStore(tmp_path, SETTINGS).write(key_of(1), make())
    other = EvidenceStore(tmp_path, {**SETTINGS, **change})
    assert other.read(key_of(1)) is None and not other.damaged and not len(other)
    backwards = EvidenceStore(tmp_path, dict(reversed(SETTINGS.items())))
    assert same(backwards.read(key_of(1)), make())


def test_without_the_weights_the_one_equal_folder_is_used(tmp_path):
    unknown = {**SETTINGS, 'weights': None}
    with pytest.raises(ValueError, match='none is of its other settings'):
        EvidenceStore(tmp_path, unknown)
    EvidenceStore(tmp_path, {**SETTINGS, 'model': 'm-2'}).write(key_of(1), make(2))
    with pytest.raises(ValueError, match='none is of its other settings'):
        EvidenceStore(tmp_path, unknown)
    known = EvidenceStore(tmp_path, SETTINGS)
    known.write(key_of(1), make(1))
    found = EvidenceStore(tmp_path, unknown)
    assert found.folder == known.folder and found.settings == SETTINGS
    assert same(found.read(key_of(1)), make(1))
    second = EvidenceStore(tmp_path, {**SETTINGS, 'weights': 'other'})
    second.write(key_of(1), make(3))
    with pytest.raises(ValueError, match='keep one of these') as error:
        EvidenceStore(tmp_path, unknown)
    assert str(known.folder) in str(error.value) and str(second.folder) in str(error.value)
    EvidenceStore(tmp_path, {'kind': 'no weights at all'})


def test_key_follows_the_content(tmp_path, monkeypatch):
    hashed = []
    from mmseg_semi_rs.purification import store as module

    digest = module.file_digest
    monkeypatch.setattr(module, 'file_digest', lambda path: hashed.append(path) or digest(path))
    store = EvidenceStore(tmp_path / 'store', SETTINGS)
    tile, copy = tmp_path / 'a.png', tmp_path / 'b.png'
    tile.write_bytes(b'first')
    copy.write_bytes(b'first')
    first = store.key(tile)
    assert store.key(copy) == store.key(str(tile)) == first and len(first) == 64
    assert len(hashed) == 2  # each file once
    tile.write_bytes(b'other')  # as long as before
    os.utime(tile, ns=(1, tile.stat().st_mtime_ns + 1))
    assert store.key(tile) != first and len(hashed) == 3
    with pytest.raises(FileNotFoundError, match=r'gone\.png does not exist'):
        store.key(tmp_path / 'gone.png')


def test_memory_is_bounded(tmp_path, monkeypatch):
    one = make(0)
    size = one.scores.nbytes + one.seen.nbytes
    store = EvidenceStore(tmp_path, SETTINGS, cache_bytes=2 * size)
    for seed in range(3):
        store.write(key_of(seed), make(seed))
    opened = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, 'read_bytes', lambda path: opened.append(path) or read_bytes(path))
    for number in (0, 1, 0, 2, 0, 1):  # 2 drives out 1, which was used before 0
        assert same(store.read(key_of(number)), make(number))
        assert store._cached_bytes <= 2 * size and len(store._cache) <= 2
    assert [path.stem for path in opened] == [key_of(number) for number in (0, 1, 2, 1)]
    big = EvidenceStore(tmp_path, SETTINGS, cache_bytes=size - 1)
    assert same(big.read(key_of(0)), make(0)) and not big._cache and not big._cached_bytes


def flip(offset: int):
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[offset % len(content)] ^= 1
        path.write_bytes(content)

    return change


def cut(share: float):
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def without_last(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'\0')


def foreign_archive(path: Path) -> None:
    np.savez(path, scores=np.zeros((1, 2, 2), np.uint8))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = {
    'first_byte': flip(0),
    'name_in_header': flip(32),
    'last_digit': flip(-1),
    'cut_half': cut(0.5),
    'cut_all_but_one': without_last,
    'empty': cut(0),
    'longer': longer,
    'text': lambda path: path.write_text('<html>404</html>'),
    'foreign_archive': foreign_archive,
}


@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
def test_damage_is_missing_and_told_once(tmp_path, damage, warnings_of):
    store = EvidenceStore(tmp_path, SETTINGS)
    store.write(key_of(1), make(1))
    store.write(key_of(2), make(2))
    damage(store.path(key_of(1)))
    for _ in range(3):
        assert store.read(key_of(1)) is None
    assert same(store.read(key_of(2)), make(2))
    assert store.damaged == 1 and key_of(1) in store
    (told,) = warnings_of()
    assert str(store.path(key_of(1))) in told
    store.write(key_of(1), make(3))
    assert same(store.read(key_of(1)), make(3))
    damage(store.path(key_of(1)))
    fresh = EvidenceStore(tmp_path, SETTINGS)
    assert fresh.read(key_of(1)) is None and fresh.damaged == 1


def test_unreadable_entry_never_raises(tmp_path, warnings_of):
    store = EvidenceStore(tmp_path, SETTINGS)
    store.write(key_of(1), make(1))
    folder(store.path(key_of(1)))
    assert store.read(key_of(1)) is None and store.damaged == 1 and len(warnings_of()) == 1


def test_every_single_flipped_bit_is_found(tmp_path):
    store = EvidenceStore(tmp_path, SETTINGS, cache_bytes=0)
    store.write(key_of(1), make(1, side=5, classes=1))
    path = store.path(key_of(1))
    whole = path.read_bytes()
    for offset in range(len(whole)):
        path.write_bytes(
            whole[:offset] + bytes([whole[offset] ^ 1 << offset % 8]) + whole[offset + 1 :]
        )
        assert store.read(key_of(1)) is None, offset
    path.write_bytes(whole)
    assert same(store.read(key_of(1)), make(1, side=5, classes=1))


def test_entries_of_other_tiles_or_settings_are_foreign(tmp_path):
    store = EvidenceStore(tmp_path, SETTINGS)
    other = EvidenceStore(tmp_path, {**SETTINGS, 'model': 'm-2'})
    store.write(key_of(1), make(1))
    whole = store.path(key_of(1)).read_bytes()
    store.path(key_of(2)).write_bytes(whole)
    assert store.read(key_of(2)) is None and store.damaged == 1
    other.write(key_of(1), make(2))
    other.path(key_of(1)).write_bytes(whole)
    assert other.read(key_of(1)) is None and other.damaged == 1


def test_shapes_that_contradict_each_other_are_damage(tmp_path, monkeypatch):
    """Sealed by whoever wrote them, and wrong all the same."""
    store = EvidenceStore(tmp_path, SETTINGS)
    good = make(1)
    for number, change in enumerate(
        [
            {'seen': np.ones((30, 30), bool)},
            {'seen': np.ones((2, 2), bool)},
            {'scores': good.scores.astype(np.float32)},
            {'scores': good.scores[0]},
            {'size': (3, 3)},
        ]
    ):
        bad = object.__new__(Evidence)
        bad.__dict__.update({**good.__dict__, **change})
        store.write(key_of(number), bad)
        assert store.read(key_of(number)) is None and store.damaged == number + 1


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / 'file').write_text('')
    store = EvidenceStore(tmp_path / 'file', SETTINGS)
    assert store.read(key_of(1)) is None and not len(store)
    for write in (store.prepare, lambda: store.write(key_of(1), make())):
        with pytest.raises(ValueError, match=r'cannot be written to .*file'):
            write()


def test_full_disk_leaves_the_entry_as_it_was(tmp_path, monkeypatch):
    store = EvidenceStore(tmp_path, SETTINGS, cache_bytes=0)
    store.write(key_of(1), make(1))

    def half(path: Path, content: bytes) -> None:
        with path.open('wb') as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', half)
    with pytest.raises(ValueError, match='No space left'):
        store.write(key_of(1), make(2))
    assert same(store.read(key_of(1)), make(1)) and not parts(store)


def test_stale_files_are_removed_and_young_ones_not(tmp_path):
    store = EvidenceStore(tmp_path, SETTINGS)
    store.write(key_of(1), make())
    old, young = (store.path(key_of(1)).with_name(f'.x.npz.{n}.part') for n in ('old', 'young'))
    settings = store.folder / '.settings.json.old.part'
    for path in (old, young, settings):
        path.write_bytes(b'half')
    for path in (old, settings):
        os.utime(path, (time.time() - 90000,) * 2)
    again = EvidenceStore(tmp_path, SETTINGS)
    assert parts(again) == [young] and again.keys() == {key_of(1)}


def write_and_read(root: Path, seed: int, seconds: float) -> None:
    rng = random.Random(seed)
    store = EvidenceStore(root, SETTINGS, cache_bytes=0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number = rng.randrange(4)
        store.write(key_of(number), make(10 * number + seed, side=48))
        number = rng.randrange(4)
        found = store.read(key_of(number))
        if found is not None:
            version = int(found.answer.split()[1])
            assert version // 10 == number and same(found, make(version, side=48))
    os._exit(store.damaged)


def test_many_writers_of_the_same_entries(tmp_path):
    workers = [FORK.Process(target=write_and_read, args=(tmp_path, seed, 1.5)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    store = EvidenceStore(tmp_path, SETTINGS)
    assert store.keys() == set(map(key_of, range(4))) and not parts(store)
    assert None not in [store.read(key) for key in sorted(store.keys())] and store.damaged == 0


def write_slowly(root: Path) -> None:
    """Write big entries as a slow disk does, in pieces."""

    def in_pieces(path: Path, content: bytes) -> None:
        with path.open('wb', buffering=0) as file:
            for start in range(0, len(content), 4096):
                file.write(content[start : start + 4096])
                time.sleep(0.0005)

    Path.write_bytes = in_pieces
    store = EvidenceStore(root, SETTINGS)
    for number in range(10**6):
        store.write(key_of(number % 5), make(number % 5, side=128))


def test_killed_in_the_middle_of_writing(tmp_path):
    store = EvidenceStore(tmp_path, SETTINGS)
    for attempt in range(6):
        before = set(parts(store))
        worker = FORK.Process(target=write_slowly, args=(tmp_path,))
        worker.start()
        end = time.monotonic() + 20
        while set(parts(store)) <= before and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(0.013 * attempt)
        worker.kill()
        worker.join()
        assert worker.exitcode == -signal.SIGKILL and time.monotonic() < end
        store = EvidenceStore(tmp_path, SETTINGS)
        for number in range(5):
            found = store.read(key_of(number))
            assert found is None or same(found, make(number, side=128))
        assert store.damaged == 0
    assert parts(store)  # the kills did hit the middle of a file, which stays without harm
    store.write(key_of(0), make(0, side=128))
    assert same(store.read(key_of(0)), make(0, side=128))
