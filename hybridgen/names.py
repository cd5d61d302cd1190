"""The vocabulary: kinds of component and what each offers, players, facts for constructors, quantities for forward methods,
attributes that components declare, keys that belong to hybridgen.

These tables are what a plugin author reads, what errors list and what the documentation is generated from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

API: Final = 1
"""The number of the plugin interface. A manifest may state `HYBRIDGEN_API = 1`; one that states none speaks API 1."""

KINDS: Final = {
    "encoder": "data to the code that the latent asks for",
    "decoder": "latent to data; a GAN's generator is this same network",
    "discriminator": "a sample to logits and features",
    "loss": "a term that trains one player or both",
    "latent": "what a code means: posterior, prior, codebook",
    "data": "real examples",
    "metric": "a number measured on held-out data or on generated samples",
    "features": "what metrics see samples through: a network that turns one into an embedding",
    "provider": "a quantity of the plugin's own",
    "reporter": "a listener to the run's events",
}

PLAYERS: Final = ("generator", "discriminator")

FACTS: Final = {
    "sample_shape": "shape of one example without its batch axis: (c, h, w) for images, (d,) for vectors",
    "code_shape": "shape of what the encoder returns, stated by the latent (gaussian: 2 * dim)",
    "z_shape": "shape of one latent sample, stated by the latent",
    "latent_dim": "number of values in one latent sample",
    "judged_shape": "shape of one example that this discriminator sees as `x`",
    "num_classes": "number of classes; exists when the data has labels",
    "output_activation": "'tanh' (model space is [-1, 1]), 'identity', or 'softmax' (tokens)",
    "steps": "length of the run in generator updates",
    "batch_size": "examples in a batch",
    "examples": "number of training examples",
    "levels": "number of values that a stored example's entries can take; exists for discrete data (256 for bytes)",
    "seed": "the evaluation's seed; exists for metrics",
}

QUANTITIES: Final = {
    "x": "real batch in model space, `b ...`; images `b c h w` in [-1, 1]; tokens as one-hot `b l v`",
    "tokens": "the real batch as indices, `b l`; exists for data of the kind tokens",
    "mask": "True where a token is no padding, `b l`; exists for data of the kind tokens",
    "label": "class index, `b`; exists when the data has labels",
    "fake_label": "class index for generated samples, `b`; exists when the data has labels",
    "factors": "values of the known factors of variation, `b f`; exists when the data state them",
    "code": "what the encoder returned, `b ...`",
    "fake_code": "what the encoder returns for `fake`, `b ...`; exists with an encoder, a decoder and a prior",
    "fake_posterior": "q(z|fake), as `posterior`; exists with an encoder, a decoder and a prior",
    "fake_z": "a sample of `fake_posterior`, as `z`",
    "fake_recon_raw": "decoder(fake_z) before the output activation",
    "fake_recon": "decoder(fake_z) in model space: a generated sample encoded and decoded again",
    "posterior": "q(z|x), an object with `mean`, `sample(noise)`, `kl(prior, z)`; exists with an encoder",
    "z": "a sample of the posterior, `b d` or `b d h w`; exists with an encoder",
    "prior": "p(z), an object with `sample(noise)` and `log_prob(z)`; exists when the latent has a prior",
    "z_prior": "a sample of the prior; exists when the latent has a prior",
    "recon_raw": "decoder(z) before the output activation; exists with an encoder and a decoder",
    "recon": "decoder(z) in model space",
    "fake_raw": "decoder(z_prior) before the output activation; exists with a prior and a decoder",
    "fake": "decoder(z_prior) in model space",
    "real_logits": "what this loss's discriminator says of the real batch, `b ...`",
    "fake_logits": "what it says of one generated batch, `b ...`; a term is averaged over the recipe's `fake` list",
    "real_features": "its inner activations on the real batch, a list of tensors",
    "fake_features": "its inner activations on one generated batch",
    "recon_features": "its inner activations on `recon`",
    "judged_real": "the real batch as this discriminator saw it",
    "judged_fake": "one generated batch as this discriminator saw it",
    "critic": "this loss's discriminator as a function of what it judges: logits, no side effects, float32; pairs by name",
    "decode": "the decoder as a function of `z`: raw values, no side effects; other roles are the batch's, or given by name",
    "encode": "the encoder as a function of `x`: the code, no side effects; other roles are the batch's, or given by name",
    "critic_weights": "parameters of this loss's discriminator, name -> tensor",
    "decoder_weights": "parameters of the decoder, name -> tensor",
    "encoder_weights": "parameters of the encoder, name -> tensor",
    "noise": "standard normal noise shaped like `x`, a stream of its own for everyone who asks",
    "noise_z": "standard normal noise shaped like `z`, a stream of its own for everyone who asks",
    "uniform": "uniform [0, 1) noise, `b`, a stream of its own for everyone who asks",
    "real_embedding": "`x` through the feature network, `b e`; exists for metrics",
    "recon_embedding": "`recon` through the feature network, `b e`; exists for metrics",
    "fake_embedding": "`fake` through the feature network, `b e`; exists for metrics",
    "real_probabilities": "the feature network's class probabilities of `x`, `b k`; exists for metrics, where it has classes",
    "recon_probabilities": "the same of `recon`, `b k`",
    "fake_probabilities": "the same of `fake`, `b k`",
    "embed": "the feature network as a function: samples `b ...` to embeddings `b e`; exists for metrics",
    "step": "training step from 1, a scalar tensor",
    "progress": "fraction of the run that is done, a scalar tensor in [0, 1]",
}

CRITIC_QUANTITIES: Final = frozenset(
    {
        "real_logits",
        "fake_logits",
        "real_features",
        "fake_features",
        "recon_features",
        "judged_real",
        "judged_fake",
        "critic",
        "critic_weights",
    }
)
"""Those that belong to one discriminator; the recipe's `discriminator = NAME` says which."""

FEATURE_QUANTITIES: Final = frozenset(
    {
        "real_embedding",
        "recon_embedding",
        "fake_embedding",
        "real_probabilities",
        "recon_probabilities",
        "fake_probabilities",
        "embed",
    }
)
"""Those that metrics see through a feature network; a metric's `features = NAME` says through which."""

RESERVED: Final = {
    "use": "which component; every table of one",
    "weight": "how much a loss counts for the generator's side, a schedule; losses",
    "discriminator_weight": "how much it counts for the discriminator's side, a schedule; losses",
    "trains": "the parts that a loss trains, where not all that it reaches; losses",
    "discriminator": "of which discriminator it speaks, where there are several; losses and metrics",
    "every": "join every k-th update, k times as strong; losses",
    "balance": "losses that its gradient at the decoder's last layer is scaled to; losses",
    "balance_limit": "the largest factor that `balance` may give; losses",
    "inputs": "parameter -> another quantity for it; every component that asks for quantities",
    "real": "what is judged of the real batch; discriminators",
    "fake": "what is judged of generated batches; discriminators",
    "augment": "a provider that changes what is judged; discriminators",
    "hold": "a quantity that leaves a part's update out where it is above 0; networks and latents",
    "features": "through which [features.NAME] it sees, where there are several; metrics",
}
"""Keys of a recipe's tables that belong to hybridgen, so that no component may have an option of that name."""


@dataclass(frozen=True)
class Contract:
    """What a component of one kind is written as and offers.

    must, may: a method with its parameters, or an attribute -> what it gives; ATTRIBUTES has what it may declare beside them.
    facts: those that its constructor may ask for.
    """

    form: str
    must: Mapping[str, str] = field(default_factory=dict)
    may: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()


_OF_DATA = ("sample_shape", "output_activation", "steps", "batch_size", "examples", "levels", "num_classes")
_OF_LATENT = ("code_shape", "z_shape", "latent_dim")
_MODULE = "a class derived from torch.nn.Module"
_UPDATE: Final = {
    "update(self, ...)": "writes its buffers, once an optimiser step, under no_grad; asks for quantities of the joint batch",
}

CONTRACTS: Final = {
    "encoder": Contract(
        _MODULE,
        {"forward(self, x, ...)": "the code, `b *code_shape`; asks for what else it needs (`label` makes it conditional)"},
        _UPDATE,
        (*_OF_DATA, *_OF_LATENT),
    ),
    "decoder": Contract(
        _MODULE,
        {"forward(self, z, ...)": "raw values, `b *sample_shape`; hybridgen applies the data's output activation"},
        _UPDATE,
        (*_OF_DATA, *_OF_LATENT),
    ),
    "discriminator": Contract(
        _MODULE,
        {
            "forward(self, x, ...)": "logits `b ...`, or a pair of them and a list of inner features; "
            "the roles that the recipe's `real` and `fake` name are parameters of it"
        },
        _UPDATE,
        (*_OF_DATA, *_OF_LATENT, "judged_shape"),
    ),
    "loss": Contract(
        f"{_MODULE}, with at least one of the first three methods",
        {},
        {
            "forward(self, ...)": "a scalar that the generator's side descends",
            "generator(self, ...)": "the same by another name, where there is a `discriminator`; then `forward` counts no more",
            "discriminator(self, ...)": "a scalar that the discriminator's side descends",
            **_UPDATE,
        },
        (*_OF_DATA, *_OF_LATENT, "judged_shape"),
    ),
    "latent": Contract(
        _MODULE,
        {
            "code_shape": "shape of the code that it asks of the encoder, a tuple without the batch axis",
            "z_shape": "shape of one latent sample, a tuple",
            "posterior(self, code, ...)": "q(z|x), a frozen dataclass of tensors with `mean`, `sample(noise)` and "
            "`kl(prior, z)`; called where there is an encoder",
        },
        {
            "prior(self, ...)": "p(z), an object with `sample(noise)` and `log_prob(z)`; without it, or where it gives None, "
            "the latent can't be sampled from",
            **_UPDATE,
        },
        _OF_DATA,
    ),
    "data": Contract(
        "a class",
        {
            "describe(self)": "a hybridgen.data.SampleSpec, from headers only",
            "load(self)": 'a mapping of "train", and of "validation" where the data bring a split of their own, to '
            "hybridgen.data.Arrays",
        },
    ),
    "metric": Contract(
        "a class, with `update` or `generated` or both",
        {
            "reset(self)": "forgets what it has seen",
            "compute(self)": "a number, or name -> number; raises hybridgen.errors.Unmeasurable where it would mean nothing",
        },
        {
            "update(self, ...)": "called for each batch of held-out examples",
            "generated(self, ...)": "called for each batch of generated samples; may ask for nothing of real examples",
        },
        (*_OF_DATA, *_OF_LATENT, "seed"),
    ),
    "features": Contract(
        _MODULE,
        {"forward(self, x)": "from samples in model space: the embedding `b e`, and the logits `b k` or None"},
        {
            "describe(self)": "what identifies it (above all a digest of its weights), for the protocol of every value",
            "prepare(self, train, held_out, spec, data, tell)": "makes it ready, once, before its first use; `tell(text)` "
            "shows a line to the user",
        },
        ("sample_shape", "num_classes", "output_activation"),
    ),
    "provider": Contract(
        f"a function, or {_MODULE}; as a function, what stands before the `*` are quantities",
        {"forward(self, ...)": "the quantity that [quantity.NAME] names; as an `augment`, the judged sample `x` changed"},
        _UPDATE,
        (*_OF_DATA, *_OF_LATENT, "judged_shape"),
    ),
    "reporter": Contract(
        "a class",
        {"event(self, event)": "hears each event of the run, a dictionary: a line of metrics.jsonl"},
        {
            "progress(self, step)": "hears the number of each step; must cost nothing",
            "busy(self, text, done, total)": "hears what is done between two steps, and how far it is",
            "close(self)": "called when the run ends, however it ends",
        },
        ("steps",),
    ),
}
"""What a component of each kind offers. A fact of the data or of the latent exists where FACTS says so."""


@dataclass(frozen=True)
class Attribute:
    """Something that a component may say of itself: on the class, or set in its constructor.

    default: what holds for a component that says nothing.
    """

    kinds: tuple[str, ...]
    meaning: str
    default: str


_PARTS = ("encoder", "decoder", "discriminator", "loss", "latent", "provider")

ATTRIBUTES: Final = {
    "couples_batch": Attribute(
        _PARTS,
        "True on a module (or a layer within it) whose result for one sample depends on the others: its batches are judged "
        "apart, and the header warns of micro-batches",
        "False; True for batch norm, which is found",
    ),
    "compiles": Attribute(
        _PARTS,
        "False on a part that torch.compile can't take: it is left eager without trying, and the conformance kit does not "
        "ask it to compile",
        "True",
    ),
    "twice_differentiable": Attribute(
        ("discriminator",),
        "False on a discriminator whose gradient can't be differentiated again, so that penalties can't be used with it",
        "True",
    ),
    "draws": Attribute(
        (*_PARTS, "metric"),
        'noise of its own: parameter -> ("normal" or "uniform", shape without the batch axis), set in the constructor; a '
        "parameter of that name, in any of its methods, receives it",
        "{}",
    ),
    "reports": Attribute(_PARTS, "names of its scalar buffers that are told in every row of the report", "()"),
    "quantities": Attribute(
        _PARTS,
        "names of quantities that it offers, each a method of that name; losses and metrics ask for them like for any other",
        "()",
    ),
    "decision": Attribute(
        ("loss",),
        "of a game: the logit above which its discriminator takes a sample for real, or None where only differences of logits "
        "count; the accuracies in the report follow it",
        "the loss plays no game; a discriminator that no game speaks of decides at 0",
    ),
    "last_layer": Attribute(
        ("decoder",),
        "the module at whose last trainable matrix `balance` compares gradients",
        "the last trainable matrix in the order of definition",
    ),
    "noise_shape": Attribute(("latent",), "shape of the noise that `sample` of its posterior and prior wants", "`z_shape`"),
    "unit": Attribute(("metric",), "of its value, or entry -> unit where `compute` gives several", "none"),
    "higher_is_better": Attribute(
        ("metric",),
        "True, False, or None where neither is; entry -> the same where `compute` gives several. What names the best "
        "checkpoint must say",
        "None",
    ),
    "remarks": Attribute(("metric",), "sentences that are shown beside its value; read after `compute`", "()"),
    "classes": Attribute(("features",), "how many classes its logits tell apart; 0 without logits", "0"),
    "notes": Attribute(("data",), "sentences about the last `load` (what was left out), told to the user", "()"),
}
"""What components may declare. A test holds that every attribute which the core reads of them stands here or in CONTRACTS."""
