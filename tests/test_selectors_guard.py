"""The package has a folder `selectors`; the standard library's module of that name must stay what `import` finds."""

import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_selectors_is_the_standard_library_s():
    import selectors

    assert Path(selectors.__file__).is_relative_to(sysconfig.get_path("stdlib"))
    assert selectors.DefaultSelector


def test_commands_run_from_the_repository_find_it_too():
    code = "import selectors, subprocess, asyncio; selectors.DefaultSelector"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_no_folder_below_tests_is_a_package():
    """An `__init__.py` in tests/selectors would replace the standard module for the whole session."""
    assert not list((REPOSITORY / "tests").rglob("__init__.py"))


def test_the_root_holds_no_folder_named_like_a_standard_module():
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert folders & set(sys.stdlib_module_names) == set()
