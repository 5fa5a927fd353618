"""`flowzoo list`, `info`, `verify` and `doctor`: what there is, and whether it is sound."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer

from flowzoo import registry, weights
from flowzoo.cli.codes import Code
from flowzoo.cli.console import Talk
from flowzoo.cli.loading import config_of, metric_text
from flowzoo.cli.options import Json, Name
from flowzoo.cli.quiet import import_tensorflow
from flowzoo.config import EntryConfig
from flowzoo.errors import NoWeightsError, WeightsError


def list_entries(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN", help="Text in the name, or a pattern such as '*_mnist'."),
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only entries with weights.")] = False,
    as_json: Json = False,
) -> None:
    """List the entries of the zoo: what they are, how well they do, whether their weights are here."""
    talk = Talk(as_json)
    entries = [
        _summary(name) for name in registry.list_models(pattern, pretrained=True if pretrained else None)
    ]
    talk.result(entries)
    if as_json:
        return
    if not entries:
        talk.say(f"No entry matches {pattern!r}." if pattern else "There are no entries.")
        return
    headings = ("name", "measured", "weights", "description")
    talk.table(headings, [[entry[heading] for heading in headings] for entry in entries])


def _summary(name: str) -> dict[str, Any]:
    config = registry.get_config(name)
    found = weights.find_local(name)
    try:
        card = weights.read_card(found[0]) if found else None
        state = "here" if found else "published" if config.weights.sha256 else "none"
    except WeightsError:
        card, state = None, "corrupt"
    return {
        "name": name,
        "family": config.model.family,
        "data": config.data.source if config.data else None,
        "measured": metric_text(card),
        "weights": state,
        "description": config.description,
    }


def info(name: Name, as_json: Json = False) -> None:
    """Show the model card of an entry: architecture, data, metric, training, licence, limits, citation."""
    import flowzoo

    card = flowzoo.info(name)
    talk = Talk(as_json)
    talk.result(card.to_dict())
    if not as_json:
        talk.say(str(card))


def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="The entries.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All entries whose weights are on this machine.")
    ] = False,
    hashes_only: Annotated[
        bool, typer.Option("--hashes-only", help="Compare SHA-256 sums only; do not load the models.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check weights: every file against its SHA-256, then the model against its golden log_prob."""
    if bool(names) == everything:
        raise typer.BadParameter("name the entries to verify, or give --all")
    talk = Talk(as_json)
    wanted = names or [name for name in _every_name() if weights.find_local(name)]
    configs = [config_of(name) for name in wanted]  # A name that is not known ends it here.
    results = [_verified(*pair, hashes_only) for pair in zip(wanted, configs, strict=True)]
    for result in results:
        talk.say(f"{'ok  ' if result['ok'] else 'FAIL'} {result['name']}: {result['detail']}")
    if not results:
        talk.say("No weights are on this machine.")
    talk.result(results)
    if not all(result["ok"] for result in results):
        raise typer.Exit(Code.WEIGHTS)


def _every_name() -> list[str]:
    return sorted({*registry.list_models(), *registry.list_models("test_*")})


def _verified(given: str, config: EntryConfig, hashes_only: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"name": config.name, "ok": False, "folder": None, "sha256": None}
    source = given if given.startswith("path:") else None
    try:
        located = weights.locate(config.name, expected_digest=config.weights.sha256, source=source)
        result.update(folder=str(located.folder), sha256=located.manifest.digest)
        if not hashes_only:
            import_tensorflow()
            from flowzoo import zoo

            zoo.restore(located.folder)  # compares the golden log_prob
    except WeightsError as error:
        missing = isinstance(error, NoWeightsError)
        return {**result, "state": "missing" if missing else "corrupt", "detail": str(error)}
    checked = "SHA-256" if hashes_only else "SHA-256 and golden log_prob"
    detail = f"{len(located.manifest.files)} files, {checked}, in {located.folder}"
    return {**result, "ok": True, "state": "ok", "detail": detail}


def doctor(as_json: Json = False) -> None:
    """Say whether flowzoo can work on this machine: versions, devices, XLA, TFDS, serving client, folders."""
    from flowzoo.doctor import diagnose

    talk = Talk(as_json)
    with contextlib.suppress(ImportError):  # which the report will tell
        import_tensorflow()
    report = diagnose()
    marks = {(True, True): "ok", (True, False): "ok", (False, True): "MISSING", (False, False): "optional"}
    rows = [(marks[check.ok, check.required], check.name, check.detail) for check in report.checks]
    if not as_json:
        talk.table(("", "what", "found"), rows)
    talk.result(report.to_dict())
    if not report.healthy:
        talk.say("Something that flowzoo needs is missing.")
        raise typer.Exit(Code.FAILURE)
