"""Files of a set that have the names of others, lie in their places, or hold what others held."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parimend import check_file, protect_file
from parimend.files import seals_of

KEPT = "kept.npy"
NAMES = ("m.npy", "o.npy", "sub/m.npy", "sub/o.npy", "sub/sub/m.npy")


def save(folder, names):
    """Arrays of one shape, each of its own number."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, np.full(300, number, np.float32))


def looked_at(folder, **where):
    return {
        Path(file.path).relative_to(folder).as_posix() for file in check_file(folder, **where).files
    }


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.sampled_from(NAMES)),
    st.sets(st.sampled_from(NAMES)),
    st.sets(st.sampled_from(NAMES)),
    st.lists(st.sampled_from(NAMES), max_size=2),
)
@pytest.mark.parametrize("is_apart", [True, False])
def test_whatever_is_lost_no_files_are_made_up(is_apart, files, seals, damaged, exchanged):
    """Names are read from seals, and seals may be found by a name that several files have."""
    with TemporaryDirectory() as place:
        folder, apart = Path(place, "model"), Path(place, "seals")
        save(folder, [KEPT, *NAMES])
        where = {"seal_dir": apart} if is_apart else {}
        made = protect_file(folder, 2, **where)
        sides = {Path(one.path).relative_to(folder).as_posix(): Path(one.sidecar) for one in made}
        for name in files:
            (folder / name).unlink()
        for name in damaged - files:
            (folder / name).write_bytes(b"?" * 1000)
        for one, other in zip(exchanged, exchanged[1:], strict=False):
            contents = sides[one].read_bytes(), sides[other].read_bytes()
            sides[other].write_bytes(contents[0])
            sides[one].write_bytes(contents[1])
        for name in seals:
            sides[name].unlink()
        assert looked_at(folder, **where) == {KEPT, *NAMES}
        found, problems = seals_of(folder, where.get("seal_dir"))
        assert {*found, *problems} == {folder / name for name in (KEPT, *NAMES)}
