"""`./pi serve`: a policy for robots elsewhere, over openpi's websocket protocol."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import ssl
import time
from pathlib import Path

from pi_policy_node.cli import CommandError

HELP = "serve a policy to robots elsewhere; openpi's own client can use it as well"

PRESETS = ("pi0", "pi05")  # these name a checkpoint's model; the backend is the same
OF_ITS_OWN = ("scripted",)  # remembers what it did, so every connection gets one of its own
LOCAL = ("127.0.0.1", "localhost", "::1")
PASSED_ON = ("checkpoint", "tokenizer", "embodiment", "device", "dtype", "steps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="scripted", help="mini, pi0, pi05, scripted (default: %(default)s)")
    parser.add_argument("--robot", default="pi_mobile", help="a robot file: a name or a path (default: %(default)s)")
    parser.add_argument("--checkpoint", help="the policy's weights: a folder or a file")
    parser.add_argument("--tokenizer", help="sentencepiece file; default: the one beside the checkpoint")
    parser.add_argument("--embodiment", help="how the checkpoint sees the robot: a name or a file")
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--dtype", help="float32 or bfloat16; default: by the device")
    parser.add_argument("--steps", type=int, help="denoising steps")
    net = parser.add_argument_group("network")
    net.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 = all (default: %(default)s)")
    net.add_argument("--port", type=int, default=8000, help="0 = a free one (default: %(default)s)")
    net.add_argument("--api-key-file", type=Path, help="file whose first line clients must send")
    net.add_argument("--tls-cert", type=Path, help="certificate chain (PEM); clients then use wss://")
    net.add_argument("--tls-key", type=Path, help="its private key (PEM)")
    net.add_argument("--batch", type=int, default=16, help="most robots answered at once (default: %(default)s)")
    net.add_argument("--connections", type=int, default=64, help="most robots connected (default: %(default)s)")
    net.add_argument("--max-message", type=int, default=16, help="largest request, MiB (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    from pi_policy_node.policy.base import PolicyError
    from pi_policy_node.policy.remote.batcher import warm_batches
    from pi_policy_node.policy.remote.server import Server
    from pi_policy_node.robot import RobotError, load_robot

    for name, least in (("batch", 1), ("connections", 1), ("max_message", 1)):
        if getattr(args, name) < least:
            raise CommandError(f"--{name.replace('_', '-')} is {getattr(args, name)}, but must be at least {least}")
    if not 0 <= args.port <= 65535:
        raise CommandError(f"--port is {args.port}, but must be 0 to 65535")
    key, tls = _key(args.api_key_file), _tls(args.tls_cert, args.tls_key)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("websockets").setLevel(logging.ERROR)  # it reports every stranger's handshake with a traceback
    begin = time.monotonic()
    try:
        robot = load_robot(args.robot)
        policy = _policy(args, robot)
        policy.warm_up()
        warm_batches(policy, robot, largest=args.batch)
        own = (lambda: _policy(args, robot)) if args.policy in OF_ITS_OWN else None
        server = Server(policy, robot, host=args.host, port=args.port, api_key=key, tls=tls, largest_batch=args.batch,
                        max_connections=args.connections, max_message=args.max_message << 20, make_own=own)
    except (PolicyError, RobotError) as error:
        raise CommandError(str(error)) from None

    def ready(port: int) -> None:
        scheme = "ws" if tls is None else "wss"
        print(f"serving {policy.name} for {robot.name} on {scheme}://{args.host}:{port}, ready after "
              f"{time.monotonic() - begin:.1f} s; Ctrl-C ends it", flush=True)
        if not key and args.host not in LOCAL:
            logging.warning("anybody who reaches this port can use the policy: --api-key-file keeps strangers out")
        if key and tls is None and args.host not in LOCAL:
            logging.warning("the API key travels in the clear: --tls-cert and --tls-key hide it")

    try:
        asyncio.run(_until_stopped(server.run(ready=ready)))
    except OSError as error:
        raise CommandError(f"cannot listen on {args.host}:{args.port}: {error.strerror or error}") from None
    return 0


async def _until_stopped(serving) -> None:
    task = asyncio.ensure_future(serving)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        pass


def _policy(args: argparse.Namespace, robot):
    from pi_policy_node.policy.registry import make_policy

    options = {name: getattr(args, name) for name in PASSED_ON if getattr(args, name) is not None}
    if args.policy == "remote":
        raise CommandError("--policy remote: a server that only asks another one serves nobody; name a policy to run")
    if args.policy in PRESETS and "checkpoint" not in options:
        raise CommandError(f"--policy {args.policy} needs its weights: --checkpoint PATH")
    return make_policy(args.policy, robot, **options)


def _key(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        lines = file.expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the API key cannot be read: {error}") from None
    key = lines[0].strip() if lines else ""
    if not key or not key.isascii() or not key.isprintable():
        raise CommandError(f"{file} holds no API key: its first line must be printable ASCII")
    return key


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise CommandError("--tls-cert and --tls-key belong together: give both")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # SSLError is one
        raise CommandError(f"the certificate {certificate} with the key {key} cannot be used: {error}") from None
    return context
