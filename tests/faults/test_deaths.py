# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""I14: dying at any moment, in any file write, loses at most one checkpoint interval."""

from pathlib import Path

import pytest

from tests.faults.die import INTERVAL, METHODS, WAYS, WRITES, death, undisturbed, write_configs

SHORT = {  # the write of the first best, the one after it, and that of the next checkpoint
    ('mean teacher', 2, 'killed half-way'),
    ('mean teacher', 3, 'disk full'),
    ('two students', 4, 'killed before'),
}
CASES = [
    pytest.param(
        *case, marks=[] if case in SHORT else [pytest.mark.slow, pytest.mark.faults], id=str(case)
    )
    for case in ((m, n, w) for m in METHODS for n in WRITES for w in WAYS)
]


@pytest.fixture(scope='module')
def trainings(tmp_path_factory):
    """Configs, and the folder of a training of each without a death, trained when asked for."""
    folder = tmp_path_factory.mktemp('deaths')
    configs = write_configs(folder / 'data')

    def whole(method: str) -> Path:
        work_dir = folder / f'whole of {method}'
        if not work_dir.exists():
            undisturbed(configs[method], work_dir)
        return work_dir

    return configs, whole


@pytest.mark.parametrize(('method', 'number', 'way'), CASES)
def test_I14_dying_in_a_write_loses_at_most_one_interval(tmp_path, trainings, method, number, way):
    configs, whole = trainings
    seen = death(configs[method], whole(method), tmp_path / 'died', number, way)
    assert seen.code == (2 if way == 'disk full' else 137), seen.said[-2000:]
    assert (way == 'disk full') is ('cannot be written (No space left' in seen.said)
    assert 'Traceback' not in seen.said
    assert seen.reached - seen.kept <= INTERVAL
    assert seen.resumed == 0, seen.said[-2000:]
    assert seen.equal
    assert seen.files == {path.name for path in whole(method).glob('*.pth')}
