"""What every component promises about its options: they are data, checked by name, and they are the whole config."""

import dataclasses
import inspect
import json
from functools import partial

import numpy as np
import pytest

from tamis.errors import SpecError
from tamis.families import FAMILIES, build, code_digest, documents_in, find, named_documents, names, options_of
from tamis.steps import Train, Use


def test_every_component_has_a_line_of_options_and_every_line_a_component(lines):
    assert set(lines) == {(verb, name) for verb in FAMILIES for name in names(verb)}


def test_options_survive_json(case):
    component = case.component()
    options = options_of(component)
    assert json.loads(json.dumps(options)) == options
    assert build(case.cls, options) == component
    assert options_of(build(case.cls, options)) == options


def test_a_component_is_a_frozen_dataclass(case):
    component = case.component()
    assert dataclasses.is_dataclass(component)
    assert type(component).__dataclass_params__.frozen
    assert hash(component) == hash(case.component())
    for field in dataclasses.fields(component):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(component, field.name, None)


def test_a_component_says_what_one_gets_and_names_every_option(case):
    text = inspect.getdoc(case.cls) or ""
    assert text.splitlines()[0].endswith((".", ":")), "the first sentence says what you get"
    said = "\n".join(inspect.getdoc(parent) or "" for parent in case.cls.__mro__)
    missing = [
        field.name for field in dataclasses.fields(case.cls) if field.name not in said and field.name != "dimensions"
    ]
    assert not missing, f"the docstring of {case.cls.__name__} does not say what {missing} are"


def test_an_unknown_option_is_refused_with_the_likely_one(case):
    for field in dataclasses.fields(case.cls):
        misspelt = field.name + "x"
        with pytest.raises(
            SpecError, match=f"^{misspelt}: {case.name} has no such option; did you mean '{field.name}'"
        ):
            build(case.cls, {**case.options(["t"]), misspelt: 1}, texts=True)
    with pytest.raises(SpecError, match=f"^qqq: {case.name} has no such option; it has "):
        build(case.cls, {**case.options(["t"]), "qqq": 1}, texts=True)


def test_a_mistyped_option_is_refused_by_name(case):
    for field in dataclasses.fields(case.cls):
        with pytest.raises(SpecError, match=rf"^{field.name}\b.*{case.name} expects: "):
            build(case.cls, {**case.options(["t"]), field.name: [{"no": object()}, 1]}, texts=True)


def test_an_unknown_key_of_a_set_of_documents_is_refused():
    with pytest.raises(SpecError, match="txet"):
        build(find("score", "importance"), {"target": {"paths": "x", "txet": "body"}})


def test_one_path_stands_for_a_set_of_documents_wherever_there_is_one():
    assert build(find("score", "overlap"), {"against": "x"}, "/base").against[0].paths == ("/base/x",)


def test_a_set_of_documents_goes_by_its_option_and_its_name():
    several = build(find("score", "attribution"), {"target": {"law": "x", "news": "y"}})
    assert [name for name, _ in named_documents(several)] == ["target.law", "target.news"]
    one = build(find("score", "overlap"), {"against": ["x", "y"]})
    assert [name for name, _ in named_documents(one)] == ["against", "against"]


def test_a_missing_option_is_refused_by_name(case):
    required = [
        f.name
        for f in dataclasses.fields(case.cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    for name in required:
        options = {key: value for key, value in case.options(["t"]).items() if key != name}
        with pytest.raises(SpecError, match=f"^{name}: {case.name} expects: Field required"):
            build(case.cls, options, texts=True)


def test_numbers_out_of_range_are_refused_by_name(case):
    """A number is refused somewhere: no component takes minus ten to the thirty for an option of its own."""
    for field in dataclasses.fields(case.cls):
        if "int" in str(field.type) or "float" in str(field.type):
            with pytest.raises(SpecError, match=rf"^{field.name}\b"):
                build(case.cls, {**case.options(["t"]), field.name: -(10**30)}, texts=True)


def test_what_is_no_whole_number_is_never_taken_for_one(case):
    for field in dataclasses.fields(case.cls):
        if str(field.type).startswith("Annotated[int"):
            for wrong in (1.5, "many", [1], None):
                if wrong is None and "None" in str(field.type):
                    continue
                with pytest.raises(SpecError, match=rf"^{field.name}\b"):
                    build(case.cls, {**case.options(["t"]), field.name: wrong}, texts=True)


class Recorded:
    """A component that notes what its program yields and returns, and where its models lie."""

    def __init__(self, component):
        self.component, self.seeded, self.yielded, self.folders = component, component.seeded, [], []
        self.asks = component.asks

    def steps(self, pool):
        program = self.component.steps(pool)
        value = None
        while True:
            try:
                step = program.send(value)
            except StopIteration as stop:
                self.yielded.append(stop.value)
                return stop.value
            self.yielded.append(step)
            value = yield step
            if isinstance(step, (Train, Use)):
                self.folders.append(value["folder"])

    def described(self):
        """All steps to the last number, with another name for each folder."""
        text = str([described(step) for step in self.yielded])
        for number, folder in enumerate(self.folders):
            text = text.replace(folder, f"folder {number}")
        return text


def described(value):
    """A step's content to the last number, without identities."""
    if isinstance(value, partial):
        return ("partial", described(value.func), described(value.args), described(value.keywords))
    if inspect.ismethod(value):
        return ("method", value.__qualname__, described(value.__self__))
    if inspect.isfunction(value):
        return ("function", value.__module__, value.__qualname__)
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if dataclasses.is_dataclass(value):
        return (
            type(value).__name__,
            [(field.name, described(getattr(value, field.name))) for field in dataclasses.fields(value)],
        )
    if isinstance(value, dict):
        return sorted((key, described(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    return repr(value)


def test_a_program_played_twice_asks_for_the_same_steps(case, usable):
    plays = []
    for _ in range(2):
        recorded = Recorded(case.component())
        case.run(usable, component=recorded)
        plays.append(recorded.described())
    assert plays[0] == plays[1]


def test_a_program_is_made_of_module_level_functions(case, usable):
    """A worker finds the functions again by replaying the program: closures and lambdas would hide what they hold."""
    recorded = Recorded(case.component())
    case.run(usable, component=recorded)
    assert "<locals>" not in recorded.described()
    assert "<lambda>" not in recorded.described()


def test_documents_among_the_options_are_found(case):
    expected = sum(value is not None for value in case.options(["t"]).values() if value == ["t"])
    assert sum(1 for _ in documents_in(case.component())) >= expected


def test_the_code_digest_is_stable(case):
    code_digest.cache_clear()
    first = code_digest(case.cls)
    code_digest.cache_clear()
    assert code_digest(case.cls) == first
    assert len(first) == 32


LOUD = '''"""How loud a document is."""
from dataclasses import dataclass
import numpy as np
from tamis.scorers.base import Scorer
from tamis.steps import Batch


@dataclass(frozen=True)
class Loud(Scorer):
    """Exclamation marks."""

    weight: float = 1.0

    def score(self, batch: Batch):
        texts = batch["text"].to_pylist()
        return np.array([text.count("!") for text in texts], np.float32) * self.weight
'''


def digest_of_file(folder, text):
    folder.mkdir()
    (folder / "loud.py").write_text(text)
    return code_digest(find("score", "loud", str(folder)))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"""Exclamation marks."""', '"""How many exclamation marks there are."""'),
        lambda text: text.replace("    weight: float", "    # a comment\n    weight: float"),
        lambda text: text.replace("np.float32) * self.weight", "np.float32)  *  self.weight  # louder"),
        lambda text: text.replace('"""How loud a document is."""', ""),
    ],
    ids=["docstring", "comment", "white space", "module docstring"],
)
def test_the_code_digest_does_not_see_comments(tmp_path, change):
    assert change(LOUD) != LOUD
    assert digest_of_file(tmp_path / "a", LOUD) == digest_of_file(tmp_path / "b", change(LOUD))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"!"', '"?"'),
        lambda text: text.replace("* self.weight", "+ self.weight"),
        lambda text: text.replace("= 1.0", "= 2.0"),
        lambda text: text.replace("import numpy as np", "import numpy as np\nimport math"),
    ],
    ids=["constant", "operator", "default", "import"],
)
def test_the_code_digest_sees_code(tmp_path, change):
    assert digest_of_file(tmp_path / "a", LOUD) != digest_of_file(tmp_path / "b", change(LOUD))


def test_the_code_digest_sees_the_kernels_behind_a_component():
    """Two components of one family that use other kernels differ, and both hold their kernels' code."""
    digests = {code_digest(find(verb, name)) for verb in FAMILIES for name in names(verb)}
    assert len(digests) == sum(len(names(verb)) for verb in FAMILIES)
