"""Stores that pyarrow does not speak with: by fsspec, but for file systems inside others."""

from __future__ import annotations

from typing import Any

WRAPPERS = {
    *("reference", "zip", "tar", "libarchive", "dir", "generic", "dask", "asyncwrapper", "async_wrapper", "asynclocal"),
    *("blockcache", "cached", "filecache", "simplecache"),
}


def require_no_wrapper(url: str) -> None:
    """Refuse a URL by which a file says what else is opened and how: archives, caches, chains (`::`) and `reference://`, whose files hold
    templates that are run. A URL may come from a stranger's descriptor or run.

    Raises:
        ValueError: it is one, in words that end a line on the URL.
    """
    scheme = url.partition(":")[0].lower()
    if "::" in url or scheme in WRAPPERS:
        raise ValueError("file systems inside others, such as chains (::), archives and references, are not opened")


def other_store(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it.

    Raises:
        ValueError, ImportError, OSError: none answers to it, or it is one that wraps others.
    """
    from fsspec.core import url_to_fs

    require_no_wrapper(url)
    files, path = url_to_fs(url)
    return files, path
