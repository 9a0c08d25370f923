"""Processes on this machine that end with the block that started them: for simulations and trial deployments."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

BIN = Path(sys.executable).parent

# No telemetry, no look for newer versions, no installation of anything while a study runs.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Processes:
    """Starts processes, each with a log of its own below `folder`, and at the end stops them and all that they started.

    Engines start helpers in sessions of their own, which outlive a signal to the group: all are found by a mark in
    their environment.
    """

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.deadline, self.mark = folder, time.monotonic() + seconds, uuid.uuid4().hex
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        # `wait_for` must not find what an earlier run said.
        for log in (folder / "logs").glob("*.log"):
            log.unlink()
        home = folder / "home"
        home.mkdir(exist_ok=True)
        self.environment = {
            **os.environ,
            **QUIET,
            "HOME": str(home),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FEDMIL_MARK": self.mark,
        }

    def __enter__(self) -> "Processes":
        # A polite end of this process ends the others as well.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def left(self) -> float:
        """Seconds until all must be over."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("this took longer than it may")
        return left

    def log(self, name: str) -> str:
        """What a process has written so far."""
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, name: str, command: list, **environment: str) -> subprocess.Popen:
        """Starts a process in the background."""
        with open(self.folder / "logs" / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [str(word) for word in command],
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, name: str, command: list, **environment: str) -> int:
        """Runs a process to its end; returns its exit code."""
        return self.start(name, command, **environment).wait(self.left())

    def wait_for(self, name: str, text: str, process: subprocess.Popen | None = None) -> None:
        """Until a log holds a text."""
        while text not in self.log(name):
            if process is not None and process.poll() is not None:
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}")
            self.left()
            time.sleep(0.1)

    def running(self) -> list[int]:
        """Ids of the processes that carry the mark."""
        wanted, found = f"FEDMIL_MARK={self.mark}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def stop(self) -> None:
        """Ends them: politely, and after some seconds firmly."""
        for signal_, seconds in ((signal.SIGTERM, 6.0), (signal.SIGKILL, 6.0)):
            for pid in self.running():
                try:
                    os.kill(pid, signal_)
                except ProcessLookupError:
                    continue
            until = time.monotonic() + seconds
            while self.running() and time.monotonic() < until:
                time.sleep(0.1)
        if left := self.running():
            raise RuntimeError(f"processes do not end: {left}")
