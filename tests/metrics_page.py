"""The tables of plugins/METRICS.md: every metric on sets whose order is known. `python tests/metrics_page.py` writes them anew.

It takes a few minutes on two cores. Fashion-MNIST is read from ../shared/data where that is; without it its tables stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import Unmeasurable
from hybridgen.recipe import load_recipe
from hybridgen.registry import load_registry
from hybridgen.signature import asks, constructor
from hybridgen_latents.gaussian import DiagonalGaussian, StandardNormal

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "plugins" / "METRICS.md"
FASHION = ROOT.parent / "shared" / "data" / "fashion_mnist"
BATCH = 500

GENERATED = ("fid", "kid", "mifid", "inception-score", "precision-recall", "density-coverage", "class-modes", "duplicates")
RECONSTRUCTED = ("reconstruction-error", "psnr", "ssim", "ms-ssim", "rfid")
CODED = ("linear-probe", "knn-probe", "clustering", "active-units", "kl-per-dimension", "aggregate-mismatch")
DISENTANGLED = ("mig", "dci")

Row = dict[str, float | str]
See = Callable[[Tensor], tuple[Tensor, Tensor]]


def metric(name: str, facts: Mapping[str, Any]) -> Any:
    """A metric by name, with the facts that it asks for."""
    loaded = load_registry().find("metric", name).load()
    return loaded(**{fact.name: facts[fact.name] for fact in constructor(loaded).facts if fact.name in facts})


def measured(names: tuple[str, ...], facts: Mapping[str, Any], held_out: Mapping[str, Any], made: Mapping[str, Any]) -> Row:
    """The values of metrics over quantities by name, of held-out examples and of generated samples, in batches."""
    row: Row = {}
    for name in names:
        try:
            one = metric(name, facts)
        except ValueError:
            row[name] = "not here"
            continue
        one.reset()
        for method, quantities in (("update", held_out), ("generated", made)):
            if hasattr(one, method):
                wanted = [ask.name for ask in asks(getattr(one, method)) if ask.name in quantities]
                count = len(next(v for v in quantities.values() if isinstance(v, Tensor)))
                for start in range(0, count, BATCH):
                    piece = slice(start, start + BATCH)
                    getattr(one, method)(**{key: _part(quantities[key], piece) for key in wanted})
        try:
            values = one.compute()
        except Unmeasurable:
            row[name] = "refused"
            continue
        row |= {f"{name}.{k}": v for k, v in values.items()} if isinstance(values, Mapping) else {name: values}
    return row


def _part(value: Any, piece: slice) -> Any:
    if isinstance(value, Tensor):
        return value[piece]
    return DiagonalGaussian(value.mean[piece], value.logvar[piece]) if isinstance(value, DiagonalGaussian) else value


def digits() -> tuple[SampleSpec, Arrays]:
    recipe = load_recipe("vae-digits")
    source = recipe.data.component.load()()
    return source.describe(), source.load()["train"]


def fashion() -> tuple[SampleSpec, Arrays, Arrays]:
    """Fashion-MNIST: what one picture is, the training and the test pictures."""
    source = load_registry().find("data", "idx").load()(path=FASHION)
    splits = source.load()
    return source.describe(), splits["train"], splits["validation"]


def classifier(spec: SampleSpec, train: Arrays, held_out: Arrays | None, name: str) -> See:
    """The offline default, trained (or found in the cache) as in a run."""
    network = load_registry().find("features", "classifier").load()(spec.shape, len(spec.classes))
    network.prepare(train, held_out, spec, name, print)
    network.eval().requires_grad_(False)

    @torch.no_grad()
    def see(x: Tensor) -> tuple[Tensor, Tensor]:
        pieces = [network(piece) for piece in x.split(BATCH)]
        return torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces]).softmax(1)

    return see


def blurred(x: Tensor) -> Tensor:
    """The mean of three by three pixels, borders repeated."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def noise(like: Tensor, seed: int = 0) -> Tensor:
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def generated_rows(spec: SampleSpec, real: Arrays, others: Arrays, see: See) -> dict[str, Row]:
    """Sets of "generated samples" whose order is known, against real examples."""
    x, other = spec.to_model(real.x), spec.to_model(others.x)
    assert others.label is not None
    sets = {
        "other real examples": other,
        "the same examples": x,
        "blurred copies": blurred(other),
        "one class only": other[others.label == 0],
        "noise": noise(x),
    }
    embedding, probabilities = see(x)
    facts = {"sample_shape": spec.shape, "num_classes": len(spec.classes), "seed": 0}
    held_out = {"x": x, "label": real.label, "real_embedding": embedding, "real_probabilities": probabilities}
    rows = {}
    for name, fake in sets.items():
        seen = see(fake)
        made = {"fake": fake, "fake_embedding": seen[0], "fake_probabilities": seen[1]}
        rows[name] = measured(GENERATED, facts, held_out, made)
    return rows


def reconstruction_rows(spec: SampleSpec, real: Arrays, see: See) -> dict[str, Row]:
    """Sets of "reconstructions" of the same examples."""
    x = spec.to_model(real.x)
    facts = {"sample_shape": spec.shape, "output_activation": spec.activation, "seed": 0}
    sets = {
        "the originals": x,
        "a tenth of noise": (0.9 * x + 0.1 * noise(x)).clamp(-1, 1),
        "blurred": blurred(x),
        "another example": x.roll(1, 0),
        "the mean of all": x.mean(0, keepdim=True).expand_as(x),
    }
    embedding = see(x)[0]
    rows = {}
    for name, recon in sets.items():
        held_out = {"x": x, "recon": recon, "real_embedding": embedding, "recon_embedding": see(recon)[0]}
        rows[name] = measured(RECONSTRUCTED, facts, held_out, {})
    return rows


def code_rows(spec: SampleSpec, real: Arrays) -> dict[str, Row]:
    """Codes of known worth: principal components, the same with noise, the class itself, noise that knows nothing."""
    x = spec.to_model(real.x).flatten(1)
    assert real.label is not None
    centred = x - x.mean(0)
    components = torch.linalg.svd(centred, full_matrices=False)[2][:10]
    scores = centred @ components.T
    scores = scores / scores.std(0)
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(len(x), 10, generator=generator)
    sets = {
        "the class, one-hot": F.one_hot(real.label, 10).float() + 0.01 * plain,
        "10 principal components": scores,
        "components with as much noise": (scores + plain) / 2**0.5,
        "noise": torch.randn(len(x), 10, generator=generator),
        "always the same": torch.zeros(len(x), 10),
    }
    rows = {}
    for name, code in sets.items():
        posterior = DiagonalGaussian(code, torch.full_like(code, -4.0))
        held_out = {
            "posterior": posterior,
            "prior": StandardNormal(),
            "z": code,
            "z_prior": torch.randn(code.shape, generator=generator),
            "label": real.label,
        }
        facts = {"num_classes": 10, "latent_dim": 10, "z_shape": (10,), "seed": 0}
        rows[name] = measured(CODED, facts, held_out, {"z_prior": held_out["z_prior"], "z": code})
    return rows


def factor_rows() -> dict[str, Row]:
    """Codes of the sprites' known factors."""
    source = load_registry().find("data", "sprites").load()()
    factors = source.load()["train"].factors.float()
    factors = (factors - factors.mean(0)) / factors.std(0)
    size = factors.shape[1]
    rotation = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(1)))[0]
    sets = {
        "the factors": factors,
        "the factors, rotated": factors @ rotation,
        "noise": torch.randn(factors.shape, generator=torch.Generator().manual_seed(0)),
    }
    rows = {}
    for name, code in sets.items():
        held_out = {"posterior": DiagonalGaussian(code, torch.full_like(code, -4.0)), "factors": source.load()["train"].factors}
        rows[name] = measured(DISENTANGLED, {"latent_dim": size, "z_shape": (size,), "seed": 0}, held_out, {})
    return rows


def table(rows: Mapping[str, Row], what: str) -> str:
    """A Markdown table: a set a row."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [f"| {what} | " + " | ".join(f"`{c}`" for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(row.get(c)) for c in columns) + " |")
    return "\n".join(lines)


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def divided(arrays: Arrays, share: float) -> tuple[Arrays, Arrays]:
    """Two disjoint random sets, the first a `share` of all."""
    order = torch.randperm(len(arrays), generator=torch.Generator().manual_seed(0))
    middle = round(len(arrays) * share)
    return arrays.subset(order[:middle]), arrays.subset(order[middle:])


def tables() -> dict[str, str]:
    """Section -> table."""
    spec, every = digits()
    see = classifier(spec, every, None, "digits")
    real, others = divided(every, 1 / 3)
    found = {
        "digits: generated": table(generated_rows(spec, real, others, see), "generated samples"),
        "digits: reconstructed": table(reconstruction_rows(spec, real, see), "reconstructions"),
        "digits: codes": table(code_rows(spec, every), "codes"),
        "sprites: codes": table(factor_rows(), "codes"),
    }
    if FASHION.is_dir():
        spec, train, test = fashion()
        see = classifier(spec, train, test, "fashion-mnist")
        real, others = divided(test, 1 / 2)
        found["fashion: generated"] = table(generated_rows(spec, real, others, see), "generated samples")
        found["fashion: reconstructed"] = table(reconstruction_rows(spec, real, see), "reconstructions")
        found["fashion: codes"] = table(code_rows(spec, real), "codes")
    return found


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    for section, made in tables().items():
        mark = re.escape(section)
        text = re.sub(
            rf"(<!-- {mark} -->\n).*?(<!-- end -->)", lambda m, made=made: f"{m[1]}{made}\n{m[2]}", text, flags=re.DOTALL
        )
    PAGE.write_text(text, encoding="utf-8")
