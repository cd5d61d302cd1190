"""Features: what metrics see samples through."""

from typing import Any

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def register_components(register: Any) -> None:
    register.features("auto", "hybridgen_features.auto:Auto")
    register.features("raw", "hybridgen_features.raw:Raw")
    register.features("classifier", "hybridgen_features.classifier:Classifier")
    register.features("inception", "hybridgen_features.inception:Inception")
    register.features("timm", "hybridgen_features.timm_network:Timm")
