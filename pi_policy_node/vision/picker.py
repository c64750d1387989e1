"""Picks synchronised sets out of cameras that come and go as they like.

Stamps are integer nanoseconds on the node's clock, `steady` times are seconds on a clock that never stops. The rules:

- A set is the newest one in which every camera that is waited for agrees within the tolerance; it is given out the
  moment its last image arrives, and not more often than asked for.
- A camera that fails is waited for once, for about one of its periods. From then on sets go out without it, naming the
  reason, until it sends an image that agrees with the others again. An old image never stands in for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HISTORY = 8  # images kept per camera: enough to match one that arrives later than the others
SAMPLES = 256  # joint states or odometry messages kept: half a second at 500 Hz


@dataclass(frozen=True)
class Frame:
    """One image: its time of capture [ns], when it arrived [steady s], and whatever holds its pixels."""

    stamp: int
    arrived: float
    payload: Any


@dataclass(frozen=True)
class ImageSet:
    """What goes out: `frames[camera]` is None where the camera is not valid, and `reasons[camera]` then says why."""

    stamp: int  # of its newest image; the time now where there is none
    frames: dict[str, Frame | None]
    reasons: dict[str, str]


@dataclass
class _Camera:
    period: float  # s between images, as the robot file says
    frames: deque[Frame] = field(default_factory=lambda: deque(maxlen=HISTORY))
    used: int = -1  # stamp of the image in the last set
    waited_for: bool = True
    refusal: str = ""  # why the newest arrival was refused; empty when it was accepted

    @property
    def newest(self) -> int:
        return self.frames[-1].stamp if self.frames else -1

    @property
    def fresh(self) -> bool:
        return self.newest > self.used

    def at(self, stamp: int) -> Frame | None:
        """The newest frame not after `stamp`."""
        return next((frame for frame in reversed(self.frames) if frame.stamp <= stamp), None)


class SetPicker:
    """`add` and `refuse` what arrives, then `pick`; `pick` also from a timer, because silence is an event too."""

    def __init__(self, cameras: Mapping[str, float], *, hz: float, tolerance: float) -> None:
        """`cameras`: name -> images per second expected; `hz`: sets per second wanted; `tolerance`: [s]."""
        self.period = round(1e9 / hz)
        self.tolerance = round(tolerance * 1e9)
        self._rates = dict(cameras)
        self.reset()

    def reset(self) -> None:
        """Forgets everything: the clock jumped, or the node was restarted."""
        self._cameras = {name: _Camera(1 / hz) for name, hz in self._rates.items()}
        self._due: int | None = None  # stamp from which on the next set is wanted
        self._since: float | None = None  # steady time of the first arrival since the last set
        self._last_good: float | None = None  # steady time of the last accepted image, or of the first arrival
        self._blind = False  # the last set had no valid image

    def add(self, camera: str, frame: Frame) -> None:
        """An accepted image. Stamps of one camera must ascend (CameraWatch sees to it)."""
        own = self._cameras[camera]
        own.frames.append(frame)
        own.refusal = ""
        own.waited_for = own.waited_for or self._fits(frame.stamp)
        self._since = frame.arrived if self._since is None else self._since
        self._last_good = frame.arrived

    def refuse(self, camera: str, reason: str, steady: float) -> None:
        """An image that can't be used. The camera is not waited for until it sends one that can."""
        own = self._cameras[camera]
        own.refusal = reason
        own.waited_for = False
        self._since = steady if self._since is None else self._since
        self._last_good = steady if self._last_good is None else self._last_good

    def wanted(self, camera: str, stamp: int) -> bool:
        """Whether an image of that stamp will probably be used, and its decoding should not wait for the set."""
        return stamp + self._cameras[camera].period * 1e9 / 8 >= self._earliest()

    def pick(self, *, now: int, steady: float) -> ImageSet | None:
        """The set to give out now, if there is one."""
        stamp = self._agreed()
        if stamp is None and self._since is not None and steady - self._since > self._patience():
            stamp = max((own.newest for own in self._cameras.values() if own.fresh), default=None)
        if stamp is not None and stamp >= self._earliest():
            return self._give(stamp, steady)
        if not self._blind and self._last_good is not None and steady - self._last_good > self._patience():
            return self._give_nothing(now, steady)
        return None

    def _fits(self, stamp: int) -> bool:
        """Whether an image of that stamp is the newest of all, or agrees with one of each camera that is waited for."""
        others = [other for other in self._cameras.values() if other.waited_for]
        return (abs(max(other.newest for other in self._cameras.values()) - stamp) <= self.tolerance
                or all(any(abs(frame.stamp - stamp) <= self.tolerance for frame in other.frames) for other in others))

    def _agreed(self) -> int | None:
        """The stamp of the newest set in which all cameras that are waited for agree and bring something new."""
        waited = [own for own in self._cameras.values() if own.waited_for]
        if not waited or not all(own.fresh for own in waited):
            return None
        # The camera that lags most sets the time; the others look back in their history for it. Where images follow
        # each other within the tolerance, its next one is worth waiting for: hence not the whole tolerance.
        limit = min(own.newest + min(self.tolerance, round(0.8e9 * own.period)) for own in waited)
        frames = [own.at(limit) for own in waited]
        if any(frame is None for frame in frames):
            return None
        stamp = max(frame.stamp for frame in frames)
        return stamp if all(stamp - frame.stamp <= self.tolerance for frame in frames) else None

    def _earliest(self) -> int:
        # A quarter of a period early is better than a whole camera period late.
        return 0 if self._due is None else self._due - self.period // 4

    def _patience(self) -> float:
        periods = [own.period for own in self._cameras.values()]
        awaited = [own.period for own in self._cameras.values() if own.waited_for]
        return self.period * 1e-9 + 1.5 * max(awaited or periods)

    def _give(self, stamp: int, steady: float) -> ImageSet:
        frames: dict[str, Frame | None] = {}
        reasons: dict[str, str] = {}
        for name, own in self._cameras.items():
            frame = own.at(stamp)
            if frame is not None and stamp - frame.stamp <= self.tolerance:
                frames[name], reasons[name] = frame, ""
                own.used = frame.stamp
            else:
                frames[name], reasons[name] = None, self._reason(own, stamp, steady)
                own.used = max(own.used, min(own.newest, stamp))
                own.waited_for = False
        behind = self._due is None or stamp > self._due + self.period
        self._due = (stamp if behind else self._due) + self.period
        self._since = None
        self._blind = False
        return ImageSet(stamp, frames, reasons)

    def _give_nothing(self, now: int, steady: float) -> ImageSet:
        self._blind = True
        self._since = None
        for own in self._cameras.values():
            own.waited_for = False
        return ImageSet(now, dict.fromkeys(self._cameras),
                        {name: self._reason(own, now, steady) for name, own in self._cameras.items()})

    def _reason(self, own: _Camera, stamp: int, steady: float) -> str:
        if own.refusal:
            return own.refusal
        if not own.frames:
            return "no image yet"
        silent = steady - own.frames[-1].arrived
        if silent > 1.5 * own.period:
            return f"late: no image for {silent:.2f} s"
        skew = (own.newest - stamp) * 1e-9
        return f"captured {abs(skew):.3f} s {'after' if skew > 0 else 'before'} the rest of the set; " \
               f"tolerance {self.tolerance * 1e-9:g} s"


class Samples:
    """A short memory of joint states or odometry by stamp [ns]."""

    def __init__(self) -> None:
        self._stamps: deque[int] = deque(maxlen=SAMPLES)
        self._values: deque[Any] = deque(maxlen=SAMPLES)

    def add(self, stamp: int, value: Any) -> bool:
        """False where `stamp` does not advance; the sample is then left out."""
        if self._stamps and stamp <= self._stamps[-1]:
            return False
        self._stamps.append(stamp)
        self._values.append(value)
        return True

    def near(self, stamp: int, tolerance: int) -> Any | None:
        """The newest sample within `tolerance` [ns] of `stamp`; None where there is none."""
        index = bisect_right(self._stamps, stamp + tolerance) - 1
        if index < 0 or self._stamps[index] < stamp - tolerance:
            return None
        return self._values[index]

    @property
    def newest(self) -> int | None:
        """The latest stamp."""
        return self._stamps[-1] if self._stamps else None
