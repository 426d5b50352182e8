# mypy: allow-untyped-calls
"""Explicit vectors for Numba kernels: a value of 16 float32 lanes, with memory access, arithmetic and exp.

LLVM turns the vectors into what the processor has (one AVX-512, two AVX2 or four NEON registers), so a kernel is as
fast as it reads, whatever the loop vectoriser thinks of it. bfloat16 arrays come in as uint16 bits, are widened on
loading and rounded to nearest even on storing. Importing this module imports Numba, so only kernel modules import it.
"""

import hashlib
import operator
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.extending import intrinsic, models, overload, register_model
from numba.np.ufunc.parallel import threading_layer

LANES = 16
LOG2_E = 1.4426950408889634
LN2 = 0.6931471805599453
_LN2_HIGH, _LN2_LOW = 0.693359375, LN2 - 0.693359375  # the first has 10 bits, so multiples of it are exact

_FLOAT = ir.FloatType()
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_VECTOR_I16 = ir.VectorType(_I16, LANES)
_VECTOR_I32 = ir.VectorType(_I32, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)

# minimax for relative error, coefficients rounded to float32 one by one:
# 2^x on [-1/2, 1/2] to 3e-9, and log1p(w) = s (2 + s^2 P(s^2)) with s = w / (2 + w), w in [0, 1], to 5e-9
_EXP2 = (
    1.0,
    0.6931471824645996,
    0.24022647738456726,
    0.05550359934568405,
    0.009618505835533142,
    0.0013390806270763278,
    0.0001532646274426952,
)
_LOG1P = (0.666664183139801, 0.40021437406539917, 0.2800302803516388, 0.2800675332546234)

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


class _Cache(FunctionCache):
    """Numba's cache on disk, which watches the kernel's own file; this one watches its folder and this file."""

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        sources = [Path(__file__), *sorted(Path(self._py_func.__code__.co_filename).parent.glob("*.py"))]
        stamp = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
        return (*super()._index_key(sig, codegen), stamp)


def kernel(signature: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled for one signature, its `prange` loops run by threads; kept on disk for the next process."""
    dispatcher: Any = numba.njit(parallel=True, nogil=True, error_model="numpy")(function)
    dispatcher._cache = _Cache(function)
    dispatcher.compile(signature)
    dispatcher.disable_compile()
    return cast(Callable[..., Any], dispatcher)


def _primitive(define: Callable[..., Any]) -> Callable[..., Any]:
    """An instruction for use inside kernels; `define` gets the types of its arguments and gives the code's emitter."""
    return cast(Callable[..., Any], intrinsic(define))


def inlined(function: Kernel) -> Kernel:
    """A function for use inside kernels, merged into its caller."""
    return cast(Kernel, numba.njit(forceinline=True, nogil=True, error_model="numpy")(function))


def part(function: Kernel) -> Kernel:
    """A function for use inside kernels, compiled as one piece."""
    return cast(Kernel, numba.njit(nogil=True, error_model="numpy")(function))


def element(dtype: torch.dtype) -> Any:
    """The Numba type in which a kernel sees this dtype."""
    return types.uint16 if dtype == torch.bfloat16 else types.float32


def view(tensor: torch.Tensor, *, backwards: bool = False) -> Any:
    """The tensor's memory as a numpy array, bfloat16 as its bits; `backwards` turns axis 1 around."""
    tensor = tensor.detach()
    array = tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
    return array[:, ::-1] if backwards else array


def sum_in_order(parts: torch.Tensor) -> torch.Tensor:
    """The sum over axis 0, first to last, so that it does not depend on the number of threads."""
    return torch.from_numpy(np.add.reduce(parts.numpy(), axis=0))


_one_at_a_time = threading.Lock()


def launch(function: Callable[..., Any], *args: Any) -> None:
    """Run a compiled kernel on as many threads as torch uses."""
    before = numba.get_num_threads()
    limit: int = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(torch.get_num_threads(), limit))
    try:
        if _layer_takes_concurrent_calls():
            function(*args)
        else:
            with _one_at_a_time:
                function(*args)
    finally:
        numba.set_num_threads(before)


def _layer_takes_concurrent_calls() -> bool:
    """Numba's fallback thread pool ends the process when two Python threads use it at once; OpenMP and TBB do not."""
    try:
        return threading_layer() in ("omp", "tbb")
    except ValueError:  # not chosen before the first launch
        return False


class LanesType(types.Type):
    """Numba's type of a vector."""

    def __init__(self) -> None:
        super().__init__(name="float32x16")


lanes = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend: Any) -> None:
        super().__init__(manager, frontend, _VECTOR)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [ir.Constant(_FLOAT, float(np.float32(value)))] * LANES)


def _constant_i32(value: int) -> ir.Constant:
    return ir.Constant(_VECTOR_I32, [value] * LANES)


def _splat(builder: Any, scalar: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, _I32(0))
    return builder.shuffle_vector(first, undefined, _constant_i32(0))


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    declared = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(declared, args)


def _multiply_add(builder: Any, x: Any, y: Any, z: Any) -> Any:
    return _call(builder, "llvm.fmuladd.v16f32", _VECTOR, x, y, z)


def _polynomial(builder: Any, coefficients: tuple[float, ...], x: Any) -> Any:
    value = _constant(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = _multiply_add(builder, value, x, _constant(coefficient))
    return value


def _larger(builder: Any, x: Any, bound: Any) -> Any:
    # the comparison is false for NaN, so that NaN is passed on
    return builder.select(builder.fcmp_ordered(">", bound, x), bound, x)


def _smaller(builder: Any, x: Any, bound: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", bound, x), bound, x)


def _round(builder: Any, x: Any) -> tuple[Any, Any]:
    """(the nearest integer to x, with |x| < 2^22, as a float; the bits whose shift by 23 adds it to an exponent)."""
    shifter = _constant(1.5 * 2**23)
    shifted = builder.fadd(x, shifter)
    return builder.fsub(shifted, shifter), builder.bitcast(shifted, _VECTOR_I32)


def _scaled_exp2(builder: Any, fraction: Any, exponent: Any) -> Any:
    """2^(fraction + exponent), |fraction| <= 1/2, with the exponent as given by `_round`."""
    mantissa = builder.bitcast(_polynomial(builder, _EXP2, fraction), _VECTOR_I32)
    return builder.bitcast(builder.add(mantissa, builder.shl(exponent, _constant_i32(23))), _VECTOR)


@_primitive
def splat(typing_context: Any, scalar: Any) -> Any:
    """A number in all lanes."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, context.cast(builder, args[0], signature.args[0], types.float32), _VECTOR)

    return lanes(scalar), emit


@_primitive
def fma(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once where the processor can."""
    return lanes(lanes, lanes, lanes), lambda context, builder, signature, args: _multiply_add(builder, *args)


@_primitive
def exp2(typing_context: Any, x: Any) -> Any:
    """2^x with relative error under 1e-7: 0 below 2^-127, infinity from 2^128 on, NaN for NaN."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x = _smaller(builder, _larger(builder, args[0], _constant(-127.0)), _constant(128.0))
        whole, exponent = _round(builder, x)
        return _scaled_exp2(builder, builder.fsub(x, whole), exponent)

    return lanes(lanes), emit


@_primitive
def exp(typing_context: Any, x: Any) -> Any:
    """e^x with relative error under 1e-7: 0 below -87.3, infinity above 88.72, NaN for NaN. Slower than `exp2`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, high = _constant(-87.3), _constant(88.72)
        x = _smaller(builder, _larger(builder, args[0], low), high)
        whole, exponent = _round(builder, builder.fmul(x, _constant(LOG2_E)))
        rest = _multiply_add(builder, whole, _constant(-_LN2_HIGH), x)
        rest = _multiply_add(builder, whole, _constant(-_LN2_LOW), rest)
        result = _scaled_exp2(builder, builder.fmul(rest, _constant(LOG2_E)), exponent)
        result = builder.select(builder.fcmp_ordered("<", args[0], low), _constant(0.0), result)
        return builder.select(builder.fcmp_ordered(">", args[0], high), _constant(float("inf")), result)

    return lanes(lanes), emit


@_primitive
def _log1p(typing_context: Any, w: Any) -> Any:
    """log(1 + w) for w in [0, 1]."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        s = builder.fdiv(args[0], builder.fadd(args[0], _constant(2.0)))
        square = builder.fmul(s, s)
        return builder.fmul(s, _multiply_add(builder, square, _polynomial(builder, _LOG1P, square), _constant(2.0)))

    return lanes(lanes), emit


@_primitive
def _positive_part(typing_context: Any, x: Any) -> Any:
    return lanes(lanes), lambda context, builder, signature, args: _larger(builder, args[0], _constant(0.0))


@_primitive
def _magnitude(typing_context: Any, x: Any) -> Any:
    return lanes(lanes), lambda context, builder, signature, args: _call(builder, "llvm.fabs.v16f32", _VECTOR, args[0])


@_primitive
def where_less(typing_context: Any, x: Any, y: Any, then: Any, otherwise: Any) -> Any:
    """`then` in the lanes where x < y, else `otherwise`, also where one of them is NaN."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return lanes(lanes, lanes, lanes, lanes), emit


@_primitive
def total(typing_context: Any, x: Any) -> Any:
    """The sum of all lanes, always in the same order."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[0]
        width = LANES
        while width > 1:
            width //= 2
            halves = [
                builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(_I32, width), list(range(i, i + width))))
                for i in (0, width)
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, _I32(0))

    return types.float32(lanes), emit


def _operation(instruction: str) -> Any:
    @_primitive
    def operation(typing_context: Any, x: Any, y: Any) -> Any:
        # "contract" lets a product that feeds a sum become one instruction, and nothing else
        return lanes(lanes, lanes), lambda context, builder, signature, args: getattr(builder, instruction)(
            *args, flags=("contract",)
        )

    return operation


def _register(symbol: Any, operation: Any) -> None:
    @overload(symbol)
    def implementation(x: Any, y: Any) -> Any:
        def apply(x: Any, y: Any) -> Any:
            return operation(x, y)

        return apply if isinstance(x, LanesType) and isinstance(y, LanesType) else None


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register(_symbol, _operation(_instruction))


@inlined
def softplus(x: Any) -> Any:
    """log(1 + e^x) to full relative precision, also where it is tiny."""
    return _positive_part(x) + _log1p(exp(splat(0.0) - _magnitude(x)))


@inlined
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return splat(1.0) / (splat(1.0) + exp(splat(0.0) - x))


def _address(context: Any, builder: Any, array_type: Any, array: Any, index_type: Any, index: Any) -> Any:
    """The byte address of array[index], as an integer."""
    view = context.make_array(array_type)(context, builder, array)
    positions = [
        context.cast(builder, position, kind, types.intp)
        for position, kind in zip(cgutils.unpack_tuple(builder, index), index_type, strict=True)
    ]
    if array_type.layout == "C":  # from the shape, whose constants LLVM knows, unlike those in the strides
        offset = positions[0]
        for position, size in zip(positions[1:], cgutils.unpack_tuple(builder, view.shape)[1:], strict=True):
            offset = builder.add(builder.mul(offset, size), position)
        offset = builder.mul(offset, _I64(array_type.dtype.bitwidth // 8))
    else:
        offset = _I64(0)
        for position, stride in zip(positions, cgutils.unpack_tuple(builder, view.strides), strict=True):
            offset = builder.add(offset, builder.mul(position, stride))
    return builder.add(builder.ptrtoint(view.data, _I64), offset)


def _first_lanes(builder: Any, count: Any) -> Any:
    """The mask whose first `count` lanes are set."""
    numbers = ir.Constant(_VECTOR_I32, list(range(LANES)))
    return builder.icmp_signed("<", numbers, _splat(builder, builder.trunc(count, _I32), _VECTOR_I32))


@inlined
def scratch(size: int) -> Any:
    """An uninitialised float32 array that starts on a cache line, so that no vector in it straddles two."""
    room = np.empty(size + LANES, np.float32)
    start = (-(room.ctypes.data // 4)) % LANES
    return room[start : start + size]


def _element(array: Any) -> tuple[Any, int, str]:
    """(vector of the array's elements, alignment in bytes, its name in LLVM's intrinsics)."""
    return (_VECTOR_I16, 2, "v16i16") if array.dtype == types.uint16 else (_VECTOR, 4, "v16f32")


@_primitive
def load(typing_context: Any, array: Any, index: Any, count: Any) -> Any:
    """The 16 elements from array[index] on in the last, dense axis; lanes from `count` on are zero and stay unread."""
    if array.dtype not in (types.float32, types.uint16):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, alignment, name = _element(array)
        address = _address(context, builder, array, args[0], index, args[1])
        pointer = builder.inttoptr(address, vector.as_pointer())
        result = cgutils.alloca_once(builder, vector)
        with builder.if_else(builder.icmp_signed(">=", args[2], args[2].type(LANES)), likely=True) as (whole, tail):
            with whole:
                value = builder.load(pointer)
                value.align = alignment
                builder.store(value, result)
            with tail:
                mask = _first_lanes(builder, args[2])
                zeros = ir.Constant(vector, None)
                masked = _call(builder, f"llvm.masked.load.{name}.p0", vector, pointer, _I32(alignment), mask, zeros)
                builder.store(masked, result)
        value = builder.load(result)
        if vector is _VECTOR_I16:
            value = builder.shl(builder.zext(value, _VECTOR_I32), _constant_i32(16))
            value = builder.bitcast(value, _VECTOR)
        return value

    return lanes(array, index, types.int64), emit


def _round_to_bf16(builder: Any, value: Any) -> Any:
    """[16 x i16] bits, to nearest even; NaN stays NaN."""
    bits = builder.bitcast(value, _VECTOR_I32)
    odd = builder.and_(builder.lshr(bits, _constant_i32(16)), _constant_i32(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _constant_i32(0x7FFF))), _constant_i32(16))
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(is_nan, _constant_i32(0x7FC0), rounded), _VECTOR_I16)


@_primitive
def store(typing_context: Any, array: Any, index: Any, count: Any, value: Any) -> Any:
    """Write the first `count` lanes to array[index] and the elements after it in the last axis."""
    if array.dtype not in (types.float32, types.uint16):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, alignment, name = _element(array)
        address = _address(context, builder, array, args[0], index, args[1])
        pointer = builder.inttoptr(address, vector.as_pointer())
        bits = _round_to_bf16(builder, args[3]) if vector is _VECTOR_I16 else args[3]
        with builder.if_else(builder.icmp_signed(">=", args[2], args[2].type(LANES)), likely=True) as (whole, tail):
            with whole:
                builder.store(bits, pointer).align = alignment
            with tail:
                mask = _first_lanes(builder, args[2])
                _call(builder, f"llvm.masked.store.{name}.p0", ir.VoidType(), bits, pointer, _I32(alignment), mask)
        return context.get_dummy_value()

    return types.void(array, index, types.int64, lanes), emit
