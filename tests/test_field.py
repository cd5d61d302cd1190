"""The faults that public toolkits shipped (the field notes' table of correctness), each with the test here that would catch it.

A row that has no test is not covered; a test that is renamed breaks this table, not the cover.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

FAULTS = {
    "decoder's adversarial gradient has the wrong sign, the encoder gets a part of it too": (
        "test_routing.py::test_gradients_are_the_weighted_sums_of_isolated_ones",
        "test_shelf.py::test_its_gradients_go_where_it_declares_and_are_those_of_isolated_terms",
    ),
    "mean and log-variance heads never trained": (
        "test_routing.py::test_every_trainable_parameter_moves_in_one_step",
        "test_shelf.py::test_it_trains_with_finite_values_and_moves_what_it_should",
    ),
    "the generator step's gradients leak into the discriminator's next update": (
        "test_routing.py::test_no_gradient_is_left_after_a_step",
    ),
    "perceptual loss computed under no_grad": (
        "plugins/test_losses_reconstruction.py::test_perceptual_with_a_program_by_hand",
    ),
    "hinge squashes logits first; hinge on sigmoid outputs": (
        "plugins/test_losses_adversarial.py::test_each_game_at_known_logits",
    ),
    "one gradient norm over the whole batch, or a norm per pixel; one interpolation coefficient for the batch": (
        "plugins/test_losses_critics.py::test_one_norm_a_sample_is_neither_one_a_batch_nor_one_a_pixel",
    ),
    "fakes not detached in the critic step; the penalty flows into the generator": (
        "test_step.py::test_the_critic_judges_samples_without_history",
        "test_step.py::test_a_gradient_penalty_between_samples_leaves_the_generator_alone",
    ),
    "a loss computed and never back-propagated; a relativistic loss overwritten by the plain one": (
        "test_routing.py::test_the_weight_of_a_term_moves_no_gradient_of_a_part_that_it_does_not_train",
        "plugins/test_losses_adversarial.py::test_relativistic_games_at_known_logits",
    ),
    "KL summed over the batch against a mean reconstruction; exp(logvar) used as standard deviation": (
        "plugins/test_losses.py::test_kl_is_a_sum_over_the_latent_and_a_mean_over_the_batch_in_nats",
        "plugins/test_latents.py::test_sampling_is_the_reparameterisation",
    ),
    "best checkpoint by the sum of opposed losses": ("test_loop.py::test_a_run_folder_holds_what_is_promised",),
    "resume restarts the optimiser, the step count, the EMA, LeCam or ADA state": (
        "test_shelf.py::test_it_resumes_bit_for_bit_with_whatever_state_it_keeps",
    ),
    "the old checkpoint is deleted before the new one is written": ("test_loop.py::test_kill_at_twenty_random_moments",),
    "checkpoints hold pickled code": ("test_shelf.py::test_it_resumes_bit_for_bit_with_whatever_state_it_keeps",),
    "unknown config keys are accepted": (
        "recipe/test_recipe.py::test_every_problem_at_once_with_line_expectation_and_suggestion",
    ),
    "seed set after the model was built": ("test_loop.py::test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not",),
    "accumulated micro-batches summed, not averaged": (
        "test_step.py::test_accumulated_micro_batches_are_one_batch",
        "test_shelf.py::test_micro_batches_are_one_batch_unless_it_says_that_it_couples_samples",
    ),
    "nan_to_num on gradients hides divergence": (
        "test_step.py::test_a_nan_stops_every_later_update_and_names_the_term_and_step",
    ),
    "FID with the feature network in train mode": (
        "test_evaluation.py::test_feature_networks_are_frozen_in_eval_mode_and_made_ready_once",
    ),
    "real images meet other images' labels in the discriminator": (
        "test_quantities.py::test_a_critic_judges_each_sample_with_its_own_label",
    ),
}
LATER = {
    "multi-process training drifts apart silently": "the issue of speed: there is one process",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_the_field_has_a_test_here(fault: str) -> None:
    for reference in FAULTS[fault]:
        path, _, name = reference.partition("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], f"{path} has no test {name}"


def test_the_rows_that_wait_say_for_what() -> None:
    assert not LATER.keys() & FAULTS.keys()
    assert len(FAULTS) + len(LATER) == 20
