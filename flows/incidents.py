"""Incidents of monitoring: opened, acted on by policy, listed, closed.

Every step is written down after it was taken, and each can be taken again without harm: withdrawing looks at the chain
of decisions first, and Prefect knows a lifecycle that an incident has started already by the incident's id. A monitor
that is killed in between goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import getpass
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flows.champion import withdraw
from flows.rulings import in_force
from flows.server import server_url
from tasks.errors import GatehouseError
from tasks.gate import utc_now
from tasks.monitoring.findings import Finding, Standing
from tasks.monitoring.incidents import INCIDENTS, Incident, append, events, fold, is_open, key_of, opened, opens
from tasks.params import Action, Params

LOCK = Path(".gatehouse/monitoring.lock")
DEPLOYMENT = "lifecycle/lifecycle"


class NotDoneError(GatehouseError):
    """An action could not be taken; it stays pending, and the next run of monitoring tries again."""


def respond(found: Sequence[Finding], standing: Standing, params: Params) -> tuple[tuple[Incident, ...], list[Finding]]:
    """Open incidents for what is new, take what actions are pending, and say which could not be taken.

    Raises:
        GatehouseError: the record of incidents is broken.
    """
    policy, present = params.monitoring.on_incident, {key_of(f) for f in found}
    with _one_at_a_time():
        known = read_incidents()
        for finding in found:
            if opens(finding, policy) and not is_open(known, finding):
                about = {"version": standing.version, "sha256": standing.sha256}
                append(INCIDENTS, opened(finding, policy, at=utc_now(), **about))
                known = read_incidents()
        undone = []
        for incident in known:
            for action in incident.pending:
                try:
                    if action == "withdraw":
                        result = _withdraw(incident, params, present=incident.key in present)
                    else:
                        result = start_lifecycle(incident.id)
                except NotDoneError as error:
                    undone.append(_undone(incident, action, str(error)))
                    continue
                append(
                    INCIDENTS,
                    {"event": "acted", "id": incident.id, "at": utc_now(), "action": action, "result": result},
                )
        return read_incidents(), undone


def read_incidents() -> tuple[Incident, ...]:
    """Every incident, oldest first."""
    return fold(events(INCIDENTS))


def close(name: str, note: str) -> Incident:
    """Close an open incident; raises GatehouseError where there is none of this name."""
    with _one_at_a_time():
        known = {i.id: i for i in read_incidents()}
        if name not in known or known[name].state == "closed":
            listed = ", ".join(i.id for i in known.values() if i.state == "open") or "none"
            raise GatehouseError(f"No incident {name!r} is open; open are: {listed}.")
        if not note.strip():
            raise GatehouseError("Say with --note why the incident is closed; whoever reads the record will ask.")
        append(
            INCIDENTS, {"event": "closed", "id": name, "at": utc_now(), "by": getpass.getuser(), "note": note.strip()}
        )
        return next(i for i in read_incidents() if i.id == name)


def _withdraw(incident: Incident, params: Params, *, present: bool) -> str:
    """Take the champion out of service, unless that was done, or what asked for it is no longer so."""
    try:
        ruled = in_force(params.promotion)
        if ruled and ruled["decision"] == "withdrawn":
            return f"version {ruled['version']} is out of service since {ruled['at']}"
        if ruled and (str(ruled["version"]), ruled["sha256"]) != (incident.version, incident.sha256):
            return f"not needed: version {ruled['version']} has been promoted since"
        if not present:
            return "not needed: the cause was gone before anything was done"
        withdraw(incident.version, incident.sha256, f"Incident {incident.id}: {incident.reason}")
    except GatehouseError as error:
        raise NotDoneError(f"version {incident.version} could not be taken out of service: {error}") from error
    return f"version {incident.version} was taken out of service"


def start_lifecycle(incident: str) -> str:
    """Start the lifecycle's deployment once for this incident; returns the flow run's id.

    Raises:
        NotDoneError: no server answers, or it does not know the deployment.
    """
    url = server_url()
    if url is None:
        raise NotDoneError("the lifecycle was not started, for no Prefect server answers")
    import httpx
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound, PrefectException
    from prefect.settings import PREFECT_API_URL, temporary_settings

    try:
        with temporary_settings({PREFECT_API_URL: url}):
            run = run_deployment(DEPLOYMENT, timeout=0, as_subflow=False, idempotency_key=f"gatehouse-{incident}")
    except ObjectNotFound as error:
        raise NotDoneError(f"the lifecycle was not started, for {url} knows no deployment {DEPLOYMENT}") from error
    except (PrefectException, httpx.HTTPError) as error:
        raise NotDoneError(f"the lifecycle was not started ({type(error).__name__} of {url})") from error
    return f"flow run {run.id} ({run.name})"


def _undone(incident: Incident, action: Action, why: str) -> Finding:
    by_hand = {
        "withdraw": "Stop the service by hand, then mend what is said here; monitoring tries again.",
        "lifecycle": "Run `make run`, or `make schedule`, which holds the deployment; monitoring then tries again.",
    }
    return Finding(
        severity="warning",
        about="incident",
        reason=f"Incident {incident.id}: {why.rstrip('.')}.",
        next_step=by_hand[action],
    )


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two monitors at once (a schedule's and a human's) would both open the same incident."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
