"""What `hybridgen doctor` looks at: this installation, this machine, and what one recipe needs of them.

Each look is a function that yields findings, the cheap ones first. torch is imported by those that need it, nothing is
downloaded, and what is written to find out is gone afterwards.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hybridgen._version import __version__
from hybridgen.errors import DataError, Problem, RecipeError, UserError
from hybridgen.files import cache_folder
from hybridgen.registry import Component, Plugin, Registry

if TYPE_CHECKING:
    from hybridgen.data import SampleSpec
    from hybridgen.recipe import Recipe

SLOW = 0.5
"""Seconds that importing a manifest may take before it is worth a word: every command waits for it."""

LOW, FULL = 2 << 30, 100 << 20
"""Bytes of disk below which a run may not fit, and below which none does."""

DRIVER = Path("/dev/nvidiactl")
"""A device file that NVIDIA's driver makes on Linux."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    state: "ok", "note" (it works, but less well than it could) or "problem". mend: what to do where it isn't ok.
    facts: what was found, for scripts.
    """

    topic: str
    state: str
    text: str
    mend: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def examine(registry: Registry, *, runs: Path = Path("runs")) -> Iterator[Finding]:
    """Everything about the installation and the machine. runs: the folder that runs would be written to."""
    yield _python()
    yield from _packages()
    for plugin in registry.plugins:
        yield _plugin(plugin)
    yield from _clashes(registry)
    yield _folder("cache folder", cache_folder(), "export HYBRIDGEN_CACHE=FOLDER names another")
    yield _folder("run folder", runs.absolute(), "`hybridgen run --runs FOLDER` names another")
    yield _terminal()
    try:
        import torch  # noqa: F401
    except (Exception, SystemExit) as error:
        if _version("torch"):  # that it is missing has been told
            why = f"torch can't be imported: {type(error).__name__}: {error}"
            yield Finding("torch", "problem", why, f"install it anew: pip install --force-reinstall '{_wanted('torch')}'")
        return
    yield from _cpu()
    yield from _cuda()
    yield _compiler()


# -- the installation --------------------------------------------------------------------------------------------------


def _python() -> Finding:
    facts = {"python": platform.python_version(), "hybridgen": __version__, "executable": sys.executable}
    text = f"Python {platform.python_version()}, hybridgen {__version__}"
    installed = _version("hybridgen")
    if not installed:
        what = f"{text}, which is not installed: without an installation there are no plugins"
        return Finding("python", "problem", what, "in a checkout: pip install -e .", facts)
    if installed != __version__:
        what = f"{text}, but {installed} is what is installed: this code is another copy"
        mend = f"install the copy in {Path(__file__).parent.parent}, or leave it out of PYTHONPATH"
        return Finding("python", "note", what, mend, facts | {"installed": installed})
    return Finding("python", "ok", text, facts=facts)


def _version(package: str) -> str:
    """The version that is installed; empty where it isn't."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _requirements(distribution: str) -> list[Requirement]:
    try:
        return [Requirement(text) for text in metadata.requires(distribution) or []]
    except metadata.PackageNotFoundError:
        return []


def _wanted(name: str) -> str:
    """A package with the versions that hybridgen was tested with, as pip takes it."""
    for wanted in _requirements("hybridgen"):
        if wanted.name == name and wanted.marker is None:
            return f"{name}{_range(wanted)}"
    return name


def _range(wanted: Requirement) -> str:
    return ",".join(sorted(str(wanted.specifier).split(","), key=lambda one: one.lstrip("<>=!~"))) if wanted.specifier else ""


def _packages() -> Iterator[Finding]:
    """What pyproject asks for: torch apart, for it is the one whose version matters."""
    wanted = [one for one in _requirements("hybridgen") if one.marker is None or one.marker.evaluate({"extra": ""})]
    unmet = [finding for one in wanted if (finding := _unmet(one)) is not None]
    yield from unmet
    torch = next((one for one in wanted if one.name == "torch"), None)
    if torch is not None and not any(finding.facts["package"] == "torch" for finding in unmet):
        version = _version("torch")
        yield Finding(
            "torch", "ok", f"torch {version}, tested are {_range(torch)}", facts={"package": "torch", "version": version}
        )
    others = [one for one in wanted if one.name != "torch"]
    fine = len(others) - sum(finding.facts["package"] != "torch" for finding in unmet)
    if others:
        yield Finding("packages", "ok", f"{fine} of {len(others)} other packages are as hybridgen wants them")


def _unmet(wanted: Requirement) -> Finding | None:
    """The problem with one required package, if there is any."""
    asked = f"{wanted.name}{_range(wanted)}"
    version = _version(wanted.name)
    if version and wanted.specifier.contains(version, prereleases=True):
        return None
    what = f"{wanted.name} {version} is installed; hybridgen was tested with {_range(wanted)}"
    if not version:
        what = f"{wanted.name} is not installed; hybridgen wants {asked}"
    topic = "torch" if wanted.name == "torch" else "packages"
    return Finding(topic, "problem", what, f"pip install '{asked}'", {"package": wanted.name, "version": version})


def _plugin(plugin: Plugin) -> Finding:
    package = f"{plugin.distribution} {plugin.version}".strip() or plugin.module
    facts = {
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.module,
        "state": plugin.state,
        "seconds": plugin.seconds,
        "cause": plugin.cause,
        "problems": list(plugin.problems),
        "components": len(plugin.components),
        "recipes": len(plugin.recipes),
    }
    topic = f"plugin {plugin.name}"
    if plugin.state == "disabled":
        mend = "leave it out of --disable-plugin and of HYBRIDGEN_DISABLE_PLUGINS to have it"
        return Finding(topic, "note", f"{package}, disabled", mend, facts)
    without = f"`hybridgen --disable-plugin {plugin.name} ...` goes without it"
    if plugin.state == "failed":
        newer = f"pip install -U {plugin.distribution}, or tell its author; " if plugin.distribution else "tell its author; "
        return Finding(topic, "problem", f"{package}, failed: {plugin.cause}", newer + without, facts)
    text = f"{package}, active, imported in {1e3 * plugin.seconds:.1f} ms"
    if plugin.problems:
        return Finding(topic, "problem", f"{text}: {'; '.join(plugin.problems)}", f"tell its author; {without}", facts)
    if plugin.seconds > SLOW:
        mend = (
            f"its manifest is to import nothing heavy: python -X importtime -c 'import {plugin.module}' shows what; {without}"
        )
        return Finding(topic, "note", f"{text}, for which every command waits", mend, facts)
    return Finding(topic, "ok", text, facts=facts)


def _clashes(registry: Registry) -> Iterator[Finding]:
    """Names that several plugins offer: each is told, for a recipe of one's own has to say which it means."""
    owners: dict[tuple[str, str], list[str]] = {}
    for component in registry.components():
        owners.setdefault((component.kind, component.name), []).append(component.qualified)
    for (kind, name), qualified in owners.items():
        if len(qualified) > 1:
            written = " or ".join(f'use = "{one}"' for one in qualified)
            what = f"several plugins offer the {kind} '{name}': a recipe of yours can't say '{name}' alone"
            yield Finding("names", "note", what, f"write {written}", {"kind": kind, "name": name, "offers": qualified})


def _folder(topic: str, folder: Path, mend: str) -> Finding:
    """Whether a folder can be written, and its free disk: a nameless file is tried in it, or in the nearest one that exists."""
    place = next((one for one in (folder, *folder.parents) if one.exists()), Path(folder.anchor))
    facts: dict[str, Any] = {"path": str(folder), "exists": folder.exists()}
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        what = f"{folder} can't be written: {error.strerror or error}{'' if place == folder else f' ({place})'}"
        return Finding(topic, "problem", what, mend, facts)
    text = f"{folder} can be {'written' if folder.exists() else 'made'}, {_size(free)} free"
    state = "problem" if free < FULL else "note" if free < LOW else "ok"
    return Finding(topic, state, text, "" if state == "ok" else f"make room; {mend}", {**facts, "free": free})


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _size(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def _terminal() -> Finding:
    """Where the report is drawn: stderr."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    colours = {None: "no colours", "standard": "16 colours", "256": "256 colours", "truecolor": "all colours"}
    encoding = (getattr(sys.stderr, "encoding", None) or "ascii").lower()
    unicode = encoding.replace("-", "").startswith("utf")
    facts = {
        "tty": sys.stderr.isatty(),
        "colours": console.color_system,
        "encoding": encoding,
        "columns": console.width,
        "lines": console.height,
    }
    if not facts["tty"]:
        return Finding("terminal", "ok", "stderr is no terminal: the report is plain lines", facts=facts)
    text = f"{console.width} columns, {colours.get(console.color_system, console.color_system)}, {encoding}"
    if console.is_dumb_terminal:
        return Finding(
            "terminal", "note", f"{text}: a dumb one, which draws nothing", "write --report plain, or set TERM", facts
        )
    if not unicode:
        mend = "export PYTHONUTF8=1, or write --report plain"
        return Finding("terminal", "note", f"{text}, which has no characters for bars and samples", mend, facts)
    if console.color_system is None or console.no_color:
        mend = "unset NO_COLOR, or set TERM=xterm-256color where your terminal has them"
        return Finding("terminal", "note", f"{text}: samples can't be drawn in it", mend, facts)
    return Finding("terminal", "ok", text, facts=facts)


# -- the machine -------------------------------------------------------------------------------------------------------


def _cpu() -> Iterator[Finding]:
    import torch

    from hybridgen.environment import cpu_name
    from hybridgen.precision import GAIN, gain_of_bfloat16

    able = torch.cpu.get_capabilities()
    named = {"avx2": "AVX2", "avx512_f": "AVX512", "avx512_bf16": "AVX512 bfloat16", "amx_bf16": "AMX bfloat16"}
    has = [word for key, word in named.items() if able.get(key)]
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts = {"name": cpu_name(), "cores": cores, "threads": threads, "memory": memory, "instructions": has}
    size = f"{_counted(cores, 'core')}, {_counted(threads, 'thread')}, {_size(memory)} memory"
    text = f"{cpu_name()}, {size}, {', '.join(has) or 'no AVX2'}"
    yield Finding("cpu", "ok", text, facts=facts)
    gain = gain_of_bfloat16()
    takes = "bf16 for networks that are not small" if gain >= GAIN else "fp32"
    text = f'a matrix product is {gain:.2g} times as fast in bfloat16: train.precision = "auto" takes {takes} on the CPU'
    yield Finding("precision", "ok", text, facts={"gain_of_bfloat16": gain})


def _cuda() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        facts = {"devices": 0, "torch_cuda": torch.version.cuda}
        if not DRIVER.exists() and shutil.which("nvidia-smi") is None:
            yield Finding("cuda", "ok", "no CUDA device: runs train on the CPU", facts=facts)
        elif torch.version.cuda is None:
            mend = "install torch for CUDA, as pytorch.org/get-started/locally says"
            yield Finding("cuda", "note", "there is an NVIDIA driver here, but this torch is made for CPUs only", mend, facts)
        else:
            what = f"there is an NVIDIA driver here, but torch (CUDA {torch.version.cuda}) sees no device"
            mend = "see what nvidia-smi and CUDA_VISIBLE_DEVICES say; an old driver wants a torch for an older CUDA"
            yield Finding("cuda", "note", what, mend, facts)
        return
    for index in range(torch.cuda.device_count()):
        yield _cuda_device(index)
    if find_spec("triton") is None:
        mend = "pip install triton"
        yield Finding("triton", "note", "without triton, `train.compile` stays eager on CUDA: the same numbers, slower", mend)


def _cuda_device(index: int) -> Finding:
    """One GPU: what it is, and whether this torch computes on it."""
    import torch

    topic = f"cuda:{index}"
    properties = torch.cuda.get_device_properties(index)
    facts: dict[str, Any] = {"name": properties.name, "memory": properties.total_memory}
    try:
        with torch.cuda.device(index):
            float(torch.ones(8, device=topic).sum())
            free, bf16 = torch.cuda.mem_get_info()[0], torch.cuda.is_bf16_supported()
    except RuntimeError as error:
        what = f"{properties.name}: torch can't compute on it: {' '.join(str(error).split())[:200]}"
        capability = f"{properties.major}.{properties.minor}"
        mend = f"hide it with CUDA_VISIBLE_DEVICES, or install a torch for compute capability {capability}"
        return Finding(topic, "problem", what, mend, facts)
    tf32 = properties.major >= 8
    formats = f"bfloat16 {'yes' if bf16 else 'no'}, TF32 {'yes' if tf32 else 'no'}"
    text = f"{properties.name}, {_size(properties.total_memory)} memory, {_size(free)} free, {formats}"
    return Finding(topic, "ok", text, facts=facts | {"free": free, "bfloat16": bf16, "tf32": tf32})


def _compiler() -> Finding:
    """The C++ compiler that inductor would use, tried on three lines with inductor's own command."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    lost = "so `train.compile` stays eager on CPUs: the same numbers, slower"
    compiler = os.environ.get("CXX", "the C++ compiler")
    try:
        with _no_installing():
            compiler = get_cpp_compiler()
            _compile_three_lines()
    except InvalidCxxCompiler:
        mend = "install one (Debian: apt install g++; macOS: xcode-select --install), or name it: export CXX=/path/to/g++"
        return Finding("compiler", "note", f"no C++ compiler was found, {lost}", mend, {"compiler": None})
    except Exception as error:  # whatever torch's own code makes of it: it would fail in a run as well
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        why = next((line for line in lines if "error:" in line), lines[0])[:300]
        mend = "mend what it says (Python.h: apt install python3-dev; omp.h: apt install libomp-dev, brew install libomp)"
        return Finding("compiler", "note", f"{compiler} fails on three lines, {lost}: {why}", mend, {"compiler": compiler})
    return Finding("compiler", "ok", f"{compiler} compiles what `train.compile` needs on CPUs", facts={"compiler": compiler})


def _compile_three_lines() -> None:
    """Raises RuntimeError with the compiler's words where it fails."""
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions
    from torch._inductor.cpu_vec_isa import invalid_vec_isa

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trial.cpp"
        source.write_text('#include <Python.h>\n#include <omp.h>\nextern "C" int trial() { return omp_get_num_procs(); }\n')
        CppBuilder("trial", str(source), CppTorchOptions(vec_isa=invalid_vec_isa), output_dir=folder).build()


@contextlib.contextmanager
def _no_installing() -> Iterator[None]:
    """Without the variable that has inductor install a compiler with conda."""
    name = "TORCH_INDUCTOR_INSTALL_GXX"
    before = os.environ.pop(name, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


# -- a recipe ----------------------------------------------------------------------------------------------------------


def examine_recipe(recipe: str, overrides: tuple[str, ...], registry: Registry) -> Iterator[Finding]:
    """What one recipe needs: that it is sound, its files, its data's description, its extras. No example is read."""
    try:
        from hybridgen.examples import describe
    except (Exception, SystemExit) as error:
        yield Finding("recipe", "problem", f"it can't be looked at: {type(error).__name__}: {error}", "mend torch first")
        return
    from hybridgen.recipe import load_recipe

    mend = f"`hybridgen resolve {recipe}` shows what it is made of, `hybridgen show` what there is"
    try:
        loaded = load_recipe(recipe, overrides, registry=registry)
    except RecipeError as error:
        yield from (_of_recipe(problem, mend) for problem in error.problems)
        return
    yield from _extras(loaded)
    yield from _paths(loaded)
    try:
        spec = describe(loaded)
    except RecipeError as error:
        yield from (_of_recipe(problem, mend) for problem in error.problems)
        return
    except UserError as error:
        mend = f"`hybridgen show data {loaded.data.component.qualified}` says what it wants"
        yield Finding("data", "problem", f"{loaded.where('data')}  data: {error}", mend)
        return
    yield _data(spec, loaded)
    try:
        unavailable = try_out(loaded, spec)
    except RecipeError as error:
        yield from (_of_recipe(problem, mend) for problem in error.problems)
        return
    except UserError as error:
        yield Finding("recipe", "problem", str(error), mend)
        return
    for name, why in unavailable.items():
        yield Finding(f"metric {name}", "note", f"it can't be measured: {why}", f"remove it (metric.{name}=false), or add that")
    yield Finding("recipe", "ok", f"{loaded.name}: no problem found", facts={"recipe": loaded.name})


def try_out(recipe: Recipe, spec: SampleSpec) -> dict[str, str]:
    """A dry run of one step, and whether the device and a batch are there. Returns metrics that don't exist here -> why.

    Raises RecipeError or another UserError with what is wrong.
    """
    from hybridgen.evaluation import prepare
    from hybridgen.model import check
    from hybridgen.precision import choose

    evaluation = prepare(check(recipe, spec))
    choose(recipe.train)
    size = recipe.data.batch_size
    if spec.count < size:
        raise DataError(f"data.batch_size = {size}, but there are {spec.count} examples; write a smaller one")
    return evaluation.unavailable


def _of_recipe(problem: Problem, mend: str) -> Finding:
    facts = {"where": problem.where, "path": problem.path, "what": problem.what, "hint": problem.hint, "plugin": problem.plugin}
    return Finding("recipe", "problem", str(dataclasses.replace(problem, hint="")), problem.hint or mend, facts)


def _data(spec: SampleSpec, recipe: Recipe) -> Finding:
    facts = {"kind": spec.kind, "shape": list(spec.shape), "count": spec.count, "classes": len(spec.classes)}
    classes = f", {len(spec.classes)} classes" if spec.classes else ", no labels"
    shape = "x".join(map(str, spec.shape))
    text = f"{spec.count:,} examples ({spec.kind}, {shape}{classes}), batches of {recipe.data.batch_size}"
    return Finding("data", "ok", text, facts=facts)


def _components(recipe: Recipe) -> Iterator[tuple[str, Component, Mapping[str, Any]]]:
    """Path, component and options of everything that a recipe names."""
    yield "data", recipe.data.component, recipe.data.options
    for part in recipe.parts():
        yield part.path, part.component, part.options


def _paths(recipe: Recipe) -> Iterator[Finding]:
    """The files and folders that options name: those of data must be there, those of reporters are written."""
    from hybridgen.signature import constructor, is_path

    for path, component, options in _components(recipe):
        if component.kind == "reporter":
            continue
        schema = constructor(component.load()).options
        for name in (name for name, option in schema.items() if is_path(option.annotation)):
            value = options.get(name)
            for one in value if isinstance(value, (tuple, list)) else [] if value is None else [value]:
                yield _file(f"{path}.{name}", Path(one), component.kind == "data")


def _file(path: str, place: Path, needed: bool) -> Finding:
    facts = {"path": str(place), "exists": place.exists()}
    if not place.exists():
        state = "problem" if needed else "note"
        return Finding(path, state, f"there is no {place}", f"write another: {path}=PATH", facts)
    what = "folder" if place.is_dir() else "file"
    if not os.access(place, os.R_OK | (os.X_OK if place.is_dir() else 0)):
        return Finding(
            path, "problem", f"the {what} {place} can't be read by this user", f"chmod u+r{'x' * place.is_dir()} {place}", facts
        )
    size = "" if place.is_dir() else f", {_size(place.stat().st_size)}"
    return Finding(path, "ok", f"the {what} {place} can be read{size}", facts=facts)


def _extras(recipe: Recipe) -> Iterator[Finding]:
    """Optional packages that the modules of a recipe's components import, each with the extra that brings it."""
    told = set()
    for path, component, _ in _components(recipe):
        imported = _imports(component)
        for extra, wanted in _optional(component.distribution) if imported else []:
            key = canonicalize_name(wanted.name)
            if key not in imported or (component, key) in told:
                continue
            told.add((component, key))
            facts = {"extra": extra, "package": wanted.name, "component": component.qualified}
            whose = f"[{path}] {component.kind} '{component.name}'"
            if _unmet(wanted) is None:
                text = f"{wanted.name} {_version(wanted.name)}, which {whose} needs"
                yield Finding(f"extra {extra}", "ok", text, facts=facts)
            else:
                here = f"{_version(wanted.name)} is installed" if _version(wanted.name) else "it is not installed"
                what = f"{whose} needs {wanted.name}{_range(wanted)}; {here}"
                yield Finding(f"extra {extra}", "problem", what, f"pip install '{component.distribution}[{extra}]'", facts)


def _optional(distribution: str) -> list[tuple[str, Requirement]]:
    """The extras of a distribution and what they bring, references among its own extras left out."""
    if not distribution:
        return []
    extras = metadata.metadata(distribution).get_all("Provides-Extra") or []
    own = {canonicalize_name(distribution), "hybridgen"}
    return [
        (extra, wanted)
        for wanted in _requirements(distribution)
        for extra in extras
        if canonicalize_name(wanted.name) not in own and _only_with(wanted, extra)
    ]


def _only_with(wanted: Requirement, extra: str) -> bool:
    marker = wanted.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _imports(component: Component) -> set[str]:
    """Packages that a component's module imports anywhere in its text, within functions as well."""
    module = sys.modules.get(getattr(component.load(), "__module__", ""))
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        return set()
    found = set()
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return {canonicalize_name(name) for name in found}
