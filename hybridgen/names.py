"""The vocabulary: kinds of component, players, facts for constructors and quantities for forward methods.

This table is what a plugin author reads, what errors list and what the documentation is generated from.
"""

from __future__ import annotations

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
