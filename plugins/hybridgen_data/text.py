"""Text as sequences of characters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import DataError


class Text:
    """A text file in UTF-8, cut into pieces of `length` characters; the vocabulary is the characters that occur in it.

    The data are tokens: `x` is one-hot, `b l v`, and `tokens` are the indices, `b l`. What does not fill a last piece is
    left out.

    Raises: DataError for a file that is missing, is no UTF-8 or is shorter than one piece.
    """

    def __init__(
        self,
        *,
        path: Annotated[Path, Field(description="a text file")],
        length: Annotated[int, Field(ge=1, description="characters of an example")] = 64,
        stride: Annotated[int | None, Field(ge=1, description="from one example to the next; by default length")] = None,
    ) -> None:
        self.path, self.length, self.stride = path, length, stride or length

    def describe(self) -> SampleSpec:
        """Read whole, for its vocabulary."""
        text = self._text()
        vocabulary = tuple(sorted(set(text)))
        return SampleSpec(
            kind="tokens",
            shape=(self.length, len(vocabulary)),
            count=(len(text) - self.length) // self.stride + 1,
            levels=len(vocabulary),
            activation="softmax",
            vocabulary=vocabulary,
        )

    def load(self) -> dict[str, Arrays]:
        text = self._text()
        index = {character: i for i, character in enumerate(sorted(set(text)))}
        tokens: Tensor = torch.tensor([index[character] for character in text], dtype=torch.int32)
        return {"train": Arrays(tokens.unfold(0, self.length, self.stride).contiguous())}

    def _text(self) -> str:
        try:
            text = self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path} is no UTF-8 text (byte {error.start}); save it as UTF-8") from error
        except OSError as error:
            raise DataError(f"{self.path} can't be read: {error.strerror}") from error
        if len(text) < self.length:
            raise DataError(f"{self.path} has {len(text)} characters, fewer than one example of {self.length}; set data.length")
        return text
