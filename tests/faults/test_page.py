# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What docs/faults.md promises is tested where it says."""

import re

from tests._support.tiny_training import ROOT


def test_each_promise_names_a_test_that_is_there():
    page = (ROOT / 'docs' / 'faults.md').read_text(encoding='utf-8')
    rows = [line for line in page.splitlines() if line.startswith('| ')]
    promises = [row for row in rows if not row.startswith('| what ') or '`tests/' in row]
    assert len(promises) > 25
    for row in promises:
        named = re.findall(r'`(tests/[\w/]+\.py)::(test_\w+)`', row.split('|')[-2])
        assert named, row
        for file, name in named:
            assert f'def {name}(' in (ROOT / file).read_text(encoding='utf-8'), f'{file}: {name}'
