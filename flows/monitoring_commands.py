"""What a human does with monitoring: `python -m flows.monitoring incidents`, `close ID --note TEXT`, `serve`."""

from __future__ import annotations

import argparse

from rich.table import Table

from flows.incidents import close, read_incidents
from flows.terminal import mendable, terminal


def command(argv: list[str]) -> int:
    """The command line beside the run itself."""
    parser = argparse.ArgumentParser(prog="python -m flows.monitoring", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("incidents", help="list them, with what was done about each")
    closing = commands.add_parser("close", help="close an incident")
    closing.add_argument("id", metavar="ID")
    closing.add_argument("--note", required=True, help="why; it stays in the record")
    commands.add_parser("serve", help="the page on loopback, renewed as requests come in, until Ctrl-C")
    arguments = parser.parse_args(argv)
    console = terminal()
    with mendable("monitoring", console):
        if arguments.command == "incidents":
            _show()
        elif arguments.command == "close":
            closed = close(arguments.id, arguments.note)
            console.print(f"{closed.id} is closed by {closed.closed_by}: {closed.note}", highlight=False, markup=False)
        else:
            from flows.monitoring_live import serve

            serve(console)
    return 0


def _show() -> None:
    incidents = read_incidents()
    table = Table("incident", "state", "severity", "what", "done", title=None if incidents else "No incident.")
    for i in incidents:
        state = i.state if i.state == "open" else f"closed {i.closed_at} by {i.closed_by}: {i.note}"
        done = "\n".join(f"{k}: {v}" for k, v in i.done.items())
        pending = "\n".join(f"{a}: to be done" for a in i.pending)
        table.add_row(i.id, state, i.severity, i.reason, "\n".join(filter(None, (done, pending))))
    terminal().print(table, markup=False)
