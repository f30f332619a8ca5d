# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Lists from any editor, and files that are whole or not there."""

import errno
import pickle

import pytest

from mmseg_semi_rs.utils.errors import DiskFaultError
from mmseg_semi_rs.utils.files import read_list, replacing, write_atomic

NAMES = ['tile_0', 'größe_1', 'sub folder/tile 2']
TEXT = '\r\n'.join([*NAMES, '', '  '])


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_a_list_is_read_whatever_mark_it_begins_with(tmp_path, encoding):
    (tmp_path / 'list.txt').write_bytes(TEXT.encode(encoding))
    assert read_list(tmp_path / 'list.txt') == NAMES
    (tmp_path / 'list.txt').write_bytes('\ufeff'.encode('utf-16-be') + TEXT.encode('utf-16-be'))
    assert read_list(tmp_path / 'list.txt') == NAMES


@pytest.mark.parametrize(
    ('encoding', 'text', 'said'),
    [
        ('latin-1', TEXT, r'line 2, byte 0xf6; its encoding is probably Latin-1'),
        (
            'cp1252',
            'tile\n\u2013',
            r'line 2, byte 0x96; its encoding is probably Latin-1 or Windows-1252',
        ),
        ('utf-16-le', TEXT, 'UTF-16 without a byte order mark'),
        ('utf-16-be', 'tile_0\n', 'UTF-16 without a byte order mark'),
    ],
)
def test_another_encoding_is_named(tmp_path, encoding, text, said):
    (tmp_path / 'list.txt').write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=rf'list\.txt.*{said}.*save it as UTF-8'):
        read_list(tmp_path / 'list.txt')


@pytest.mark.parametrize('durable', [False, True])
def test_a_write_that_fails_leaves_the_file_before_and_nothing_else(tmp_path, durable):
    path = tmp_path / 'file'
    write_atomic(path, b'before', durable=durable)
    with (
        pytest.raises(OSError, match=r'file cannot be written \(No space left.*\): make room'),
        replacing(path, durable=durable) as partial,
    ):
        partial.write_bytes(b'aft')
        raise OSError(28, 'No space left on device')
    assert path.read_bytes() == b'before'
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_known_as_such_when_a_worker_process_meets_it():
    fault = pickle.loads(pickle.dumps(DiskFaultError('a.png cannot be written.', errno.ENOSPC)))
    assert str(fault) == 'a.png cannot be written.' and fault.errno == errno.ENOSPC
