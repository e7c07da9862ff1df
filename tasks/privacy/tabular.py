"""Tables for private training: a CSV file checked at the door, and made into numbers.

What the encoding learns from the records (categories, quantiles) is not covered by ε. Both are coarse on purpose:
categories that few records share become "other", and numbers become their rank, so one record moves little.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.errors import GatehouseError

FEWEST = 10  # records that share a category, below which it is "other"
MOST_CATEGORIES = 20
QUANTILES = 64
LEAST_RECORDS = 100
IDENTITY = 0.9  # share of distinct texts above which a column names records rather than describes them


@dataclass(frozen=True)
class Table:
    """Records as numbers. `x` is float32 (n, width) in [-1, 1], `y` int64 class indices (n,)."""

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    features: tuple[str, ...]  # of x, "column" or "column=category"
    left_out: tuple[str, ...]  # columns that say nothing, or name the record

    def __len__(self) -> int:
        return len(self.y)


def read_table(path: Path, label: str, *, drop: tuple[str, ...] = ()) -> Table:
    """A CSV file with a header, as numbers.

    Args:
        label: the column to predict; few distinct values, none missing.
        drop: columns to leave out.

    Raises:
        GatehouseError: no such file or column, too few records, one class, missing values, or numbers beyond float32.
    """
    try:
        frame = pd.read_csv(path)
    except FileNotFoundError:
        raise GatehouseError(f"{path} does not exist; give a CSV file with a header line.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise GatehouseError(f"{path} is not a CSV file with a header line: {error}") from None
    for name in (label, *drop):
        if name not in frame.columns:
            raise GatehouseError(f"{path} has no column {name!r}; it has {', '.join(map(str, frame.columns))}.")
    if len(frame) < LEAST_RECORDS:
        raise GatehouseError(f"{path} holds {len(frame)} records; private training needs at least {LEAST_RECORDS}.")
    y, classes = _labels(frame[label], path, label)
    return encode(frame.drop(columns=[label, *drop]), y, classes, source=str(path))


def encode(frame: pd.DataFrame, y: np.ndarray, classes: tuple[str, ...], *, source: str) -> Table:
    """Columns as numbers: ranks of numbers, one 0 or 1 a category; see the module's first lines."""
    missing = [c for c in frame.columns if frame[c].isna().any()]
    if missing:
        counts = ", ".join(f"{c} ({int(frame[c].isna().sum())})" for c in missing[:5])
        raise GatehouseError(f"{source} has missing values in {counts}; fill or drop them, or leave the columns out.")
    parts: list[np.ndarray] = []
    names: list[str] = []
    left_out = []
    for column in map(str, frame.columns):
        found = _column(frame[column], column, source)
        if not found:
            left_out.append(column)
        for name, values in found.items():
            names.append(name)
            parts.append(values)
    if not parts:
        raise GatehouseError(f"{source} has no column that describes the records beside the label.")
    return Table(np.stack(parts, 1).astype(np.float32), y, classes, tuple(names), tuple(left_out))


def _labels(column: pd.Series, path: Path, label: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if column.isna().any():
        raise GatehouseError(f"{path}: {int(column.isna().sum())} records have no {label!r}; drop or fill them.")
    codes, values = pd.factorize(column.astype(str), sort=True)
    if len(values) < 2:
        raise GatehouseError(f"{path}: every record has the same {label!r} ({values[0]}); there is nothing to learn.")
    if len(values) > MOST_CATEGORIES:
        raise GatehouseError(
            f"{path}: {label!r} has {len(values)} different values; at most {MOST_CATEGORIES} are a label."
        )
    rarest = int(np.bincount(codes).min())
    if rarest < FEWEST:
        raise GatehouseError(f"{path}: a class of {label!r} has {rarest} records; every class needs {FEWEST}.")
    return codes.astype(np.int64), tuple(map(str, values))


def _column(values: pd.Series, name: str, source: str) -> dict[str, np.ndarray]:
    """The features of one column, by name; none where it says nothing or names the record."""
    if values.nunique() < 2:
        return {}
    if pd.api.types.is_bool_dtype(values) or values.nunique() == 2:
        codes, levels = pd.factorize(values, sort=True)
        return {f"{name}={levels[1]}": codes * 2.0 - 1}
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(float)
        if not np.isfinite(numbers).all():
            raise GatehouseError(f"{source}: column {name!r} holds values that are not finite.")
        return {name: _ranks(numbers)}
    counts = values.value_counts()
    if len(counts) > IDENTITY * len(values):
        return {}
    common = counts[counts >= FEWEST].index[:MOST_CATEGORIES]
    return {f"{name}={level}": (values == level).to_numpy() * 2.0 - 1 for level in common}


def _ranks(numbers: np.ndarray) -> np.ndarray:
    """Each number by where it lies among the quantiles, in [-1, 1]; equal numbers stay equal."""
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, QUANTILES + 1)))
    return np.interp(numbers, edges, np.linspace(-1, 1, len(edges)))
