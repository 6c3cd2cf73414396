"""transfer: what two models have in common is the same in both, to the last digit; frozen layers stay, deep ones learn slower."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs import model_config as small
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards
from vae.errors import StoppedError
from vae.extractor import Extractor, ExtractorConfig
from vae.models import MODELS, build
from vae.models.base import VAE
from vae.optim import OWN, build_optimizer, learned, learning_rate, set_rates
from vae.trainer import fit
from vae.transfer import NEW, PART, RESIZED, UNUSED, WHOLE, NothingToCarryError, carry

OLD = small(image_shape=(16, 16, 1), latent_dim=5, hidden_units=24)
FAMILY = ("conv", "resnet")


def made(config: ModelConfig, seed: int) -> VAE:
    """A model whose every number is drawn, so that none is equal by its first value."""
    model, generator = build(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model.eval()


def begun(old: VAE, config: ModelConfig, here: ModelConfig) -> tuple[VAE, dict[str, str]]:
    """A model of ``here`` that began from ``old``, and the outcome of each of its tensors."""
    model = made(here, 2)
    found = carry(model, old.state_dict(), config)
    model.load_state_dict(found.tensors)
    return model, {layer.name: layer.outcome for layer in found.layers if layer.outcome != UNUSED}


def grey(count: int = 6, side: int = 16) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", list(MODELS))
def test_the_same_model_is_carried_as_it_is(name):
    config = replace(OLD, name=name)
    old = made(config, 1)
    model, outcome = begun(old, config, config)
    assert set(outcome.values()) == {WHOLE}
    assert all(tensor.equal(old.state_dict()[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", FAMILY)
def test_colour_model_sees_and_draws_grey_pictures_as_the_grey_one_did(name):
    config = replace(OLD, name=name)
    old = made(config, 1)
    model, outcome = begun(old, config, replace(config, image_shape=(16, 16, 3)))
    assert sorted(set(outcome.values())) == sorted({WHOLE, RESIZED})
    for here, there in zip(model.encode(grey().expand(-1, 3, -1, -1)), old.encode(grey()), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)
    z_ND = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model.decode(z_ND), old.decode(z_ND).expand(-1, 3, -1, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_grey_model_draws_the_mean_of_what_the_colour_one_drew(name):
    config = replace(OLD, name=name, image_shape=(16, 16, 3))
    old = made(config, 1)
    model, _ = begun(old, config, replace(config, image_shape=(16, 16, 1)))
    z_ND = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model.decode(z_ND), old.decode(z_ND).mean(1, keepdim=True), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.encode(grey())[0], old.encode(grey().expand(-1, 3, -1, -1))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("latents", [3, 8])
def test_common_latents_mean_the_same_with_more_and_with_fewer(latents):
    old, config = made(OLD, 1), replace(OLD, latent_dim=latents)
    model, outcome = begun(old, OLD, config)
    assert {name for name, what in outcome.items() if what == PART} == {"encoder.11.weight", "encoder.11.bias", "expand.0.weight"}
    common = min(latents, 5)
    for here, there in zip(
        model.encode(grey()), old.encode(grey()), strict=True
    ):  # mean and log-variance are halves of one layer
        torch.testing.assert_close(here[:, :common], there[:, :common])
    z_ND = torch.zeros(4, 8)
    z_ND[:, :common] = torch.randn(4, common, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model.decode(z_ND[:, :latents]), old.decode(z_ND[:, :5]))


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 1), (24, 8, 1)])
def test_grid_of_another_size_keeps_its_sums_on_the_way_in_and_its_values_on_the_way_out(shape):
    old, config = made(OLD, 1), replace(OLD, image_shape=shape)
    model, outcome = begun(old, OLD, config)
    assert {name for name, what in outcome.items() if what == RESIZED} == {"encoder.9.weight", "expand.2.weight", "expand.2.bias"}
    assert {what for what in outcome.values()} == {WHOLE, RESIZED}

    def sums(of: VAE) -> Tensor:
        return of.encoder[9].weight.unflatten(1, of.bottom).sum((2, 3))

    torch.testing.assert_close(sums(model), sums(old), rtol=1e-4, atol=1e-4)
    even, first = made(OLD, 1), torch.zeros(16, 4, 4)
    first[:] = torch.arange(16.0)[:, None, None]  # a map that is the same everywhere
    even.expand[2].bias.data = first.flatten()
    larger, _ = begun(even, OLD, config)
    torch.testing.assert_close(
        larger.expand[2].bias.unflatten(0, larger.bottom), torch.arange(16.0)[:, None, None].expand(larger.bottom)
    )


def test_wider_and_deeper_models_take_what_they_share_and_say_so():
    old = made(OLD, 1)
    wider, outcome = begun(old, OLD, replace(OLD, widths=(16, 24)))
    assert outcome["encoder.4.weight"] == PART
    torch.testing.assert_close(wider.encoder[4].weight[:16, :8], old.encoder[4].weight)
    fresh = made(replace(OLD, widths=(16, 24)), 2)
    torch.testing.assert_close(wider.encoder[4].weight[16:], fresh.encoder[4].weight[16:])
    found = carry(made(replace(OLD, widths=(8, 16, 24)), 2), old.state_dict(), OLD)
    whole = {layer.name for layer in found.layers if layer.outcome == WHOLE}
    assert {"encoder.1.weight", "encoder.4.weight"} <= whole  # counted from the picture
    assert found.tensors["decoder.9.weight"].equal(old.state_dict()["decoder.6.weight"])  # likewise
    assert {layer.outcome for layer in found.layers} >= {NEW, UNUSED}
    assert all(layer.here == () and layer.there for layer in found.layers if layer.outcome == UNUSED)


def test_classes_of_other_images_begin_anew():
    config = replace(OLD, classes=3)
    _, outcome = begun(made(config, 1), config, replace(OLD, classes=4))
    assert outcome["class_in_latents.table"] == outcome["class_in_picture.table"] == NEW
    _, outcome = begun(made(config, 1), config, config)
    assert set(outcome.values()) == {WHOLE}


def test_other_outputs_begin_anew_and_a_model_of_nothing_in_common_is_refused():
    _, outcome = begun(made(OLD, 1), OLD, replace(OLD, likelihood="logistic_mixture"))
    assert {name for name, what in outcome.items() if what == NEW} == {"decoder.6.weight", "decoder.6.bias"}
    with pytest.raises(NothingToCarryError, match=r"fit\.model"):
        carry(made(replace(OLD, name="ladder"), 2), made(OLD, 1).state_dict(), OLD)


CLASSIFIER = ExtractorConfig(channels=1, width=8, feature_dim=6, classes=3, task="labels")
SEEING = replace(OLD, name="classifier_encoder", widths=(8, 16, 32))


def classifier(config: ExtractorConfig = CLASSIFIER) -> Extractor:
    network, generator = Extractor(config), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return network.eval()


def test_encoder_begins_as_a_classifier_and_sees_what_that_one_saw():
    old, model = classifier(), made(SEEING, 2)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = carry(model, old.state_dict(), CLASSIFIER)
    model.load_state_dict(found.tensors)
    torch.testing.assert_close(model.encoder[:5](grey()), old.neck[:2](old.body(grey())), rtol=0, atol=0)
    whole = {layer.name for layer in found.layers if layer.outcome == WHOLE}
    assert whole == {name for name in fresh if re.match(r"encoder\.[0-3]\.", name)}
    assert all(found.tensors[name].equal(fresh[name]) for name in fresh.keys() - whole)
    unused = {layer.name for layer in found.layers if layer.outcome == UNUSED}
    assert unused == {"to_features.weight", "to_features.bias", "head.weight", "head.bias", "mean_F", "std_F"}
    assert (
        found.depths["encoder.0.weight"] > found.depths["encoder.1.main.2.weight"] > found.depths["encoder.2.main.2.weight"] > 0
    )


def test_colour_encoder_sees_grey_pictures_as_the_grey_classifier_did():
    old, model = classifier(), made(replace(SEEING, image_shape=(16, 16, 3)), 2)
    model.load_state_dict(carry(model, old.state_dict(), CLASSIFIER).tensors)
    torch.testing.assert_close(
        model.encoder[:5](grey().expand(-1, 3, -1, -1)), old.neck[:2](old.body(grey())), rtol=1e-4, atol=1e-5
    )


def test_classifier_of_other_widths_is_carried_in_part_and_nothing_of_it_fits_another_model():
    wider = replace(CLASSIFIER, width=16)
    found = carry(made(SEEING, 2), classifier(wider).state_dict(), wider)
    assert {layer.outcome for layer in found.layers if layer.name.startswith("encoder.0")} == {PART}
    with pytest.raises(NothingToCarryError, match=r"classifier_encoder, and fit.widths to \[8, 16, 32\]"):
        carry(made(OLD, 2), classifier().state_dict(), CLASSIFIER)


def test_depth_counts_layers_from_the_latents():
    depth = {layer.name: layer.depth for layer in carry(build(OLD), build(OLD).state_dict(), OLD).layers}
    assert depth["encoder.11.weight"] == depth["expand.0.weight"] == 0
    assert depth["encoder.9.weight"] == depth["expand.2.weight"] == 1
    assert depth["encoder.1.weight"] == 4 and depth["decoder.6.weight"] == depth["likelihood.log_scale"] == 4


def test_rates_follow_the_depth_and_the_frozen_time(fit_config: FitConfig):
    config = replace(fit_config, frozen_images=100, layer_decay=0.5)
    model = build(OLD)
    carried = {"encoder.1.weight": 4, "expand.0.weight": 0, "encoder.1.bias": 4}
    optimizer = build_optimizer(model, config, carried)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in learned(model))
    names = {id(p): name for name, p in model.named_parameters()}
    for images in (0, 99, 100, 500):
        set_rates(optimizer, images, config)
        for group in optimizer.param_groups:
            for p in group["params"]:
                depth = carried.get(names[id(p)], OWN)
                factor = 1 if depth == OWN else 0 if images < 100 else 0.5**depth
                assert group["lr"] == pytest.approx(factor * learning_rate(images, config), rel=1e-12)
                assert group["weight_decay"] == (config.weight_decay if p.ndim > 1 else 0)


def test_frozen_layers_keep_their_bits_and_then_learn_and_a_resumed_run_is_the_same(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, tmp_path: Path
):
    there = replace(model_config, latent_dim=model_config.latent_dim + 2)
    old = {name: tensor.clone() for name, tensor in made(there, 1).state_dict().items()}
    config = replace(fit_config, frozen_images=320, layer_decay=0.7, skip_nonfinite_steps=100)
    given = {"initial": old, "initial_config": there}
    at_step: dict[float, dict[str, Tensor]] = {}

    def seen(metrics: dict[str, float], averaged: VAE) -> None:
        at_step[metrics["step"]] = {name: tensor.clone() for name, tensor in averaged.state_dict().items()}

    straight = fit(model_config, config, shards, shards, on_report=seen, **given)
    kept = [name for name in ("encoder.1.weight", "decoder.6.weight", "expand.2.weight")]
    assert all(at_step[step][name].equal(old[name]) for step in (10, 20) for name in kept)
    assert not any(at_step[30][name].equal(old[name]) for name in kept)
    assert not at_step[10]["expand.0.weight"].equal(at_step[20]["expand.0.weight"])  # carried in part: it learns at once
    asked = iter([False, True, False, False])
    with pytest.raises(StoppedError):
        fit(model_config, config, shards, shards, checkpoints=tmp_path, should_stop=lambda: next(asked), **given)
    resumed = fit(model_config, config, shards, shards, checkpoints=tmp_path, **given)
    assert all(tensor.equal(resumed.model.state_dict()[name]) for name, tensor in straight.model.state_dict().items())
