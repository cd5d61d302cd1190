"""Augmentations of what a critic judges: known pixels, and numpy and scipy as independent implementations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from common import GAN, SPEC, VAGAN, batch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from hybridgen.data import Arrays
from hybridgen.evaluation import prepare
from hybridgen.signature import constructor, validate
from hybridgen.step import train_step
from hybridgen_providers.ada import ADA, COINS, COLOURS, NORMALS, UNIFORMS, rotated, scaled, warp
from hybridgen_providers.diffaugment import (
    DiffAugment,
    brightness,
    contrast,
    cutout,
    flip,
    saturation,
    translate,
    whole_shifts,
)
from hybridgen_providers.instance_noise import InstanceNoise

SHAPES = [(1, 8, 8), (2, 7, 9), (3, 6, 10), (4, 5, 5), (5, 9, 4)]
EVERYTHING = ("blit", "geometry", "colour", "noise", "cutout")


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def drawn(module: Any, size: int, seed: int = 0) -> dict[str, Tensor]:
    """What the trainer would draw for a module: noise of the kinds and shapes in its `draws`."""
    generator = torch.Generator().manual_seed(seed)
    makers = {"uniform": torch.rand, "normal": torch.randn}
    return {name: makers[kind](size, *shape, generator=generator) for name, (kind, shape) in module.draws.items()}


# -- the pure functions ------------------------------------------------------------------------------------------------


def test_translate_moves_down_and_right_and_fills_with_zeros() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).expand(4, 1, 2, 3)
    shift = torch.tensor([[1, 0], [0, 2], [-1, -1], [0, 0]])
    expected = [
        [[0, 0, 0], [1, 2, 3]],
        [[0, 0, 1], [0, 0, 4]],
        [[5, 6, 0], [0, 0, 0]],
        [[1, 2, 3], [4, 5, 6]],
    ]
    assert translate(x, shift).squeeze(1).tolist() == expected
    assert not translate(x, torch.tensor([[2, 0], [0, 3], [-2, 0], [0, -4]])).any()  # moved out of sight


@pytest.mark.parametrize("shape", SHAPES)
def test_translate_is_rolling_a_padded_picture(shape: tuple[int, int, int]) -> None:
    x = pictures(20, *shape)
    shift = torch.randint(-4, 5, (20, 2), generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    rolled = [torch.roll(one, (int(down), int(right)), (1, 2)) for one, (down, right) in zip(padded, shift, strict=True)]
    assert torch.equal(translate(x, shift), torch.stack(rolled)[:, :, 4:-4, 4:-4])


def test_flip_mirrors_left_and_right_where_it_is_told_to() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).expand(2, 1, 2, 3)
    assert flip(x, torch.tensor([False, True])).squeeze(1).tolist() == [x[0, 0].tolist(), [[3, 2, 1], [6, 5, 4]]]


@pytest.mark.parametrize(
    ("centre", "size", "rows", "columns"),
    [
        ((2, 3), (2, 2), [1, 2], [2, 3]),
        ((2, 3), (3, 1), [1, 2, 3], [3]),
        ((0, 5), (3, 4), [0, 1], [3, 4, 5]),  # cut at the border
        ((5, 0), (2, 4), [4], [0, 1]),
    ],
)
def test_cutout_sets_a_rectangle_to_zero(
    centre: tuple[int, int], size: tuple[int, int], rows: list[int], columns: list[int]
) -> None:
    x = torch.ones(2, 3, 5, 6)
    cut = cutout(x, torch.tensor([centre, (50, 50)]), size)
    expected = torch.ones(5, 6)
    expected[np.ix_(rows, columns)] = 0
    assert torch.equal(cut[0], expected.expand(3, 5, 6))
    assert torch.equal(cut[1], x[1])


def test_brightness_saturation_and_contrast_by_hand() -> None:
    x = torch.tensor([[[[0.0, 0.6]], [[0.3, 0.0]], [[0.9, -0.6]]]]).expand(2, 3, 1, 2)  # means 0.4 and 0; all: 0.2
    close = torch.testing.assert_close
    close(brightness(x, torch.tensor([0.25, -0.5])), torch.stack([x[0] + 0.25, x[1] - 0.5]))
    by_two = torch.tensor([[[-0.4, 1.2]], [[0.2, 0.0]], [[1.4, -1.2]]])
    close(saturation(x, torch.tensor([2.0, 0.0])), torch.stack([by_two, torch.tensor([0.4, 0.0]).expand(3, 1, 2)]))
    halved = torch.tensor([[[0.1, 0.4]], [[0.25, 0.1]], [[0.55, -0.2]]])
    close(contrast(x, torch.tensor([0.5, 0.0])), torch.stack([halved, torch.full((3, 1, 2), 0.2)]))
    close(saturation(x[:, :1], torch.tensor([0.0, 2.0])), x[:, :1])  # one channel has no colour


def test_whole_shifts_are_uniform_over_the_whole_numbers_and_reach_both_ends() -> None:
    uniform = ((torch.arange(35) + 0.5) / 35)[:, None].expand(35, 2)
    down, right = whole_shifts(uniform, (2, 3)).unbind(1)
    assert torch.bincount(down + 2).tolist() == [7] * 5
    assert torch.bincount(right + 3).tolist() == [5] * 7
    ends = torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]])  # the least and the greatest that torch.rand gives
    for most in (1, 8, 31, 64):
        assert whole_shifts(ends, (most, most)).tolist() == [[-most, -most], [most, most]]


# -- DiffAugment -------------------------------------------------------------------------------------------------------


def chances(**named: float) -> Tensor:
    """Draws in the middle of their range, where they change no colour, but for those that are named."""
    names = ("brightness", "saturation", "contrast", "down", "right", "row", "column")
    assert set(named) <= set(names)
    return torch.tensor([[named.get(name, 0.5) for name in names]])


def test_the_colour_group_draws_each_strength_within_the_papers_bounds() -> None:
    x = pictures(1, 3, 5, 4).float()
    augment = DiffAugment((3, 5, 4), policy=("colour",))
    one = torch.ones(1)
    for draw, spread in ((0.0, -1.0), (0.25, -0.5), (0.9, 0.8)):
        for name, expected in (
            ("brightness", brightness(x, 0.5 * spread * one)),
            ("saturation", saturation(x, 1 + spread * one)),
            ("contrast", contrast(x, 1 + 0.5 * spread * one)),
        ):
            torch.testing.assert_close(augment(x, chances(**{name: draw})), expected)
    torch.testing.assert_close(augment(x, chances()), x)
    own = DiffAugment((3, 5, 4), policy=("colour",), brightness=0.3, saturation=0.7, contrast=0.2)
    expected = contrast(saturation(brightness(x, -0.3 * one), 0.3 * one), 0.8 * one)
    torch.testing.assert_close(own(x, chances(brightness=0, saturation=0, contrast=0)), expected)


def test_translation_reaches_an_eighth_of_each_side_and_the_hole_is_half_of_each() -> None:
    x = torch.ones(1, 2, 24, 13)
    moved = DiffAugment((2, 24, 13), policy=("translation",))
    for name, least, most in (("down", (-3, 0), (3, 0)), ("right", (0, -2), (0, 2))):
        for draw, shift in ((0.0, least), (0.999, most)):
            assert torch.equal(moved(x, chances(**{name: draw})), translate(x, torch.tensor([shift])))
    cut = DiffAugment((2, 24, 13), policy=("cutout",))
    for row, column, centre in ((0, 0, (0, 0)), (0.999, 0.999, (24, 12)), (0.31, 0.5, (7, 6))):  # 25 lines, 13 pixels
        assert torch.equal(cut(x, chances(row=row, column=column)), cutout(x, torch.tensor([centre]), (12, 7)))
    wide = DiffAugment((2, 24, 13), policy=("translation", "cutout"), translation=0.25, cutout=0.25)
    assert (wide.shift, wide.hole) == ((6, 3), (6, 3))


def test_the_groups_apply_in_the_order_of_the_policy() -> None:
    x, draw = torch.ones(1, 1, 4, 4), chances(brightness=1.0, row=0.5, column=0.5)
    cut_last = DiffAugment((1, 4, 4), policy=("colour", "cutout"))(x, draw)
    cut_first = DiffAugment((1, 4, 4), policy=("cutout", "colour"))(x, draw)
    hole = torch.ones(4, 4)
    hole[1:3, 1:3] = 0
    torch.testing.assert_close(cut_last[0, 0], 1.5 * hole)
    torch.testing.assert_close(cut_first[0, 0], hole + 0.5)


def test_a_strength_that_means_nothing_is_refused() -> None:
    for options, message in (
        ({"policy": ("colour", "colour")}, "names a group twice"),
        ({"policy": ("cutout",), "contrast": 0.3}, 'a strength of "colour" is set, but policy lacks it'),
        ({"policy": ("cutout",), "translation": 0.3}, 'a strength of "translation" is set'),
        ({"policy": ("colour",), "cutout": 0.3}, 'a strength of "cutout" is set'),
        ({"translation": 0.01}, "less than a pixel; write more"),
        ({"cutout": 0.01}, "cuts less than a pixel out of"),
    ):
        with pytest.raises(ValueError, match=message):
            DiffAugment((3, 8, 9), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cuts less than a pixel out of"):
        DiffAugment((3, 8, 3), cutout=0.1)  # one row high, no column wide
    DiffAugment((3, 8, 3), translation=0.125)  # the short side is never moved


# -- ADA against numpy and scipy ---------------------------------------------------------------------------------------


def ada(shape: tuple[int, ...], **options: Any) -> ADA:
    return ADA(shape, 12, **options)


def draws_of(module: ADA, size: int = 1, *, on: tuple[str, ...] = (), **named: float) -> dict[str, Tensor]:
    """Draws by which nothing happens, but for the transforms in `on`; `u_name` and `n_name` set what decides how much."""
    assert set(on) <= set(COINS)
    given = {
        "coins": torch.tensor([[0.0 if name in on else 1.0 for name in COINS]]),
        "uniforms": torch.tensor([[named.pop(f"u_{name}", 0.0) for name in UNIFORMS]]),
        "normals": torch.tensor([[named.pop(f"n_{name}", 0.0) for name in NORMALS]]),
    }
    assert not named
    grain = torch.ones(1, *module.draws["grain"][1])
    return {name: value.expand(size, *value.shape[1:]) for name, value in (given | {"grain": grain}).items()}


def expected_ada(x: np.ndarray, p: float, draws: dict[str, np.ndarray], policy: tuple[str, ...]) -> np.ndarray:
    """Appendix B of the paper for one picture, with forward maps in pixels, numpy's inverse and scipy's interpolation."""
    c, h, w = x.shape
    coin, u, n = (dict(zip(names, draws[key], strict=True)) for names, key in _columns())
    rotation = 1 - math.sqrt(1 - p)
    on = {name: value < (rotation if name.startswith("rotation") else p) for name, value in coin.items()}

    def turn(angle: float) -> np.ndarray:  # counter-clockwise to the eye, where y points down
        return np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])

    def move(right: float, down: float) -> np.ndarray:
        return np.array([[1, 0, right], [0, 1, down], [0, 0, 1.0]])

    turns = 4 if h == w else 2
    blit = [
        ("flip", np.diag([-1.0 if u["flip"] >= 0.5 else 1.0, 1, 1])),
        ("turn", turn(2 * np.pi / turns * int(turns * u["turn"]))),
        ("shift", move(np.round((2 * u["shift_x"] - 1) * w / 8), np.round((2 * u["shift_y"] - 1) * h / 8))),
    ]
    scale, stretch = 2 ** (0.2 * n["scale"]), 2 ** (0.2 * n["stretch"])
    geometry = [
        ("scale", np.diag([scale, scale, 1])),
        ("rotation", turn(np.pi * (2 * u["rotation"] - 1))),
        ("stretch", np.diag([stretch, 1 / stretch, 1])),
        ("rotation_after", turn(np.pi * (2 * u["rotation_after"] - 1))),
        ("move", move(w / 8 * n["move_x"], h / 8 * n["move_y"])),
    ]
    forward = np.eye(3)
    for name, step in [*(blit if "blit" in policy else ()), *(geometry if "geometry" in policy else ())]:
        forward = step @ forward if on[name] else forward
    rows, columns = np.mgrid[:h, :w]
    middle = np.array([(w - 1) / 2, (h - 1) / 2])
    there = np.stack([columns - middle[0], rows - middle[1], np.ones((h, w))]).reshape(3, -1)
    back = np.linalg.inv(forward) @ there
    places = [back[1] + middle[1], back[0] + middle[0]]
    x = np.stack([map_coordinates(channel, places, order=1, mode="reflect").reshape(h, w) for channel in x])
    if "colour" in policy:
        axis = np.ones(3) / np.sqrt(3)
        luma = np.eye(3) - (2 * np.outer(axis, axis) if u["luma"] >= 0.5 else 0)
        along = np.outer(axis, axis)
        steps = {
            "brightness": (np.eye(3), 0.2 * n["brightness"]),
            "contrast": (2 ** (0.5 * n["contrast"]) * np.eye(3), 0.0),
            "luma": (luma, 0.0),
            "hue": (Rotation.from_rotvec(np.pi * (2 * u["hue"] - 1) * axis).as_matrix(), 0.0),
            "saturation": (along + 2.0 ** n["saturation"] * (np.eye(3) - along), 0.0),
        }
        if c == 1:
            steps = {name: steps[name] for name in ("brightness", "contrast")}
            steps["luma"] = ((-1.0 if u["luma"] >= 0.5 else 1.0) * np.eye(3), 0.0)
        elif c != 3:
            steps = {name: steps[name] for name in ("brightness", "contrast")}
        for name, (linear, offset) in steps.items():
            if on[name]:
                x = (np.einsum("ij,jhw->ihw", linear, x) if c == 3 else linear[0, 0] * x) + offset
    if "noise" in policy and on["noise"]:
        x = x + 0.1 * abs(n["noise"]) * draws["grain"]
    if "cutout" in policy and on["cutout"]:
        x = x.copy()
        size = [int(side / 2 + 0.5) for side in (h, w)]
        top, left = (int(np.round(u[f"cutout_{a}"] * side)) - s // 2 for a, side, s in zip("yx", (h, w), size, strict=True))
        x[:, max(top, 0) : top + size[0], max(left, 0) : left + size[1]] = 0
    return x


def _columns() -> list[tuple[tuple[str, ...], str]]:
    return [(COINS, "coins"), (UNIFORMS, "uniforms"), (NORMALS, "normals")]


@pytest.mark.parametrize("policy", [EVERYTHING, ("blit",), ("geometry",), ("colour",), ("noise", "cutout")])
@pytest.mark.parametrize("shape", SHAPES)
def test_ada_is_the_papers_pipeline(shape: tuple[int, int, int], policy: tuple[Any, ...]) -> None:
    module = ada(shape, p=0.6, policy=policy)
    x = pictures(24, *shape)
    draws = drawn(module, 24, seed=3)
    got = module(x, **draws)
    for i in range(24):
        one = {name: value[i].double().numpy() for name, value in draws.items()}
        expected = torch.from_numpy(expected_ada(x[i].numpy(), 0.6, one, policy))
        torch.testing.assert_close(got[i], expected, rtol=1e-4, atol=1e-4, msg=lambda m, i=i: f"sample {i}: {m}")


@pytest.mark.parametrize("shape", SHAPES)
def test_with_p_0_ada_is_the_identity_to_the_last_bit(shape: tuple[int, int, int]) -> None:
    x = pictures(16, *shape).float()
    module = ada(shape, p=0, policy=EVERYTHING)
    assert torch.equal(module(x, **drawn(module, 16)), x)
    assert torch.equal(module(x, **(drawn(module, 16) | {"coins": torch.zeros(16, len(COINS))})), x)  # the least of torch.rand


def test_with_p_1_ada_changes_every_sample_by_every_transform() -> None:
    module = ada((3, 8, 8), p=1, policy=EVERYTHING)
    draws = drawn(module, 64)
    draws["coins"] = torch.full_like(draws["coins"], 1 - 2**-24)  # the greatest that torch.rand gives
    assert all(bool(on.all()) for on in module._chosen(draws["coins"]).values())


def test_blits_are_exact_pixels() -> None:
    x = pictures(1, 2, 8, 8).float()
    module = ada((2, 8, 8), p=0.5, policy=("blit",))
    close = torch.testing.assert_close
    close(module(x, **draws_of(module, on=("flip",), u_flip=0.5)), x.flip(3), atol=1e-5, rtol=0)
    assert torch.equal(module(x, **draws_of(module, on=("flip",), u_flip=0.49)), x)
    for k in range(4):
        got = module(x, **draws_of(module, on=("turn",), u_turn=(k + 0.5) / 4))
        close(got, torch.rot90(x, k, (2, 3)), atol=1e-5, rtol=0)
    got = module(x, **draws_of(module, on=("shift",), u_shift_x=0.9, u_shift_y=0.1))  # 0.8 of a pixel right, and up
    mirrored = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 1), (1, 0)), mode="symmetric")
    close(got, torch.from_numpy(mirrored[:, :, 1:, :-1]), atol=1e-5, rtol=0)
    got = module(x, **draws_of(module, on=("shift",), u_shift_x=0.7, u_shift_y=0.7))  # 0.4 of a pixel: none
    assert torch.equal(got, x)


def test_oblong_pictures_are_turned_by_half_turns_alone() -> None:
    x = pictures(1, 1, 6, 9).float()
    module = ada((1, 6, 9), p=0.5, policy=("blit",))
    for u, k in ((0.3, 0), (0.6, 2), (0.9, 2)):
        got = module(x, **draws_of(module, on=("turn",), u_turn=u))
        torch.testing.assert_close(got, torch.rot90(x, k, (2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_identity_map_gives_the_picture_back(shape: tuple[int, int, int]) -> None:
    x = pictures(3, *shape)
    torch.testing.assert_close(warp(x, torch.eye(3).expand(3, 3, 3)), x, atol=1e-5, rtol=0)
    twice = torch.full((3,), 2.0)
    assert torch.equal(scaled(twice, 4.0)[0], torch.diag(torch.tensor([0.5, 0.25, 1.0])))
    there_and_back = rotated(twice) @ rotated(-twice)
    torch.testing.assert_close(there_and_back, torch.eye(3).expand(3, 3, 3))


def test_a_probability_is_the_share_of_samples_that_change() -> None:
    shape, size = (3, 2, 2), 4000
    x = pictures(size, *shape).float()
    for policy, names in (("noise", ("noise",)), ("geometry", ("rotation", "rotation_after")), ("colour", ("hue",))):
        module = ada(shape, p=0.3, policy=(policy,))
        draws = drawn(module, size)
        others = [i for i, name in enumerate(COINS) if name not in names]
        draws["coins"][:, others] = 1.0
        changed = (module(x, **draws) != x).flatten(1).any(1).double().mean()
        assert float(changed) == pytest.approx(0.3, abs=0.025), policy  # 3.5 standard deviations


def test_coins_of_one_sample_are_independent() -> None:
    module = ada((3, 2, 2), p=0.5)
    on = torch.stack(list(module._chosen(drawn(module, 4000)["coins"]).values()), 1).double()
    off_diagonal = torch.corrcoef(on.T) - torch.eye(len(COINS), dtype=torch.float64)
    assert float(off_diagonal.abs().max()) < 0.07


# -- p -----------------------------------------------------------------------------------------------------------------


def test_p_follows_the_sign_of_r_t_within_0_and_1() -> None:
    module = ADA((1, 8, 8), 12, speed=0.04)  # 12 of 40 pictures: 0.3 an update
    sure, unsure = torch.full((12,), 3.0), torch.full((12,), -0.01)
    got = []
    for logits in (sure, sure, sure, sure, unsure, unsure, unsure, unsure, sure):
        module.update(logits)
        got.append(float(module.p))
    assert got == pytest.approx([0.3, 0.6, 0.9, 1.0, 0.7, 0.4, 0.1, 0.0, 0.3])


def test_r_t_is_the_mean_sign_of_the_logits_of_real_samples() -> None:
    module = ADA((1, 8, 8), 12, speed=0.04)
    for logits, r_t, p in (
        ([0.1, 9.0, 2.0, -7.0, 1e-3], 0.6, 0.0),  # at the target, p stays
        ([5.0, 5.0, 5.0, 5.0, 0.0], 0.8, 0.3),  # a logit of 0 has no sign
        ([-1.0, -1.0, -1.0, 8.0, 8.0], -0.2, 0.0),
    ):
        module.update(torch.tensor(logits))
        assert (float(module.r_t), float(module.p)) == (pytest.approx(r_t), pytest.approx(p))
    module.update(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))  # patches count one by one
    assert float(module.r_t) == pytest.approx(0.5)
    lower = ADA((1, 8, 8), 12, speed=0.04, target=0.4)
    lower.update(torch.tensor([1.0, 1.0, 1.0, -1.0]))
    assert float(lower.p) == pytest.approx(0.3)


def test_the_papers_speed_takes_half_a_million_pictures_from_0_to_1() -> None:
    module = ADA((1, 8, 8), 50)
    module.update(torch.ones(50))
    assert float(module.p) == pytest.approx(1 / (500_000 / 50))


def test_a_fixed_p_stays_and_r_t_is_still_told() -> None:
    module = ADA((1, 8, 8), 12, p=0.25)
    module.update(torch.ones(4))
    assert (float(module.p), float(module.r_t)) == (0.25, 1.0)
    assert set(module.state_dict()) == {"p", "r_t"} == set(module.reports)


def test_ada_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(ValueError, match="remove target and speed"):
        ADA((1, 8, 8), 12, p=0.25, target=0.5)
    with pytest.raises(ValueError, match="remove target and speed"):
        ADA((1, 8, 8), 12, p=0.25, speed=100)
    with pytest.raises(ValueError, match="names a group twice"):
        ADA((1, 8, 8), 12, policy=("blit", "blit"))


def test_options_are_read_from_a_recipe_as_the_hints_say() -> None:
    schema = constructor(ADA)
    for given, right in (
        ({"p": 0.3}, True),
        ({"p": 1}, True),
        ({"p": "adaptive"}, True),
        ({"p": 1.5}, False),
        ({"p": "on"}, False),
    ):
        assert (validate(given, schema)[1] == []) is right, given
    for given, right in (({"policy": ["colour"]}, True), ({"policy": []}, False), ({"policy": ["color"]}, False)):
        assert (validate(given, constructor(DiffAugment))[1] == []) is right, given


# -- instance noise ----------------------------------------------------------------------------------------------------


def test_instance_noise_falls_linearly_and_is_gone_after_its_share_of_the_run() -> None:
    for shape in ((2,), (3, 5, 4), (6, 7)):
        module = InstanceNoise(shape, sigma=0.3, over=0.4)
        assert module.draws == {"grain": ("normal", shape)}
        x, grain = pictures(5, *shape), drawn(module, 5)["grain"].double()
        for progress, sigma in ((0.0, 0.3), (0.1, 0.225), (0.3, 0.075)):
            got = module(x, grain, torch.tensor(progress, dtype=torch.float64))
            torch.testing.assert_close(got, x + sigma * grain)
        for progress in (0.4, 0.7, 1.0):
            assert torch.equal(module(x, grain, torch.tensor(progress)), x)
    whole_run = InstanceNoise((2,))(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor(0.75))
    torch.testing.assert_close(whole_run, torch.full((1, 2), 0.025))


# -- what all of them promise ------------------------------------------------------------------------------------------


def given(module: nn.Module, size: int) -> dict[str, Tensor]:
    draws = drawn(module, size)
    return draws if not isinstance(module, InstanceNoise) else draws | {"progress": torch.tensor(0.25)}


AUGMENTATIONS = {
    "diffaugment": lambda shape: DiffAugment(shape),
    "ada": lambda shape: ada(shape, p=0.7, policy=EVERYTHING),
    "instance-noise": lambda shape: InstanceNoise(shape),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 7, 7)])
def test_a_batch_is_its_samples_one_by_one(name: str, shape: tuple[int, int, int]) -> None:
    module = AUGMENTATIONS[name](shape)
    x, draws = pictures(6, *shape).float(), given(module, 6)
    whole = module(x, **draws)
    assert whole.shape == x.shape
    assert torch.equal(module(x, **draws), whole)  # the draws alone decide
    for i in range(6):
        one = {key: value[i : i + 1] if value.ndim else value for key, value in draws.items()}
        torch.testing.assert_close(module(x[i : i + 1], **one), whole[i : i + 1])
    assert (whole != x).flatten(1).any(1).sum() >= 5  # 0.3^15 that ADA leaves one alone


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_gradient_passes_through(name: str) -> None:
    shape = (3, 4, 5)
    module = AUGMENTATIONS[name](shape)
    draws = {key: value.double() for key, value in given(module, 4).items()}
    x = pictures(4, *shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x, **draws), x, eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(module(x, **draws).square().sum(), x)
    assert gradient.flatten(1).any(1).all()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_in_evaluation_nothing_is_changed(name: str) -> None:
    module = AUGMENTATIONS[name]((3, 4, 5)).eval()
    x = pictures(4, 3, 4, 5)
    assert module(x, **given(module, 4)) is x


@pytest.mark.parametrize(("name", "shape"), [("diffaugment", (2,)), ("ada", (4, 8)), ("diffaugment", ())])
def test_only_pictures_can_be_moved_and_coloured(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf'{name} changes pictures .*write augment = \{{ use = "instance-noise" \}}'):
        AUGMENTATIONS[name](shape)


def test_each_transform_has_a_coin_and_an_amount_of_its_own() -> None:
    module = ada((3, 8, 8), policy=EVERYTHING)
    assert {name: shape for name, (_, shape) in module.draws.items()} == {
        "coins": (len(set(COINS)),),
        "uniforms": (len(set(UNIFORMS)),),
        "normals": (len(set(NORMALS)),),
        "grain": (3, 8, 8),
    }
    assert {kind for name, (kind, _) in module.draws.items() if name in ("coins", "uniforms")} == {"uniform"}
    assert ada((3, 8, 8)).draws["grain"] == ("normal", ())  # nothing is drawn for a group that isn't there
    assert set(COLOURS) < set(COINS)


# -- at work -----------------------------------------------------------------------------------------------------------

METRIC = '[metric.critic]\nuse = "discriminator-accuracy"\n'


@pytest.mark.parametrize("augment", ['"diffaugment"', '"ada", p = 0.9', '"instance-noise", sigma = 9.0'])
def test_metrics_see_plain_samples(augment: str, training: Any) -> None:
    """A critic measured behind an augmentation gives the numbers that it gives without one."""
    plain = GAN + METRIC
    augmented = training(plain.replace('fake = "fake"', f'fake = "fake"\naugment = {{ use = {augment} }}'))
    bare = training(plain)
    train_step(augmented, [batch()], 1)
    bare.model.load_state_dict({k: v for k, v in augmented.model.state_dict().items() if "augment" not in k})
    bare.average = augmented.average = None
    examples = {"validation": Arrays(SPEC.to_stored(batch(64, seed=7)["x"]))}
    results = [prepare(state.model).run(state.refresh_averaged(), examples, 1).values for state in (augmented, bare)]
    assert results[0] == results[1]
    assert results[0].keys() == {"critic.real", "critic.fake"}


def test_real_and_generated_samples_are_augmented_alike_and_p_moves_once_a_step(training: Any) -> None:
    text = VAGAN.replace('fake = ["recon", "fake"]', 'fake = ["recon", "fake"]\naugment = { use = "ada", speed = 0.04 }')
    state = training(text)
    path = "discriminator.main.augment"
    sites = {key.partition("@")[2] for key in state.model.noise if key.startswith("coins@")}
    assert sites == {f"discriminator.main.{which}.augmented" for which in ("real", "fake.0", "fake.1")}
    for step in range(1, 4):
        before = state.model.parts[path].p.clone()
        values = train_step(state, [batch(seed=step)], step)
        module = state.model.parts[path]
        change = (module.r_t - 0.6).sign() * 8 / 40
        torch.testing.assert_close(module.p, (before + change).clamp(0, 1))
        assert float(values[f"state.{path}.p"]) == float(module.p)
