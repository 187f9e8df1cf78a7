"""Connected components: a forest that holds the same as any number of edges, and merges with other forests."""

from typing import NamedTuple

import numpy as np

from tamis.kernels.arrow import Int64, UInt64
from tamis.kernels.bits import mix
from tamis.kernels.kernel import kernel


class Forest(NamedTuple):
    """c nodes in trees of depth one: node, root : uint64, (c), sorted by node; a root is the least of its tree."""

    node: UInt64
    root: UInt64


def forest_of(first: UInt64, last: UInt64) -> Forest:
    """The components of the graph with these edges: uint64, (e) each. Nodes without an edge are not in it.

    Two forests merge as edges: `forest_of(concat nodes, concat roots)`.
    Source: Tarjan 1975, union-find; path halving after Tarjan and van Leeuwen 1984.
    """
    node, root = _forest_of(np.ascontiguousarray(first), np.ascontiguousarray(last))
    order = np.argsort(node)
    return Forest(node[order], root[order])


@kernel
def _place(table: Int64, node: UInt64, key: np.uint64) -> int:
    """The slot of `table` (numbers of nodes, -1 where free) that holds `key`, or the free one where it belongs."""
    mask = len(table) - 1
    at = np.int64(mix(key)) & mask
    while table[at] >= 0 and node[table[at]] != key:
        at = (at + 1) & mask
    return at  # type: ignore[return-value]


@kernel
def _top(parent: Int64, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@kernel
def _forest_of(first: UInt64, last: UInt64) -> tuple[UInt64, UInt64]:
    capacity = 1024
    node, parent = np.empty(capacity, np.uint64), np.empty(capacity, np.int64)
    table = np.full(4 * capacity, -1, np.int64)
    count = 0
    for e in range(len(first)):
        if count + 2 > capacity:
            capacity *= 2
            node = np.concatenate((node, np.empty(len(node), np.uint64)))
            parent = np.concatenate((parent, np.empty(len(parent), np.int64)))
            table = np.full(4 * capacity, -1, np.int64)
            for i in range(count):
                table[_place(table, node, node[i])] = i
        ends = (first[e], last[e])
        one = other = 0
        for side in range(2):
            at = _place(table, node, ends[side])
            if table[at] < 0:
                table[at] = count
                node[count] = ends[side]
                parent[count] = count
                count += 1
            if side == 0:
                one = table[at]
            else:
                other = table[at]
        one, other = _top(parent, one), _top(parent, other)
        if node[one] < node[other]:
            parent[other] = one
        else:
            parent[one] = other
    root = np.empty(count, np.uint64)
    for i in range(count):
        root[i] = node[_top(parent, i)]
    return node[:count], root


def labels_of(forest: Forest, rows: UInt64) -> tuple[Int64, UInt64]:
    """(places, roots) of those of the rows that are in the forest: int64 and uint64, (m) each. rows : uint64, (n)."""
    at = np.searchsorted(forest.node, rows)
    at[at == len(forest.node)] = 0
    places = np.flatnonzero(forest.node[at] == rows) if len(forest.node) else np.zeros(0, np.int64)
    return places, forest.root[at[places]] if len(places) else np.zeros(0, np.uint64)
