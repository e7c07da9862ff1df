"""The request log deletes by age only under a clock that has run evenly."""

from __future__ import annotations

import time

from log_tools import entry

from tasks.serving.log import RequestLog, read_history
from tasks.serving.log.writer import SteadyClock


class Clocks:
    """A wall clock that can be set, beside one that runs evenly."""

    def __init__(self) -> None:
        self.wall, self.even = time.time(), 0.0

    def run(self, seconds: float) -> None:
        self.wall, self.even = self.wall + seconds, self.even + seconds

    def clock(self) -> SteadyClock:
        return SteadyClock(3600.0, lambda: self.wall, lambda: self.even)


def test_a_clock_is_believed_once_it_has_run_evenly_for_an_hour():
    clocks = Clocks()
    clock = clocks.clock()
    assert clock.now() is None
    clocks.run(4000)
    assert clock.now() == clocks.wall
    clocks.wall += 14 * 365 * 86_400.0
    assert clock.now() is None
    clocks.run(3000)
    assert clock.now() is None
    clocks.wall -= 14 * 365 * 86_400.0
    assert clock.now() is None
    clocks.run(3700)
    assert clock.now() == clocks.wall


def test_a_clock_that_leaps_to_2040_and_back_deletes_nothing(tmp_path):
    path = tmp_path / "log.db"
    clocks = Clocks()
    log = RequestLog(path, max_rows=1000, max_days=30, clock=clocks.clock())

    def put(hours: float) -> None:
        clocks.run(3600 * hours)
        log.put(entry(1, when=clocks.wall))
        while log._waiting:
            time.sleep(0.005)

    put(0), put(2)
    clocks.wall += 14 * 365 * 86_400.0
    put(0), put(0.5)
    clocks.wall -= 14 * 365 * 86_400.0
    put(0), put(0.5)
    assert len(read_history(path, since=0).requests) == 6
    put(2)  # believed again: the two of 2040 are dated to now, and age from here
    times = read_history(path, since=0).requests["time"]
    assert len(times) == 7
    assert times.max() == clocks.wall
    put(24 * 40)
    assert len(read_history(path, since=0).requests) == 1
    log.close()
