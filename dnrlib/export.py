"""A trained reranker as a file for serving: `torch.export` and ONNX.

DNR is a training procedure, so that a reranker trained with it must serve by the very graph of
one trained directly. `first_difference` of the two programs shows that it does.
"""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from dnrlib.errors import ConfigError, DataError, DnrError
from dnrlib.files import replacing
from dnrlib.lists import TENSORS, CandidateLists
from dnrlib.training import score_lists

INPUTS = ("users", "history", "items", "scores")
"""What a served reranker takes; then ``features``, if the lists have them."""
TOLERANCE = 1e-4
"""Largest difference of logits between PyTorch and ONNX Runtime."""


class Request(CandidateLists):
    """Candidate lists when they are served: there is no feedback yet, and reading it is refused."""

    def __init__(
        self,
        users: Tensor,
        history: Tensor,
        items: Tensor,
        scores: Tensor,
        features: Tensor | None = None,
    ):
        # a frozen dataclass lets no attribute be set
        vars(self).update(
            users=users, history=history, items=items, scores=scores, features=features
        )

    def __getattr__(self, name: str) -> Any:
        if name in (*TENSORS, "meta"):
            raise ConfigError(f"the reranker reads `{name}`, which is not there when it serves")
        raise AttributeError(name)


class Serving(nn.Module):
    """The reranker as a function of a request's tensors, given the retriever's real scores."""

    def __init__(self, reranker: nn.Module):
        super().__init__()
        self.reranker = reranker

    def forward(
        self,
        users: Int[Tensor, " lists"],
        history: Int[Tensor, "lists history"],
        items: Int[Tensor, "lists n"],
        scores: Float[Tensor, "lists n"],
        features: Float[Tensor, "lists n f"] | None = None,
    ) -> Float[Tensor, "lists n"]:
        """Logits of each candidate."""
        return self.reranker(Request(users, history, items, scores, features), scores)


def serving_inputs(lists: CandidateLists) -> tuple[Tensor, ...]:
    """The tensors that a served reranker takes, in the order of `input_names`."""
    return tuple(getattr(lists, name) for name in input_names(lists))


def input_names(lists: CandidateLists) -> tuple[str, ...]:
    """`INPUTS`, and ``features`` if the lists have them."""
    return INPUTS if lists.features is None else (*INPUTS, "features")


def export_program(reranker: nn.Module, lists: CandidateLists) -> ExportedProgram:
    """The reranker in evaluation mode as a program, for any number of lists at once.

    Args:
        reranker: any module whose ``forward(batch, scores)`` gives logits; it stays as it is, and
            the program keeps weights of its own.
        lists: at least one, on the reranker's device; only sizes and types of its tensors count.

    Raises:
        ConfigError: no lists, or the reranker reads more than `serving_inputs` or branches on
            their values or on the number of lists.
    """
    if not len(lists):
        raise ConfigError("exporting needs at least one list to trace the reranker with")
    # Two lists, be they the same: a size of one would be taken for a constant.
    example = serving_inputs(lists[torch.tensor([0, -1])])
    # The bound spares torch 2.6 a guard against a slice's end, which is the largest integer.
    count = Dim("lists", min=1, max=2**31 - 1)
    serving = Serving(copy.deepcopy(reranker)).eval()
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(
                serving, example, dynamic_shapes=tuple({0: count} for _ in example), strict=False
            )
    except Exception as error:
        raise _not_exportable(reranker, error) from error


def _not_exportable(reranker: nn.Module, error: BaseException) -> ConfigError:
    """What stands at the bottom of torch's chain of errors, and what to do about it."""
    while error.__cause__:
        error = error.__cause__
    message = f"{type(reranker).__name__} cannot be exported: {_first_line(error)}"
    if not isinstance(error, DnrError):
        message += (
            ". Its forward must not branch on a tensor's values or on the number of lists; use "
            "masks, torch.where and shapes"
        )
    return ConfigError(message)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of its own parts: deprecations, and operations of torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# Comparing programs ------------------------------------------------------------------------


def first_difference(a: ExportedProgram, b: ExportedProgram) -> tuple[str, str] | None:
    """The first node in which two programs differ, or None if they are the same.

    Compared are, in order, every operation with its arguments, and the shape and type of every
    weight, constant and result; the weights' values are not.
    """
    for one, other in zip_longest(_nodes(a), _nodes(b), fillvalue="(nothing)"):
        if one != other:
            return one, other
    return None


def same_program(a: ExportedProgram, b: ExportedProgram) -> bool:
    """Whether two rerankers are served by the same operations: see `first_difference`."""
    return first_difference(a, b) is None


def _nodes(program: ExportedProgram) -> list[str]:
    """Inputs and weights by name, then one line a node; branches and loops are modules within."""
    signature = [f"{spec.kind} {spec.target}" for spec in program.graph_signature.input_specs]
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, fx.GraphModule)]
    return signature + [
        f"{node.format_node()} -> {_shapes(node)}" for graph in graphs for node in graph.nodes
    ]


def _shapes(node: fx.Node) -> str:
    values = pytree.tree_leaves(node.meta.get("val"))
    return ", ".join(
        f"{value.dtype} {[str(size) for size in value.shape]}"
        if isinstance(value, Tensor)
        else str(value)
        for value in values
    )


# ONNX --------------------------------------------------------------------------------------


def save_onnx(reranker: nn.Module, lists: CandidateLists, path: Path | str) -> float:
    """Write the reranker as an ONNX file that holds its weights; return what `check_onnx` does.

    The file appears only when it has been written and checked. Inputs are users, history, items
    and scores, and features if the lists have them, with the types that they have there; the
    output is ``logits``.

    Raises:
        ConfigError: see `export_program`; or ONNX has no counterpart of an operation, or its
            packages are missing.
        DataError: see `check_onnx`.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _package(package)
    program = export_program(reranker, lists)
    try:
        with _quiet():
            if torch.__version__ < "2.7":  # else it takes the example's number of lists for good
                program = program.run_decompositions()
            converted = torch.onnx.export(
                program,
                dynamo=True,
                output_names=["logits"],
                verbose=False,
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
            )
    except Exception as error:
        raise _not_exportable(reranker, error) from error
    assert converted is not None
    with replacing(Path(path)) as partial:
        converted.save(partial, external_data=False)
        return check_onnx(partial, reranker, lists)


def _stable_sort(self: Any, stable: bool, dim: int = -1, descending: bool = False) -> Any:
    """`aten::sort.stable` in ONNX, where of equals in TopK the first comes first by definition."""
    op = _package("onnxscript").opset18
    length = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
    return op.TopK(self, length, axis=dim, largest=int(descending), sorted=1)


def check_onnx(path: Path | str, reranker: nn.Module, lists: CandidateLists) -> float:
    """Largest difference between the file's logits under ONNX Runtime and the reranker's.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        DataError: the file cannot be run, or a logit differs by more than `TOLERANCE`.
    """
    session = onnx_session(path)
    try:
        served = onnx_logits(session, lists)
    except Exception as error:
        raise DataError(path, f"it does not fit these lists ({error})") from error
    largest = float((served - score_lists(reranker, lists).cpu()).abs().max())
    if not largest <= TOLERANCE:
        raise DataError(
            path, f"its logits differ from the reranker's by {largest:.2g}, more than {TOLERANCE}"
        )
    return largest


def onnx_session(path: Path | str, threads: int = 0) -> Any:
    """ONNX Runtime's session of a file, on the CPU; 0 threads are one for each core.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        DataError: the file is missing or is not ONNX.
    """
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise DataError(path, f"ONNX Runtime cannot load it ({error})") from error


def onnx_logits(session: Any, lists: CandidateLists) -> Float[Tensor, "lists n"]:
    """Logits under ONNX Runtime."""
    inputs = {name: getattr(lists, name).cpu().numpy() for name in input_names(lists)}
    return torch.from_numpy(session.run(None, inputs)[0])


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed: pip install 'dnrlib[onnx]'") from error
