"""A policy that does what is asked of it, and also fails as asked: `policy:=drill:Drill`, with this folder importable."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from pi_policy_node.policy.scripted import ScriptedPolicy

LATER = 0.15  # of the motion: from here on it fails, in full motion


class Drill(ScriptedPolicy):
    """The first word may be: crash, nan, full, hang (each in full motion, and from then on until the next task), slow
    (every answer), stall (no progress)."""

    name = "drill"
    broken = False

    def reset(self):
        super().reset()
        self.broken = False

    def infer(self, obs, **options):
        how = obs.prompt.split()[0]
        result = super().infer(obs, **options)
        if how == "slow":
            time.sleep(0.25)
        if how == "stall":
            still = np.where(self.robot.is_base, 0.0, obs.state)
            return replace(result, actions=np.tile(still, (self.horizon, 1)), subtask="push", progress=0.3)
        self.broken |= result.progress > LATER
        if self.broken:
            if how == "crash":
                raise RuntimeError("a screw is loose")
            if how == "full":
                raise MemoryError("no room left")
            if how == "hang":
                time.sleep(2.0)
            if how == "nan":
                result.actions[7, 3] = np.nan
        return result
