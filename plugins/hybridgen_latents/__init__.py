"""Latents: what a code means."""

from typing import Any

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def register_components(register: Any) -> None:
    register.latent("gaussian", "hybridgen_latents.gaussian:Gaussian")
    register.latent("deterministic", "hybridgen_latents.deterministic:Deterministic")
