"""A memory of 10^3 to 10^7 entries, written while it is read, beside searches that do not change and brute force. One thread.

    OMP_NUM_THREADS=1 python benchmarks/memory_scale.py [--sizes 1e3 1e4 1e5 1e6 1e7] [--headings] [--json FILE]

Places are drawn evenly, one a unit of ground; K = 5. "forest" is the search of a `SpatialMemory`, grown by one entry between any two of
its queries; the others are built once, over as many entries, and asked the same queries in turn with it. All times are the processor's,
so that other work on the machine counts for nothing: of building and inserting, per entry, threads included (inserting over as many
entries as it takes for the largest tree to be built anew once); of queries that of the calling thread, medians with quartiles. The longest
insertion with its query is told by the clock too, beside the longest gap in a loop that does nothing, which says how busy the machine is.
"memory" is a `SpatialMemory` with encodings of 16 dimensions that is filled in parts and read between them: its resident bytes over those
of its arrays, at the end and at most. faiss needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pykdtree.kdtree import KDTree
from scipy.spatial import cKDTree

from gtmsm_env.forest import BUFFER, RATIO, Floats, Forest
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.neighbours import search_all
from gtmsm_env.report import Cell, check_writable, table, write_json
from gtmsm_env.types import phi

K, MANY, D = 5, 1024, 16
LINKS, BREADTH = 32, 64  # of HNSW: links of a node, and how many candidates a search holds
STATIC, BRUTE, HNSW = "pykdtree, static", ("torch, brute force", "faiss, exact"), "faiss, HNSW"
Query = Callable[[Floats], Any]  # (Q, n) -> whatever holds the indices


def draw(count: int, span: float, headings: bool, random: np.random.Generator) -> Floats:
    """Places on a square of this side, with headings or without: (count, 2 or 3)."""
    s = random.random((count, 3 if headings else 2), dtype=np.float32)
    s[:, :2] *= span
    s[:, 2:] *= 2 * np.pi
    return s


def lifted(s: Floats) -> Floats:
    keys: Floats = phi(torch.from_numpy(s)).numpy()
    return keys


def resident() -> int:
    """Bytes that this process holds in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def seconds(call: Callable[[], object]) -> float:
    """Processor time of this thread."""
    began = thread_time()
    call()
    return thread_time() - began


def torch_query(keys: Floats) -> Query:
    stored, count = torch.from_numpy(keys)[None], torch.tensor([len(keys)])
    return lambda query: search_all(torch.from_numpy(query)[None], stored, count, K)[0].numpy()


def faiss_query(index: Any, keys: Floats) -> Query:
    index.add(keys)
    return lambda query: index.search(query, K)[1]


def peers(keys: Floats, args: argparse.Namespace) -> dict[str, Callable[[], Query]]:
    """What builds each search that does not change, by name."""

    def of_pykdtree() -> Query:
        tree = KDTree(keys)
        return lambda query: tree.query(query, k=K)[1]

    def of_scipy() -> Query:
        tree = cKDTree(keys)
        return lambda query: tree.query(query, k=K)[1]

    found: dict[str, Callable[[], Query]] = {STATIC: of_pykdtree, "SciPy's cKDTree, static": of_scipy}
    if len(keys) <= args.brute_to:
        found[BRUTE[0]] = lambda: torch_query(keys)
    if find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)
        if len(keys) <= args.brute_to:
            found[BRUTE[1]] = lambda: faiss_query(faiss.IndexFlatL2(keys.shape[1]), keys)
        if len(keys) <= args.hnsw_to:
            index = faiss.IndexHNSWFlat(keys.shape[1], LINKS)
            index.hnsw.efSearch = BREADTH
            found[HNSW] = lambda: faiss_query(index, keys)
    return found


class Arriving:
    """A forest over the first `count` of some states, which grows by one before each query."""

    def __init__(self, states: Floats, count: int) -> None:
        self.states, self.count, self.forest = states, count, Forest(phi).grown(states[:count])

    def insert(self) -> None:
        self.count += 1
        self.forest = self.forest.grown(self.states[: self.count])

    def query(self, query: Floats) -> NDArray[np.int64]:
        return self.forest.nearest(query, self.states[: self.count], K)


def quartiles(times: list[float], unit: float) -> list[float] | None:
    return [unit * float(x) for x in np.percentile(times, [25, 50, 75])] if times else None


def measure(count: int, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Figures of one size, by name of the search."""
    random, span = np.random.default_rng(args.seed), float(np.sqrt(count))
    states = draw(count + args.queries + 10 * args.batches + max(BUFFER, count // RATIO), span, args.headings, random)
    keys = lifted(states[:count]).copy()
    single = [lifted(draw(1, span, args.headings, random)) for _ in range(args.queries)]
    batches = [lifted(draw(MANY, span, args.headings, random)) for _ in range(args.batches)]
    figures: dict[str, dict[str, Any]] = {}
    arriving: list[Arriving] = []

    def forest() -> Query:
        arriving.append(Arriving(states, count))
        return arriving[0].query

    asked: dict[str, Query] = {}
    for name, build in {"forest": forest, **peers(keys, args)}.items():
        before, began = resident(), process_time()
        asked[name] = build()
        figures[name] = {"build_us": 1e6 * (process_time() - began) / count, "bytes": (resident() - before) / count}
    for unit, queries, arrive in (("one_us", single, 1), ("many_ms", batches, 10)):
        times: dict[str, list[float]] = {name: [] for name in asked}
        for query in queries:  # each search in turn, so that all meet the same machine
            for _ in range(arrive):
                arriving[0].insert()
            for name, ask in asked.items():
                if name not in BRUTE or len(times[name]) < (5 if unit == "one_us" else 2 if count <= 1e4 else 0):
                    times[name].append(seconds(partial(ask, query)))
        for name, taken in times.items():
            figures[name][unit] = quartiles(taken, 1e6 if unit == "one_us" else 1e3)
    if HNSW in asked:
        exact, given = (np.concatenate([asked[name](query) for query in batches]).astype(np.int64) for name in (STATIC, HNSW))
        figures[HNSW]["recall"] = float((given[:, :, None] == exact[:, None]).any(axis=1).mean())
    asked.clear()
    figures["forest"] |= insertions(arriving[0], single)
    return figures


def insertions(arriving: Arriving, queries: list[Floats]) -> dict[str, float]:
    """Of one entry after another: processor time of each, threads included, and the longest that one and a query took."""
    entries, stalls, asking, began = len(arriving.states) - arriving.count, [], 0.0, process_time()
    for i in range(entries):
        clock, own = perf_counter(), thread_time()
        arriving.insert()
        if i % 16 == 0:
            asking += seconds(partial(arriving.query, queries[i // 16 % len(queries)]))
        stalls.append((perf_counter() - clock, thread_time() - own))
    if arriving.forest.rebuild is not None:
        arriving.forest.rebuild.result()
    spent, gaps, last = process_time() - began - asking, [0.0], perf_counter()
    for _ in range(1_000_000):
        now = perf_counter()
        gaps.append(now - last)
        last = now
    clock_stall, own_stall = (max(x) for x in zip(*stalls, strict=True))
    return {
        "insert_us": 1e6 * spent / entries,
        "stall_ms": 1e3 * clock_stall,
        "stall_own_ms": 1e3 * own_stall,
        "idle_gap_ms": 1e3 * max(gaps),
    }


@torch.no_grad()
def measure_memory(count: int, args: argparse.Namespace) -> dict[str, Any]:
    """A `SpatialMemory` that is filled in 50 parts and read after each, then written and read one entry at a time."""
    random, span, part = np.random.default_rng(args.seed), float(np.sqrt(count)), count // 50
    n = 3 if args.headings else 2
    s, z = (torch.empty(0, size) for size in (n, D))
    memory, raw = SpatialMemory(s, s, {"z_mean": z, "z_variance": z}), 4 * 2 * (n + D)
    z = torch.from_numpy(random.random((part, D), dtype=np.float32))
    before = most = resident()
    for _ in range(50):
        s = torch.from_numpy(draw(part, span, args.headings, random))
        memory = memory.extend(s, s, z_mean=z, z_variance=z)
        memory.nearest(s[:1], K)
        most = max(most, resident())
    now = resident()
    writes, reads, stalls = [], [], []
    for i in range(args.queries):
        own = thread_time()

        def write(i: int = i) -> None:
            nonlocal memory
            memory = memory.write(s[i % part], s[i % part], z_mean=z[0], z_variance=z[0])

        writes.append(seconds(write))
        reads.append(seconds(partial(memory.nearest, s[i % part, None] + 0.3, K)))
        stalls.append(thread_time() - own)
    return {
        "resident": (now - before) / (raw * count),
        "most": (most - before) / (raw * count),
        "write_us": quartiles(writes, 1e6),
        "nearest_us": quartiles(reads, 1e6),
        "stall_own_ms": 1e3 * max(stalls),
    }


def shown(of: list[float] | None) -> Cell:
    """A median and its quartiles."""
    return None if of is None else f"{of[1]:,.4g} ({of[0]:,.4g} to {of[2]:,.4g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e3, 1e4, 1e5, 1e6, 1e7], metavar="N")
    parser.add_argument("--headings", action="store_true", help="poses instead of places")
    parser.add_argument("--queries", type=int, default=500, metavar="N", help="single queries of each search")
    parser.add_argument("--batches", type=int, default=20, metavar="N", help=f"queries of {MANY} at once")
    parser.add_argument("--brute-to", type=float, default=1e6, metavar="N", help="the largest size that is searched by brute force")
    parser.add_argument("--hnsw-to", type=float, default=1e5, metavar="N", help="the largest size of which HNSW is built: minutes at 10^6")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args()
    check_writable(args.json)
    torch.set_num_threads(1)
    if not find_spec("faiss"):
        print("faiss is not installed and left out: pip install 'gtmsm-env[bench]'")
    figures: dict[str, Any] = {}
    for count in map(int, args.sizes):
        of_size = {"searches": measure(count, args), "memory": measure_memory(count, args)}
        figures[str(count)] = of_size
        static, forest, memory = of_size["searches"][STATIC], of_size["searches"]["forest"], of_size["memory"]
        rows = [
            [
                name,
                of["build_us"],
                of["bytes"] if count >= 1e5 else None,
                shown(of["one_us"]),
                of["one_us"][1] / static["one_us"][1] if of["one_us"] else None,
                shown(of["many_ms"]),
                of["many_ms"][1] / static["many_ms"][1] if of["many_ms"] else None,
                of.get("recall"),
            ]
            for name, of in of_size["searches"].items()
        ]
        columns = ["", "build, us an entry", "bytes an entry", "one, us", "ratio", f"{MANY}, ms", "ratio", "recall"]
        print(table(columns, rows, f"{count:,} entries"))
        print(
            f"forest: {forest['insert_us']:.2f} us to insert an entry; longest insertion with query {forest['stall_ms']:.1f} ms by clock "
            f"and {forest['stall_own_ms']:.1f} of the processor (a loop that does nothing: {forest['idle_gap_ms']:.1f} ms)\n"
            f"memory: {memory['resident']:.2f} times its arrays, {memory['most']:.2f} at most; write {shown(memory['write_us'])} us, "
            f"nearest {shown(memory['nearest_us'])} us; longest of both {memory['stall_own_ms']:.1f} ms of the processor\n",
            flush=True,
        )
    if args.json:
        write_json(args.json, figures, args.seed)


if __name__ == "__main__":
    main()
