"""The environment variables of a kernel: all that it finds, whatever this process has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

THREADS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""What libraries for linear algebra ask how many threads to use: one, so that sums are added up in one order."""


def variables(work: Path, run: Path) -> dict[str, str]:
    """CPU only, one thread, no random hashes, nothing of ours; `work` is the notebook's folder, `run` its kernel's."""
    return dict.fromkeys(THREADS, "1") | {
        "HOME": str(work),
        "TMPDIR": str(run),
        "IPYTHONDIR": str(run / "ipython"),
        "MPLCONFIGDIR": str(run / "matplotlib"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "USER": "notebook",
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SOURCE_DATE_EPOCH": "0",
        "MPLBACKEND": "Agg",
        "CUDA_VISIBLE_DEVICES": "",
        "NVIDIA_VISIBLE_DEVICES": "none",
        "HIP_VISIBLE_DEVICES": "",
    }
