"""Which device is chosen, and what is refused; a machine's GPUs are made up where there are none."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import os
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.models.device import Device, choose

pytestmark = pytest.mark.train


@pytest.fixture
def two_gpus(monkeypatch):
    """An older one (cuda:0) and a newer one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name=None: (8, 0) if name == "cuda:1" else (7, 5))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def test_precision_is_that_of_the_gpu_that_is_named(two_gpus):
    assert [choose(64, name).dtype for name in ("cuda", "cuda:0", "cuda:1")] == ["float32", "float32", "bfloat16"]


@pytest.mark.parametrize("name", ["cuda:2", "cuda:", "cuda:one"])
def test_a_gpu_that_is_not_there_is_refused(two_gpus, name):
    with pytest.raises(ValueError, match=f"device: expected one of cuda, cuda:0, cuda:1, got '{name}'"):
        choose(64, name)


def test_products_on_a_gpu_are_repeatable_unless_the_caller_says_how(two_gpus, monkeypatch):
    choose(64, "cpu")
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    choose(64, "cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    choose(64, "cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_smaller_gpu_takes_fewer_tokens_at_a_time(monkeypatch):
    gib = {"cuda": 79.1, "cuda:1": 39.4, "cuda:2": 23.6, "cuda:3": 139.8}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda name: SimpleNamespace(total_memory=int(gib[name] * 2**30))
    )
    assert [Device(name, "bfloat16").micro_tokens for name in gib] == [65_536, 32_768, 16_384, 65_536]
    assert Device("cpu", "float32").micro_tokens == 8_192


def test_kernels_are_repeatable_for_a_while():
    def settings():
        return torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory

    before = settings()
    with Device("cuda", "float32").repeatable():
        assert settings() == (True, False)
    assert settings() == before
    with Device("cpu", "float32").repeatable():
        assert settings() == before
