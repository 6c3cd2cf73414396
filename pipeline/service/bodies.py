"""What requests look like, each operation's fields with their bounds: the source of /openapi.json."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vae.answers import MOST_IMAGES, MOST_NEAREST, Columns, Settings
from vae.denoise import SAMPLES

Picture = Annotated[str, Field(description="base64 text of a PNG, JPEG, ... file of any size")]
Pictures = Annotated[list[Picture], Field(min_length=1, max_length=MOST_IMAGES)]  # a service may hold to fewer: /version says
Numbers = Annotated[list[float], Field(min_length=1, max_length=65_536)]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="the same seed draws the same pixels")]
Steps = Annotated[int, Field(ge=2, le=1000)]
SETTINGS = {each.name for each in fields(Settings)}
MOST_SAMPLES = 64  # of the posterior of each picture


class Body(BaseModel, ABC):
    """What every request may say."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    label: str | None = Field(None, description="of a class-conditional model: what all images of the request are, or shall be")
    format: Literal["png", "npy", "grid"] = Field(
        "png", description="png: JSON with a base64 text of a PNG file for each image; npy: one array; grid: one PNG picture"
    )

    @abstractmethod
    def rows(self) -> dict[str, list[Any]]:
        """The columns of this operation."""

    def columns(self) -> Columns:
        """With the label in every row."""
        found = self.rows()
        count = len(next(iter(found.values())))
        return found if self.label is None else found | {"label": [self.label] * count}

    def settings(self) -> Settings:
        """What holds for all rows."""
        return Settings(**self.model_dump(include=SETTINGS))


class Sample(Body):
    """New images."""

    n: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 1
    seed: Seed = 0
    temperature: Annotated[float, Field(ge=0, le=100, description="0: the mean of the prior; 1: the prior")] = 1.0

    def rows(self) -> dict[str, list[Any]]:
        return {"n": [self.n], "seed": [self.seed]}


class OfPictures(Body):
    """Images of pictures, one for each."""

    images: Pictures

    def rows(self) -> dict[str, list[Any]]:
        return {"image": self.images}


class Denoise(OfPictures):
    """Pictures without their noise, of a model that was trained for it."""

    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES, description="of the posterior, whose mean is taken")] = SAMPLES


class Restyle(OfPictures):
    """Pictures with one property changed and the others kept, of a model that knows properties."""

    move: Annotated[str, Field(max_length=2000, description="factors and by how much, as scale=+0.1, x=-0.2")] | None = None
    make: Annotated[str, Field(max_length=500, description="the label that the pictures are to be of")] | None = None

    def rows(self) -> dict[str, list[Any]]:
        count = len(self.images)
        return {"image": self.images, "move": [self.move] * count, "make": [self.make] * count}


class Inpaint(OfPictures):
    """What is missing of pictures, drawn as the model explains the rest."""

    mask: Annotated[str, Field(description="base64 text of a picture that is white where something is missing")]
    seed: Seed = 0

    def rows(self) -> dict[str, list[Any]]:
        count = len(self.images)
        return {"image": self.images, "mask": [self.mask] * count, "seed": [self.seed] * count}


class Score(OfPictures):
    """How likely the model finds pictures."""

    seed: Seed = 0

    def rows(self) -> dict[str, list[Any]]:
        return {"image": self.images, "seed": [self.seed] * len(self.images)}


class Nearest(OfPictures):
    """The training images that are nearest to pictures, by name."""

    count: Annotated[int, Field(ge=1, le=MOST_NEAREST)] = 5


class Interpolate(Body):
    """The way from one picture to another."""

    first: Picture
    second: Picture
    steps: Steps = 9
    linear: bool = False

    def rows(self) -> dict[str, list[Any]]:
        return {"image": [self.first], "other": [self.second]}


class Traverse(Body):
    """One latent after the other moves, the others stay those of the picture."""

    image: Picture
    steps: Steps = 9
    extent: Annotated[float, Field(gt=0, le=100, description="prior standard deviations")] = 3.0

    def rows(self) -> dict[str, list[Any]]:
        return {"image": [self.image]}


class Decode(Body):
    """Images of latents."""

    latents: Annotated[list[Numbers], Field(min_length=1, max_length=MOST_IMAGES)]

    def rows(self) -> dict[str, list[Any]]:
        return {"latents": self.latents}
