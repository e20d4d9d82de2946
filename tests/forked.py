"""What becomes of things in a process that is forked."""

import os
import signal
import warnings


def in_a_fork(work):
    """What a forked process makes of it: whether it is true there; a process that hangs ends."""
    child = os.fork()
    if not child:  # pytest must not go on in two processes
        code = 1
        try:
            signal.alarm(20)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = 0 if work() else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0
