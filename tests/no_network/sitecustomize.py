"""Refuse the network to every Python process that has this folder on PYTHONPATH; what was tried is written down.

Python imports a module of this name when it starts. This computer's own addresses stay open: notebooks talk to their
kernels through them.
"""

import os
import socket
from ipaddress import ip_address
from typing import Any

LOG = os.environ.get("SSCCT_NETWORK_LOG")


def _is_own(host: Any) -> bool:
    if host in (None, "", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        return ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


def _refuse_beyond(function: Any, place_of: Any) -> Any:
    def guarded(*arguments: Any, **named: Any) -> Any:
        place = place_of(arguments)
        if isinstance(place, (tuple, list)):
            place = place[0]
        elif not isinstance(place, (str, bytes, type(None))) or function is not socket_getaddrinfo:
            return function(*arguments, **named)  # a socket of the file system
        if not _is_own(place):
            with open(str(LOG), "a", encoding="utf-8") as log:
                log.write(f"{function.__name__} {place!r}\n")
            raise PermissionError(f"the network is refused: {place!r}")
        return function(*arguments, **named)

    return guarded


socket_getaddrinfo = socket.getaddrinfo
if LOG:
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, _refuse_beyond(getattr(socket.socket, name), lambda arguments: arguments[1]))
    socket.socket.sendto = _refuse_beyond(socket.socket.sendto, lambda arguments: arguments[-1])  # type: ignore[method-assign]
    socket.getaddrinfo = _refuse_beyond(socket.getaddrinfo, lambda arguments: arguments[0])
