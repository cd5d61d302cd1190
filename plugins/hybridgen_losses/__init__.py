"""Losses: terms that train one player or both."""

from typing import Any

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def register_components(register: Any) -> None:
    register.loss("reconstruction", "hybridgen_losses.reconstruction:Reconstruction")
    register.loss("kl", "hybridgen_losses.kl:KL")
    register.loss("adversarial", "hybridgen_losses.adversarial:Adversarial")
