"""How many images may be asked about: a token bucket a minute and one a day, for each account and for all together.

A bucket holds the limit, and refills evenly over its period. Time is `time.monotonic`, which no change of the
machine's clock moves. A day's bucket that was full lets through at most twice its limit within its first day.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tasks.risk import Budget
from tasks.serving.errors import RequestError

MINUTE, DAY = 60.0, 86_400.0
MAX_ACCOUNTS = 10_000  # whose state is kept; beyond that the longest silent ones start anew, and the total still counts


@dataclass
class _Buckets:
    """What is spent of each period's limit, as of `at`."""

    at: float
    spent: dict[float, float] = field(default_factory=lambda: {MINUTE: 0.0, DAY: 0.0})

    def wait(self, limits: dict[float, int], n: int, now: float) -> float:
        """Seconds until `n` images fit, 0 where they do now; a limit below `n` counts as n: else they never would."""
        elapsed, self.at = max(now - self.at, 0.0), max(now, self.at)
        seconds = 0.0
        for period, limit in limits.items():
            self.spent[period] = max(self.spent[period] - elapsed * limit / period, 0.0) if limit else 0.0
            if limit and (over := self.spent[period] + n - max(limit, n)) > 0:
                seconds = max(seconds, over * period / limit)
        return seconds

    def spend(self, n: int) -> None:
        for period in self.spent:
            self.spent[period] += n


class Budgets:
    """State of every account's buckets, in bounded memory, for any number of threads."""

    def __init__(self, *, max_accounts: int = MAX_ACCOUNTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._max, self._clock = max_accounts, clock
        self._lock = threading.Lock()
        self._accounts: OrderedDict[str, _Buckets] = OrderedDict()
        self._all = _Buckets(clock())

    def __len__(self) -> int:
        return len(self._accounts)

    def check(self, account: str, budget: Budget) -> None:
        """Raises RequestError, 429, where not one image fits into the budget now; spends nothing."""
        self._refuse(self._wait(account, budget, 1, spend=False))

    def take(self, account: str, budget: Budget, images: int) -> None:
        """Spend so many images, or raise RequestError, 429, and spend nothing."""
        self._refuse(self._wait(account, budget, images, spend=True))

    def fits(self, account: str, budget: Budget) -> bool:
        """Spend one, if it fits."""
        return self._wait(account, budget, 1, spend=True) == 0

    def spend(self, account: str, images: int) -> None:
        """Spend so many whether they fit or not."""
        with self._lock:
            self._of(account).spend(images)
            self._all.spend(images)

    def restore(self, spent: Mapping[str, int]) -> None:
        """Count images of the last day that were answered before this process started, by account."""
        with self._lock:
            for account, images in spent.items():
                for buckets in (self._of(account), self._all):
                    buckets.spent[DAY] += images

    def _wait(self, account: str, budget: Budget, images: int, *, spend: bool) -> float:
        """Seconds until so many images fit; where that is now, they are spent."""
        with self._lock:
            own, now = self._of(account), self._clock()
            seconds = max(
                own.wait({MINUTE: budget.rate_per_minute, DAY: budget.images_per_day}, images, now),
                self._all.wait({MINUTE: budget.rate_per_minute_all, DAY: budget.images_per_day_all}, images, now),
            )
            if seconds == 0 and spend:
                own.spend(images)
                self._all.spend(images)
            return seconds

    def _refuse(self, seconds: float) -> None:
        if seconds > 0:
            wait = math.ceil(seconds)
            raise RequestError(
                f"The budget of images is used up; ask again in {wait} s.",
                code="REQUEST_LIMIT_EXCEEDED",
                status=429,
                headers={"Retry-After": str(wait)},
            )

    def _of(self, account: str) -> _Buckets:
        """The account's buckets, moved to the end of the order; the longest silent account makes room."""
        name = _network(account)
        if name not in self._accounts:
            self._accounts[name] = _Buckets(self._clock())
            if len(self._accounts) > self._max:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(name)
        return self._accounts[name]


def _network(account: str) -> str:
    """An IPv6 client owns a whole /64: its addresses share one budget. Anything else is itself."""
    if ":" not in account:
        return account
    try:
        return str(ipaddress.IPv6Network((account.partition("%")[0], 64), strict=False))
    except ValueError:
        return account
