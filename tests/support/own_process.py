"""Code run in a process of its own, with its own peak memory.

`ru_maxrss` would not do: on Linux a child's starts from its parent's, so a large test process would be measured.
"""

import json
import subprocess
import sys
from typing import Any

_PRINT_PEAK = """
import json as _json
with open("/proc/self/status") as _status:
    _kib = next(int(line.split()[1]) for line in _status if line.startswith("VmHWM:"))
print(_json.dumps({"bytes": 1024 * _kib, "result": globals().get("result")}))
"""


def run_alone(code: str, *arguments: str) -> tuple[int, Any]:
    """The largest resident size in bytes, and what the code left in `result`."""
    command = [sys.executable, "-c", code + _PRINT_PEAK, *arguments]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    measured = json.loads(printed.splitlines()[-1])
    return measured["bytes"], measured["result"]
