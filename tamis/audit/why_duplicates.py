"""What `tamis why` says of duplicates: the other document beside this one, and passages with where they stay."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from tamis.audit.duplicates import Duplicates, Relative
from tamis.audit.losses import SOUGHT, Losses, Struck
from tamis.audit.passages import Comparison, Part, compared
from tamis.audit.sql import one_line

TOLD_OF_CLUSTERS = ("duplicate", "kept_by", "cluster", "size", "similarity", "nearest")  # columns told in sentences
EXACT = "exact"  # whose clusters have the same words, and no similarity worth a number
TEXT_WIDTH = 240
EDGE = 8  # words shown at each end of a long common run
FIRST, LAST = 40, 10  # words shown of a long passage that only one has
CHANGES = 30  # lines of differences
SHARE = 0.5  # of the longer text, in common: with less, common passages say more than differences
PASSAGES = 5
LEAST_PASSAGE = 3  # words


def duplicate_lines(entry: Duplicates, width: int, before: dict[str, str]) -> Iterator[str]:
    """What a deduplicator says of a document. before: documents that were compared with it, and above which stage."""
    if entry.size <= 1:
        yield "  no duplicates"
        yield from _nearest(entry)
        return
    cluster = f"cluster {entry.cluster} of {entry.size:,} documents"
    if entry.kept_by is None:
        yield f"  it stays, for {cluster}"
        yield from _members(entry, width)
        return
    yield f"  duplicate: {one_line(entry.kept_by)} stays instead, for {cluster}"
    yield from _nearest(entry)
    if not entry.relatives:  # a run whose documents have changed
        return
    survivor = entry.relatives[0]
    yield from _similarity(entry, survivor)
    if before.setdefault(survivor.doc_id, entry.stage) != entry.stage:
        yield f"  the two texts are compared above, at {before[survivor.doc_id]}"
    else:
        yield from _comparison(survivor.text or "", entry.text or "", width)


def _nearest(entry: Duplicates) -> Iterator[str]:
    """The similarity that the run has noted."""
    if entry.stored is None or entry.component == EXACT:
        return
    if entry.nearest is not None:
        yield f"  stored similarity {entry.stored:.4f}, to {one_line(entry.nearest)}"
    else:
        yield f"  stored similarity {entry.stored:.4f}, the highest with another of the cluster that was confirmed"


def _similarity(entry: Duplicates, survivor: Relative) -> Iterator[str]:
    if survivor.similarity is None or entry.component == EXACT:
        return
    yield f"  {entry.measure.name} of the two: {survivor.similarity:.4f}"
    if survivor.is_chained:
        yield f"  {entry.measure.told(survivor.similarity)}"


def _members(entry: Duplicates, width: int) -> Iterator[str]:
    yield "  the same words as in:" if entry.component == EXACT else f"  {entry.measure.name} with this one:"
    for other in entry.relatives:
        chained = "  (through others)" if other.is_chained else ""
        number = (
            "" if entry.component == EXACT else "–       " if other.similarity is None else f"{other.similarity:.4f}  "
        )
        yield f"    {number}{one_line(other.doc_id)}{chained}"
        yield f"    {' ' * len(number)}{quoted_text(other.text, width - 6 - len(number))}"
    more = entry.size - 1 - len(entry.relatives)
    if more > 0:
        column = f"{entry.stage}_cluster"
        yield f"    and {more:,} more: tamis sql RUN 'select doc_id from documents where {column} = {entry.cluster}'"  # noqa: S608


# ---- two texts ----


def _comparison(survivor: str, own: str, width: int) -> Iterator[str]:
    """The survivor's text and this one's, word by word: "-" only in the one that stays, "+" only in this one."""
    if survivor == own:
        yield "  the two texts are identical, byte for byte"
        yield f"    = {quoted_text(own, width - 6)}"
        return
    found = compared(survivor, own)
    counts = f"{found.common:,} words in common, {found.only_one:,} only in the one that stays (-)"
    yield f"  word by word: {counts}, {found.only_other:,} only in this one (+)"
    if any(found.uncompared):
        yield f"  ({sum(found.uncompared):,} words in the middle of the two were too many to compare)"
    if found.share >= SHARE:
        yield from _differences(found, width)
    else:
        yield from _common(found, width)


def _differences(found: Comparison, width: int) -> Iterator[str]:
    shown = 0
    for i, part in enumerate(found.parts):
        if shown == CHANGES:
            rest = sum(part.sign != "=" for part in found.parts[i:])
            if rest:
                yield f"    … and {rest:,} more differences"
            return
        shown += part.sign != "="
        text = _elided(part, is_first=i == 0, is_last=i == len(found.parts) - 1)
        yield from _wrapped(f"    {part.sign} ", text, width)


def _elided(part: Part, *, is_first: bool, is_last: bool) -> str:
    """The words of a part, without the middle of a long one."""
    first, last = (0 if is_first else EDGE, 0 if is_last else EDGE) if part.sign == "=" else (FIRST, LAST)
    left_out = len(part.words) - first - last
    if left_out < LEAST_PASSAGE:
        return " ".join(part.words)
    equal = " equal" if part.sign == "=" else ""
    return " ".join([*part.words[:first], f"[… {left_out:,} words{equal} …]", *part.words[len(part.words) - last :]])


def _common(found: Comparison, width: int) -> Iterator[str]:
    """The longest passages that both have, where little else is alike."""
    passages = [part for part in found.longest if len(part.words) >= LEAST_PASSAGE]
    if not passages:
        yield f"    no {LEAST_PASSAGE} words in a row are the same"
        return
    yield "    the longest passages that both have:"
    for part in passages[:PASSAGES]:
        words = f"({len(part.words):,} words) "
        yield from _wrapped("    = ", words + _elided(Part("-", part.words), is_first=False, is_last=False), width)
    if len(passages) > PASSAGES:
        yield f"    … and {len(passages) - PASSAGES:,} shorter ones"


def _wrapped(sign: str, text: str, width: int) -> Iterator[str]:
    """The text on lines of at most `width` characters, the first with its sign."""
    lines = textwrap.wrap(one_line(text), max(20, width - len(sign)), break_on_hyphens=False) or [""]
    for i, line in enumerate(lines):
        yield (sign if i == 0 else " " * len(sign)) + line


# ---- passages ----


def loss_lines(losses: Losses, width: int) -> Iterator[str]:
    """What a deduplicator of passages strikes of a document."""
    if not losses.struck:
        yield "  nothing of it stays elsewhere"
        return
    verdict = "; too little is left, the whole document should go" if losses.duplicate else ""
    share = f"{losses.bytes:,} of {losses.n_bytes:,} bytes ({losses.bytes / max(1, losses.n_bytes):.1%})"
    count = "1 passage is" if len(losses.struck) == 1 else f"{len(losses.struck):,} passages are"
    yield f"  {count} struck, {share}{verdict}"
    for passage in losses.struck[:SOUGHT]:
        yield f"    bytes {passage.start:,}–{passage.end:,}, {_keeper(passage, losses)}"
        yield from _wrapped("    - ", _middle_left_out(passage.text), width)
    if len(losses.struck) > SOUGHT:
        yield f"    … and {len(losses.struck) - SOUGHT:,} more passages"
    yield from _remaining(losses.remains, losses, width)


def _keeper(passage: Struck, losses: Losses) -> str:
    if passage.keeper is None:
        if losses.is_searched:
            return "kept in pieces, or written differently"
        return f"not found in {losses.scanned / 1e6:,.0f} MB of text"
    what = "kept by" if passage.is_whole else "its beginning kept by"
    return f"{what} {one_line(passage.keeper)} at byte {passage.at:,}"


def _middle_left_out(text: str) -> str:
    return _elided(Part("-", text.split()), is_first=False, is_last=False)


def _remaining(remains: Sequence[str | int], losses: Losses, width: int) -> Iterator[str]:
    left = losses.n_bytes - losses.bytes
    if left <= 0:
        yield "  nothing remains"
        return
    yield f"  what remains, {left:,} bytes:"
    pieces = [
        f"[… {piece:,} bytes struck …]" if isinstance(piece, int) else _middle_left_out(piece) for piece in remains
    ]
    yield from _wrapped("    ", " ".join(pieces), width)
    if len(remains) > len(pieces):
        yield f"    … and {len(remains) - len(pieces):,} more pieces"


def quoted_text(text: str | None, width: int = TEXT_WIDTH) -> str:
    """The beginning of a text on one line, in quotation marks."""
    if text is None:
        return "missing"
    line = one_line(text)
    return f"“{line[:width]}{'…' if len(line) > width else ''}”"
