"""Whatever is sent, the server answers that it is wrong, never that the server is; and goes on."""

from __future__ import annotations

import pytest

from tests.serving.fuzz import Fuzzer
from tests.serving.process import serving


@pytest.mark.parametrize(("number", "seed"), [(400, 0), pytest.param(10_000, 1, marks=pytest.mark.slow)])
def test_malformed_requests_give_no_5xx(bundles, number, seed):
    with serving(bundles["time"].path) as server:
        statuses = Fuzzer(server, seed).run(number)
        assert sum(statuses.values()) == number
        assert not [status for status in statuses if status >= 500], statuses
        assert statuses[200] > number / 20 and statuses[422] > number / 20, "neither all right nor all wrong"
        assert statuses.get(0, 0) < number / 20
        assert server.recommend(history=[1, 2], timestamps=[1, 2]).status == 200
        assert not [line for line in server.log if "Traceback" in line or "ERROR" in line]
