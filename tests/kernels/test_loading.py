"""Compiled loops where what is compiled cannot be kept, or is damaged, or there is no compiler."""

import errno
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from parimend import kernels
from parimend.atomic import in_turn
from parimend.kernels import keeping_numba
from tests.forked import in_a_fork

_LOOP = """
import sys
import numpy as np
from numba.core import caching
from parimend import kernels
{before}
got = kernels.on("points").points_of(np.arange(3), 4, 1.0, 1.0)
print(got, kernels.on("points").points_of.stats.cache_hits)
assert not {{"torch"}} & set(sys.modules)
"""
_NOWHERE = """
for kind in (caching.CacheImpl, caching.CompileResultCacheImpl):
    kind._locator_classes = [caching.UserProvidedCacheLocator]
"""
_FULL = f"""
def full(*args):
    raise OSError({errno.ENOSPC}, "No space left on device")
caching.IndexDataCacheFile._save_data = full
"""


def _run(before=""):
    code = _LOOP.format(before=before)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not run.stderr
    return run.stdout.rstrip()


@pytest.fixture
def empty(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NUMBA_CACHE_DIR", str(folder))
        assert _run().endswith("Counter()")
    return folder


@pytest.fixture
def folder(empty, kept):
    """One in which loops are kept."""
    shutil.copytree(kept, empty, dirs_exist_ok=True)
    return empty


def test_loops_are_kept(folder):
    assert not _run().endswith("Counter()")


@pytest.mark.long
def test_processes_that_start_together_compile_a_loop_once(empty):
    code = _LOOP.format(before="").replace("cache_hits", "cache_misses")
    command = [sys.executable, "-c", code]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counts = [run.communicate(timeout=300)[0].rpartition(" Counter")[2].strip() for run in runs]
    assert sum("1" in count for count in counts) == 1


def test_a_process_that_compiles_for_ever_is_not_waited_for(empty):
    before = "from parimend.kernels import keeping_numba; keeping_numba._PATIENCE = 0.1"
    with in_turn(kernels.on("points").__file__):
        assert _run(before) == "[1. 1. 1.] Counter()"
    assert _run().startswith("[1. 1. 1.] Counter({")


def test_nor_is_it_asked_again(monkeypatch, tmp_path):
    naps = []
    monkeypatch.setattr(keeping_numba, "_PATIENCE", 0.01)
    monkeypatch.setattr(time, "sleep", naps.append)
    with in_turn(tmp_path):
        with keeping_numba._turn(str(tmp_path)):
            assert naps
        naps.clear()
        with keeping_numba._turn(str(tmp_path)):
            assert not naps


def test_a_process_that_is_forked_while_loops_are_loaded_loads_them(monkeypatch, tmp_path):
    (tmp_path / "slow_numba.py").write_text("import time; time.sleep(0.2)")
    monkeypatch.setattr(kernels, "__path__", [*kernels.__path__, str(tmp_path)])
    thread = threading.Thread(target=kernels.on, args=("slow",))
    thread.start()
    while "parimend.kernels.slow_numba" not in sys.modules:
        time.sleep(0.001)
    assert in_a_fork(lambda: kernels.on("slow").time is time)
    thread.join()


def test_who_forks_does_not_hold_what_a_compiler_waits_for():
    """Who asked last to be told of forks is told first, and takes its lock first."""
    code = """
import os, threading, time
from parimend import kernels
import logging

def load():
    with kernels.ALONE:
        loading.set()
        time.sleep(0.1)
        logging.getLogger("new")

loading = threading.Event()
threading.Thread(target=load, daemon=True).start()
loading.wait()
if os.fork() == 0:
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


def test_a_process_that_is_forked_while_a_loop_is_compiled_runs_it(monkeypatch):
    made = {}
    exec("def double(x):\n    return 2 * x", made)  # in no file, so that it is not kept
    double = keeping_numba.kept()(made["double"])
    compiling, compiler = threading.Event(), double._compiler.compile

    def slowly(*args):
        compiling.set()
        time.sleep(0.2)
        return compiler(*args)

    monkeypatch.setattr(double._compiler, "compile", slowly)
    thread = threading.Thread(target=double, args=(3,))
    thread.start()
    compiling.wait()
    assert in_a_fork(lambda: double(3) == 6)
    thread.join()


def test_no_folder_to_keep_them_in(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert _run(_NOWHERE) == "[1. 1. 1.] Counter()"


def test_a_full_disk(empty):
    assert _run(_FULL) == "[1. 1. 1.] Counter()"


@pytest.mark.parametrize(
    ("pattern", "content"),
    [
        pytest.param("*.nb?", b"", marks=pytest.mark.long),
        pytest.param("*.nbi", bytes(3000), marks=pytest.mark.long),
        ("*.nbi", b"\x80\x05senseless"),
        pytest.param("*.nbc", b"", marks=pytest.mark.long),
        pytest.param("*.nbc", b"\x80\x05senseless", marks=pytest.mark.long),
    ],
)
def test_damaged_loops_are_compiled_and_kept_anew(folder, pattern, content):
    for path in folder.rglob(pattern):
        path.write_bytes(content)
    assert _run() == "[1. 1. 1.] Counter()"
    assert not _run().endswith("Counter()")


@pytest.mark.long
def test_a_flipped_bit_in_what_is_compiled(folder):
    for path in folder.rglob("*.nbc"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    assert _run() == "[1. 1. 1.] Counter()"
    assert not _run().endswith("Counter()")


def test_a_loop_for_other_arguments_is_not_taken(folder):
    """As where a bit is flipped in the name of a file that the index has."""
    code = "kernels.on('points').points_of(np.arange(3, dtype=np.int32), 4, 1.0, 1.0)"
    _run(code)
    first, second = sorted(folder.rglob("*points_of*.nbc"))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert _run() == "[1. 1. 1.] Counter()"


def test_loops_from_other_sources_are_not_taken(folder):
    """Numba looks at the file of a loop alone, and not at those from which it calls others."""
    other = """
from parimend.kernels import keeping_numba
keeping_numba._sources = lambda: b"other"
"""
    assert _run(other) == "[1. 1. 1.] Counter()"
    assert _run() == "[1. 1. 1.] Counter()"


def test_other_threads_go_on_while_any_loop_runs():
    for path in Path(kernels.__file__).parent.glob("*_numba.py"):
        module = import_module(f"{kernels.__name__}.{path.stem}")
        loops = [each for each in vars(module).values() if hasattr(each, "_cache")]
        kept = [each for each in loops if isinstance(each._cache, keeping_numba._Forgiving)]
        assert all(each.targetoptions["nogil"] for each in kept)


def test_an_interrupt_while_a_loop_runs_is_that_interrupt():
    class Alarm(BaseException):
        pass

    def ring(number, frame):
        raise Alarm

    roots = kernels.on("reed_solomon").roots
    polynomial = np.append(np.arange(1.0, 700.0), 1.0)
    roots(polynomial)  # compiles

    def go_on():
        while True:
            roots(polynomial)

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(Alarm):
                go_on()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_compiler_that_is_switched_off(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    code = "from parimend import kernels; kernels.on('points')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "SpecError: NUMBA_DISABLE_JIT is set" in run.stderr


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("__version__ = '3.1.9'", "torch"),
        ("__version__ = '3.0.0rc1'", "torch"),
        ("__version__ = '3'", "torch"),
        ("__version__ = 'main'", "torch"),
        ("", "torch"),
        ("raise ImportError('no libcuda')", "torch"),
        ("raise OSError('no libtriton')", "torch"),
        ("__version__ = '3.2rc1'", "triton"),
        ("__version__ = '3.10.0+git'", "triton"),
    ],
)
def test_a_triton_that_is_too_old_or_does_not_load(tmp_path, module, kind):
    (tmp_path / "triton.py").write_text(module)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from parimend import kernels\n"
        "kernels.import_module = lambda name, of=kernels.import_module: (\n"
        "    print(name) if name.startswith('parimend') else of(name))\n"
        "kernels.on('power', 'cuda')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == f"parimend.kernels.power_{kind}\n"
    assert ("so operations of PyTorch take its place" in run.stderr) == ("__" not in module)
