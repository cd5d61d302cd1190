"""A network from a file of `torch.export.save`, called without running anything that the file brings.

`torch.export.load` unpickles what the file marks as pickled, hands shape expressions to sympy's `eval` and executes the
guards as Python (torch 2.13): a file from elsewhere could do anything. Here the graph is read as JSON and the weights as raw
bytes; all that a file can do is name operators of OPERATORS, which compute and nothing else.
"""

from __future__ import annotations

import json
import operator
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

SCHEMA: Final = 8
"""The major number of torch.export's file format that torch 2.13 writes."""

DTYPES: Final = {5: torch.int64, 6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}
FORMATS: Final = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}

OPERATORS: Final = frozenset(
    """
    conv1d conv2d convolution conv_transpose2d linear matmul bmm mm addmm baddbmm einsum scaled_dot_product_attention
    batch_norm _native_batch_norm_legit_no_training layer_norm native_layer_norm group_norm native_group_norm instance_norm
    relu relu_ relu6 relu6_ leaky_relu leaky_relu_ elu elu_ gelu silu silu_ mish mish_ prelu sigmoid sigmoid_ tanh softplus
    hardtanh hardtanh_ hardswish hardswish_ hardsigmoid hardsigmoid_ softmax _softmax _safe_softmax log_softmax _log_softmax
    max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d
    mean sum amax amin var add add_ sub mul mul_ div div_ neg abs pow square sqrt rsqrt reciprocal exp log clamp clamp_min
    clamp_max minimum maximum where masked_fill linalg_vector_norm norm
    reshape view _unsafe_view flatten unflatten permute transpose t squeeze unsqueeze expand cat concat stack split
    split_with_sizes chunk unbind slice select narrow index roll repeat pad constant_pad_nd reflection_pad2d replication_pad2d
    pixel_shuffle pixel_unshuffle upsample_nearest2d upsample_bilinear2d upsample_bicubic2d
    clone contiguous detach alias to _to_copy dropout dropout_ feature_dropout sym_size
    """.split()  # noqa: SIM905  (a list would take a page)
)
ASSERTIONS: Final = frozenset(
    {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size"}
)
ARITHMETIC: Final = frozenset({"add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "ge", "gt", "le", "lt"})
"""What the file may compute with sizes: functions of Python's `operator`."""


class ProgramError(ValueError):
    """A file that can't be used as a network; the message says why."""


Env = dict[str, Any]
Read = Callable[[Env], Any]
HOW = "write it with torch.export.save(torch.export.export(net.eval(), (x,), dynamic_shapes=({0: Dim.DYNAMIC},)), path)"


class Program(nn.Module):
    """An exported network as a frozen module: a picture `b c h w` to a list of feature tensors, `b c ...` each.

    layers: which of its outputs, all without. channels, sides: what it takes; a side is None where the file leaves it open.

    Raises: ValueError for a file that is none, an operator that is not in OPERATORS, a fixed batch, pickled weights.
    """

    least_side = 1

    def __init__(self, path: Path, layers: tuple[int, ...] | None = None) -> None:
        super().__init__()
        try:
            with zipfile.ZipFile(path) as archive:
                graph, weights = _graph(archive, path), _weights(archive, path)
                outputs = self._read(graph, weights, path)
        except ProgramError:
            raise
        except (OSError, zipfile.BadZipFile, LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"{path} can't be read as a network of torch.export ({type(error).__name__}: {error})"
            raise ProgramError(f"{what}; {HOW}") from error
        self.layers = tuple(range(len(outputs))) if layers is None else layers
        if max(self.layers) >= len(outputs):
            last = len(outputs) - 1
            raise ProgramError(
                f"{path}: the network has no output {max(self.layers)}; write numbers from 0 to {last} in `layers`"
            )
        self.outputs = [outputs[layer] for layer in self.layers]

    def _read(self, graph: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> list[str]:
        """Fills what `forward` reads; returns the names of the outputs."""
        inputs: list[str] = []
        self.weights: dict[str, str] = {}  # the graph's name of a weight -> the buffer's
        for spec in graph["signature"]["input_specs"]:
            ((kind, entry),) = spec.items()
            if kind == "user_input":
                inputs.append(entry["arg"]["as_tensor"]["name"])
                continue
            name = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}[kind]
            buffer = f"weight_{len(self.weights)}"
            self.weights[entry["arg"]["name"]] = buffer
            self.register_buffer(buffer, weights[entry[name]], persistent=False)
        if len(inputs) != 1:
            raise ProgramError(f"{path}: the network takes {len(inputs)} tensors, expected one, the picture; {HOW}")
        self.input = inputs[0]
        values = graph["graph"]["tensor_values"][self.input]
        sizes = [size.get("as_int") for size in values["sizes"]]
        if len(sizes) != 4 or values["dtype"] != 7 or sizes[0] is not None or sizes[1] is None:
            shape = " ".join("*" if size is None else str(size) for size in sizes)
            raise ProgramError(f"{path}: the network takes {shape}, expected float32 pictures * c h w, * the batch; {HOW}")
        self.channels: int = sizes[1]
        self.sides: tuple[int | None, int | None] = (sizes[2], sizes[3])
        nodes = [_node(node, self.weights, path) for node in graph["graph"]["nodes"]]
        self.nodes = [node for node in nodes if node is not None]
        specs = graph["signature"]["output_specs"]
        if any("user_output" not in spec for spec in specs):
            raise ProgramError(f"{path}: the network changes its own buffers; call net.eval() first: {HOW}")
        return [spec["user_output"]["arg"]["as_tensor"]["name"] for spec in specs]

    def forward(self, x: Tensor) -> list[Tensor]:
        env: Env = {name: getattr(self, buffer) for name, buffer in self.weights.items()}
        env[self.input] = x
        for function, arguments, keywords, outputs in self.nodes:
            value = function(*[read(env) for read in arguments], **{name: read(env) for name, read in keywords.items()})
            if isinstance(outputs, str):
                env[outputs] = value
            else:
                env.update(zip(outputs, value, strict=True))
        return [env[name] for name in self.outputs]


Node = tuple[Callable[..., Any], list[Read], dict[str, Read], str | list[str]]


def _node(node: Mapping[str, Any], weights: Mapping[str, str], path: Path) -> Node | None:
    """One call of the graph: function, arguments, where the result goes; None for assertions."""
    target = node["target"]
    aten = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target)
    if aten and aten[1] in ASSERTIONS:
        return None
    function: Callable[..., Any]
    if aten and aten[1] in OPERATORS and not aten[2].endswith("out"):
        function = getattr(getattr(torch.ops.aten, aten[1]), aten[2])
    elif (plain := re.fullmatch(r"_operator\.(\w+)", target)) and plain[1] in ARITHMETIC:
        function = getattr(operator, plain[1])
    else:
        raise ProgramError(
            f"{path}: the network calls {target}, which a feature network may not; it may call {', '.join(sorted(OPERATORS))}"
        )
    arguments: list[Read] = []
    keywords: dict[str, Read] = {}
    for entry in node["inputs"]:
        ((kind, value),) = entry["arg"].items()
        training = (aten and "dropout" in aten[1] and entry["name"] == "train") or entry["name"] == "training"
        if training and value:
            raise ProgramError(f"{path}: the network was exported while training; call net.eval() first: {HOW}")
        if aten and aten[1].endswith("_") and entry is node["inputs"][0] and value.get("name") in weights:
            raise ProgramError(f"{path}: the network changes its own buffers; call net.eval() first: {HOW}")
        read = _reader(kind, value, target, path)
        if entry.get("kind") == 2:  # keyword
            keywords[entry["name"]] = read
        else:
            arguments.append(read)
    return function, arguments, keywords, _outputs(node["outputs"])


def _reader(kind: str, value: Any, target: str, path: Path) -> Read:
    """What gives an argument: an earlier result by its name, or a constant."""
    if kind in ("as_tensor", "as_optional_tensor", "as_sym_int"):
        name = value.get("name") or value.get("as_name") or (value.get("as_tensor") or {}).get("name")
        return _named(name) if name else _constant(value.get("as_int"))
    if kind in ("as_tensors", "as_optional_tensors", "as_sym_ints"):
        entry = {"as_tensors": "as_tensor", "as_optional_tensors": "as_optional_tensor", "as_sym_ints": "as_sym_int"}[kind]
        return _list([_reader(entry, one, target, path) for one in value])
    if kind == "as_none":
        return _constant(None)
    if kind in ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string"):
        return _constant(value)
    if kind == "as_scalar_type":
        return _constant(DTYPES[value])
    if kind == "as_memory_format":
        return _constant(FORMATS[value])
    raise ProgramError(f"{path}: {target} has an argument of the kind {kind}, which a feature network may not have; {HOW}")


def _named(name: str) -> Read:
    return lambda env: env[name]


def _constant(value: Any) -> Read:
    return lambda env: value


def _list(reads: list[Read]) -> Read:
    return lambda env: [read(env) for read in reads]


def _outputs(outputs: list[dict[str, Any]]) -> str | list[str]:
    """The name of a single result, or those of several."""
    if len(outputs) == 1:
        ((kind, value),) = outputs[0].items()
        if kind == "as_tensors":
            return [one["name"] for one in value]
        return str(value.get("name") or value["as_name"])
    return [output["as_tensor"]["name"] for output in outputs]


def _graph(archive: zipfile.ZipFile, path: Path) -> Mapping[str, Any]:
    models = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/models/[^/]+\.json", name)]
    if len(models) != 1:
        raise ProgramError(f"{path} holds {len(models)} networks, expected one; {HOW}")
    model = json.loads(archive.read(models[0]))
    if model["schema_version"]["major"] != SCHEMA:
        raise ProgramError(f"{path} was written by torch {model.get('torch_version')} in another format; with torch 2.13 {HOW}")
    graph: Mapping[str, Any] = model["graph_module"]
    return graph


def _weights(archive: zipfile.ZipFile, path: Path) -> dict[str, Tensor]:
    """Weights and constants by name, from raw bytes only."""
    found = {}
    byteorder = next((name for name in archive.namelist() if re.fullmatch(r"[^/]+/byteorder", name)), None)
    if byteorder and archive.read(byteorder) != b"little":
        raise ProgramError(f"{path} was written on a big-endian machine, which this reader doesn't support; {HOW}")
    for config in archive.namelist():
        if not re.fullmatch(r"[^/]+/data/(weights|constants)/[^/]+_config\.json", config):
            continue
        folder = config.rpartition("/")[0]
        for name, entry in json.loads(archive.read(config))["config"].items():
            meta = entry["tensor_meta"]
            if entry["use_pickle"] or meta is None:
                raise ProgramError(f"{path} holds `{name}` as a pickle, which is not read (it could run code); {HOW}")
            data = bytearray(archive.read(f"{folder}/{entry['path_name']}"))
            flat = torch.frombuffer(data, dtype=DTYPES[meta["dtype"]]) if data else torch.empty(0, dtype=DTYPES[meta["dtype"]])
            sizes, strides = ([int(side["as_int"]) for side in meta[key]] for key in ("sizes", "strides"))
            try:
                found[name] = flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"])).clone()
            except RuntimeError as error:
                raise ProgramError(
                    f"{path}: `{name}` has fewer values than its shape {sizes} wants; the file is damaged"
                ) from error
    return found
