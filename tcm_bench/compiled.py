"""The inner loops over pairs, compiled by numba; they stand apart because nothing may wrap them.

Every function releases the interpreter's lock and touches only the arrays it is given, so threads run it
side by side, each with its own.
"""

import numpy as np
from numba import njit

CELLS = 4096

Array = np.ndarray


def cell_table(edges: Array) -> tuple[np.float32, np.float32, Array]:
    """Where the edges lie among even cells from the first to the last, to find a value's place without a search.

    Args:
        edges: float32 ``(edges,)``, increasing.

    Returns:
        ``floor``, cells per unit, and int32 ``(CELLS + 1,)``: the edges that lie in lower cells. All of these are at
        or below any value of the cell, because a value's cell never falls as the value grows.
    """
    if not len(edges):
        return np.float32(np.inf), np.float32(0), np.zeros(CELLS + 1, dtype=np.int32)
    floor = edges[0]
    scale = np.float32(CELLS) / max(edges[-1] - floor, np.float32(1e-6))
    cell = np.minimum(((edges - floor) * scale).astype(np.int64), CELLS)
    return floor, scale, np.searchsorted(cell, np.arange(CELLS + 1)).astype(np.int32)


@njit(nogil=True, cache=True)
def _place(value, floor, scale, table, edges):  # type: ignore[no-untyped-def]
    """Number of edges at or below ``value``, which is at least ``floor``."""
    place = table[min(int((value - floor) * scale), CELLS)]
    while place < len(edges) and value >= edges[place]:
        place += 1
    return place


@njit(nogil=True, cache=True)
def scan_tile(  # type: ignore[no-untyped-def]
    tile,  # float32 (rows, columns): cosines of rows `top ...` with rows `left ...`
    top,
    left,
    later,  # int32 (items,): first row of a later class
    class_of,  # int32 (items,)
    roles,  # int8 (items,): 1 a query, 2 in the gallery, 3 both
    edges,  # float32 (2 * zones,): each zone's two ends
    floor,
    scale,
    table,
    near,  # float32 (items,): above it a pair may lie before a query's nearest positive
    nearer,  # float32 (items,): above it, it certainly does
    enough,  # stop counting for a query at this many
    histogram,  # int64 (classes, zones + 1): counted in place
    ahead,  # int64 (items,): counted in place
    stored,  # int32 (capacity, 2): pairs inside a zone
    values,  # float32 (capacity,): their cosines
    doubtful,  # int32 (capacity, 2): query and item, between near and nearer
    filled,  # int64 (2,): entries of `stored` and of `doubtful` in use
    picked,  # int32 (columns,): scratch
    column_floor,  # float32 (columns,): scratch
):
    """Count every pair of two classes in a tile, each once: its column lies in a later class than its row."""
    rows, columns = tile.shape
    for column in range(columns):
        column_floor[column] = min(floor, near[left + column]) if ahead[left + column] < enough else floor
    for row in range(rows):
        item = top + row
        begin = later[item] - left
        if begin < 0:
            begin = 0
        searching = ahead[item] < enough
        row_floor = min(floor, near[item]) if searching else floor
        # Without a branch: most cosines are too small for anything, and which are not cannot be predicted.
        count = 0
        for column in range(begin, columns):
            value = tile[row, column]
            picked[count] = column
            count += (value >= row_floor) | (value >= column_floor[column])
        own = class_of[item]
        for entry in range(count):
            column = picked[entry]
            value = tile[row, column]
            other = left + column
            forward = roles[item] & 1 and roles[other] & 2
            backward = roles[other] & 1 and roles[item] & 2
            if value >= floor and (forward or backward):
                place = _place(value, floor, scale, table, edges)
                if place & 1:
                    stored[filled[0], 0] = item
                    stored[filled[0], 1] = other
                    values[filled[0]] = value
                    filled[0] += 1
                else:
                    histogram[own, place >> 1] += 1
                    histogram[class_of[other], place >> 1] += 1
            if value >= near[item] and searching and forward:
                if value > nearer[item]:
                    ahead[item] += 1
                else:
                    doubtful[filled[1], 0] = item
                    doubtful[filled[1], 1] = other
                    filled[1] += 1
            if value >= near[other] and ahead[other] < enough and backward:
                if value > nearer[other]:
                    ahead[other] += 1
                else:
                    doubtful[filled[1], 0] = other
                    doubtful[filled[1], 1] = item
                    filled[1] += 1


@njit(nogil=True, cache=True)
def sample_tile(tile, top, left, classes, roles, histogram):  # type: ignore[no-untyped-def]
    """Add the cosines of a tile's negative pairs to an even histogram of [-1, 1]; rows in any order."""
    half = np.float32(0.5 * (len(histogram) - 1))
    last = len(histogram) - 1
    rows, columns = tile.shape
    for row in range(rows):
        own, role = classes[top + row], roles[top + row]
        for column in range(columns):
            there = roles[left + column]
            if own != classes[left + column] and ((role & 1 and there & 2) or (there & 1 and role & 2)):
                histogram[min(max(int(tile[row, column] * half + half), 0), last)] += 1


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _product(rows, first, second):  # type: ignore[no-untyped-def]
    """Product of two float32 rows in float64, its terms added in any order."""
    total = 0.0
    for k in range(rows.shape[1]):
        total += np.float64(rows[first, k]) * np.float64(rows[second, k])
    return total


@njit(nogil=True, cache=True)
def products(rows, pairs, out):  # type: ignore[no-untyped-def]
    """Product of the two float32 rows of each pair in float64."""
    for entry in range(len(pairs)):
        out[entry] = _product(rows, pairs[entry, 0], pairs[entry, 1])


@njit(nogil=True, cache=True, fastmath={"reassoc"})
def exact_products(rows, pairs, coarse, fine, out):  # type: ignore[no-untyped-def]
    """Product of the two float64 rows of each pair, as `tcm_bench.functional.cosine` defines it: exact in any order."""
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
    class_of,
    stored,
    values,
    edges,  # of the zones of single precision around the known thresholds
    floor,
    scale,
    table,
    passed,  # thresholds below a cosine above so many of these zones
    fine_edges,  # the same for a double-precision product of single-precision rows
    fine_passed,
    histogram,  # int64 (classes, thresholds + 1): counted in place
    left_over,  # int32 (entries, 2): pairs that only the exact cosine can tell
):
    """Count stored pairs by the thresholds below their cosine; return the number that is left over."""
    count = 0
    for entry in range(len(stored)):
        first, second = stored[entry, 0], stored[entry, 1]
        place = _place(values[entry], floor, scale, table, edges) if values[entry] >= floor else 0
        bucket = passed[place >> 1]
        if place & 1:
            place = np.searchsorted(fine_edges, _product(rows, first, second), side="right")
            if place & 1:
                left_over[count, 0], left_over[count, 1] = first, second
                count += 1
                continue
            bucket = fine_passed[place >> 1]
        histogram[class_of[first], bucket] += 1
        histogram[class_of[second], bucket] += 1
    return count
