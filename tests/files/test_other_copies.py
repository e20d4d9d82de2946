"""Repairing from other copies what the budget is not enough for."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import serving

from parimend import Seal, check_file, protect_file, repair_file
from parimend.cli import main
from parimend.codes import sums_for
from parimend.codes.blocks import BLOCK, DIGEST, BlockSums, digest_of, has_blocks, mixed
from parimend.errors import FormatError, MismatchError, SourceError
from parimend.files import sidecar_of
from parimend.files.blocks import merged, ranges_text
from parimend.files.writing import put_back
from parimend.outcomes import Verdict
from scripts.make_golden_blocks import content
from tests.files.conftest import flip

GOLDEN = Path(__file__).parents[1] / "golden" / "seal-blocks.parimend"
SIZE = 1 << 16
"""Bytes of a block."""


@pytest.fixture
def large(tmp_path, rng):
    """A protected file of 2 MB, with odd tensors, and its content."""
    path = tmp_path / "model.safetensors"
    tensors = {
        "a": rng.standard_normal((300, 1001), dtype=np.float32),
        "b": rng.integers(0, 255, 77, np.uint8),
        "c": rng.standard_normal(90_001).astype(np.float64),
        "d": rng.standard_normal((3, 7)).astype(np.float16),
    }
    safetensors.numpy.save_file(tensors, path)
    protect_file(path, errors=20)
    return path, path.read_bytes()


def spoilt(content, *places, size=SIZE):
    """A content with other bytes at some places."""
    new = np.frombuffer(content, np.uint8).copy()
    for at in places:
        new[at : at + size] ^= 0x5A
    return new.tobytes()


def hidden_files(path):
    return sorted(p.name for p in path.parent.iterdir() if p.name.startswith("."))


def assert_as_found(path, content, beside):
    assert path.read_bytes() == content
    assert sidecar_of(path).read_bytes() == beside


# Digests of blocks


@settings(max_examples=20)
@given(st.integers(BLOCK + 1, 3 * BLOCK), st.sampled_from([1, 20, 2000]), st.data())
def test_digests_are_those_of_every_block_however_words_come(n, errors, data):
    code = sums_for(n, errors)
    words = np.random.default_rng(n).integers(0, 1 << 32, n, np.uint32)
    cuts = data.draw(st.lists(st.integers(0, n // 16), max_size=5))
    blocks = BlockSums(code)
    edges = [0, *sorted(16 * cut for cut in cuts), n]
    for begin, end in pairwise(edges):
        blocks.add(words[begin:end], begin)
    assert np.array_equal(blocks.total(), code.few(code.syndrome(words)))
    expected = [digest_of(code, words[at : at + BLOCK]) for at in range(0, n, BLOCK)]
    assert blocks.digests.tobytes() == b"".join(expected)


def test_a_digest_is_two_power_sums(rng):
    """Against plain integers: all of the first sum, and the last bits of the second."""
    code = sums_for(2 * BLOCK, errors=5)
    screen = code.parts[0]
    words = rng.integers(0, 1 << 32, 100, np.uint32)
    where = np.arange(100)
    terms = [
        int(w) * int(u) % code.prime for w, u in zip(words, screen.factors(where), strict=True)
    ]
    second = sum(t * int(x) for t, x in zip(terms, screen.points(where), strict=True))
    value = sum(terms) % code.prime | second % code.prime % 128 << 33
    assert digest_of(code, words) == value.to_bytes(DIGEST, "little")


def test_processors_that_do_not_fuse_have_the_same_digests(rng, monkeypatch):
    code = sums_for(2 * BLOCK, errors=5)
    words = rng.integers(0, 1 << 32, 2 * BLOCK, np.uint32)
    fused = BlockSums(code)
    fused.add(words, 0)
    monkeypatch.setattr("parimend.kernels.power_numba.fuses", lambda: False)
    plain = BlockSums(code)
    plain.add(words, 0)
    assert np.array_equal(fused.digests, plain.digests)


@settings(max_examples=25)
@given(st.tuples(*[st.integers(0, BLOCK)] * 4), st.booleans())
def test_one_range_in_one_of_two_copies_is_told_from_damage_anywhere_else(cuts, is_swapped):
    code = sums_for(2 * BLOCK, errors=5)
    good = np.random.default_rng(1).integers(0, 1 << 32, BLOCK, np.uint32)
    a, b, c, d = sorted(cuts)
    here, there = good.copy(), good.copy()
    here[b:c] ^= 77
    there[:a] ^= 5
    there[d:] ^= 9
    if is_swapped:
        here, there = there, here
    assert np.array_equal(mixed(code, here, there, digest_of(code, good)), good)


def test_no_block_is_made_of_copies_that_have_it_not(rng):
    code = sums_for(2 * BLOCK, errors=5)
    good, here, there = rng.integers(0, 1 << 32, (3, BLOCK), np.uint32)
    assert mixed(code, here, there, digest_of(code, good)) is None


def test_ranges_are_joined():
    ranges = merged([(30, 40), (0, 10), (10, 20)])
    assert ranges == [(0, 20), (30, 40)]
    assert ranges_text(ranges) == "0-19,30-39"


# The seal


def test_digests_take_less_than_a_ten_thousandth(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(8 << 20))
    [made] = protect_file(path, errors=20)
    [word] = made.seal.words
    assert len(word.blocks) == DIGEST * 128
    without = len(Seal("sidecar", 20, (), {}, made.seal.blobs).to_bytes())
    assert made.seal_bytes - without < (8 << 20) / 10_000 + 500
    again = Seal.load(sidecar_of(path))
    assert again.to_bytes() == sidecar_of(path).read_bytes()
    assert again.words[0].blocks == word.blocks


def test_seals_of_small_files_are_as_before(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(SIZE))
    [made] = protect_file(path, errors=20)
    assert not made.seal.words[0].blocks
    assert not has_blocks(made.seal.words[0].code)
    assert b'"version":1,' in sidecar_of(path).read_bytes()


def test_seals_with_digests_stay_readable_for_ever(tmp_path):
    path, other = tmp_path / "weights.bin", tmp_path / "other"
    good = content()
    path.write_bytes(spoilt(good, 1000))
    sidecar_of(path).write_bytes(GOLDEN.read_bytes())
    assert Seal.load(GOLDEN).to_bytes() == GOLDEN.read_bytes()
    assert check_file(path).files[0].ranges == ((0, 2 * SIZE),)
    other.write_bytes(spoilt(good, 100_000))
    assert repair_file(path, sources=other).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good
    [made] = protect_file(path, errors=10, seed=7, force=True)
    assert replace(made.seal, notes={}).to_bytes() == GOLDEN.read_bytes()  # of before names


# Where a file is damaged


def test_a_check_says_where(large):
    path, good = large
    path.write_bytes(spoilt(good, 200_000))
    [file] = check_file(path).files
    assert file.verdict is Verdict.UNCORRECTABLE
    [(begin, end)] = file.ranges
    assert begin <= 200_000
    assert 200_000 + SIZE <= end <= begin + 2 * SIZE
    assert not file.problem  # damaged, and not saved anew
    assert f"{end - begin:,} bytes in one range" in "; ".join(file.findings)


def test_within_the_budget_there_is_nothing_to_fetch(large):
    path, good = large
    path.write_bytes(spoilt(good, 200_000, size=40))
    [file] = check_file(path).files
    assert file.verdict is Verdict.CORRECTABLE
    assert file.ranges == ()


def test_the_command_prints_ranges(large, capsys):
    path, good = large
    path.write_bytes(spoilt(good, 200_000))
    [file] = check_file(path).files
    with pytest.raises(SystemExit) as status:
        main(["check", str(path), "--ranges"])
    assert (status.value.code, capsys.readouterr().out) == (1, ranges_text(file.ranges) + "\n")
    with pytest.raises(SystemExit):
        main(["check", str(path), "--ranges", "--json"])
    [told] = json.loads(capsys.readouterr().out)["files"]
    assert told["ranges"] == [list(each) for each in file.ranges]


def test_ranges_of_several_files_come_after_their_names(large, capsys):
    path, good = large
    names = [f"{path.parent}/{name}" for name in ("a.bin", "b\x1b[31m\n.bin")]
    for name in names:
        Path(name).write_bytes(good)
        protect_file(name, 2)
        Path(name).write_bytes(spoilt(good, 200_000))
    with pytest.raises(SystemExit):
        main(["check", *names, "--ranges"])
    told = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert told == [names[0], f"{path.parent}/b\\x1b[31m\\n.bin"]


def test_what_is_gone_has_no_ranges_and_is_told(large, capsys):
    """Whoever fetches what is printed would not have all."""
    path, good = large
    other = path.with_name("other.bin")
    other.write_bytes(good)
    protect_file(other, 2)
    other.unlink()
    path.write_bytes(spoilt(good, 200_000))
    fetch = f"fetch it again (parimend repair {other} --in-place --from OTHER does, and proves it)"
    with pytest.raises(SystemExit) as status:
        main(["check", str(path), str(other), "--ranges"])
    said = capsys.readouterr()
    assert (status.value.code, said.out.count("\n")) == (1, 1)
    assert said.err == f"parimend: {other}: missing: its seal is there; {fetch}\n"
    for act in (check_file, repair_file):
        with pytest.raises(FileNotFoundError, match="missing: its seal is there") as error:
            act(other)
        assert error.value.filename == str(other)


# Repairing


def test_two_damaged_copies_give_one_good_one(large):
    path, good = large
    path.write_bytes(spoilt(good, 0, 200_000, 1_000_000))
    other = path.with_name("other")
    other.write_bytes(spoilt(good, 500_000, 1_000_000 + SIZE, len(good) - 9))
    report = repair_file(path, sources=other)
    assert report.verdict is Verdict.CORRECTED
    assert path.read_bytes() == good
    assert hidden_files(path) == []
    assert check_file(path).verdict is Verdict.CLEAN


def test_three_damaged_copies_and_the_budget_give_one_good_one(large):
    path, good = large
    everywhere = spoilt(good, 1_500_000, size=40)
    path.write_bytes(spoilt(everywhere, 200_000, 800_000))
    first, second = path.with_name("first"), path.with_name("second")
    first.write_bytes(spoilt(everywhere, 200_000))
    second.write_bytes(spoilt(everywhere, 800_000))
    report = repair_file(path, sources=[first, second])
    assert report.verdict is Verdict.CORRECTED
    assert 5 <= len(report.changes) <= 11
    assert path.read_bytes() == good


def test_words_in_which_two_damaged_blocks_differ_are_erasures(large, rng):
    """40 sums repair 20 wrong words, and 40 that are known to be doubtful."""
    path, good = large
    words = rng.permutation(200_032 + np.arange(2000) * 4)[:38].tolist()
    path.write_bytes(spoilt(good, *words[:30], size=4))
    other = path.with_name("other")
    other.write_bytes(spoilt(good, *words[30:], size=4))
    assert check_file(path).verdict is Verdict.UNCORRECTABLE
    assert repair_file(path, sources=other).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


def test_the_same_damage_in_both_copies_stays(large):
    path, good = large
    damaged, beside = spoilt(good, 200_000), sidecar_of(path).read_bytes()
    path.write_bytes(damaged)
    other = path.with_name("other")
    other.write_bytes(damaged)
    [file] = repair_file(path, sources=other).files
    assert file.verdict is Verdict.UNCORRECTABLE
    assert "another file, or damaged where this one is" in file.problem
    assert_as_found(path, damaged, beside)
    assert hidden_files(path) == []


@pytest.mark.parametrize("kept", [0, 100_000, 1_500_003])
def test_a_truncated_download_is_continued(large, kept):
    path, good = large
    path.write_bytes(good[:kept])
    with serving({"/model": good}) as served:
        report = repair_file(path, sources=f"{served.url}/model")
    assert report.verdict is Verdict.CORRECTED
    assert path.read_bytes() == good
    assert served.sent <= len(good) - kept + SIZE


def test_zeros_that_are_missing_come_back(tmp_path):
    path = tmp_path / "weights.bin"
    good = bytes(range(256)) * 256 + bytes(300_000)
    path.write_bytes(good)
    protect_file(path, errors=20)
    path.write_bytes(good[:70_000])
    other = tmp_path / "other"
    other.write_bytes(good)
    assert repair_file(path, sources=other).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


def test_little_more_than_the_damage_is_fetched(tmp_path, rng):
    path = tmp_path / "weights.bin"
    good = rng.bytes(8_000_000)
    path.write_bytes(good)
    protect_file(path, errors=20)
    places = [123_457 + 4 * SIZE * i for i in range(20)]
    path.write_bytes(spoilt(good, *places))
    with serving({"/model": good}) as served:
        [file] = repair_file(path, sources=f"{served.url}/model").files
    assert path.read_bytes() == good
    assert file.fetched == served.sent <= 1.2 * 20 * SIZE


def test_a_small_file_is_one_block(tmp_path, rng):
    path, other = tmp_path / "weights.bin", tmp_path / "other"
    good = rng.bytes(1001)
    path.write_bytes(good)
    protect_file(path, errors=2)
    path.write_bytes(spoilt(good, 100, size=500))
    other.write_bytes(good)
    assert check_file(path).files[0].ranges == ((0, 1001),)
    assert repair_file(path, sources=other).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


@pytest.mark.parametrize("per", ["tensor", "row"])
def test_several_words_are_repaired_each(large, per):
    path, good = large
    protect_file(path, errors=2, per=per, force=True)
    path.write_bytes(spoilt(good, 200_000, 1_400_000))
    other = path.with_name("other")
    other.write_bytes(good)
    assert repair_file(path, sources=other).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


def test_partial_puts_back_the_words_that_came(large):
    path, good = large
    protect_file(path, errors=2, per="tensor", force=True)
    both = spoilt(good, 1_400_000)
    path.write_bytes(spoilt(both, 200_000))
    other = path.with_name("other")
    other.write_bytes(both)
    [file] = repair_file(path, sources=other, partial=True).files
    assert [word.verdict.value for word in file.words].count("corrected") == 1
    assert file.verdict is Verdict.UNCORRECTABLE
    assert path.read_bytes() == both


def test_what_is_repaired_may_be_written_elsewhere(large):
    path, good = large
    damaged = spoilt(good, 200_000)
    path.write_bytes(damaged)
    other, out = path.with_name("other"), path.with_name("out")
    other.write_bytes(good)
    [file] = repair_file(path, out, sources=other).files
    assert (path.read_bytes(), out.read_bytes()) == (damaged, good)
    assert file.written == str(out)
    assert check_file(out).verdict is Verdict.CLEAN


def test_folders_have_files_of_the_same_names(large, tmp_path_factory):
    path, good = large
    second = path.parent / "unet" / path.name  # as pipelines have them
    second.parent.mkdir()
    second.write_bytes(other := good[:-4] + b"else")
    protect_file(path.parent, errors=20, force=True)
    copy = tmp_path_factory.mktemp("copy")
    (copy / "unet").mkdir()
    for file, was in ((path, good), (second, other)):
        (copy / file.relative_to(path.parent)).write_bytes(was)
        file.write_bytes(spoilt(was, 200_000))
    assert repair_file(path.parent, sources=copy).verdict is Verdict.CORRECTED
    assert (path.read_bytes(), second.read_bytes()) == (good, other)


def test_any_address_that_fsspec_opens(large):
    path, good = large
    path.write_bytes(spoilt(good, 200_000))
    fsspec.filesystem("memory").pipe("/copies/model.safetensors", good)
    assert repair_file(path, sources="memory://copies/").verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


def test_the_command_takes_sources(large, capsys):
    path, good = large
    path.write_bytes(spoilt(good, 200_000))
    path.with_name("other").write_bytes(good)
    for source, status in (("gone", 2), ("other", 0)):
        with pytest.raises(SystemExit) as ended:
            main(
                ["repair", str(path), "--in-place", "--from", str(path.with_name(source)), "--json"]
            )
        told = json.loads(capsys.readouterr().out)
        assert ended.value.code == status
    assert told["files"][0]["fetched"] > 0
    assert path.read_bytes() == good


# Sources that are of no use


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {}, "there is no such file"),
        ({"/model": "good"}, {"ranges": False}, "its server sends whole files only"),
        ({"/model": "other"}, {}, "none of 16 blocks is as it should be: it is another file"),
        ({"/model": "good"}, {"limit": 5 * SIZE}, "what was fetched is kept"),
    ],
    ids=["missing", "whole", "another", "breaking off"],
)
def test_one_message_says_why_a_source_is_of_no_use(large, rng, files, options, message):
    path, good = large
    damaged, beside = spoilt(good, 300_000, size=20 * SIZE), sidecar_of(path).read_bytes()
    path.write_bytes(damaged)
    contents = {"good": good, "other": rng.bytes(len(good))}
    served_files = {name: contents[which] for name, which in files.items()}
    with (
        serving(served_files, **options) as served,
        pytest.raises(SourceError, match=message) as error,
    ):
        repair_file(path, sources=f"{served.url}/model")
    assert f"{served.url}/model" in str(error.value)
    assert_as_found(path, damaged, beside)


def test_the_file_itself_is_no_other_copy(large):
    path, good = large
    damaged, beside = spoilt(good, 300_000), sidecar_of(path).read_bytes()
    path.write_bytes(damaged)
    for source in (path, path.parent):
        with pytest.raises(SourceError, match="is the file to be repaired: name another copy"):
            repair_file(path, sources=source)
        assert_as_found(path, damaged, beside)


def test_parity_repairs_what_a_source_that_breaks_off_did_not_give(large):
    path, good = large
    little = spoilt(good, 1_500_000, 1_700_000, 1_900_000, size=16)
    path.write_bytes(spoilt(little, 100_000, size=15 * SIZE))
    with serving({"/model": good}, limit=17 * SIZE) as served:
        [file] = repair_file(path, sources=f"{served.url}/model").files
    assert (file.verdict, file.problem) == (Verdict.CORRECTED, "")
    assert len(file.changes) >= 6
    assert path.read_bytes() == good


def test_a_source_that_ends_early_is_told(large):
    path, good = large
    damaged, beside = spoilt(good, 200_000, 1_800_000), sidecar_of(path).read_bytes()
    path.write_bytes(damaged)
    with serving({"/model": good[:1_000_000]}) as served:
        [file] = repair_file(path, sources=f"{served.url}/model").files
    assert file.verdict is Verdict.UNCORRECTABLE
    assert file.problem == f"{served.url}/model ends early"
    [(begin, _)] = file.ranges
    assert begin > 1_000_000  # the rest was fetched, and is kept
    assert_as_found(path, damaged, beside)
    assert hidden_files(path) == [".model.safetensors.fetched"]
    other = path.with_name("other")
    other.write_bytes(spoilt(good, 200_000))
    assert repair_file(path, sources=other).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good
    assert hidden_files(path) == []


def test_the_next_source_is_asked(large):
    path, good = large
    path.write_bytes(spoilt(good, 200_000))
    other = path.with_name("other")
    other.write_bytes(good)
    report = repair_file(path, sources=[path.with_name("gone"), other])
    assert report.verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


def test_a_missing_library_names_the_extra(large, monkeypatch):
    path, good = large
    path.write_bytes(spoilt(good, 200_000))
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(SourceError, match=r"https://x/y cannot be read: .*parimend\[remote\]"):
        repair_file(path, sources="https://x/y")


def test_a_seal_without_digests_cannot_say_where(large, monkeypatch):
    path, good = large
    monkeypatch.setattr("parimend.carriers.sidecar.has_blocks", lambda code: False)
    protect_file(path, errors=20, force=True)
    damaged = spoilt(good, 200_000)
    path.write_bytes(damaged)
    other = path.with_name("other")
    other.write_bytes(good)
    [file] = repair_file(path, sources=other).files
    assert file.verdict is Verdict.UNCORRECTABLE
    assert "no digests of its blocks: fetch the whole file again" in file.problem
    assert path.read_bytes() == damaged


def test_a_tail_that_is_not_protected_cannot_be_continued(large):
    path, good = large
    protect_file(path, errors=20, only=["a"], force=True)
    path.write_bytes(good[:500_000])
    other = path.with_name("other")
    other.write_bytes(good)
    report = repair_file(path, sources=other)
    assert report.verdict is Verdict.UNCORRECTABLE
    assert path.read_bytes() == good[:500_000]


# Interrupted


def test_what_was_fetched_is_compared_again(large):
    path, good = large
    path.write_bytes(spoilt(good, 300_000, size=20 * SIZE))
    with serving({"/model": good}, limit=18 * SIZE) as served, pytest.raises(SourceError):
        repair_file(path, sources=f"{served.url}/model")
    fetched = path.with_name(".model.safetensors.fetched")
    before = served.sent
    assert before > 10 * SIZE
    fetched.write_bytes(spoilt(fetched.read_bytes(), 400_000, size=1))
    with serving({"/model": good}) as served:
        assert repair_file(path, sources=f"{served.url}/model").verdict is Verdict.CORRECTED
    assert path.read_bytes() == good
    assert served.sent < 22 * SIZE - before + 2 * SIZE


def test_interrupted_when_the_file_is_right_nothing_is_left_behind(large, monkeypatch):
    path, good = large
    path.write_bytes(spoilt(good, 300_000, size=20 * SIZE))
    other = path.with_name("other")
    other.write_bytes(good)
    put = os.replace

    def interrupted(*places):
        put(*places)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            repair_file(path, sources=other)
    assert path.read_bytes() == good
    assert repair_file(path, sources=other).verdict is Verdict.CLEAN
    assert hidden_files(path) == []


_KILLED = "import sys, parimend; parimend.repair_file(sys.argv[1], sources=sys.argv[2])"


def test_killed_it_goes_on_where_it_was(large):
    path, good = large
    damaged = spoilt(good, 100_000, size=25 * SIZE)
    path.write_bytes(damaged)
    [(begin, end)] = check_file(path).files[0].ranges
    with serving({"/model": good}, delay=0.2) as served:
        process = subprocess.Popen([sys.executable, "-c", _KILLED, path, f"{served.url}/model"])
        while served.sent <= 16 * SIZE:  # until more is asked for than the blocks that come first
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert path.read_bytes() == damaged
    with serving({"/model": good}) as served:
        assert repair_file(path, sources=f"{served.url}/model").verdict is Verdict.CORRECTED
    assert path.read_bytes() == good
    assert served.sent <= end - begin - 15 * SIZE
    assert not [name for name in hidden_files(path) if not name.endswith(".lock")]


def test_partial_leaves_words_that_are_not_proven_as_they_are(large):
    """Also blocks of them that came: their digests are no proof."""
    path, good = large
    protect_file(path, errors=2, per="tensor", force=True)
    both = spoilt(good, 1_400_000)
    damaged = spoilt(both, 200_000, 1_600_000)
    path.write_bytes(damaged)
    other = path.with_name("other")
    other.write_bytes(both)
    [file] = repair_file(path, sources=other, partial=True).files
    assert file.fetched >= 2 * SIZE
    assert path.read_bytes() == spoilt(damaged, 200_000)


def test_partial_puts_back_what_needs_no_digests(large):
    path, good = large
    protect_file(path, errors=2, per="tensor", force=True)
    without_digests(path)
    damaged = spoilt(good, 200_000)
    path.write_bytes(spoilt(damaged, 1_400_000, size=4))
    other = path.with_name("other")
    other.write_bytes(good)
    [file] = repair_file(path, sources=other, partial=True).files
    assert "no digests of its blocks" in file.problem
    assert path.read_bytes() == damaged


def without_digests(path):
    """Make the seal one as they were before there were digests of blocks."""
    seal = Seal.load(sidecar_of(path))
    replace(seal, words=tuple(replace(w, blocks=b"") for w in seal.words)).save(sidecar_of(path))


def test_sums_do_not_make_clean_what_sha256_does_not(large, monkeypatch):
    path, good = large
    seal = Seal.load(sidecar_of(path))
    words = tuple(replace(word, sha256=bytes(32)) for word in seal.words)
    replace(seal, words=words).save(sidecar_of(path))
    monkeypatch.setattr("parimend.kernels.loaded", lambda: False)  # so SHA-256 is looked at first
    other = path.with_name("other")
    other.write_bytes(good)
    assert check_file(path).verdict is Verdict.UNCORRECTABLE
    assert repair_file(path, sources=other).verdict is Verdict.UNCORRECTABLE


def test_a_source_that_is_no_file_does_not_keep_others_from_it(large):
    path, good = large
    path.write_bytes(spoilt(good, 200_000))
    other, fifo = path.with_name("other"), path.with_name("fifo")
    other.write_bytes(good)
    os.mkfifo(fifo)
    with pytest.raises(SourceError, match="is a FIFO"):
        repair_file(path, sources=fifo)
    assert repair_file(path, sources=[fifo, other]).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


def test_a_source_that_cannot_be_read_everywhere(large, monkeypatch):
    path, good = large
    path.write_bytes(spoilt(good, 200_000))
    other, bad = path.with_name("other"), path.with_name("bad")
    for each in (other, bad):
        each.write_bytes(good)
    preadv, number = os.preadv, bad.stat().st_ino

    def failing(descriptor, buffers, at):
        if os.fstat(descriptor).st_ino == number:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(descriptor, buffers, at)

    monkeypatch.setattr("os.preadv", failing)
    report = repair_file(path, sources=bad)
    assert not report.ok
    assert re.search("bad: [0-9,]+ bytes cannot be read from its disk", report.files[0].problem)
    assert repair_file(path, sources=[bad, other]).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


def test_names_that_mean_something_else_in_an_address(large):
    path, good = large
    odd = path.with_name("a#1 50%25?.safetensors")
    sidecar_of(path).rename(sidecar_of(path.rename(odd)))
    odd.write_bytes(spoilt(good, 200_000))
    with serving({"/a%231%2050%2525%3F.safetensors": good}) as served:
        assert repair_file(odd, sources=f"{served.url}/").verdict is Verdict.CORRECTED
    assert odd.read_bytes() == good


def test_a_server_that_refuses_is_told(large, monkeypatch):
    path, good = large
    path.write_bytes(spoilt(good, 200_000))
    monkeypatch.setattr("serving._Handler._answer", lambda self, with_body: self.send_error(403))
    with serving({}) as served, pytest.raises(SourceError, match="model: the server answers 403"):
        repair_file(path, sources=f"{served.url}/model")


def test_a_server_that_says_nothing_is_given_up(large, monkeypatch):
    path, good = large
    path.write_bytes(damaged := spoilt(good, 200_000))
    monkeypatch.setattr("parimend.files.sources._SILENCE", 0.3)
    silent = serving({"/model": good}, delay=2.0)
    with silent as served, pytest.raises(SourceError, match=r"said nothing for 0\.3 seconds"):
        repair_file(path, sources=f"{served.url}/model")
    with pytest.raises(SourceError, match="model: the server cannot be reached"):
        repair_file(path, sources=f"{served.url}/model")
    assert path.read_bytes() == damaged


def test_nothing_is_left_where_the_file_is_another_one_by_now(large, monkeypatch):
    path, good = large
    path.write_bytes(spoilt(good, 200_000))
    other = path.with_name("other")
    other.write_bytes(good)

    def meanwhile(*arguments):
        path.write_bytes(good)  # by another process
        return put_back(*arguments)

    monkeypatch.setattr("parimend.files.repairing.put_back", meanwhile)
    with pytest.raises(MismatchError, match="was saved anew while it was being repaired"):
        repair_file(path, sources=other)
    assert path.read_bytes() == good
    assert not hidden_files(path)


def test_a_folder_where_nothing_can_be_written_is_told(large, monkeypatch):
    path, good = large
    path.write_bytes(spoilt(good, 200_000))
    other = path.with_name("other")
    other.write_bytes(good)

    def refused(place):
        raise PermissionError(errno.EACCES, "Permission denied", str(place))

    monkeypatch.setattr("parimend.files.fetching.locked", refused)
    with pytest.raises(PermissionError, match="cannot be repaired in its place") as told:
        repair_file(path, sources=other)
    assert told.value.filename == str(path)


@pytest.fixture(params=["beside", "apart"])
def folders(request, tmp_path, rng):
    """A protected folder and a copy of it, of two large files and a small one; where seals are."""
    folder, copy = tmp_path / "model", tmp_path / "copy"
    for name, count in {"a.npy": 50_000, "sub/b.npy": 50_000, "small.npy": 5}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, rng.standard_normal(count))
    shutil.copytree(folder, copy)
    where = {"seal_dir": tmp_path / "seals"} if request.param == "apart" else {}
    protect_file(folder, 10, **where)
    return folder, copy, where


def contents_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".parimend"
    }


def test_what_is_missing_is_fetched(folders):
    folder, copy, where = folders
    if where:
        shutil.rmtree(folder / "sub")
    else:
        (folder / "sub/b.npy").unlink()
    (folder / "small.npy").unlink()
    gone = check_file(folder, **where)
    assert all("--in-place --from OTHER does" in f.problem for f in gone.files if not f.ok)
    assert sum(not f.ok for f in repair_file(folder, **where).files) == 2
    report = repair_file(folder, sources=copy, **where)
    assert [file.written for file in report.files if file.written] == [
        str(folder / "small.npy"),
        str(folder / "sub/b.npy"),
    ]
    assert (report.verdict, contents_of(folder)) == (Verdict.CORRECTED, contents_of(copy))
    assert check_file(folder, **where).verdict is Verdict.CLEAN
    (folder / "a.npy").unlink()
    out = folder.parent / "out.npy"
    assert repair_file(folder / "a.npy", out, sources=copy, **where).verdict is Verdict.CORRECTED
    assert (out.read_bytes(), (folder / "a.npy").exists()) == ((copy / "a.npy").read_bytes(), False)


@pytest.mark.parametrize("one", [True, False])
def test_what_a_link_led_to_is_fetched(folders, tmp_path, one):
    """As in the cache of a hub: the link stays, and what it leads to is put back."""
    folder, other, where = folders
    path, blob = folder / "a.npy", tmp_path / "blobs" / "0123"
    blob.parent.mkdir()
    content = path.read_bytes()
    path.unlink()
    path.symlink_to(blob)
    given, source = (path, other / path.name) if one else (folder, other)
    if one:
        with pytest.raises(FileNotFoundError, match=r"it is a link to .*0123.* --from OTHER does"):
            check_file(path, **where)
    assert repair_file(given, sources=source, **where).ok
    assert (path.is_symlink(), blob.read_bytes()) == (True, content)
    shutil.rmtree(blob.parent)
    with pytest.raises(FormatError, match=rf"no folder {blob.parent}") if one else nullcontext():
        [file] = [f for f in repair_file(given, sources=source, **where).files if not f.ok]
        assert f"missing: {path}: there is no folder {blob.parent}" in file.problem


@pytest.mark.parametrize("partial", [False, True])
def test_what_is_missing_and_cannot_be_fetched_stays_missing(folders, partial, rng):
    folder, copy, where = folders
    (folder / "a.npy").unlink()
    before = contents_of(folder)
    damaged = copy / "a.npy"
    flip(damaged, rng, 300, start=128)
    report = repair_file(folder, sources=copy, partial=partial, **where)
    told = [(file.verdict, file.written) for file in report.files if not file.ok]
    assert told == [(Verdict.UNCORRECTABLE, "")]
    damaged.unlink()
    [file] = [f for f in repair_file(folder, sources=copy, **where).files if not f.ok]
    assert file.problem == f"missing: {damaged} cannot be read: No such file or directory"
    with pytest.raises(SourceError, match=r"a\.npy cannot be read"):
        repair_file(folder / "a.npy", sources=copy, **where)
    assert contents_of(folder).keys() - before.keys() <= {Path(".a.npy.fetched")}


def test_what_came_of_a_cut_file_waits_for_the_rest(large, rng):
    """A file that cannot be made whole keeps its length; what lies behind has no place in it."""
    path, good = large
    protect_file(path, errors=5, per="tensor", force=True)
    other = path.with_name("other")
    other.write_bytes(good)
    flip(other, rng, 300, start=len(good) - 400_000)
    os.truncate(path, 500_000)
    [done] = repair_file(path, sources=other, partial=True).files
    assert (done.verdict, path.stat().st_size) == (Verdict.UNCORRECTABLE, 500_000)
    assert path.read_bytes() == good[:500_000]
    other.write_bytes(good)
    [done] = repair_file(path, sources=other).files
    assert (done.verdict, path.read_bytes()) == (Verdict.CORRECTED, good)
    assert done.fetched < len(good) - 500_000
