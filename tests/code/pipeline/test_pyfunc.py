"""pyfunc: every operation of a registered model against the generator itself, and requests that cannot be met."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.pyfunc import VaePyfunc
from saved import saved_model
from vae.answers import MOST_BYTES, OPERATIONS
from vae.denoise import averaged
from vae.inpaint import inpainted
from vae.use import interpolation, traversal

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)


def text(image: np.ndarray, form: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, format=form)
    return base64.b64encode(buffer.getvalue()).decode()


def served(folder, classes: int = 0) -> VaePyfunc:
    saved_model(folder, classes, mode="L", denoise_levels=50.0, attributes=True)
    found = VaePyfunc()
    found.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    return found


@pytest.fixture
def model(tmp_path) -> VaePyfunc:
    return served(tmp_path / "m")


ROWS = pd.DataFrame({"image": [text(image) for image in IMAGES[:3]], "other": [text(image) for image in IMAGES[2:]]})


def ask(model: VaePyfunc, rows: pd.DataFrame, **params: object) -> np.ndarray:
    return model.predict(None, rows, params)


def test_each_operation_is_what_the_generator_says(model):
    generator = model.generator
    first_ND, second_ND = (generator.encode(images)[0] for images in (IMAGES[:3], IMAGES[2:]))
    low_D, high_D = torch.full((3,), -2.0), torch.full((3,), 2.0)
    expected = {
        "reconstruct": generator.reconstruct(IMAGES[:3]), "encode": first_ND.numpy(), "score": generator.bound(IMAGES[:3]).numpy(),
        "interpolate": generator.decode(torch.cat([interpolation(a, b, 4, False) for a, b in zip(first_ND, second_ND, strict=True)])),
        "traverse": generator.decode(torch.cat([traversal(z_D, [0, 1, 2], low_D, high_D, 4) for z_D in first_ND])),
        "denoise": averaged(generator, IMAGES[:3], 4),
    }  # fmt: skip
    for op, values in expected.items():
        np.testing.assert_array_equal(ask(model, ROWS, op=op, steps=4, extent=2.0, samples=4), values, err_msg=op)
    np.testing.assert_array_equal(
        ask(model, pd.DataFrame({"latents": first_ND.tolist()}), op="decode"), generator.decode(first_ND)
    )
    draws = pd.DataFrame({"n": [2, 3], "seed": [7, 8]})
    both = np.concatenate([generator.sample(2, 7), generator.sample(3, 8)])
    np.testing.assert_array_equal(ask(model, draws), both)
    near = generator.nearest(IMAGES[:3], count=2)
    assert ask(model, ROWS, op="nearest", count=2) == [
        [{"name": near["name"][i, k], "distance": near["distance"][i, k]} for k in range(2)] for i in range(3)
    ]
    assert generator.attributes is not None
    moved = [generator.attributes.moved(first_ND[:2], {"height": 0.2}), generator.attributes.moved(first_ND[2:], {}, "left")]
    rows = ROWS.assign(move=["height=+0.2"] * 2 + [None], make=[None] * 2 + ["left"])
    restyled = ask(model, rows, op="restyle")
    assert np.abs(restyled.astype(int) - generator.decode(torch.cat(moved))).max() <= 1  # other batches, other last digits
    missing = np.broadcast_to(np.arange(8)[:, None] < 4, (3, 8, 8))
    completed = ask(model, ROWS.assign(mask=text(missing[0].astype(np.uint8)[..., None] * 255), seed=3), op="inpaint")
    np.testing.assert_array_equal(completed, inpainted(generator, IMAGES[:3], missing, seed=3))
    assert {*expected, "decode", "sample", "nearest", "restyle", "inpaint"} == set(OPERATIONS)
    straight = ask(model, ROWS, op="interpolate", steps=4, linear=True)
    assert straight.shape == (12, 8, 8, 1) and (straight != expected["interpolate"]).any()


def test_pictures_go_out_as_texts_that_are_the_same_pixels(model):
    arrays, texts = ask(model, ROWS, op="reconstruct"), ask(model, ROWS, op="reconstruct", png=True)
    for array, written in zip(arrays, texts, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(written)))), array[..., 0])


def test_label_is_part_of_every_row_of_a_model_with_classes(tmp_path):
    model = served(tmp_path / "k", classes=2)
    rows = ROWS.assign(label=["ape", "bee", "ape"])
    numbers = torch.tensor([0, 1, 0])
    np.testing.assert_array_equal(ask(model, rows, op="reconstruct"), model.generator.reconstruct(IMAGES[:3], numbers))
    rows = rows.assign(make="bee")
    for op in ("reconstruct", "interpolate", "traverse", "encode", "score", "nearest", "denoise", "restyle"):
        assert len(ask(model, rows, op=op)) > 0
        with pytest.raises(ValueError, match=f"{op} needs a column 'label'"):
            ask(model, ROWS, op=op)
    with pytest.raises(ValueError, match="unknown label 'bea': did you mean 'bee'"):
        ask(model, rows.assign(label="bea"), op="encode")


BOMB = base64.b64encode(b"P5 30000 30000 255\n").decode()


@pytest.mark.parametrize(
    ("rows", "params", "words"),
    [
        ({"n": [1], "seed": [0]}, {"op": "smaple"}, "unknown op 'smaple': did you mean 'sample'"),
        ({"n": [1]}, {}, "sample needs a column 'seed'"),
        ({"n": [0], "seed": [0]}, {}, "n must be at least 1"),
        ({"n": [10**9], "seed": [0]}, {}, "at most 100000 in all"),
        ({"n": [60_000, 60_000], "seed": [0, 1]}, {}, "at most 100000 in all"),
        ({"n": [1], "seed": [0]}, {"temperature": -0.1}, "temperature -0.1 is not within"),
        ({"n": [1], "seed": [0], "label": ["ape"]}, {}, "none: the model has no classes"),
        ({"n": [], "seed": []}, {}, "no rows"),
        ({}, {"op": "encode"}, "no rows"),
        ({"image": ["?"]}, {"op": "encode"}, "image of row 0: the picture is no base64 text"),
        ({"image": [""]}, {"op": "encode"}, "image of row 0: empty_file"),
        ({"image": [text(IMAGES[0]), base64.b64encode(b"x").decode()]}, {"op": "score"}, "image of row 1: not_an_image"),
        ({"image": [BOMB]}, {"op": "reconstruct"}, "too_many_pixels"),
        ({"image": ["A" * (2 * MOST_BYTES)]}, {"op": "reconstruct"}, f"more than {MOST_BYTES} bytes"),
        ({"image": [text(IMAGES[0])]}, {"op": "interpolate"}, "needs a column 'other'"),
        ({"image": [text(IMAGES[0])]}, {"op": "traverse", "steps": 1}, "steps is 1"),
        ({"image": [text(IMAGES[0])]}, {"op": "traverse", "steps": 10**8}, "1 to 100000 images in all"),
        ({"image": [text(IMAGES[0])]}, {"op": "traverse", "extent": 0.0}, "extent is 0.0"),
        ({"image": [text(IMAGES[0])]}, {"op": "nearest", "count": 0}, "count is 0: 1 to 100"),
        ({"image": [text(IMAGES[0])]}, {"op": "denoise", "samples": 0}, "samples is 0: 1 to 1024"),
        ({"latents": [[0.0, 1.0]]}, {"op": "decode"}, "latents of a row are 3 numbers, got [2]"),
        ({"latents": [[0.0, 1.0, float("inf")]]}, {"op": "decode"}, "latents must be finite"),
    ],
)
def test_request_that_cannot_be_met_is_a_sentence(model, rows, params, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ask(model, pd.DataFrame(rows), **params)
    assert words in str(caught.value) and "\n" not in str(caught.value)
