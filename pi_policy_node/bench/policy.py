"""How fast a policy answers here: milliseconds by stage, the floor of this device, and the ratio to it."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from pi_policy_node.bench import eager, mini
from pi_policy_node.bench.floor import available_gb, floor, measure, peak_gb
from pi_policy_node.cli import CommandError
from pi_policy_node.policy import tune
from pi_policy_node.policy.checkpoint import empty
from pi_policy_node.policy.engine import Engine, blank
from pi_policy_node.policy.lane import Lane
from pi_policy_node.policy.model import Inputs, Pi
from pi_policy_node.policy.packed import available, pack, unpack
from pi_policy_node.policy.shapes import PRESETS, Shape

HELP = "a policy's inference: ms by stage, floor from bytes and FLOPs, peak memory; --against eager for a baseline"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=(*PRESETS, "mini"), help="default: mini, on CUDA pi0")
    parser.add_argument("--views", type=int, default=3, help="cameras that are there")
    parser.add_argument("--prompt", type=int, default=20, metavar="N", help="tokens of the prompt")
    parser.add_argument("--steps", type=int, default=10, help="of denoising")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bf16 on CUDA, on the CPU the faster one")
    parser.add_argument("--threads", type=int, help="default: measured (CPU)")
    parser.add_argument("--pack", action=argparse.BooleanOptionalAction, help="weights in blocks; default: measured")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: measured (CPU), on (CUDA)")
    parser.add_argument("--repeat", type=int, help="default: 100 on CUDA, 10 on the CPU, fewer where one takes seconds")
    parser.add_argument(
        "--one-layer",
        action="store_true",
        help="all layers of a stack are one: the same work in a tenth of the memory (none stays in a cache anyway)",
    )
    parser.add_argument("--against", choices=("eager",), help="openpi-style eager sampling of the same weights")
    parser.add_argument("--eager-dtype", choices=DTYPES, help="default: the engine's; openpi's own is bf16")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    args.preset = args.preset or ("pi0" if args.device == "cuda" else "mini")
    if args.preset == "mini":
        return of_mini(args)
    shape, device = PRESETS[args.preset], torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CommandError("there is no CUDA device here (or this torch was built without CUDA)")
    if args.prompt > shape.prompt_tokens or args.prompt < 1 or args.views < 1:
        raise CommandError(f"{shape.name} reads 1 to {shape.prompt_tokens} prompt tokens, and at least one view")
    prefix = args.views * shape.vision.tokens + args.prompt
    if args.dtype is None:
        dtype = torch.bfloat16 if device.type == "cuda" else tune.best_dtype(shape, prefix)
    else:
        dtype = DTYPES[args.dtype]
    if args.pack and not available(dtype):
        raise CommandError(f"this computer cannot pack weights in {str(dtype).removeprefix('torch.')}: leave --pack out")
    other = DTYPES.get(args.eager_dtype, dtype) if args.against else dtype
    if device.type == "cpu" and not args.one_layer:
        check_memory(shape, dtype, other)
    given = request(shape, args.views, args.prompt)
    noise = torch.randn(1, shape.horizon, shape.action_dim, generator=torch.Generator().manual_seed(0))
    report: dict = {"preset": shape.name, "device": name(device), "dtype": str(dtype).removeprefix("torch.")}
    report |= {"views": args.views, "prompt_tokens": args.prompt, "steps": args.steps, "horizon": shape.horizon}
    report["one_layer"] = args.one_layer

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model = random(shape, dtype, device, one_layer=args.one_layer)
    engine = Engine(model, steps=args.steps, threads=args.threads, packed=args.pack, compiled=args.compile)
    started = time.perf_counter()
    engine.warm_up(views=args.views, prompt=args.prompt)
    ours = engine.sample(given, noise=noise)
    report["warm_up_s"] = time.perf_counter() - started
    report |= {"threads": engine.threads, "packed": engine.packed, "compiled": engine.compiled}
    repack = (lambda: pack(engine.model, prefix)) if engine.packed else (lambda: None)
    calls = {"engine": Call(lambda: engine.sample(given, noise=noise), repack)}
    if args.against:
        eager_dtype = DTYPES.get(args.eager_dtype, dtype)
        calls["eager"] = baseline(engine, eager_dtype, given, noise)
        report["eager_dtype"] = str(eager_dtype).removeprefix("torch.")
        calls["eager"].prepare()
        report["apart"] = float((calls["eager"].run().cpu() - ours).abs().max())
    stages: list[dict[str, float]] = []
    measured = rounds(calls, args.repeat, device, after=lambda: stages.append(dict(engine.timing)))
    if device.type == "cuda":
        lane = next(reversed(engine._lanes.values()))  # that of the latest request
        by_stage = events(lane, args.repeat or 100)
    else:
        by_stage = {s: 1e3 * statistics.median(t[s] for t in stages) for s in ("vision", "prefill", "denoise")}
    report["ms"] = by_stage | {"step": by_stage["denoise"] / args.steps, "total": measured["engine"]["median"]}
    report["ms_best"] = measured["engine"]["best"]
    here = measure(device, dtype, engine.threads)
    report["floor"] = floor(shape, here, views=args.views, prompt=args.prompt, steps=args.steps, size=dtype.itemsize)
    report["ratio_to_floor"] = report["ms_best"] / report["floor"]["total_ms"]
    report["peak_memory_gb"] = peak(device)
    if args.against:
        report["eager_ms"] = measured["eager"]
        report["times_faster"] = {k: measured["eager"][k] / measured["engine"][k] for k in ("median", "best", "cpu")}
    print(json.dumps(report, indent=1) if args.json else text(report))
    return 0


def of_mini(args: argparse.Namespace) -> int:
    if args.device != "cpu" or args.against:
        raise CommandError("mini runs on the CPU, and has no eager form of somebody else's to be measured against")
    report = mini.report(threads=args.threads, repeat=args.repeat)
    print(json.dumps(report, indent=1) if args.json else mini.text(report))
    return 0


def request(shape: Shape, views: int, prompt: int) -> Inputs:
    """Three cameras (or more), of which `views` are there, and a short prompt in its padding, as a robot sends it."""
    given = blank(shape, views=max(views, 3))
    generator = torch.Generator().manual_seed(0)
    given.images.uniform_(-1, 1, generator=generator)
    given.image_mask[:, views:] = False
    given.tokens.random_(2, shape.vocabulary, generator=generator)
    given.token_mask[:, prompt:] = False
    return given


def random(shape: Shape, dtype: torch.dtype, device: torch.device, *, one_layer: bool = False) -> Pi:
    """A model with weights of a usual size; their values do not matter to the clock."""
    if one_layer:
        model = same_layers(shape, dtype, device)
    else:
        model = empty(shape, dtype=dtype, device=device)
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(device)
    for parameter in model.parameters():
        if one_layer and parameter is model.embed:  # a request reads a few rows of it; the others need no memory
            parameter.data = torch.zeros(parameter.shape, dtype=dtype, device=device)
            continue
        flat, scale = parameter.data.view(-1), 0.02 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        for piece in flat.split(len(noise)):
            piece.copy_(noise[: len(piece)] * scale)
    return model


def same_layers(shape: Shape, dtype: torch.dtype, device: torch.device) -> Pi:
    stacks = {name: replace(getattr(shape, name), depth=1) for name in ("vision", "vlm", "expert")}
    model = empty(replace(shape, **stacks), dtype=dtype, device=device)
    model.shape = shape
    for name in stacks:
        stack = getattr(model, name)
        stack.shape = getattr(shape, name)
        stack.blocks = torch.nn.ModuleList([stack.blocks[0]] * stack.shape.depth)
    if shape.family == "pi05":  # every layer has modulations of its own, made before the clock runs
        width = model.expert.shape.width
        model.expert.modulation = torch.nn.Linear(width, (2 * shape.expert.depth + 1) * 3 * width, device=device)
    return model


@dataclass(frozen=True)
class Call:
    """What is timed, and what comes before it untimed."""

    run: Callable[[], torch.Tensor]
    prepare: Callable[[], object]


def baseline(engine: Engine, dtype: torch.dtype, given: Inputs, noise: torch.Tensor) -> Call:
    """Eager sampling with as many threads, of the engine's own weights where both compute in one type.

    They fit into memory once only: before each run they are put back into rows.
    """
    shared = dtype == engine.model.dtype
    alike = engine.model.vlm.blocks[0] is engine.model.vlm.blocks[-1]
    model = engine.model if shared else random(engine.shape, dtype, engine.device, one_layer=alike)
    there = given.to(engine.device)

    def prepare() -> None:
        if shared:
            unpack(engine.model)
        if engine.threads:
            torch.set_num_threads(engine.threads)

    return Call(lambda: eager.sample(model, there, noise.to(engine.device), steps=engine.steps), prepare)


def check_memory(shape: Shape, dtype: torch.dtype, other: torch.dtype) -> None:
    """Say so now, not when the computer has begun to swap."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Pi(shape).parameters())
    needed = 1.0 + count * (dtype.itemsize + (other.itemsize if other != dtype else 0)) / 1e9
    if available_gb() < needed:
        raise CommandError(f"{available_gb():.1f} GB of memory are free; {shape.name} needs {needed:.1f} for this, "
                           "or much less with --one-layer")


def rounds(calls: dict[str, Call], repeat: int | None, device: torch.device, after: Callable) -> dict:
    """Each in turn, so that whatever else the computer does hits all of them alike: median, best and CPU ms."""

    def once(call: Call) -> tuple[float, float]:
        call.prepare()
        if device.type == "cuda":
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        call.run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)

    first = max(once(call)[0] for call in calls.values())
    count = repeat or (100 if device.type == "cuda" else max(3, min(10, int(30_000 / first))))
    taken: dict[str, list[tuple[float, float]]] = {key: [] for key in calls}
    for _ in range(count):
        for key, call in calls.items():
            taken[key].append(once(call))
            if key == "engine":
                after()
    return {
        key: {
            "median": statistics.median(w for w, _ in t),
            "best": min(w for w, _ in t),
            "cpu": min(c for _, c in t),
            "runs": count,
        }
        for key, t in taken.items()
    }


def events(lane: Lane, repeat: int) -> dict[str, float]:
    """ms of each stage by the device's own clock, the median of `repeat` runs."""
    taken: dict[str, list[float]] = {}
    for _ in range(max(repeat, 100)):
        for stage, replay in lane.stages.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            replay()
            end.record()
            end.synchronize()
            taken.setdefault(stage, []).append(begin.elapsed_time(end))
    return {stage: statistics.median(ms) for stage, ms in taken.items()}


def name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def peak(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else peak_gb()


def text(r: dict) -> str:
    ms, floor_ms = r["ms"], r["floor"]
    how = f"{r['threads']} threads{', packed' * bool(r['packed'])}{', compiled' * bool(r['compiled'])}"
    lines = [
        f"{r['preset']}, {r['views']} views, {r['prompt_tokens']} prompt tokens, {r['steps']} steps of {r['horizon']} "
        f"rows; {r['device']}, {r['dtype']}, {how if r['device'] == 'cpu' else 'graphs'}"
        f"{', one layer for all' * r['one_layer']}",
        f"  vision   {ms['vision']:10.2f} ms    floor {floor_ms['vision_ms']:10.2f}",
        f"  prefill  {ms['prefill']:10.2f} ms    floor {floor_ms['prefill_ms']:10.2f}",
        f"  denoise  {ms['denoise']:10.2f} ms    floor {floor_ms['denoise_ms']:10.2f}    ({ms['step']:.2f} a step)",
        f"  total    {ms['total']:10.2f} ms    best  {r['ms_best']:10.2f}    {r['ratio_to_floor']:.2f} x the floor of "
        f"{floor_ms['total_ms']:.2f}",
        f"  warm-up  {r['warm_up_s']:.1f} s, peak memory {r['peak_memory_gb']:.2f} GB; this device: "
        f"{floor_ms['gflops']:.0f} GFLOP/s, {floor_ms['gbytes']:.1f} GB/s (measured)",
    ]
    if "eager_ms" in r:
        faster, eager_ms = r["times_faster"], r["eager_ms"]
        lines.append(
            f"  eager    {eager_ms['median']:10.2f} ms    best  {eager_ms['best']:10.2f}    ({r['eager_dtype']}, "
            f"{eager_ms['runs']} runs in turn): {faster['median']:.2f} x slower (best {faster['best']:.2f}, "
            f"CPU time {faster['cpu']:.2f}); "
            f"answers {r['apart']:.1g} apart"
        )
    return "\n".join(lines)


