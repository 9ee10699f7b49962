"""A Lakeward worker as a child process: what the demo, the benchmarks and the end-to-end tests start, watch and kill.

The worker is the one that users run (`faust -A app worker`), configured by the same environment variables. Its log is
JSON lines in a file; `events` and `wait_for` read them.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from stack.layout import account
from stack.service import launched

REPOSITORY = Path(__file__).resolve().parent.parent


class WorkerDied(Exception):
    """The worker ended by itself; the message carries the last lines of its log."""


class WorkerProcess:
    """One worker. `start` launches it, `terminate` stops it as an operator would, `kill` as a power cut would.

    It doesn't outlive the process that started it (from its main thread; from another one it may).
    """

    def __init__(
        self,
        pipeline: Path,
        platform: Path,
        data_dir: Path,
        log: Path,
        *,
        web_port: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self._command = [
            sys.executable,
            "-m",
            "faust",
            "-A",
            "app",
            "worker",
            "-l",
            "info",
            "--web-port",
            str(web_port),
        ]
        self.web_port = web_port
        self._environment = {
            **os.environ,
            "PYTHONFAULTHANDLER": "1",
            "CDC_PIPELINE": str(pipeline),
            "CDC_PLATFORM": str(platform),
            "CDC_DATA_DIR": str(data_dir),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._told = False
        self._position = 0

    @property
    def pid(self) -> int:
        """The process id of the started worker."""
        assert self._process is not None, "the worker hasn't been started"
        return self._process.pid

    @property
    def log_start(self) -> int:
        """Where in the log file the last `start` began, in bytes."""
        return self._position

    def start(self) -> None:
        """Launch the worker; the log file is appended to over restarts."""
        self._told = False
        in_main_thread = threading.current_thread() is threading.main_thread()
        command = launched(self._command, account()) if in_main_thread else self._command
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._position = output.tell()
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def ended_by_itself(self) -> bool:
        """Whether it has ended though neither `terminate` nor `kill` was called."""
        return self._process is not None and self._process.poll() is not None and not self._told

    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout: float) -> int:
        """The exit status of a worker that ends by itself; TimeoutExpired if it doesn't."""
        assert self._process is not None, "the worker hasn't been started"
        return self._process.wait(timeout)

    def signal_end(self) -> None:
        """SIGTERM, without waiting."""
        self._told = True
        os.kill(self.pid, signal.SIGTERM)

    def terminate(self, timeout: float = 30.0) -> int:
        """SIGTERM, and wait; returns the exit status. TimeoutError, with the end of its log, if it doesn't end."""
        return self._end(signal.SIGTERM, timeout)

    def kill(self) -> int:
        """SIGKILL, and reap."""
        return self._end(signal.SIGKILL, 10.0)

    def freeze(self) -> None:
        """SIGSTOP: a machine that swaps, or a container that is paused. `thaw` ends it."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def limit_memory(self, size: int) -> None:
        """RLIMIT_AS of the started worker: bytes of address space from now on."""
        resource.prlimit(self.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

    def address_space(self) -> int:
        """Bytes of it that the started worker uses."""
        return psutil.Process(self.pid).memory_info().vms

    def _end(self, number: signal.Signals, timeout: float) -> int:
        process = self._process
        assert process is not None, "the worker hasn't been started"
        self._told = True
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired as late:
            process.send_signal(signal.SIGABRT)  # it logs the stacks of its threads
            time.sleep(1)
            process.kill()
            process.wait(10)
            what = f"the worker hadn't ended {timeout:.0f} s after {number.name}"
            raise TimeoutError(f"{what}; {self.log} ends with:\n{self.tail(100)}") from late

    def events(self, name: str | None = None) -> Iterator[dict[str, Any]]:
        """The log events written since the last `start`, oldest first."""
        with self.log.open("rb") as lines:
            lines.seek(self._position)
            for line in lines:
                if line.startswith(b"{") and line.endswith(b"\n"):
                    event: dict[str, Any] = json.loads(line)
                    if name is None or event.get("event") == name:
                        yield event

    def wait_for(self, condition: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
        """Poll until `condition` is true and return its value; WorkerDied if the worker ends, TimeoutError else."""
        deadline = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            if not self.running():
                raise WorkerDied(f"the worker ended while waiting for {what}; {self.log} ends with:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} within {timeout:.0f} s; {self.log} ends with:\n{self.tail()}")
            time.sleep(0.05)

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
