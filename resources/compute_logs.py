"""What a run's steps write to standard output and error, kept where Dagster's UI shows it.

Dagster's own manager also repeats it on the process's own output, by two `tail`s with a Python interpreter each that
watches over them: two fifths of what a short run costs.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._config.config_schema import UserConfigSchema
from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._serdes import ConfigurableClassData


class FileComputeLogManager(LocalComputeLogManager):
    """Dagster's local manager, with its files in the same place, but without the repetition."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """What dagster.yaml says under `config`."""
        return {"folder": dg.StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> FileComputeLogManager:
        """What Dagster calls with the configuration in dagster.yaml; `folder` is Dagster's own."""
        return cls(base_dir=str(Path(config_value["folder"], "storage")), inst_data=inst_data)

    @contextlib.contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Generator[CapturedLogContext, None, None]:
        """Send what is written within the block, by child processes, too, into the files of `log_key`."""
        out, err = (
            self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind])
            for kind in (ComputeIOType.STDOUT, ComputeIOType.STDERR)
        )
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        with redirect_to_file(sys.stdout, out), redirect_to_file(sys.stderr, err):
            yield CapturedLogContext(log_key)
        Path(self.complete_artifact_path(log_key)).touch()
