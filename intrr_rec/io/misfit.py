"""What a verb has read, and what to say of an error that nobody foresaw: the content of whole artefacts may be anybody's."""

from __future__ import annotations

from intrr_rec.errors import ArtefactError

SHOWN = 3  # places that an error names
_read: list[str] = []  # artefacts and sealed files that this process took for whole


def note_read(place: object) -> None:
    """Remember a place whose hashes were right, for `misfit`."""
    if str(place) not in _read:
        _read.append(str(place))


def forget_read() -> None:
    """Begin a verb: it has read nothing."""
    _read.clear()


def misfit(error: Exception) -> ArtefactError | None:
    """What to say of an error that nobody foresaw, in a process that read artefacts or runs: their hashes were right, but whoever writes a
    whole one can write hashes that fit, so they may be at fault or we; None where it read none.
    """
    if not _read:
        return None
    said = f"{type(error).__name__}: {error}"[:300]
    more = f" and {len(_read) - SHOWN} more" if len(_read) > SHOWN else ""
    return ArtefactError(
        f"{', '.join(_read[:SHOWN])}{more}: the hashes are right, but then: {said}; either what lies there is not what this version of "
        "intrr_rec writes, so make it again, or this is a fault of ours, and INTRR_LOG=DEBUG tells where"
    )
