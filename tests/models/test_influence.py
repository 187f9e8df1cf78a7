"""Influence against explicit float64 gradients, steps of training and retrained models; company changes nothing."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import copy
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.errors import ContractError
from tamis.models import build, sizes
from tamis.models.curvature import Basis, Preconditioner, Sample, mean_moments
from tamis.models.device import Device, choose
from tamis.models.gradients import linear_layers
from tamis.models.influence import Compass, build_compass, compass_in, mean_gradient, random_compass
from tamis.models.language import LanguageModel
from tamis.models.lds import lds, spearman
from tamis.models.loss import document_losses
from tamis.models.packing import pack
from tamis.models.windows import windows_of

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]

V, END = 60, 0
SIZE = dataclasses.replace(sizes.size("tiny"), layers=1, width=12, heads=2, ffn=16, row_tokens=16)
LENGTHS = [5, 0, 16, 17, 1, 40, 3, 9, 12, 30]
WAYS = ["identity", "diagonal", "kfac", "ekfac"]
CPU = Device("cpu", "float32")


class Words:
    """As much of a tokenizer as is needed here."""

    end = END


def language(model, device=CPU):
    return LanguageModel(model.requires_grad_(False), Words(), "", device)


def drawn(lengths, seed, vocabulary=V):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, vocabulary, sum(lengths)).astype(np.uint16)
    return ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@pytest.fixture(scope="module")
def lm():
    model = build.build(SIZE, V, 1)
    with torch.no_grad():  # predictions that differ by token
        for weight in model.parameters():
            weight.mul_(3) if weight.dim() > 1 else None
    return language(model)


@pytest.fixture(scope="module")
def documents():
    return drawn(LENGTHS, 5)


@pytest.fixture(scope="module")
def sample():
    return drawn([16, 30, 7, 12] * 4, 6)


QUERIES = {"near": drawn([12, 20], 7), "far": drawn([33], 8)}


# ---- against explicit gradients ----


def double(lm):
    model = build.build(SIZE, V, 1).double()
    model.load_state_dict({name: weight.double() for name, weight in lm.model.state_dict().items()})
    return model


def slow_gradients(model, ids, offsets, labels=None):
    """Of each document, the float64 gradient of its summed loss: list of {layer: (d_out, d_in)}, window by window."""
    labels = ids if labels is None else labels
    windows, found = windows_of(offsets, SIZE.row_tokens), []
    for d in range(len(offsets) - 1):
        model.zero_grad()
        for w in np.flatnonzero(windows.document == d).tolist():
            first, n = int(windows.first[w]), int(windows.tokens[w])
            inputs = [END if windows.opens[w] else int(ids[first - 1]), *ids[first : first + n - 1].tolist()]
            logits = model(input_ids=torch.tensor([inputs])).logits[0]
            wanted = torch.from_numpy(labels[first : first + n].astype(np.int64))
            torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").backward()
        zero = torch.zeros(1, 1, dtype=torch.float64)
        weights = {name: model.get_submodule(name).weight for name in linear_layers(model)}
        found.append(
            {name: (zero if w.grad is None else w.grad.clone()).expand(w.shape) for name, w in weights.items()}
        )
    return found


def slow_preconditioners(lm, model, sample, how):
    """From the float64 gradients of the sample's windows; A and G are taken over (test_curvature.py looks at them)."""
    if how == "identity":
        return {name: Preconditioner() for name in linear_layers(model)}
    ids, offsets = sample
    labelled = Sample.drawn(lm, ids, offsets, seed=3)
    windows = windows_of(offsets, SIZE.row_tokens)
    cut = np.append(windows.first, len(ids))
    each = []
    for w in range(len(windows)):  # a window by itself is a document that opens as the window does
        first, last = int(cut[w]), int(cut[w + 1])
        if windows.opens[w]:
            each += slow_gradients(model, ids[first:last], np.array([0, last - first]), labelled.labels[first:last])
        else:
            model.zero_grad()
            logits = model(input_ids=torch.from_numpy(ids[first - 1 : last - 1].astype(np.int64))[None]).logits[0]
            wanted = torch.from_numpy(labelled.labels[first:last])
            torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").backward()
            each.append({name: model.get_submodule(name).weight.grad.clone() for name in linear_layers(model)})
    moments, found = mean_moments(lm, labelled), {}
    for name in linear_layers(model):
        stacked = torch.stack([gradient[name] for gradient in each])
        basis = Basis.of(*moments[name])
        turned = basis.slopes.T @ stacked @ basis.inputs
        values = {
            "diagonal": stacked.square().sum(0) / len(ids),
            "kfac": basis.kronecker,
            "ekfac": turned.square().sum(0) / len(ids),
        }[how]
        found[name] = Preconditioner.damped(values, 0.1, None if how == "diagonal" else basis)
    return found


@pytest.mark.parametrize("how", WAYS)
def test_scores_are_those_of_explicit_gradients(lm, documents, sample, how):
    model = double(lm)
    compass = build_compass(lm, sample, QUERIES, how, seed=3)
    found, tokens = compass.scores(lm, *documents)
    P, each = slow_preconditioners(lm, model, sample, how), slow_gradients(model, *documents)
    expected = np.zeros((len(LENGTHS), 2))
    for q, (ids, offsets) in enumerate(QUERIES.values()):
        query = slow_gradients(model, ids, offsets)
        for name, p in P.items():
            direction = p(sum(gradient[name] for gradient in query) / len(ids))
            expected[:, q] += [float((direction * gradient[name]).sum()) for gradient in each]
    assert found.dtype == np.float64
    assert tokens.tolist() == LENGTHS
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())
    assert (found[1] == 0).all(), "a document without tokens"


def test_a_document_by_itself_gives_its_squared_gradient(lm, documents):
    """P = I and q = z: GraNd²."""
    ids, offsets = documents
    norms = [sum(float(g.square().sum()) for g in each.values()) for each in slow_gradients(double(lm), ids, offsets)]
    for d in (0, 3, 5):
        own = ids[offsets[d] : offsets[d + 1]], np.array([0, LENGTHS[d]])
        compass = build_compass(lm, own, {"itself": own}, "identity")
        found, _ = compass.scores(lm, *own)
        assert found[0, 0] * LENGTHS[d] == pytest.approx(norms[d], rel=1e-4)


def test_a_token_by_token_product_is_the_explicit_one(lm, documents):
    """Short windows and few queries go token by token, others through gradients: the same numbers."""
    few = build_compass(lm, documents, QUERIES, "identity")
    many = Compass(tuple("abcdefg"), {name: v[[0, 1, 0, 1, 0, 1, 0]] for name, v in few.directions.items()})
    (by_token, _), (by_window, _) = few.scores(lm, *documents), many.scores(lm, *documents)
    np.testing.assert_allclose(by_window, by_token[:, [0, 1, 0, 1, 0, 1, 0]], rtol=1e-4, atol=1e-5)


def test_several_queries_at_once_equal_one_by_one(lm, documents, sample):
    together, _ = build_compass(lm, sample, QUERIES, "ekfac", seed=3).scores(lm, *documents)
    for q, (name, query) in enumerate(QUERIES.items()):
        alone, _ = build_compass(lm, sample, {name: query}, "ekfac", seed=3).scores(lm, *documents)
        np.testing.assert_allclose(alone[:, 0], together[:, q], rtol=1e-5, atol=1e-6 * np.abs(together).max())


def test_queries_are_a_mean_over_tokens(lm):
    ids, offsets = QUERIES["near"]
    both = mean_gradient(lm, ids, offsets)
    parts = [mean_gradient(lm, ids, offsets[d : d + 2]) for d in (0, 1)]
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, (12 * parts[0][name] + 20 * parts[1][name]) / 32, rtol=1e-4, atol=1e-6)


# ---- company, cuts, files ----


@pytest.mark.parametrize(
    ("name", "dtype", "queries"),
    [*(("tiny", "float32", q) for q in (1, 3, 8)), ("small", "float32", 3), ("small", "bfloat16", 3)],
)
def test_company_and_place_move_no_bit_of_a_score(name, dtype, queries):
    size = dataclasses.replace(sizes.size(name), layers=2)
    lm = language(build.build(size, 500, 1), choose(size.width, "cpu", dtype))
    lengths = [100, 7, 97, 20, 112]
    ids, offsets = drawn(lengths, 0, 500)
    compass = random_compass(lm, tuple("abcdefgh"[:queries]))
    together, _ = compass.scores(lm, ids, offsets)
    backwards = [ids[offsets[d] : offsets[d + 1]] for d in reversed(range(len(lengths)))]
    again, _ = compass.scores(lm, np.concatenate(backwards), np.concatenate([[0], np.cumsum(lengths[::-1])]))
    assert np.array_equal(again[::-1], together)
    for d in (0, 1):
        alone, _ = compass.scores(lm, ids, offsets[d : d + 2])
        assert np.array_equal(alone[0], together[d])


def test_only_the_first_tokens_count_where_there_are_too_many(lm, documents):
    ids, offsets = documents
    compass = random_compass(lm, ("a",))
    found, tokens = compass.scores(lm, ids, offsets, most_tokens=12)
    assert tokens.tolist() == [min(n, 12) for n in LENGTHS]
    first = np.concatenate([ids[o : o + min(n, 12)] for o, n in zip(offsets, LENGTHS, strict=False)])
    cut, _ = compass.scores(lm, first, np.concatenate([[0], np.cumsum(tokens)]), None)
    assert np.array_equal(found, cut)


def test_half_precision_orders_alike():
    size = sizes.size("small")
    model = build.build(size, 500, 1)
    documents = drawn([60] * 20, 1, 500)
    exact = language(model, choose(size.width, "cpu", "float32"))
    compass = build_compass(exact, documents, {"q": drawn([200], 2, 500)}, "identity")
    full, _ = compass.scores(exact, *documents)
    half, _ = compass.scores(language(model, choose(size.width, "cpu", "bfloat16")), *documents)
    assert np.corrcoef(full[:, 0], half[:, 0])[0, 1] > 0.99


def test_a_compass_comes_back_from_its_folder(lm, documents, sample, tmp_path):
    compass = build_compass(lm, sample, QUERIES, "kfac", damping=0.3)
    compass.save(tmp_path)
    again = compass_in(str(tmp_path), "cpu")
    assert again.names == ("near", "far")
    assert again.facts["curvature"] == "kfac"
    assert again.facts["damping"] == 0.3
    assert again.facts["sample_tokens"] == 4 * 65
    assert again.facts["query_tokens"] == {"near": 32, "far": 33}
    assert set(again.facts["ridges"]) == set(linear_layers(lm.model))
    assert np.array_equal(again.scores(lm, *documents)[0], compass.scores(lm, *documents)[0])
    with pytest.raises(FileNotFoundError, match="no compass here"):
        Compass.load(tmp_path / "elsewhere")


def test_a_compass_for_another_model_is_refused(lm, documents):
    other = language(build.build(dataclasses.replace(SIZE, ffn=20), V, 1))
    with pytest.raises(ContractError, match=r"expected a compass for layers .*12×12.* got one for"):
        random_compass(other, ("a",)).scores(lm, *documents)


def test_queries_without_tokens_are_an_error(lm, sample):
    with pytest.raises(ValueError, match="got none in 'b'"):
        build_compass(lm, sample, {"a": sample, "b": (sample[0], sample[1][:1])})


# ---- what it means ----


def losses(model, ids, offsets):
    return document_losses(model, ids, offsets, end=END, device=CPU)[0]


def test_a_step_on_a_document_moves_the_queries_loss_as_foretold(lm, documents):
    """θ ← θ - η ∇ℓ_z of the linear layers: the queries' mean loss falls by η times the influence (P = I)."""
    ids, offsets = documents
    query_ids, query_offsets = QUERIES["near"]
    compass = build_compass(lm, documents, {"near": QUERIES["near"]}, "identity")
    influence, _ = compass.scores(lm, ids, offsets)
    base, rate = double(lm), 1e-5

    def mean_loss(model):
        with torch.no_grad():
            return sum(
                float(torch.nn.functional.cross_entropy(model(input_ids=i[None]).logits[0], t, reduction="sum"))
                for i, t in query_windows
            ) / len(query_ids)

    windows, query_windows = windows_of(query_offsets, SIZE.row_tokens), []
    for w in range(len(windows)):
        first, n = int(windows.first[w]), int(windows.tokens[w])
        targets = torch.from_numpy(query_ids[first : first + n].astype(np.int64))
        before = END if windows.opens[w] else int(query_ids[first - 1])
        query_windows.append((torch.cat([torch.tensor([before]), targets[:-1]]), targets))
    start = mean_loss(base)
    for d in (0, 2, 5, 9):
        moved = copy.deepcopy(base)
        gradient = slow_gradients(base, ids, offsets[d : d + 2])[0]
        with torch.no_grad():
            for name, step in gradient.items():
                moved.get_submodule(name).weight.sub_(rate * step)
        assert (start - mean_loss(moved)) / rate == pytest.approx(influence[d, 0], rel=1e-2)


@pytest.fixture(scope="module")
def learnt():
    """A model that was trained on two languages, documents of both, and queries of the first."""
    rng = np.random.default_rng(3)
    following = rng.integers(1, V, (2, V, 3))  # in each language, one of three words follows a word

    def documents(language, n, seed):
        rng, texts = np.random.default_rng(seed), []
        for _ in range(n):
            word, text = int(rng.integers(1, V)), []
            for _ in range(24):
                text.append(word)
                word = int(following[language, word, rng.integers(3)])
            texts.append(text)
        return np.array(texts, np.uint16)

    texts = np.concatenate([documents(0, 60, 1), documents(1, 60, 2)])
    model = build.build(dataclasses.replace(SIZE, layers=2, width=32, ffn=48), V, 1)
    rows = torch.from_numpy(pack(texts.flatten(), np.arange(0, texts.size + 1, 24), 16, END).astype(np.int64))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(60):
        some = rows[(torch.arange(32) + 32 * step) % len(rows)]
        logits = model(input_ids=some[:, :-1]).logits.flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, some[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    pool = np.concatenate([documents(0, 20, 3), documents(1, 20, 4)])
    return language(model), pool, documents(0, 10, 5)


def flat(texts):
    return texts.flatten(), np.arange(0, texts.size + 1, texts.shape[1], dtype=np.int64)


@pytest.mark.parametrize("how", WAYS)
def test_positive_is_helpful(learnt, how):
    """A document equal to the query helps it, and documents of the queries' language more than those of another."""
    lm, pool, queries = learnt
    itself, _ = build_compass(lm, flat(pool), {"itself": flat(pool[:1])}, how).scores(lm, *flat(pool[:1]))
    assert itself[0, 0] > 0
    found, _ = build_compass(lm, flat(pool), {"first": flat(queries)}, how).scores(lm, *flat(pool))
    assert np.median(found[:20, 0]) > 0
    assert (found[:20, 0][:, None] > found[20:, 0]).mean() > (0.7 if how == "identity" else 0.85)


def test_a_step_on_an_influential_document_helps_more(learnt):
    """The tail-patch test: one small step of plain descent per document, all weights; then the queries' loss."""
    lm, pool, queries = learnt
    before, falls = losses(lm.model, *flat(queries)).sum(), []
    for text in pool:
        model = copy.deepcopy(lm.model).requires_grad_(True)
        row = torch.from_numpy(np.append(END, text).astype(np.int64))[None]
        logits = model(input_ids=row[:, :-1]).logits[0]
        torch.nn.functional.cross_entropy(logits, row[0, 1:]).backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight.sub_(0.02 * weight.grad)
        falls.append(before - losses(model, *flat(queries)).sum())
    for how, least in (("identity", 0.75), ("ekfac", 0.6)):
        found, _ = build_compass(lm, flat(pool), {"first": flat(queries)}, how).scores(lm, *flat(pool))
        assert spearman(found[:, 0], np.array(falls)) > least


# ---- the linear datamodeling score of a linear model ----


@pytest.fixture(scope="module")
def regression():
    """Predicted and real changes of the queries' losses at three shares of dropped rows, with P and without."""
    rng = np.random.default_rng(0)
    n, d, queries, subsets = 500, 20, 50, 100
    scales = np.logspace(0, -0.6, d)
    X, Q = rng.standard_normal((n, d)) * scales, rng.standard_normal((queries, d)) * scales
    truth = rng.standard_normal(d) / scales
    y, wanted = X @ truth + rng.standard_normal(n), Q @ truth + 1.5 * rng.standard_normal(queries)
    w = np.linalg.lstsq(X, y, rcond=None)[0]
    each = torch.from_numpy(X * (X @ w - y)[:, None])
    aimed = torch.from_numpy(Q * (Q @ w - wanted)[:, None])
    basis = Basis.of(torch.from_numpy(X.T @ X / n), torch.ones(1, 1, dtype=torch.float64))
    P = Preconditioner(basis.kronecker, 0.0, basis)
    directions = torch.cat([P(query[None]) for query in aimed])
    scores = {"P": (directions @ each.T).numpy() / n, "": (aimed @ each.T).numpy()}
    found = {}
    for share in (0.01, 0.1, 0.5):
        kept = np.array([rng.permutation(n) >= share * n for _ in range(subsets)])
        real = [(Q @ np.linalg.lstsq(X[rows], y[rows], rcond=None)[0] - wanted) ** 2 for rows in kept]
        for name, values in scores.items():
            found[name, share] = lds(-values @ kept.T.astype(float), np.array(real).T)
    return found


@pytest.mark.parametrize(("share", "with_p", "without"), [(0.01, 0.992, 0.75), (0.1, 0.974, 0.74), (0.5, 0.923, 0.68)])
def test_removals_of_a_linear_model_are_foretold(regression, share, with_p, without):
    """At 1, 10 and 50 % dropped, with the curvature and without: the values to be expected of 500 rows, 20 numbers."""
    assert regression["P", share] == pytest.approx(with_p, abs=0.03)
    assert regression["", share] == pytest.approx(without, abs=0.06)
