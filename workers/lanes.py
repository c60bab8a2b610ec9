"""Sixteen columns side by side: a vector type for compiled loops.

Owns the type `Lanes` (16 float32) and what compiled code can do with it: load and store, + - * /, root, least,
greatest, floor, choice. Arrays lie with their columns last, so one load fetches 16 columns of one bin or sample, and
every operation works on all of them. The compiler makes of it whatever the processor has: one register of 512 bits,
two of 256, four of 128. Written out, since it does not find these vectors by itself: it guards every short loop against
arrays that overlap, which costs six times the work. Leaves out what is computed (`workers.fourier`,
`workers.projection`, `workers.phase_gradient`).
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model
from numpy.typing import NDArray

LANES: Final = 16
_COMPILED_TOGETHER: Final = (
    "fourier.py",
    "lanes.py",
    "loudness.py",
    "phase_engine.py",
    "phase_gradient.py",
    "projection.py",
)
_VECTOR: Final = ir.VectorType(ir.FloatType(), LANES)
_INDICES: Final = ir.VectorType(ir.IntType(32), LANES)
# Products may be fused with sums; nothing else may be reordered.
_FLAGS: Final = ("contract",)


# The same, with a type.
_in_compiled_code: Final[Callable[[Callable[..., Any]], Any]] = intrinsic


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


_LANES_TYPE: Final = _LanesType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, front_end_type: Any) -> None:
        super().__init__(manager, front_end_type, _VECTOR)


def _cache_folder() -> str:
    """A folder for this state of all compiled modules: numba looks at a function's own file, not at those it calls."""
    here = Path(__file__).parent
    state = hashlib.sha256(b"".join((here / name).read_bytes() for name in _COMPILED_TOGETHER)).hexdigest()[:16]
    return str(Path(numba.config.CACHE_DIR or here / "__pycache__") / f"compiled-{state}")


numba.config.CACHE_DIR = _cache_folder()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled on its first call, kept on disk where there is a folder that can be written."""
    options = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
    made: Callable[..., Any]
    try:
        made = numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither beside the source nor in the user's cache
        made = numba.njit(function, **options)
    return made


def aligned_zeros(*shape: int) -> NDArray[np.float32]:
    """Zeros in float32 that begin where a vector does."""
    size = math.prod(shape)
    raw = np.zeros(size + LANES, np.float32)
    offset = -(raw.ctypes.data // 4) % LANES
    return raw[offset : offset + size].reshape(shape)


def padded(columns: int) -> int:
    """The next whole number of lanes."""
    return -(-columns // LANES) * LANES


def _vector_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


@_in_compiled_code
def load(_typing: Any, array: Any, index: Any) -> Any:
    """The 16 values from `index` on in an array of one dimension."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = builder.load(_vector_pointer(context, builder, signature.args[0], *arguments))
        vector.align = 4
        return vector

    return _LANES_TYPE(array, types.intp), generate


@_in_compiled_code
def store(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write 16 values from `index` on into an array of one dimension."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = builder.store(arguments[2], _vector_pointer(context, builder, signature.args[0], *arguments[:2]))
        made.align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES_TYPE), generate


def _as_vector(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """A number in all lanes; lanes as they are."""
    if kind == _LANES_TYPE:
        return value
    number = context.cast(builder, value, kind, types.float32)
    empty = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_INDICES, [0] * LANES))


def _operation(emit: Callable[..., Any]) -> Any:
    """An intrinsic of lanes and numbers that gives lanes; `emit(builder, *vectors)` writes it."""

    def typed(_typing: Any, *kinds: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pairs = zip(signature.args, arguments, strict=True)
            return emit(builder, *(_as_vector(context, builder, kind, value) for kind, value in pairs))

        return _LANES_TYPE(*kinds), generate

    return typed


@_in_compiled_code
def add(typing: Any, left: Any, right: Any) -> Any:
    """left + right"""
    return _operation(lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS))(typing, left, right)


@_in_compiled_code
def subtract(typing: Any, left: Any, right: Any) -> Any:
    """left - right"""
    return _operation(lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS))(typing, left, right)


@_in_compiled_code
def multiply(typing: Any, left: Any, right: Any) -> Any:
    """left * right"""
    return _operation(lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS))(typing, left, right)


@_in_compiled_code
def divide(typing: Any, left: Any, right: Any) -> Any:
    """left / right"""
    return _operation(lambda builder, a, b: builder.fdiv(a, b))(typing, left, right)


def _named(name: str) -> Callable[..., Any]:
    """A call of the compiler's own vector function of this name."""

    def emit(builder: Any, *vectors: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(vectors))
        function = builder.module.declare_intrinsic(f"{name}.v{LANES}f32", (), kind)
        return builder.call(function, vectors)

    return emit


@_in_compiled_code
def everywhere(typing: Any, number: Any) -> Any:
    """A number in all lanes."""
    return _operation(lambda _builder, vector: vector)(typing, number)


@_in_compiled_code
def root(typing: Any, value: Any) -> Any:
    """The square root of each lane."""
    return _operation(_named("llvm.sqrt"))(typing, value)


@_in_compiled_code
def floor(typing: Any, value: Any) -> Any:
    """The whole number at or below each lane."""
    return _operation(_named("llvm.floor"))(typing, value)


@_in_compiled_code
def least(typing: Any, left: Any, right: Any) -> Any:
    """The smaller of each pair of lanes."""
    return _operation(_named("llvm.minnum"))(typing, left, right)


@_in_compiled_code
def greatest(typing: Any, left: Any, right: Any) -> Any:
    """The larger of each pair of lanes."""
    return _operation(_named("llvm.maxnum"))(typing, left, right)


@_in_compiled_code
def where_greater(typing: Any, left: Any, right: Any, then: Any, otherwise: Any) -> Any:
    """Per lane: `then` where left > right, else `otherwise`."""
    return _operation(lambda builder, a, b, yes, no: builder.select(builder.fcmp_ordered(">", a, b), yes, no))(
        typing, left, right, then, otherwise
    )


def _overloaded(symbol: Callable[..., Any], function: Any) -> None:
    # Not annotated: numba takes an overload only if its signature is its implementation's, to the letter.
    @overload(symbol)
    def operate(left, right):  # type: ignore[no-untyped-def]
        if _LANES_TYPE in (left, right):
            return lambda left, right: function(left, right)
        return None


for _symbol, _function in (
    (operator.add, add),
    (operator.sub, subtract),
    (operator.mul, multiply),
    (operator.truediv, divide),
):
    _overloaded(_symbol, _function)
