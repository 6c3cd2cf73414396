"""``vae registry``: versions, history, promote, rollback, gc."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import ledger
from pipeline.cli.app import Json, ended
from pipeline.errors import InputMissingError
from pipeline.paths import REPORT, Paths
from pipeline.registry import CHAMPION, Registry
from vae.files import write_text

app = typer.Typer(help="Who is champion, who was, and why.", no_args_is_help=True)
Name = Annotated[str, typer.Option("--name", help="of the registered model; else register.name of params.yaml")]


def _told(entry: dict[str, Any]) -> str:
    change = f"champion {entry['champion_before'] or 'none'} -> {entry['champion_after'] or 'none'}"
    return f"{entry['when']}  version {entry['version']:<4} {entry['event']:<12} {change:<24} {entry['who']}: {entry['reason']}"


@app.command()
def versions(name: Name = "", as_json: Json = False) -> None:
    """All versions; the champion has a star."""

    def work() -> None:
        registry = Registry.here(Paths.here(), name)
        holder, every = registry.champion(), registry.versions()
        if not every:
            raise InputMissingError(f"models:/{registry.name} has no versions: `make run` first")
        rows = [{"version": int(v), "champion": v == holder, **registry.facts(v)} for v in every]
        if as_json:
            print(json.dumps(rows))
        for row in () if as_json else rows:
            print(f"{'*' if row['champion'] else ' '} {row['version']:<4} {row['made']}  {row['decision']}")

    ended("registry", work)


@app.command()
def history(name: Name = "", as_json: Json = False) -> None:
    """Every attempt at the championship, every rollback: when, who, both versions, why."""

    def work() -> None:
        registry = Registry.here(Paths.here(), name)
        entries = ledger.history(registry)
        if not entries and not registry.versions():
            raise InputMissingError(f"models:/{registry.name} does not exist: `make run` first")
        print(json.dumps(entries) if as_json else "\n".join(map(_told, entries)))

    ended("registry", work)


@app.command()
def rollback(name: Name = "") -> None:
    """Give the alias back to the champion before this one. Twice is once."""

    def work() -> None:
        paths = Paths.here()
        print(_told(ledger.rollback(Registry.here(paths, name), paths)))

    ended("registry", work)


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="a version, or an alias")],
    reason: Annotated[str, typer.Option(help="for the history")] = "",
    name: Name = "",
) -> None:
    """Make a version champion by hand, whatever it scores."""

    def work() -> None:
        paths = Paths.here()
        print(_told(ledger.promote_by_hand(Registry.here(paths, name), paths, version, reason)))

    ended("registry", work)


def compare(
    first: Annotated[str, typer.Argument(help="a version, or an alias")],
    second: Annotated[str, typer.Argument(help="another one")],
) -> None:
    """Two versions side by side, as a page and as Markdown: scores with intervals, the same seed, the same test images."""

    def work() -> None:
        from pipeline.compare import compare as compared

        print(compared((first, second), Paths.here()))

    ended("compare", work)


def report(
    which: Annotated[str, typer.Argument(help="a version, or an alias")] = CHAMPION,
    out: Annotated[Path, typer.Option("--out", "-o", help="the page")] = Path("report.html"),
    name: Name = "",
) -> None:
    """The report of a version: one page that needs nothing beside it.

    vae report 3 -o cats-3.html
    """

    def work() -> None:
        registry = Registry.here(Paths.here(), name)
        version = registry.version(which)
        write_text(out, registry.text(version, REPORT))
        print(f"models:/{registry.name}/{version}: {out}")

    ended("report", work)


@app.command()
def gc(
    keep: Annotated[int, typer.Option(help="the newest so many stay", min=1)] = 10,
    really: Annotated[bool, typer.Option("--really", help="delete; without it only told")] = False,
    name: Name = "",
) -> None:
    """Delete old versions: never one with an alias, nor the champion before this one."""

    def work() -> None:
        paths = Paths.here()
        doomed = ledger.collect(Registry.here(paths, name), paths, keep, really)
        word = "deleted" if really else "would be deleted (with --really)"
        print(f"{len(doomed)} versions {word}{': ' + ', '.join(doomed) if doomed else ''}")

    ended("registry", work)
