"""Scheduled retraining: trains where there is a reason to, and otherwise says why not. For cron, systemd, Kubernetes (infra/schedule).

``python -m pipeline.retrain [--dry-run] [--force] [--now TIME]``. Whatever calls it, whenever and how often: a training that was
interrupted goes on, one that has just ended is not repeated, and only one at a time runs in a workspace, or for a model's name
on an MLflow server. Whether the new version becomes champion is decided by stage register, as ever.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from pipeline import drift, graph, params
from pipeline.console import set_up_logging
from pipeline.errors import BadConfigError, TemporaryError
from pipeline.lease import DEAD_SECONDS, lease
from pipeline.notify import notify
from pipeline.paths import DECISION, Paths
from pipeline.reasons import SEARCH, Look, frozen, look
from pipeline.registry import Registry
from pipeline.spool import SpoolWriter, read
from pipeline.stage import EXIT_INTERRUPTED, EXIT_TERMINATED, guarded, lock
from pipeline.tracking import Tracker, is_server, uri
from vae.files import MANIFEST, canonical_json, read_json, replaced_directory, write_text

KEYS = ("base.seed", "download", "train", "register", "retrain")
NOTHING, BEGUN, TRAINED, FAILED = "nothing", "begun", "trained", "failed"
TICK, PICTURE = "tick.json", "drift.png"
GOES_ON = (TemporaryError.exit_code, EXIT_INTERRUPTED, EXIT_TERMINATED)  # no end of a training: the next call goes on with it
SKEW = timedelta(minutes=5)  # by which clocks of two machines may differ
log = logging.getLogger("pipeline.retrain")


class Ticks:
    """What every call did, in .work/retrain/ticks.jsonl: one line each, and two of a call that trained."""

    def __init__(self, paths: Paths) -> None:
        self._path = paths.work / "retrain/ticks.jsonl"
        self.all = read(self._path)

    def add(self, when: datetime, did: str, **facts: Any) -> dict[str, Any]:
        """Note what happened."""
        entry = {"step": len(self.all), "when": when.isoformat(timespec="seconds"), "did": did, **facts}
        SpoolWriter(self._path).append(entry)
        self.all.append(entry)
        return entry

    @property
    def interrupted(self) -> bool:
        """Whether the last training never came to an end."""
        told = [each["did"] for each in self.all if each["did"] != NOTHING]
        return bool(told) and told[-1] == BEGUN

    @property
    def trained(self) -> datetime | None:
        """When the last training began."""
        begun = [each for each in self.all if each["did"] == BEGUN]
        return datetime.fromisoformat(begun[-1]["when"]) if begun else None

    def check_clock(self, now: datetime) -> None:
        """BadConfigError where the clock stands before what was noted already."""
        last = datetime.fromisoformat(self.all[-1]["when"]) if self.all else now
        if now < last - SKEW:
            raise BadConfigError(f"it is {now:%F %T} by this clock, but the last call was at {last:%F %T}: set the clock right")


@contextmanager
def _alone(name: str, paths: Paths) -> Iterator[None]:
    """TemporaryError where another one retrains here, or this name on the same server; a killed one is no hindrance."""
    held = lock("retrain", paths)
    if is_server(uri(paths)):
        with lease(Tracker(paths), f"{name}.retrain", time.monotonic() + 2 * DEAD_SECONDS):
            yield
    else:
        yield
    del held


def _made(paths: Paths) -> datetime | None:
    """When the model was made that no call trained."""
    manifest = paths.model / MANIFEST
    return datetime.fromtimestamp(manifest.stat().st_mtime, UTC) if manifest.exists() else None


def _why_not(values: SimpleNamespace, ticks: Ticks, found: Look, now: datetime) -> str:
    """Why nothing is done, or ''."""
    if ticks.interrupted:
        return ""
    if not found.reasons:
        return "; ".join(found.calm)
    rests = timedelta(hours=values.retrain.cooldown_hours)
    if ticks.trained is not None and now - ticks.trained < rests:
        until = ticks.trained + rests
        return f"the last training began at {ticks.trained:%F %T}: none begins before {until:%F %T} (retrain.cooldown_hours)"
    return ""


def _beginnings(values: SimpleNamespace, paths: Paths) -> list[str]:
    """What train.warm_start is to be, one training after the other; where layers are carried over, anew is from where it says."""
    anew = values.train.warm_start if values.train.transfer else ""
    champion = None if values.retrain.begin == "anew" else Registry.here(paths, values.register.name).champion()
    if champion is None:
        return [anew]
    return [f"models:/{values.register.name}/{champion}", *([anew] if values.retrain.begin == "both" else [])]


def _trained(values: SimpleNamespace, paths: Paths, begin: str) -> tuple[int, dict[str, Any]]:
    """Bring the stages up to date; returns the exit code, and what became of the new version."""
    if values.train.warm_start != begin:
        write_text(paths.params, params.edited(paths.params.read_text(encoding="utf-8"), {"train.warm_start": begin}))
        values.train = params.load(paths.params, KEYS).train
        log.info("params.yaml: train.warm_start = %r", begin)
    chosen = ["--single-item", *(each for each in graph.stages(paths) if each != SEARCH)] if frozen(values, paths) else []
    decision = paths.register_report / DECISION
    before = read_json(decision)["version"] if decision.exists() else None
    code = graph.repro(paths, *chosen)
    if code:
        return code, {}
    decided = read_json(decision)
    found = {name: decided[name] for name in ("version", "promoted", "champion", "reason")}
    return 0, found | {"new": decided["version"] != before}


def _report(paths: Paths, entry: dict[str, Any], found: Look) -> None:
    with replaced_directory(paths.retrain_report) as report:
        write_text(report / TICK, canonical_json(entry))
        if found.farthest_NHWC is not None:
            drift.draw(found.farthest_NHWC, paths, report / PICTURE)


def tick(paths: Paths, now: datetime, dry_run: bool, force: bool) -> int:
    """One call; returns the exit code."""
    values, ticks = params.load(paths.params, KEYS), Ticks(paths)
    ticks.check_clock(now)
    found = look(values, paths, now, ticks.trained or _made(paths))
    if ticks.interrupted:
        found.reasons.append(f"the training of {ticks.trained:%F %T} did not end: it goes on")
    if force:
        found.reasons.append("--force")
    for sentence in found.reasons:
        log.info("for a training: %s", sentence)
    why_not = "" if force else _why_not(values, ticks, found, now)
    if why_not:
        print(f"nothing to do: {why_not}")
    elif dry_run:
        print(f"would train, beginning {', and then '.join(map(_begun, _beginnings(values, paths)))}")
    if dry_run:
        return 0
    _report(paths, ticks.add(now, NOTHING if why_not else BEGUN, why_not=why_not, **found.facts()), found)
    return 0 if why_not else _train(values, paths, ticks, now)


def _train(values: SimpleNamespace, paths: Paths, ticks: Ticks, now: datetime) -> int:
    code, outcomes = 0, []
    for begin in _beginnings(values, paths):
        code, outcome = _trained(values, paths, begin)
        if code in GOES_ON:
            return code
        if code:
            break
        outcomes.append(outcome | {"begin": begin})
    entry = ticks.add(now, FAILED if code else TRAINED, exit_code=code, outcomes=outcomes)
    text = _told(values.register.name, code, outcomes)
    print(text)
    notify(text, entry)
    return code


def _begun(begin: str) -> str:
    return f"from the weights of {begin}" if begin else "anew"


def _told(name: str, code: int, outcomes: list[dict[str, Any]]) -> str:
    if code:
        return f"retraining models:/{name} failed with exit code {code}: the champion stays; the next call goes on"
    return "\n".join(
        f"models:/{name}/{each['version']}, begun {_begun(each['begin'])}, "
        f"{'is' if each['promoted'] else 'is not'} the champion: {each['reason']}"
        if each["new"]
        else f"models:/{name}/{each['version']} stays the newest: nothing that decides a model has changed"
        for each in outcomes
    )


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.retrain", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    parser.add_argument("--force", action="store_true", help="train without a reason, and in the cooldown")
    parser.add_argument("--now", type=_time, default=None, help="another time than the clock's (ISO 8601), for rehearsals")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args()
    set_up_logging("retrain", arguments.debug)
    paths, codes = Paths.here(), [0]

    def work() -> None:
        values = params.load(paths.params, ("register",))
        now = arguments.now or datetime.now(UTC)
        if arguments.dry_run:
            codes[0] = tick(paths, now, True, arguments.force)
            return
        with _alone(values.register.name, paths):
            codes[0] = tick(paths, now, False, arguments.force)

    code = guarded("retrain", work, arguments.debug)
    sys.exit(code or codes[0])


if __name__ == "__main__":
    main()
