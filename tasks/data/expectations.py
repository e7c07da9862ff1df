"""Great Expectations on the manifest: its columns hold what every later stage relies on.

GX runs from memory: no project folder, nothing written, no telemetry.
"""

from __future__ import annotations

import os
from typing import Any

import pandas as pd

from tasks.data.dataset import SPLITS
from tasks.errors import GatehouseError

COLUMNS = ("path", "sha256", "phash", "label", "split", "group", "width", "height", "mean", "sd", "source")
MIN_SIDE = 16  # pixels: below it an X-ray shows nothing


def expect(manifest: pd.DataFrame, classes: tuple[str, ...], declared_source: str) -> list[dict[str, Any]]:
    """Run the suite; one row an expectation: `expectation`, `columns`, `passed`, `unexpected` (how many rows).

    Raises:
        GatehouseError: fewer expectations ran than were asked for; an empty suite "succeeds" in GX.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    source = context.data_sources.add_pandas("manifest")
    batch = (
        source.add_dataframe_asset("manifest")
        .add_batch_definition_whole_dataframe("all")
        .get_batch(batch_parameters={"dataframe": manifest})
    )
    wanted = _suite(gx.expectations, classes, declared_source)
    suite = gx.ExpectationSuite(name="manifest")
    for expectation in wanted:
        suite.add_expectation(expectation)
    result = batch.validate(suite)
    ran = int(result.statistics["evaluated_expectations"])
    if not ran or ran != len(wanted):
        raise GatehouseError(
            f"Great Expectations ran {ran} of {len(wanted)} expectations on the manifest; reinstall it."
        )
    return [_row(r) for r in result.results]


def _suite(e: Any, classes: tuple[str, ...], declared_source: str) -> list[Any]:
    return [
        e.ExpectTableColumnsToMatchOrderedList(column_list=list(COLUMNS)),
        e.ExpectTableRowCountToBeBetween(min_value=2 * len(classes)),
        *(e.ExpectColumnValuesToNotBeNull(column=c) for c in COLUMNS),
        e.ExpectColumnValuesToBeUnique(column="path"),
        e.ExpectColumnValuesToBeUnique(column="sha256"),
        e.ExpectColumnValuesToMatchRegex(column="sha256", regex="^[0-9a-f]{64}$"),
        e.ExpectColumnValuesToMatchRegex(column="phash", regex="^[0-9a-f]{16}$"),
        e.ExpectColumnDistinctValuesToEqualSet(column="label", value_set=list(classes)),
        e.ExpectColumnDistinctValuesToEqualSet(column="split", value_set=list(SPLITS)),
        e.ExpectColumnDistinctValuesToEqualSet(column="source", value_set=[declared_source]),
        e.ExpectColumnValuesToBeBetween(column="width", min_value=MIN_SIDE),
        e.ExpectColumnValuesToBeBetween(column="height", min_value=MIN_SIDE),
        e.ExpectColumnValuesToBeBetween(column="mean", min_value=1, max_value=254),
        e.ExpectColumnValuesToBeBetween(column="sd", min_value=2, max_value=128),
    ]


def _row(result: Any) -> dict[str, Any]:
    config = result.expectation_config
    column = config.kwargs.get("column")
    found = result.result or {}
    raised = bool((result.exception_info or {}).get("raised_exception"))
    return {
        "expectation": config.type,
        "column": column,
        "passed": bool(result.success) and not raised,
        "unexpected": int(found.get("unexpected_count") or 0),
    }
