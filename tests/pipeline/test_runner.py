"""A verb that waits for its jobs, stopped by SIGTERM or Ctrl-C: TorchX's own error for both is not what the user sees."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from torchx.specs import AppDef, Role

from intrr_rec.errors import Stopped
from intrr_rec.pipeline.runner import TOLD, own_runner

ENDS = {signal.SIGTERM: Stopped, signal.SIGINT: KeyboardInterrupt}


def lives(seconds: str) -> bool:
    return subprocess.run(["pgrep", "-f", f"sleep {seconds}"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("has_job", [True, False])
@pytest.mark.parametrize("sign", ENDS)
def test_a_signal_ends_the_verb_and_its_jobs_on_this_machine(
    sign: signal.Signals, has_job: bool, tmp_path: Path
) -> None:
    before = [signal.getsignal(number) for number in TOLD]
    seconds = f"600.{os.getpid()}{int(sign)}"  # a name of its own
    job = AppDef("job", [Role("job", image="", entrypoint="sleep", args=[seconds])])
    with pytest.raises(ENDS[sign]) as caught, own_runner() as runner:
        if has_job:
            runner.run(job, "local_cwd", {"log_dir": str(tmp_path)})
            assert lives(seconds)
        os.kill(os.getpid(), sign)
        time.sleep(60)
    assert not lives(seconds)
    if sign == signal.SIGTERM:
        assert caught.value.exit_code == 75 and "the same command goes on" in str(caught.value)
    assert [signal.getsignal(number) for number in TOLD] == before
