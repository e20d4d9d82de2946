"""What is planned for: a model, or files, as stores of tensors with what is asked of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from parimend import carriers
from parimend.arguments import path_of
from parimend.carriers import PlannedWord, Request
from parimend.files import targets
from parimend.files.choosing import choose, of_file
from parimend.files.protecting import with_places
from parimend.files.sealing import with_room
from parimend.formats import layout_of
from parimend.regular import open_regular
from parimend.stores.base import Tensors
from parimend.stores.file import ChosenTensors, FileTensors


class Source(NamedTuple):
    """Tensors that are protected together.

    Attributes:
        path: of the file; empty of a live model.
        tensors: all that are to be protected.
        request: what is asked for.
    """

    path: str
    tensors: Tensors
    request: Request

    def asked(self, errors: int) -> Request:
        """The same with another budget."""
        return replace(self.request, errors=errors)

    def planned(self, errors: int, *, prove: bool = True) -> tuple[PlannedWord, ...]:
        """What protecting it with a budget takes.

        Args:
            errors: the budget.
            prove: prove what is to be guaranteed, and do not only take it for proven.

        Raises:
            SpecError, WordError: as `Carrier.choose` and `Carrier.guarantee` do.
        """
        made = carriers.plan(self.tensors, self.asked(errors), prove)
        if prove:
            return made
        least = self.request.guaranteed or 0
        return tuple(replace(word, promise=word.promise.assured(least)) for word in made)


@contextmanager
def sources(given: Any, request: Request) -> Iterator[list[Source]]:
    """A model, or the files that a path means; they are open until the context ends.

    Raises:
        FormatError, SpecError, WordError, OSError: as `parimend.protect_file` does.
    """
    if not isinstance(given, str | os.PathLike):
        from parimend.model import tensors_to_protect  # loads torch, which files do without

        held = tensors_to_protect(given, request.only, request.buffers)
        yield [Source("", held, request.fitted(given, held))]
        return
    with ExitStack() as stack:
        path, found = path_of(given), []
        files = targets(path)
        if request.carrier.moves and path.is_dir():
            files = with_places(files, path)
        for target, names in choose(files, request.only).items():
            file = stack.enter_context(open_regular(target))
            mine = of_file(request, target)
            layout = with_room(file, target) if mine.carrier.moves else layout_of(file, target)
            found.append(Source(str(target), ChosenTensors(FileTensors(file, layout), names), mine))
        yield found
