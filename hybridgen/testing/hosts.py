"""Small recipes in which a component is tried: the first that it fits is its host.

They name what is installed with hybridgen, so that a check sees a component as a run would: built by the core, asked by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from hybridgen.data import SampleSpec
from hybridgen.names import API
from hybridgen.recipe import toml_value
from hybridgen.registry import Component, Plugin
from hybridgen.testing.probe import tensors

Tables = dict[str, Mapping[str, Any]]

HERE = "it"
"""What the component under test is called in its host, where it has a name."""

TRAIN: Tables = {"data": {"use": "data:digits", "batch_size": 8}, "train": {"steps": 8}}
ENCODER: Tables = {"encoder": {"use": "nets:mlp", "width": 8}}
DECODER: Tables = {"decoder": {"use": "nets:mlp", "width": 8}}
CONVOLUTIONS: Tables = {"encoder": {"use": "nets:conv", "width": 4}, "decoder": {"use": "nets:conv", "width": 4}}
GAUSSIAN: Tables = {"latent": {"use": "latents:gaussian", "dim": 4}}
SPATIAL: Tables = {"latent": {"use": "latents:gaussian", "dim": 2, "halvings": 1}}
RECONSTRUCTION: Tables = {"loss.reconstruction": {"use": "losses:squared-error"}}
KL: Tables = {"loss.kl": {"use": "losses:kl", "weight": 0.1}}
GAME: Tables = {"loss.game": {"use": "losses:adversarial"}}
CRITIC: Tables = {"discriminator": {"use": "nets:mlp", "width": 8, "real": "x", "fake": "fake"}}
PAIRS = {"real": {"x": "x", "z": "z"}, "fake": {"x": "fake", "z": "z_prior"}}
INFERENCE: Tables = {"loss.inference": {"use": "losses:adversarial-inference"}}
VAE: Tables = TRAIN | ENCODER | DECODER | GAUSSIAN | RECONSTRUCTION | KL
GAN: Tables = TRAIN | DECODER | GAUSSIAN | CRITIC | GAME
HYBRID: Tables = VAE | CRITIC | GAME


def image(*shape: int, classes: int = 0) -> SampleSpec:
    names = tuple(str(i) for i in range(classes))
    return SampleSpec("image", shape, 64, low=0, high=255, levels=256, activation="tanh", classes=names)


PLAIN, LABELLED = image(1, 8, 8), image(1, 8, 8, classes=4)
FACTORED = SampleSpec("image", (1, 8, 8), 64, low=0, high=255, levels=256, activation="tanh", factors=("a", "b"))
TOKENS = SampleSpec("tokens", (6, 5), 64, activation="softmax", vocabulary=tuple("abcde"), padding=0)
VECTOR = SampleSpec("vector", (2,), 64)
CLUSTERS = SampleSpec("vector", (2,), 64, classes=tuple("0123"))
LARGE = image(3, 64, 64)
SHAPES = (
    PLAIN,
    image(3, 16, 16),
    image(4, 8, 12),
    image(1, 9, 7),
    LARGE,
    VECTOR,
    TOKENS,
)
"""What networks are tried on: one, three and four channels, oblong, odd, 8 to 64 pixels, points, and text."""

DATA = (PLAIN, LABELLED, FACTORED, VECTOR, CLUSTERS, TOKENS, LARGE)
"""What any component is tried on until something fits, the plainest first."""


def text_of(tables: Tables) -> str:
    """Tables by dotted name as TOML."""
    written = []
    for name, table in tables.items():
        written.append(f"[{name}]")
        written += [f"{key} = {toml_value(value)}" for key, value in table.items() if value is not None]
    return "\n".join(written) + "\n"


def hosts(kind: str, own: Mapping[str, Any]) -> Iterator[Tables]:
    """The hosts of a component of a kind, whose table is `own`, the likeliest first."""
    yield from HOSTS[kind](own)


def _encoder(own: Mapping[str, Any]) -> Iterator[Tables]:
    yield VAE | {"encoder": own}
    yield VAE | {"encoder": own} | SPATIAL


def _decoder(own: Mapping[str, Any]) -> Iterator[Tables]:
    yield VAE | {"decoder": own}
    yield VAE | {"decoder": own} | SPATIAL


def _discriminator(own: Mapping[str, Any]) -> Iterator[Tables]:
    yield GAN | {"discriminator": {**own, "real": "x", "fake": "fake"}}
    yield TRAIN | ENCODER | DECODER | GAUSSIAN | GAME | INFERENCE | {"discriminator": {**own, **PAIRS}}
    yield VAE | GAME | {"discriminator": {**own, "real": "z_prior", "fake": "z"}}


def _latent(own: Mapping[str, Any]) -> Iterator[Tables]:
    quantisation: Tables = {"loss.quantisation": {"use": "losses:quantisation"}}
    information: Tables = {"loss.information": {"use": "losses:mutual-information"}}
    for networks in (ENCODER | DECODER, CONVOLUTIONS):
        for terms in (KL, quantisation, information, {}):
            yield TRAIN | networks | {"latent": own} | RECONSTRUCTION | terms


def _loss(own: Mapping[str, Any]) -> Iterator[Tables]:
    it: Tables = {f"loss.{HERE}": own}
    yield VAE | it
    yield HYBRID | it
    pairs: Tables = {"discriminator": {"use": "nets:mlp-joint", "width": 8, **PAIRS}}
    yield TRAIN | ENCODER | DECODER | GAUSSIAN | GAME | pairs | it
    yield TRAIN | CONVOLUTIONS | {"latent": {"use": "latents:vector-quantised", "codes": 8}} | RECONSTRUCTION | it
    yield TRAIN | ENCODER | DECODER | {"latent": {"use": "latents:info", "noise": 2}} | RECONSTRUCTION | it
    permuted: Tables = {"quantity.z_permuted": {"use": "providers:permuted"}}
    codes: Tables = {"discriminator": {"use": "nets:mlp", "width": 8, "real": "z", "fake": "z_permuted"}}
    yield VAE | permuted | codes | it
    yield TRAIN | ENCODER | DECODER | GAUSSIAN | {"players": {"discriminator": ["encoder"]}} | it


def _provider(own: Mapping[str, Any]) -> Iterator[Tables]:
    yield HYBRID | {f"quantity.{HERE}": own, "loss.consume": {"use": "hybridgen-kit:consume"}}
    yield HYBRID | {"discriminator": {**CRITIC["discriminator"], "augment": own}}


def _metric(own: Mapping[str, Any]) -> Iterator[Tables]:
    it: Tables = {f"metric.{HERE}": own}
    raw: Tables = {"features.raw": {"use": "features:raw"}}
    likelihood: Tables = {"loss.reconstruction": {"use": "losses:reconstruction"}}
    yield HYBRID | likelihood | raw | it
    yield HYBRID | likelihood | {"features.classifier": {"use": "hybridgen-kit:coarse"}} | it
    yield TRAIN | CONVOLUTIONS | {"latent": {"use": "latents:vector-quantised", "codes": 8}} | RECONSTRUCTION | it


HOSTS = {
    "encoder": _encoder,
    "decoder": _decoder,
    "discriminator": _discriminator,
    "latent": _latent,
    "loss": _loss,
    "provider": _provider,
    "metric": _metric,
}


# -- what no recipe of a user needs --------------------------------------------------------------------------------------


class Consume(nn.Module):
    """A term that asks for the quantity under test, so that it is computed."""

    def forward(self, it: Any) -> Tensor:
        found = [tensor.float().mean() for tensor in tensors(it)]
        return sum(found[1:], found[0])


class Coarse(nn.Module):
    """Features that need no training: a sample's first values, and four classes of its brightness."""

    classes = 4

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        super().__init__()

    def describe(self) -> dict[str, Any]:
        return {"name": "coarse"}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(1)
        return flat[:, :16], flat[:, :4] * 4


KIT = Plugin("hybridgen-kit", "hybridgen", str(API))
KIT.components = [
    Component("loss", "consume", Consume, "hybridgen-kit", "hybridgen"),
    Component("features", "coarse", Coarse, "hybridgen-kit", "hybridgen"),
]
