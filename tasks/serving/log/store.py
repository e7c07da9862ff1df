"""The tables of the request log in SQLite or PostgreSQL, through SQLAlchemy: made, upgraded, written, pruned, read.

A path is a SQLite file that its owner alone can read. `postgresql://user@host/database` is a server; its password comes
from PGPASSWORD or ~/.pgpass, as for every client of PostgreSQL, and never from params.yaml.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert  # SQLite takes its ON CONFLICT alike
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tasks.errors import GatehouseError
from tasks.serving.log.records import IMAGE_COLUMNS, REQUEST_COLUMNS, Entry, History
from tasks.serving.statistics import STATISTICS

SCHEMA_VERSION = 2
DAY = 86_400.0
BUSY_SECONDS = 5.0  # how long SQLite waits for another process that writes
POSTGRES = "postgresql"

_TABLES = sa.MetaData()
_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
REQUESTS = sa.Table(
    "requests",
    _TABLES,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("time", sa.Double, nullable=False, index=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("account", "error", "model")),
    *(sa.Column(name, sa.Integer, nullable=False) for name in ("status", "count")),
    sa.Column("latency_ms", sa.Double, nullable=False),
    sa.Column("guards", sa.Text, nullable=False),
)
IMAGES = sa.Table(
    "images",
    _TABLES,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("request", _ID, sa.ForeignKey("requests.id", ondelete="CASCADE"), nullable=False, index=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("sha256", "label")),
    *(sa.Column(name, sa.Double, nullable=False) for name in ("score", *STATISTICS)),
    sa.Column("guard", sa.Text, nullable=False),
    sa.Column("sketch", sa.LargeBinary, nullable=False),
)
COUNTERS = sa.Table(
    "counters", _TABLES, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.BigInteger, nullable=False)
)
UPGRADES = {  # what brings a log of this version to the next
    1: (
        "ALTER TABLE requests ADD COLUMN guards TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE images ADD COLUMN guard TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE images ADD COLUMN sketch BLOB NOT NULL DEFAULT x''",
    )
}


@dataclass(frozen=True)
class Store:
    """An opened log. `name` may be shown: it holds no password."""

    name: str
    engine: sa.Engine
    path: Path | None  # of a SQLite file

    def prepare(self) -> None:
        """Make what is missing and upgrade what is old; GatehouseError where it cannot be used."""
        try:
            if self.path:
                _make_private(self.path)
            with self.engine.begin() as connection:
                version = _version(connection, self.name)
                if version == SCHEMA_VERSION:
                    return
                for old in range(version or SCHEMA_VERSION, SCHEMA_VERSION):
                    for statement in UPGRADES[old]:
                        connection.exec_driver_sql(statement)
                _TABLES.create_all(connection)
                _set_version(connection)
            if self.path:  # cannot be set within a transaction, and must not be in a file that is none of ours
                with closing(_connect(self.path)) as raw:
                    raw.execute("PRAGMA journal_mode = WAL")
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise unusable(self.name, error) from error
        except OSError as error:
            raise GatehouseError(
                f"Request log {self.name} cannot be opened: {error.strerror}; set serving.log to a place that can be "
                "written."
            ) from error

    def write(self, batch: Sequence[Entry], drops: int, *, writer: str, number: int) -> None:
        """One transaction. `writer` numbers its batches: one whose commit was not confirmed is not written twice."""
        with self.engine.begin() as connection:
            _count(connection, writer, 0)  # a write first: SQLite gives no lock to a transaction that began by reading
            last = connection.scalar(sa.select(COUNTERS.c.value).where(COUNTERS.c.name == writer)) or 0
            if last < number:
                _insert(connection, batch)
                _count(connection, "dropped", drops)
                _count(connection, writer, number - last)

    def prune(self, max_rows: int, now: float | None, max_days: float) -> None:
        """Drop the oldest rows over `max_rows`, and what is older than `max_days` where `now` is believed (not None).

        Rows of a clock that ran ahead are dated to now, so that they age as well.
        """
        with self.engine.begin() as connection:
            if now is not None:
                ahead = REQUESTS.c.time > now + DAY
                connection.execute(REQUESTS.update().where(ahead).values(time=now))
                connection.execute(REQUESTS.delete().where(REQUESTS.c.time < now - max_days * DAY))
            for table in (REQUESTS, IMAGES):
                newest = sa.select(sa.func.max(table.c.id)).scalar_subquery()
                connection.execute(table.delete().where(table.c.id <= newest - max_rows))

    def forget(self, writer: str) -> None:
        """A writer that stopped in order needs its number no more."""
        with self.engine.begin() as connection:
            connection.execute(COUNTERS.delete().where(COUNTERS.c.name == writer))

    def read(self, since: float) -> History:
        of_request = (REQUESTS.c.time, REQUESTS.c.account, REQUESTS.c.model)
        recent = REQUESTS.c.time >= since
        requests = sa.select(REQUESTS).where(recent).order_by(REQUESTS.c.id)
        images = sa.select(IMAGES, *of_request).join(REQUESTS).where(recent).order_by(IMAGES.c.id)
        with self.engine.connect() as connection:
            dropped = connection.scalar(sa.select(COUNTERS.c.value).where(COUNTERS.c.name == "dropped"))
            found = pd.read_sql_query(requests, connection), pd.read_sql_query(images, connection)
            return History(*found, dropped or 0)


def open_store(where: str | Path) -> Store:
    """The store at a path or a URL; nothing is opened or made yet.

    Raises:
        GatehouseError: a URL that is none, of another database, or with a password in it.
    """
    if "://" not in str(where):
        path = Path(where)
        engine = sa.create_engine("sqlite://", creator=lambda: _connect(path), poolclass=sa.NullPool)
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        return Store(str(path), engine, path)
    form = "serving.log is a path or postgresql://user@host/database"
    try:
        url = sa.make_url(str(where))
    except (ArgumentError, ValueError):
        raise GatehouseError(f"The request log's URL cannot be read; {form}.") from None
    if url.get_backend_name() != POSTGRES:
        raise GatehouseError(f"The request log cannot be kept in {url.get_backend_name()!r}; {form}.")
    if url.password is not None or "password" in url.query:
        raise GatehouseError(
            "serving.log holds a password, and params.yaml is no place for one: set PGPASSWORD or write ~/.pgpass."
        )
    try:
        engine = sa.create_engine(
            url.set(drivername=f"{POSTGRES}+psycopg"),
            pool_size=1,
            pool_pre_ping=True,
            # A server that is gone must be noticed, not waited for.
            connect_args={"connect_timeout": 5, "tcp_user_timeout": 10_000, "options": "-c statement_timeout=30000"},
        )
    except ImportError:
        raise GatehouseError(
            "A request log in PostgreSQL needs the `postgres` extra; run `.venv/bin/pip install -e .[postgres]`."
        ) from None
    return Store(url.render_as_string(hide_password=True), engine, None)


def read_history(where: str | Path, since: float) -> History:
    """Read the log while it may be written; a file that does not exist yet is an empty log.

    Args:
        since: seconds since 1970.

    Raises:
        GatehouseError: it is no request log, or its server cannot be reached.
    """
    store = open_store(where)
    if store.path and not store.path.exists():
        return History(pd.DataFrame(columns=list(REQUEST_COLUMNS)), pd.DataFrame(columns=list(IMAGE_COLUMNS)), 0)
    store.prepare()
    try:
        return store.read(since)
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise unusable(store.name, error) from error
    finally:
        store.engine.dispose()


def unusable(name: str, why: object) -> GatehouseError:
    cause = str(why.orig if isinstance(why, sa.exc.DBAPIError) else why).strip().splitlines()
    reason = cause[0] if cause else type(why).__name__
    return GatehouseError(f"Request log {name} cannot be used ({reason}); mend that, or set serving.log elsewhere.")


def _make_private(path: Path) -> None:
    """Readable by its owner alone; SQLite gives its side files the same rights."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"
    # SQLAlchemy begins the transactions (below): the driver would leave changes of tables outside of them.
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_size_limit = 4194304")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _version(connection: sa.Connection, name: str) -> int:
    """Of the tables there, 0 where there is nothing; refuses a database that is none of ours, and a newer one."""
    tables = set(sa.inspect(connection).get_table_names())
    if connection.dialect.name == "sqlite":
        version = int(connection.exec_driver_sql("PRAGMA user_version").scalar() or 0)
        foreign = bool(tables) and version == 0
    else:
        ours = tables & set(_TABLES.tables)
        kept = sa.select(COUNTERS.c.value).where(COUNTERS.c.name == "schema")
        version = int((COUNTERS.name in ours and connection.scalar(kept)) or 0)
        foreign = bool(ours) and version == 0
    if foreign:
        raise unusable(name, "it is a database of another kind")
    if version > SCHEMA_VERSION:
        raise unusable(name, f"it is of version {version}, and this program knows {SCHEMA_VERSION}")
    return version


def _set_version(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
    else:
        _count(connection, "schema", SCHEMA_VERSION)


def _insert(connection: sa.Connection, batch: Sequence[Entry]) -> None:
    if not batch:
        return
    rows = [
        {
            "time": e.time, "account": e.account, "status": e.status, "error": e.error, "model": e.model,
            "count": len(e.images), "latency_ms": e.latency_ms, "guards": ",".join(e.guards),
        }
        for e in batch
    ]  # fmt: skip
    ids = connection.scalars(REQUESTS.insert().returning(REQUESTS.c.id, sort_by_parameter_order=True), rows).all()
    images = [
        {
            "request": number, "sha256": i.sha256, "label": i.label, "score": i.score, "guard": i.guard,
            "sketch": i.sketch, **dict(zip(STATISTICS, i.statistics, strict=True)),
        }
        for number, e in zip(ids, batch, strict=True)
        for i in e.images
    ]  # fmt: skip
    if images:
        connection.execute(IMAGES.insert(), images)


def _count(connection: sa.Connection, name: str, by: int) -> None:
    """Add to a counter; a new one begins at 0."""
    row = insert(COUNTERS).values(name=name, value=by)
    more = {"value": COUNTERS.c.value + row.excluded.value}
    connection.execute(row.on_conflict_do_update(index_elements=["name"], set_=more))
