"""Latents: what a code means."""

from typing import Any

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def register_components(register: Any) -> None:
    register.latent("gaussian", "hybridgen_latents.gaussian:Gaussian")
    register.latent("gaussian-mixture", "hybridgen_latents.mixture:GaussianMixture")
    register.latent("vamp", "hybridgen_latents.vamp:Vamp")
    register.latent("deterministic", "hybridgen_latents.deterministic:Deterministic")
    register.latent("uniform", "hybridgen_latents.bounded:Uniform")
    register.latent("sphere", "hybridgen_latents.bounded:Sphere")
    register.latent("vector-quantised", "hybridgen_latents.quantised:VectorQuantised")
    register.latent("finite-scalar", "hybridgen_latents.quantised:FiniteScalar")
    register.latent("info", "hybridgen_latents.info:Info")
