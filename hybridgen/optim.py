"""One optimiser a player, its learning-rate schedule, clipping, and the moving average of the generator side."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hybridgen.recipe import Optim

WARM_UP = 10
"""The average of the first t steps counts at most (1 + t) / (WARM_UP + t) of the past, so it forgets the initial draw."""


def optimiser(spec: Optim, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """The fused optimiser that a recipe names; fused ones honour `found_inf`, which skips a step on the device."""
    lr = spec.lr.at(1, 1)
    if spec.use == "sgd":
        made = torch.optim.SGD(parameters, lr=lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True)
        if spec.momentum:  # torch would make these in the first step, out of nothing if that one is skipped
            for parameter in parameters:
                made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return made
    kind = torch.optim.AdamW if spec.use == "adamw" else torch.optim.Adam
    return kind(parameters, lr=lr, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay, fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, before clipping; a scalar on the device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device)
    return torch.stack(torch._foreach_norm(gradients)).norm()  # get_total_norm without its sorting by device and type


def clip(spec: Optim, parameters: Sequence[nn.Parameter], norm: Tensor) -> None:
    """Clip by norm, then by value, as far as the recipe asks for either."""
    if spec.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, spec.clip_norm, norm)
    if spec.clip_value is not None:
        torch.nn.utils.clip_grad_value_(parameters, spec.clip_value)


@torch.no_grad()
def limit_weights(limit: float, parameters: Sequence[Tensor], skipped: Tensor) -> None:
    """Clamp every weight to [-limit, limit] where the update wasn't `skipped`.

    Source: Arjovsky et al. 2017 (arXiv:1701.07875), algorithm 1: the crude way to a Lipschitz critic.
    """
    bound = torch.where(skipped.bool(), torch.inf, limit)
    for parameter in parameters:
        parameter.clamp_(-bound, bound)


def averaged_copy(parts: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Copies for evaluation and sampling: eval mode, no gradients."""
    copies = {path: copy.deepcopy(module) for path, module in parts.items()}
    for module in copies.values():
        module.eval().requires_grad_(False)
    return copies


class Average:
    """An exponential moving average of modules' parameters; buffers (batch statistics) are copied.

    average += (1 - decay) * (parameter - average), with the decay of early steps lowered (WARM_UP).
    """

    def __init__(self, source: Mapping[str, nn.Module], target: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        pairs = [(source[path], target[path]) for path in source]
        self.parameters: list[Tensor] = [p for s, _ in pairs for p in s.parameters()]
        self.averages: list[Tensor] = [p for _, t in pairs for p in t.parameters()]
        self.buffered = [(s, t) for s, t in pairs if next(s.buffers(), None) is not None]

    @torch.no_grad()
    def update(self, step: int, skipped: Tensor) -> None:
        """Move towards the parameters after step `step`; not at all where `skipped` is 1."""
        decay = min(self.decay, (1 + step) / (WARM_UP + step))
        rate = (1.0 - decay) * (1.0 - skipped)
        if self.parameters and rate.device.type == "cpu":  # one pass over memory in place of three
            torch._foreach_lerp_(self.averages, self.parameters, [rate] * len(self.averages))
        elif self.parameters:  # three launches for all in place of one for each
            difference = torch._foreach_sub(self.parameters, self.averages)
            torch._foreach_mul_(difference, rate)
            torch._foreach_add_(self.averages, difference)
        for source, target in self.buffered:  # looked up anew: an `update` may put a new tensor in a buffer's place
            for buffer, copied in zip(source.buffers(), target.buffers(), strict=True):
                copied.copy_(torch.where(skipped.bool(), copied, buffer))
