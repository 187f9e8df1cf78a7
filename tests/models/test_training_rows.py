"""What rows count: weights from losses (closed forms of Sow et al.), and rows that are left out (InfoBatch)."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.models.loop import Loop
from tamis.models.method import Method
from tamis.models.order import Order, Prune, row_order
from tamis.models.reweighting import Reweight, effective_rows
from tamis.models.train import RESULT

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]

FOUR = torch.tensor([1.0, 2.0, 3.0, 4.0])
STRATEGIES = ("lin_upper", "quadratic", "extremes")


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


# ---- weights from losses ----


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("lin_upper", (0.1193, 0.2323, 0.3242, 0.3242)),
        ("quadratic", (0.1457, 0.3543, 0.3543, 0.1457)),
        ("extremes", (0.3304, 0.1696, 0.1696, 0.3304)),
    ],
)
def test_weights_are_those_of_the_closed_form(strategy, expected):
    found = Reweight(strategy, temperature=1.0, clip=0).weights(FOUR, 1.0)
    assert found.tolist() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(losses=st.lists(st.floats(0, 15, width=32), min_size=1, max_size=40), temperature=st.floats(0.1, 10))
def test_weights_are_those_of_a_plain_loop(strategy, losses, temperature):
    ordered = sorted(losses)
    beyond = min(math.ceil(0.01 * (len(losses) - 1)), (len(losses) - 1) // 2) if len(losses) >= 8 else 0
    low, high = ordered[beyond], ordered[len(losses) - 1 - beyond]
    clipped = [min(max(loss, low), high) for loss in losses]
    h = [(2 * loss - high - low) / max(high - low, 1e-6) for loss in clipped]
    f = {"lin_upper": lambda h: min(h + 1, 1), "quadratic": lambda h: 1 - h * h, "extremes": abs}[strategy]
    powers = [math.exp(f(each) / temperature) for each in h]
    found = Reweight(strategy).weights(torch.tensor(losses), temperature).tolist()
    assert found == pytest.approx([power / sum(powers) for power in powers], rel=2e-3, abs=1e-6)
    assert max(found) <= min(found) * math.exp(1 / temperature) * 1.001


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_losses_have_equal_weights_and_order_does_not_matter(strategy):
    reweight = Reweight(strategy)
    assert reweight.weights(torch.full((5,), 3.3), 0.4).tolist() == pytest.approx([0.2] * 5)
    losses = torch.rand(30, generator=torch.Generator().manual_seed(1)) * 4
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(reweight.weights(losses, 0.4)[shuffled], reweight.weights(losses[shuffled], 0.4))
    assert not reweight.weights(losses.requires_grad_(), 0.4).requires_grad


def test_one_outlier_does_not_make_all_others_equal():
    """31 losses from 2.5 to 3.5 and one of 12: unclipped, the outlier counts as much as seven."""
    losses = torch.cat([torch.linspace(2.5, 3.5, 31), torch.tensor([12.0])])
    unclipped = Reweight(clip=0).weights(losses, 0.4)
    clipped = Reweight().weights(losses, 0.4)
    assert unclipped[-1] / unclipped.mean() == pytest.approx(7.4, abs=0.1)
    assert clipped[-1] == clipped[-2]
    assert clipped[:-2].std() > 4 * unclipped[:-2].std()


def test_effective_rows_count_equal_ones_fully():
    assert effective_rows(torch.full((8,), 1 / 8)).item() == pytest.approx(8)
    assert effective_rows(torch.tensor([1.0, 0, 0])).item() == 1


def test_temperatures_and_the_burn_in():
    assert [Reweight().burn_in_steps(steps) for steps in (20_000, 100_000, 200, 16)] == [1_000, 1_000, 10, 1]
    assert Reweight(burn_in=7).burn_in_steps(10) == 7
    assert {Reweight(temperature=0.4).temperature_at(step, 100) for step in range(100)} == {0.4}
    cosine = Reweight(temperature=0.4, anneal="cosine", start=10.0, burn_in=10)
    found = [cosine.temperature_at(step, 101) for step in range(10, 101)]
    assert (found[0], found[-1], found[45]) == pytest.approx((10.0, 0.4, 5.2))
    assert found == sorted(found, reverse=True)


def test_no_row_is_reweighted_at_an_infinite_temperature_nor_in_the_burn_in(run, tmp_path):
    """Weights of 1/4 for each of four rows: the same gradients, to the byte."""
    run(tmp_path / "plain")
    run(tmp_path / "infinite", method=Method(reweight=Reweight(temperature=math.inf, burn_in=0)))
    run(tmp_path / "never", method=Method(reweight=Reweight(temperature=0.1, burn_in=16)))
    run(tmp_path / "some", method=Method(reweight=Reweight(temperature=0.1, burn_in=8)))
    assert weights(tmp_path / "infinite") == weights(tmp_path / "plain") == weights(tmp_path / "never")
    assert weights(tmp_path / "some") != weights(tmp_path / "plain")


@pytest.mark.parametrize("micro_tokens", [1 << 13, 20])
def test_the_gradient_is_that_of_the_weighted_losses(
    toy_rows, toy_size, toy_tokenizer, tmp_path, monkeypatch, micro_tokens
):
    """One step by hand: losses per row, weights, Σ wᵢ ℓᵢ; whether or not the batch is cut into micro-batches."""
    from tamis.models import build, device

    monkeypatch.setattr(device.Device, "micro_tokens", micro_tokens)
    size = dataclasses.replace(toy_size, batch_rows=9)
    method = Method(reweight=Reweight("extremes", temperature=0.3, burn_in=0))
    model = build.build(size, 300, 1)
    loop = Loop(model, size.recipe(10_000), method, toy_rows, 3, device.Device("cpu", "float32"), tmp_path, "key")
    step = loop.order.next()
    batch = torch.from_numpy(toy_rows[step.rows].astype(np.int64))
    each = torch.nn.functional.cross_entropy(model(batch[:, :-1]).logits.mT, batch[:, 1:], reduction="none").mean(1)
    counts = method.reweight.weights(each, 0.3)
    expected = torch.autograd.grad((counts * each).sum(), model.parameters())
    monkeypatch.setattr(Loop, "_update", lambda _self, _step: None)
    loop._train_on(step)
    loop._collect()
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(weight.grad, gradient, rtol=1e-3, atol=1e-6)
    assert loop.losses == pytest.approx([each.mean().item()])
    assert loop.effective == pytest.approx([1 / counts.square().sum().item()])


def test_effective_rows_are_logged(run, tmp_path):
    result = run(tmp_path, method=Method(reweight=Reweight(temperature=0.2, burn_in=2)))
    logged = json.loads((tmp_path / RESULT).read_text())["effective_rows"]
    assert len(logged) == 14
    assert all(1 <= rows <= 4.001 for rows in logged)
    assert result["effective_rows"] == pytest.approx(np.mean(logged))


# ---- rows that are left out ----


def epochs_of(order):
    """rows and weights per epoch, with every place gone through once: the losses of rows are told as their numbers."""
    seen = []
    while (step := order.next()) is not None:
        seen += [(row, weight) for row, weight in zip(step.rows, np.ones(99) if step.weights is None else step.weights)]
        order.note(step, torch.tensor(step.rows, dtype=torch.float32))
    return seen


def recipe_of(toy_size, rows, epochs, **changes):
    return dataclasses.replace(toy_size, **changes).recipe(round(rows * epochs * toy_size.row_tokens))


def test_only_rows_below_the_mean_are_left_out_and_the_rest_stand_for_them(toy_size):
    order = Order(recipe_of(toy_size, 40, 8), 40, 5, Prune())
    seen = epochs_of(order)
    weights = dict.fromkeys(range(40), ())
    for row, weight in seen:
        weights[row] += (float(weight),)
    assert all(set(weights[row]) == {1.0} and len(weights[row]) == 8 for row in range(20, 40))
    low = [weights[row] for row in range(20)]
    assert all(each[0] == 1.0 and each[-1] == 1.0 for each in low)  # the first epoch, and after 7 of 8
    assert {weight for each in low for weight in each} == {1.0, 2.0}
    left_out = 20 * 8 - sum(map(len, low))
    assert abs(left_out - 60) < 3 * math.sqrt(120 / 4)  # 6 epochs of 20 rows, each with one half: 3 deviations
    assert order.places - order.trained == left_out


def test_equal_losses_leave_nothing_out():
    scores = np.full(999, np.float32(0.1))
    assert Prune().weights(scores, 1, 1).tolist() == [1.0] * 999
    assert Prune().weights(np.full(3, np.nan, np.float32), 1, 1).tolist() == [1.0] * 3
    assert set(Prune(ratio=0.9).weights(np.array([np.nan, 1, 2] * 50, np.float32), 1, 1)[::3]) == {1.0}


def test_the_expected_gradient_is_that_of_all_rows():
    """10,000 draws of Σ wᵢ gᵢ over 60 rows: the mean is within 3 standard errors of Σ gᵢ, in each of 4 numbers.

    Four chances of 0.3 % each to fail, for seeds that are fixed.
    """
    draw = np.random.default_rng(4)
    gradients, scores = draw.normal(0.5, 1, (60, 4)), draw.normal(3, 1, 60).astype(np.float32)
    sums = np.array([Prune(ratio=0.6).weights(scores, 11, epoch) @ gradients for epoch in range(10_000)])
    error = sums.std(0, ddof=1) / 100
    assert (np.abs(sums.mean(0) - gradients.sum(0)) < 3 * error).all()
    assert (error < 0.1).all()


def test_a_row_s_fate_depends_on_seed_epoch_and_row_alone():
    scores = np.arange(50, dtype=np.float32)
    one = Prune().weights(scores, 3, 1)
    other = Prune().weights(np.concatenate([scores[:25] * 0.9, scores[25:]]), 3, 1)
    assert (one[:24] == other[:24]).all()
    assert (one != Prune().weights(scores, 3, 2)).any()
    assert (one != Prune().weights(scores, 4, 1)).any()


def test_the_order_without_pruning_is_that_of_a_plain_loop(toy_size):
    recipe = dataclasses.replace(toy_size, batch_rows=7).recipe(1_000)
    order, found = Order(recipe, 11, 9), []
    while (step := order.next()) is not None:
        assert step.weights is None
        found.append((step.rows.tolist(), step.tokens, step.seen))
    places = [int(row_order(9, place // 11, 11)[place % 11]) for place in range(63)]
    assert [row for rows, _, _ in found for row in rows] == places
    assert [tokens for _, tokens, _ in found] == [7 * 16] * 8 + [1_000 - 8 * 7 * 16]
    assert [seen for _, _, seen in found] == [112 * at for at in range(1, 10)]


def test_leaving_out_with_probability_0_changes_nothing(run, tmp_path, toy_rows):
    rows = toy_rows[:25]
    plain = run(tmp_path / "plain", rows=rows)
    pruned = run(tmp_path / "pruned", rows=rows, method=Method(prune=Prune(ratio=0)))
    assert weights(tmp_path / "plain") == weights(tmp_path / "pruned")
    assert pruned["final_loss"] == plain["final_loss"]
    assert (pruned["pruned_rows"], pruned["pruned_share"]) == (0, 0.0)


def test_what_was_saved_is_told_and_the_schedule_follows_the_epochs(run, tmp_path, toy_rows):
    result = run(tmp_path, rows=toy_rows[:10], method=Method(prune=Prune(ratio=0.8)), tokens=1_600, keep=1)
    assert result["pruned_share"] == result["pruned_rows"] / 100
    assert 0.1 < result["pruned_share"] < 0.6
    assert result["steps"] < 25
    assert result["checkpoints"][-1]["step"] == result["steps"]
    assert result["checkpoints"][-1]["learning_rate"] == pytest.approx(result["learning_rate"] / 10, rel=0.05)


def test_the_last_step_may_come_before_the_last_rows(toy_size):
    """Whatever is left out at the end, every kept row is trained on once, and the last row alone may be cut."""
    for seed in range(30):
        order = Order(dataclasses.replace(toy_size, batch_rows=3).recipe(16 * 20 - 5), 10, seed, Prune(0.9, 1.0))
        steps = []
        while (step := order.next()) is not None:
            steps.append(step)
            order.note(step, torch.tensor(step.rows, dtype=torch.float32))
        assert all(step.tokens == 16 * len(step.rows) for step in steps[:-1])
        last = row_order(seed, 1, 10)[9]
        cut = 5 if order.weights[last] else 0
        assert steps[-1].tokens == 16 * len(steps[-1].rows) - cut
        assert sum(len(step.rows) for step in steps) == 10 + np.count_nonzero(order.weights)


def test_one_epoch_is_not_enough_to_prune(run, tmp_path):
    with pytest.raises(ValueError, match=r"prune: expected 2 epochs or more, .* raise tokens to [\d,]+, or leave"):
        run(tmp_path, method=Method(prune=Prune()), tokens=400)


# ---- a run that was killed ----


class Killed(BaseException):
    pass


METHODS = {
    "reweight": Method(reweight=Reweight(temperature=0.3, burn_in=3, anneal="cosine")),
    "prune": Method(prune=Prune(ratio=0.7)),
    "both": Method(reweight=Reweight("quadratic", burn_in=0), prune=Prune()),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("killed_at", [0.35, 0.8])
def test_what_is_known_of_rows_survives_a_kill(run, tmp_path, toy_rows, name, killed_at):
    def kill(done, _line):
        if done >= killed_at:
            raise Killed

    options = {"rows": toy_rows[:14], "method": METHODS[name], "keep": 4}
    straight = run(tmp_path / "straight", **options)
    with pytest.raises(Killed):
        run(tmp_path / "killed", checkpoint_every=3, report=kill, **options)
    resumed = run(tmp_path / "killed", checkpoint_every=3, **options)
    assert weights(tmp_path / "killed") == weights(tmp_path / "straight")
    timeless = [{k: v for k, v in result.items() if k != "tokens_per_second"} for result in (resumed, straight)]
    assert timeless[0] == timeless[1]
    told = [json.loads((tmp_path / each / RESULT).read_text()) for each in ("killed", "straight")]
    assert told[0]["losses"] == told[1]["losses"]
    assert told[0]["effective_rows"] == told[1]["effective_rows"]
    for kept in straight["checkpoints"]:
        assert weights(tmp_path / "killed" / kept["folder"]) == weights(tmp_path / "straight" / kept["folder"])
