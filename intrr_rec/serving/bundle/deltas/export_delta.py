"""`intrr export --over`: the best checkpoint of a run → a delta over a bundle."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

from intrr_rec.io import artefact
from intrr_rec.io.disk.atomic import remove_tree
from intrr_rec.io.launcher import Ranks
from intrr_rec.io.registry import current_of
from intrr_rec.io.stores.staging import copied
from intrr_rec.models.embeddings.item_embeddings import Width
from intrr_rec.serving.bundle.deltas.delta import KIND, fill_delta
from intrr_rec.serving.bundle.export import Grown, write_bundle

log = logging.getLogger(__name__)
WHOLE = "whole"  # the new bundle, in the folder of the delta while that is written


def export_over(base: Path, run: Path, out: Path, rows: Width = "float32", grown: Grown | None = None) -> None:
    """Write a delta over the bundle `base`, or over the current one of a registry; every rank of a job calls this.

    The whole bundle is written beside it first, and removed.

    Raises:
        ArtefactError, ConfigError: as `write_bundle`; or `base` is no whole bundle.
    """
    if Ranks.from_environment().rank:
        write_bundle(run, out, rows, grown)  # its share; the main rank alone writes
        return
    with ExitStack() as stack:
        draft = stack.enter_context(artefact.writing(out, KIND, {}))
        whole = draft.path / WHOLE
        write_bundle(run, whole, rows, grown)
        with copied(current_of(base)) as here:
            fill_delta(draft, here, whole)
        remove_tree(whole)
        counts = dict(draft.counts)
    share = 100 * counts["bytes"] / counts["bundle_bytes"]
    log.info("wrote the delta %s: %d bytes, %.1f %% of the bundle that it makes", out, counts["bytes"], share)
