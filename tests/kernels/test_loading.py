"""Compiled loops where what is compiled cannot be kept."""

import subprocess
import sys

_NOWHERE = """
from pathlib import Path
from numba.core import caching
for kind in (caching.CacheImpl, caching.CompileResultCacheImpl):
    kind._locator_classes = [caching.UserProvidedCacheLocator]
import numba
from parimend import kernels
print(kernels.on("clearing").__name__, Path(numba.config.CACHE_DIR).is_dir())
print(numba.config.CACHE_DIR)
"""


def test_no_folder_to_keep_them_in(monkeypatch, tmp_path):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    run = subprocess.run([sys.executable, "-c", _NOWHERE], capture_output=True, text=True)
    first, folder = run.stdout.splitlines()
    assert first == "parimend.kernels.clearing_numba True"
    assert folder.startswith(str(tmp_path))
    assert not [*tmp_path.iterdir()]
