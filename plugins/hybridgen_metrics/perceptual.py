"""What a network trained on photographs sees: of reconstructions, and along paths through the latent space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hybridgen.errors import Unmeasurable
from hybridgen.quantities import activate
from hybridgen_losses.backbones import Backbone
from hybridgen_losses.structure import picture_sides
from hybridgen_metrics.reservoir import Reservoir


class LPIPS:
    """Learned perceptual distance of reconstructions to their originals, averaged over samples, 0 at best; lower is better.

    lpips = mean over samples of sum over layers l of mean over positions of w_l . (f_l(x) - f_l(recon))^2, f_l the
    activations with every position's channels at length 1, w_l linear weights that were fitted to people's judgements.

    `weights` is the backbone's state dict in torchvision's layout (safetensors, or .pth with nothing but tensors), of which
    `features.*` is read; nothing is downloaded. The linear weights, the shift and the scale are those that torchmetrics
    ships; its own class needs torchvision for the backbone. Grey pictures are repeated to three channels.

    Shapes: x, recon `b c h w` in [-1, 1].
    Raises: ValueError for a missing or wrong file, data that are no pictures in [-1, 1], and pictures too small for the
        network.
    When: for reconstructions of photographs, beside "psnr" and "ssim", which reward blur; papers mostly report "alexnet".
    Healthy: 0.05 hard to tell apart, 0.3 clearly different, 0.7 unrelated (64 pixels and more). It says little of digits or
        spectra.
    Source: Zhang et al. 2018 (arXiv:1801.03924), equation 1.
    """

    unit = "LPIPS"
    higher_is_better = False

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        output_activation: str,
        *,
        network: Annotated[Literal["alexnet", "vgg16"], Field(description="whose weights the file holds")] = "alexnet",
        weights: Annotated[Path, Field(description="the backbone's file; nothing is downloaded")],
        resize: Annotated[int | None, Field(ge=1, description="pixels of the smaller side that the network sees")] = None,
    ) -> None:
        from torchmetrics.functional.image import lpips

        height, width = picture_sides(sample_shape, output_activation, "lpips")
        if sample_shape[0] not in (1, 3):
            raise ValueError(
                f"lpips: the network wants 3 channels, these pictures have {sample_shape[0]}; only grey is repeated"
            )
        if not weights.is_file():
            raise ValueError(f"lpips: there is no file {weights}; write the path of a file of {network}'s weights in `weights`")
        with torch.device("cpu"):
            self.backbone = Backbone(network, weights, None).eval()
            self.scaling = lpips.ScalingLayer()
            shipped = Path(lpips.__file__).parent / "lpips_models" / ("vgg.pth" if network == "vgg16" else "alex.pth")
            linear = torch.load(shipped, map_location="cpu", weights_only=True)
        self.linear = [linear[f"lin{i}.model.1.weight"] for i in range(len(self.backbone.layers))]  # 1 c 1 1 each
        self._unit = lpips._normalize_tensor
        short = min(height, width)
        self.size = None if resize is None else (round(height * resize / short), round(width * resize / short))
        if min(self.size or (height, width)) < self.backbone.least_side:
            raise ValueError(
                f"lpips: pictures of {height}x{width} are too small for {network}; "
                f"write `resize = {self.backbone.least_side}` or more (64 is usual)"
            )
        self.reset()

    def reset(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def update(self, x: Tensor, recon: Tensor) -> None:
        self.total = self.total + self.distances(x, recon).double().sum()
        self.count += len(x)

    def distances(self, x: Tensor, recon: Tensor) -> Tensor:
        """Of each pair. Shapes: `b c h w` -> `b`."""
        for module in (self.backbone, self.scaling):
            module.to(x.device)
        self.linear = [weight.to(x.device) for weight in self.linear]
        pairs = zip(self._features(x), self._features(recon), self.linear, strict=True)
        layers = [F.conv2d((self._unit(a) - self._unit(b)).square(), weight).mean((1, 2, 3)) for a, b, weight in pairs]
        return torch.stack(layers).sum(0)

    def _features(self, x: Tensor) -> list[Tensor]:
        seen: Tensor = self.scaling(x.expand(-1, 3, -1, -1))
        if self.size is not None:
            seen = F.interpolate(seen, self.size, mode="bilinear", antialias=True)
        return list(self.backbone(seen))

    def compute(self) -> float:
        if not self.count:
            raise Unmeasurable("no reconstructions were measured; measure more samples")
        return float(self.total) / self.count


class PathLength:
    """Perceptual path length: how fast generated samples change along paths between latents; lower is smoother.

    ppl = mean of |embed(g(I(t + epsilon))) - embed(g(I(t)))|^2 / epsilon^2, I the path between two prior samples, t uniform
    in [0, 1], g the decoder with its output activation. The `discard` share of the smallest and of the largest distances is
    left out first.

    epsilon: measured in float32 on smooth decoders, 1e-2 is 0.4 % off the limit, 1e-3 0.04 %, 1e-4 up to 0.2 % (rounding).

    The partner of a prior sample is the one before it in the stream; both ends have its label, if any. The paper's distance
    is LPIPS with VGG: here it is the squared distance of the feature network's embeddings, so numbers compare under one
    protocol only. torchmetrics' perceptual_path_length refuses to run without torchvision, whichever network it is given, and
    starts all paths at t = 0; hence the few lines here.

    Shapes: z_prior `b ...`; decode: z -> raw samples; embed: samples -> `b e`.
    Raises: Unmeasurable for fewer than 20 prior samples.
    When: to compare how well the latent spaces of two generators of the same data interpolate, at a like "fid".
    Healthy: finite and falling with "fid". 0: the decoder ignores z. Very large: jumps between modes.
    Source: Karras et al. 2018 (arXiv:1812.04948), section 4.1, equation 2 (slerp) and 3 (lerp).
    """

    unit = "squared feature distance"
    higher_is_better = False

    def __init__(
        self,
        output_activation: str,
        seed: int,
        *,
        path: Annotated[
            Literal["slerp", "lerp"], Field(description="along the sphere, for normal priors, or straight")
        ] = "slerp",
        epsilon: Annotated[
            float, Field(gt=0, le=0.1, description="step along the path; the paper's 1e-4 shows float32's rounding")
        ] = 1e-3,
        discard: Annotated[float, Field(ge=0, lt=0.5, description="share left out at either end")] = 0.01,
        most: Annotated[int, Field(ge=20, description="distances that are kept, drawn evenly")] = 100_000,
    ) -> None:
        self.activation, self.seed, self.path, self.epsilon = output_activation, seed, path, epsilon
        self.discard, self.most = discard, most
        self.reset()

    def reset(self) -> None:
        self.kept = Reservoir(self.most, self.seed)
        self.last: Tensor | None = None
        self.remarks: list[str] = []
        self._random = np.random.Generator(np.random.PCG64(self.seed))

    def generated(self, z_prior: Tensor, decode: Callable[[Tensor], Tensor], embed: Callable[[Tensor], Tensor]) -> None:
        first = self.last is None
        before = z_prior[:1] if self.last is None else self.last
        other = torch.cat([before, z_prior[:-1]])
        self.last = z_prior[-1:].clone()
        t = torch.from_numpy(self._random.random(len(z_prior))).to(z_prior).reshape(-1, *[1] * (z_prior.ndim - 1))
        with _full_float32():
            places = [self._between(other, z_prior, s) for s in (t, t + self.epsilon)]
            ends = [embed(activate(decode(z), kind=self.activation)) for z in places]
        distance = (ends[1].double() - ends[0].double()).square().sum(1) / self.epsilon**2
        self.kept.add(distance[1:] if first else distance)  # the first sample has none before it

    def _between(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return slerp(a, b, t) if self.path == "slerp" else torch.lerp(a, b, t)

    def compute(self) -> float:
        if self.kept.seen < 19:
            raise Unmeasurable(f"{self.kept.seen + 1} generated samples, at least 20 are needed; measure more samples")
        distance = self.kept.rows()[0].double().numpy()
        low = np.quantile(distance, self.discard, method="lower")
        high = np.quantile(distance, 1 - self.discard, method="higher")
        self.remarks = (
            [] if distance.any() else ["every distance is 0: the decoder ignores z, or the features see no difference"]
        )
        return float(distance[(distance >= low) & (distance <= high)].mean())


@contextmanager
def _full_float32() -> Iterator[None]:
    """Convolutions in all of float32: cuDNN's default, TF32, rounds to 1e-3, which a step of 1e-3 makes into 1."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """From a (t = 0) to b (t = 1) along the great circle through both; straight where they are (nearly) parallel.

    Shapes: `b ...`, t `b 1 ...`.
    """
    u, v = (F.normalize(end.flatten(1), dim=1) for end in (a, b))
    # the angle from half chords: exact also where it is small
    half = torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
    angle = (2 * half).reshape(t.shape)
    parallel = angle.sin() < 1e-4
    sine = torch.where(parallel, 1.0, angle.sin())
    curved = ((1 - t) * angle).sin() / sine * a + (t * angle).sin() / sine * b
    return torch.where(parallel, torch.lerp(a, b, t), curved)
