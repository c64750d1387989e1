"""The one exception of this part."""

from __future__ import annotations

from pathlib import Path


class RobotError(ValueError):
    """A robot file, its URDF or a measured state is wrong. The message is one line: file, key, what would be right."""

    def __init__(self, file: Path | str, key: str, message: str, *, line: int | None = None) -> None:
        place = f"{file}:{line}" if line else str(file)
        super().__init__(": ".join(part for part in (place, key, message) if part))
        self.file = Path(file)
        self.key = key
        self.message = message
        self.line = line
