"""Data: real examples, and points of the plane whose distribution is known."""

from typing import Any

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def register_components(register: Any) -> None:
    register.data("digits", "hybridgen_data.digits:Digits")
    register.data("idx", "hybridgen_data.idx:Idx")
    register.data("images", "hybridgen_data.images:Images")
    register.data("arrays", "hybridgen_data.arrays:ArrayFile")
    register.data("text", "hybridgen_data.text:Text")
    register.data("toy2d", "hybridgen_data.toy2d:Toy2d")
    register.data("sprites", "hybridgen_data.sprites:Sprites")
