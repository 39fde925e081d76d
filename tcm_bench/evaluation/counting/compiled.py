"""The inner loops over pairs, compiled by numba; they stand apart because nothing may wrap them.

Every function releases the interpreter's lock and touches only the arrays it is given, so threads run it
side by side, each with its own.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tcm_bench.evaluation.counting import halves

CELLS = 4096

BYTES_TO_BITS = np.uint64(0x0102040810204080)

Array = np.ndarray


@intrinsic
def _trailing_zeros(_, bits):  # type: ignore[no-untyped-def]
    """Of an integer other than 0."""

    def generated(_, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generated


@njit(nogil=True, cache=True)
def column_bits(items):  # type: ignore[no-untyped-def]
    """Lower bits of a stored pair of so many items: they hold its column, the others its row in the strip."""
    bits = np.uint64(0)
    while items >> bits:
        bits += np.uint64(1)
    return bits


Edges = tuple[Array, np.float32, Array]


def cells(edges: Array) -> Edges:
    """A table to find a value's place among edges without a search.

    Args:
        edges: float32 ``(edges,)``, increasing.

    Returns:
        The edges and an infinite one, cells per unit, and int32 ``(CELLS + 1,)``: the edges that lie in lower cells of
        the even ones from the first edge to the last. All of these are at or below any value of the cell, because a
        value's cell never falls as the value grows.
    """
    values = np.append(edges, np.float32(np.inf))
    if not len(edges):
        return values, np.float32(1), np.zeros(CELLS + 1, dtype=np.int32)
    scale = np.float32(CELLS) / max(edges[-1] - edges[0], np.float32(1e-30))
    cell = np.minimum((edges - edges[0]) * scale, CELLS).astype(np.int64)
    return values, scale, np.searchsorted(cell, np.arange(CELLS + 1)).astype(np.int32)


@njit(nogil=True, cache=True)
def place(value, edges):  # type: ignore[no-untyped-def]
    """Number of edges at or below a finite ``value``; edges as :func:`cells` returns them."""
    values, scale, below = edges
    cell = min(max((value - values[0]) * scale, np.float32(0)), np.float32(CELLS))
    found = below[np.uint64(cell)]
    found += np.int32(value >= values[np.uint64(found)])  # as a rule the only one in the cell: no branch
    while value >= values[np.uint64(found)]:
        found += np.int32(1)
    return found


@njit(nogil=True, cache=True)
def scan_strip(  # type: ignore[no-untyped-def]
    factors,  # the rows, sorted by class, as `tcm_bench.evaluation.counting.halves.multiply` takes them
    half,  # float32 (items,): half the square of their norms
    labels,  # later, groups, roles of `tcm_bench.evaluation.counting.kernels.Rows`
    top,
    left,
    tile,  # rows and columns of a tile
    edges,  # of the intervals, as `cells` returns them
    maybe_above,  # float32 (items,): above it a pair may lie before a query's nearest positive; raised once max_rank do
    surely_above,  # float32 (items,): above it, it certainly does
    max_rank,  # stop counting for a query at this many
    histogram,  # int64 (groups, intervals + 1): counted in place
    ranks,  # int64 (items,): items surely before a query's nearest positive, counted in place
    buffers,  # the fields of `tcm_bench.evaluation.counting.kernels.Buffers`
):
    """Count the pairs of two classes of which one is among the rows from ``top`` on and the other lies right of them.

    Returns:
        The column where buffers were too full to go on; the number of rows at the end.
    """
    room, stored, _, doubtful, filled, _, _, _, _ = buffers
    items = len(half)
    bottom = min(top + tile[0], items)
    for item in range(items):
        if ranks[item] >= max_rank:
            maybe_above[item] = np.inf
    strip = halves.strip(factors, top, bottom)
    while left < items:
        right = min(left + tile[1], items)
        area = (bottom - top) * (right - left)
        # A tile defers each pair once and doubts it twice at most.
        if len(stored) - filled[0] < area or len(doubtful) - filled[1] < 2 * area:
            break
        product = halves.multiply(strip, factors, left, right, room)
        corners = top, bottom, left, right
        _scan_tile(
            product,
            corners,
            half,
            labels,
            edges,
            maybe_above,
            surely_above,
            max_rank,
            histogram,
            ranks,
            buffers,
        )
        left = right
    return left


@njit(nogil=True, cache=True)
def _scan_tile(  # type: ignore[no-untyped-def]
    tile, corners, half, labels, edges, maybe_above, surely_above, max_rank, histogram, ranks, buffers
):
    """Count every pair of two classes in a tile, each once: its column lies in a later class than its row."""
    later, group_of, roles = labels
    _, stored, values, doubtful, filled, asked, picked, all_floors, counts = buffers
    top, bottom, left, right = corners
    rows, columns, shift = bottom - top, right - left, column_bits(len(half))
    for role in range(4):
        for column in range(columns):
            there = roles[left + column]
            met = (role & there >> 1) | (there & role >> 1)
            all_floors[role, column] = edges[0][0] if met & 1 else np.inf
    maybe_here, half_here = maybe_above[left : left + columns], half[left : left + columns]
    first_group = group_of[left] & ~1  # both halves of a class, whichever comes first
    groups = (group_of[left + columns - 1] | 1) - first_group + 1
    counts[:groups] = 0
    asked[:] = 0
    for row in range(rows):
        item, line = top + row, tile[row]
        role, begin = roles[item], max(0, later[item] - left)
        floors, maybe_item, half_item = all_floors[role], maybe_above[item], half[item]
        for column in range(columns):
            value = line[column] - half_item - half_here[column]
            line[column] = value
            asked[column] = value >= floors[column]
        own, end = histogram[group_of[item]], filled[0]
        for entry in range(_picked(asked, begin, picked)):
            column = np.uint64(picked[entry])  # unsigned: numba need not look whether it counts from the end
            other, value = np.uint64(left) + column, line[column]
            found = place(value, edges)
            interval, inside = np.uint64(found >> 1), found & 1
            stored[np.uint64(end)] = np.uint64(row) << shift | other
            values[np.uint64(end)] = value
            end += inside
            own[interval] += 1 - inside
            counts[np.uint64(group_of[other] - first_group), interval] += np.int32(1 - inside)
        filled[0] = end
        for column in range(columns):
            asked[column] = line[column] >= min(maybe_item, maybe_here[column])
        for entry in range(_picked(asked, begin, picked)):
            other, value = left + picked[entry], line[picked[entry]]
            if value >= maybe_above[item] and role & 1 and roles[other] & 2:
                _note(value, item, other, maybe_above, surely_above, max_rank, ranks, doubtful, filled)
            if value >= maybe_above[other] and roles[other] & 1 and role & 2:
                _note(value, other, item, maybe_above, surely_above, max_rank, ranks, doubtful, filled)
    histogram[first_group : first_group + groups] += counts[:groups]


@njit(nogil=True, cache=True)
def _picked(asked, begin, picked):  # type: ignore[no-untyped-def]
    """Write down the columns from ``begin`` on of which something is asked; return their number.

    It is asked of few, and which cannot be predicted: no branch depends on one of them.
    """
    asked[:begin] = 0
    words = asked.view(np.uint64)
    count = 0
    for first in range(0, len(words), 8):
        bits = np.uint64(0)
        for number in range(8):  # the lowest bits of 8 bytes become one byte
            bits |= (words[first + number] * BYTES_TO_BITS >> np.uint64(56)) << np.uint64(8 * number)
        while bits:
            picked[count] = 8 * first + _trailing_zeros(bits)
            count += 1
            bits &= bits - np.uint64(1)
    return count


@njit(nogil=True, cache=True, inline="always")
def _note(value, query, item, maybe_above, surely_above, max_rank, ranks, doubtful, filled):  # type: ignore[no-untyped-def]
    """An item that may come before a query's nearest positive."""
    if value > surely_above[query]:
        ranks[query] += 1
        if ranks[query] >= max_rank:
            maybe_above[query] = np.inf
    else:
        doubtful[filled[1], 0] = query
        doubtful[filled[1], 1] = item
        filled[1] += 1


@njit(nogil=True, cache=True)
def sample_tile(tile, top, left, half, later, roles, span, histogram):  # type: ignore[no-untyped-def]
    """Add a tile's negative pairs to an even histogram of the cosine minus one from ``-span`` to 0."""
    last = np.float32(len(histogram) - 1)
    scale = last / span
    rows, columns = tile.shape
    for row in range(rows):
        own, role, half_item = later[top + row], roles[top + row], half[top + row]
        for column in range(columns):
            there = roles[left + column]
            if own != later[left + column] and ((role & 1 and there & 2) or (there & 1 and role & 2)):
                value = tile[row, column] - half_item - half[left + column]
                histogram[int(min(max(value * scale + last, np.float32(0)), last))] += 1


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _cosine_minus_one(rows, half, first, second):  # type: ignore[no-untyped-def]
    """Cosine minus one of two float32 rows, calculated in float64, the terms of the product added in any order."""
    total = 0.0
    for k in range(rows.shape[1]):
        total += np.float64(rows[first, k]) * np.float64(rows[second, k])
    return total - half[first] - half[second]


@njit(nogil=True, cache=True)
def cosine_minus_one(rows, half, pairs, out):  # type: ignore[no-untyped-def]
    """Cosine minus one of the two float32 rows of each pair, calculated in float64."""
    for entry in range(len(pairs)):
        out[entry] = _cosine_minus_one(rows, half, pairs[entry, 0], pairs[entry, 1])


@njit(nogil=True, cache=True, fastmath={"reassoc"})
def exact_products(rows, pairs, coarse, fine, out):  # type: ignore[no-untyped-def]
    """Product of the two float64 rows of each pair as `cosine` beside this module defines it: exact in any order."""
    for entry in range(len(pairs)):
        first, second = pairs[entry, 0], pairs[entry, 1]
        high, cross = 0.0, 0.0
        for k in range(rows.shape[1]):
            a, b = rows[first, k], rows[second, k]
            coarse_a, coarse_b = np.rint(a * coarse) / coarse, np.rint(b * coarse) / coarse
            fine_a, fine_b = np.rint((a - coarse_a) * fine) / fine, np.rint((b - coarse_b) * fine) / fine
            high += coarse_a * coarse_b
            cross += coarse_a * fine_b + fine_a * coarse_b
        out[entry] = high + cross


@njit(nogil=True, cache=True)
def settle(  # type: ignore[no-untyped-def]
    rows,  # float32 (items, dim)
    half,  # float64 (items,)
    group_of,  # of `tcm_bench.evaluation.counting.kernels.Rows`
    top,  # the strip that the pairs are of
    stored,  # int32 (entries,): see `column_bits`
    values,
    edges,  # of the intervals of single precision around the known thresholds, as `cells` returns them
    passed,  # thresholds below a pair above so many of these intervals
    fine_edges,  # float64: the same for a double-precision product of single-precision rows
    fine_passed,
    histogram,  # int64 (groups, thresholds + 1): counted in place
    left_over,  # int32 (entries + 1, 2): pairs that only the exact cosine can tell
):
    """Count stored pairs by the thresholds below their cosine; return the number that is left over."""
    doubtful, shift = 0, column_bits(len(half))
    columns = (np.uint64(1) << shift) - np.uint64(1)
    for entry in range(len(stored)):
        pair = np.uint64(stored[entry])
        first, second = np.uint64(top) + (pair >> shift), pair & columns
        found = place(values[entry], edges)
        bucket, inside = np.uint64(passed[np.uint64(found >> 1)]), found & 1
        histogram[np.uint64(group_of[first]), bucket] += 1 - inside
        histogram[np.uint64(group_of[second]), bucket] += 1 - inside
        left_over[doubtful, 0], left_over[doubtful, 1] = first, second
        doubtful += inside
    count = 0
    for entry in range(doubtful):
        first, second = left_over[entry, 0], left_over[entry, 1]
        found = np.searchsorted(fine_edges, _cosine_minus_one(rows, half, first, second), side="right")
        if found & 1:
            left_over[count, 0], left_over[count, 1] = first, second
            count += 1
        else:
            histogram[group_of[first], fine_passed[found >> 1]] += 1
            histogram[group_of[second], fine_passed[found >> 1]] += 1
    return count


@njit(nogil=True, cache=True)
def between(values, low, high, entries):  # type: ignore[no-untyped-def]
    """Write down which values lie from ``low`` to ``high``; return how many lie above it, and how many between."""
    above, inside = 0, 0
    for entry in range(len(values)):
        entries[inside] = entry
        inside += (values[entry] >= low) & (values[entry] <= high)
        above += values[entry] > high
    return above, inside
