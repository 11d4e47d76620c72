"""A private Slurm on this machine: four nodes in a folder of its own, with nothing in /etc and no system service.

The tests take it through the fixture `slurm`. By hand, from the root of the repository::

    python -m tests.cluster.slurm start /tmp/slurm     # prints the line that a shell needs: export SLURM_CONF=...
    python -m tests.cluster.slurm stop /tmp/slurm

It runs as root or as any other user, who is then the only one that it lets in.
"""

import argparse
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

# Debian keeps daemons where a user's PATH does not look.
SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])

COMMANDS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "setpriv")

CONFIGURATION = """\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp.txt
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
ReturnToService=2
SlurmdTimeout=20
SlurmctldTimeout=30
KillWait=5
JobRequeue=0
GresTypes=gpu
{nodes}
PartitionName=normal Default=YES Nodes=ALL LLN=YES DefMemPerCPU=256 MaxTime=INFINITE DefaultTime=01:00:00 State=UP
PartitionName=short Nodes=ALL LLN=YES DefMemPerCPU=256 MaxTime=00:10:00 DefaultTime=00:05:00 State=UP
PartitionName=gpu Nodes=n{n_nodes} LLN=YES DefMemPerCPU=256 MaxTime=INFINITE DefaultTime=01:00:00 State=UP
"""

NODE = (
    "NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} Boards=1 SocketsPerBoard=1 "
    "CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory={memory_mb}{gres} State=UNKNOWN"
)


class SlurmFailed(RuntimeError):
    """A daemon or a command of the private Slurm that did not do what it was asked."""


def missing_commands():
    """Those of the needed programs that this machine lacks."""
    return [name for name in COMMANDS if shutil.which(name, path=SEARCH) is None]


class PrivateSlurm:
    """Four nodes of four cores and 4000 MB each, simulated on one machine; as a context, ended with the process.

    Partitions: ``normal`` (the default), ``short`` (at most ten minutes) and ``gpu`` (the last node, whose four
    GPUs exist in the books only). Memory is scheduled, not enforced. The least walltime is a minute.
    """

    def __init__(self, folder, n_nodes=4, cpus=4, memory_mb=4000):
        self.folder = Path(folder).resolve()
        self.conf = self.folder / "slurm.conf"
        self.nodes = [f"n{i + 1}" for i in range(n_nodes)]
        self.cpus, self.memory_mb = cpus, memory_mb
        self._bound = False

    @property
    def env(self):
        """What to add to the environment of everything that shall use this Slurm."""
        return {"SLURM_CONF": str(self.conf)}

    # its life

    def __enter__(self):
        # setpriv ends the daemons with this process, however it ends
        self._bound = True
        with ExitStack() as undo:
            undo.callback(self.stop)
            self.start()
            undo.pop_all()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        missing = missing_commands()
        if missing:
            raise SlurmFailed(f"not installed: {', '.join(missing)}; install slurmctld, slurmd, slurm-client and munge")
        self._write_files()
        munge = self.folder / "munge"
        if len(bytes(munge / "socket.12345678")) > 107:
            raise SlurmFailed(f"{munge}: too long for the path of a socket; take a shorter folder")
        self._daemon(
            "munged",
            # --force: the parent folders of a temporary folder may be writable by others
            *("munged", "--foreground", "--force", "--num-threads=2", f"--key-file={munge / 'key'}"),
            *(f"--socket={munge / 'socket'}", f"--pid-file={munge / 'pid'}", f"--log-file={munge / 'log'}"),
            f"--seed-file={munge / 'seed'}",
        )
        self._wait(lambda: (munge / "socket").exists(), 10, "munged")
        self.start_controller()
        for node in self.nodes:
            self._daemon(f"slurmd.{node}", "slurmd", "-D", "-N", node, "-f", self.conf)
        self._wait(lambda: set(self.node_states().values()) == {"idle"}, 30, "the nodes")

    def stop(self):
        """End everything that belongs to it, in bounded time; harmless where nothing runs."""
        if self.conf.exists() and self.controller_answers():
            with suppress(SlurmFailed):
                self.scancel_all()
                self._wait(lambda: not self.squeue(), 8, "the jobs' end")
        # The controller goes first: it would start the next job on what the others leave free.
        for names in (["slurmctld"], [f"slurmd.{node}" for node in self.nodes], ["munged"]):
            _end([process for name in names for process in self._processes_of(name)])
        _end(self.job_processes())

    def controller_answers(self):
        return self._run("scontrol", "ping", timeout=10, check=False).returncode == 0

    def kill_controller(self):
        """Kill -9 of slurmctld; jobs run on without it."""
        for process in self._processes_of("slurmctld"):
            _end([process], signal.SIGKILL)

    def start_controller(self):
        if not self._processes_of("slurmctld"):
            self._daemon("slurmctld", "slurmctld", "-D", "-f", self.conf)
        self._wait(self.controller_answers, 30, "slurmctld")

    # what one asks of it

    def command(self, *words, timeout=20):
        """Standard output of one of Slurm's commands."""
        return self._run(*words, timeout=timeout).stdout

    def squeue(self, *more):
        """State of each job that is pending, running or ending, by its id."""
        lines = self.command("squeue", "--noheader", "--format=%i %T", *more).splitlines()
        return dict(line.split() for line in lines)

    def nodes_of_jobs(self):
        """Node of each running job, by the job's id."""
        lines = self.command("squeue", "--noheader", "--states=RUNNING", "--format=%i %N").splitlines()
        return dict(line.split() for line in lines)

    def node_states(self):
        return dict(
            line.split() for line in self.command("sinfo", "-h", "-N", "-p", "normal", "-o", "%N %T").splitlines()
        )

    def set_node(self, name, state):
        """State is DOWN, which fails the node's jobs, or DRAIN, or RESUME."""
        self.command("scontrol", "update", f"NodeName={name}", f"State={state}", "Reason=test")

    def scancel(self, *job_ids):
        self.command("scancel", *job_ids)

    def scancel_all(self):
        self.command("scancel", f"--user={getpass.getuser()}")

    def make_idle(self):
        """End all jobs, bring every daemon and node back: what the next user expects to find."""
        self.start_controller()
        if self.squeue():
            self.scancel_all()
        _end(self.job_processes(), patience=6.0)
        for node, state in self.node_states().items():
            if state.startswith(("down", "drain")):
                self.set_node(node, "RESUME")
        self._wait(lambda: not self.squeue() and set(self.node_states().values()) == {"idle"}, 40, "idle nodes")

    def completed(self):
        """What became of each ended job, by its id: COMPLETED, CANCELLED, TIMEOUT, NODE_FAIL, FAILED."""
        path = self.folder / "log" / "jobcomp.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        records = [dict(word.partition("=")[::2] for word in line.split()) for line in lines]
        return {record["JobId"]: record["JobState"] for record in records}

    def job_processes(self, job_id=None):
        """Processes of one job or of all, slurmstepd among them."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                job = self._job_of(process)
                if job is not None and job_id in (None, job) and _runs(process):
                    found.append(process)
        return found

    def workers(self, job_id=None):
        """The Dask worker or its nanny of one job or of all jobs: the batch process itself."""
        found = []
        for process in self.job_processes(job_id):
            with suppress(psutil.Error):
                if psutil.Process(process.ppid()).name().startswith("slurmstepd"):
                    found.append(process)
        return found

    # how

    def _job_of(self, process):
        if process.name().startswith("slurmstepd"):
            # its title overwrites its environment; it keeps the folder that slurmd was started in
            ours = process.cwd() == str(self.folder)
            return " ".join(process.cmdline()).partition("[")[2].partition(".")[0] if ours else None
        environ = process.environ()
        return environ.get("SLURM_JOB_ID") if environ.get("SLURM_CONF") == str(self.conf) else None

    def _write_files(self):
        for name in ("munge", "state", "log", "run", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        key = self.folder / "munge" / "key"
        if not key.exists():
            key.touch(0o600)
            key.write_bytes(secrets.token_bytes(128))
        if self.conf.exists():
            return
        host = socket.gethostname().partition(".")[0]
        with _free_ports(len(self.nodes) + 1) as ports:
            fields = {"host": host, "cpus": self.cpus, "memory_mb": self.memory_mb}
            nodes = [
                NODE.format(i=i, port=port, gres=" Gres=gpu:a100:4" if i == len(self.nodes) else "", **fields)
                for i, port in enumerate(ports[1:], 1)
            ]
        text = CONFIGURATION.format(
            host=host,
            user=getpass.getuser(),
            folder=self.folder,
            controller_port=ports[0],
            nodes="\n".join(nodes),
            n_nodes=len(self.nodes),
        )
        self.conf.write_text(text)
        # plain files instead of devices: Slurm only counts them
        for i in range(4):
            (self.folder / f"gpu{i}").touch()
        gres = f"NodeName={self.nodes[-1]} Name=gpu Type=a100 File={self.folder}/gpu[0-3]\n"
        (self.folder / "gres.conf").write_text(gres)

    def _daemon(self, name, program, *arguments):
        bound = ["setpriv", "--pdeathsig", "TERM", "--"] if self._bound else []
        command = [*bound, shutil.which(program, path=SEARCH), *arguments]
        with open(self.folder / "log" / f"{name}.out", "ab") as out:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env={**os.environ, **self.env},
                start_new_session=True,
            )
        (self.folder / "run" / f"{name}.started").write_text(str(process.pid))
        # the caller asks /proc, which tells a zombie from a process that runs; Popen must not complain at its end
        process.returncode = 0

    def _processes_of(self, name):
        """The daemon of that name if it runs; a number in a file may belong to another process by now."""
        try:
            process = psutil.Process(int((self.folder / "run" / f"{name}.started").read_text()))
            ours = str(self.folder) in " ".join(process.cmdline())
        except (OSError, psutil.Error):
            return []
        return [process] if ours and _runs(process) else []

    def _run(self, program, *arguments, timeout=20, check=True):
        command = [shutil.which(program, path=SEARCH), *(str(word) for word in arguments)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **self.env}
            )
        except subprocess.TimeoutExpired as error:
            raise SlurmFailed(f"{' '.join(command)}: no answer in {timeout} s") from error
        if check and done.returncode:
            raise SlurmFailed(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
        return done

    def _wait(self, condition, seconds, what):
        deadline = time.monotonic() + seconds
        while True:
            with suppress(SlurmFailed):
                if condition():
                    return
            if time.monotonic() > deadline:
                logs = self.folder / "log"
                raise SlurmFailed(f"{what}: not there after {seconds} s; the logs are in {logs}")
            time.sleep(0.05)


def _runs(process):
    """Whether it is there and no zombie; where process 1 does not reap, a dead daemon stays one for ever."""
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _end(processes, first=signal.SIGTERM, patience=5.0):
    """Signal, wait, kill; then reap those that are our own children."""
    for number in (first, signal.SIGKILL):
        waiting = [process for process in processes if _runs(process)]
        for process in waiting:
            with suppress(psutil.Error):
                process.send_signal(number)
        deadline = time.monotonic() + patience
        while any(map(_runs, waiting)) and time.monotonic() < deadline:
            time.sleep(0.02)
    for process in processes:
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


@contextmanager
def _free_ports(n):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        yield [each.getsockname()[1] for each in sockets]


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.slurm", description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("folder", type=Path, help="where its state lives; /tmp/slurm, say")
    arguments = parser.parse_args()
    slurm = PrivateSlurm(arguments.folder)
    try:
        if arguments.action == "stop":
            slurm.stop()
        else:
            slurm.start()
            print(f"export SLURM_CONF={slurm.conf}")
    except SlurmFailed as error:
        slurm.stop()
        sys.exit(str(error))


if __name__ == "__main__":
    main()
