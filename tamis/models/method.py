"""How a model is trained, beside its size and its tokens: a recipe, numbers that override it, and the rows' weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tamis.models.order import Prune
from tamis.models.reweighting import Reweight
from tamis.models.sizes import Recipe, Size

RecipeName = Literal["default", "color"]

# CoLoR-Filter's auxiliary models (Brandfonbrener et al. 2024, and its code): batches of 256 rows and a warm-up of 1,000
# steps for the prior, of 20 to 100 for what is trained from it, in runs of 24,000 steps and of 56 to 191.
_COLOR = {"learning_rate": 1e-3, "betas": (0.9, 0.95), "epsilon": 1e-15, "weight_decay": 0.0, "clip": 1.0}
_COLOR_ROWS, _COLOR_WARMUP, _COLOR_WARMUP_FROM = 256, 1_000, 100
_FEWEST_STEPS, _FEWEST_ROWS, _WARMUP_SHARE = 50, 8, 10  # ours: what is left of it in runs that are shorter


@dataclass(frozen=True)
class Method:
    """What the final weights depend on beside size, tokens, seed and text.

    recipe : default is what `Size.recipe` says; color is that of CoLoR-Filter's auxiliary models.
    learning_rate (its peak), batch_tokens, warmup_tokens : instead of the recipe's.
    reweight, prune : see there.
    """

    recipe: RecipeName = "default"
    learning_rate: float | None = None
    batch_tokens: int | None = None
    warmup_tokens: int | None = None
    reweight: Reweight | None = None
    prune: Prune | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Method:
        """What `asdict` made of one."""
        reweight, prune = values["reweight"], values["prune"]
        parts = {"reweight": reweight and Reweight(**reweight), "prune": prune and Prune(**prune)}
        return cls(**{**values, **parts})

    def to_json(self) -> dict[str, Any]:
        """It, as JSON would hold it."""
        return asdict(self)

    def plan(self, size: Size, tokens: int, *, continues: bool = False) -> Recipe:
        """The recipe of one run. continues : from another model, with a shorter warm-up.

        Raises ValueError for a batch of less than a row, or a warm-up longer than the run.
        """
        recipe = size.recipe(tokens) if self.recipe == "default" else _color(size, tokens, continues=continues)
        given = []
        if self.learning_rate is not None:
            recipe, given = replace(recipe, learning_rate=self.learning_rate), ["learning_rate"]
        if self.batch_tokens is not None:
            if self.batch_tokens < size.row_tokens:
                raise ValueError(
                    f"batch_tokens: expected a row of {size.row_tokens} tokens or more, got {self.batch_tokens}"
                )
            recipe = replace(recipe, batch_rows=round(self.batch_tokens / size.row_tokens))
            given.append("batch_tokens")
        if self.warmup_tokens is not None:
            if self.warmup_tokens >= tokens:
                raise ValueError(f"warmup_tokens: expected less than the {tokens} of the run, got {self.warmup_tokens}")
            recipe = replace(recipe, warmup_tokens=self.warmup_tokens)
            given.append("warmup_tokens")
        return replace(recipe, basis=f"{recipe.basis}; as given: {', '.join(given)}") if given else recipe


def _color(size: Size, tokens: int, *, continues: bool) -> Recipe:
    """The preset; a short run gets smaller batches, so that it has steps, and no warm-up beyond a tenth of it."""
    most_rows = tokens // (_FEWEST_STEPS * size.row_tokens)
    rows = min(_COLOR_ROWS, max(_FEWEST_ROWS, most_rows))
    whole = _COLOR_WARMUP_FROM if continues else _COLOR_WARMUP
    warmup = min(whole * rows * size.row_tokens, tokens // _WARMUP_SHARE)
    steps = -(-tokens // (rows * size.row_tokens))
    shorter = [f"batches of {rows} rows instead of {_COLOR_ROWS}"] if rows < _COLOR_ROWS else []
    if warmup < whole * rows * size.row_tokens:
        shorter.append(f"a warm-up of {steps // _WARMUP_SHARE} steps instead of {whole:,}")
    basis = f"CoLoR-Filter; {' and '.join(shorter)}, for a run of {steps:,} steps" if shorter else "CoLoR-Filter"
    return Recipe(tokens, size.row_tokens, rows, warmup_tokens=warmup, basis=basis, **_COLOR)  # type: ignore[arg-type]
