"""What a child process is told by its environment: a list of names, and nothing else.

A shell's environment holds passwords, tokens of cloud services, proxies with names and passwords, and ways to
make Python or the loader run other code. A part that was taken over reads all of it from its own memory, and
whoever runs as the same user reads it in /proc.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import commonground

PLAIN = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TERM", "COLUMNS", "NO_COLOR", "TMPDIR"}
    | {
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_STATE_HOME",
        "COMMONGROUND_CACHE",
        "no_proxy",
        "NO_PROXY",
    }
    | {"HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_VERBOSITY"}
    | {"HF_HOME", "HF_HUB_CACHE", "DO_NOT_TRACK", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY"}
    | {"ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"}
)
# Languages; how many threads and which kernels the numerical libraries take; Flower's and Ray's own switches.
PREFIXES = ("LC_", "OMP_", "OPENBLAS_", "MKL_", "GOTO_", "FLWR_", "RAY_")
KEYRING = frozenset(
    {"DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "XDG_CURRENT_DESKTOP", "DISPLAY", "WAYLAND_DISPLAY"}
    | {"XAUTHORITY", "PYTHON_KEYRING_BACKEND"}
)
PROXIES = frozenset(
    {
        name
        for base in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
        for name in (base, base.upper())
    }
)
SECRET = ("TOKEN", "SECRET", "PASS", "CREDENTIAL", "_KEY")  # in a name: not even behind a prefix of the list


def child_environment(
    more: Mapping[str, str] | None = None,
    *,
    also: frozenset[str] = frozenset(),
    source: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The environment of a child process.

    Args:
        more: what it is told besides, whatever the list says.
        also: further names that it needs: `KEYRING` of whoever opens one, `PROXIES` of whoever goes out.
        source: what is chosen from; None takes this process's own.

    Returns:
        Name -> value. Of PYTHONPATH only the place that this very program was loaded from is left, so that a
        child runs the same code as its parent and no other.
    """
    source = os.environ if source is None else source
    found = {name: value for name, value in source.items() if _plain(name) or name in also}
    here = Path(commonground.__file__).resolve().parent.parent
    places = [place for place in source.get("PYTHONPATH", "").split(os.pathsep) if place]
    if any(Path(place).resolve() == here for place in places):
        found["PYTHONPATH"] = str(here)
    return found | {"PYTHONUNBUFFERED": "1"} | dict(more or {})


def _plain(name: str) -> bool:
    if any(word in name.upper() for word in SECRET):
        return False
    return name in PLAIN or name.startswith(PREFIXES)
