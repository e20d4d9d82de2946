"""Properties that are computed once."""

import threading

from parimend.lasting import cached_property
from tests.forked import in_a_fork


def test_a_process_that_is_forked_while_a_property_is_computed_computes_it():
    computing, go_on = threading.Event(), threading.Event()

    class Slow:
        @cached_property
        def value(self):
            computing.set()
            go_on.wait(20)
            return 3

    one = Slow()
    thread = threading.Thread(target=lambda: one.value)
    thread.start()
    computing.wait()

    def work():
        go_on.set()  # of this process
        return one.value == 3

    try:
        assert in_a_fork(work)
    finally:
        go_on.set()
        thread.join()
