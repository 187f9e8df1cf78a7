"""Inputs and slopes of linear layers give the gradients that autograd gives; filling and company change nothing."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.models import build, sizes
from tamis.models.device import Device
from tamis.models.gradients import backward, linear_layers
from tamis.models.language import LanguageModel
from tamis.models.windows import batches_of, windows_of

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]

V, END = 300, 0
SIZE = dataclasses.replace(sizes.size("tiny"), layers=2, width=16, heads=2, ffn=24, row_tokens=16)
LENGTHS = [5, 16, 17, 1, 40, 3]


class Words:
    """As much of a tokenizer as is needed here."""

    end = END


def language(model, device=None):
    return LanguageModel(model.requires_grad_(False), Words(), "", device or Device("cpu", "float32"))


def llama():
    return build.build(SIZE, V, 1)


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=V, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(5)
    ids = rng.integers(1, V, sum(LENGTHS)).astype(np.uint16)
    return ids, np.concatenate([[0], np.cumsum(LENGTHS)])


def batches(lm, documents, batch_tokens=64):
    ids, offsets = documents
    windows = windows_of(offsets, lm.context)
    return windows, list(batches_of(ids, windows, END, lm.device, batch_tokens))


def gradients(lm, batch):
    """name → (B, d_out, d_in)."""
    found = {}
    backward(lm, batch, lambda name, a, slope: found.update({name: torch.einsum("bto,bti->boi", slope, a)}))
    return found


def slow_gradients(model, inputs, targets):
    """One window, transformers' own logits, autograd's own weights' gradients; the layers' weights as (d_out, d_in)."""
    model = model.requires_grad_(True)
    model.zero_grad()
    logits = model(input_ids=torch.tensor([inputs])).logits[0].float()
    torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="sum").backward()
    found = {name.removesuffix(".weight"): weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    model.requires_grad_(False)
    return found


@pytest.mark.parametrize("family", [llama, gpt2])
def test_gradients_are_those_of_autograd(family, documents):
    lm = language(family())
    windows, all_batches = batches(lm, documents)
    seen = 0
    for batch in all_batches:
        found = gradients(lm, batch)
        assert set(found) == set(linear_layers(lm.model))
        for row, index in enumerate(batch.index.tolist()):
            n = int(windows.tokens[index])
            slow = slow_gradients(lm.model, batch.inputs[row, :n].tolist(), batch.targets[row, :n].tolist())
            for name, shape in linear_layers(lm.model).items():
                truth = slow[name].T if family is gpt2 else slow[name]
                assert truth.shape == shape
                torch.testing.assert_close(found[name][row], truth, rtol=1e-4, atol=1e-5)
            seen += 1
    assert seen == len(windows)


def test_layers_are_the_linear_ones_but_the_last():
    names = linear_layers(llama())
    assert len(names) == 2 * 7
    assert names["model.layers.0.mlp.down_proj"] == (16, 24)
    assert not [name for name in names if "lm_head" in name or "embed" in name]


def test_filling_has_no_slope(documents):
    lm = language(llama())
    _, all_batches = batches(lm, documents)
    assert any(not batch.real.all() for batch in all_batches)
    for batch in all_batches:

        def look(_, a, slope, real=batch.real):
            assert (slope[~real] == 0).all()
            assert slope[real].abs().amax(-1).gt(0).any()
            assert a.shape[:2] == slope.shape[:2] == real.shape

        backward(lm, batch, look)


def test_other_targets_are_what_is_asked_for(documents):
    lm = language(llama())
    _, (batch, *_) = batches(lm, documents)
    other = dataclasses.replace(batch, targets=(batch.targets + 7) % V)
    given, asked = {}, {}
    backward(lm, other, lambda name, _, slope: given.update({name: slope}))
    backward(lm, batch, lambda name, _, slope: asked.update({name: slope}), targets=other.targets)
    assert all(torch.equal(given[name], asked[name]) for name in given)


@pytest.mark.parametrize(("name", "dtype"), [("tiny", "float32"), ("small", "float32"), ("small", "bfloat16")])
def test_company_and_place_move_no_bit_of_a_slope(name, dtype):
    size = sizes.size(name)
    lm = language(build.build(size, 1000, 1), Device("cpu", dtype))
    rng = np.random.default_rng(0)
    lengths = [100, 97, 112, 98]
    ids = rng.integers(1, 1000, sum(lengths)).astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(lengths)])

    def slopes(order):
        windows = windows_of(offsets, size.row_tokens)
        some = type(windows)(*(getattr(windows, f)[order] for f in ("document", "first", "tokens", "opens")), 10**9)
        found = {}
        for batch in batches_of(ids, some, 0, lm.device, 512):
            taken = {}
            backward(lm, batch, lambda name, a, slope, taken=taken: taken.update({name: (a, slope)}))
            for row, index in enumerate(batch.index.tolist()):
                real = batch.real[row]
                found[int(some.document[index])] = {n: (a[row][real], s[row][real]) for n, (a, s) in taken.items()}
        return found

    together = slopes(np.arange(len(lengths)))
    for order in ([3, 1, 2, 0], [2]):
        for document, layers in slopes(np.array(order)).items():
            for layer, pair in layers.items():
                assert all(torch.equal(x, y) for x, y in zip(pair, together[document][layer], strict=True))


def test_nothing_is_kept_and_no_hook_stays(documents):
    lm = language(llama())
    _, (batch, *_) = batches(lm, documents)
    backward(lm, batch, lambda *_: None)
    assert all(weight.grad is None for weight in lm.model.parameters())
    assert not any(module._forward_hooks for module in lm.model.modules())
    with pytest.raises(RuntimeError, match="stop"):
        backward(lm, batch, lambda *_: (_ for _ in ()).throw(RuntimeError("stop")))
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_a_model_that_may_still_learn_is_refused(documents):
    lm = language(llama())
    _, (batch, *_) = batches(lm, documents)
    lm.model.requires_grad_(True)
    with pytest.raises(ValueError, match="frozen"):
        backward(lm, batch, lambda *_: None)


def test_a_model_without_linear_layers_is_refused():
    class Bare(torch.nn.Module):
        def get_output_embeddings(self):
            return None

    with pytest.raises(ValueError, match="expected a model with linear layers"):
        linear_layers(Bare())


def test_on_a_gpu_a_backward_pass_takes_kernels_that_add_in_one_order(documents):
    """On the CPU's tensors here: what is asked of torch while the pass lasts, and after it."""
    lm = language(llama())
    _, (batch, *_) = batches(lm, documents)
    for device, wanted in ((lm.device, False), (Device("cuda", "float32"), True)):
        asked = set()
        on = dataclasses.replace(lm, device=device)
        backward(on, batch, lambda *_, asked=asked: asked.add(torch.are_deterministic_algorithms_enabled()))
        assert asked == {wanted}
        assert not torch.are_deterministic_algorithms_enabled()
