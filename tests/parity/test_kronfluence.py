"""Factors, eigenvalues and scores against kronfluence, with the tokens' own labels on both sides.

Ours are means over tokens, its Λ are means over examples: with all examples of T tokens its eigenvalues are T times
ours, its preconditioned gradients 1/T of ours where they are used (diagonal and EK-FAC). Scores are compared as they
are, with that factor.
"""

import dataclasses
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("kronfluence", exc_type=ImportError)

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

V, END, T, ROWS, QUERIES = 60, 0, 16, 48, 6


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lm():
    from tamis.models import build, sizes
    from tamis.models.device import Device
    from tamis.models.language import LanguageModel

    class Words:
        end = END

    size = dataclasses.replace(sizes.size("tiny"), layers=1, width=16, heads=2, ffn=24, row_tokens=T)
    model = build.build(size, V, 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3) if weight.dim() > 1 else None
    return LanguageModel(model.requires_grad_(False), Words(), "", Device("cpu", "float32"))


@pytest.fixture(scope="module")
def texts():
    """Rows and queries of T tokens each."""
    rng = np.random.default_rng(2)
    return rng.integers(1, V, (ROWS, T)).astype(np.uint16), rng.integers(1, V, (QUERIES, T)).astype(np.uint16)


@pytest.fixture(scope="module")
def theirs(lm, texts, tmp_path_factory):
    """strategy → (factors by name and layer, scores (queries, rows))."""
    import copy

    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    from tamis.models.gradients import linear_layers

    class Modelling(Task):
        def compute_train_loss(self, batch, model, sample=False):
            assert not sample
            logits = model(input_ids=batch[0]).logits.flatten(0, 1)
            return torch.nn.functional.cross_entropy(logits, batch[1].flatten(), reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return list(linear_layers(lm.model))

    def dataset(rows):
        targets = torch.from_numpy(rows.astype(np.int64))
        inputs = torch.cat([torch.full((len(rows), 1), END), targets[:, :-1]], 1)
        return torch.utils.data.TensorDataset(inputs, targets)

    task, found = Modelling(), {}
    model = prepare_model(copy.deepcopy(lm.model), task)
    folder = str(tmp_path_factory.mktemp("kronfluence"))
    analyzer = Analyzer("parity", model, task, cpu=True, disable_tqdm=True, output_dir=folder, log_level=50)
    pool, queries = (dataset(rows) for rows in texts)
    for strategy in ("identity", "diagonal", "kfac", "ekfac"):
        arguments = FactorArguments(strategy=strategy, use_empirical_fisher=True)
        analyzer.fit_all_factors(strategy, pool, per_device_batch_size=ROWS, factor_args=arguments)
        analyzer.compute_pairwise_scores(
            strategy, strategy, queries, pool, QUERIES, ROWS, score_args=ScoreArguments(damping_factor=None)
        )
        scores = analyzer.load_pairwise_scores(strategy)["all_modules"].numpy()
        factors = {} if strategy == "identity" else analyzer.load_all_factors(strategy)
        if strategy == "ekfac":
            factors |= analyzer.load_covariance_matrices(strategy)
        found[strategy] = (factors, scores)
    return found


@pytest.fixture(scope="module")
def sample(texts):
    from tamis.models.curvature import Sample

    return Sample.empirical(texts[0].flatten(), np.arange(0, ROWS * T + 1, T))


def test_factors_are_the_same(lm, sample, theirs):
    from tamis.models.curvature import mean_moments

    factors, _ = theirs["ekfac"]
    for name, (A, G) in mean_moments(lm, sample).items():
        for kind, ours in (("activation", A), ("gradient", G)):
            count = factors[f"num_{kind}_covariance_processed"][name]
            assert int(count) == ROWS * T
            other = factors[f"{kind}_covariance"][name].double() / count
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5 * float(other.diagonal().mean()))


def test_eigenvalues_are_the_same(lm, sample, theirs):
    """Of its own eigenvectors, whose signs are another's."""
    from tamis.models.curvature import Basis, mean_moments, mean_squares

    factors, _ = theirs["ekfac"]
    plain, _ = theirs["diagonal"]
    bases = {
        name: Basis(
            factors["activation_eigenvalues"][name].double(),
            factors["activation_eigenvectors"][name].double(),
            factors["gradient_eigenvalues"][name].double(),
            factors["gradient_eigenvectors"][name].double(),
        )
        for name in mean_moments(lm, sample)
    }
    for found, told in ((mean_squares(lm, sample, bases), factors), (mean_squares(lm, sample, {}), plain)):
        for name, ours in found.items():
            assert int(told["num_lambda_processed"][name]) == ROWS
            other = told["lambda_matrix"][name].double() / (ROWS * T)
            torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4 * float(other.mean()))


@pytest.mark.parametrize("strategy", ["identity", "diagonal", "kfac", "ekfac"])
def test_scores_are_the_same(lm, texts, sample, theirs, strategy):
    from tamis.models.curvature import Preconditioner, preconditioners
    from tamis.models.influence import Compass, mean_gradient

    pool, queries = texts
    P = preconditioners(lm, sample, strategy)
    directions = {}
    for row in queries:
        for name, gradient in mean_gradient(lm, row, np.array([0, T])).items():
            directions.setdefault(name, []).append(P.get(name, Preconditioner())(gradient).float())
    compass = Compass(
        tuple(f"q{i}" for i in range(QUERIES)), {name: torch.stack(each) for name, each in directions.items()}
    )
    ours, _ = compass.scores(lm, pool.flatten(), np.arange(0, ROWS * T + 1, T))
    _, other = theirs[strategy]
    factor = {"identity": T, "diagonal": 1, "kfac": T, "ekfac": 1}[strategy]  # ours is of the queries' mean loss
    np.testing.assert_allclose(ours.T * factor, other, rtol=1e-2, atol=2e-3 * np.abs(other).std())
    assert all(np.corrcoef(ours[:, q], other[q])[0, 1] > 0.9999 for q in range(QUERIES))
