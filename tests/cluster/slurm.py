"""A Slurm cluster of two nodes on this machine: munged, slurmctld and two slurmd in a temporary folder; no accounting.

Needs root and Debian's packages slurm-wlm and munge (scripts/ci-packages.sh). Nodes are names of 127.0.0.1 in /etc/hosts
while it runs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.distributed.launch import free_port

NODES = ("intrr-d0", "intrr-d1")
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
SEARCH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
HOSTS = Path("/etc/hosts")
START_SECONDS = 30


def why_not() -> str | None:
    """Why no cluster can be started here; None where one can."""
    missing = [name for name in DAEMONS if shutil.which(name, path=SEARCH) is None]
    if missing:
        return f"NO SLURM DRILL: {', '.join(missing)} not installed; scripts/ci-packages.sh installs them"
    if os.geteuid() != 0:
        return "NO SLURM DRILL: slurmd starts other users' jobs, so this test must run as root"
    if not os.access(HOSTS, os.W_OK):
        return f"NO SLURM DRILL: {HOSTS}, where the nodes get their names, cannot be written"
    return None


class Slurm:
    """The running cluster; `environment` lets Slurm's commands find it."""

    def __init__(self) -> None:
        # munge insists on a path that only root can write to, so pytest's folders will not do.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/var/lib"))
        self.folder.chmod(0o755)
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._hosts: str | None = None
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def scontrol(self, *words: str) -> str:
        """What `scontrol` says."""
        return self._tell("scontrol", *words)

    def stop(self) -> None:
        """End every daemon and job of it, and remove every trace."""
        if self._daemons:
            subprocess.run(["scancel", "--user=root"], env=self._env(), capture_output=True)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        if self._hosts is not None:
            HOSTS.write_text(self._hosts)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        self._name_nodes()
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)
        # An environment of their own, so that jobs see what their submitter exports and nothing of the tests'.
        self._launch(
            "munged",
            "--foreground",
            "--force",
            *(f"--{kind}-file={self.folder / f'munge.{kind}'}" for kind in ("key", "log", "pid", "seed")),
            f"--socket={self.folder / 'munge.socket'}",
        )
        self._write_configuration()
        self._wait("munged", lambda: (self.folder / "munge.socket").exists())
        self._launch("slurmctld", "-D")
        for node in NODES:
            self._launch("slurmd", "-D", "-N", node)
        self._wait("two idle nodes", lambda: self._tell("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2")

    def _write_configuration(self) -> None:
        cores = os.cpu_count() or 1
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={free_port()} "
            f"CPUs={max(cores, 2)} RealMemory=4000 State=UNKNOWN"
            for node in NODES
        )
        (self.folder / "slurm.conf").write_text(
            f"""
ClusterName=intrr
SlurmctldHost={socket.gethostname()}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it starts again
AuthInfo=socket={self.folder / "munge.socket"},cred_expire=8
StateSaveLocation={self.folder / "state"}
SlurmdSpoolDir={self.folder / "spool"}/%n
SlurmctldPidFile={self.folder / "slurmctld.pid"}
SlurmdPidFile={self.folder / "slurmd.%n.pid"}
SlurmctldLogFile={self.folder / "slurmctld.log"}
SlurmdLogFile={self.folder / "slurmd.%n.log"}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
# Nodes are pinged three times in it. On an idle cluster only such a change has a requeued job of two nodes looked at again.
SlurmdTimeout=30
SchedulerParameters=sched_interval=1,bf_interval=1
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""
        )

    def _name_nodes(self) -> None:
        known = HOSTS.read_text()
        missing = [name for name in NODES if name not in known]
        if missing:
            self._hosts = known
            HOSTS.write_text(f"{known.rstrip()}\n127.0.0.1 {' '.join(missing)}\n")

    def _env(self) -> dict[str, str]:
        return {"PATH": SEARCH, "HOME": "/root", "LANG": "C", **self.environment}

    def _launch(self, *words: str) -> None:
        with open(self.folder / f"{words[0]}-{len(self._daemons)}.out", "wb") as log:
            self._daemons.append(
                subprocess.Popen(
                    words, env=self._env(), stdout=log, stderr=log, cwd=self.folder, start_new_session=True
                )
            )

    def _tell(self, *words: str) -> str:
        return subprocess.run(words, env=self._env(), capture_output=True, text=True).stdout

    def _wait(self, what: str, there) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not there():
            dead = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "\n".join(
                    f"== {path.name}\n{path.read_text(errors='replace')[-1500:]}"
                    for path in sorted(self.folder.glob("*.out")) + sorted(self.folder.glob("*.log"))
                )
                raise AssertionError(f"no {what} (ended: {dead}):\n{logs}")
            time.sleep(0.1)
