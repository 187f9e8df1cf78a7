"""Near-duplicates found against the exact truth, on labelled sets: tamis, datasketch, datatrove and text-dedup.

The truth is by brute force: all pairs of documents whose sets of word 5-grams have a Jaccard similarity of at least t,
and the clusters that they make. tamis, datasketch and the truth have the same words (peers/shingles.py); datatrove and
text-dedup cut their own. All give clusters, and a pair counts as found if both are in one.

    python benchmarks/dedup_quality.py --peers ../peers
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pool import SHARED, need_shared, table
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from whole import PEERS, cores, peer

sys.path.append(str(Path(__file__).with_name("peers")))
from shingles import shingles

DUPS = SHARED / "dups"
THRESHOLDS = (0.5, 0.7, 0.8)
BANDS, ROWS = 14, 8
HASHES = 240  # text-dedup's example; the bands follow from the threshold
SEEDS = (1, 2, 3, 4, 5)  # of datasketch; 1 is its default, the only one where no seed is told
SURE = "bands: 200, rows_per_band: 4"  # 1 - (1 - .5^4)^200: all but three of a million pairs of similarity .5 meet
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Documents, what people say of them, and the exact similarities.

    judged : (place, place, whether people call them versions of one text). groups : int64, (n), the page of each.
    kinds : of the judged pairs, where there are any. near : (n, n), similarities of at least .5, 0 for lower ones.
    judged_at : the threshold at which the judged pairs are looked at.
    """

    name: str
    ids: Sequence[str]
    texts: Sequence[str]
    judged: Sequence[tuple[int, int, bool]] = ()
    groups: Labels | None = None
    kinds: Sequence[str] = ()
    judged_at: float = 0.5
    near: csr_matrix | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=PEERS)
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    arguments = parser.parse_args()
    need_shared()
    for name in arguments.sets:
        documents = SETS[name]()
        with tempfile.TemporaryDirectory() as folder:
            _judge(documents, Path(folder), arguments.peers)


# ---- the sets ----


def _pages() -> Labelled:
    rows = pq.read_table(DUPS / "docs_revisions.parquet").to_pydict()
    place = {name: number for number, name in enumerate(rows["doc_id"])}
    _, groups = np.unique(rows["cluster_id"], return_inverse=True)
    pairs = _lines("docs_revisions_pairs")
    judged = [(place[pair["a"]], place[pair["b"]], bool(pair["label"])) for pair in pairs]
    documents = _with_truth(Labelled("docs_revisions", rows["doc_id"], rows["text"], judged, groups, judged_at=0.7))
    told = np.array([pair["jaccard_w5"] for pair in pairs])
    ours = np.asarray(documents.near[[a for a, _, _ in judged], [b for _, b, _ in judged]]).ravel()
    assert np.abs(ours - told)[told >= 0.5001].max() < 1e-4, "the similarities in the data are not ours"
    return documents


def _sentences() -> Labelled:
    pairs = _lines("mrpc_pairs")
    ids = [f"{pair['id']}/{side}" for pair in pairs for side in "ab"]
    texts = [pair[side] for pair in pairs for side in "ab"]
    judged = [(2 * number, 2 * number + 1, bool(pair["label"])) for number, pair in enumerate(pairs)]
    return _with_truth(Labelled("mrpc_pairs", ids, texts, judged))


def _answers() -> Labelled:
    rows = _lines("plagiarised_short_answers")
    place = {row["id"]: number for number, row in enumerate(rows)}
    judged, kinds = [], []
    for number, row in enumerate(rows):
        if row["source_id"] is not None:
            judged.append((number, place[row["source_id"]], row["category"] in ("cut", "light", "heavy")))
            kinds.append(row["category"])
    ids, texts = [row["id"] for row in rows], [row["text"] for row in rows]
    return _with_truth(Labelled("plagiarised_short_answers", ids, texts, judged, kinds=kinds))


SETS = {"pages": _pages, "sentences": _sentences, "answers": _answers}


def _lines(name: str) -> list[dict]:
    with gzip.open(DUPS / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def _with_truth(documents: Labelled) -> Labelled:
    """The same with the similarity of every pair that has one of at least the lowest threshold."""
    numbers: dict[str, int] = {}
    sets = [sorted({numbers.setdefault(one, len(numbers)) for one in shingles(text)}) for text in documents.texts]
    sizes = np.array([len(found) for found in sets])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    held = csr_matrix((np.ones(starts[-1], np.int32), np.concatenate(sets), starts), (len(sets), len(numbers)))
    common = (held @ held.T).tocoo()
    similarity = common.data / (sizes[common.row] + sizes[common.col] - common.data)
    kept = (similarity >= min(THRESHOLDS)) & (common.row != common.col)
    near = csr_matrix((similarity[kept], (common.row[kept], common.col[kept])), common.shape)
    return replace(documents, near=near)


def clusters_of(documents: Labelled, threshold: float) -> Labels:
    """The cluster of each document by brute force: int64, (n)."""
    linked = documents.near >= threshold
    return connected_components(linked, directed=False)[1].astype(np.int64)


# ---- figures ----


@dataclass(frozen=True)
class Agreement:
    """How a partition agrees with the true one, over all pairs of documents."""

    precision: float
    recall: float
    f1: float
    rand: float  # adjusted; Hubert and Arabie 1985


def agreement(found: Labels, truth: Labels) -> Agreement:
    _, together = np.unique(np.stack([found, truth]), axis=1, return_counts=True)
    both, ours, theirs = (
        float((counts * (counts - 1) // 2).sum()) for counts in (together, np.bincount(found), np.bincount(truth))
    )
    chance = ours * theirs / (len(found) * (len(found) - 1) / 2)
    most = (ours + theirs) / 2
    rand = 1.0 if most == chance else (both - chance) / (most - chance)
    return Agreement(*_scores(both, ours, theirs), rand)


def _scores(both: float, ours: float, theirs: float) -> tuple[float, float, float]:
    precision = both / ours if ours else 1.0
    recall = both / theirs if theirs else 1.0
    return precision, recall, 2 * both / (ours + theirs) if ours + theirs else 1.0


# ---- contenders ----


def _judge(documents: Labelled, root: Path, peers: Path) -> None:
    """Prints the tables of one set."""
    (root / "in").mkdir()
    pq.write_table(pa.table({"id": documents.ids, "text": documents.texts}), root / "in" / "documents.parquet")
    fixed = dict(_same_for_all(documents, root, peers))
    for threshold in THRESHOLDS:
        truth = clusters_of(documents, threshold)
        found = {**fixed, **dict(_at(documents, root, peers, threshold))}
        _print_clusters(documents, threshold, truth, found)
        if threshold == documents.judged_at:
            _print_judged(documents, threshold, found)


def _same_for_all(documents: Labelled, root: Path, peers: Path) -> Iterator[tuple[str, Labels]]:
    """Those that know no threshold: 14 bands of 8, unverified."""
    split = f"{BANDS} × {ROWS}"
    yield f"tamis, {split}", _tamis(documents, root, f"bands: {BANDS}, rows_per_band: {ROWS}")
    options = ("--bands", BANDS, "--rows", ROWS)
    for seed in SEEDS:  # what luck with the hash functions does
        yield from _peer(documents, root, peers, "datasketch", f"{split}, seed {seed}", *options, "--seed", seed)
    yield from _peer(documents, root, peers, "datatrove", split, *options)


def _at(documents: Labelled, root: Path, peers: Path, threshold: float) -> Iterator[tuple[str, Labels]]:
    from tamis.kernels.lsh import bands_for

    fixed = f"bands: {BANDS}, rows_per_band: {ROWS}, threshold: {threshold}"
    for verify in ("signature", "exact"):
        name = f"tamis, {BANDS} × {ROWS}, verified by {verify}"
        yield name, _tamis(documents, root, f"{fixed}, verify: {verify}")
    bands, rows = bands_for(threshold, HASHES)
    best = f"threshold: {threshold}, num_perm: {HASHES}"
    yield f"tamis, {bands} × {rows}", _tamis(documents, root, best)
    yield f"tamis, {bands} × {rows}, verified by exact", _tamis(documents, root, f"{best}, verify: exact")
    yield from _peer(documents, root, peers, "datasketch", f"{bands} × {rows}", "--bands", bands, "--rows", rows)
    options = ("--threshold", threshold, "--hashes", HASHES)
    yield from _peer(documents, root, peers, "textdedup", f"{bands} × {rows}", *options)
    yield from _peer(documents, root, peers, "textdedup", f"{bands} × {rows}, verified", *options, "--verify")
    sure = f"{SURE}, threshold: {threshold}, verify: exact"
    yield "tamis, 200 × 4, verified by exact: as good as all pairs", _tamis(documents, root, sure)


def _tamis(documents: Labelled, root: Path, options: str) -> Labels:
    import tamis

    folder = Path(tempfile.mkdtemp(dir=root))
    path = folder / "stages.yaml"
    path.write_text(
        f"corpus: {{paths: '{root}/in/*.parquet'}}\nout: {folder}/run\nseed: 17\nstages:\n"
        f"  - deduplicate: {{by: {{minhash: {{{options}, canaries: 0, warn_removed: null}}}}}}\n"
    )
    rows = tamis.run(path, serial=True, quiet=True).table(["doc_id", "minhash_cluster"]).to_pydict()
    return _labels(documents, dict(zip(rows["doc_id"], rows["minhash_cluster"], strict=True)))


def _peer(
    documents: Labelled, root: Path, peers: Path, name: str, what: str, *options: object
) -> Iterator[tuple[str, Labels]]:
    """Its name with version, and its clusters; nothing where it is not installed."""
    folder = Path(tempfile.mkdtemp(dir=root))
    work = () if name == "datasketch" else ("--work", folder / "work")
    source = root / "in" if name == "datatrove" else root / "in" / "documents.parquet"
    found = folder / "clusters.parquet"
    figures = peer(peers, name, *options, *work, "--clusters", found, source, on=cores(1))
    if figures is not None:
        rows = pq.read_table(found).to_pydict()
        clusters = dict(zip(rows["id"], rows["cluster"], strict=True))
        assert name != "textdedup" or what.startswith("{} × {}".format(*figures["bands_rows"])), figures
        yield f"{name.replace('textd', 'text-d')} {figures['version']}, {what}", _labels(documents, clusters)


def _labels(documents: Labelled, clusters: Mapping[str, object]) -> Labels:
    """Clusters numbered from 0, a document outside any in one of its own: int64, (n)."""
    found = [clusters.get(name) for name in documents.ids]
    names = [f"in {cluster}" if cluster is not None else f"alone {number}" for number, cluster in enumerate(found)]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


# ---- tables ----


def _print_clusters(documents: Labelled, threshold: float, truth: Labels, found: Mapping[str, Labels]) -> None:
    rows = []
    for name, labels in {"truth: all pairs compared": truth, **found}.items():
        against = agreement(labels, truth)
        row = [name, len(labels) - len(np.unique(labels)), *_cells(against.precision, against.recall, against.f1)]
        row += _cells(against.rand)
        if documents.groups is not None:
            row += _cells(agreement(labels, documents.groups).rand)
        rows.append(row)
    header = ["", "duplicates", "precision", "recall", "F1", "ARI"]
    header += ["ARI to the pages"] if documents.groups is not None else []
    size = f"{len(documents.ids):,} documents"
    table(f"{documents.name}: {size}, clusters of pairs with similarity of {threshold} or more", header, rows)


def _print_judged(documents: Labelled, threshold: float, found: Mapping[str, Labels]) -> None:
    """By the pairs that come with the set: against their similarity, and against what people say."""
    first, last = (np.array([pair[side] for pair in documents.judged]) for side in (0, 1))
    similar = np.asarray(documents.near[first, last]).ravel() >= threshold
    human = np.array([pair[2] for pair in documents.judged])
    kinds = sorted(set(documents.kinds))
    rows = []
    for name, labels in {f"truth: similarity of {threshold} or more": None, **found}.items():
        hit = similar if labels is None else labels[first] == labels[last]
        row = [name, int(hit.sum())]
        for truth in (similar, human):
            row += _cells(*_scores(*(float(part.sum()) for part in (hit & truth, hit, truth))))
        row += [f"{hit[[kind == each for each in documents.kinds]].mean():.2f}" for kind in kinds]
        rows.append(row)
    header = ["", "found", "precision", "recall", "F1", "precision, human", "recall, human", "F1, human"]
    counts = {kind: sum(kind == each for each in documents.kinds) for kind in kinds}
    header += [f"{kind}, of {counts[kind]}" for kind in kinds]
    table(
        f"{documents.name}: the {len(first):,} pairs that come with it, similarity of {threshold} or more", header, rows
    )


def _cells(*values: float) -> list[str]:
    return [f"{value:.3f}" for value in values]


if __name__ == "__main__":
    main()
