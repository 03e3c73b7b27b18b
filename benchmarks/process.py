"""Memory of this process and use of the machine's cores, as Linux counts them."""

import os
import time
from typing import NamedTuple


class CoreSeconds(NamedTuple):
    """Seconds that cores were busy since the machine started, for whom, and the time on the wall."""

    machine: float
    own: float
    wall: float

    @classmethod
    def now(cls):
        """Read from /proc/stat, whose first line is user, nice, system, idle, iowait, irq, softirq, steal."""
        with open("/proc/stat") as file:
            ticks = [int(number) for number in file.readline().split()[1:9]]
        times = os.times()
        idle = ticks[3] + ticks[4]
        return cls((sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), times.user + times.system, time.perf_counter())

    def until(self, end: "CoreSeconds") -> tuple[float, float]:
        """Cores that were busy on average, with this process and with others."""
        wall, own = end.wall - self.wall, end.own - self.own
        return own / wall, (end.machine - self.machine - own) / wall


def forget_peak() -> None:
    """Lets the kernel count the process's peak memory anew."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_mib() -> int:
    """The process's peak memory since then."""
    return _status_mib("VmHWM")


def resident_mib() -> int:
    """The process's memory now."""
    return _status_mib("VmRSS")


def _status_mib(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) // 1024
