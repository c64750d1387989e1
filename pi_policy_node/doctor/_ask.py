"""Ask another Python process, so that what crashes or hangs there is an answer here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from pi_policy_node.environment import ros_environment


def ask(code: str, *, seconds: float = 60.0) -> tuple[dict[str, Any], str]:
    """Run `code`, which fills `answer`; what it filled in, and the last line of its error ("" when it went well)."""
    script = f"import json\nanswer = {{}}\n{code}\nprint(json.dumps(answer))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=seconds,
            env=ros_environment(), stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return {}, f"no answer within {seconds:.0f} s"
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]), ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return {}, lines[-1].strip() if lines else f"the process died with status {done.returncode}"
