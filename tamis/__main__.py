"""The command line: parses, calls, prints. Status 0 is success, 1 a failed run, 2 wrong usage or an invalid file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tamis import __version__
from tamis.errors import ColumnError, SpecError, TamisError

MOST_ROWS = 1001  # of a query, printed; one more says that there are more
RUN = click.argument("run", type=click.Path(path_type=Path))
STAGES = click.argument("stages", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="tamis")
def cli() -> None:
    """Sift a pretraining corpus: embed, deduplicate, score, select, and prove with proxy models that it helped."""


def _where_to_work(command: Any) -> Any:
    for option in (
        click.option("--dashboard", is_flag=True, help="Serve Dask's dashboard on 127.0.0.1:8787."),
        click.option(
            "--cluster-option",
            "cluster_options",
            multiple=True,
            metavar="KEY=VALUE",
            help="An argument of the cluster class, as JSON.",
        ),
        click.option(
            "--cluster", metavar="CLASS", help="A Dask cluster class by import path, e.g. dask_jobqueue.SLURMCluster."
        ),
        click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler."),
        click.option(
            "--workers", type=click.IntRange(min=1), help="Processes of a local cluster. [default: all cores]"
        ),
        click.option("--serial", is_flag=True, help="Everything in this process."),
    ):
        command = option(command)
    return command


def _workers(where: dict[str, Any]) -> Any:
    from tamis.pipeline.start import workers_for

    chosen = [name for name in ("serial", "workers", "scheduler", "cluster") if where[name]]
    if len(chosen) > 1 and chosen != ["workers", "cluster"]:
        raise click.UsageError(f"expected one place to work, got --{' and --'.join(chosen)}; keep one of them")
    options = {}
    for text in where.pop("cluster_options"):
        key, sign, value = text.partition("=")
        if not sign:
            raise click.UsageError(f"--cluster-option: expected KEY=VALUE, got {text!r}")
        options[key] = _json_or_text(value)
    return workers_for(
        where["workers"],
        where["scheduler"],
        where["cluster"],
        options,
        serial=where["serial"],
        dashboard=where["dashboard"],
    )


def _json_or_text(value: str) -> Any:
    import json

    try:
        return json.loads(value)
    except ValueError:
        return value


@cli.command()
@STAGES
@click.option("--out", type=click.Path(path_type=Path), help="The run directory. [default: `out:` of the file]")
@click.option("--limit", type=click.IntRange(min=1), metavar="SHARDS", help="Only the first few shards.")
@click.option("--redo", multiple=True, metavar="NAME", help="Make a stage's results again.")
@click.option("--accept-code", is_flag=True, help="Keep results although the code behind them changed.")
@_where_to_work
def run(
    stages: Path, out: Path | None, limit: int | None, redo: tuple[str, ...], *, accept_code: bool, **where: Any
) -> None:
    """Run STAGES.yaml, or resume it: only unfinished work is done."""
    from tamis.pipeline.progress import Progress
    from tamis.pipeline.spec import load_spec
    from tamis.pipeline.start import start

    spec = load_spec(stages)
    folder = out or spec.out
    progress = Progress()
    start(spec, folder, _workers(where), progress, limit=limit, redo=redo, accept_code=accept_code)
    progress.line(f"done: {folder}")


@cli.command()
@STAGES
def check(stages: Path) -> None:
    """Validate STAGES.yaml; print columns, passes, bytes and a cost estimate, from a rehearsal on a few documents."""
    from tamis.pipeline.rehearsal import rehearse
    from tamis.pipeline.spec import load_spec

    click.echo(rehearse(load_spec(stages)))


@cli.command()
@click.argument("documents", nargs=-1, required=True)
@click.option("--size", "name", default="tiny", show_default=True, help="Of the model: tiny, mini, small, 15m, 60m …")
@click.option("--tokens", type=click.IntRange(min=1), default=300_000, show_default=True, help="Of each training.")
@click.option("--rates", help="Learning rates, with commas. [default: half, one, two and four times the size's own]")
@click.option("--valid", multiple=True, metavar="DOCUMENTS", help="To judge on. [default: a tenth of DOCUMENTS]")
@click.option("--seeds", type=click.IntRange(min=1, max=100), default=2, show_default=True, help="Trainings per rate.")
@click.option("--text", default="text", show_default=True, help="The column with the text.")
@click.option("--workers", type=click.IntRange(min=1), help="Trainings at the same time. [default: all cores]")
@click.option("--serial", is_flag=True, help="Everything in this process.")
def sweep(
    documents: tuple[str, ...],
    name: str,
    tokens: int,
    rates: str | None,
    valid: tuple[str, ...],
    seeds: int,
    text: str,
    workers: int | None,
    *,
    serial: bool,
) -> None:
    """Which learning rate? Trains a size on DOCUMENTS at several, and prints bits per byte on held-out text."""
    from tamis.pipeline.progress import Progress
    from tamis.pipeline.start import workers_for
    from tamis.pipeline.sweep import Trial, rates_in, run_sweep

    tried = rates_in(rates) if rates is not None else ()
    trial = Trial(documents, name, tokens, tried, valid, seeds, text)
    click.echo(run_sweep(trial, workers_for(workers, serial=serial), Progress()))


@cli.command()
@RUN
def status(run: Path) -> None:
    """What is done, per stage: shards, documents, speed, failures."""
    from tamis.audit.status import status as tell

    click.echo(tell(run))


@cli.command()
@RUN
def report(run: Path) -> None:
    """Write RUN/report/index.html, which opens offline."""
    from tamis.audit.reader import open_run
    from tamis.audit.report import write_report

    click.echo(write_report(open_run(run)))


@cli.command()
@RUN
@click.argument("doc_id")
def why(run: Path, doc_id: str) -> None:
    """Every column and decision about one document, and the document that displaced it."""
    from tamis.audit.reader import open_run
    from tamis.audit.why import why as tell

    click.echo(tell(open_run(run), doc_id))


@cli.command()
@click.argument("one", metavar="RUN_A[:ARM]")
@click.argument("other", metavar="RUN_B[:ARM]")
def diff(one: str, other: str) -> None:
    """How two selections differ: overlap, sources, lengths, scores, examples."""
    from tamis.audit.diff import diff as tell
    from tamis.audit.reader import open_run

    (run_a, arm_a), (run_b, arm_b) = _run_and_arm(one), _run_and_arm(other)
    click.echo(tell(open_run(run_a), arm_a, open_run(run_b), arm_b))


def _run_and_arm(text: str) -> tuple[Path, str | None]:
    folder, colon, arm = text.rpartition(":")
    return (Path(folder), arm) if colon and not Path(text).exists() else (Path(text), None)


@cli.command()
@RUN
@click.argument("query")
def sql(run: Path, query: str) -> None:
    """A DuckDB SELECT over the views `documents` (all columns of all layers), `clusters` and `findings`."""
    from tamis.audit.reader import open_run
    from tamis.audit.sql import render
    from tamis.audit.sql import sql as ask

    click.echo(render(ask(open_run(run), query, rows=MOST_ROWS), rows=MOST_ROWS - 1))


@cli.command()
@RUN
@click.option("--arm", required=True)
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["parquet", "jsonl.zst", "tokens"]), default="parquet", show_default=True
)
@click.option("--column", "columns", multiple=True, help="A column of a layer to carry along; may be repeated.")
@click.option(
    "--spans",
    "stages",
    multiple=True,
    metavar="STAGE",
    help="Leave out the passages this stage marked; may be repeated. [default: all stages that mark any]",
)
@click.option("--keep-spans", is_flag=True, help="Leave the text whole.")
@click.option(
    "--tokenizer", metavar="STAGE|DIR", help="For --format tokens. [default: the one that the run counted with]"
)
@_where_to_work
def export(
    run: Path,
    arm: str,
    folder: Path,
    form: str,
    columns: tuple[str, ...],
    stages: tuple[str, ...],
    tokenizer: str | None,
    *,
    keep_spans: bool,
    **where: Any,
) -> None:
    """Write an arm's documents to a folder, without the passages that deduplicators marked."""
    from tamis.pipeline.export import export as write

    if keep_spans and stages:
        raise click.UsageError("expected --spans or --keep-spans, got both; keep one of them")
    if tokenizer and form != "tokens":
        raise click.UsageError(f"--tokenizer: expected --format tokens beside it, got {form}")
    with _workers(where) as workers:
        done = write(run, arm, folder, form, workers, columns, stages or (() if keep_spans else None), tokenizer)
    tokens = "" if done.tokens is None else f"{done.tokens:,} tokens, "
    click.echo(f"{done.documents:,} documents in {done.files} files, {tokens}{done.bytes:,} bytes: {done.folder}")
    if done.left_out["spans"]:
        click.echo(
            "left out {bytes:,} bytes in {spans:,} passages, and {documents:,} documents that were nothing else".format(
                **done.left_out
            )
        )


@cli.command()
@click.argument("name", required=False)
@click.option(
    "--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Your own components as well."
)
def components(name: str | None, folder: Path | None) -> None:
    """List the components, or show one with its options and sources."""
    from tamis.catalogue import describe, listing

    click.echo(describe(name, folder) if name else listing(folder))


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
def sample(folder: Path) -> None:
    """Build a real corpus offline: the documentation of the installed Python packages."""
    from tamis.sample import build_sample

    facts = build_sample(folder)
    verb = "kept" if facts.reused else "built"
    parts = f"pool {facts.pool:,}, target {facts.train:,} train and {facts.valid:,} valid"
    click.echo(f"{verb} {facts.documents:,} documents in {folder}: {parts}")


def main() -> None:
    """Runs the command line with the exit status it promises."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped; run the same command again to go on", err=True)
        sys.exit(1)
    except (SpecError, ColumnError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except (TamisError, ValueError, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
