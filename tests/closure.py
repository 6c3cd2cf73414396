"""What each stage imports and the templates that it fills, read from the code; as a command it writes that into dvc.yaml (`make deps`), for
DVC sees neither."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml

from workspace import ROOT

GRAPH_FILE = ROOT / "dvc.yaml"


def _module_files(name: str) -> list[Path]:
    """The files of a dotted module of ours and of the packages around it."""
    found = []
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:depth])
        found += [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()]
    return found


def _imports(path: Path) -> set[Path]:
    templates = {path.with_name(name) for name in re.findall(r"[\"'](\S+\.jinja)[\"']", path.read_text())}
    if path.suffix == ".jinja":
        return templates
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    ours = [name for name in names if name.split(".")[0] in ("vae", "pipeline")]
    return templates | {file for name in ours for file in _module_files(name)}


def closure(*starts: Path) -> set[Path]:
    """Every file of vae and pipeline that these files import or fill, themselves with them."""
    seen, waiting = set(), {*starts, *_module_files("pipeline")}
    while waiting:
        path = waiting.pop()
        seen.add(path)
        waiting |= _imports(path) - seen
    return seen


def imported(stage: str) -> list[str]:
    """What dvc.yaml must name as the code of a stage, in the order in which it stands there."""
    return sorted(str(path.relative_to(ROOT)) for path in closure(ROOT / "pipeline" / f"{stage}.py"))


def main() -> None:
    text = GRAPH_FILE.read_text()
    for stage in yaml.safe_load(text)["stages"]:
        code = re.compile(rf"(\n  {stage}:\n(?:    .*\n)*?    deps:\n)(?:      - \S+\.(?:py|jinja)\n)+")
        lines = "".join(f"      - {name}\n" for name in imported(stage))
        text, changed = code.subn(lambda found, lines=lines: found[1] + lines, text)
        assert changed == 1, f"{stage}: its deps in dvc.yaml do not begin with its code"
    GRAPH_FILE.write_text(text)


if __name__ == "__main__":
    main()
