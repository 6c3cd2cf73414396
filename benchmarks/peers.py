"""What a user of pythae gets in the same time: ``python -m benchmarks.peers <set> <minutes> <latent_dim> <folder>``, in .work/others.

Its VAE with its own convolutional networks for the set (pythae.models.nn.benchmarks), BaseTrainer with its defaults but for batch
size 128, learning rate 1e-3 (its 1e-4 learns less in minutes), and one epoch that lasts as long as it may; images as float32 in
[0, 1] as in its tutorials. Left in the folder: samples of N(0, I) and of its Gaussian mixture, uint8 (N, H, W, C); reconstructions
of the test images; the minutes taken.
The scores are made by benchmarks/quality.py, for peers as for ourselves.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.budget import data
from benchmarks.machine import machine

SAMPLES, BATCH, THREADS = 10_000, 128, 2
TIMED_BATCHES = 12


def _uint8(images_NCHW: torch.Tensor) -> np.ndarray:
    return (images_NCHW.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def main(name: str, minutes: float, latent_dim: int, folder: Path) -> None:
    """Train on as many images as fit into the time, and write the files."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.nn.benchmarks import cifar, mnist
    from pythae.samplers import GaussianMixtureSampler, GaussianMixtureSamplerConfig, NormalSampler
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    for each in list(logging.root.manager.loggerDict):
        if each.startswith("pythae"):
            logging.getLogger(each).setLevel(logging.ERROR)
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    splits = data(name)
    train, test = (
        torch.from_numpy(splits[part].slice(0, len(splits[part]))).permute(0, 3, 1, 2).float().div_(255)
        for part in ("train", "test")
    )
    networks = {"mnist": (mnist.Encoder_Conv_VAE_MNIST, mnist.Decoder_Conv_AE_MNIST),
                "cifar10": (cifar.Encoder_Conv_VAE_CIFAR, cifar.Decoder_Conv_AE_CIFAR)}[name]  # fmt: skip
    config = VAEConfig(input_dim=tuple(train.shape[1:]), latent_dim=latent_dim)

    def trained(images: int) -> tuple[VAE, float]:
        """One epoch of so many images: whole passes through the training split, and the rest of one."""
        torch.manual_seed(0)
        model = VAE(config, *(network(config) for network in networks))
        passes = [torch.randperm(len(train)) for _ in range(-(-images // len(train)))]
        dataset = BaseDataset(train[torch.cat(passes)[:images]], torch.ones(images))
        with tempfile.TemporaryDirectory() as output:
            how = BaseTrainerConfig(output_dir=output, num_epochs=1, learning_rate=1e-3, per_device_train_batch_size=BATCH)
            started = time.perf_counter()
            BaseTrainer(model, dataset, training_config=how).train()
        return model.eval(), time.perf_counter() - started

    few, more = (trained(BATCH * batches)[1] for batches in (2, 2 + TIMED_BATCHES))
    images = BATCH * max(1, int(minutes * 60 / (more - few) * TIMED_BATCHES))
    model, seconds = trained(images)
    with torch.no_grad():
        normal = NormalSampler(model).sample(num_samples=SAMPLES, batch_size=500)
        mixture = GaussianMixtureSampler(model, GaussianMixtureSamplerConfig(n_components=10))
        mixture.fit(train[:10_000])
        drawn = {"normal": normal, "mixture": mixture.sample(num_samples=SAMPLES, batch_size=500)}
        copies = torch.cat([model.reconstruct(x) for x in test.split(500)])
    for key, made in drawn.items():
        np.save(folder / f"{key}.npy", _uint8(made))
    np.save(folder / "reconstructions.npy", _uint8(copies))
    facts = {
        "minutes": round(seconds / 60, 2), "images": images, "parameters": sum(p.numel() for p in model.parameters()),
        "machine": machine(),
    }  # fmt: skip
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
