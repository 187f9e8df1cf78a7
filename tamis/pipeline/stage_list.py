"""The `stages:` list as programs; the programs that the engine itself needs are added where they belong."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tamis.errors import SpecError, missing_extra
from tamis.expressions import Expression, without_folds
from tamis.families import build, find, option_names, options_of, refuse_unknown
from tamis.pipeline.gates import Gates
from tamis.pipeline.passages import marks_spans
from tamis.pipeline.program import ProgramSpec
from tamis.steps import Ask

if TYPE_CHECKING:
    from tamis.pipeline.spec import Reader

VERBS = ("embed", "deduplicate", "train", "score", "verify", "select", "compare", "diversity")
STAGE_KEYS = ("as", "where", "fit")  # allowed beside any component's own options
BUDGETS = ("budget_tokens", "budget_documents")


class StageList:
    """Reads the nodes of one file, in order. Raises SpecError with the line at hand."""

    def __init__(self, reader: Reader, seed: int, folder: str | None, root: Mapping[str, Any]) -> None:
        self._reader, self._seed, self._folder, self._root = reader, seed, folder, root
        self._names: dict[str, int] = {}
        self._asked: dict[str, tuple[Any, ...]] = {}  # what programs are, by their names
        self._trained: list[str] = []  # names of stages whose training others may use
        self._arms: list[str] = []
        self._spans: list[str] = []
        self._gates = Gates()
        self._tokens_made = False

    def programs(self) -> Iterator[ProgramSpec]:
        nodes = self._root["stages"]
        if not isinstance(nodes, list) or not nodes:
            line = self._reader.line(self._root, "stages")
            raise self._fail(line, "stages: expected a list of stages, e.g. `- score: [length]`")
        options, line = self._tokenizer_options()
        self._make(
            "pipeline", "tokens", options, line, self._reader.lines(options)
        )  # a mistake in it is one, whether it is used or not
        yield self._internal("census", {}, 0)
        yield self._internal("identities", {}, 0)
        for index, node in enumerate(nodes):
            line = self._reader.line(nodes, index)
            if not isinstance(node, dict) or len(node) != 1:
                raise self._fail(line, f"stages: expected one of {', '.join(VERBS)} per list item, got {shown(node)}")
            verb = next(iter(node))
            self._reader.keys(node, VERBS, "stages")
            yield from getattr(self, f"_{verb}")(node[verb], self._reader.line(node, verb))

    def _fail(self, line: int, message: str) -> SpecError:
        return self._reader.fail(line, message)

    # ---- the verbs ----

    def _embed(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        said, node, line = self._outer("embed", node, line)
        yield from self._component("embed", node, line, said, "vector")

    def _deduplicate(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        said, node, line = self._outer("deduplicate", node, line)
        yield from self._component("deduplicate", node, line, said)

    def _score(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        said, node, line = self._outer("score", node, line)
        if not isinstance(node, list):
            yield from self._component("score", node, line, said)
            return
        if not node:
            raise self._fail(line, "score: expected at least one scorer, got an empty list")
        for index, item in enumerate(node):
            yield from self._component("score", item, self._reader.line(node, index), said)

    def _train(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        if not isinstance(node, dict) or "name" not in node or "on" not in node:
            raise self._fail(line, f"train: expected name: and on: (and from: or size:), got {shown(node)}")
        yield from self._tokens()
        lines = self._reader.lines(node)
        said = yield from self._where(node, lines, line)
        options = self._with_start("train", node, lines, ("name", "where"))
        built = self._make("pipeline", "train", options, line, lines)
        name = str(node["name"])
        self._check_uses(built, f"train {name}", line, lines)
        if (arm := getattr(built.on, "arm", None)) is not None and arm not in self._arms:
            known = ", ".join(self._arms) or "none"
            raise self._fail(
                lines["on"],
                f"train {name}: on.arm: no select stage before this one is called {arm!r}; there are {known}",
            )
        yield self._program("pipeline", "train", name, built, line, said)

    def _verify(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        if not isinstance(node, dict) or "score" not in node or "target" not in node:
            raise self._fail(line, f"verify: expected score: and target: (and subsets:, tokens:), got {shown(node)}")
        yield from self._tokens()
        lines = self._reader.lines(node)
        said = yield from self._where(node, lines, line)
        options = self._with_start("verify", node, lines, ("as", "where"))
        options["score"] = yield from self._expression("score", node["score"], lines["score"])
        if isinstance(node["score"], str):
            options["score"] = [options["score"]]
        built = self._make("pipeline", "verify", options, line, lines)
        name = str(node.get("as", "verify" if len(built.score) > 1 else f"verify_{built.score[0].strip()}"))
        if "as" not in node and not name.replace("_", "a").isalnum():
            raise self._fail(lines["score"], "verify: expected a name for the verdict on an expression; add `as:`")
        self._check_uses(built, name, line, lines)
        self._gates.verified(name, built.score)
        yield self._program("pipeline", "verify", name, built, line, said)

    def _select(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        if not isinstance(node, dict) or "name" not in node or "by" not in node:
            raise self._fail(line, f"select: expected name: and by: (and where:, budget_tokens:), got {shown(node)}")
        self._reader.keys(node, ("name", "where", "by", "trust", *BUDGETS), "select")
        component, options, own_line = self._named("select", node["by"], line)
        outer = {key: node[key] for key in ("where", "trust", *BUDGETS) if key in node}
        lines = {**self._reader.lines(node), **self._reader.lines(options)}
        if twice := [key for key in outer if key in options]:
            raise self._fail(lines[twice[0]], f"select: {twice[0]} stands beside by: and within it; keep one of them")
        given = {**outer, **options}
        for key in ("where", "score"):
            if key in given:
                given[key] = yield from self._expression(key, given[key], lines.get(key, line))
        built = self._make("select", component, given, own_line, lines)
        self._check_uses(built, f"select {node['name']}", own_line, lines)
        for ask in built.asks():
            yield from self._ask(ask, line, {})
        try:
            built = self._gates.before(built)
        except SpecError as error:
            raise self._fail(lines.get("trust", lines.get("gates", line)), str(error)) from error
        if built.budget_tokens:
            yield from self._tokens()
        self._arms.append(str(node["name"]))
        yield self._program("select", component, str(node["name"]), built, line)

    def _compare(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        if not isinstance(node, dict):
            raise self._fail(line, f"compare: expected arms:, size:, seeds: and evaluate:, got {shown(node)}")
        yield from self._tokens()
        lines = self._reader.lines(node)
        if "overlap" in node:
            raise self._fail(lines["overlap"], "compare has no key 'overlap'; it is computed against its own sets")
        if "spans" in node:
            raise self._fail(
                lines["spans"], "compare has no key 'spans'; name arms to be trained on all text in `whole:`"
            )
        if "compare" in self._names:
            raise self._fail(line, "compare: expected one per file, got a second; compare all arms in one")
        # a user's own `overlap` stage looks at other sets, so it does not stand in for this one
        overlap = "overlap" if "overlap" not in self._names else "evaluation_overlap"
        built = self._make("pipeline", "compare", {**node, "overlap": overlap, "spans": self._spans}, line, lines)
        self._check_arms("compare", built.arms, lines["arms"])
        options = {"against": [options_of(documents) for documents in built.evaluate.values()]}
        yield self._program("score", "overlap", overlap, self._make("score", "overlap", options, line), line)
        yield self._program("pipeline", "compare", "compare", built, line)

    def _diversity(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        if not isinstance(node, (dict, type(None))):
            raise self._fail(line, f"diversity: expected options such as `of: vector`, or nothing, got {shown(node)}")
        if "diversity" in self._names:
            raise self._fail(line, "diversity: expected one per file, got a second; name all arms in one")
        lines = self._reader.lines(node) if node else {}
        said = yield from self._where(node or {}, lines, line)
        options = {"arms": list(self._arms), **{key: value for key, value in (node or {}).items() if key != "where"}}
        built = self._make("pipeline", "diversity", options, line, lines)
        self._check_arms("diversity", built.arms, lines.get("arms", line))
        yield self._program("pipeline", "diversity", "diversity", built, line, said)

    def _check_arms(self, verb: str, arms: Sequence[str], line: int) -> None:
        for arm in arms:
            if arm not in self._arms:
                known = ", ".join(self._arms) or "none"
                raise self._fail(
                    line, f"{verb}.arms: no select stage before this one is called {arm!r}; there are {known}"
                )

    # ---- programs of the engine ----

    def _tokens(self) -> Iterator[ProgramSpec]:
        """The run's tokenizer, once, before the first stage that counts tokens."""
        if not self._tokens_made:
            self._tokens_made = True
            options, line = self._tokenizer_options()
            yield self._internal("tokens", options, line)

    def _tokenizer_options(self) -> tuple[Mapping[str, Any], int]:
        options = self._root.get("tokenizer", {})
        line = self._reader.line(self._root, "tokenizer") if "tokenizer" in self._root else 0
        if not isinstance(options, dict):
            raise self._fail(line, f"tokenizer: expected options such as `vocabulary: 4096`, got {options!r}")
        return options, line

    def _internal(self, component: str, options: Mapping[str, Any], line: int) -> ProgramSpec:
        built = self._make("pipeline", component, options, line, self._reader.lines(options))
        return self._program("pipeline", component, component, built, line)

    # ---- one component ----

    def _outer(self, verb: str, node: Any, line: int) -> tuple[dict[str, Any], Any, int]:
        """What a stage says for its components beside `by:`, and the components."""
        if not isinstance(node, dict) or "by" not in node:
            return {}, node, line
        self._reader.keys(node, ("by", *STAGE_KEYS), verb)
        return {key: node[key] for key in STAGE_KEYS if key in node}, node["by"], self._reader.line(node, "by")

    def _component(
        self, verb: str, node: Any, line: int, outer: Mapping[str, Any], default: str | None = None
    ) -> Iterator[ProgramSpec]:
        """`name`, or `{name: {options, as, where, fit}}`, after what it asks for; `outer` is what the stage says."""
        component, options, line = self._named(verb, node, line)
        lines = self._reader.lines(options)
        said = {**outer, **{key: options[key] for key in STAGE_KEYS if key in options}}
        for key, value in said.items():
            if not isinstance(value, str):
                raise self._fail(lines.get(key, line), f"{key}: expected text, got {value!r}")
        if said.get("fit", "frozen") != "frozen":
            expected = "expected frozen (keep what was fitted when the corpus grows)"
            raise self._fail(lines.get("fit", line), f"fit: {expected}, got {said['fit']!r}")
        said |= yield from self._where(said, lines, line)
        own = {key: value for key, value in options.items() if key not in STAGE_KEYS}
        built = self._make(verb, component, own, line, lines)
        name = said.get("as", default or component)
        self._check_uses(built, f"{verb} {name}", line, lines)
        for ask in built.asks():
            yield from self._ask(ask, line, {key: said[key] for key in ("where",) if key in said})
        yield self._program(verb, component, name, built, line, said)

    def _ask(self, ask: Ask, line: int, said: Mapping[str, Any]) -> Iterator[ProgramSpec]:
        """What a component asks for, unless it is there already. Raises SpecError if something else has its name."""
        built = self._make(ask.verb, ask.component, ask.options, line)
        what = (ask.verb, ask.component, built, said.get("where"))
        if self._asked.get(ask.name) == what:
            return
        if ask.name in self._asked:
            raise self._fail(
                line,
                f"{ask.name}: is there with other options or another `where:` (line {self._names[ask.name]}); "
                "give all stages that need it the same `where:`",
            )
        self._check_uses(built, ask.name, line, {})
        for first in built.asks():
            yield from self._ask(first, line, said)
        yield self._program(ask.verb, ask.component, ask.name, built, line, said)

    def _check_uses(self, built: Any, label: str, line: int, lines: Mapping[str, int]) -> None:
        """Whether the stages before it make what it needs of them; a complaint comes with the option's line."""
        for objection in built.objections({name: made[2] for name, made in self._asked.items()}):
            told = f"{label}: {_as_written(objection, lines)}"
            raise self._fail(lines.get(objection.split(":")[0], line), told)
        for name in built.uses:
            if name not in self._trained:
                known = ", ".join(self._trained) or "none"
                raise self._fail(
                    line,
                    f"{label}: expected the name of a stage before this one that trains, got {name!r}; "
                    f"there are {known}",
                )

    def _named(self, verb: str, node: Any, line: int) -> tuple[str, Mapping[str, Any], int]:
        """A component's name, its options and its line."""
        if isinstance(node, str):
            return node, {}, line
        if isinstance(node, dict) and len(node) == 1:
            name = next(iter(node))
            options = node[name] if node[name] is not None else {}
            if isinstance(name, str) and isinstance(options, dict):
                return name, options, self._reader.line(node, name)
        raise self._fail(line, f"{verb}: expected a component's name, or `name: {{options}}`, got {shown(node)}")

    def _make(
        self, verb: str, component: str, options: Mapping[str, Any], line: int, lines: Mapping[str, int] | None = None
    ) -> Any:
        """The component; a complaint about an option comes with that option's line."""
        try:
            return build(find(verb, component, self._folder), options, self._reader.base)
        except SpecError as error:
            lines = lines or {}
            option = str(error).split(":")[0].split(".")[0]
            raise self._fail(lines.get(option, line), _as_written(str(error), lines)) from error

    def _with_start(
        self, component: str, node: Mapping[str, Any], lines: dict[str, int], outer: Sequence[str]
    ) -> dict[str, Any]:
        """The options of a stage whose model may start `from:` another, which is no name that Python knows."""
        options = {key: value for key, value in node.items() if key not in outer}
        known = ["from" if name == "start" else name for name in option_names(find("pipeline", component))]
        try:
            refuse_unknown(component, options, known)
        except SpecError as error:
            raise self._fail(lines[str(error).split(":")[0]], str(error)) from error
        if "from" in options:
            options["start"], lines["start"] = options.pop("from"), lines["from"]
        return options

    def _where(
        self, node: Mapping[str, Any], lines: Mapping[str, int], line: int
    ) -> Generator[ProgramSpec, None, dict[str, Any]]:
        """The `where:` of a stage that has one."""
        if "where" not in node:
            return {}
        return {"where": (yield from self._expression("where", node["where"], lines.get("where", line)))}

    def _expression(self, key: str, text: Any, line: int) -> Generator[ProgramSpec, None, Any]:
        """Expressions with columns in place of `rank(…)` and `zscore(…)`; the scorers that make these come first."""
        if isinstance(text, list):
            several = []
            for each in text:
                rewritten = yield from self._expression(key, each, line)
                several.append(rewritten)
            return several
        if not isinstance(text, str):
            return text
        try:
            rewritten, folds = without_folds(text)
            for each in (rewritten, *(fold.of for fold in folds)):
                Expression(each)
        except SpecError as error:
            raise self._fail(line, f"{key}: {error}") from error
        for fold in folds:
            yield from self._ask(Ask("score", fold.scorer, fold.column, {"of": fold.of}), line, {})
        return rewritten

    def _program(
        self, verb: str, component: str, name: str, built: Any, line: int, said: Mapping[str, Any] | None = None
    ) -> ProgramSpec:
        """A program under a name of its own."""
        said = said or {}
        if name in self._names:
            taken = self._names[name]
            raise self._fail(line, f"the name {name!r} is taken (line {taken}); give this one another with `as:`")
        if not name.replace("_", "a").isalnum():
            raise self._fail(line, f"expected a name of letters, digits and _, got {name!r}")
        self._names[name] = line
        self._asked[name] = (verb, component, built, said.get("where"))
        if built.trains:
            self._trained.append(name)
        self._gates.made(name, component, built)
        if verb == "deduplicate":
            self._spans += [column for column, kind in built.columns(name).items() if marks_spans(column, kind)]
        for package in built.needs:
            if find_spec(package) is None:
                raise self._fail(line, str(missing_extra(package, built.extra or component, f"{verb} {name}")))
        options = json.dumps(options_of(built), sort_keys=True)
        where, frozen = said.get("where"), "fit" in said
        return ProgramSpec(verb, component, name, options, where, self._seed, self._folder, line, frozen)


def _as_written(complaint: str, lines: Mapping[str, int]) -> str:
    """A complaint about `start` names the key that the file has for it."""
    return f"from{complaint.removeprefix('start')}" if complaint.startswith("start:") and "from" in lines else complaint


def shown(node: Any) -> str:
    """A node as one short line."""
    text = json.dumps(node, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
