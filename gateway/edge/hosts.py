"""Which `Host` a request may name, and which addresses only this machine reaches. Pure.

A page on the web can have its own name resolve to this machine (DNS rebinding), and a browser then takes the gateway
for that page's server. It must use a name for that, and says it in `Host`: an address is nobody's trick.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::[0-9]{1,5})?")
LOCAL = "localhost"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at this address or name. `*` and other names: no."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == LOCAL


class Hosts:
    """Addresses, `localhost`, the name that the gateway was told to listen at, and those in `allowed`: `*` for any name,
    `*.example.org` for those below it."""

    def __init__(self, allowed: Iterable[str] = (), *, own: str = LOCAL) -> None:
        names = [name.lower() for name in allowed]
        self._any = "*" in names
        self._names = {LOCAL, own.lower(), *names}
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))

    def admits(self, host: str) -> bool:
        """Whether a request with this `Host` header is meant for the gateway; False too for what is no host."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = (found["v6"] or found["name"]).lower()
        if self._any or name in self._names or (self._endings and name.endswith(self._endings)):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
