"""Projected gradients: what they keep of inner products, what becomes of gradients of rank one, and whitening."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tamis.errors import ContractError
from tamis.models import build, projection, sizes
from tamis.models.device import Device, choose
from tamis.models.gradients import backward, linear_layers
from tamis.models.language import LanguageModel
from tamis.models.projection import GradientSpace, Projection, signs
from tamis.models.windows import batches_of, windows_of

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]

V, END, CONTEXT = 300, 0, 16
SIZE = dataclasses.replace(sizes.size("tiny"), layers=2, width=16, heads=2, ffn=24, row_tokens=CONTEXT)
LENGTHS = [5, 0, 16, 17, 1, 40, 3, 33]
KINDS = ("two_sided", "one_sided")


class Words:
    """As much of a tokenizer as is needed here."""

    end = END


def language(seed=1, size=SIZE, device=None):
    model = build.build(size, V, seed).requires_grad_(False)
    return LanguageModel(model, Words(), "", device or Device("cpu", "float32"))


def drawn_documents(lengths, seed=5):
    ids = np.random.default_rng(seed).integers(1, V, sum(lengths)).astype(np.uint16)
    return ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


@pytest.fixture(scope="module")
def documents():
    return drawn_documents(LENGTHS)


def explicit(lm, ids, offsets, most=None):
    """name → (n, d_out, d_in), float64: each document's gradient, whole."""
    windows = windows_of(offsets, lm.context, most)
    found = {name: torch.zeros(len(offsets) - 1, *shape).double() for name, shape in linear_layers(lm.model).items()}
    for batch in batches_of(ids, windows, END, lm.device):

        def take(name, a, slope, batch=batch):
            for row, index in enumerate(batch.index.tolist()):
                found[name][windows.document[index]] += slope[row].double().T @ a[row].double()

        backward(lm, batch, take)
    return found


# ---- signs ----


def test_signs_depend_on_their_names_alone():
    """The same in another process; others for another seed, layer or side; a prefix of rows is the same signs."""
    told = "from tamis.models.projection import signs; print(signs(-3, 'a.b', 'inputs', 5, 7).astype(int).tolist())"
    done = subprocess.run([sys.executable, "-P", "-c", told], capture_output=True, text=True, check=True)
    here = signs(-3, "a.b", "inputs", 5, 7)
    assert done.stdout.strip() == str(here.astype(int).tolist())
    assert set(here.ravel()) == {-1.0, 1.0}
    for other in ((4, "a.b", "inputs"), (-3, "a.c", "inputs"), (-3, "a.b", "slopes")):
        assert (signs(*other, 5, 7) != here).any()
    assert signs(-3, "a.b", "inputs", 3, 7).tolist() == here[:3].tolist()


def test_signs_are_fair_and_their_columns_unrelated():
    """Means within five deviations: a chance of one in a million each."""
    many = signs(0, "x", "slopes", 4096, 64)
    assert abs(many.mean()) < 5 / math.sqrt(many.size)
    products = many.T @ many / 4096 - np.eye(64)
    assert np.abs(products).max() < 6 / math.sqrt(4096)


# ---- projections ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [None, 20])
def test_documents_are_projections_of_their_whole_gradients(documents, kind, most):
    lm = language()
    made = Projection.drawn(linear_layers(lm.model), 14 * 30, kind, 3)
    assert made.numbers == {"two_sided": 25, "one_sided": 30}[kind]
    found = made.documents(lm, *documents, most)
    assert found.shape == (len(LENGTHS), 14, made.numbers)
    assert found[1].tolist() == np.zeros((14, made.numbers)).tolist()
    for place, (name, gradients) in enumerate(explicit(lm, *documents, most).items()):
        slopes, inputs = (side.double() for side in made.maps[name])
        for document, gradient in enumerate(gradients):
            slow = slopes.T @ gradient @ inputs if kind == "two_sided" else None
            if slow is None:  # inner products with matrices of rank one
                slow = torch.stack(
                    [(torch.outer(u, v) * gradient).sum() for u, v in zip(slopes.T, inputs.T, strict=True)]
                )
            np.testing.assert_allclose(found[document, place], slow.flatten(), rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(made.whole(name, gradient), slow.flatten(), rtol=1e-9, atol=1e-12)


def squared_lengths(kind, numbers, gradient, seeds):
    """Of the projection of one gradient, with so many seeds."""
    d_out, d_in = gradient.shape
    found = []
    for seed in range(seeds):
        made = Projection.drawn({"layer": (d_out, d_in)}, numbers, kind, seed)
        found.append(float(made.whole("layer", gradient).square().sum()))
    return np.array(found)


@pytest.mark.parametrize(
    ("kind", "numbers", "expected"),
    [
        ("two_sided", 16**2, math.sqrt((1 + 2 / 16) ** 2 - 1)),
        ("two_sided", 64**2, math.sqrt((1 + 2 / 64) ** 2 - 1)),
        ("one_sided", 16**2, math.sqrt(8 / 16**2)),
    ],
)
def test_a_gradient_of_rank_one_keeps_its_length_on_average_only(kind, numbers, expected):
    """The projection trap: 0.52 at p = 16 and 0.25 at p = 64, where a dense projection would have 0.09 and 0.02.

    A mean of 1 within five, a deviation within six of its own deviations (the fourth moment of what is nearly χ²).
    """
    generator = torch.Generator().manual_seed(1)
    gradient = torch.outer(torch.randn(256, generator=generator), torch.randn(192, generator=generator)).double()
    seeds = 300
    found = squared_lengths(kind, numbers, gradient / gradient.norm(), seeds)
    assert found.mean() == pytest.approx(1, abs=5 * expected / math.sqrt(seeds))
    assert found.std() == pytest.approx(expected, rel=0.35)
    assert {256: 0.52, 4096: 0.25}[numbers] == pytest.approx(expected, abs=0.005) or kind == "one_sided"


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_of_full_rank_keeps_its_length_as_well_as_a_dense_projection_would(kind):
    """√(2/k) = 0.088 at k = 256, and not the 0.52 of rank one."""
    gradient = torch.randn(128, 96, generator=torch.Generator().manual_seed(2)).double()
    found = squared_lengths(kind, 256, gradient / gradient.norm(), 300)
    assert found.std() == pytest.approx(math.sqrt(2 / 256), rel=0.35)


def test_more_layers_average_the_error_out():
    """At 4,096 numbers in all: √(4/√(L·4096) + 4/4096) for L layers of rank one: 0.25 of one, 0.13 of sixteen."""
    generator = torch.Generator().manual_seed(3)
    for layers in (1, 16):
        shapes = {f"l{i}": (96, 64) for i in range(layers)}
        parts = [torch.outer(*(torch.randn(d, generator=generator) for d in s)).double() for s in shapes.values()]
        parts = {name: part / part.norm() / math.sqrt(layers) for name, part in zip(shapes, parts, strict=True)}
        found = []
        for seed in range(120):
            made = Projection.drawn(shapes, 4096, "two_sided", seed)
            found.append(sum(float(made.whole(name, part).square().sum()) for name, part in parts.items()))
        expected = math.sqrt(4 / math.sqrt(layers * 4096) + 4 / 4096)
        assert np.std(found) == pytest.approx(expected, rel=0.35)


def test_too_few_dimensions_for_the_layers_are_refused():
    with pytest.raises(ValueError, match="at least a number for each of 14 layers, got 13 dimensions"):
        Projection.drawn(linear_layers(language().model), 13, "two_sided", 0)


# ---- whitening ----


def quiet(_done, _line):
    """Nobody watches."""


def space(lm, ids, offsets, dimensions=14 * 9, kind="two_sided", damping=0.1, most=1024):
    plain = GradientSpace.plain(linear_layers(lm.model), dimensions, kind, 3, most)
    return plain.whitened(lm, ids, offsets, damping, quiet)


def test_roots_are_inverse_roots_of_the_damped_mean_of_outer_products(documents):
    lm = language()
    many = drawn_documents([12] * 50, 1)
    made = space(lm, *many)
    z = made.projection.documents(lm, *many, None)
    for layer, root in enumerate(made.roots.numpy()):
        gram = z[:, layer].T @ z[:, layer] / 50
        damped = gram + 0.1 * np.trace(gram) / len(gram) * np.eye(len(gram))
        np.testing.assert_allclose(root @ root @ damped, np.eye(len(gram)), atol=1e-4)
        np.testing.assert_allclose(root, root.T, rtol=1e-4, atol=1e-6 * np.abs(root).max())


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_whitened_projections_of_length_one(documents, kind):
    lm = language()
    made = space(lm, *drawn_documents([12] * 50, 1), dimensions=14 * 9 + 5, kind=kind)
    found = made.vectors(lm, *documents)
    assert (found.dtype, found.shape) == (np.float32, (len(LENGTHS), 14 * 9 + 5))
    z = made.projection.documents(lm, *documents, 1024)
    slow = np.einsum("nlk,lkj->nlj", z, made.roots.numpy()).reshape(len(LENGTHS), -1)
    slow = slow / np.maximum(np.linalg.norm(slow, axis=1, keepdims=True), 1e-300)
    np.testing.assert_allclose(found[:, : 14 * 9], slow, atol=1e-6)
    assert not found[:, 14 * 9 :].any()
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 0, 1, 1, 1, 1, 1, 1], abs=1e-6)


def test_the_direction_of_a_documents_own_gradient_is_its_vector(documents):
    lm = language()
    made = space(lm, *drawn_documents([12] * 50, 1))
    vectors, whole = made.vectors(lm, *documents), explicit(lm, *documents)
    for document in (0, 3, 5):
        direction = made.direction(lm, {name: gradients[document] for name, gradients in whole.items()})
        np.testing.assert_allclose(direction, vectors[document], atol=1e-4)


def test_a_sample_without_a_gradient_leaves_the_projection_as_it_is(documents):
    lm = language()
    made = space(lm, np.zeros(0, np.uint16), np.zeros(3, np.int64))
    plain = GradientSpace.plain(linear_layers(lm.model), 14 * 9, "two_sided", 3, 1024)
    assert made.vectors(lm, *documents).tolist() == plain.vectors(lm, *documents).tolist()


def test_a_space_is_the_same_when_it_is_loaded(documents, tmp_path):
    lm = language()
    made = space(lm, *drawn_documents([12] * 50, 1), dimensions=14 * 9 + 5, most=20)
    made.save(tmp_path)
    again = projection.space_in(str(tmp_path), "cpu")
    assert (again.dimensions, again.most_tokens) == (14 * 9 + 5, 20)
    assert again.vectors(lm, *documents).tolist() == made.vectors(lm, *documents).tolist()
    with pytest.raises(FileNotFoundError, match="no projection here"):
        GradientSpace.load(tmp_path / "elsewhere")


def test_another_model_is_refused(documents):
    made = space(language(), *documents)
    with pytest.raises(ContractError, match="of 14 layers, got another, of 7"):
        made.vectors(language(size=dataclasses.replace(SIZE, layers=1)), *documents)
    with pytest.raises(ContractError, match="of 14 layers, got another, of 7"):
        made.direction(language(size=dataclasses.replace(SIZE, layers=1)), {})


class OneDevice(TorchDispatchMode):
    """No operation but a copy takes tensors of two devices: what a GPU asks for, and the device `meta` does not."""

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        assert len({each.device for each in tensors}) < 2 or "copy" in function.name(), function.name()
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_projected_where_they_are(kind):
    layers = linear_layers(language().model)
    drawn = GradientSpace.plain(layers, 14 * 9, kind, 1, 1024).projection
    for name, (d_out, d_in) in layers.items():
        a, slope = (torch.empty(2, 5, width, device="meta") for width in (d_in, d_out))
        with OneDevice():
            found = drawn.windows(name, a, slope)
        assert (found.device.type, found.shape) == ("meta", (2, drawn.numbers))


# ---- company ----


@pytest.mark.parametrize("kind", KINDS)
def test_company_and_place_move_no_bit(documents, kind, monkeypatch):
    lm = language()
    made = space(lm, *drawn_documents([12] * 50, 1), kind=kind)
    together = made.vectors(lm, *documents)
    check_company(lm, made, *documents, together)
    monkeypatch.setattr(projection, "HELD_NUMBERS", 1)
    assert made.vectors(lm, *documents).tolist() == together.tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_company_moves_no_bit_at_a_real_size(dtype):
    size = sizes.size("tiny")
    lm = language(size=size, device=choose(size.width, "cpu", dtype))
    documents = drawn_documents([7, 100, 128, 33, 168, 16, 60])
    made = space(lm, *drawn_documents([40] * 30, 1), dimensions=1024)
    check_company(lm, made, *documents, made.vectors(lm, *documents))


def check_company(lm, made, ids, offsets, together):
    for i in range(len(offsets) - 1):
        assert made.vectors(lm, ids, offsets[i : i + 2])[0].tolist() == together[i].tolist()
    order = np.arange(len(offsets) - 1)[::-1]
    parts = [ids[offsets[i] : offsets[i + 1]] for i in order] + [ids[:90]] * 3
    turned = made.vectors(lm, np.concatenate(parts), np.concatenate([[0], np.cumsum([len(part) for part in parts])]))
    assert turned[: len(order)].tolist() == together[order].tolist()
