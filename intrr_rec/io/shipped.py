"""Recipes and descriptors that come with the package, by name: `--config best` works from any folder."""

from __future__ import annotations

import logging
from pathlib import Path

from intrr_rec.errors import ConfigError, nearest

PACKAGE = Path(__file__).parent.parent
# A wheel carries them inside the package (setup.py); in a clone they lie beside it.
FOLDER = PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parent
KINDS = ("configs", "datasets")
log = logging.getLogger(__name__)


def find_settings(path: Path) -> Path:
    """The file that `path` means: itself, or else what comes with the package under that name.

    Args:
        path: a file, a bare name (`best`), or a path as in a clone (`configs/best.yaml`, `datasets/beauty.yaml`).

    Raises:
        ConfigError: there is no such file, and none of that name comes with the package.
    """
    if path.exists() or path.is_absolute() or len(path.parts) > 2:
        return path
    kinds = KINDS if len(path.parts) == 1 else tuple(kind for kind in KINDS if kind == path.parts[0])
    name = path.name.removesuffix(".yaml")
    for kind in kinds:
        file = FOLDER / kind / f"{name}.yaml"
        if file.is_file():
            log.info("%s: not a file here; reading the one that comes with intrr_rec", path)
            return file
    if not kinds or (len(path.parts) == 1 and path.suffix):
        return path
    names = sorted(file.stem for kind in kinds for file in (FOLDER / kind).glob("*.yaml"))
    near = nearest(name, names)
    known = f"did you mean '{near}'?" if near else f"there are {', '.join(names)}"
    raise ConfigError(f"{path}: neither a file nor the name of one that comes with intrr_rec; {known}")
