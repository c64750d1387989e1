"""What mini is given, what its eyes make of that, and what its language model makes of both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pi_policy_node.policy.gemma import KV

PAD, UNKNOWN, BEGIN, END = range(4)  # tokens that are no words


@dataclass
class Found:
    """What the eyes see in a batch of pictures, for the words in question."""

    maps: Tensor  # [B, T, W] the eyes' tokens, one eye's behind the other's; none to act
    looks: Tensor  # [B, 3, C + 1] how the thing in question looks to each pointing eye, and how surely it is there
    spots: Tensor  # [B, 3, 3] m where it is in that eye's frame
    turns: Tensor  # [B, 3, 6] and how fingers would have to be turned, from that eye's right
    room: Tensor  # [B, places, 4] where the room's places are from here (`Room`)
    gaze: Tensor  # [B, 3, W] centres of mass; none to act, nor of what follows
    noticed: Tensor  # [B, things, C + 1] how what stands out looks
    places: Tensor  # [B, things, 3] m where that is in the front eye's frame


@dataclass
class Look:
    """A batch as the network takes it. Pictures float [B, 3, H, W] in -1..1, by eye; none where `found` is there."""

    pictures: dict[str, Tensor]
    seen: Tensor  # bool [B, eyes]: there is a picture
    state: Tensor  # float [B, state_dim], normalised
    cameras: Tensor  # float [B, 3, 3, 4]: the pointing eyes' optical frames in the base's
    tools: Tensor  # float [B, 2, 3] m, in the base's frame
    instruction: Tensor  # int64 [B, N], padded with PAD
    subtask: Tensor  # int64 [B, M], padded; empty where it is to be said
    arm: Tensor  # int64 [B] the one that is to pick up; -1: either
    found: Found | None = None  # by eyes that are held
    ways: Tensor | None = None  # to act: float [B, 2, joints, 3] how arms move their tools along the base's axes, rad/m
    hands: Tensor | None = None  # and [B, 2] rad: how hands are turned, seen from above


@dataclass
class Scene:
    """What the expert and the language head attend to, and what the prefix itself tells."""

    kv: KV
    valid: Tensor  # bool [B, P]
    hidden: Tensor  # [B, W] of the state's token
    full: bool = False  # nothing is padded


def placed(cameras: Tensor, spots: Tensor) -> Tensor:
    """[..., 3] m in the base's frame, of places [..., 3] in the frames of cameras [..., 3, 4]."""
    return torch.einsum("...ij,...j->...i", cameras[..., :3], spots) + cameras[..., 3]


def spotted(cameras: Tensor, places: Tensor) -> Tensor:
    """[..., 3] m in the frames of cameras [..., 3, 4], of places [..., 3] in the base's frame."""
    return torch.einsum("...ij,...i->...j", cameras[..., :3], places - cameras[..., 3])
