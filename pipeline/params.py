"""params.yaml as frozen, typed sections; the only reader of YAML. All errors of a file are reported at once, with their line.

A stage names the keys that it reads (``PARAMS``) and gets these and no others, so that what dvc.yaml lists as the stage's
``params`` is all that can change its result.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from pipeline import across, checked
from pipeline.errors import BadConfigError, InputMissingError
from pipeline.sections import SECTIONS
from vae.schema import Problem, parse


def _lines(node: yaml.Node | None, prefix: str = "") -> dict[str, int]:
    """The line of every key of a YAML mapping, by dotted name."""
    found: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            found[name] = key.start_mark.line + 1
            found |= _lines(value, name + ".")
    return found


def _repeated(node: yaml.Node | None, prefix: str = "") -> list[Problem]:
    """YAML keeps the last of two equal keys without a word; here it is an error."""
    if not isinstance(node, yaml.MappingNode):
        return []
    names = [key.value for key, _ in node.value]
    found = [Problem(f"{prefix}{n}", "key given twice") for n in dict.fromkeys(names) if names.count(n) > 1]
    for key, value in node.value:
        found += _repeated(value, f"{prefix}{key.value}.")
    return found


def _document(text: str, source: str) -> tuple[yaml.Node | None, dict[str, Any]]:
    try:
        node, document = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise BadConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise BadConfigError(f"{source} holds no sections")
    return node, document


def _refuse(problems: list[Problem], node: yaml.Node | None, source: str) -> None:
    """BadConfigError with every problem as ``source:line: key: what``, in the order of the lines."""
    if problems:
        lines = _lines(node)
        placed = [(lines.get(p.key, lines.get(p.key.split(".")[0], 1)), p) for p in problems]
        placed.sort(key=lambda pair: pair[0])
        raise BadConfigError("\n".join(f"{source}:{line}: {p.key}: {p.message}" for line, p in placed))


def check(text: str, source: str) -> SimpleNamespace:
    """All sections of a params file's text, or BadConfigError naming every problem."""
    node, document = _document(text, source)
    problems, values = _repeated(node), {}
    for name in document:
        if name not in SECTIONS:
            close = difflib.get_close_matches(str(name), SECTIONS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(SECTIONS)}"
            problems.append(Problem(str(name), f"unknown section{hint}"))
    for name, section in SECTIONS.items():
        if name not in document:
            problems.append(Problem(name, "missing section"))
            continue
        values[name], found = parse(section, document[name], name)
        problems += found
    _refuse(problems or across.problems(SimpleNamespace(**values)), node, source)
    return SimpleNamespace(**values)


def _whole(text: str) -> SimpleNamespace:
    """All sections of a text that ``check`` has passed before."""
    # In C: twenty times as fast. Brackets that nest so deep that it would end the process are not found whole.
    document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return SimpleNamespace(**{name: parse(section, document[name], name)[0] for name, section in SECTIONS.items()})


def read_text(path: Path) -> str:
    """A UTF-8 file's text, or the error that says what to do."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputMissingError(
            f"{path} does not exist: run in the project's folder, or restore it with `git checkout`"
        ) from None
    except UnicodeDecodeError as error:
        raise BadConfigError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None


def load_section(path: Path, section: type, name: str) -> Any:
    """A YAML file that is one section (a cluster profile), or BadConfigError with every problem."""
    node, document = _document(read_text(path), path.name)
    value, problems = parse(section, document, name)
    problems += [Problem(f"{name}.{p.key}", p.message) for p in _repeated(node)]
    _refuse([Problem(p.key.removeprefix(f"{name}."), p.message) for p in problems], node, path.name)
    return value


def edited(text: str, values: dict[str, Any]) -> str:
    """``text`` with the scalars of dotted keys replaced where they stand; comments and order stay."""
    spans: dict[str, tuple[int, int]] = {}

    def walk(node: yaml.Node | None, prefix: str = "") -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            spans[f"{prefix}{key.value}"] = value.start_mark.index, value.end_mark.index
            walk(value, f"{prefix}{key.value}.")

    walk(yaml.compose(text, Loader=yaml.SafeLoader))
    for key in sorted(values, key=lambda k: spans[k], reverse=True):
        start, stop = spans[key]
        value = values[key]
        plain = not isinstance(value, str) or value.isprintable()  # YAML would read some unprintable characters as line ends
        scalar = yaml.safe_dump(value, width=10**6, allow_unicode=plain, default_flow_style=True)
        scalar = scalar.removesuffix("\n").removesuffix("\n...")
        text = text[:start] + scalar + text[stop:]
    return text


def overlay(path: Path, text: str) -> dict[str, Any]:
    """What a YAML file changes in a params file's ``text``, by dotted key; BadConfigError with every key that is not there."""
    node, document = _document(read_text(path), path.name)
    problems, known, values = _repeated(node), _document(text, "params.yaml")[1], {}
    for section, inside in document.items():
        if not isinstance(inside, dict):
            problems.append(Problem(str(section), "is no section with keys in it"))
            continue
        there = known.get(section, {})
        for key, value in inside.items():
            name = f"{section}.{key}"
            if key in there:
                if there[key] != value:
                    values[name] = value
                continue
            close = difflib.get_close_matches(str(key), list(there), n=1)
            problems.append(Problem(name, "unknown key" + (f"; did you mean {close[0]!r}?" if close else "")))
    _refuse(problems, node, path.name)
    return values


def load(path: Path, keys: tuple[str, ...], work: Path | None = None) -> SimpleNamespace:
    """The sections (``train``) and keys (``base.seed``) of ``keys`` from a file that is valid as a whole, which ``work`` remembers."""
    text = read_text(path)
    if checked.found_whole(text, work):
        everything = _whole(text)
    else:
        everything = check(text, path.name)
        checked.remember(text, work)
    wanted = SimpleNamespace()
    for key in keys:
        section, _, name = key.partition(".")
        if not name:
            setattr(wanted, section, getattr(everything, section))
            continue
        if not hasattr(wanted, section):
            setattr(wanted, section, SimpleNamespace())
        setattr(getattr(wanted, section), name, getattr(getattr(everything, section), name))
    return wanted
