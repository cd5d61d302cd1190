"""Losses: terms that train one player or both."""

from typing import Any

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def register_components(register: Any) -> None:
    # how far a reconstruction is from its original
    register.loss("reconstruction", "hybridgen_losses.reconstruction:Reconstruction")
    register.loss("squared-error", "hybridgen_losses.distance:SquaredError")
    register.loss("absolute-error", "hybridgen_losses.distance:AbsoluteError")
    register.loss("cross-entropy", "hybridgen_losses.tokens:CrossEntropy")
    register.loss("ssim", "hybridgen_losses.structure:SSIM")
    register.loss("ms-ssim", "hybridgen_losses.structure:MultiScaleSSIM")
    register.loss("feature-reconstruction", "hybridgen_losses.features:FeatureReconstruction")
    register.loss("perceptual", "hybridgen_losses.perceptual:Perceptual")
    register.loss("focal-frequency", "hybridgen_losses.frequency:FocalFrequency")
    # what a code costs, and what shape the codes together have
    register.loss("kl", "hybridgen_losses.kl:KL")
    register.loss("capacity", "hybridgen_losses.kl:Capacity")
    register.loss("free-bits", "hybridgen_losses.kl:FreeBits")
    register.loss("tc-decomposition", "hybridgen_losses.disentangle:TCDecomposition")
    register.loss("factor", "hybridgen_losses.disentangle:Factor")
    register.loss("dip", "hybridgen_losses.disentangle:DIP")
    register.loss("mmd", "hybridgen_losses.mmd:MMD")
    register.loss("iwae", "hybridgen_losses.importance:ImportanceWeighted")
    register.loss("quantisation", "hybridgen_losses.quantisation:Quantisation")
    register.loss("mutual-information", "hybridgen_losses.information:MutualInformation")
    # the game of two players
    register.loss("adversarial", "hybridgen_losses.adversarial:Adversarial")
    register.loss("adversarial-inference", "hybridgen_losses.adversarial:AdversarialInference")
    register.loss("relativistic", "hybridgen_losses.relativistic:Relativistic")
    register.loss("soft-introspective", "hybridgen_losses.introspection:SoftIntrospective")
    # what keeps a critic smooth
    register.loss("gradient-penalty", "hybridgen_losses.penalties:GradientPenalty")
    register.loss("dragan", "hybridgen_losses.penalties:DRAGAN")
    register.loss("r1", "hybridgen_losses.penalties:R1")
    register.loss("r2", "hybridgen_losses.penalties:R2")
    register.loss("r1-r2", "hybridgen_losses.penalties:R1R2")
    register.loss("r1-finite", "hybridgen_losses.penalties:FiniteR1")
    register.loss("r2-finite", "hybridgen_losses.penalties:FiniteR2")
    register.loss("lecam", "hybridgen_losses.lecam:LeCam")
    register.loss("consistency", "hybridgen_losses.consistency:Consistency")
    register.loss("orthogonal", "hybridgen_losses.orthogonal:Orthogonal")
    register.loss("orthogonal-decoder", "hybridgen_losses.orthogonal:OrthogonalDecoder")
    # what keeps a generator diverse and smooth
    register.loss("feature-matching", "hybridgen_losses.features:FeatureMatching")
    register.loss("mode-seeking", "hybridgen_losses.diversity:ModeSeeking")
    register.loss("path-length", "hybridgen_losses.path_length:PathLength")
