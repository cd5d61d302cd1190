"""Networks: multi-layer perceptrons and strided convolutions."""

from typing import Any

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def register_components(register: Any) -> None:
    register.encoder("mlp", "hybridgen_nets.mlp:MLPEncoder")
    register.encoder("conv", "hybridgen_nets.conv:ConvEncoder")
    register.decoder("mlp", "hybridgen_nets.mlp:MLPDecoder")
    register.decoder("conv", "hybridgen_nets.conv:ConvDecoder")
    register.discriminator("mlp", "hybridgen_nets.mlp:MLPDiscriminator")
    register.discriminator("conv", "hybridgen_nets.conv:ConvDiscriminator")
