"""From a failed command's output to one line that says what to do."""

from __future__ import annotations

import re

# The first that matches anywhere in the output wins: causes before their consequences.
CAUSES = (
    (r"No space left on device|Errno 28", "the disk is full: free some space and run ./pi again"),
    (r"DO NOT MATCH THE HASHES", "a download is not the file that was pinned (hashes differ): run ./pi again, and "
     "if it happens twice, distrust the package index"),
    (r"Temporary failure in name resolution|Name or service not known|Network is unreachable|No route to host"
     r"|NewConnectionError|ConnectTimeout|Connection refused|Max retries exceeded|Temporary failure resolving"
     r"|Read timed out|Could not connect to|ProxyError",
     "no network: the package index can't be reached; run ./pi again when it can"),
    (r"CERTIFICATE_VERIFY_FAILED", "the package index's certificate is not trusted here: install ca-certificates, or "
     "set PIP_CERT behind a proxy"),
    (r"No CMAKE_CXX?_COMPILER could be found|CMAKE_CXX?_COMPILER.* not set", "no compiler: apt-get install g++ make"),
    (r"Python\.h: No such file", "no Python headers: apt-get install python3-dev"),
    (r"c\+\+: fatal error: Killed|internal compiler error: Killed", "the compiler ran out of memory"),
    (r"Could not get lock /var/lib/(dpkg|apt)", "another apt is running: wait for it and run ./pi again"),
    (r"ensurepip is not available|No module named '?ensurepip", "this Python has no venv: apt-get install python3-venv"),
)


def explain(output: str, status: int) -> str:
    for pattern, line in CAUSES:
        if re.search(pattern, output):
            return line
    if status in (-9, 137):
        return "the command was killed, most likely for want of memory"
    errors = [line.strip() for line in output.splitlines() if re.match(r"\s*(ERROR|E|error|fatal|CMake Error)\b", line)]
    lines = errors or [line.strip() for line in output.splitlines() if line.strip()]
    return f"failed with status {status}: {lines[-1][:200] if lines else 'it said nothing'}"
