"""Metrics: what is measured on held-out data."""

from typing import Any

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def register_components(register: Any) -> None:
    register.metric("reconstruction-error", "hybridgen_metrics.reconstruction:ReconstructionError")
    register.metric("psnr", "hybridgen_metrics.reconstruction:PSNR")
    register.metric("elbo", "hybridgen_metrics.latent:ELBO")
    register.metric("active-units", "hybridgen_metrics.latent:ActiveUnits")
    register.metric("codebook", "hybridgen_metrics.codebook:Codebook")
    register.metric("discriminator-accuracy", "hybridgen_metrics.critic:DiscriminatorAccuracy")
