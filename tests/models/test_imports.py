"""The package is cheap to import, and says what to install when a model is wanted and torch is not there."""

import subprocess
import sys

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
