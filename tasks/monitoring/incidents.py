"""Incidents: what was found, since when it is open, what was done about it, and who closed it.

The record is an append-only file of events, each with the digest of the line before it; an incident is what its events
add up to. The file says what was done by whom on this host; the decisions themselves are in the signed chain.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tasks.errors import GatehouseError
from tasks.files import sha256_bytes
from tasks.gate import Frozen
from tasks.monitoring.findings import Finding
from tasks.params import Action, Cause

INCIDENTS = Path(".gatehouse/incidents.jsonl")
START = "0" * 64


class Incident(Frozen):
    """One incident. `done` says of each action that was taken what came of it; `version` is what it is about."""

    id: str
    key: str  # what makes a later finding the same cause
    opened_at: str
    about: str
    severity: str
    reason: str
    next_step: str
    version: str = ""
    sha256: str = ""
    actions: tuple[Action, ...] = ()
    done: dict[str, str] = Field(default_factory=dict)
    state: Literal["open", "closed"] = "open"
    closed_at: str = ""
    closed_by: str = ""
    note: str = ""

    @property
    def pending(self) -> tuple[Action, ...]:
        return tuple(a for a in self.actions if a not in self.done) if self.state == "open" else ()


def opens(finding: Finding, policy: Mapping[Cause, tuple[Action, ...]]) -> bool:
    """Does this finding open an incident? A critical one does, and one whose cause the policy names."""
    return finding.severity == "critical" or finding.cause in policy


def key_of(finding: Finding) -> str:
    return finding.key or f"{finding.about}: {finding.reason}"


def opened(
    finding: Finding, policy: Mapping[Cause, tuple[Action, ...]], *, at: str, version: str, sha256: str
) -> dict[str, Any]:
    """The event that opens an incident; the actions that policy asks for are fixed in it."""
    key = key_of(finding)
    return {
        "event": "opened",
        "id": f"{at[:10]}-{sha256_bytes(f'{key}|{at}'.encode())[:6]}",
        "key": key,
        "opened_at": at,
        "about": finding.about,
        "severity": finding.severity,
        "reason": finding.reason,
        "next_step": finding.next_step,
        "version": version,
        "sha256": sha256,
        "actions": list(policy.get(finding.cause, ()) if finding.cause else ()),
    }


def fold(events: Iterable[Mapping[str, Any]]) -> tuple[Incident, ...]:
    """Incidents from their events, oldest first.

    Raises:
        GatehouseError: an event is not one of ours.
    """
    found: dict[str, Incident] = {}
    for event in events:
        try:
            kind, name = event["event"], event["id"]
            if kind == "opened":
                found[name] = Incident.model_validate({k: v for k, v in event.items() if k in Incident.model_fields})
            elif kind == "acted":
                done = {**found[name].done, event["action"]: event["result"]}
                found[name] = found[name].model_copy(update={"done": done})
            elif kind == "closed":
                closed = {"state": "closed", "closed_at": event["at"], "closed_by": event["by"], "note": event["note"]}
                found[name] = found[name].model_copy(update=closed)
            else:
                raise KeyError(kind)
        except (KeyError, ValueError) as error:
            raise GatehouseError(f"{INCIDENTS} holds an event that is none of an incident ({error}).") from error
    return tuple(found.values())


def append(path: Path, event: Mapping[str, Any]) -> None:
    """Add an event and wait until it is on the disk; a line that did not fit on it is taken back.

    Raises:
        GatehouseError: the chain so far is broken, or the disk does not take the line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        line = json.dumps({"previous": _walk(path)[0], **event}, sort_keys=True, ensure_ascii=False).encode() + b"\n"
        end = f.seek(0, os.SEEK_END)
        try:
            written = f.write(line)
            os.fsync(f.fileno())
        except OSError as error:
            written = -1
            why = error.strerror
        else:
            why = "only a part of it fitted"
        if written != len(line):
            f.truncate(end)
            raise GatehouseError(f"Incident not written to {path}: {why}; free some space and run monitoring again.")


def events(path: Path) -> list[dict[str, Any]]:
    """Every event, oldest first; raises GatehouseError where a line was changed, removed or reordered."""
    return _walk(path)[1]


def _walk(path: Path) -> tuple[str, list[dict[str, Any]]]:
    head, found = START, []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
        try:
            event = json.loads(line)
            previous = event["previous"]
        except (ValueError, KeyError, TypeError):
            previous = None
        if previous != head:
            raise GatehouseError(
                f"{path}: the chain of incidents breaks at line {number}; something before it was changed or removed. "
                "Move the file aside to begin a new one, and keep it for whoever investigates."
            )
        head = sha256_bytes(line)
        found.append(event)
    return head, found


def is_open(incidents: Iterable[Incident], finding: Finding) -> bool:
    """Is there an open incident of the same cause already?"""
    return any(i.state == "open" and i.key == key_of(finding) for i in incidents)
