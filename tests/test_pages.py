# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What the pages name is there: links, paths, options, registered names; and their code runs."""

import contextlib
import importlib
import importlib.util
import io
import re
import sys
from pathlib import Path

import mmseg.registry
import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import Registry
from mmseg.registry import DATASETS, HOOKS, TRANSFORMS
from PIL import Image

from mmseg_semi_rs.datasets.semi_dataset import fill_split
from mmseg_semi_rs.engine.config_check import check_config
from mmseg_semi_rs.models.gates import build_gate
from mmseg_semi_rs.models.segmentors.mean_teacher import MeanTeacherSettings
from mmseg_semi_rs.models.segmentors.schedule import UnsupervisedSchedule
from mmseg_semi_rs.utils.commands import COMMANDS
from tests._support.processes import ROOT, run

FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
FILE = re.compile(r'# ((?:\w+/)+\w+\.py)\n')
GUIDES = sorted((ROOT / 'docs').glob('add_a_*.md'))


def blocks(page: Path, *kinds: str) -> list[str]:
    return [code for kind, code in FENCE.findall(page.read_text('utf-8')) if kind in kinds]


# ----------------------------------------------------------------------------------------- guides


def test_there_is_a_guide_for_each_kind_of_part():
    kinds = ('backbone', 'dataset', 'teacher', 'verifier')
    assert [page.stem for page in GUIDES] == [f'add_a_{kind}' for kind in kinds]


@pytest.mark.slow
def test_the_code_of_the_guides_runs_with_the_tests_they_show(tmp_path):
    counted = 0
    for page in GUIDES:
        for code in blocks(page, 'python'):
            name = FILE.match(code)
            assert name, f'{page.name}: a block has no file name in its first line:\n{code}'
            path = tmp_path / name[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(code, encoding='utf-8')
            counted += len(re.findall(r'^def test_', code, re.MULTILINE))
    words = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist']
    words += ['--import-mode=importlib', '-o', f'pythonpath={ROOT} {tmp_path}', 'my_rs']
    done = run(words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
    assert f'{counted} passed' in done.stdout and counted >= 3 * len(GUIDES)


# ---------------------------------------------------------------------------------- what is named

PAGES = sorted(
    page
    for pattern in ('*.md', 'docs/**/*.md', 'configs/**/*.md', 'projects/**/*.md')
    for page in ROOT.glob(pattern)
)
LINK = re.compile(r'\]\(([^)\s]+)\)')
PATH = re.compile(
    r'(?<![\w./-])(?:configs|docs|mmseg_semi_rs|projects|requirements|tests|tools)'
    r'/[\w./*-]*?\.(?:py|sh|yml|md|png|txt)\b'
)
COMMAND = re.compile(
    r'(?:python|bash|sbatch|torchrun)[^\n`|;&]*?\b((?:tools|projects)/[\w/]+\.(?:py|sh))'
)
SHORT = re.compile(r'\brsseg (convert )?(\w[\w-]*)')
FLAG = re.compile(r'(?<![\w-])--[a-z][\w-]*')
STARTED_BY = {
    **dict.fromkeys(['dist_train.sh', 'slurm_train.sh'], 'train.py'),
    **dict.fromkeys(['dist_test.sh', 'slurm_test.sh'], 'test.py'),
    'slurm_predict.sh': 'predict.py',
}
EACH_PAGE = pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    bare = FENCE.sub('', page.read_text('utf-8'))
    titles = re.findall(r'^#+ (.+)$', bare, re.MULTILINE)
    plain = (re.sub(r'[^\w\- ]', '', LINK.sub(']', title)) for title in titles)
    return {title.strip().lower().replace(' ', '-') for title in plain}


@EACH_PAGE
def test_links_lead_somewhere(page):
    broken = []
    for target in LINK.findall(FENCE.sub('', page.read_text('utf-8'))):
        if re.match(r'[a-z]+:', target):
            continue
        path, _, anchor = target.partition('#')
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert not broken, f'{page.relative_to(ROOT)} links to what is not there: {broken}'


@EACH_PAGE
def test_paths_that_a_page_names_exist(page):
    named = set(PATH.findall(page.read_text('utf-8')))
    roots = (ROOT, page.parent, ROOT / 'tests')
    broken = sorted(path for path in named if not any(list(root.glob(path)) for root in roots))
    assert not broken, f'{page.relative_to(ROOT)} names what is not there: {broken}'


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Each tool that a page starts, with the options that it is given."""
    text = page.read_text('utf-8').replace('\\\n', ' ')
    found = []
    for line in text.splitlines():
        for part in re.split(r'`|;|&&|\||(?<=\s)#', line):
            named = COMMAND.search(part) or SHORT.search(part)
            if named:
                rest = part[named.end() :].split('--cfg-options')
                ahead = ' --cfg-options' if len(rest) > 1 else ''
                found.append((tool_of(named), FLAG.findall(rest[0] + ahead)))
    return found


def tool_of(named: re.Match) -> str:
    """File of the tool that a command starts, by its path or as `rsseg NAME`."""
    if named.re is COMMAND:
        return named[1]
    if named[1]:
        return f'tools/{COMMANDS["convert"].file}/{named[2]}.py'
    return f'tools/{COMMANDS[named[2]].file}.py'


@pytest.fixture(scope='module')
def options_of():
    """Options that a tool knows, by what it says itself about them."""
    known: dict[str, set[str]] = {}

    def ask(tool: str) -> set[str]:
        path = Path(tool).with_name(STARTED_BY.get(Path(tool).name, Path(tool).name))
        if str(path) not in known:
            spec = importlib.util.spec_from_file_location(f'page_{path.stem}', ROOT / path)
            module = importlib.util.module_from_spec(spec)
            said = io.StringIO()
            with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
                patch.syspath_prepend(str((ROOT / path).parent))
                patch.syspath_prepend(ROOT / 'tools')
                patch.setattr(sys, 'argv', [path.name, '--help'])
                spec.loader.exec_module(module)
                with pytest.raises(SystemExit):
                    module.main()
            usage = said.getvalue().partition('usage:')[2]
            known[str(path)] = set(FLAG.findall(usage))
        return known[str(path)]

    return ask


@EACH_PAGE
def test_options_that_a_page_gives_to_a_tool_are_known_to_it(page, options_of):
    unknown = [
        f'{tool} {flag}'
        for tool, flags in commands(page)
        for flag in flags
        if flag not in options_of(tool)
    ]
    assert not unknown, f'{page.relative_to(ROOT)} gives options that are not there: {unknown}'


def test_commands_of_pages_are_found():
    """So that the test above has something to look at."""
    found = {tool for page in PAGES for tool, flags in commands(page) if flags}
    assert {'tools/train.py', 'tools/make_splits.py', 'tools/dist_train.sh'} <= found
    assert {'tools/init_dataset.py', 'tools/predict.py'} <= found  # by `rsseg`


@EACH_PAGE
def test_python_in_a_page_compiles(page):
    for code in blocks(page, 'python'):
        whole = re.sub(r'^\s*\.\.\.,?$', '', code, flags=re.MULTILINE)  # lines that are left out
        whole = re.sub(r',\s*\.\.\.(?=[)\]])', '', whole)  # and so on, after other arguments
        whole = re.sub(r'\{\{(.+?)\}\}', r'\1', whole)  # what mmengine takes from the base config
        try:
            compile(whole, f'<{page.name}>', 'exec')
        except SyntaxError as error:
            pytest.fail(f'{page.relative_to(ROOT)}: {error.msg} in {error.text!r}')


def test_the_settings_of_the_page_on_pseudo_labels_take_effect(tmp_path):
    page = ROOT / 'docs' / 'pseudo_labels.md'
    text = page.read_text('utf-8')
    listed = [eval(code) for code in re.findall(r"dict\(type='\w+Gate'.*?\)(?=`)", text)]
    gates = {type(build_gate(settings, 0.95, 6)).__name__ for settings in listed}
    assert gates == {name for name in registered() if name.endswith('Gate')}
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(blocks(page, 'python')[0].replace("'../", f"'{ROOT}/configs/"))
    cfg = Config.fromfile(leaf)
    settings = MeanTeacherSettings.read(cfg.model.semi_train_cfg)
    assert build_gate(settings.gate, 0.95, 6).share == 0.5
    assert UnsupervisedSchedule(settings.unsup_start, settings.unsup_ramp).begin(4620) == 1848
    assert HOOKS.build(cfg.custom_hooks[0]).half_life == 0.1
    key, value = re.search(r'--cfg-options (\S+)=(\w+)', text).groups()
    cfg.merge_from_dict({key: value})
    strong = cfg.train_dataloader.dataset.unlabelled.pipeline[3].strong[0]
    assert strong == dict(type='Photometry', strength='mild')
    key, value = re.search(r'--cfg-options (\S+\.sup\S+)=(\S+)', text).groups()
    cfg.merge_from_dict({key: float(value)})
    warp = cfg.train_dataloader.dataset.labelled.pipeline[4].sup[0]
    assert warp == dict(type='LabelWarp', prob=0.5)
    load = blocks(page, 'python')[1].split('labelled_pipeline')[0]
    names: dict = {}
    exec(load, names)
    assert TRANSFORMS.build(names['load']).transforms


# ----------------------------------------------------------------------------- names and configs


def registered() -> set[str]:
    """What this package adds to mmseg's registries."""
    found = set()
    for registry in vars(mmseg.registry).values():
        if isinstance(registry, Registry):
            for name, part in registry.module_dict.items():
                if part.__module__.split('.')[0] == 'mmseg_semi_rs':
                    found.add(name)
    return found


def test_the_page_names_everything_that_is_registered_and_nothing_else():
    text = (ROOT / 'docs' / 'extend.md').read_text('utf-8')
    table = text[text.index('| what | names') :].split('\n\n')[0]
    named = set(re.findall(r'`([A-Z]\w+)`', table))
    assert not registered() - named, f'docs/extend.md lacks {sorted(registered() - named)}'
    assert not named - registered(), f'not registered: {sorted(named - registered())}'


def test_the_api_pages_have_everything_that_is_registered_and_only_what_is_there():
    pages = [page.read_text('utf-8') for page in (ROOT / 'docs' / 'api').glob('*.md')]
    paths = [path for text in pages for path in re.findall(r'^::: (\S+)$', text, re.MULTILINE)]
    assert len(paths) == len(set(paths))
    for path in paths:
        module, name = path.rsplit('.', 1)
        assert hasattr(importlib.import_module(module), name), path
    assert registered() <= {path.rsplit('.', 1)[1] for path in paths}


ID = re.compile(r'(?<![A-Za-z0-9])(?:test_)?([IRCS]\d{1,2}(?:_[IRCS]\d{1,2})*)(?![A-Za-z0-9])')


def test_each_id_that_a_test_names_is_explained_and_the_other_way_round():
    texts = [path.read_text('utf-8') for path in (ROOT / 'tests').rglob('test_*.py')]
    named = {one for text in texts for ids in ID.findall(text) for one in ids.split('_')}
    page = (ROOT / 'docs' / 'invariants.md').read_text('utf-8')
    explained = re.findall(r'^\| ([IRCS]\d+) \|', page, re.MULTILINE)
    assert len(explained) == len(set(explained))
    assert not named - set(explained), f'docs/invariants.md lacks {sorted(named - set(explained))}'
    names = {part for text in texts for name in re.findall(r'def test_(\w+)', text)
             for part in name.upper().split('_')}  # fmt: skip
    assert set(explained) <= names, f'no test names {sorted(set(explained) - names)}'


def test_a_data_set_of_ones_own_is_five_lines(tmp_path):
    page = (ROOT / 'docs' / 'own_images.md').read_text('utf-8')
    (code,) = re.findall(r'^```python\n# mine\.py\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) == 5
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    path = tmp_path / 'mine.py'
    path.write_text(code.replace("'data/mine'", repr(str(tmp_path / 'mine'))))
    for folder, value in (('img_dir', 90), ('ann_dir', 1)):
        (tmp_path / 'mine' / folder).mkdir(parents=True)
        for name in 'abc':
            Image.new('L', (64, 64), value).save(tmp_path / 'mine' / folder / f'{name}.png')
    (tmp_path / 'mine' / 'splits').mkdir()
    for role, name in (('labelled', 'a'), ('unlabelled', 'b'), ('val', 'c')):
        (tmp_path / 'mine' / 'splits' / f'{role}.txt').write_text(f'{name}\n')
    cfg = Config.fromfile(path)
    check_config(path, cfg)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.source_sizes == [1, 1]
    assert dataset.metainfo['classes'] == ('land', 'water', 'town')
    assert fill_split(cfg.train_dataloader.dataset)['labelled']['ann_file'] == 'splits/labelled.txt'
    assert dataset[0]['inputs']['sup'].shape[0] == 3
    held = DATASETS.build(cfg.val_dataloader.dataset)
    assert set(held[0]['data_samples'].gt_sem_seg.data.unique().tolist()) == {1}
    model = cfg.model.student.decode_head
    assert model.num_classes == len(held.metainfo['classes'])


def test_the_index_names_each_config_of_each_method_once():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text('utf-8'))['Import']
    metafiles = sorted(ROOT.glob('configs/*/metafile.yml'))
    assert sorted(index) == [str(path.relative_to(ROOT)) for path in metafiles]
    for path in metafiles:
        content = yaml.safe_load(path.read_text('utf-8'))
        configs = [model['Config'] for model in content['Models']]
        leaves = [str(leaf.relative_to(ROOT)) for leaf in path.parent.glob('*.py')]
        assert sorted(configs) == sorted(leaves), path
        assert all(model['Name'] == Path(model['Config']).stem for model in content['Models'])
        collections = {collection['Name'] for collection in content['Collections']}
        assert {model['In Collection'] for model in content['Models']} == collections
        page = (path.parent / 'README.md').read_text('utf-8')
        assert not [leaf for leaf in leaves if f']({Path(leaf).name})' not in page], path


@pytest.mark.parametrize('method', ['rsmtdf', 'co2s', 'semiearth'])
def test_the_page_of_a_method_tells_all_that_one_wants_to_know(method):
    page = (ROOT / 'configs' / method / 'README.md').read_text('utf-8')
    headings = re.findall(r'^##+ (.+)$', page, re.MULTILINE)
    for wanted in ('Idea', 'Use', 'Weights|Verifiers', 'Configs', 'Published results',
                   'Measured here', 'Cost', 'What differs', 'Licences'):  # fmt: skip
        assert [title for title in headings if re.match(wanted, title)], f'{method}: no {wanted}'
    idea = page[page.index('## Idea') : page.index('## Use')]
    assert '```' in idea, f'{method} has no diagram'
    # What was measured stands on the page that says how, word for word.
    measured = page[page.index('## Measured here') :].split('\n## ')[0]
    origin = (ROOT / 'projects/own_images/README.md').read_text('utf-8')
    rows = [line for line in measured.splitlines() if line.startswith('|')]
    assert len(rows) > 3 and not [line for line in rows if line not in origin]
    # Names in the formulas' right column are those of the code.
    files = [*(ROOT / 'mmseg_semi_rs').rglob('*.py'), *(ROOT / 'configs').rglob('*.py')]
    known = {word for path in files for word in re.findall(r'\w+', path.read_text('utf-8'))}
    for line in idea.splitlines():
        if line.startswith('| ') and line.count(' | ') >= 2:
            for name in re.findall(r'`(?:\w+\.)*([A-Za-z_]\w+)[`(=]', line.rsplit(' | ', 1)[1]):
                # A teacher's name ends the name of its loss.
                assert name in known or name.startswith('loss_distill_'), f'{method}: no {name}'


def test_the_worked_mixes_are_lines_of_the_real_files():
    page = ROOT / 'projects' / 'README.md'
    shown = [code.splitlines() for code in blocks(page, 'python')]
    files = [first.removeprefix('# ') for first, *_ in shown]
    folders = {file.split('/')[1] for file in files if file.startswith('projects/')}
    assert folders == {'own_images', 'segformer_distill', 'vlm_purify'}
    for first, *lines in shown:
        path = ROOT / first.removeprefix('# ')
        rest = iter([line.strip() for line in path.read_text('utf-8').splitlines()])
        for line in lines:
            wanted = line.strip()
            if wanted not in ('', '...'):
                assert wanted in rest, f'{path.relative_to(ROOT)} has no line {wanted!r} (there)'
