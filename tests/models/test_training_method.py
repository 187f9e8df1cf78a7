"""How a model is trained: recipes and what overrides them, models kept on the way, what it costs, what is reported."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import dataclasses
import json
import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.models import build, flops, sizes
from tamis.models.device import Device, choose
from tamis.models.loop import Loop
from tamis.models.method import Method
from tamis.models.order import Prune
from tamis.models.reweighting import Reweight
from tamis.models.train import RESULT

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]

BIG = sizes.Size("paper", 12, 1024, 16, 4096, 512)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


# ---- recipes ----


def test_the_preset_is_the_published_one_where_runs_are_as_long():
    prior = Method("color").plan(BIG, 3_145_728_000)
    assert (prior.steps, prior.batch_rows, prior.warmup_tokens) == (24_000, 256, 1_000 * 256 * 512)
    assert (prior.learning_rate, prior.betas, prior.epsilon) == (1e-3, (0.9, 0.95), 1e-15)
    assert (prior.weight_decay, prior.clip, prior.basis) == (0.0, 1.0, "CoLoR-Filter")
    assert prior.learning_rate_after(prior.tokens) == pytest.approx(1e-4)
    books = Method("color").plan(BIG, 25_000_000, continues=True)
    assert (books.batch_rows, books.warmup_tokens // books.batch_tokens) == (256, 19)
    assert "a warm-up of 19 steps instead of 100" in books.basis


def test_the_preset_leaves_a_short_run_some_steps_and_says_so():
    recipe = Method("color").plan(sizes.size("tiny"), 300_000)
    assert (recipe.batch_rows, recipe.steps) == (46, 51)
    assert recipe.warmup_tokens == 30_000
    assert recipe.basis == (
        "CoLoR-Filter; batches of 46 rows instead of 256 and a warm-up of 5 steps instead of 1,000, "
        "for a run of 51 steps"
    )


def test_numbers_that_are_given_win_and_are_told():
    size = sizes.size("tiny")
    recipe = Method(learning_rate=1e-2, batch_tokens=1_900, warmup_tokens=0).plan(size, 10_000)
    assert (recipe.learning_rate, recipe.batch_rows, recipe.warmup_tokens) == (1e-2, 15, 0)
    assert recipe.basis == "measured; as given: learning_rate, batch_tokens, warmup_tokens"
    assert recipe.learning_rate_after(recipe.batch_tokens) < 1e-2
    with pytest.raises(ValueError, match="batch_tokens: expected a row of 128 tokens or more, got 100"):
        Method(batch_tokens=100).plan(size, 10_000)
    with pytest.raises(ValueError, match="warmup_tokens: expected less than the 500"):
        Method(warmup_tokens=500).plan(size, 500)


def test_a_small_model_without_measured_rates_gets_no_more_than_was_good_at_small_sizes():
    shape = sizes.Size("foreign", 2, 64, 2, 192, 64)
    recipe = shape.recipe(300_000)
    assert sizes.step_law(shape.parameters, 300_000)[0] > 2e-2
    assert recipe.learning_rate == 8e-3
    assert "lowered" in recipe.basis
    assert "lowered" not in sizes.size("small").recipe(300_000).basis
    large = sizes.size("400m").recipe(8_000_000_000)
    assert large.learning_rate == sizes.step_law(sizes.size("400m").parameters, 8_000_000_000)[0]


def test_a_method_survives_json():
    for method in (Method(), Method("color", 1e-3, 512, 0, Reweight("extremes", burn_in=3), Prune(0.3, 0.5))):
        assert Method.from_json(json.loads(json.dumps(method.to_json()))) == method


def test_the_optimiser_is_the_recipe_s(toy_size, toy_rows, tmp_path):
    recipe = Method("color").plan(toy_size, 1_000)
    loop = Loop(build.build(toy_size, 300, 0), recipe, Method(), toy_rows, 0, Device("cpu", "float32"), tmp_path, "")
    assert {group["weight_decay"] for group in loop.optimizer.param_groups} == {0.0}
    assert loop.optimizer.param_groups[0]["eps"] == 1e-15
    default = Loop(
        loop.model, toy_size.recipe(1_000), Method(), toy_rows, 0, Device("cpu", "float32"), tmp_path, ""
    ).optimizer.param_groups
    assert [(group["weight_decay"], group["eps"], group["betas"]) for group in default] == [
        (0.1, 1e-8, (0.9, 0.95)),
        (0.0, 1e-8, (0.9, 0.95)),
    ]


# ---- models kept on the way ----


def test_models_are_kept_at_equal_distances_the_last_one_last(run, tmp_path):
    from transformers import AutoModelForCausalLM

    result = run(tmp_path, keep=4)
    assert [kept["step"] for kept in result["checkpoints"]] == [4, 8, 12, 16]
    rates = [kept["learning_rate"] for kept in result["checkpoints"]]
    recipe = sizes.size("tiny").recipe(1_000)
    recipe = dataclasses.replace(recipe, row_tokens=16, batch_rows=4, warmup_tokens=100)
    ends = [step * recipe.batch_tokens for step in (4, 8, 12, 16)]
    assert rates == pytest.approx([recipe.learning_rate_after(end) for end in ends], rel=0.01)
    assert weights(tmp_path / "checkpoints/16") == weights(tmp_path)
    assert weights(tmp_path / "checkpoints/12") != weights(tmp_path)
    for kept in result["checkpoints"]:
        folder = tmp_path / kept["folder"]
        assert {path.name for path in folder.iterdir()} == {
            "config.json",
            "generation_config.json",
            "model.safetensors",
        }
        AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["12", "16", "4", "8"]


def test_keeping_models_changes_none_and_more_than_there_are_steps_are_as_many(run, tmp_path):
    run(tmp_path / "none")
    many = run(tmp_path / "many", keep=1_000)
    assert weights(tmp_path / "none") == weights(tmp_path / "many")
    assert [kept["step"] for kept in many["checkpoints"]] == list(range(1, 17))


def test_what_a_killed_run_of_another_seed_kept_does_not_stay(run, tmp_path):
    def kill(done, _line):
        if done > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, keep=16, report=kill, seed=8)
    assert (tmp_path / "checkpoints/2").exists()
    run(tmp_path, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["16"]


# ---- costs ----


def test_operations_are_counted_by_the_source_s_formula(toy_size):
    tied = build.build(toy_size, 300, 0)
    blocks = toy_size.parameters
    norms = 3 * 16
    expected = 6 * (blocks + norms + 300 * 16) + 12 * 1 * 16 * 64
    assert flops.flops_per_token(tied, 64) == expected
    untied = build.build(dataclasses.replace(toy_size, tied=False), 300, 0)
    assert flops.flops_per_token(untied, 64) == expected


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 9.89e14),
        ("NVIDIA H100 PCIe", 7.56e14),
        ("NVIDIA H200", 9.89e14),
        ("NVIDIA H200 NVL", 8.35e14),
        ("NVIDIA GH200 480GB", 9.89e14),
        ("NVIDIA A100-SXM4-80GB", 3.12e14),
        ("NVIDIA L4", 1.21e14),
        ("NVIDIA L40S", 3.62e14),
        ("NVIDIA B200", 2.25e15),
        ("NVIDIA H800 PCIe", 7.56e14),
        ("NVIDIA GeForce RTX 4090", 1.652e14),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A10G", None),
        ("Some GPU of the future", None),
    ],
)
def test_the_peak_of_a_gpu_goes_by_its_name(name, peak):
    assert flops.peak_of(name) == peak


def test_utilisation_is_the_share_of_the_peaks_of_all_processes(toy_size, toy_rows, tmp_path, monkeypatch):
    from tamis.models.parallel import Ranks

    monkeypatch.setattr(flops, "peak_flops", lambda _device: 1e6)
    device = Device("cpu", "float32")
    loop = Loop(
        build.build(toy_size, 300, 0),
        toy_size.recipe(100),
        Method(),
        toy_rows,
        0,
        device,
        tmp_path,
        "",
        ranks=Ranks(0, 4),
    )
    assert loop.mfu(10.0) == pytest.approx(10 * loop.flops_per_token / 4e6)
    monkeypatch.undo()
    assert flops.peak_flops(device) is None


def test_an_estimate_is_of_the_order_of_the_training(run, tmp_path, toy_size):
    """Within a factor of 5: single passes are timed, on a machine that may do other things."""
    import time

    size = dataclasses.replace(toy_size, width=64, ffn=256, batch_rows=16)
    run(tmp_path / "warm", size=size, tokens=2_000)
    began = time.perf_counter()
    run(tmp_path / "real", size=size, tokens=40_000)
    real = time.perf_counter() - began
    estimate = flops.seconds_to_train(size, 300, size.recipe(40_000), choose(64, "cpu"))
    assert real / 5 < estimate < real * 5


# ---- what is said ----


def test_reports_tell_loss_speed_and_what_is_left(run, tmp_path):
    told = []
    run(tmp_path, report=lambda done, line: told.append((done, line)))
    assert len(told) == 16
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == 1.0
    for number, (_, line) in enumerate(told, 1):
        assert re.fullmatch(rf"step {number} of 16, loss \d\.\d{{3}}, [\d,]+ tokens/s, \d+:\d\d left", line), line


def test_a_result_says_how_it_was_trained(run, tmp_path):
    result = run(tmp_path)
    assert result["basis"] == "measured"
    assert (result["processes"], result["compiled"], result["mfu"], result["checkpoints"]) == (1, False, None, [])
    assert result["flops_per_token"] > 6 * result["parameters"]
    assert json.loads((tmp_path / RESULT).read_text())["result"] == result


def test_a_run_that_cannot_be_compiled_goes_on_without(run, tmp_path, monkeypatch):
    def broken(_module, **_options):
        def body(**_inputs):
            raise RuntimeError("no compiler here\nand much more")

        return body

    told = []
    run(tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", broken)
    result = run(tmp_path / "tried", compile=True, report=lambda _done, line: told.append(line))
    assert told[0] == "torch.compile does not work here, training goes on without it: no compiler here"
    assert not result["compiled"]
    assert weights(tmp_path / "plain") == weights(tmp_path / "tried")


def test_a_compiled_body_is_used_for_whole_micro_batches(run, tmp_path, monkeypatch):
    """What torch.compile returns takes the place of the transformer, but for the last, shorter step."""
    shapes = []

    def compiled(module, **_options):
        def body(input_ids, **options):
            shapes.append(tuple(input_ids.shape))
            return module(input_ids=input_ids, **options)

        return body

    run(tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", compiled)
    assert run(tmp_path / "compiled", compile=True)["compiled"]
    assert shapes == [(4, 16)] * 16  # one to try it, and 15 of 16 steps
    assert weights(tmp_path / "plain") == weights(tmp_path / "compiled")


@pytest.mark.slow
def test_torch_compile_trains_the_same_model(run, tmp_path):
    """To the tolerance of kernels that add up in another order; where there is no compiler it says so, tested above."""
    plain, compiled = run(tmp_path / "plain"), run(tmp_path / "compiled", compile=True)
    assert compiled["final_loss"] == pytest.approx(plain["final_loss"], rel=1e-3)
