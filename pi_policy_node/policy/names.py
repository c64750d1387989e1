"""Which tensors of a published checkpoint make up each of our parameters.

Ours are packed (q, k and v are one product, gate and up another, all adaptive norms a third), so one of our parameters
is one or several of theirs, stacked along the first dimension.
"""

from __future__ import annotations

from pi_policy_node.policy.shapes import GemmaShape, Shape

Source = tuple[str, tuple[int, ...]]  # a tensor's name and shape in the published layout

_TOWER = "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
_PROJECT = "paligemma_with_expert.paligemma.model.multi_modal_projector.linear"
_LANGUAGE = "paligemma_with_expert.paligemma.model.language_model."
_EXPERT = "paligemma_with_expert.gemma_expert.model."
HEAD = "paligemma_with_expert.paligemma.lm_head.weight"

TIED = {_LANGUAGE + "embed_tokens.weight": HEAD}  # the same numbers under another name; either may be stored
DEAD = {"paligemma_with_expert.gemma_expert.lm_head.weight", _EXPERT + "embed_tokens.weight"}  # never used


def published(shape: Shape) -> dict[str, list[Source]]:
    """Our parameter name -> the published tensors it is made of, for a policy of this shape."""
    out: dict[str, list[Source]] = {"embed": [(HEAD, (shape.vocabulary, shape.vlm.width))]}
    out |= _vision(shape)
    out |= _gemma("vlm.", _LANGUAGE, shape.vlm, adaptive=False)
    out |= _gemma("expert.", _EXPERT, shape.expert, adaptive=shape.family == "pi05")
    width, actions = shape.expert.width, shape.action_dim
    out |= _linear("action_in", "action_in_proj", width, actions)
    out |= _linear("action_out", "action_out_proj", actions, width)
    if shape.family == "pi0":
        out |= _linear("state_in", "state_proj", width, actions)
        out |= _linear("time_in", "action_time_mlp_in", width, 2 * width)
        out |= _linear("time_out", "action_time_mlp_out", width, width)
    else:
        out |= _linear("time_in", "time_mlp_in", width, width)
        out |= _linear("time_out", "time_mlp_out", width, width)
    return out


def _linear(ours: str, theirs: str, rows: int, columns: int) -> dict[str, list[Source]]:
    return {f"{ours}.weight": [(f"{theirs}.weight", (rows, columns))], f"{ours}.bias": [(f"{theirs}.bias", (rows,))]}


def _norm(ours: str, theirs: str, width: int) -> dict[str, list[Source]]:
    return {f"{ours}.{end}": [(f"{theirs}.{end}", (width,))] for end in ("weight", "bias")}


def _vision(shape: Shape) -> dict[str, list[Source]]:
    v = shape.vision
    out: dict[str, list[Source]] = {
        "vision.patches.weight": [(_TOWER + "embeddings.patch_embedding.weight", (v.width, 3, v.patch, v.patch))],
        "vision.patches.bias": [(_TOWER + "embeddings.patch_embedding.bias", (v.width,))],
        "vision.position": [(_TOWER + "embeddings.position_embedding.weight", (v.tokens, v.width))],
    }
    for i in range(v.depth):
        ours, theirs = f"vision.blocks.{i}.", f"{_TOWER}encoder.layers.{i}."
        out |= _norm(ours + "norm1", theirs + "layer_norm1", v.width)
        out |= _norm(ours + "norm2", theirs + "layer_norm2", v.width)
        qkv = [f"{theirs}self_attn.{x}_proj" for x in "qkv"]
        out[ours + "qkv.weight"] = [(f"{x}.weight", (v.width, v.width)) for x in qkv]
        out[ours + "qkv.bias"] = [(f"{x}.bias", (v.width,)) for x in qkv]
        out |= _linear(ours + "out", theirs + "self_attn.out_proj", v.width, v.width)
        out |= _linear(ours + "up", theirs + "mlp.fc1", v.mlp, v.width)
        out |= _linear(ours + "down", theirs + "mlp.fc2", v.width, v.mlp)
    out |= _norm("vision.norm", _TOWER + "post_layernorm", v.width)
    return out | _linear("vision.project", _PROJECT, shape.vlm.width, v.width)


def _gemma(ours: str, theirs: str, g: GemmaShape, *, adaptive: bool) -> dict[str, list[Source]]:
    out: dict[str, list[Source]] = {}
    norms: list[str] = []
    for i in range(g.depth):
        mine, layer = f"{ours}blocks.{i}.", f"{theirs}layers.{i}."
        inner = g.heads * g.head_dim
        rows = {"q": inner, "k": g.head_dim, "v": g.head_dim}
        out[mine + "qkv.weight"] = [(f"{layer}self_attn.{x}_proj.weight", (n, g.width)) for x, n in rows.items()]
        out[mine + "out.weight"] = [(f"{layer}self_attn.o_proj.weight", (g.width, inner))]
        out[mine + "gate_up.weight"] = [(f"{layer}mlp.{x}_proj.weight", (g.mlp, g.width)) for x in ("gate", "up")]
        out[mine + "down.weight"] = [(f"{layer}mlp.down_proj.weight", (g.width, g.mlp))]
        for mine_norm, name in (("norm1", "input_layernorm"), ("norm2", "post_attention_layernorm")):
            norms.append(layer + name)
            if not adaptive:
                out[f"{mine}{mine_norm}.weight"] = [(f"{layer}{name}.weight", (g.width,))]
    norms.append(theirs + "norm")
    if adaptive:
        out[ours + "modulation.weight"] = [(f"{n}.dense.weight", (3 * g.width, g.width)) for n in norms]
        out[ours + "modulation.bias"] = [(f"{n}.dense.bias", (3 * g.width,)) for n in norms]
    else:
        out[ours + "norm.weight"] = [(f"{theirs}norm.weight", (g.width,))]
    return out
