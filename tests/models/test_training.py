"""A run depends on its text, size and seed alone: not on interruptions, nor on global random state."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.errors import ContractError
from tamis.models import build, sizes
from tamis.models.checkpoint import publish_text
from tamis.models.device import choose
from tamis.models.order import row_order
from tamis.models.train import CHECKPOINT, RESULT

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("every", "killed_at"), [(1, 7), (3, 7), (5, 12), (100, 7)])
def test_an_interrupted_run_ends_in_the_same_bytes(run, tmp_path, every, killed_at):
    def kill(done, _line):
        if round(done * 16) == killed_at:
            raise Killed

    straight = run(tmp_path / "straight")
    with pytest.raises(Killed):
        run(tmp_path / "killed", checkpoint_every=every, report=kill)
    assert not (tmp_path / "killed" / RESULT).exists()
    assert (tmp_path / "killed" / CHECKPOINT).exists() == (every < killed_at)
    torch.rand(5)
    resumed = run(tmp_path / "killed", checkpoint_every=every)
    assert weights(tmp_path / "killed") == weights(tmp_path / "straight")
    assert resumed["final_loss"] == straight["final_loss"]
    assert not (tmp_path / "killed" / CHECKPOINT).exists()


def test_the_caller_s_random_state_and_threads_are_left_alone(run, tmp_path):
    torch.manual_seed(5)
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    numpy_before = np.random.get_state()[1].copy()
    run(tmp_path / "one")
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (dtype, 1)
    torch.manual_seed(99)
    run(tmp_path / "two")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_a_seed_changes_weights_and_order(run, tmp_path):
    run(tmp_path / "three")
    run(tmp_path / "four", seed=4)
    assert weights(tmp_path / "three") != weights(tmp_path / "four")
    assert row_order(3, 0, 50).tolist() != row_order(4, 0, 50).tolist() != row_order(4, 1, 50).tolist()
    assert sorted(row_order(2**64 - 1, 7, 50)) == list(range(50))


def test_the_order_of_rows_is_pinned():
    assert row_order(17, 0, 8).tolist() == [7, 4, 3, 2, 0, 1, 5, 6]
    assert row_order(17, 1, 8).tolist() == [6, 4, 0, 3, 1, 5, 7, 2]


def test_exactly_the_tokens_asked_for_are_seen(run, tmp_path, monkeypatch):
    from tamis.models import head

    seen = []
    real = head.scaled_losses
    monkeypatch.setattr(head, "scaled_losses", lambda m, x, y, *s: seen.append(len(y)) or real(m, x, y, *s))
    result = run(tmp_path, tokens=1_001)
    assert (sum(seen), result["tokens"], result["steps"]) == (1_001, 1_001, len(seen))


def test_micro_batches_add_up_to_the_batch(run, tmp_path, monkeypatch):
    from tamis.models import device

    whole = run(tmp_path / "whole")
    monkeypatch.setattr(device.Device, "micro_tokens", 20)
    parts = run(tmp_path / "parts")
    assert parts["final_loss"] == pytest.approx(whole["final_loss"], rel=1e-4)


def test_the_folder_is_an_ordinary_hugging_face_folder(run, tmp_path, toy_texts):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = run(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", RESULT}
    assert not {name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".partial"))}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    loss = model(
        **tokenizer(toy_texts[:1], return_tensors="pt"), labels=tokenizer(toy_texts[:1], return_tensors="pt").input_ids
    )
    assert loss.loss < np.log(300)
    assert result["parameters"] == model.num_parameters()
    assert json.loads((tmp_path / RESULT).read_text())["losses"][-1] < np.log(300)


def test_a_finished_folder_is_left_alone(run, tmp_path):
    first = run(tmp_path)
    stamp = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert run(tmp_path) == first
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == stamp


def test_another_run_does_not_take_over_a_folder(run, tmp_path):
    run(tmp_path)
    with pytest.raises(ContractError, match="other text, size or seed"):
        run(tmp_path, seed=4)


def test_training_goes_on_from_another_model(run, tmp_path):
    run(tmp_path / "prior")
    result = run(tmp_path / "conditional", start_from=tmp_path / "prior", tokens=640)
    assert weights(tmp_path / "conditional") != weights(tmp_path / "prior")
    losses = json.loads((tmp_path / "prior" / RESULT).read_text())["losses"]
    assert result["final_loss"] < np.mean(losses[:3])


def test_a_loss_that_explodes_stops_the_run(run, tmp_path, toy_size):
    with pytest.raises(ContractError, match="lower the learning rate"):
        run(tmp_path, size=dataclasses.replace(toy_size, learning_rate=1e38))


@pytest.mark.parametrize(
    ("shape", "message"), [((3, 5), "rows must be"), ((0, 17), "not one row"), ((3, 17), "rows hold token 400")]
)
def test_rows_that_do_not_fit_are_refused(run, tmp_path, shape, message):
    rows = np.full(shape, 400, np.uint16)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, rows=rows, seed=0, tokens=100)


def test_built_weights_are_a_function_of_size_vocabulary_and_seed(toy_size):
    def flat(seed):
        return torch.cat([p.flatten() for p in build.build(toy_size, 300, seed).parameters()])

    one = flat(3)
    torch.manual_seed(1)
    assert torch.equal(one, flat(3))
    assert not torch.equal(one, flat(4))


def test_a_model_survives_its_folder(tmp_path, toy_size):
    model = build.build(toy_size, 300, 2**64 - 1)
    build.save(model, tmp_path)
    again = build.load(tmp_path)
    for (name, p), (_, q) in zip(sorted(model.named_parameters()), sorted(again.named_parameters()), strict=True):
        assert torch.equal(p, q), name
    with pytest.raises(FileNotFoundError, match="no model here"):
        build.load(tmp_path / "nowhere")


def test_the_head_has_the_gradients_of_plain_cross_entropy():
    from tamis.models import head

    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        torch.manual_seed(0)
        hidden = torch.randn(70, 24, dtype=dtype, requires_grad=True)
        weight = torch.randn(301, 24, requires_grad=True)
        targets = torch.randint(0, 301, (70,))
        plain = torch.nn.functional.cross_entropy(hidden.float() @ weight.T, targets)
        expected = torch.autograd.grad(plain, (hidden, weight))
        before, head._CHUNK_LOGITS_CPU = head._CHUNK_LOGITS_CPU, 301 * 32
        try:
            ours, _ = head._LinearCrossEntropy.apply(hidden, weight, targets, 1 / 70)
            found = torch.autograd.grad(ours, (hidden, weight))
        finally:
            head._CHUNK_LOGITS_CPU = before
        assert ours.item() == pytest.approx(plain.item(), rel=tolerance)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype
            assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_a_chosen_device_says_what_it_is(monkeypatch):
    monkeypatch.delenv("TAMIS_DEVICE", raising=False)
    assert choose(64, "cpu").dtype == "float32"
    assert choose(64, "cpu", "bfloat16").dtype == "bfloat16"
    monkeypatch.setenv("TAMIS_DEVICE", "cpu")
    assert choose(64).name == "cpu"
    with pytest.raises(ValueError, match="expected auto, cpu, cuda"):
        choose(64, "tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds no CUDA device"):
            choose(64, "cuda:1")


def test_bfloat16_training_works_where_the_device_has_it(run, tmp_path):
    result = run(tmp_path, device=choose(16, "cpu", "bfloat16"))
    assert result["dtype"] == "bfloat16"
    assert result["final_loss"] < np.log(300)


def test_attention_is_causal_without_a_mask_compiled_or_not(toy_size, tmp_path):
    """The mask that transformers gives torch.compile keeps the fastest kernels of a GPU away."""
    masks = []

    def look(graph, _example):
        calls = [node.kwargs for node in graph.graph.nodes if "scaled_dot_product" in str(node.target)]
        masks.extend((call.get("attn_mask"), call.get("is_causal")) for call in calls)
        return graph.forward

    build.save(build.build(toy_size, 300, 0), tmp_path)
    tokens = torch.arange(32).view(2, 16)
    for model in (build.build(toy_size, 300, 0), build.load(tmp_path)):
        compiled = torch.compile(model.model, backend=look, dynamic=False)(input_ids=tokens, use_cache=False)
        plain = model.model(input_ids=tokens, use_cache=False)
        model.set_attn_implementation("sdpa")
        usual = model.model(input_ids=tokens, use_cache=False)
        assert torch.equal(plain.last_hidden_state, usual.last_hidden_state)
        assert torch.equal(plain.last_hidden_state, compiled.last_hidden_state)
    assert set(masks) == {(None, True)}


def test_rates_rise_then_fall_to_a_tenth():
    recipe = sizes.size("tiny").recipe(300_000)
    rates = [recipe.learning_rate_after((step + 1) * recipe.batch_tokens) for step in range(recipe.steps)]
    peak = int(np.argmax(rates))
    assert recipe.warmup_tokens == 30_000
    assert all(a < b for a, b in pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in pairwise(rates[peak:]))
    assert rates[peak] == pytest.approx(6e-3, rel=1e-3)
    assert rates[-1] == pytest.approx(6e-4)


def test_sizes_are_looked_up_by_name():
    assert sizes.size("150m").parameters >= 150e6
    with pytest.raises(ValueError, match=r"'tiney' does not exist; there are tiny, mini.*did you mean 'tiny'"):
        sizes.size("tiney")
    for size in sizes.SIZES.values():
        assert (size.width % size.heads, (size.width // size.heads) % 2) == (0, 0)


def test_the_step_law_is_the_published_one():
    """Values of the table in the source, to its two digits; beyond the fitted range the recipe says so."""
    for parameters, tokens, rate, batch in ((20e6, 2e9, 8.0e-3, 119e3), (400e6, 8e9, 1.4e-3, 262e3)):
        assert sizes.step_law(parameters, tokens) == (pytest.approx(rate, rel=0.04), pytest.approx(batch, rel=0.04))
    assert sizes.size("400m").recipe(8_000_000_000).basis == "step law"
    assert "outside" in sizes.size("60m").recipe(1_200_000_000).basis
    assert sizes.size("tiny").recipe(300_000).basis == "measured"


def test_a_published_file_is_complete_or_not_there(tmp_path):
    publish_text(tmp_path / "x.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
