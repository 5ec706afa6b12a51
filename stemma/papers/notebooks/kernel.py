"""The kernel of a notebook, started in a sandbox by a provisioner of ours, and spoken to over sockets in its folder."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from stemma.papers.notebooks.variables import variables
from stemma.papers.sandbox.levels import Level
from stemma.papers.sandbox.limits import Limits
from stemma.papers.sandbox.started import Report, Sandbox, start

PROVISIONER: Final = "stemma-sandbox"
MOST_PRINTED: Final = 6_000_000
"""Characters that a kernel sends of what its notebook prints, by its own will; the rest it drops."""

_GROUP: Final = "jupyter_client.kernel_provisioners"
# What is printed is sent within 10 ms, not 200. What children print would come by TCP, which there is none of.
_BOOT: Final = f"""
from ipykernel import iostream
from ipykernel.kernelapp import launch_new_instance

class Stream(iostream.OutStream):
    flush_interval = 0.01
    left = {MOST_PRINTED}
    told = False
    def write(self, string):
        if not isinstance(string, str) or Stream.left >= len(string):
            Stream.left -= len(string) if isinstance(string, str) else 0
            return super().write(string)
        cut, Stream.left = string[:Stream.left], 0
        if cut or Stream.told is False:
            Stream.told = True
            super().write(cut + "\\nwarning: E_ARTIFACT_TOO_LARGE (truncated)\\n")
        return len(string)

iostream.OutStream = Stream
iostream.IOPubThread._setup_pipe_in = lambda self: setattr(self, "_pipe_flag", False)
launch_new_instance()
"""


class Workplace:
    """The folder of one execution: `work` for the notebook, `run` for the sockets by which its kernel is spoken to."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.work = base / "work"
        self.run = base / "run"
        for folder in (self.work, self.run):
            folder.mkdir()


class SandboxedKernelManager(AsyncKernelManager):
    """Starts one kernel in a sandbox."""

    place: Workplace
    level: Level
    limits: Limits

    def report(self) -> Report | None:
        """Why the kernel is no more, once it has ended; None before it was started."""
        provisioner = self.provisioner
        if not isinstance(provisioner, SandboxProvisioner) or provisioner.sandbox is None:
            return None
        return provisioner.sandbox.end()


class SandboxProvisioner(LocalProvisioner):
    """What `jupyter_client` asks to start, poll and kill the kernel's process, which here is a sandbox."""

    sandbox: Sandbox | None = None

    @property
    def has_process(self) -> bool:
        """Whether there is one."""
        return self.sandbox is not None and self.sandbox.is_running()

    async def poll(self) -> int | None:
        """None while it lives."""
        return None if self.has_process else 1

    async def wait(self) -> int | None:
        """End it: nothing waits for a kernel that was not told to end."""
        await self.kill()
        return 0

    async def send_signal(self, signum: int) -> None:
        """Kernels are interrupted by message; any other signal ends them."""
        await self.kill()

    async def kill(self, restart: bool = False) -> None:
        """Kill it with everything that it started."""
        if self.sandbox is not None:
            await asyncio.to_thread(self.sandbox.end)

    async def terminate(self, restart: bool = False) -> None:
        """The same."""
        await self.kill()

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start it."""
        manager = self.parent
        assert isinstance(manager, SandboxedKernelManager)
        self.sandbox = start(
            manager.level,
            cmd,
            base=manager.place.base,
            folder=manager.place.work,
            env=variables(manager.place.work, manager.place.run),
            limits=manager.limits,
        )
        self.pid = self.sandbox.pid
        self.cwd = manager.place.work
        info: KernelConnectionInfo = self.connection_info
        return info


class _Specs(KernelSpecManager):
    """The one kernel that there is, whatever is installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-c", _BOOT, "-f", "{connection_file}", "--HistoryManager.enabled=False"]
        named = {"kernel_provisioner": {"provisioner_name": PROVISIONER}}
        return KernelSpec(
            argv=argv, display_name="Python 3", language="python", interrupt_mode="message", metadata=named
        )


def kernel_manager(place: Workplace, level: Level, limits: Limits) -> SandboxedKernelManager:
    """The manager of a kernel that is yet to be started."""
    provisioners = KernelProvisionerFactory.instance().provisioners
    provisioners.setdefault(PROVISIONER, EntryPoint(PROVISIONER, f"{__name__}:SandboxProvisioner", _GROUP))
    manager = SandboxedKernelManager(
        kernel_name="python3",
        kernel_spec_manager=_Specs(),
        transport="ipc",
        connection_file=str(place.run / "kernel.json"),
    )
    manager.place, manager.level, manager.limits = place, level, limits
    return manager
