"""What commands print is text on any terminal, whatever tensors and files are called."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from parimend import protect_file
from parimend.showing import command_word, escaped, table
from tests.files.conftest import flip_bit

NAME = "w\x1b[2J\u202e\x07\nmöd 模\x9b"


@given(st.text(st.characters()))
def test_escaped_text_is_one_printable_line(text):
    shown = escaped(text)
    assert shown.isprintable()
    assert escaped(shown) == shown
    assert shown == text or not text.isprintable()


def test_a_path_is_typed_as_a_shell_reads_it(rng):
    any_bytes = [bytes(rng.integers(1, 256, rng.integers(1, 9), np.uint8)) for _ in range(500)]
    names = [*any_bytes, b"-x", b"my model.bin", b"a'b\nc\\d", "größe\t模".encode()]
    words = [command_word(Path(os.fsdecode(name))) for name in names]
    assert all(word.isprintable() for word in words)
    command = f"LC_ALL=C.UTF-8; printf '%s\\0' {' '.join(words)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    read = [name.removeprefix(b"./") for name in done.stdout.split(b"\0")[:-1]]
    assert read == [os.fsencode(Path(os.fsdecode(name))) for name in names]


CELL = st.text(st.characters(), max_size=40)


def test_names_are_not_broken_at_hyphens():
    lines = list(table(["file"], [["cannot be found: model-00001-of-00002"]], 24))
    assert lines[-2:] == ["cannot be found:", "model-00001-of-00002"]


def test_a_text_of_spaces_is_shown_on_a_narrow_terminal():
    assert len(list(table(["dtype"], [[" " * 60]], 24))) == 3


@given(st.data(), st.integers(1, 4), st.none() | st.integers(1, 60))
def test_tables_cut_no_text(data, count, width):
    columns = data.draw(st.lists(CELL.map(escaped), min_size=count, max_size=count))
    rows = data.draw(st.lists(st.lists(CELL, min_size=count, max_size=count), max_size=4))
    lines = list(table(columns, rows, width))
    assert all(line.isprintable() for line in lines)
    shown = "".join(lines).split()
    for row in rows:
        for word in (word for cell in row for word in escaped(cell).split()):
            assert any(word in text for text in shown)
    if width is None:
        assert len(lines) == 2 + len(rows)
        for row, line in zip(rows, lines[2:], strict=True):
            assert all(escaped(cell).strip() in line for cell in row)


def test_a_table_on_a_narrow_terminal_breaks_its_last_column():
    lines = list(table(["file", "findings"], [["a" * 30, "one two three four five six"]], 60))
    assert lines[2:] == ["a" * 30 + "  one two three four five", " " * 32 + "six"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("names") / "mödel\x1b[1m.safetensors"
    safetensors.numpy.save_file({NAME: np.ones(300, np.float32)}, path)
    protect_file(path, 5)
    flip_bit(path, -9)
    return path


COMMANDS = {
    "inspect": [],
    "plan": [],
    "check": ["-l"],
    "protect": ["--force", "--only", "zzz"],
    "repair": ["-l", "-o", "{out}"],
    "inject": ["-o", "{out}", "--fault", "bitflip", "--count", "2"],
}
SCRIPT = """
import json, sys
from parimend.cli import main
for arguments in json.loads(sys.argv[1]):
    for stream in (sys.stdout, sys.stderr):
        print("=====", flush=True, file=stream)
    try:
        main(arguments)
    except SystemExit as end:
        print("status", end.code or 0)
"""


@pytest.mark.parametrize(
    "encoding", ["utf-8", "ascii", pytest.param("cp1252", marks=pytest.mark.long)]
)
def test_terminals_get_text(model, tmp_path, encoding):
    calls = [
        [command, str(model), *(option.format(out=tmp_path / "out") for option in options), *more]
        for command, options in COMMANDS.items()
        for more in ([], ["--json"])
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(calls)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    outs, errs = (x.decode(encoding).split("=====\n")[1:] for x in (done.stdout, done.stderr))
    assert len(outs) == len(errs) == len(calls)
    for (command, *_, last), out, err in zip(calls, outs, errs, strict=True):
        *printed, status = out.splitlines()
        assert status == f"status { {'check': 1, 'protect': 2}.get(command, 0) }"
        assert all(line.isprintable() for line in [*printed, *err.splitlines()])
        assert "Traceback" not in err
        if last == "--json" and command != "protect":
            assert json.loads("".join(printed))["command"] == command
        else:
            assert r"\x1b[" in out + err
