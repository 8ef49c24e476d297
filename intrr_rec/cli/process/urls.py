"""Which options of a verb may be a URL, and what stands behind each: an input, an artefact or a file to write, a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from intrr_rec.cli.options import NEW_FILE, NEW_FOLDER
from intrr_rec.errors import ConfigError
from intrr_rec.io.disk.places import require_local, url_of

if TYPE_CHECKING:
    from intrr_rec.io.stores.staging import Staging

Role = Literal["input", "artefact", "file", "run", "run to read", "runs", "opened", "local"]
# By verb and parameter; any other is what its metavar says, or an input.
_ROLES: dict[tuple[str, str], Role] = {
    ("train", "out"): "run",
    ("train", "init_from"): "run to read",
    ("export", "run"): "run to read",
    ("export", "report"): "file",
    ("export", "over"): "opened",
    ("evaluate", "run"): "run",
    ("report", "run"): "run",
    ("compare", "run"): "run to read",
    ("compare", "against"): "run to read",
    ("runs", "folders"): "runs",
    ("serve", "bundle"): "opened",
    ("promote", "over"): "opened",
    ("rollback", "registry"): "opened",
    ("fetch", "data"): "local",
    ("fetch", "descriptor"): "local",
    ("prepare", "data"): "local",
    ("validate", "data"): "local",
    ("pipeline", "file"): "local",
    ("tune", "file"): "local",
}
_OF_METAVAR: dict[str | None, Role] = {NEW_FILE: "file", NEW_FOLDER: "artefact"}


def role_of(verb: str, param: Any) -> Role:
    """What stands behind a parameter of a verb."""
    return _ROLES.get((verb, param.name), _OF_METAVAR.get(param.metavar, "input"))


def require_openable(verb: str, params: list[Any], given: dict[str, Any]) -> None:
    """Refuse before any work a URL that no store answers to, and one where only a path can be.

    Raises:
        ConfigError: names the option and the URL.
    """
    from intrr_rec.io.stores.staging import require_store  # not for `--help`

    for param in params:
        value = given.get(param.name)
        option = next((name for name in param.opts if name.startswith("--")), param.name or "")
        for place in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(place, Path) or (url := url_of(place)) is None:
                continue
            if role_of(verb, param) == "local":
                require_local(place, option)
            try:
                require_store(url)
            except ConfigError as error:
                raise ConfigError(f"{option}: {error}") from None


def stage(verb: str, params: list[Any], given: dict[str, Any], places: Staging) -> None:
    """Put the path that stands for it in place of every URL; what is written comes first, so that a taken place is told at once."""
    adds = bool(given.get("append")) or verb == "embed"  # to what is there
    order: tuple[Role, ...] = ("run", "artefact", "file", "run to read", "runs", "input")
    for param in sorted((p for p in params if role_of(verb, p) in order), key=lambda p: order.index(role_of(verb, p))):
        value, role = given.get(param.name), role_of(verb, param)
        if isinstance(value, (list, tuple)):
            given[param.name] = [_staged(role, each, adds, places) for each in value]
        else:
            given[param.name] = _staged(role, value, adds, places)


def _staged(role: Role, place: Any, adds: bool, places: Staging) -> Any:
    if not isinstance(place, Path) or url_of(place) is None:
        return place
    if role == "artefact":
        return places.artefact(place, with_content=adds)
    if role == "file":
        return places.file(place)
    if role == "runs":
        from intrr_rec.runs.run_files import LISTED

        return places.run(place, write=False, only=LISTED)
    if role.startswith("run"):
        return places.run(place, write=role == "run")
    return places.bring(place)
