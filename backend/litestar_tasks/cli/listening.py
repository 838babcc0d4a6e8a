"""Sockets that a command opens before it starts any process."""

from __future__ import annotations

import errno
import socket

from litestar_tasks.cli.children import fail

__all__ = ("address", "listen")


def listen(host: str, port: int, *, option: str, remedy: str) -> socket.socket:
    """A socket that listens, or the end of the command.

    It is opened here, and stays open while processes are replaced: nobody can take the port in between, and a request
    that comes then waits instead of being refused.

    Args:
        host: The address, or a name of it.
        port: The port; 0 for any that is free.
        option: What the user gave the host with.
        remedy: What the user gives another port with; ``{}`` stands for it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        fail(f"{option} {host}: {error.strerror}")
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            other = port + 1 if port < 65535 else port - 1
            fail(f"port {port} is taken; choose another: {remedy.format(other)}")
        fail(f"cannot listen on {host}, port {port}: {error.strerror}")
    return listener


def address(listener: socket.socket) -> str:
    """Where a socket listens, as it stands in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
