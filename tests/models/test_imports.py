"""The package is cheap to import, and says what to install when a model is wanted and torch is not there."""

import os
import subprocess
import sys

import pytest

RUN = [sys.executable, "-P", "-c"]


def test_only_models_themselves_bring_torch():
    code = (
        "import sys, tamis.models.intervals, tamis.models.packing, tamis.models.sizes, tamis.models.tokenizer;"
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'dask', 'duckdb', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([*RUN, code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_missing_library_names_its_extra():
    for package, use in (
        ("torch", "import tamis.models.train"),
        ("tokenizers", "from tamis.models.tokenizer import *; train_tokenizer(['a'], 300, Path('unused'))"),
    ):
        code = f"import sys; from pathlib import Path; sys.modules['{package}'] = None; {use}"
        done = subprocess.run([*RUN, code], capture_output=True, text=True, check=False)
        last = done.stderr.strip().splitlines()[-1]
        assert "MissingExtraError" in last
        assert f"needs the package '{package}'" in last
        assert "pip install 'tamis[train]'" in last


ALONE = """
import sys
from pathlib import Path

ENGINE = ("dask", "distributed", "duckdb", "faiss", "ruamel", "ruamel.yaml", "click", "rich", "fsspec")
sys.modules.update(dict.fromkeys(ENGINE))  # an import of what is None fails

import numpy as np
import torch
from tamis.models import tokenizer
from tamis.models.device import Device
from tamis.models.language import language_model
from tamis.models.loss import bits_per_byte, document_losses
from tamis.models.packing import pack
from tamis.models.sizes import Size
from tamis.models.train import train

torch.set_num_threads(1)
folder = Path(sys.argv[1])
near, far = ["the sieve lets fine flour through " * 4] * 20, ["copper orbit pepper matrix proof " * 4] * 20
tokenizer.train_tokenizer(near + far, 300, folder / "tokenizer")
bpe = tokenizer.Tokenizer.load(folder / "tokenizer")
size = Size("narrow", 1, 16, 2, 32, 32, batch_rows=4, learning_rate=0.02)
rows = pack(*bpe.encode(near), size.row_tokens, bpe.end)
train(rows, size, seed=1, tokens=4000, folder=folder / "model", tokenizer_folder=folder / "tokenizer",
      device=Device("cpu", "float32"))
model = language_model(str(folder / "model"))
ids, offsets = bpe.encode(near[:2] + far[:2])
nats, _ = document_losses(model.model, ids, offsets, end=model.end)
bits = bits_per_byte(nats, [len(text) for text in near[:2] + far[:2]])
assert bits[:2].max() < 0.7 * bits[2:].min(), bits

from tamis.models.influence import Compass, build_compass

compass = build_compass(model, bpe.encode(near), {"near": bpe.encode(near[:3]), "far": bpe.encode(far[:3])}, "ekfac")
compass.save(folder)
scores, tokens = Compass.load(folder).scores(model, ids, offsets)
assert (tokens == np.diff(offsets)).all()
assert (scores[2:, 1] > scores[:2, 1]).all(), "what lowers the loss on other text is text like it"
print(sorted(name for name in ("tamis.pipeline", "tamis.scorers", "tamis.inline") if name in sys.modules))
"""


@pytest.mark.train
def test_models_are_trained_and_asked_without_anything_of_the_engine(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    environment = {**os.environ, "TAMIS_DEVICE": "cpu"}
    command = [*RUN, ALONE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
