"""What losses after training on subsets say of scores that predicted them: rank correlations with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.models.lds import lds, lds_interval

QUERIES = 100  # documents of the target that are correlated one by one

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def judge_scores(
    predicted: Mapping[str, Float64], nats: Float64, tokens: Int64, level: float, seed: int
) -> dict[str, Any]:
    """Each score's rank correlation with minus the loss: over all of the target, and document by document.

    predicted : float64, (m) per score, what it predicts for m subsets. nats : float64, (m, seeds, documents).
    tokens : int64, (documents). A score is `reliable` if the interval over all of the target lies above 0.
    """
    losses = nats.sum(axis=-1) / tokens.sum()
    loss = losses.mean(axis=1)
    asked = np.flatnonzero(tokens)[:QUERIES]
    by_document = (nats.mean(axis=1)[:, asked] / tokens[asked]).T
    scores = {}
    for score, values in predicted.items():
        found = lds_interval(values, -loss, level, seed=seed)
        repeated = np.broadcast_to(values, by_document.shape)
        single = lds_interval(repeated, -by_document, level, seed=seed, resamples=500)
        scores[score] = {
            **found._asdict(),
            "reliable": found.low > 0,
            "by_document": {"documents": len(asked), **single._asdict()},
            "predicted": values.tolist(),
        }
    return {"level": level, "scores": scores, "nats_per_token": loss.tolist(), "agreement_of_seeds": _agreement(losses)}


def _agreement(losses: Float64) -> float | None:
    """The mean rank correlation of the losses of two seeds, over subsets; None where there is one seed.

    losses : float64, (subsets, seeds). What no score can beat by much: the rest is luck of the training.
    """
    pairs = list(combinations(range(losses.shape[1]), 2))
    return lds(losses.T[[a for a, _ in pairs]], losses.T[[b for _, b in pairs]]) if pairs else None


def told(found: Mapping[str, Any]) -> list[str]:
    """One line per score: what the interval allows to say."""
    over = f"over {found['subsets']} subsets of {found['tokens']:,} tokens"
    return [_sentence(score, verdict, over) for score, verdict in found["scores"].items()]


def refusals(found: Mapping[str, Any]) -> dict[str, str]:
    """Why a select stage should not use a score, and what to do: of each that is not reliable."""
    stage, said = found["stage"], {}
    for score, verdict in found["scores"].items():
        if not verdict["reliable"]:
            got = f"LDS {verdict['lds']:+.2f} [{verdict['low']:+.2f}, {verdict['high']:+.2f}]"
            said[score] = (
                f"expected one that predicts what training does, got {got} over {found['subsets']} subsets ({stage}); "
                f"give {stage} more `subsets:` or `tokens:`, compute the column with other options (for influence, "
                "other damping)"
            )
    return said


def _sentence(score: str, verdict: Mapping[str, Any], over: str) -> str:
    value = f"LDS {verdict['lds']:+.2f} [{verdict['low']:+.2f}, {verdict['high']:+.2f}]"
    if verdict["reliable"]:
        return f"{score} predicts what training does: {value} {over}"
    return f"{score} is not reliable: {value} {over}; select stages that use it will refuse"
