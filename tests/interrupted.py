"""Interrupts wherever they may come: Python looks for them as calls begin, and after they end."""

import contextlib
import dis
import inspect
import sys


def interrupted(work, *files):
    """Interrupt a piece of work, done anew each time, at every place in some files; yields after
    each interrupt.
    """
    place = 1
    while _is_interrupted(work, files, place):
        yield
        place += 1


def _is_interrupted(work, files, place):
    passed, before = 0, {}

    def come():
        nonlocal passed
        passed += 1
        if passed == place:
            sys.settrace(None)
            raise KeyboardInterrupt

    def trace(frame, event, arg):
        code = frame.f_code
        if code.co_filename not in files or passed >= place:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call" and not code.co_flags & inspect.CO_GENERATOR:
            come()
        if event == "opcode":
            if before.get(frame, "").startswith("CALL"):
                come()
            before[frame] = dis.opname[code.co_code[frame.f_lasti]]
        return trace

    traced = sys.gettrace()
    with contextlib.suppress(KeyboardInterrupt):
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(traced)
    return passed == place
