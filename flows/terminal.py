"""What every command line shares: a console, a bar, and errors that are one sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from tasks.errors import GatehouseError

BAR = 20  # characters


def terminal() -> Console:
    """Standard output; lines are 160 wide where it is no terminal, since whoever reads it cuts them itself."""
    return Console(file=sys.stdout, width=160 if not sys.stdout.isatty() else None)


def bar(done: int, total: int) -> str:
    """How far a piece of work is, `BAR` characters wide."""
    return f"{'█' * round(BAR * done / max(total, 1)):<{BAR}} {done}/{total}"


@contextmanager
def mendable(name: str, console: Console) -> Iterator[None]:
    """Turn what the user can mend into one sentence and exit code 1."""
    try:
        yield
    except GatehouseError as error:
        console.print(f"[bold red]{name}: {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
