"""Products of float32 rows by tiles of bfloat16, which some processors multiply many times as fast as float32 (AMX).

A float32 number is the sum of two bfloat16 numbers, its high and its low half, up to 2^-16 of it, and a product of two
halves is exact in float32. Three such products, high x high, high x low and low x high, make a product that is nearly
as exact as one in float32; :func:`tcm_bench.evaluation.counting.cosine.halves_error` says how exact.

The halves of a set lie in blocks of 16 rows and 32 dimensions, uint32 ``(rows / 16, dim / 32, 2, 16, 16)``: block of
rows, block of dimensions, half (high, low), pair of dimensions, row; padded with zeros to multiples of 32.
"""

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic, overload

GRAIN = 32  # rows and columns that are multiplied at once
AT_ONCE = 4  # blocks of dimensions after which the next rows come: those of 32 columns stay in the nearest cache
BLOCK_BYTES = 2 * 16 * 16 * 4
HIGH = np.uint32(0xFFFF0000)

llvmlite.binding.initialize_native_asmparser()

Array = np.ndarray


def available() -> bool:
    """Whether this processor has tiles of bfloat16 and the system lets this process use them."""
    import torch

    if getattr(config, "CPU_NAME", None):  # numba compiles for that processor, which may be one without them
        return False
    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and torch.cpu._init_amx()


def empty_blocks(items: int, dim: int) -> Array:
    """Room for the halves of a set, zero."""
    return np.zeros((2 * -(-items // GRAIN), -(-dim // 32), 2, 16, 16), dtype=np.uint32)


@njit(nogil=True, cache=True)
def _rounded(bits):  # type: ignore[no-untyped-def]
    """The nearest bfloat16 of a float32, of two the even one, both as bits of a float32."""
    return (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & HIGH


@njit(nogil=True, cache=True)
def pack(rows, blocks):  # type: ignore[no-untyped-def]
    """Write the halves of float32 rows to blocks.

    Returns:
        The largest norm of the low half of a row, and of what the halves leave of it.
    """
    low, rest, dim = 0.0, 0.0, rows.shape[1]
    halves = np.zeros((2, 32 * blocks.shape[1]), dtype=np.float32)
    bits, pairs = halves.view(np.uint32), halves.view(np.uint64)
    for item in range(len(rows)):
        row = rows[item]
        halves[0, :dim] = row
        bits[0] = _rounded(bits[0])
        halves[1, :dim] = row - halves[0, :dim]
        bits[1] = _rounded(bits[1])
        square, left = 0.0, 0.0
        for k in range(dim):
            square += np.float64(halves[1, k]) ** 2
            left += np.float64(row[k] - halves[0, k] - halves[1, k]) ** 2
        low, rest = max(low, square), max(rest, left)
        for half in range(2):
            for pair in range(pairs.shape[1]):  # the even dimension takes the lower 16 bits of a word
                both, at = pairs[half, pair], np.uint64(pair)
                blocks[item >> 4, at >> 4, half, at & 15, item & 15] = (both >> 16 & 0xFFFF) | (both >> 32 & HIGH)
    return low**0.5, rest**0.5


def strip(factors: Array, top: int, bottom: int) -> Array:
    """The rows from ``top`` to ``bottom`` as the left factor of :func:`multiply`."""
    raise NotImplementedError("in compiled code only")


def multiply(left_factor: Array, factors: Array, left: int, right: int, room: Array) -> Array:
    """Products of a strip with the rows from ``left`` to ``right``, in compiled code only.

    Args:
        left_factor: See :func:`strip`.
        factors: The set: float32 rows, or the halves of them in blocks; uint32 blocks are multiplied by the
            processor's instruction, int32 ones, anywhere, by loops that say what it does.
        left: For blocks a multiple of ``GRAIN``.
        right: One behind the last.
        room: float32, to write to: for blocks as much as for multiples of ``GRAIN`` of both.

    Returns:
        float32, a view of ``room``: one line a row of the strip, one column a row; more of both with blocks.
    """
    raise NotImplementedError("in compiled code only")


@overload(strip)
def _strip(factors, top, bottom):  # type: ignore[no-untyped-def]
    if factors.dtype == types.float32:
        return lambda factors, top, bottom: factors[top:bottom]
    return lambda factors, top, bottom: _by_rows(factors, top, bottom)


@overload(multiply)
def _multiply(left_factor, factors, left, right, room):  # type: ignore[no-untyped-def]
    if factors.dtype == types.float32:
        return _multiply_single
    return _multiply_by_tiles if factors.dtype == types.uint32 else _multiply_by_loops


def _multiply_single(left_factor, factors, left, right, room):  # type: ignore[no-untyped-def]
    rows, columns = len(left_factor), right - left
    product = room[: rows * columns].reshape(rows, columns)
    np.dot(left_factor, factors[left:right].T, product)
    return product


def _multiply_by_tiles(left_factor, factors, left, right, room):  # type: ignore[no-untyped-def]
    rows, columns = 16 * len(left_factor), (right - left + GRAIN - 1) // GRAIN * GRAIN
    product = room[: rows * columns].reshape(rows, columns)
    product[:] = 0
    depth = factors.shape[1]
    _begin_tiles(CONFIGURATION.ctypes.data)
    for column in range(0, columns, GRAIN):
        second = (left + column) >> 4
        for begin in range(0, depth, AT_ONCE):
            for row in range(0, rows, GRAIN):
                _add_product(
                    left_factor[row >> 4, begin].ctypes.data,
                    factors[second, begin].ctypes.data,
                    depth * BLOCK_BYTES,
                    min(AT_ONCE, depth - begin),
                    product[row, column:].ctypes.data,
                    columns * 4,
                )
    _end_tiles()
    return product


def _multiply_by_loops(left_factor, factors, left, right, room):  # type: ignore[no-untyped-def]
    rows, columns = 16 * len(left_factor), (right - left + GRAIN - 1) // GRAIN * GRAIN
    product = room[: rows * columns].reshape(rows, columns)
    for row in range(rows):
        for column in range(columns):
            other = left + column
            product[row, column] = _as_tiles_add(
                left_factor[row >> 4, :, :, row & 15, :], factors[other >> 4, :, :, :, other & 15]
            )
    return product


@njit(nogil=True, cache=True)
def _floats(word):  # type: ignore[no-untyped-def]
    """The two bfloat16 of a word."""
    return np.uint32(word << 16).view(np.float32), np.uint32(word & HIGH).view(np.float32)


@njit(nogil=True, cache=True)
def _as_tiles_add(first, second):  # type: ignore[no-untyped-def]
    """Product of two rows' halves, ``(dim / 32, 2, 16)``: rounded in turn as the instruction defines it."""
    total = np.float32(0)
    for depth in range(first.shape[0]):
        for part in range(3):  # high x high, high x low, low x high
            one, other = first[depth, part >> 1], second[depth, part & 1]
            even, odd = np.float32(0), np.float32(0)
            for pair in range(16):
                (a, b), (c, d) = _floats(one[pair]), _floats(other[pair])
                even += a * c
                odd += b * d
            total += even + odd
    return total


@njit(nogil=True, cache=True)
def _by_rows(blocks, top, bottom):  # type: ignore[no-untyped-def]
    """Rows from anywhere in blocks of which the last two dimensions are row and pair: the left factor's order."""
    rows = bottom - top
    turned = np.zeros(((rows + GRAIN - 1) // GRAIN * 2, *blocks.shape[1:]), dtype=blocks.dtype)
    for row in range(rows):
        turned[row >> 4, :, :, row & 15, :] = blocks[(top + row) >> 4, :, :, :, (top + row) & 15]
    return turned


# -- instructions ---------------------------------------------------------------------------------------------------

# Palette 1; each of the eight tiles has 16 rows of 64 bytes.
CONFIGURATION = np.array([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8], dtype=np.uint8)


def _assembly() -> str:
    """32 rows by 32 columns: tiles 0 to 3 take the sums, 4 and 5 hold rows, 6 and 7 columns.

    Registers: $0 and $1 two blocks of rows, $2 and $3 two of columns, $4 blocks of dimensions left; $5 and $6 the sums'
    upper and lower 16 lines, $7 bytes from one of their lines to the next, $8 the same in a block.
    """
    sums = [("", "$5"), ("64", "$5"), ("", "$6"), ("64", "$6")]

    def load(tile: int, block: int, half: int) -> str:
        return f"tileloadd {half * 1024}(${block},$8), %tmm{tile}"

    def multiply() -> list[str]:
        return [f"tdpbf16ps %tmm{6 + (sum_ & 1)}, %tmm{4 + (sum_ >> 1)}, %tmm{sum_}" for sum_ in range(4)]

    return "\n".join(
        [
            *(f"tileloadd {shift}({line},$7), %tmm{tile}" for tile, (shift, line) in enumerate(sums)),
            "1:",
            *(load(4 + block, block, half=0) for block in range(4)),
            *multiply(),
            *(load(4 + block, block, half=1) for block in (2, 3)),
            *multiply(),
            *(load(4 + block, block, half=1) for block in (0, 1)),
            *(load(4 + block, block, half=0) for block in (2, 3)),
            *multiply(),
            *(f"addq $${BLOCK_BYTES}, ${block}" for block in range(4)),
            "decq $4",
            "jnz 1b",
            *(f"tilestored %tmm{tile}, {shift}({line},$7)" for tile, (shift, line) in enumerate(sums)),
        ]
    )


INT64 = ir.IntType(64)


@intrinsic
def _add_product(_, rows, columns, apart, depth, sums, line):  # type: ignore[no-untyped-def]
    """Add a product of 32 rows by 32 columns to sums; addresses, and distances in bytes."""

    def generated(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        rows, columns, apart, depth, sums, line = arguments
        changed = [rows, builder.add(rows, apart), columns, builder.add(columns, apart), depth]
        lower = builder.add(sums, builder.mul(line, ir.Constant(INT64, 16)))
        result = ir.LiteralStructType([INT64] * len(changed))
        call = ir.InlineAsm(
            ir.FunctionType(result, [INT64] * 9),
            _assembly(),
            "=&r,=&r,=&r,=&r,=&r,r,r,r,r,0,1,2,3,4,~{memory},~{flags}",
            side_effect=True,
        )
        builder.call(call, [sums, lower, line, ir.Constant(INT64, 64), *changed])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generated


@intrinsic
def _begin_tiles(_, configuration):  # type: ignore[no-untyped-def]
    """Set the tiles' shape and make them zero."""

    def generated(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        function = ir.FunctionType(ir.VoidType(), [INT64])
        builder.call(ir.InlineAsm(function, "ldtilecfg ($0)", "r,~{memory}", side_effect=True), arguments)
        return context.get_dummy_value()

    return types.void(types.int64), generated


@intrinsic
def _end_tiles(_):  # type: ignore[no-untyped-def]
    """Give the tiles back, so that nobody saves them."""

    def generated(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        function = ir.FunctionType(ir.VoidType(), [])
        builder.call(ir.InlineAsm(function, "tilerelease", "", side_effect=True), [])
        return context.get_dummy_value()

    return types.void(), generated
