"""A policy over the network: openpi's websocket protocol, as a client and as a server.

The protocol: on connecting the server sends a map of metadata; then each binary observation is answered by a binary
result with `actions`; an error is a text frame, after which the server closes with 1011. Our extension is offered in
the metadata under "pi" and used by sending a map "pi" along; whoever doesn't, speaks plain openpi.
"""

from pi_policy_node.policy.remote.wire import WireError, pack, unpack

__all__ = ["WireError", "pack", "unpack"]
