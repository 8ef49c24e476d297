"""Exported programs give what the modules give, and nothing in their files is a pickle."""

import shutil
import zipfile

import pytest
import torch

from intrr_rec.errors import ArtefactError
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.serving.bundle.programs import FOLDER, require_plain
from intrr_rec.serving.recommender import Filters, Recommender

HISTORIES = [[1, 2, 3], [4], list(range(12))]


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")

    def make(kind):
        if not (folder / kind).exists():
            write_bundle(runs[kind], folder / kind, programs=True)
        return folder / kind

    return make


@pytest.mark.parametrize(
    "kind", ["path", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("time", "t5", "released"))]
)
def test_programs_recommend_what_the_modules_recommend(kind, exported):
    times = [[10 * place for place in range(len(history) + 1)] for history in HISTORIES]
    modules, programs = (Recommender(Bundle.load(exported(kind), programs=programs)) for programs in (False, True))
    for users in (1, 3):
        for beam in (1, 7):
            wish = (HISTORIES[:users], beam, beam, Filters(exclude_seen=True), times[:users])
            expected, found = modules.recommend(*wish), programs.recommend(*wish)
            assert [one.items for one in found] == [one.items for one in expected]
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(torch.tensor(one.scores), torch.tensor(other.scores))


def test_a_program_with_a_pickle_is_refused(exported, tmp_path):
    path = shutil.copy(exported("path") / FOLDER / "ran_begin.pt2", tmp_path / "ran_begin.pt2")
    require_plain(path)
    with zipfile.ZipFile(path) as archive:
        names = {entry.filename.partition("/")[2]: entry.filename for entry in archive.infolist()}
        content = {name: archive.read(whole) for name, whole in names.items()}

    def rewritten(**changes):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (content | changes).items():
                archive.writestr(f"x/{name}", data)
        return path

    require_plain(rewritten())
    graph = content["models/model.json"]
    for changes, says in (
        ({"data/sample_inputs/model.pt": b"\x80"}, "sample_inputs"),
        ({"data/constants/custom_obj_0": b"\x80"}, "custom_obj_0"),
        ({"data/aotinductor/model/a.so": b""}, r"a\.so"),
        ({"data/weights/model_weights_config.json": b'{"a": {"use_pickle": true}}'}, "a pickle"),
        ({"models/model.json": graph[:-1] + b', "x": {"expr_str": "__import__(\'os\')"}}'}, "no arithmetic"),
        ({"models/model.json": b"{"}, "cannot be read"),
    ):
        with pytest.raises(ArtefactError, match=says):
            require_plain(rewritten(**changes))


def test_a_bundle_without_programs_says_so(bundles):
    with pytest.raises(ArtefactError, match="--programs"):
        Bundle.load(bundles["path"].path, programs=True)
