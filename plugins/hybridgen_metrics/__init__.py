"""Metrics: what is measured on held-out data."""

from typing import Any

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def register_components(register: Any) -> None:
    register.metric("reconstruction-error", "hybridgen_metrics.reconstruction:ReconstructionError")
    register.metric("psnr", "hybridgen_metrics.reconstruction:PSNR")
    register.metric("elbo", "hybridgen_metrics.latent:ELBO")
    register.metric("active-units", "hybridgen_metrics.latent:ActiveUnits")
    register.metric("codebook", "hybridgen_metrics.codebook:Codebook")
    register.metric("discriminator-accuracy", "hybridgen_metrics.critic:DiscriminatorAccuracy")
    register.metric("fid", "hybridgen_metrics.frechet:FID")
    register.metric("rfid", "hybridgen_metrics.frechet:ReconstructionFID")
    register.metric("mifid", "hybridgen_metrics.frechet:MiFID")
    register.metric("kid", "hybridgen_metrics.kernel:KID")
    register.metric("inception-score", "hybridgen_metrics.inception_score:InceptionScore")
    register.metric("precision-recall", "hybridgen_metrics.neighbours:PrecisionRecall")
    register.metric("density-coverage", "hybridgen_metrics.neighbours:DensityCoverage")
    register.metric("duplicates", "hybridgen_metrics.duplicates:Duplicates")
    register.metric("class-modes", "hybridgen_metrics.modes:ClassModes")
    register.metric("mixture-modes", "hybridgen_metrics.modes:MixtureModes")
    register.metric("lpips", "hybridgen_metrics.perceptual:LPIPS")
    register.metric("ppl", "hybridgen_metrics.perceptual:PathLength")
    register.metric("ssim", "hybridgen_metrics.structure:SSIM")
    register.metric("ms-ssim", "hybridgen_metrics.structure:MultiScaleSSIM")
    register.metric("importance-weighted", "hybridgen_metrics.likelihood:ImportanceWeighted")
    register.metric("kl-per-dimension", "hybridgen_metrics.aggregate:KLPerDimension")
    register.metric("aggregate-mismatch", "hybridgen_metrics.aggregate:AggregateMismatch")
    register.metric("linear-probe", "hybridgen_metrics.probes:LinearProbe")
    register.metric("knn-probe", "hybridgen_metrics.probes:KNNProbe")
    register.metric("clustering", "hybridgen_metrics.probes:Clustering")
    register.metric("mig", "hybridgen_metrics.disentanglement:MIG")
    register.metric("dci", "hybridgen_metrics.disentanglement:DCI")
