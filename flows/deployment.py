"""The champion in service: made ready from its evidence, and replaced or taken away as that changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from mlflow.exceptions import MlflowException

from flows.champion import ProvenChampion, ruled_champion, still_proven
from flows.registry import RegistryAwayError
from tasks.data.decode import image_from_bytes
from tasks.errors import GatehouseError
from tasks.params import Params
from tasks.risk import Budget
from tasks.serving.budgets import DAY, Budgets
from tasks.serving.champion import Champion
from tasks.serving.guards.calibration import load_guards
from tasks.serving.log import RequestLog, read_history
from tasks.serving.service import Deployment, Limits, Service

Say = Callable[[str], None]


def spent_before(params: Params) -> Budgets:
    """The day's budgets as the log knows them: a restart gives nobody a new one.

    Where the log keeps no names, only what all accounts have spent together is known.
    """
    budgets = Budgets()
    requests = read_history(params.serving.log, since=time.time() - DAY).requests
    if params.serving.log_accounts != "name":
        requests = requests.assign(account="")
    budgets.restore({str(account): int(n) for account, n in requests.groupby("account")["count"].sum().items()})
    return budgets


def make_service(params: Params, champion: ProvenChampion, log: RequestLog) -> Service:
    """One champion's service: the limits of params.yaml, images prepared as its data were, its own signed guards."""
    proven, spec, s = champion.proven, champion.proven.record.spec, params.serving
    how = champion.preparation()
    prepare = partial(
        image_from_bytes,
        side=spec.image_size,
        channels=spec.channels,
        remedy=how.remedy,
        border_fraction=how.border_fraction,
        corner_fraction=how.corner_fraction,
    )
    guards = load_guards(
        champion.signed_file("guards.json"), champion.model, source=f"guards.json of version {champion.version}"
    )
    served = Champion(
        champion.model,
        spec,
        params.promotion.model_name,
        champion.version,
        proven.sha256,
        proven.policy.output,
        guards,
    )
    own = {name: getattr(s, name) for name in Budget.model_fields if getattr(s, name) != "policy"}
    budget = proven.policy.budget.model_copy(update=own)
    return Service(served, prepare, Limits(s.max_request_bytes, s.max_images), log, budget)


@contextmanager
def watching(params: Params, deployment: Deployment, champion: ProvenChampion, say: Say) -> Iterator[threading.Thread]:
    """Look for the champion every `serving.poll_seconds`, in a thread of its own, until the block ends."""
    stop = threading.Event()
    watch = Watch(params, deployment, champion, say)

    def poll() -> None:
        try:
            while not stop.wait(params.serving.poll_seconds):
                watch.look()
        finally:
            if not stop.is_set():  # by a fault of ours nobody looks any more: then nothing vouches for the champion
                deployment.replace(None)

    thread = threading.Thread(target=poll, name="champion", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(timeout=10)


class Watch:
    """What is served beside what is proven. One thread looks; answers meanwhile go on as they were."""

    def __init__(self, params: Params, deployment: Deployment, champion: ProvenChampion, say: Say) -> None:
        self._params, self._deployment, self._say = params, deployment, say
        self._champion: ProvenChampion | None = champion
        self._said = ""

    def look(self) -> None:
        """Verify anew: serve a new proven champion, keep the present one, or take it out of service.

        What counts is the newest signed decision: an alias that was moved by hand changes nothing here. A registry
        that does not answer takes nothing away from a champion whose evidence still verifies.
        """
        try:
            found = ruled_champion(self._params.promotion)
            if self._champion is None or _identity(found) != _identity(self._champion):
                self._deployment.replace(make_service(self._params, found, self._deployment.log))
                self._champion = found
                self._tell(
                    f"version {found.version} ({found.proven.sha256[:12]}), evidence verified, answers from now on"
                )
            self._said = ""
        except (RegistryAwayError, MlflowException, OSError) as error:
            self._without_registry(f"The champion could not be looked for: {error}")
        except GatehouseError as error:
            self._stop(str(error))

    def _without_registry(self, why: str) -> None:
        try:
            if self._champion is not None:
                still_proven(self._champion, self._params.promotion)
        except (GatehouseError, OSError) as error:
            self._stop(f"{why} {error}")
        else:
            self._tell(why)

    def _stop(self, why: str) -> None:
        self._deployment.replace(None)
        self._champion = None
        self._tell(f"out of service: {why}")

    def _tell(self, text: str) -> None:
        """Say it once, not every few seconds."""
        if text != self._said:
            self._said = text
            self._say(text)


def _identity(champion: ProvenChampion) -> tuple[str, str]:
    """What makes a champion another: its version, or what was signed of it."""
    return champion.version, champion.proven.evidence
