"""Work of many requests in one batch: to the bit what each would get alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pipeline.service.batches import Batched, Network, Part, compute
from saved import saved_model
from vae.artefact import BATCH, Generator

IMAGES = np.random.default_rng(1).integers(0, 256, (300, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(params=["conv", "resnet", "ladder"])
def generator(request, tmp_path) -> Generator:
    return saved_model(tmp_path / "m", name=request.param)


def parts_of(generator: Generator, sizes: list[int]) -> list[Part]:
    random = np.random.default_rng(sum(sizes))
    found = []
    for place, size in enumerate(sizes):
        what = ("decode", "encode", "bound")[place % 3]
        z_ND = torch.tensor(random.normal(size=(size, generator.model.latent_dim)), dtype=torch.float32)
        found.append(Part(generator, what, z_ND if what == "decode" else IMAGES[place : place + size], None, seed=place))
    return found


@pytest.mark.parametrize("sizes", [[1], [1, 2, 3, 4, 5, 6], [7, 7, 7, 1, 1, 1, 9, 8, 64], [100, 99, 98, 31, 33, 32]])
def test_company_changes_no_bit(generator, sizes):
    parts = parts_of(generator, sizes)
    together = compute(parts)
    for part, found in zip(parts, together, strict=True):
        (alone,) = compute([part])
        assert len(found) == len(part) and torch.equal(found, alone), part.what


def test_parts_are_what_the_generator_says(generator):
    decoded, encoded, bound = compute(parts_of(generator, [5, 6, 7]))
    images = generator.decode(parts_of(generator, [5, 6, 7])[0].rows)
    assert np.abs(images.astype(int) - decoded.numpy().astype(int)).max() <= 1  # another batch size, other last digits
    torch.testing.assert_close(encoded, torch.cat(generator.encode(IMAGES[1:7]), 1), rtol=1e-4, atol=1e-5)
    assert torch.equal(bound, generator.bound(IMAGES[2:9], seed=2))


def test_models_and_labels_are_not_mixed(tmp_path):
    first, second = saved_model(tmp_path / "a", classes=3), saved_model(tmp_path / "b", classes=3, seed=1)
    for parameter in first.model.parameters():  # those that begin at zero, too
        parameter.add_(0.3 * torch.randn_like(parameter))
    z_ND, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    of_first, of_second = compute([Part(first, "decode", z_ND, labels), Part(second, "decode", z_ND, labels)])
    assert torch.equal(of_first, compute([Part(first, "decode", z_ND, labels)])[0])
    assert torch.equal(of_second, compute([Part(second, "decode", z_ND, labels)])[0])
    assert not torch.equal(of_first, of_second)
    other = compute([Part(first, "decode", z_ND, labels.flip(0))])[0]
    assert not torch.equal(of_first, other)


def test_batched_generator_asks_in_slices_and_refuses_too_much(tmp_path):
    generator, asked = saved_model(tmp_path / "m"), []

    def submit(parts):
        asked.extend(parts)
        return compute(parts)

    batched = Batched(generator, submit, 300)
    assert np.array_equal(batched.sample(300, 4), generator.sample(300, 4))  # slices of 256 and 44: as alone
    assert [len(part) for part in asked] == [BATCH, 300 - BATCH]
    assert torch.equal(batched.bound(IMAGES), generator.bound(IMAGES)) and len(asked[-1]) == 300
    with pytest.raises(ValueError, match="an answer is of at most 300 images, this one of 301"):
        batched.sample(301, 0)


def test_what_comes_while_the_network_computes_is_one_batch(tmp_path):
    generator, sizes, begun, go = saved_model(tmp_path / "m"), [], threading.Event(), threading.Event()

    def computed(rows: int) -> None:
        sizes.append(rows)
        begun.set()
        go.wait()

    network = Network(30.0, computed)
    parts = parts_of(generator, [3] * 7)
    with ThreadPoolExecutor(7) as threads:
        first = threads.submit(network.submit, parts[:1])
        begun.wait()
        others = [threads.submit(network.submit, [part]) for part in parts[1:]]
        while network._waiting.qsize() < 6:
            pass
        go.set()
        found = [each.result()[0] for each in (first, *others)]
    assert sizes == [3, 18]
    for part, result in zip(parts, found, strict=True):
        assert torch.equal(result, compute([part])[0])


def test_part_that_fails_fails_alone_and_one_that_nobody_waits_for_is_not_computed(tmp_path):
    generator, sizes, go = saved_model(tmp_path / "m"), [], threading.Event()
    network = Network(0.2, lambda rows: (sizes.append(rows), go.wait()))
    good = Part(generator, "decode", torch.zeros(2, 3), None)
    bad = Part(generator, "decode", torch.zeros(2, 5), None)
    with pytest.raises(TimeoutError):
        network.submit([good])  # is being computed when it is given up
    with pytest.raises(TimeoutError):
        network.submit([good, good])  # waits, and is forgotten
    network._seconds = 30.0
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(network.submit, [part]) for part in (good, bad)]
        go.set()
        assert torch.equal(both[0].result()[0], compute([good])[0])
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            both[1].result()
    assert sum(sizes) == 6
