"""In which order `intrr --help` lists the verbs: that of the line, in groups."""

from __future__ import annotations

import typer

GROUPS = {
    "Logs": ("generate", "fetch", "describe", "validate", "prepare"),
    "Vectors and Semantic IDs": ("embed", "concat-vectors", "index", "inspect-ids"),
    "Training and evaluation": ("train", "tune", "evaluate", "report", "compare", "runs"),
    "Recommending": ("export", "recommend", "promote", "rollback", "serve"),
    "The whole line": ("pipeline", "plan", "settings", "doctor"),
}
OTHER = "Other verbs"


def arrange(verbs: typer.Typer) -> None:
    """Sort the registered verbs and give each the heading of its group; one that no group names comes last."""
    names = [name for group in GROUPS.values() for name in group]
    heading = {name: group for group, members in GROUPS.items() for name in members}
    for info in verbs.registered_commands:
        info.rich_help_panel = heading.get(_name(info), OTHER)
    verbs.registered_commands.sort(key=lambda info: names.index(_name(info)) if _name(info) in heading else len(names))


def _name(info: typer.models.CommandInfo) -> str:
    return info.name or (info.callback.__name__.replace("_", "-") if info.callback else "")
