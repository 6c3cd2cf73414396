"""What the self-contained pages share: templates, numbers, intervals and pictures as text."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image


def number(value: Any) -> str:
    """A score as people read it; None is what too few images leave."""
    if value is None:
        return "too few images"
    if isinstance(value, float) and 1000 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def interval(bounds: list[float] | None) -> str:
    """``low to high``, or nothing."""
    return f"{number(bounds[0])} to {number(bounds[1])}" if bounds else ""


def _address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def embedded(path: Path) -> str:
    """A PNG file as an address that needs no network."""
    return _address(path.read_bytes())


def drawn(picture: Image.Image) -> str:
    """Likewise a picture that is no file."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return _address(content.getvalue())


def render(template: str, found: dict[str, Any]) -> str:
    """A page as text; every value is escaped, and a missing one is an error."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template).render(found)
