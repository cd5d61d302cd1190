"""Providers: quantities of their own, augmentation of what critics judge, and signals that hold a player back."""

from typing import Any

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def register_components(register: Any) -> None:
    # [discriminator] augment = { use = "..." }
    register.provider("diffaugment", "hybridgen_providers.diffaugment:DiffAugment")
    register.provider("ada", "hybridgen_providers.ada:ADA")
    register.provider("instance-noise", "hybridgen_providers.instance_noise:InstanceNoise")
    # [quantity.NAME] use = "..."
    register.provider("corrupted", "hybridgen_providers.corrupted:Corrupted")
    register.provider("permuted", "hybridgen_providers.permuted:permuted")
    register.provider("critic-ahead", "hybridgen_providers.equilibrium:CriticAhead")
    register.provider("critic-behind", "hybridgen_providers.equilibrium:CriticBehind")
