"""Threads meet at events; nothing here waits for a time."""

import threading
import weakref

import pytest

from hybrid_infer.bulk.pipeline import run


class Window:
    def __init__(self, number):
        self.number = number


def test_windows_keep_their_order():
    written = []
    run(iter(range(1, 20)), lambda n: n * 2, written.append)
    assert written == [n * 2 for n in range(1, 20)]


def test_a_slow_writer_holds_up_reading_and_two_windows_are_alive_at_most():
    alive, most = weakref.WeakSet(), []
    read_beside_write = threading.Event()

    def read():
        for number in range(1, 6):
            window = Window(number)
            alive.add(window)
            most.append(len(alive))
            if number == 3:
                read_beside_write.set()
            yield window
            del window

    def compute(window):
        return window

    def write(window):
        if window.number == 1:
            # The second window is computed meanwhile, but the third is not read before this ends.
            assert not read_beside_write.is_set()

    run(read(), compute, write)
    assert read_beside_write.is_set()
    assert max(most) == 2


def test_reading_and_writing_go_on_while_one_is_computed():
    reading_third, writing_first = threading.Event(), threading.Event()

    def read():
        yield 1
        yield 2
        reading_third.set()
        yield 3

    def compute(window):
        if window == 2:
            # Only the other threads can set these while this one waits here.
            assert writing_first.wait(60)
            assert reading_third.wait(60)
        return window

    run(read(), compute, lambda window: writing_first.set() if window == 1 else None)


@pytest.mark.parametrize("place", ["read", "compute", "write"])
def test_the_first_error_ends_the_run_and_what_was_computed_before_is_written(place):
    written = []

    def fail_at(name, window):
        if name == place and window == 3:
            raise ValueError(name)
        return window

    def read():
        for number in range(1, 9):
            yield fail_at("read", number)

    with pytest.raises(ValueError, match=place):
        run(read(), lambda n: fail_at("compute", n), lambda n: written.append(fail_at("write", n)))
    assert written == [1, 2]


def test_nothing_is_nothing():
    assert run(iter([]), lambda n: n, lambda _n: None) == 0.0
