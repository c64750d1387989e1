"""The eyes of `mini`: pictures -> cells -> tokens, and where in a picture a thing is.

A convolutional stem sees each picture once; what its cells hold does not depend on the words, so that many things can
be looked for in one look. Places are told in metres, in the camera's own frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_policy_node.policy.shapes import EyeShape, MiniShape

EYES = ("front", "left_wrist", "right_wrist", "rear", "wide")
POINTING, AROUND = EYES[:3], EYES[3:]  # those that say where a thing is; those that see what is around
SHIFT = 0.1  # m: the unit in which words say how far from a thing the hand goes


def eye_shape(shape: MiniShape, eye: str) -> EyeShape:
    return shape.front if eye == "front" else shape.wrist if eye in POINTING else shape.around


def fit(image: np.ndarray, shape: EyeShape) -> np.ndarray:
    """A camera's picture [h, w, 3] as an eye takes it: in its size, and of that the rows that it looks at."""
    if image.shape[:2] != (shape.height, shape.width):
        image = cv2.resize(image, (shape.width, shape.height), interpolation=cv2.INTER_AREA)
    return image[shape.rows[0] : shape.rows[1]]


class Pointing(NamedTuple):
    """Where an eye sees the things in question, K of them in each picture."""

    logits: Tensor  # [N, K, cells + 1]; the last: nowhere in the picture
    votes: Tensor  # [N, K, cells, 3] m: where the hand goes, in the camera's frame, were the thing in that cell
    spot: Tensor  # [N, K, 3] m: what the cells say together
    looks: Tensor  # [N, K, C + 1] what is seen there, and how surely there is anything
    turns: Tensor  # [N, K, cells, 6] how fingers would have to be turned, were it in that cell (`harmonics`)
    turn: Tensor  # [N, K, 6] what the cells say together


class Eye(nn.Module):
    """Pictures -> cells -> tokens, and where in them a thing is. The cells are the same whatever is asked for."""

    def __init__(self, shape: EyeShape, channels: int, width: int) -> None:
        super().__init__()
        self.shape = shape
        half = shape.patch // 2
        self.pixels = nn.Conv2d(6, shape.fine, half, stride=half)
        self.sharp = nn.ModuleList(nn.Conv2d(shape.fine, shape.fine, 3, padding=1) for _ in range(2 * shape.sharp))
        self.patches = nn.Conv2d(shape.fine, channels, 4, stride=2, padding=1)  # each sees a little of its neighbours
        self.mix = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2 * shape.blocks))
        rows, columns = shape.cells
        patch = rows // shape.grid[0], columns // shape.grid[1]
        self.reduce = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(shape.tokens, width))
        if shape.points:
            self.query = nn.Linear(width, shape.points * channels)
            self.places = nn.Linear(3 * shape.points, width)
            self.nowhere = nn.Linear(width, 1)
            self.vote = nn.Linear(channels, 3)  # how much deeper than the table there, log, and where in the cell
            self.shift = nn.Linear(width, 3)  # from the thing that words name to where the hand goes (`shifted`)
            for part in (self.shift.weight, self.shift.bias):
                nn.init.zeros_(part)
            self.turn = nn.Linear(channels, 6)
            nn.init.normal_(self.query.weight, std=(width * channels) ** -0.5)
        if shape.things:
            self.thing = nn.Linear(channels, 1)  # whether there is anything that has a name
        for part in (self.pixels, *self.sharp, self.patches, *self.mix):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(part.bias)
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        at = torch.stack((y.flatten(), x.flatten()), -1)
        size = torch.tensor([shape.width, shape.height])
        grid = 2 * (shape.patch * at + torch.tensor([shape.rows[0], 0])).flip(-1) / size - 1
        slope = math.tan(shape.fov / 2) * size / shape.height  # at the picture's edge
        self.register_buffer("grid", grid, persistent=False)  # [cells, 2] in -1..1
        self.register_buffer("rays", grid * slope, persistent=False)  # [cells, 2] m beside the axis at 1 m
        close = (at[:, None] - at).abs().amax(-1) < 1.5
        self.register_buffer("near", close, persistent=False)  # bool [cells, cells]: the same one or a neighbour
        self.register_buffer("cell", 2 * slope * shape.patch / size, persistent=False)  # [2] a cell's size at 1 m

    def see(self, pictures: Tensor) -> Tensor:
        """[N, 3, H, W] -> what the cells hold [N, C, rows, columns]."""
        x = torch.cat((pictures, chroma(pictures)), 1).contiguous(memory_format=torch.channels_last)  # a third off
        x = F.relu(self.pixels(x))
        return even(_mixed(self.patches(_mixed(x, self.sharp)), self.mix))

    def tokens(self, seen: Tensor) -> Tensor:
        """[N, T, W]"""
        return self.reduce(seen).flatten(2).transpose(1, 2) + self.position

    def point(self, seen: Tensor, wanted: Tensor, cameras: Tensor) -> Pointing:
        """Where each of wanted [N, K, W] is; cameras [N, 3, 4]: poses in the base's frame."""
        with torch.autocast(seen.device.type, enabled=False):  # bfloat16 would round places to half a pixel
            cells, wanted = _rows_of(seen), wanted.float()  # [N, cells, C]
            channels = cells.shape[-1]
            chart = F.linear(wanted, self.query.weight[:channels], self.query.bias[:channels]) @ cells.transpose(1, 2)
            deep, beside = self.vote(cells)[:, None].split((1, 2), -1)
            votes = self._places(cameras, self.rays, deep, beside)
            votes = votes + shifted(cameras, self.shift(wanted))[:, :, None]
            logits = torch.cat((chart, self.nowhere(wanted)), -1)
            there = 1 - logits.softmax(-1)[..., -1:]
            close = self.near[chart.detach().argmax(-1)]  # [N, K, cells]: what is elsewhere is something else
            shares = chart.masked_fill(~close, -math.inf).softmax(-1)
            spot = (shares[..., None] * votes).sum(2)
            turns = self.turn(cells)[:, None]
            return Pointing(logits, votes, spot, torch.cat((shares @ cells, there), -1), turns, shares @ turns[:, 0])

    def things(self, seen: Tensor) -> Tensor:
        """[N, cells] logits: whether there is a thing in a cell."""
        with torch.autocast(seen.device.type, enabled=False):
            return self.thing(_rows_of(seen))[..., 0]

    def notice(self, seen: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
        """What stands out, whatever is asked for, from left to right: how it looks and how surely it is a thing
        [N, things, C + 1], and where it is in the camera's frame [N, things, 3] m."""
        with torch.autocast(seen.device.type, enabled=False):
            cells, (rows, columns) = _rows_of(seen), self.shape.cells
            logits = self.things(seen)
            around = F.max_pool2d(logits.detach().view(-1, 1, rows, columns), 3, 1, 1).flatten(1)
            best = torch.where(around > logits.detach(), -math.inf, logits.detach()).topk(self.shape.things, 1).indices
            best = best.gather(1, (best % columns).argsort(1))[..., None]
            looks, sure = cells.gather(1, best.expand(-1, -1, cells.shape[-1])), logits.gather(1, best[..., 0])
            places = self._places(cameras, self.rays[best], *self.vote(looks)[:, :, None].split((1, 2), -1))[:, :, 0]
            return torch.cat((looks, sure.sigmoid()[..., None]), -1), places

    def _places(self, cameras: Tensor, rays: Tensor, deep: Tensor, beside: Tensor) -> Tensor:
        """[N, K, cells, 3] m: where votes put things: beside their cells' rays, and how much deeper than the table.

        What a cell holds does not say where in the picture it is, and so how far away; but nearly everything stands on
        the table, and where that is follows from the camera's pose.
        """
        rays = rays + beside * self.cell
        depth = self.deep(cameras, rays)[..., None] * deep.clamp(-2, 2).exp()
        return torch.cat((rays * depth, depth), -1)

    def deep(self, cameras: Tensor, rays: Tensor) -> Tensor:
        """[N, K, cells] m: how deep the table is on rays [N, K, cells, 2], or would be were it larger, from poses
        [N, 3, 4]; the usual depth where a ray does not go down."""
        across, down, ahead, height = cameras[:, 2, :, None, None].unbind(1)
        slope = across * rays[..., 0] + down * rays[..., 1] + ahead  # m up, per m of depth
        falls, above = slope < -0.05, height - self.shape.table
        deep = torch.where(falls & (above > 0), -above / slope.clamp(max=-0.05), self.shape.depth)
        return deep.clamp(0.03, 4 * self.shape.depth)

    def fits(self, looks: Tensor, wanted: Tensor) -> Tensor:
        """[..., M] how much what looks so [..., C] is each of wanted [M, W] rather than that this is nowhere: nats."""
        channels = looks.shape[-1]
        query = F.linear(wanted, self.query.weight[:channels], self.query.bias[:channels])
        return looks @ query.T - self.nowhere(wanted)[:, 0]

    def gaze(self, seen: Tensor, wanted: Tensor) -> Tensor:
        """[N, 1, W]: centres of mass of all its maps, for wanted [N, W]."""
        with torch.autocast(seen.device.type, enabled=False):
            cells = _rows_of(seen)
            query = self.query(wanted.float()).unflatten(1, (self.shape.points, -1))  # [N, points, C]
            shares = (query @ cells.transpose(1, 2)).softmax(-1)
            sure = (shares * shares).sum(-1, keepdim=True)
            return self.places(torch.cat((shares @ self.grid, sure), -1).flatten(1))[:, None]


class Reader(nn.Module):
    """Words [B, N, E] -> what they ask to look for [B, E]. Neighbours are read together: "red block", not a heap."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(width, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, words: Tensor, there: Tensor) -> Tensor:
        x = (words * there[..., None]).transpose(1, 2)
        y = F.relu(self.first(x)) * there[:, None]  # or the padding's length would be read
        return even(((x + self.second(y)) * there[:, None]).sum(-1))


class Room(nn.Module):
    """Where the places of a room are from here, by all that the eyes for what is around see together.

    [B, places, 4]: x and y [m] in the base's frame, and the cosine and sine of the angle at which one stands there.
    """

    def __init__(self, shape: MiniShape) -> None:
        super().__init__()
        seen = len(AROUND) * shape.around.tokens * shape.vlm.width
        self.places = shape.places
        self.read = nn.Sequential(nn.Linear(seen, 256), nn.ReLU(), nn.Linear(256, 4 * shape.places))

    def forward(self, maps: Tensor) -> Tensor:
        """maps [B, T, W]: the tokens of those eyes."""
        with torch.autocast(maps.device.type, enabled=False):
            return self.read(maps.float().flatten(1)).unflatten(1, (self.places, 4))


CLEAR, SAME = 0.5, 0.7  # of the sum of harmonics: less says nothing; so much of the best is as good
ORDERS = (2, 4, 6)  # of the symmetries that fingers meet: a brick's, a block's, a prism's


def harmonics(yaws: Sequence[float]) -> list[float]:
    """Directions along which fingers may close on a thing, as one smooth thing to learn: cosine and sine of so many
    times each, the mean over all of them. What is round in every way is 0."""
    return [float(np.mean(part(k * np.asarray(yaws)))) for k in ORDERS for part in (np.cos, np.sin)]


def directions(turn: np.ndarray) -> np.ndarray:
    """Back from harmonics [6]: the directions in 0..pi; none where it hardly matters or is not known."""
    angle = np.arange(0.0, math.pi, math.pi / 90)
    fits = sum(np.cos(k * angle) * turn[2 * i] + np.sin(k * angle) * turn[2 * i + 1] for i, k in enumerate(ORDERS))
    peaks = (fits > np.roll(fits, 1)) & (fits >= np.roll(fits, -1)) & (fits > max(CLEAR, SAME * fits.max()))
    return angle[peaks]


def turned(turns: Tensor, by: Tensor) -> Tensor:
    """Harmonics [..., 6] of directions that are all turned by an angle [...]."""
    pairs = turns.unflatten(-1, (len(ORDERS), 2))
    angle = by[..., None] * torch.tensor(ORDERS, dtype=by.dtype, device=by.device)
    c, s, (x, y) = angle.cos(), angle.sin(), pairs.unbind(-1)
    return torch.stack((c * x - s * y, s * x + c * y), -1).flatten(-2)


def heading(cameras: Tensor) -> Tensor:
    """[...] which way the right of pictures points, seen from above; cameras [..., 3, 4]."""
    return torch.atan2(cameras[..., 1, 0], cameras[..., 0, 0])


def shifted(cameras: Tensor, by: Tensor) -> Tensor:
    """[N, K, 3] m in the frames of cameras [N, 3, 4], of ways [N, K, 3] in SHIFT along the base's axes."""
    return SHIFT * torch.einsum("nij,nki->nkj", cameras[:, :, :3], by)


def chroma(pictures: Tensor) -> Tensor:
    """[N, 3, H, W] in -1..1 -> each colour's part of the light, whatever the light is; 0 is grey."""
    light = (pictures + 1) / 2
    return 3 * light / (light.sum(1, keepdim=True) + 0.1) - 1


def _mixed(x: Tensor, parts: nn.ModuleList) -> Tensor:
    """x [N, C, rows, columns] through residual blocks of two convolutions each."""
    for first, second in zip(parts[::2], parts[1::2]):
        x = x + second(F.relu(first(even(x))))
    return x


def _rows_of(seen: Tensor) -> Tensor:
    """[N, C, rows, columns] -> float32 [N, cells, C]"""
    return seen.float().flatten(2).transpose(1, 2)


def even(x: Tensor) -> Tensor:
    """x [N, C, …] with every cell of the same strength: what is looked for is found sooner, and more surely."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
