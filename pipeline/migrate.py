"""Moves this workspace's MLflow store, SQLite and a folder, to a server's: runs, versions, aliases and artefacts, under the same ids.

``MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://… python -m pipeline.migrate --artifacts FOLDER`` where the server's database and
FOLDER, its ``--artifacts-destination``, can be reached. Both are empty before; this workspace's store stays as it is.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import progress, set_up_logging
from pipeline.errors import BadConfigError, BadDataError, CannotWriteError, InputMissingError, UnavailableError
from pipeline.paths import Paths
from pipeline.stage import guarded

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

TARGET_VARIABLE = "MLFLOW_BACKEND_STORE_URI"  # has a password in it, so it is no argument
SERVED = "mlflow-artifacts:"
VERSION_TABLE = "alembic_version"
ROWS = 5000  # at a time
log = logging.getLogger("pipeline.migrate")


def _tables() -> list[Table]:
    """Every table of MLflow's tracking and registry, those that others refer to first."""
    import mlflow.store.model_registry.dbmodels.models
    import mlflow.store.tracking.dbmodels.models
    import mlflow.store.workspace.dbmodels.models  # noqa: F401 - they fill the metadata
    from mlflow.store.db.base_sql_model import Base

    tables: list[Table] = Base.metadata.sorted_tables
    return tables


def _engines(source: Path, target: str, artifacts: Path) -> tuple[Engine, Engine]:
    """Both databases, the target with MLflow's tables; UnavailableError where it cannot be used."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        shown = make_url(target).render_as_string(hide_password=True)
    except SQLAlchemyError:
        raise BadConfigError(
            f"{TARGET_VARIABLE} is no address of a database, as postgresql+psycopg2://user:password@host/name"
        ) from None
    try:
        create_engine(target).connect().close()  # MLflow itself tries for minutes
        store = SqlAlchemyStore(target, artifacts.as_uri())
        RegistryStore(target)
    except Exception as error:  # SQLAlchemy's, the driver's, MLflow's
        told = " ".join(str(error).replace(target, shown).split())[:200]
        raise UnavailableError(f"{shown} cannot be used: {told}") from None
    return create_engine(f"sqlite:///file:{source}?mode=ro&uri=true"), store.engine


def _version(connection: Connection) -> str:
    from sqlalchemy import text

    return str(connection.execute(text(f"select version_num from {VERSION_TABLE}")).scalar())


def _check(source: Connection, target: Connection, tables: list[Table]) -> None:
    """BadDataError for a store of another schema, or with rows that nobody would copy; CannotWriteError where the target is in use."""
    from sqlalchemy import func, inspect, select, text

    here, there = _version(source), _version(target)
    if here != there:
        raise BadDataError(
            f"the workspace's store has schema {here}, the server's {there}: use the same MLflow on both, and `mlflow db upgrade`"
        )
    known = {table.name for table in tables} | {VERSION_TABLE}
    strange = [
        name for name in inspect(source).get_table_names()
        if name not in known and source.execute(text(f'select count(*) from "{name}"')).scalar()
    ]  # fmt: skip
    if strange:
        raise BadDataError(f"tables {', '.join(strange)} are unknown to this version of MLflow: nothing was copied")
    for name in ("runs", "registered_models"):
        (table,) = [each for each in tables if each.name == name]
        if target.execute(select(func.count()).select_from(table)).scalar():
            raise CannotWriteError(
                f"the server's database has {name.replace('_', ' ')} already: nothing was copied, take an empty one"
            )


def _rows(source: Connection, table: Table, places: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
    """All rows in portions, with artefacts at their new places."""
    from sqlalchemy import select

    def moved(value: Any) -> Any:
        for old, new in places.items():
            if isinstance(value, str) and value.startswith(old):
                return new + value.removeprefix(old).lstrip("/")
        return value

    for part in source.execution_options(yield_per=ROWS).execute(select(table)).mappings().partitions(ROWS):
        yield [{name: moved(value) for name, value in row.items()} for row in part]


def _copied(source: Connection, target: Connection, tables: list[Table], places: dict[str, str]) -> dict[str, int]:
    """Copy every table; returns their numbers of rows, which are the same on both sides."""
    from sqlalchemy import func, select

    for table in reversed(tables):  # what MLflow puts into an empty store: its default experiment
        target.execute(table.delete())
    counts = {}
    for table in progress(tables, len(tables), "tables", "copying"):
        for rows in _rows(source, table, places):
            target.execute(table.insert(), rows)
        counts[table.name], there = (
            int(each.execute(select(func.count()).select_from(table)).scalar() or 0) for each in (source, target)
        )
        if counts[table.name] != there:
            raise BadDataError(f"table {table.name} has {counts[table.name]} rows here and {there} there: nothing was copied")
    _continue_counting(target, tables)
    return counts


def _continue_counting(target: Connection, tables: list[Table]) -> None:
    """PostgreSQL's counters know nothing of rows that came with their numbers."""
    from sqlalchemy import text

    if target.dialect.name != "postgresql":
        return
    for table in tables:
        for column in table.primary_key.columns:
            sequence = None
            if column.type.python_type is int:
                sequence = target.execute(
                    text("select pg_get_serial_sequence(:t, :c)"), {"t": table.name, "c": column.name}
                ).scalar()
            if sequence:
                most = f'select max("{column.name}") from "{table.name}"'
                target.execute(text(f"select setval(:s, greatest(coalesce(({most}), 0), 1))"), {"s": sequence})


def _filled(folder: Path, origin: Path) -> None:
    """Copy into an empty folder, which may be a mount point and so cannot be renamed; a copy that fails leaves it empty."""
    try:
        shutil.copytree(origin, folder, dirs_exist_ok=True)
    except BaseException:
        for each in folder.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        raise


def migrate(paths: Paths, artifacts: Path) -> dict[str, int]:
    """Copy everything, or nothing; returns how many rows of what there are."""
    target = os.environ.get(TARGET_VARIABLE, "")
    if not target:
        raise BadConfigError(f"{TARGET_VARIABLE} is not set: the address of the server's database")
    if not paths.mlflow_database.exists():
        raise InputMissingError(f"{paths.mlflow_database} does not exist: there is nothing to move")
    if artifacts.exists() and any(artifacts.iterdir()):
        raise CannotWriteError(f"{artifacts} is not empty: nothing is overwritten, name an empty folder")
    tables = _tables()
    before, after = _engines(paths.mlflow_database, target, artifacts)
    places = {paths.mlflow_artifacts.as_uri(): f"{SERVED}/", str(paths.mlflow_artifacts): f"{SERVED}/"}
    with before.connect() as source, after.connect() as looked:
        _check(source, looked, tables)
    with before.connect() as source, after.begin() as writing:
        counts = _copied(source, writing, tables, places)
        if paths.mlflow_artifacts.exists():  # within the transaction: rows without their files are never seen
            _filled(artifacts, paths.mlflow_artifacts)
    return counts


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.migrate", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="the server's folder of artefacts, empty")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args()
    set_up_logging("migrate", arguments.debug)

    def work() -> None:
        counts = migrate(Paths.here(), arguments.artifacts.resolve())
        told = ", ".join(
            f"{counts[name]} {name.replace('_', ' ')}"
            for name in ("runs", "metrics", "model_versions", "registered_model_aliases")
        )
        print(f"moved {told}; set MLFLOW_TRACKING_URI to the server's address, and keep mlflow.db until you have seen it there")

    sys.exit(guarded("migrate", work, arguments.debug))


if __name__ == "__main__":
    main()
