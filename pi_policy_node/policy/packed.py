"""Products on the CPU with packed weights: in the blocked layout that oneDNN reads fastest, not row by row.

What follows a product (GELU, the multiplication by the gate) is done on its tiles while they are in the cache. float32
products go through oneDNN this way as well, where torch alone would call MKL. The values are the same to rounding.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_policy_node.policy.gemma import Block, GeGlu
from pi_policy_node.policy.model import Pi
from pi_policy_node.policy.siglip import GeluLinear, VisionBlock


def available(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this torch (an x86 build with oneDNN) and this CPU can: bfloat16 needs instructions that many lack."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Packed(nn.Module):
    """y = x·Wᵀ + b. Its weight is no parameter: nothing but these products can read it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        """rows: about how many a product will have."""
        super().__init__()
        self.rows, self.bias = rows, bias
        self.blocked = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), rows)
        self._transposed: Packed | None = None

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:  # guidance differentiates through the expert
            return _Differentiable.apply(x, self)
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.blocked, self.bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """gelu(y)"""
        return torch.ops.mkldnn._linear_pointwise(x, self.blocked, self.bias, "gelu", [], "tanh")

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """y ⊙ factor"""
        return torch.ops.mkldnn._linear_pointwise.binary(x, factor, self.blocked, self.bias, "mul")

    def weight(self) -> Tensor:
        """W as it was."""
        return self.blocked.to_dense()

    def transposed(self) -> Packed:
        """x -> x·W, for gradients; made when it is first needed."""
        if self._transposed is None:
            self._transposed = Packed(self.weight().t(), None, self.rows)
        return self._transposed


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, packed: Packed) -> Tensor:
        ctx.packed = packed
        return packed.product(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.packed.transposed().product(gradient), None


class PackedGeGlu(nn.Module):
    def __init__(self, gate: Tensor, up: Tensor, rows: int) -> None:
        super().__init__()
        self.gate, self.up = Packed(gate, None, rows), Packed(up, None, rows)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return F.gelu(self.gate(x), approximate="tanh") * self.up(x)
        return self.up.times(x, self.gate.gelu(x))


class PackedGelu(Packed):
    def forward(self, x: Tensor) -> Tensor:
        return self.gelu(x)


@torch.no_grad()
def pack(model: Pi, prefix: int) -> None:
    """Pack all layers in place, one at a time, so that hardly more memory is needed on the way."""
    if not available(model.dtype):
        raise ValueError(f"weights cannot be packed here in {str(model.dtype).removeprefix('torch.')}: "
                         "that takes torch with oneDNN, and for bfloat16 a CPU with instructions for it")
    for stack, rows in ((model.vision, prefix), (model.vlm, prefix), (model.expert, model.shape.horizon)):
        for block in stack.blocks:
            pack_block(block, rows)


@torch.no_grad()
def pack_block(block: Block | VisionBlock, rows: int) -> None:
    """`rows`: about how many its products will have."""
    for name, product in list(block.named_children()):
        if isinstance(product, GeGlu):
            setattr(block, name, PackedGeGlu(*product.weight.chunk(2), rows))
        elif isinstance(product, nn.Linear):
            kind = PackedGelu if isinstance(product, GeluLinear) else Packed
            setattr(block, name, kind(product.weight, None if product.bias is None else product.bias.detach(), rows))


def is_packed(block: Block) -> bool:
    return isinstance(block.qkv, Packed)


def packed_copy(block: Block, rows: int) -> Block:
    """A packed block beside the plain one: they share norms, not products."""
    twin = copy.copy(block)
    twin._modules = dict(block._modules)
    pack_block(twin, rows)
    return twin


@torch.no_grad()
def unpack(model: Pi) -> None:
    """Undo `pack`."""
    for stack in (model.vision, model.vlm, model.expert):
        for block in stack.blocks:
            for name, product in list(block.named_children()):
                if isinstance(product, PackedGeGlu):
                    setattr(block, name, _plain(GeGlu, torch.cat((product.gate.weight(), product.up.weight())), None))
                elif isinstance(product, Packed):
                    kind = GeluLinear if isinstance(product, PackedGelu) else nn.Linear
                    setattr(block, name, _plain(kind, product.weight(), product.bias))


def _plain(kind: type[nn.Linear], weight: Tensor, bias: Tensor | None) -> nn.Linear:
    with torch.device("meta"):
        linear = kind(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear
