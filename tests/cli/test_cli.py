"""The command line: exit codes, results on stdout, words for people on stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from PIL import Image

from hybridgen import hookimpl
from hybridgen.cli import EPILOG, VERBS, main
from hybridgen.registry import load_registry

QUICK = ["train.steps=2", "data.batch_size=16", "encoder.width=8", "decoder.width=8"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one call in this process."""
    code = 0
    try:
        code = main(list(arguments)) or 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_lists_every_verb_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb, what in VERBS.items():
        assert verb in out
        assert what.split()[0] in out
    assert "hybridgen run vagan-images data.path=~/pictures" in EPILOG
    assert "Examples:" in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert f"hybridgen {verb}" in out.partition("Example")[2]


def test_a_whole_life(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "run", "vagan-digits", *QUICK, "--report", "plain")
    assert code == 0, err
    folder = out.strip()
    assert (tmp_path / folder / "recipe.toml").is_file()
    assert "step=1/2" in err
    assert "step=1/2" not in out

    code, out, _ = run(capsys, "ls", "runs", "--json")
    assert [r["status"] for r in json.loads(out)["runs"]] == ["done"]

    code, out, _ = run(capsys, "sample", "vagan-digits", "--count", "9", "--seed", "4")
    assert code == 0
    with Image.open(out.strip()) as picture:
        assert picture.size == (3 * 50 + 2, 3 * 50 + 2)
    code, out, _ = run(capsys, "sample", folder, "--count", "5", "--out", "x.npy")
    assert (tmp_path / "x.npy").is_file()

    code, out, _ = run(capsys, "reconstruct", "vagan-digits", "--count", "4")
    assert code == 0
    assert Path(out.strip()).is_file()
    Image.new("RGB", (30, 40), (200, 10, 10)).save("mine.jpg")
    code, out, err = run(capsys, "reconstruct", "vagan-digits", "mine.jpg", "--out", "both.png")
    assert code == 0, err

    code, out, _ = run(capsys, "report", "vagan-digits")
    assert "done after 2 of 2 steps" in out

    code, _, err = run(capsys, "resume", folder)
    assert code == 2
    assert "is done: 2 of 2 steps" in err


def test_an_interrupted_run_goes_on_with_auto(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    from hybridgen import loop

    genuine = loop.train_step

    def step(state: object, batches: object, number: int) -> object:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return genuine(state, batches, number)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", step)
        code, out, err = run(capsys, "run", "ae-digits", *QUICK, "train.steps=4", "--report", "quiet")
    assert code == 130
    assert out == ""
    assert "SIGTERM received; the state after step 2 is saved; go on with `hybridgen resume runs/ae-digits-" in err
    code, out, _ = run(capsys, "resume", "--auto", "--report", "quiet")
    assert code == 0
    assert out.startswith("runs/ae-digits-")
    code, _, err = run(capsys, "resume", "--auto")
    assert code == 2
    assert "no unfinished run below runs/" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "vagan-digit"], "did you mean 'vagan-digits'?"),
        (["run", "vagan-digits", "train.stpes=3"], "did you mean `steps`?"),
        (["run", "vagan-digits", "train.device=cuda:9"], "torch sees no CUDA device"),
        (
            ["run", "vagan-images"],
            "`path` is required; expected path, required (the folder, with its sub-folders: data.path=~/",
        ),
        (["run", "vagan-images", "data.path=nowhere"], "is no folder"),
        (["check", "vagan-digits", "loss.kl.use=kll"], "did you mean 'kl'?"),
        (["show", "loss", "kll"], "did you mean 'kl'?"),
        (["show", "quantity", "recn"], "did you mean 'recon'?"),
        (["runn", "vagan-digits"], "Did you mean 'run'?"),
        (["resume"], "write --auto"),
        (["sample", "nowhere"], "there is no run 'nowhere'"),
        (["sample", "nowhere", "--out", "x.jpeg"], "expected a name that ends in .png"),
        (["check", "vagan-digits", "train.device=cuda"], "torch sees no CUDA device"),
        (["check", "vagan-digits", "data.batch_size=5000"], "there are 1797 examples"),
        (["check", "vagan-digits", "loss.kl.wieght=1"], "did you mean `weight`?"),
        (["check", "vagan-digits", "steps=5"], "did you mean `train.steps`?"),
        (["check", "vagan-digits", "optim.discriminatr.lr=1"], "did you mean `discriminator`?"),
        (["check", "vagan-digits", "discriminator.fake=foo"], "discriminator.main.fake: discriminator 'main' judges `foo`"),
        (["check", "vagan-digits", "evaluate.best=discriminator-accuracy"], "does not say whether higher is better"),
        (["check", "vae-digits", "train.critic_steps=3"], "no critic step to repeat"),
        (["check", "vae-digits", "optim.lr=-1.0"], "can't be negative"),
        (["check", "vae-digits", "train.log_every=30x"], 'steps, or seconds as "30s"'),
        (["ls", "losss"], "losses"),
        (["report", "nowhere"], "there is no run 'nowhere'"),
        (["cp", "nowhere", "mine.toml"], "there is no recipe 'nowhere'"),
    ],
)
def test_wrong_input_exits_2_with_words(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert expected in err
    assert out == ""
    assert "Traceback" not in err


def test_our_own_faults_exit_1_with_a_traceback(tmp_path: Path) -> None:
    code = (
        "import hybridgen.session, hybridgen.cli\n"
        "def broken(*a, **k): raise KeyError('ours')\n"
        "hybridgen.session.choose = broken\n"
        "import sys; sys.exit(hybridgen.cli.main(['run', 'ae-digits']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "KeyError: 'ours'" in done.stderr


def test_show_explains_options_and_gives_a_snippet_that_works(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "show", "loss", "reconstruction")
    assert code == 0
    for piece in ("in nats", '"gaussian" | "bernoulli" | "laplace"', "forward: x, recon, recon_raw", "log_likelihood"):
        assert piece in out, piece
    snippet = out.partition("To paste:\n")[2]
    lines = "\n".join(line.strip() for line in snippet.splitlines())
    (tmp_path / "mine.toml").write_text(f'extends = "ae-digits"\n{lines}\n')
    assert run(capsys, "check", "mine.toml")[0] == 0


def test_every_component_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for component in load_registry().components():
        code, out, err = run(capsys, "show", component.kind, component.qualified)
        assert code == 0, err
        assert "To paste:" in out


def test_copy_edit_check_resolve(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "cp", "vagan-digits", "mine.toml")[0] == 0
    code, _, err = run(capsys, "cp", "vagan-digits", "mine.toml")
    assert code == 2
    assert "--force" in err
    assert run(capsys, "cp", "vagan-digits", "mine.toml", "--extends", "--force")[0] == 0
    assert 'extends = "vagan-digits"' in (tmp_path / "mine.toml").read_text()
    code, out, _ = run(capsys, "check", "mine.toml")
    assert (code, out) == (0, "mine: no problem found\n")
    code, out, _ = run(capsys, "resolve", "mine.toml", "--no-origins")
    (tmp_path / "full.toml").write_text(out)
    assert run(capsys, "resolve", "full.toml", "--no-origins") == (0, out, "")


def test_ls_has_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ls")
    assert code == 0
    for name in ("vagan-digits", "conv", "gaussian", "reconstruction", "toy2d", "active-units"):
        assert name in out
    for what in ("losses", "data", "encoders", "recipes", "plugins"):
        assert run(capsys, "ls", what)[0] == 0
    names = [row["name"] for row in json.loads(run(capsys, "ls", "losses", "--json")[1])["loss components"]]
    assert names == sorted(names)
    assert {"adversarial", "kl", "reconstruction"} <= set(names)


@pytest.fixture
def shelf_of_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin with recipes of every sort, among them some that can't be read, in place of those that are installed."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    texts = {
        "a-gan": '# A game.\nfamily = "GANs"\n[decoder]\nuse = "mlp"\n',
        "a-child": '# A child of it.\nextends = "a-gan"\n',
        "alone": '# Of no family.\n[encoder]\nuse = "mlp"\n',
        "an-orphan": '# Its parent is gone.\nfamily = "GANs"\nextends = "nowhere"\n',
        "a-wreck": "# It is no TOML.\n[[[\n",
        "of-nothing": 'family = "VAEs"\n[encoder]\nuse = "of-a-plugin-that-is-broken"\n',
        "of-three": "# Its family is no name.\nfamily = 3\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    (folder / "no-text.toml").write_bytes(b"# \xff\n")
    mine = SimpleNamespace(recipes=hookimpl(lambda: folder))
    registry = load_registry(disabled=["recipes"], extra={"mine": mine})
    monkeypatch.setattr("hybridgen.cli.ls.registry_of", lambda _: registry)
    return folder


def test_ls_recipes_groups_them_by_family_and_lists_those_that_are_broken(
    shelf_of_recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "ls", "recipes")
    assert (code, err) == (0, "")
    groups = {title: rows.splitlines() for title, _, rows in (part.partition("\n") for part in out.strip().split("\n\n"))}
    assert list(groups) == ["recipes: GANs", "recipes: VAEs", "recipes"]
    names = {title: [row.split()[0] for row in rows] for title, rows in groups.items()}
    assert names["recipes: GANs"] == ["a-child", "a-gan"]
    assert names["recipes: VAEs"] == ["of-nothing"]
    assert names["recipes"] == ["a-wreck", "alone", "an-orphan", "no-text", "of-three"]
    assert groups["recipes: GANs"] == ["  a-child  mine  A child of it.", "  a-gan    mine  A game."]


def test_ls_recipes_for_scripts_is_one_list_with_each_recipes_family(
    shelf_of_recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(run(capsys, "ls", "recipes", "--json")[1])
    assert list(found) == ["recipes"]
    assert {row["name"]: row["family"] for row in found["recipes"]} == {
        **dict.fromkeys(("a-child", "a-gan"), "GANs"),
        "of-nothing": "VAEs",
        **dict.fromkeys(("a-wreck", "alone", "an-orphan", "no-text", "of-three"), ""),
    }
    assert found["recipes"][1] == {"family": "GANs", "name": "a-gan", "plugin": "mine", "what": "A game."}
    assert next(iter(json.loads(run(capsys, "ls", "--json")[1]))) == "recipes"


@pytest.mark.parametrize("columns", [80, 400])
def test_on_a_terminal_no_line_of_recipes_is_longer_than_it_is_wide_and_piped_none_is_cut(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(capsys, "ls", "recipes")[1].splitlines()
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(capsys, "ls", "recipes")[1].splitlines() == whole
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = click.unstyle(run(capsys, "ls", "recipes")[1]).splitlines()
    assert len(shown) == len(whole)
    for short, long in zip(shown, whole, strict=True):
        assert len(short) <= columns
        assert short == long if len(long) <= columns else (short[-3:] == "..." and long.startswith(short[:-3]))
    assert any(line.endswith("...") for line in shown) is (columns == 80)


def test_check_finds_what_does_not_fit_before_data_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "check", "vagan-digits", "data.use=toy2d")
    assert code == 2
    assert "conv" in err
    assert 'use "mlp"' in err
