"""The SHA-256 of a file is that of its content, however long."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.io import artefact


@settings(max_examples=20)
@given(st.binary(max_size=3_000_000))
def test_the_file_hash_is_the_files(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("hash") / "file"
    path.write_bytes(content)
    assert artefact.file_hash(path) == hashlib.sha256(content).hexdigest()
