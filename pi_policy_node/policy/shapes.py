"""The sizes of the policies we know, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class VisionShape:
    """A SigLIP tower: square pictures cut into square patches."""

    width: int
    depth: int
    mlp: int
    heads: int
    image: int = 224  # pixels
    patch: int = 14  # pixels

    @property
    def tokens(self) -> int:
        return (self.image // self.patch) ** 2


@dataclass(frozen=True)
class GemmaShape:
    """A Gemma decoder with one key/value head for all query heads."""

    width: int
    depth: int
    mlp: int
    heads: int = 8
    head_dim: int = 256


@dataclass(frozen=True)
class Shape:
    """A whole policy. The expert attends to every layer of the VLM, so both have the same depth and head_dim."""

    name: str
    family: str  # "pi0": the state is a token, z-scores; "pi05": the state is in the prompt, quantiles, adaRMS
    vision: VisionShape
    vlm: GemmaShape
    expert: GemmaShape
    vocabulary: int
    prompt_tokens: int  # the longest prompt
    action_dim: int = 32
    horizon: int = 50

    def __post_init__(self) -> None:
        if self.family not in ("pi0", "pi05"):
            raise ValueError(f"family is {self.family!r}; it must be 'pi0' or 'pi05'")
        if (self.vlm.depth, self.vlm.head_dim) != (self.expert.depth, self.expert.head_dim):
            raise ValueError(f"{self.name}: the expert must have the VLM's depth and head_dim")


@dataclass(frozen=True)
class EyeShape:
    """A small convolutional stem: cells of `patch` pixels, residual blocks, then a grid of tokens."""

    height: int  # pixels, of the whole picture
    width: int
    rows: tuple[int, int]  # the first that is looked at, and the one behind the last
    grid: tuple[int, int]  # tokens down and across; divides the cells
    blocks: int = 2
    fov: float = 1.0  # rad, of the camera, from top to bottom
    depth: float = 0.5  # m from the camera to what it usually looks at
    table: float = 0.725  # m above the floor: the middle of most things that stand on the table
    points: int = 8  # places it points at
    things: int = 0  # that it notices, whatever is asked for
    patch: int = 8
    fine: int = 32  # channels of half a patch
    sharp: int = 0  # residual blocks at that: edges, and so shapes

    @property
    def cells(self) -> tuple[int, int]:
        return (self.rows[1] - self.rows[0]) // self.patch, self.width // self.patch

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class MiniShape:
    """The mini policy: the same blocks as above under convolutional eyes that are told what to look for."""

    name: str = "mini"
    front: EyeShape = EyeShape(height=240, width=320, rows=(88, 208), grid=(3, 8), fov=0.95, depth=0.9, things=8,
                              sharp=1)
    wrist: EyeShape = EyeShape(height=120, width=160, rows=(0, 120), grid=(3, 4), fov=1.1, depth=0.15)
    around: EyeShape = EyeShape(height=72, width=96, rows=(0, 72), grid=(3, 4), blocks=1, points=0, fine=24)
    channels: int = 48
    vlm: GemmaShape = GemmaShape(width=128, depth=3, mlp=384, heads=4, head_dim=32)
    expert: GemmaShape = GemmaShape(width=128, depth=3, mlp=384, heads=4, head_dim=32)
    state_dim: int = 24  # the robot's 18 numbers and both tools' places
    action_dim: int = 18
    joints: int = 6  # of each of two arms
    places: int = 3  # in the room, to which it may be told to drive
    knots: int = 11  # rows of the network's own chunk
    knot: float = 0.1  # s between them


_PI0 = Shape(
    name="pi0",
    family="pi0",
    vision=VisionShape(width=1152, depth=27, mlp=4304, heads=16),
    vlm=GemmaShape(width=2048, depth=18, mlp=16384),
    expert=GemmaShape(width=1024, depth=18, mlp=4096),
    vocabulary=257152,
    prompt_tokens=48,
)
_SMALL = Shape(  # the goldens' size: everything there, nothing large
    name="small",
    family="pi0",
    vision=VisionShape(width=96, depth=2, mlp=160, heads=4),
    vlm=GemmaShape(width=128, depth=3, mlp=256, head_dim=32),
    expert=GemmaShape(width=64, depth=3, mlp=128, head_dim=32),
    vocabulary=1024,
    prompt_tokens=48,
)
_QUARTER = Shape(  # pi0 with every width a quarter: its proportions where its 13 GB do not fit
    name="quarter",
    family="pi0",
    vision=VisionShape(width=288, depth=27, mlp=1076, heads=4),
    vlm=GemmaShape(width=512, depth=18, mlp=4096, head_dim=64),
    expert=GemmaShape(width=256, depth=18, mlp=1024, head_dim=64),
    vocabulary=4096,
    prompt_tokens=48,
)

PRESETS = {
    shape.name: shape
    for shape in (
        _PI0,
        replace(_PI0, name="pi05", family="pi05", prompt_tokens=200),
        _SMALL,
        replace(_SMALL, name="small05", family="pi05", prompt_tokens=200),
        _QUARTER,
        replace(_QUARTER, name="quarter05", family="pi05", prompt_tokens=200),
    )
}


def preset(name: str) -> Shape:
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
