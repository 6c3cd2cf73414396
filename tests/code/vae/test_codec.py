"""codec: what is pushed is popped, in as many bits as probabilities say; pictures come back, and a damaged file never does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from configs import model_config
from saved import saved_model
from vae.artefact import load_artefact
from vae.codec import bits_back, lossy
from vae.codec.container import LOSSLESS, Container, DamagedFileError
from vae.codec.stack import REACH, Stack, supply
from vae.codec.tables import CELLS, STEPS, Tables
from vae.compress import OtherModelError, OtherPixelsError, compress, compress_lossless, decompress, identity, step_number
from vae.images import LEVELS, to_model_range
from vae.likelihood import LIKELIHOODS
from vae.models import build
from vae.models.base import VAE
from vae.models.conv import ConvVAE

TOLD = {"logistic": 1, "gaussian": 1, "gaussian_optimal": 1, "gaussian_fixed": 1, "logistic_mixture": 1}
MODELS = ("conv", "resnet", "ladder", "classifier_encoder")


def speaking(name: str, likelihood: str = "logistic", channels: int = 1, seed: int = 0) -> VAE:
    """A model of random weights whose posteriors differ from picture to picture and are narrow, as those of trained ones."""
    torch.manual_seed(seed)
    model = build(model_config(name=name, image_shape=(8, 8, channels), latent_dim=3, likelihood=likelihood)).eval()
    outs = [model.encoder[-1]] if isinstance(model, ConvVAE) or name == "resnet" else [
        layer.posterior[-1] for stage in model.stages for layer in stage
    ]  # fmt: skip
    for out in outs:
        half = len(out.weight) // 2
        torch.nn.init.normal_(out.weight[:half], std=3 / out.weight[0].numel() ** 0.5)
        torch.nn.init.normal_(out.weight[half:], std=0.5 / out.weight[0].numel() ** 0.5)
        torch.nn.init.normal_(out.bias[:half], std=0.5)
        torch.nn.init.constant_(out.bias[half:], -4)
    return model


def some_images(count: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = rng.integers(0, 256, (count, 1, 1, channels))
    return (middle + rng.normal(0, 20, (count, 8, 8, channels))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(TOLD))
def test_differences_of_below_are_the_masses_of_the_likelihood(name, channels):
    torch.manual_seed(1)
    likelihood = LIKELIHOODS[name](channels, 0.3).double().requires_grad_(False)
    output = torch.randn(5, likelihood.output_channels, 1, 1, dtype=torch.float64)
    levels = torch.randint(0, LEVELS, (5, channels))
    levels[0], levels[1] = 0, LEVELS - 1  # whose bins reach to infinity
    x_NCHW = (levels * 2 / 255 - 1).double()[:, :, None, None]
    total_N = torch.zeros(5, dtype=torch.float64)
    for channel in range(channels):
        below = likelihood.below(output, x_NCHW, channel)
        level = levels[:, channel, None, None]
        masses = [below(torch.full_like(level, i + 1)) - below(torch.full_like(level, i)) for i in range(LEVELS)]
        assert min(float(mass.min()) for mass in masses) >= 0
        torch.testing.assert_close(sum(masses), torch.ones(5, 1, 1, dtype=torch.float64))
        total_N += (below(level + 1) - below(level)).log().flatten()
    torch.testing.assert_close(total_N, likelihood.log_prob(output, x_NCHW).double(), rtol=1e-4, atol=1e-4)


def test_below_of_two_levels():
    likelihood = LIKELIHOODS["bernoulli"](1)
    output = torch.tensor([-2.0, 0.5])[:, None, None, None]
    below = likelihood.below(output, output, 0)
    white = torch.sigmoid(output[:, 0])
    for level, expected in ((0, torch.zeros_like(white)), (1, 1 - white), (255, 1 - white), (256, torch.ones_like(white))):
        torch.testing.assert_close(below(torch.full((2, 1, 1), level)), expected)


def test_numbers_take_the_bits_that_their_density_says_and_come_back():
    rng = np.random.default_rng(0)
    mean = torch.from_numpy(rng.normal(0, 300, 4000))
    std = torch.from_numpy(np.exp(rng.uniform(0.5, 6, 4000)))
    value = (mean + std * torch.from_numpy(rng.standard_normal(4000).clip(-5, 5))).round().long()
    stack = Stack(supply(10))
    stack.push_normal(value, mean, std)
    nats = 0.5 * math.log(2 * math.pi) + std.log() + 0.5 * ((value - mean) / std).square()
    assert 32 * (len(stack.words()) - 10) == pytest.approx(float(nats.sum()) / math.log(2), rel=0.002, abs=40)
    torch.testing.assert_close(stack.pop_normal(mean, std), value)
    np.testing.assert_array_equal(stack.words(), supply(10))


def test_what_is_drawn_of_the_supply_follows_the_density():
    stack, std = Stack(supply(200_000)), torch.tensor([1.5, 20.0, 400.0]).repeat(30_000).double()
    drawn = stack.pop_normal(torch.full_like(std, 0.25), std)
    away = ((drawn - 0.25) / std).view(-1, 3)
    # A draw from the mass that a coder leaves to all numbers alike would be hundreds of deviations away.
    assert float(away.abs().max()) < 2 * REACH
    torch.testing.assert_close(away.mean(0), torch.zeros(3).double(), atol=0.03, rtol=0)
    torch.testing.assert_close(
        away.square().mean(0), torch.ones(3).double() + 1 / 12 / torch.tensor([2.25, 400, 160000]).double(), atol=0.03, rtol=0
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("likelihood", list(TOLD))
@pytest.mark.parametrize("name", MODELS)
def test_bits_back_gives_every_pixel_for_the_bits_of_the_bound(name, likelihood, channels):
    model, images = speaking(name, likelihood, channels), some_images(45, channels)
    coded = bits_back.encode(model, images, lanes=4)
    np.testing.assert_array_equal(bits_back.decode(model, coded.words, coded.borrowed, images.shape, 4), images)
    bits = 32 * (len(coded.words) - coded.borrowed)
    assert bits <= 1.01 * coded.estimated_bits + 100
    # A level that the model holds to be nearly impossible has the least mass, and costs less than the model says.
    assert likelihood in ("gaussian_fixed", "logistic_mixture") or bits >= 0.99 * coded.estimated_bits - 100


def test_estimate_is_the_bound_of_the_model():
    model, images = speaking("conv"), some_images(2000)
    coded = bits_back.encode(model, images, lanes=8)
    x_NCHW = to_model_range(torch.from_numpy(images))
    with torch.no_grad():
        terms = model(x_NCHW, torch.randn(len(images), model.latent_dim))
    bound_bits = float((terms.distortion_N + terms.rate_ND.sum(1)).sum()) / math.log(2)
    assert coded.estimated_bits == pytest.approx(bound_bits, rel=0.01)


def test_threads_and_layout_in_memory_do_not_change_a_bit():
    model, images = speaking("ladder"), some_images(30)
    tables, threads = Tables.fit(model, images), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = bits_back.encode(model, images, 7), lossy.Coder(model, tables, 5).encode(images)
        torch.set_num_threads(2)
        other = model.to(memory_format=torch.channels_last)
        second = bits_back.encode(other, images, 7), lossy.Coder(other, tables, 5).encode(images)
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.words, two.words)


@pytest.mark.parametrize("name", MODELS)
def test_lossy_words_hold_the_values_in_the_bits_of_the_tables(name):
    model, images = speaking(name), some_images(300)
    tables = Tables.fit(model, images)
    for step in (1, 14, 100):
        coder = lossy.Coder(model, tables, step)
        coded = coder.encode(images)
        value_ND, stack = coder.values(coded.words, len(images))
        np.testing.assert_array_equal(value_ND, coded.value_ND)
        assert stack.empty
        assert 32 * len(coded.words) == pytest.approx(coded.estimated_bits, rel=0.01, abs=64)
        np.testing.assert_array_equal(coder.decode(coded.words, len(images)), coder.pictures(coded.value_ND))


def test_finest_step_gives_nearly_the_latents_and_coarser_ones_less_and_fewer_bits():
    model, images = speaking("conv"), some_images(300)
    tables, found = Tables.fit(model, images), []
    x_NCHW = to_model_range(torch.from_numpy(images))
    with torch.no_grad():
        mean_ND, logvar_ND = model.encode(x_NCHW)
    for step in (1, 14, 60):
        coded = lossy.Coder(model, tables, step).encode(images)
        low_D = torch.tensor([tables.of(int(channel), step)[0] for channel in tables.tensors["channel_D"]])
        latents = (torch.from_numpy(coded.value_ND) + low_D) * tables.width_D(step)
        found.append((float(((latents - mean_ND) / (0.5 * logvar_ND).exp()).square().mean()), coded.estimated_bits))
    errors, bits = zip(*found, strict=True)
    assert errors[0] < 0.02 < errors[1] < errors[2] and bits[0] > bits[1] > bits[2]


def test_value_is_the_one_of_all_that_costs_least():
    model, images = speaking("conv"), some_images(200)
    tables, step = Tables.fit(model, images), 14
    coded = lossy.Coder(model, tables, step).encode(images[:20])
    with torch.no_grad():
        mean_ND, logvar_ND = model.double().encode(to_model_range(torch.from_numpy(images[:20])).double())
    weight = 12 * (STEPS / step) ** 2 / 2
    for d in range(model.latent_dim):
        low, probability_K = tables.of(d, step)
        place_K = (low + torch.arange(len(probability_K))) * tables.width_D(step)[d]
        cost_NK = (
            weight * (place_K - mean_ND[:, d, None]).square() / logvar_ND[:, d, None].exp()
            - torch.from_numpy(probability_K).log()
        )
        chosen = torch.from_numpy(coded.value_ND)[:, d]
        torch.testing.assert_close(cost_NK.gather(1, chosen[:, None])[:, 0], cost_NK.amin(1), rtol=0, atol=1e-6)


def test_tables_count_the_means_of_the_training_images():
    model, images = speaking("conv"), some_images(2000)
    tables = Tables.fit(model, images)
    with torch.no_grad():
        mean_ND, logvar_ND = model.encode(to_model_range(torch.from_numpy(images)))
    for d in range(model.latent_dim):
        std = float(logvar_ND[:, d].double().exp().mean().sqrt())
        assert float(tables.tensors["cell_G"][d]) == pytest.approx(std / CELLS, rel=1e-6)
        for step in (1, 10, 40):
            low, probability_K = tables.of(d, step)
            assert probability_K.sum() == pytest.approx(1) and probability_K.min() > 0
            width = float(tables.width_D(step)[d])
            place = (mean_ND[:, d].double() / width).round().long() - low
            assert int(place.min()) >= 0 and int(place.max()) < len(probability_K)
            if width > 3 * std:  # so that the blur does not matter
                share_K = torch.bincount(place, minlength=len(probability_K)).double() / len(images)
                assert float((share_K - torch.from_numpy(probability_K)).abs().sum()) < 0.3


def test_channels_of_a_ladder_are_layers_and_depths(tmp_path):
    model = speaking("ladder")
    channel_D, sizes = model.channel_D, model.layers
    for number, part in enumerate(channel_D.split(sizes)):
        depth = 3
        expected = torch.arange(number * depth, (number + 1) * depth).repeat_interleave(sizes[number] // depth)
        torch.testing.assert_close(part, expected)


def packed(**changes: object) -> tuple[Container, bytes]:
    words = np.arange(1, 6, dtype=np.uint32) * 2**27
    container = Container(LOSSLESS, 3, (4, 8, 8, 1), b"modelid8", b"pixels_8", 2, words, "models:/a/3", ("ä", "b", "c", "d"))
    container = replace(container, **changes)
    return container, container.pack()


@pytest.mark.parametrize("simple", [False, True])
def test_what_is_borrowed_is_a_hundredth_of_the_file_whatever_a_picture_takes(simple):
    model, images = speaking("conv"), some_images(2000)
    if simple:  # every picture is what the decoder draws anyway
        torch.nn.init.zeros_(model.decoder[-2].weight)
        torch.nn.init.constant_(model.decoder[-2].bias, 2 * 128 / 255 - 1)
        torch.nn.init.constant_(model.likelihood.log_scale, -7.0)
        images = np.full_like(images, 128)
    lanes = bits_back.usual_lanes(model, images)
    found = bits_back.encode(model, images, lanes)
    assert (found.estimated_bits < images.size / 2) == simple
    assert 0.003 < found.borrowed / len(found.words) < 0.015 and lanes > 1
    assert bits_back.usual_lanes(model, images[:1]) == 1


def test_container_comes_back_and_is_laid_out_as_documented():
    container, content = packed()
    again = Container.unpack(content)
    np.testing.assert_array_equal(again.words, container.words)
    assert replace(again, words=container.words) == container
    # docs/codec.md, by hand.
    assert content[:8] == b"VAEC\x01\x01\x03\x00" and content[8:17] == b"\x04\0\0\0\x08\0\x08\0\x01"
    assert content[17:33] == b"modelid8pixels_8" and content[33:41] == b"\x02\0\0\0\x05\0\0\0"
    assert content[-24:-4] == container.words.astype("<u4").tobytes()


def test_every_cut_and_every_changed_byte_of_a_file_is_found():
    _, content = packed()
    for length in range(len(content)):
        with pytest.raises(DamagedFileError):
            Container.unpack(content[:length])
    with pytest.raises(DamagedFileError, match="added to"):
        Container.unpack(content + b"\0")
    for place in range(len(content)):
        for change in (0x01, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= change
            with pytest.raises(DamagedFileError):
                Container.unpack(bytes(damaged))


@pytest.fixture
def generator(tmp_path):
    return saved_model(tmp_path / "m", mode="L", tables=True)


def test_file_of_pictures_opens_with_its_model_alone(tmp_path, generator):
    images = some_images(20)
    other = saved_model(tmp_path / "other", mode="L", tables=True, seed=1)
    again = load_artefact(tmp_path / "m")
    for found in (compress(generator, images, 3.5, "models:/a/1"), compress_lossless(generator, images, "models:/a/1")):
        container = Container.unpack(found.container.pack())
        np.testing.assert_array_equal(decompress(again, container), found.images_NHWC)
        with pytest.raises(OtherModelError, match=r"models:/a/1"):
            decompress(other, container)
    np.testing.assert_array_equal(found.images_NHWC, images)


def test_identity_follows_weights_tables_and_configuration(tmp_path, generator):
    told = {identity(generator)}
    first = next(iter(generator.tables.tensors["weight"].split(1)))
    first += 1
    told.add(identity(generator))
    next(generator.model.parameters()).data.view(-1)[0] += 1
    told.add(identity(generator))
    generator.tables = None
    told.add(identity(generator))
    assert len(told) == 4
    assert identity(saved_model(tmp_path / "again", mode="L", tables=True)) == identity(load_artefact(tmp_path / "m"))


def test_words_that_are_not_those_of_the_pictures_are_not_believed(generator):
    images = some_images(20)
    container = compress_lossless(generator, images).container
    changed = replace(container, words=container.words ^ np.uint32(1 << 7))
    with pytest.raises(ValueError, match="payload"):
        decompress(generator, changed)
    container = compress(generator, images, 3.5).container
    with pytest.raises(OtherPixelsError):
        decompress(generator, replace(container, pixels=b"12345678"))


@pytest.mark.parametrize("changes", [{"name": "vq"}, {"classes": 3}, {"likelihood": "bernoulli"}])
def test_model_that_cannot_is_refused(tmp_path, changes):
    generator = saved_model(tmp_path / "m", mode="L", **changes)
    with pytest.raises(ValueError, match=r"vq cannot compress|class_conditional cannot compress|knows two levels"):
        compress_lossless(generator, some_images(2))


def test_pictures_and_steps_that_do_not_go_are_refused(tmp_path, generator):
    with pytest.raises(ValueError, match=r"images are \(8, 8, 3\)"):
        compress_lossless(generator, some_images(2, channels=3))
    with pytest.raises(ValueError, match="no picture"):
        compress(generator, some_images(0), 3.5)
    for step in (0.0, -1.0, 0.1, 65.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="step is"):
            compress(generator, some_images(2), step)
    assert [step_number(value) for value in (0.25, 3.5, 64)] == [1, 14, 256]
    with pytest.raises(ValueError, match="no tables"):
        compress(saved_model(tmp_path / "plain", mode="L"), some_images(2), 3.5)


def test_networks_of_float64_stay_so():
    for name in MODELS:
        model = speaking(name).double()
        x_NCHW = torch.rand(2, 1, 8, 8, dtype=torch.float64) * 2 - 1
        drawn: list[Tensor] = []

        def draw(mean_ND: Tensor, logvar_ND: Tensor, drawn: list[Tensor] = drawn) -> Tensor:
            drawn.append(mean_ND)
            return mean_ND

        with torch.no_grad():
            found = model.infer_by(model.observe(x_NCHW), [draw] * len(model.layers))
            output = model.decode(found.z_ND)
        assert {each.dtype for each in (*drawn, found.z_ND, output)} == {torch.float64}
