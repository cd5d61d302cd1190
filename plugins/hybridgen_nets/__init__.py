"""Networks: perceptrons, strided convolutions, residual networks, patch and joint critics; most have a conditional form."""

from typing import Any

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def register_components(register: Any) -> None:
    register.encoder("mlp", "hybridgen_nets.mlp:MLPEncoder")
    register.encoder("mlp-conditional", "hybridgen_nets.conditional:ConditionalMLPEncoder")
    register.encoder("conv", "hybridgen_nets.conv:ConvEncoder")
    register.encoder("conv-conditional", "hybridgen_nets.conditional:ConditionalConvEncoder")
    register.encoder("residual", "hybridgen_nets.residual:ResidualEncoder")
    register.encoder("residual-conditional", "hybridgen_nets.conditional:ConditionalResidualEncoder")
    register.encoder("r3gan", "hybridgen_nets.r3gan:R3Encoder")
    register.decoder("mlp", "hybridgen_nets.mlp:MLPDecoder")
    register.decoder("mlp-conditional", "hybridgen_nets.conditional:ConditionalMLPDecoder")
    register.decoder("conv", "hybridgen_nets.conv:ConvDecoder")
    register.decoder("conv-conditional", "hybridgen_nets.conditional:ConditionalConvDecoder")
    register.decoder("residual", "hybridgen_nets.residual:ResidualDecoder")
    register.decoder("residual-conditional", "hybridgen_nets.conditional:ConditionalResidualDecoder")
    register.decoder("r3gan", "hybridgen_nets.r3gan:R3Decoder")
    register.discriminator("mlp", "hybridgen_nets.mlp:MLPDiscriminator")
    register.discriminator("mlp-projection", "hybridgen_nets.projection:ProjectionMLP")
    register.discriminator("mlp-joint", "hybridgen_nets.joint:JointMLP")
    register.discriminator("conv", "hybridgen_nets.conv:ConvDiscriminator")
    register.discriminator("conv-projection", "hybridgen_nets.projection:ProjectionConv")
    register.discriminator("conv-joint", "hybridgen_nets.joint:JointConv")
    register.discriminator("residual", "hybridgen_nets.residual:ResidualDiscriminator")
    register.discriminator("residual-projection", "hybridgen_nets.projection:ProjectionResidual")
    register.discriminator("patch", "hybridgen_nets.patch:PatchDiscriminator")
    register.discriminator("r3gan", "hybridgen_nets.r3gan:R3Discriminator")
