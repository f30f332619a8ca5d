# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Processes that start at once: they are forked from one that has imported everything.

That one has never run a network, as forks of the process of the tests would have.
"""

from __future__ import annotations

import contextlib
import functools
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import pytest
from mmengine.registry import Registry

ROOT = Path(__file__).parents[2]
TIMEOUT = 500  # seconds, for machines that are busy with other things


@functools.cache
def _server() -> ForkServerContext:
    context = get_context('forkserver')
    context.set_forkserver_preload(['mmseg_semi_rs', 'mmseg.apis', 'mmengine.runner', 'pytest'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', str(ROOT))  # older servers import before they know sys.path
        patch.setenv('OMP_NUM_THREADS', '1')
        patch.setenv('CUDA_VISIBLE_DEVICES', '')
        forkserver.ensure_running()
    return context


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def _run(
    log: Path, variables: dict[str, str], action: Callable[..., Any], words: tuple[Any, ...]
) -> None:
    code = 1
    with log.open('a', buffering=1) as out, contextlib.redirect_stdout(out):
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        sys.stderr = out
        os.environ.update(variables)
        os.setsid()
        try:
            import torch

            torch.set_num_threads(1)
            action(*words)
            code = 0
        except SystemExit as left:
            if isinstance(left.code, str):
                print(left.code)
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        except BaseException:
            traceback.print_exc()
    os._exit(code)  # gloo's threads may abort an interpreter that ends by itself


def start(action: Callable[..., Any], *words: Any, log: Path, **variables: str) -> BaseProcess:
    """Start a process, in a session of its own, that calls a function of a module.

    Args:
        action: It is found by its name, as are parts of ``words``.
        *words: Its arguments.
        log: File that takes what the process prints.
        **variables: Of its environment.
    """
    process = _server().Process(target=_run, args=(log, variables, action, words))
    process.start()
    return process


def exit_code(action: Callable[..., Any], *words: Any, log: Path) -> int | None:
    """Call a function of a module in a process of its own; how that ends.

    See :func:`start`.
    """
    process = start(action, *words, log=log)
    process.join(TIMEOUT)
    process.kill()
    return process.exitcode


def finish(process: BaseProcess, log: Path) -> None:
    """Wait for a process to end, and see it end well."""
    process.join(TIMEOUT)
    process.kill()
    assert process.exitcode == 0, log.read_text()


def on_ranks(world: int, action: Callable[..., Any], *words: Any, folder: Path) -> None:
    """Call a function in as many processes, which find each other as those of torchrun do.

    Args:
        world: How many.
        action: See :func:`start`.
        *words: Likewise.
        folder: Where they print to.
    """
    shared = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()), WORLD_SIZE=str(world))
    logs = [folder / f'rank_{rank}.log' for rank in range(world)]
    started = [
        start(action, *words, log=log, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank, log in enumerate(logs)
    ]
    for process, log in zip(started, logs, strict=True):
        finish(process, log)


def forget_package() -> None:
    """Forget the package and its tests, so that what is imported next is found and run anew."""
    register = Registry._register_module

    def again(self: Registry, module: Any, module_name: Any = None, force: bool = False) -> None:
        register(self, module, module_name, True)

    Registry._register_module = again
    for name in list(sys.modules):
        if name.split('.')[0] in ('mmseg_semi_rs', 'tests'):
            del sys.modules[name]


def _main(folder: Path, words: list[str]) -> None:
    """Be ``python words``, in a folder."""
    os.chdir(folder)
    if words[:2] == ['-W', 'ignore']:
        warnings.simplefilter('ignore')
        words = words[2:]
    if words[0] == '-m':
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name='__main__', alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name='__main__')


class Popen:
    """As that of subprocess, for a script or a module that this Python runs."""

    def __init__(
        self,
        words: list[str],
        stdout: IO[Any],
        stderr: IO[Any],
        cwd: Path,
        env: dict[str, str] | None = None,
    ) -> None:
        assert words[0] == sys.executable and stderr is stdout
        self.process = start(_main, Path(cwd), words[1:], log=Path(stdout.name), **(env or {}))

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.exitcode

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.exitcode

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def wait(self) -> int | None:
        """Wait for its end; the exit code."""
        self.process.join(TIMEOUT)
        return self.process.exitcode


def run(
    words: list[str],
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    stdout: IO[Any] | None = None,
    **more: Any,
) -> subprocess.CompletedProcess[str]:
    """As that of subprocess; what it prints to either stream stands in both."""
    with tempfile.NamedTemporaryFile('r') as taken:
        out = stdout or taken
        process = Popen(words, stdout=out, stderr=out, cwd=cwd or Path.cwd(), env=env)
        code = process.wait()
        process.kill()
        printed = taken.read()
    return subprocess.CompletedProcess(words, -1 if code is None else code, printed, printed)
