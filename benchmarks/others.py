"""Our network and objective trained by other people's trainers, as their documentation shows it. In .work/others: see requirements.txt.

pythae: BaseTrainer, BaseTrainerConfig's defaults but for batch size and learning rate (Adam, float32, no workers), images as one
float32 array as in its tutorials; encoder and decoder subclass BaseEncoder and BaseDecoder, the model subclasses VAE where it
states its objective. lightning: Trainer with logger, checkpoints, progress bar and model summary off and everything else as it
comes (float32), a LightningModule with AdamW and cosine, a DataLoader over float32 tensors without workers. Neither clips nor averages:
they do less than the others here. torchvision is not needed by what is imported of the two.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.case import SHARDS, Case, Stopwatch
from vae.models import build
from vae.objective import rate_per_dim, reparameterize


@lru_cache(maxsize=1)
def _floats(data: str) -> Tensor:
    """All images in model range, contiguous: prepared before the clock runs."""
    shards = [np.load(path) for path in sorted((SHARDS / data / "train").glob("*.npy"))]
    return torch.cat([torch.from_numpy(shard).permute(0, 3, 1, 2).float() for shard in shards]).mul_(2 / 255).sub_(1)


def pythae(case: Case) -> float:
    """Images per second of one round."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("pythae"):
            logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    network = build(case.model_config())

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> ModelOutput:
            mean, logvar = self.network.encode(x)
            return ModelOutput(embedding=mean, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.network.decode(z))

    class OurObjective(VAE):
        def loss_function(self, recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor) -> tuple[Tensor, ...]:
            distortion = -network.likelihood.log_prob(recon_x, x).mean()
            rate = rate_per_dim(mu, log_var).sum(1).mean()
            return distortion + rate, distortion, rate

    class Laps(TrainingCallback):
        def on_train_step_end(self, training_config: object, **_: object) -> None:
            watch.lap()

    data, watch = _floats(case.data)[: case.total_images], Stopwatch(case)
    config = VAEConfig(input_dim=tuple(data.shape[1:]), latent_dim=case.latent_dim)
    with tempfile.TemporaryDirectory() as output:
        training = BaseTrainerConfig(
            output_dir=output, num_epochs=1, learning_rate=1e-3, per_device_train_batch_size=case.batch_size
        )
        from pythae.data.datasets import BaseDataset

        dataset = BaseDataset(data, torch.ones(len(data)))
        BaseTrainer(OurObjective(config, Encoder(), Decoder()), dataset, training_config=training, callbacks=[Laps()]).train()
    return watch.images_per_second()


def lightning(case: Case) -> float:
    """Images per second of one round."""
    import lightning as framework
    from torch.utils.data import DataLoader, TensorDataset

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(case.threads)
    framework.seed_everything(0, verbose=False)

    class Module(framework.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network: nn.Module = build(case.model_config())

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            (x,) = batch
            mean, logvar = self.network.encode(x)
            output = self.network.decode(reparameterize(mean, logvar, torch.randn_like(mean)))
            loss = -self.network.likelihood.log_prob(output, x).mean() + rate_per_dim(mean, logvar).sum(1).mean()
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> dict[str, object]:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, case.total_images // case.batch_size)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    class Laps(framework.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            watch.lap()

    loader, watch = DataLoader(TensorDataset(_floats(case.data)), case.batch_size, shuffle=True), Stopwatch(case)
    trainer = framework.Trainer(
        accelerator="cpu", devices=1, max_steps=case.total_images // case.batch_size, max_epochs=-1, callbacks=[Laps()],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), loader)
    return watch.images_per_second()
