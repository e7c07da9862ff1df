"""Lifecycle and monitoring on their schedules (`lifecycle.cron`, `monitoring.cron`), until Ctrl-C."""

from __future__ import annotations

import os
import sys

from rich.console import Console

from flows.lifecycle import run_lifecycle
from flows.server import prefect_environment, prefect_server
from tasks.errors import GatehouseError
from tasks.params import load_params


def main() -> int:
    """Register the two deployments with the Prefect server and run what falls due in this process."""
    console = Console()
    try:
        params = load_params()
        with prefect_server() as url:
            from prefect import flow, serve

            from flows.monitoring import monitoring_flow

            lifecycle = flow(run_lifecycle, name="lifecycle", persist_result=False, validate_parameters=False)
            console.print(f"serving lifecycle and monitoring through {url}; Ctrl-C stops", highlight=False)
            serve(
                lifecycle.to_deployment("lifecycle", cron=params.lifecycle.cron),
                monitoring_flow.to_deployment("monitoring", cron=params.monitoring.cron),
            )
    except GatehouseError as error:
        console.print(f"[bold red]{error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    os.environ.update({k: os.environ.get(k, v) for k, v in prefect_environment().items()})
    sys.exit(main())
