"""pythae's own trainers, in an environment of their own, taking as many steps as they are asked to.

    python -m venv ../pythae && ../pythae/bin/pip install torch==2.13.0 pythae
    python tests/benchmarks/run.py larsen-28 --with pythae --pythae ../pythae/bin/python

run.py starts this file and writes a line to it whenever it is its turn; the answer is the seconds of a step. A model is
trained as pythae's documentation has it: its VAEGAN or VAE, its benchmark networks, its trainer's epoch, its defaults.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEGAN, VAEConfig, VAEGANConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseDiscriminator, BaseEncoder
from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Discriminator_Conv_MNIST, Encoder_Conv_VAE_MNIST
from pythae.trainers import (
    BaseTrainer,
    BaseTrainerConfig,
    CoupledOptimizerAdversarialTrainer,
    CoupledOptimizerAdversarialTrainerConfig,
)
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.modules.setdefault("hybridgen", SimpleNamespace(hookimpl=lambda function: function))  # type: ignore[arg-type]

from benchmarks.networks import Critic64, Encoder64, Generator64  # noqa: E402


class Encoder(BaseEncoder):  # type: ignore[misc]
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = Encoder64((3, 64, 64), (2 * dim,))

    def forward(self, x: Tensor) -> Any:
        mean, logvar = self.net(x).chunk(2, 1)
        return ModelOutput(embedding=mean, log_covariance=logvar)


class Decoder(BaseDecoder):  # type: ignore[misc]
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = Generator64((dim,), (3, 64, 64))

    def forward(self, z: Tensor) -> Any:
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))


class Discriminator(BaseDiscriminator):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        net = Critic64((3, 64, 64))
        self.layers = torch.nn.ModuleList([*net.body, torch.nn.Sequential(net.to_logit, torch.nn.Sigmoid())])
        self.depth = len(self.layers)

    def forward(self, x: Tensor, output_layer_levels: list[int] | None = None) -> Any:
        output = ModelOutput()
        for i, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if output_layer_levels is not None and i in output_layer_levels:
                output[f"embedding_layer_{i}"] = x
        output["embedding"] = x
        return output


def trainer(name: str, batch: int, steps: int) -> Any:
    shape, dim = ((3, 64, 64) if name == "larsen-64" else (1, 28, 28)), 16
    data = BaseDataset(torch.rand(batch * steps, *shape), torch.zeros(batch * steps))
    folder = tempfile.mkdtemp()
    if name in ("larsen-28", "larsen-64"):
        config = VAEGANConfig(input_dim=shape, latent_dim=dim)
        parts: Any = Encoder(dim), Decoder(dim), Discriminator()
        if name == "larsen-28":
            parts = Encoder_Conv_VAE_MNIST(config), Decoder_Conv_AE_MNIST(config), Discriminator_Conv_MNIST(config)
        given = CoupledOptimizerAdversarialTrainerConfig(output_dir=folder, per_device_train_batch_size=batch)
        model = VAEGAN(config, encoder=parts[0], decoder=parts[1], discriminator=parts[2])
        return CoupledOptimizerAdversarialTrainer(model, data, training_config=given)
    config = VAEConfig(input_dim=shape, latent_dim=dim)
    convolutional = name == "vae-conv-28"
    encoder, decoder = (Encoder_Conv_VAE_MNIST(config), Decoder_Conv_AE_MNIST(config)) if convolutional else (None, None)
    training = BaseTrainerConfig(output_dir=folder, per_device_train_batch_size=batch)
    return BaseTrainer(VAE(config, encoder=encoder, decoder=decoder), data, training_config=training)


def main(name: str, batch: int, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    logging.disable(logging.INFO)
    made = trainer(name, batch, steps)
    made.prepare_training()
    for _ in sys.stdin:
        began = time.perf_counter()
        made.train_step(1)
        print((time.perf_counter() - began) / steps, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *(int(given) for given in sys.argv[2:]))
