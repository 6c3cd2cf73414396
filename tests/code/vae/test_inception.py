"""inception: features against the same network written out as functions, names and shapes against a table, and its loader."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from vae.metrics.inception import InceptionFeatures, WeightsError, load_inception

# Of the published file, convolution by convolution: channels out, in, kernel height, width.
STEM = {
    "Conv2d_1a_3x3": (32, 3, 3, 3), "Conv2d_2a_3x3": (32, 32, 3, 3), "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64, 1, 1), "Conv2d_4a_3x3": (192, 80, 3, 3),
}  # fmt: skip
CHANNELS_IN = {
    "5b": 192, "5c": 256, "5d": 288, "6a": 288, "6b": 768, "6c": 768, "6d": 768, "6e": 768, "7a": 768, "7b": 1280, "7c": 2048,
}  # fmt: skip


def shapes_of_block(name: str) -> dict[str, tuple[int, int, int, int]]:
    c = CHANNELS_IN[name]
    if name[0] == "5":
        return {
            "branch1x1": (64, c, 1, 1), "branch5x5_1": (48, c, 1, 1), "branch5x5_2": (64, 48, 5, 5),
            "branch3x3dbl_1": (64, c, 1, 1), "branch3x3dbl_2": (96, 64, 3, 3), "branch3x3dbl_3": (96, 96, 3, 3),
            "branch_pool": (32 if name == "5b" else 64, c, 1, 1),
        }  # fmt: skip
    if name == "6a":
        return {
            "branch3x3": (384, 288, 3, 3), "branch3x3dbl_1": (64, 288, 1, 1),
            "branch3x3dbl_2": (96, 64, 3, 3), "branch3x3dbl_3": (96, 96, 3, 3),
        }  # fmt: skip
    if name[0] == "6":
        m = {"6b": 128, "6c": 160, "6d": 160, "6e": 192}[name]
        return {
            "branch1x1": (192, c, 1, 1),
            "branch7x7_1": (m, c, 1, 1), "branch7x7_2": (m, m, 1, 7), "branch7x7_3": (192, m, 7, 1),
            "branch7x7dbl_1": (m, c, 1, 1), "branch7x7dbl_2": (m, m, 7, 1), "branch7x7dbl_3": (m, m, 1, 7),
            "branch7x7dbl_4": (m, m, 7, 1), "branch7x7dbl_5": (192, m, 1, 7), "branch_pool": (192, c, 1, 1),
        }  # fmt: skip
    if name == "7a":
        return {
            "branch3x3_1": (192, 768, 1, 1), "branch3x3_2": (320, 192, 3, 3), "branch7x7x3_1": (192, 768, 1, 1),
            "branch7x7x3_2": (192, 192, 1, 7), "branch7x7x3_3": (192, 192, 7, 1), "branch7x7x3_4": (192, 192, 3, 3),
        }  # fmt: skip
    return {
        "branch1x1": (320, c, 1, 1), "branch3x3_1": (384, c, 1, 1), "branch3x3_2a": (384, 384, 1, 3),
        "branch3x3_2b": (384, 384, 3, 1), "branch3x3dbl_1": (448, c, 1, 1), "branch3x3dbl_2": (384, 448, 3, 3),
        "branch3x3dbl_3a": (384, 384, 1, 3), "branch3x3dbl_3b": (384, 384, 3, 1), "branch_pool": (192, c, 1, 1),
    }  # fmt: skip


CONVOLUTIONS = STEM | {f"Mixed_{b}.{name}": shape for b in CHANNELS_IN for name, shape in shapes_of_block(b).items()}


def filled() -> dict[str, Tensor]:
    """Weights under the published names that let signals through and make every number of every tensor matter."""
    generator = torch.Generator().manual_seed(0)
    weights = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    for name, shape in CONVOLUTIONS.items():
        fan_in = shape[1] * shape[2] * shape[3]
        weights[f"{name}.conv.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        weights[f"{name}.bn.weight"] = 0.5 + torch.rand(shape[0], generator=generator)
        weights[f"{name}.bn.bias"] = 0.2 * torch.randn(shape[0], generator=generator)
        weights[f"{name}.bn.running_mean"] = 0.2 * torch.randn(shape[0], generator=generator)
        weights[f"{name}.bn.running_var"] = 0.5 + torch.rand(shape[0], generator=generator)
    return weights


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return filled()


@pytest.fixture(scope="module")
def network(weights: dict[str, Tensor]) -> InceptionFeatures:
    made = InceptionFeatures()
    made.load_state_dict(weights, strict=True)
    return made


class Written:
    """The network as functions of the tensors, in doubles, from figures 4 to 7 and table 1 of Szegedy et al. 2016."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = {name: tensor.double() for name, tensor in weights.items()}

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> Tensor:
        w = {part: self.weights[f"{name}.{part}"] for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean")}
        scale = w["bn.weight"] / (self.weights[f"{name}.bn.running_var"] + 0.001).sqrt()
        x = F.conv2d(x, w["conv.weight"] * scale[:, None, None, None], stride=stride, padding=padding)
        return (x + (w["bn.bias"] - w["bn.running_mean"] * scale)[:, None, None]).clamp_min(0)

    @staticmethod
    def average(x: Tensor) -> Tensor:
        """Mean over those of 3x3 neighbours that exist: sums over counts."""
        kernel = torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype)
        counts = F.conv2d(torch.ones_like(x[:, :1]), kernel[:1], padding=1)
        return F.conv2d(x, kernel, padding=1, groups=x.shape[1]) / counts

    @staticmethod
    def maximum(x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
        h, w = x.shape[2:]
        return torch.stack([padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]).amax(0)

    @staticmethod
    def halved(x: Tensor) -> Tensor:
        h, w = ((side - 3) // 2 + 1 for side in x.shape[2:])
        return torch.stack([x[:, :, i : i + 2 * h - 1 : 2, j : j + 2 * w - 1 : 2] for i in range(3) for j in range(3)]).amax(0)

    def block(self, x: Tensor, name: str) -> Tensor:
        def c(y: Tensor, conv: str, *rest: int, **more: int) -> Tensor:
            return self.conv(y, f"Mixed_{name}.{conv}", padding=rest or (0, 0), **more)

        if name[0] == "5":
            five = c(c(x, "branch5x5_1"), "branch5x5_2", 2, 2)
            three = c(c(c(x, "branch3x3dbl_1"), "branch3x3dbl_2", 1, 1), "branch3x3dbl_3", 1, 1)
            parts = [c(x, "branch1x1"), five, three, c(self.average(x), "branch_pool")]
        elif name == "6a":
            three = c(c(c(x, "branch3x3dbl_1"), "branch3x3dbl_2", 1, 1), "branch3x3dbl_3", stride=2)
            parts = [c(x, "branch3x3", stride=2), three, self.halved(x)]
        elif name[0] == "6":
            seven = c(c(c(x, "branch7x7_1"), "branch7x7_2", 0, 3), "branch7x7_3", 3, 0)
            double = c(c(c(x, "branch7x7dbl_1"), "branch7x7dbl_2", 3, 0), "branch7x7dbl_3", 0, 3)
            double = c(c(double, "branch7x7dbl_4", 3, 0), "branch7x7dbl_5", 0, 3)
            parts = [c(x, "branch1x1"), seven, double, c(self.average(x), "branch_pool")]
        elif name == "7a":
            three = c(c(x, "branch3x3_1"), "branch3x3_2", stride=2)
            seven = c(c(c(x, "branch7x7x3_1"), "branch7x7x3_2", 0, 3), "branch7x7x3_3", 3, 0)
            parts = [three, c(seven, "branch7x7x3_4", stride=2), self.halved(x)]
        else:
            three, double = c(x, "branch3x3_1"), c(c(x, "branch3x3dbl_1"), "branch3x3dbl_2", 1, 1)
            pooled = self.average(x) if name == "7b" else self.maximum(x)
            parts = [c(x, "branch1x1"), c(three, "branch3x3_2a", 0, 1), c(three, "branch3x3_2b", 1, 0)]
            parts += [c(double, "branch3x3dbl_3a", 0, 1), c(double, "branch3x3dbl_3b", 1, 0), c(pooled, "branch_pool")]
        return torch.cat(parts, 1)

    def features(self, images_NHWC: np.ndarray) -> Tensor:
        x = 2 * torch.stack([resized(image) for image in images_NHWC]) - 1
        x = self.conv(self.conv(x, "Conv2d_1a_3x3", stride=2), "Conv2d_2a_3x3")
        x = self.conv(self.halved(self.conv(x, "Conv2d_2b_3x3", padding=(1, 1))), "Conv2d_3b_1x1")
        x = self.halved(self.conv(x, "Conv2d_4a_3x3"))
        for name in CHANNELS_IN:
            x = self.block(x, name)
        return x.flatten(2).mean(2)


def resized(image_HWC: np.ndarray, side: int = 299) -> Tensor:
    """(3, side, side) in [0, 1]: each pixel between the four whose middles surround its own; no smoothing before."""

    def weights(length: int) -> np.ndarray:
        places = np.clip((np.arange(side) + 0.5) * length / side - 0.5, 0, None)
        low = np.minimum(np.floor(places).astype(int), length - 1)
        high, share = np.minimum(low + 1, length - 1), places - low
        matrix = np.zeros((side, length))
        np.add.at(matrix, (np.arange(side), low), 1 - share)
        np.add.at(matrix, (np.arange(side), high), share)
        return matrix

    height, width, _ = image_HWC.shape
    found = np.einsum("ih,hwc,jw->cij", weights(height), image_HWC / 255.0, weights(width), optimize=True)
    return torch.from_numpy(found)


def images(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(32, 32, 3), (31, 320, 3)])
def test_features_equal_the_network_written_out(network: InceptionFeatures, weights: dict[str, Tensor], shape: tuple) -> None:
    batch = images(1, *shape)
    expected = Written(weights).features(batch)
    found = network.features(batch)
    assert found.shape == (1, 2048) and found.dtype == torch.float32
    assert (expected > 0).float().mean() > 0.3 and expected.std() > 0.1  # there is something to compare
    assert float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize(("name", "side"), [("5b", 4), ("5d", 5), ("6c", 4), ("7b", 3), ("7c", 3), ("6a", 7), ("7a", 7)])
def test_blocks_equal_those_written_out_where_the_border_is_most_of_the_picture(
    network: InceptionFeatures, weights: dict[str, Tensor], name: str, side: int
) -> None:
    x = torch.randn(2, CHANNELS_IN[name], side, side, generator=torch.Generator().manual_seed(1))
    found = getattr(network, f"Mixed_{name}")(x)
    torch.testing.assert_close(found, Written(weights).block(x.double(), name).float(), rtol=1e-4, atol=1e-4)


def test_last_block_takes_the_maximum_and_the_one_before_the_average(network: InceptionFeatures) -> None:
    # A constant looks the same to both; a single bright pixel does not, and only the pooling branch differs between the two.
    flat = torch.ones(1, 2048, 5, 5)
    spot = flat.clone()
    spot[:, :, 2, 2] = 10.0
    branch = network.Mixed_7c.branch_pool
    torch.testing.assert_close(network.Mixed_7c(spot)[:, -192:, 1, 1], branch(10 * flat)[:, :, 1, 1])
    torch.testing.assert_close(
        network.Mixed_7b(spot[:, :1280])[:, -192:, 1, 1], network.Mixed_7b.branch_pool(2 * flat[:, :1280])[:, :, 1, 1]
    )
    # An average that leaves out the padding sees a constant as a constant, corners too.
    edge = network.Mixed_5b(torch.ones(1, 192, 4, 4))[:, -32:]
    torch.testing.assert_close(edge[:, :, 0, 0], edge[:, :, 1, 1])


def test_names_and_shapes_are_those_of_the_published_file(network: InceptionFeatures) -> None:
    own = {k: tuple(v.shape) for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    expected = {k: tuple(v.shape) for k, v in filled().items()}
    assert own == expected
    assert len(CONVOLUTIONS) == 94 and len(own) == 94 * 5 + 2 == 472
    assert sum(p.numel() for p in network.parameters()) == 23_850_960
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert network.Mixed_7c.branch1x1.bn.eps == 0.001


def test_grey_is_three_equal_channels(network: InceptionFeatures) -> None:
    grey = images(2, 24, 24, 1)
    torch.testing.assert_close(network.features(grey), network.features(grey.repeat(3, axis=3)), rtol=1e-4, atol=1e-4)


def test_batches_change_nothing_and_order_is_kept(network: InceptionFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = images(3, 20, 20, 3)
    whole = network.features(batch)
    monkeypatch.setattr("vae.metrics.inception.FEATURE_BATCH", 2)
    torch.testing.assert_close(network.features(torch.from_numpy(batch)), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.features(batch[2:]), whole[2:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.uint8)]
)
def test_other_than_grey_or_rgb_bytes_are_refused(network: InceptionFeatures, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8 images"):
        network.features(wrong)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_both_kinds_of_file_load_with_or_without_counters_of_batches(
    tmp_path: Path, weights: dict[str, Tensor], network: InceptionFeatures
) -> None:
    batch = images(1, 16, 16, 3)
    torch.save(network.state_dict(), tmp_path / "whole.pth")
    save_file(weights, tmp_path / "bare.safetensors")
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    for name in ("whole.pth", "bare.safetensors"):
        loaded = load_inception(tmp_path / name, digest(tmp_path / name).upper())
        assert torch.equal(loaded.features(batch), network.features(batch))
        assert not loaded.training
    assert torch.equal(torch.rand(1), drawn)  # fresh weights are drawn and thrown away: nobody's randomness moves


def test_wrong_checksum_is_refused_before_the_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, path)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(
        WeightsError, match=rf"weights.pth has the sha256 {digest(path)}, not {'0' * 64}.*not opened: give the file"
    ):
        load_inception(path, "0" * 64)


def test_missing_damaged_and_foreign_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none.pth cannot be read \(No such file or directory\): give the file"):
        load_inception(tmp_path / "none.pth", "0" * 64)
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"fc.bias": torch.zeros(3)}, tmp_path / "other.safetensors")
    for name in ("other.pth", "text.pth", "text.safetensors", "other.safetensors"):
        with pytest.raises(WeightsError, match=rf"{name} does not hold the weights of pt_inception-2015-12-05 \("):
            load_inception(tmp_path / name, digest(tmp_path / name))


def test_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"fc.bias": Planted()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError):
        load_inception(tmp_path / "bad.pth", digest(tmp_path / "bad.pth"))
    assert not (tmp_path / "ran").exists()
