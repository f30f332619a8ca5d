# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Weight files: which are missing, and fetching them from a server that fails in every way."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

from mmseg_semi_rs.dataprep import weights
from mmseg_semi_rs.utils import download
from tests._support.tiny_training import ROOT, load_tool

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one file at any path, and fails as its attributes say."""

    content = CONTENT
    etag: str | None = '"first"'
    breaks_after: int | None = None
    knows_ranges = True
    status = 200
    hub_says = ''
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.asked: list[dict[str, str]] = []

    @property
    def address(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, headers = self.server, dict(self.headers)
        server.asked.append(headers)
        if server.status != 200:
            self.send_error(server.status)
            return
        if server.hub_says and not self.path.endswith('?at=cdn'):
            self.send_response(302)
            self.send_header('X-Linked-ETag', f'"{server.hub_says}"')
            self.send_header('Location', f'{self.path}?at=cdn')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        begin = 0
        asked = re.fullmatch(r'bytes=(\d+)-', headers.get('Range', ''))
        if server.knows_ranges and asked and headers.get('If-Range') in (None, server.etag):
            begin = int(asked[1])
        if begin >= len(server.content):
            self.send_response(416)
            self.send_header('Content-Range', f'bytes */{len(server.content)}')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        body = server.content[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            size = len(server.content)
            self.send_header('Content-Range', f'bytes {begin}-{size - 1}/{size}')
        self.send_header('Content-Length', str(len(body)))
        if server.etag:
            self.send_header('ETag', server.etag)
        self.end_headers()
        self.wfile.write(body[: server.breaks_after])


@pytest.fixture
def server(monkeypatch):
    for name in ('http_proxy', 'https_proxy', 'all_proxy', 'HF_ENDPOINT', 'HF_TOKEN'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('no_proxy', '*')
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def known(monkeypatch, server):
    """A table with one file of the server."""

    def write(**line: object) -> None:
        line = dict(model='A', licence='MIT', url=f'{server.address}/a.pth', sha256=SHA256) | line
        monkeypatch.setattr(weights, 'table', lambda: {'a.pth': weights.Known(**line)})

    write()
    return write


def run(capsys, *words: object) -> tuple[int, str, str]:
    try:
        status = load_tool('weights').main([str(word) for word in words])
    except SystemExit as end:
        status = int(end.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


def get(capsys, folder: Path) -> str:
    """Fetch the table's file, which must fail.

    Returns:
        What was said, in one sentence.
    """
    status, _, said = run(capsys, 'a.pth', '--download', '--folder', folder)
    told = [line for line in said.splitlines() if not line.startswith('fetching ')]
    assert status == 2 and len(told) == 1 and told[0].startswith('error: '), said
    assert not (folder / 'a.pth').exists()
    return told[0]


def test_nothing_is_fetched_without_the_word(server, known, tmp_path, capsys):
    status, said, _ = run(capsys, 'a.pth', '--folder', tmp_path)
    assert status == 1 and not server.asked
    for part in ('missing', f'{server.address}/a.pth', 'MIT', SHA256, '--download'):
        assert part in said
    assert not list(tmp_path.iterdir())


def test_a_file_is_fetched_whole_once(server, known, tmp_path, capsys):
    status, said, _ = run(capsys, 'a.pth', '--download', '--folder', tmp_path)
    assert status == 0 and said == f'{tmp_path}/a.pth   here\n'
    assert (tmp_path / 'a.pth').read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']
    assert run(capsys, 'a.pth', '--download', '--folder', tmp_path)[0] == 0
    assert len(server.asked) == 1


def test_an_interrupted_download_goes_on(server, known, tmp_path, capsys):
    server.breaks_after = 100_000
    assert f'broke off after 100000 of {len(CONTENT)} bytes' in get(capsys, tmp_path)
    server.breaks_after = 200_000
    assert f'broke off after 300000 of {len(CONTENT)} bytes' in get(capsys, tmp_path)
    server.breaks_after = None
    assert run(capsys, 'a.pth', '--download', '--folder', tmp_path)[0] == 0
    assert (tmp_path / 'a.pth').read_bytes() == CONTENT
    assert [asked.get('Range') for asked in server.asked] == [
        *(None, 'bytes=100000-', 'bytes=300000-')
    ]
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def test_what_came_before_is_not_mixed_with_another_file(server, known, tmp_path, capsys):
    """The server's file has changed, or it says of none which it is, or knows no ranges."""
    for change in ({'etag': '"second"'}, {'etag': None}, {'knows_ranges': False}):
        server.content, server.etag, server.breaks_after = CONTENT[::-1], '"first"', 100_000
        get(capsys, tmp_path)
        server.content, server.breaks_after = CONTENT, None
        for name, value in change.items():
            setattr(server, name, value)
        assert run(capsys, 'a.pth', '--download', '--folder', tmp_path)[0] == 0
        assert (tmp_path / 'a.pth').read_bytes() == CONTENT
        (tmp_path / 'a.pth').unlink()


def test_a_part_that_was_whole_already_is_not_fetched_again(server, known, tmp_path, capsys):
    note = dict(url=f'{server.address}/a.pth', validator='"first"')

    def left_behind():
        (tmp_path / 'a.pth.part').write_bytes(CONTENT)
        (tmp_path / 'a.pth.part.json').write_text(json.dumps(note))

    left_behind()
    assert run(capsys, 'a.pth', '--download', '--folder', tmp_path)[0] == 0
    assert len(server.asked) == 1
    (tmp_path / 'a.pth').unlink()
    left_behind()  # nor taken unchecked, where the hub alone names its digest
    known(sha256='')
    server.hub_says = '0' * 64
    assert 'was removed' in get(capsys, tmp_path)
    known()
    server.hub_says = ''
    (tmp_path / 'a.pth.part').write_bytes(CONTENT + b'more than there is')
    (tmp_path / 'a.pth.part.json').write_text(json.dumps(note))
    assert run(capsys, 'a.pth', '--download', '--folder', tmp_path)[0] == 0
    assert (tmp_path / 'a.pth').read_bytes() == CONTENT


@pytest.mark.parametrize('digits', [8, 64])
def test_another_file_is_refused_and_removed(server, known, tmp_path, capsys, digits):
    known(sha256='0' * digits)
    said = get(capsys, tmp_path)
    assert SHA256 in said and 'was removed' in said
    assert not list(tmp_path.iterdir())


def test_a_part_that_was_changed_meanwhile_is_found(server, known, tmp_path, capsys):
    server.breaks_after = 100_000
    get(capsys, tmp_path)
    (tmp_path / 'a.pth.part').write_bytes(b'x' * 100_000)
    server.breaks_after = None
    assert 'SHA-256' in get(capsys, tmp_path)
    assert run(capsys, 'a.pth', '--download', '--folder', tmp_path)[0] == 0


@pytest.mark.parametrize(
    ('status', 'said'),
    [
        (404, 'a.pth does not exist (HTTP 404)'),
        (401, 'is not given to everybody (HTTP 401): see on its page who may.'),
        (403, 'is not given to everybody (HTTP 403)'),
        (503, 'could not be fetched (HTTP 503 Service Unavailable)'),
    ],
)
def test_a_refusal_is_one_sentence(server, known, tmp_path, capsys, status, said):
    server.status = status
    assert said in get(capsys, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_network_is_one_sentence(server, known, tmp_path, capsys):
    known(url='http://127.0.0.1:9/a.pth')  # nobody listens there
    assert 'could not be fetched ([Errno 111] Connection refused)' in get(capsys, tmp_path)


def test_gated_files_say_how_to_get_them_and_what_takes_their_place(tmp_path, capsys):
    name = 'dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth'
    config = ROOT / 'configs/co2s/clip_dinov3_potsdam_1-4.py'
    key = 'model.students.b.backbone.checkpoint'
    options = [f'{key}={tmp_path / name}']
    for student in ('backbone', 'decode_head.class_embedding'):
        options.append(f'model.students.a.{student}.checkpoint=None')
    status, _, said = run(capsys, config, '--download', '--cfg-options', *options)
    assert status == 2
    assert 'fill in the form on https://ai.meta.com/' in said
    twin = 'vit_base_patch16_dinov3_qkvb.lvd1689m.safetensors'
    assert f'{twin} --download` and --cfg-options {key}={tmp_path / twin}' in said


def test_the_hub_is_found_by_HF_ENDPOINT_vouches_for_its_files_and_alone_sees_the_token(
    server, known, tmp_path, capsys, monkeypatch
):
    known(url=f'{download.HUB}/me/a/resolve/main/a.pth', sha256='')
    monkeypatch.setenv('HF_ENDPOINT', server.address)
    monkeypatch.setenv('HF_TOKEN', 'secret')
    server.hub_says = '0' * 64
    assert SHA256 in get(capsys, tmp_path)
    server.hub_says = SHA256
    assert run(capsys, 'a.pth', '--download', '--folder', tmp_path)[0] == 0
    hub, other = server.asked[-2:]
    assert hub['Authorization'] == 'Bearer secret' and 'Authorization' not in other
    (tmp_path / 'a.pth').unlink()
    server.status = 403
    assert f'accept its terms on {server.address}/me/a and set HF_TOKEN' in get(capsys, tmp_path)


def test_mirrors_take_the_place_of_addresses(server, known, tmp_path, capsys):
    known(url='https://dl.example.org/models/a.pth')
    mirror = f'https://dl.example.org={server.address}/elsewhere/'
    words = ['a.pth', '--download', '--folder', tmp_path, '--mirror']
    assert run(capsys, *words, mirror)[0] == 0
    assert (tmp_path / 'a.pth').is_file()
    status, _, said = run(capsys, *words, 'somewhere')
    assert status == 2 and said.startswith('error: --mirror somewhere= names no two addresses')


def test_a_program_becomes_plain_weights_if_it_is_the_published_one(
    server, known, tmp_path, capsys
):
    network = torch.nn.Linear(3, 2)
    torch.jit.save(torch.jit.script(network), tmp_path / 'program.pt')
    server.content = (tmp_path / 'program.pt').read_bytes()
    known(sha256=hashlib.sha256(server.content).hexdigest(), program=True)
    folder = tmp_path / 'checkpoints'
    assert run(capsys, 'a.pth', '--download', '--folder', folder)[0] == 0
    found = torch.load(folder / 'a.pth', weights_only=True)
    assert torch.equal(found['weight'], network.weight)
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), folder / 'a.pth')  # another one
    status, _, said = run(capsys, 'a.pth', '--download', '--folder', folder)
    assert status == 2 and 'is a TorchScript archive' in said.splitlines()[-1]


def test_a_config_says_where_each_file_is_for(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    status, said, _ = run(capsys, 'configs/rsmtdf/dinov2_clip_potsdam_1-4.py')
    assert status == 1 and '3 of 3 are missing' in said
    for key in ('backbone', 'decode_head.teachers.dino.backbone'):
        assert f'model.student.{key}.checkpoint\n' in said
    Path('checkpoints').mkdir()
    Path('checkpoints/ViT-L-14.pt').write_bytes(b'as it was left by its user')
    (Path('checkpoints') / 'dinov2_vitb14_pretrain.pth').write_bytes(b'of timm')
    said = run(capsys, 'configs/rsmtdf/dinov2_clip_potsdam_1-4.py')[1]
    assert 'checkpoints/ViT-L-14.pt   here\n' in said and '1 of 3 are missing' in said
    assert 'dinov2_vitb14_pretrain.pth   here, and another file than the one in the table' in said
    options = ['--cfg-options', 'model.student.backbone.checkpoint=other.pth']
    said = run(capsys, 'configs/semiearth/semiearth_dinov2_qwen_potsdam_1pct.py', *options)[1]
    assert 'other.pth   missing' in said and 'not in the table' in said
    assert 'Qwen/Qwen2.5-VL-7B-Instruct   missing' in said and 'facebook/sam-vit-base' in said
    said = run(capsys, '--method', 'unimatchv2')[1]
    assert said.count('checkpoints/') == 1
    status, _, said = run(capsys, 'no_such_file.pth')
    assert status == 2 and 'There is no config and no weight file no_such_file.pth' in said
    status, _, said = run(capsys, '--method', 'rsmdtf')
    assert status == 2 and "for the method 'rsmdtf': choose one of" in said


def test_every_weight_file_of_a_config_is_in_the_table_and_the_table_is_sound():
    from mmseg_semi_rs.dataprep.experiments import experiments, read_config

    kinds = {(one.method, one.data_set, one.variant): one for one in experiments()}
    assert len(kinds) > 20
    for one in kinds.values():
        for file in weights.needed(read_config(one.config)):
            assert file.known, f'{one.config} needs {file.name}, which the table does not have'
    lines = yaml.safe_load((ROOT / 'configs/weights.yml').read_text('utf-8'))
    for name, line in lines.items():
        known = weights.Known(**line)
        assert re.fullmatch(r'|[0-9a-f]{8}|[0-9a-f]{64}', known.sha256), name
        named = re.search(r'-([0-9a-f]{8})\.pth$', name)
        if named:  # the field's custom: a file's name ends with the begin of its hash
            assert known.sha256.startswith(named[1]), name
        if 'azureedge' in known.url:  # OpenAI has the hash in the address
            assert f'/{known.sha256}/' in known.url
        assert not known.instead or known.instead in lines
        hub = '/' in name  # where huggingface_hub knows the address
        assert bool(known.url) + bool(known.ask) == 1 or (hub and not known.url), name


def test_an_interrupted_model_of_the_hub_is_not_here_yet(tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.snapshot_download', lambda *_, **__: str(tmp_path))
    model = weights.Weights('owner/name', 'hub')
    (tmp_path / 'config.json').write_text('{}')
    assert not model.here
    (tmp_path / 'model-00001-of-00002.safetensors').touch()
    assert not model.here
    (tmp_path / 'model-00002-of-00002.safetensors').touch()
    assert model.here
    (tmp_path / 'pytorch_model-00001-of-00003.bin').touch()  # the other kind is not needed
    assert model.here
