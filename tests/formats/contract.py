"""What every format promises. Subclasses say which format, and make files of it."""

import io
from itertools import chain

import numpy as np
import pytest

from parimend import check_file, protect_file, repair_file
from parimend.armor import armor, unarmor
from parimend.errors import FormatError, SealError
from parimend.files import sidecar_of
from parimend.formats import FORMATS, layout_of, of_name, of_suffix
from parimend.outcomes import Verdict
from parimend.regular import read_at
from parimend.seal import Seal
from parimend.stores.file import FileTensors, LoadedTensors


class FormatContract:
    """Tests of one format; `path` is a fixture that gives a file of it with a few tensors."""

    name = ""

    @pytest.fixture
    def format(self):
        return of_name(self.name)

    @pytest.fixture
    def layout(self, format, path):
        with path.open("rb") as file:
            return format.parse(file, "it")

    def test_it_is_registered_and_detected(self, format, path):
        assert FORMATS[self.name] is format
        assert (type(format).name, format.name) == (self.name, self.name)
        assert of_suffix(path) is (format if format.suffix else None)
        other = path.rename(path.with_suffix(".other"))
        with other.open("rb") as file:
            assert layout_of(file, other).format is format

    def test_every_byte_belongs_to_one_tensor_or_span(self, layout, path):
        pieces = [(entry.begin, entry.end) for entry in layout.entries]
        pieces += [(at, at + len(data)) for at, data in layout.spans]
        pieces = sorted(piece for piece in pieces if piece[0] < piece[1])
        assert [0, *chain.from_iterable(pieces), layout.size] == sorted(
            [0, *chain.from_iterable(pieces), layout.size]
        )
        assert sum(end - begin for begin, end in pieces) == layout.size == path.stat().st_size
        assert layout.data_bytes + layout.span_bytes == layout.size
        assert len({part.name for part in layout.parts}) == len(layout.parts)
        for entry, part in zip(layout.entries, layout.parts, strict=True):
            assert (part.name, part.nbytes) == (entry.name, entry.end - entry.begin)

    def test_the_frame_gives_the_layout_back(self, format, layout):
        for frame in (layout.frame, memoryview(b"x" + bytes(layout.frame))[1:]):
            again = format.unfold(frame, "it")
            assert (again.entries, again.size) == (layout.entries, layout.size)
            assert (again.frame, again.spans) == (layout.frame, layout.spans)

    def test_frame_and_tensors_give_the_file_back(self, layout, path):
        with path.open("rb") as file:
            tensors = FileTensors(file, layout)
            assert tensors.has_header
            loaded = LoadedTensors(tensors)
        content = io.BytesIO()
        layout.write(content, loaded.data)
        assert content.getvalue() == path.read_bytes()
        for entry in layout.entries:
            there = path.read_bytes()[entry.begin : entry.end]
            assert loaded.data[entry.name].tobytes() == there

    def test_damage_around_the_tensors_is_restored(self, layout, path):
        original = path.read_bytes()
        protect_file(path, errors=3)
        for at, span in layout.spans:
            for begin, end in ((at, at + 1), (at + len(span) - 1, at + len(span))):
                damaged = bytearray(original)
                damaged[begin:end] = bytes(255 - byte for byte in damaged[begin:end])
                path.write_bytes(damaged)
                assert check_file(path).files[0].header is Verdict.CORRECTABLE
                assert repair_file(path).verdict is Verdict.CORRECTED
                assert path.read_bytes() == original

    def test_damage_of_the_tensors_is_restored(self, layout, path, rng):
        original = path.read_bytes()
        protect_file(path, errors=3)
        places = np.concatenate([np.arange(e.begin, e.end) for e in layout.entries])
        damaged = bytearray(original)
        for at in rng.choice(places, 3, replace=False):
            damaged[at] ^= 64
        path.write_bytes(damaged)
        assert repair_file(path).verdict is Verdict.CORRECTED
        assert path.read_bytes() == original

    def test_a_lost_end_is_restored(self, path):
        original = path.read_bytes()
        protect_file(path, errors=3)
        path.write_bytes(original[:-5])
        assert check_file(path).files[0].frame is Verdict.CORRECTABLE
        assert repair_file(path).verdict is Verdict.CORRECTED
        assert path.read_bytes() == original

    def test_a_file_of_another_size_is_refused(self, format, path):
        original = path.read_bytes()
        for content in (original[:-1], original[: len(original) // 2], original + b"x", b""):
            if format.strict or not content:
                path.write_bytes(content)
                with path.open("rb") as file, pytest.raises(FormatError, match="it "):
                    format.parse(file, "it")

    def test_no_frame_upsets_it(self, format, layout, rng):
        frame = bytes(layout.frame)
        frames = [b"", b"\xff" * 8, frame[:-1], frame + b"x", *(rng.bytes(n) for n in range(8))]
        for wrong in frames:
            with pytest.raises(FormatError, match=r"^it\b"):
                format.unfold(wrong, "it")

    def test_seals_name_it_and_nothing_else(self, layout, path):
        seal = protect_file(path, errors=3)[0].seal
        assert dict(seal.blobs) == {self.name: layout.frame}
        data = sidecar_of(path).read_bytes()
        assert Seal.from_bytes(data).to_bytes() == data
        payload = bytes(unarmor(data, "it")[0])
        assert b'"tensors"' not in payload  # the frame lists them
        assert payload.count(b'"%b":%d' % (self.name.encode(), len(layout.frame))) == 1
        unknown = payload.replace(
            b'"%b":' % self.name.encode(), b'"%b":' % self.name[::-1].encode()
        )
        with pytest.raises(SealError, match=f"{self.name[::-1]!r} is not known .* a newer one"):
            Seal.from_bytes(armor(unknown))

    def test_seals_inside(self, format, layout, path):
        if not format.holds_seal:
            assert format.seal_in(layout) is None
            with pytest.raises(FormatError, match="no place for a seal"):
                format.with_seal(layout, b"seal")
            with pytest.raises(FormatError, match="no place for a seal"):
                protect_file(path, 3, "lowbits", path.with_name("made"))
            with path.open("rb") as file:
                assert list(format.seals_in(file, "it")) == []
            return
        with path.open("rb") as file:
            data = {e.name: read_at(file, e.begin, e.end - e.begin) for e in layout.entries}
        assert format.seal_in(layout) is None
        bare = format.with_seal(layout, None)
        for seal in (armor(b"one"), armor(b"another" * 99)):
            sealed = format.with_seal(layout, seal)
            assert format.seal_in(sealed) == seal
            assert [e[:3] for e in sealed.entries] == [e[:3] for e in layout.entries]
            assert format.with_seal(sealed, None).frame == bare.frame
            assert format.with_seal(sealed, b"x").frame == format.with_seal(layout, b"x").frame
            with path.open("w+b") as file:
                sealed.write(file, data)
                file.flush()
                assert format.parse(file, "it").frame == sealed.frame
                assert next(format.seals_in(file, "it")) == seal
