"""Names of hosts, as they stand in `Host`, in `Origin` and in the operator's allowlist.

Only the plain forms are read: `name`, `name:port`, `[v6]`, `[v6]:port`, and a name with the final
dot of DNS. Whatever else a URL may hold (user names, paths) is a way to look like an allowed name.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?)(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"https?://(.*)")


def is_host(text: str) -> bool:
    """Return True if `text` is a lower-case host, with or without a port."""
    return _split(text) is not None


def is_loopback(name: str) -> bool:
    """Return True if a host's name or address is of this machine alone."""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def is_origin(text: str) -> bool:
    """Return True if `text` is a lower-case origin, such as `https://ui.example.com:8443`."""
    site = _site(text)
    return site is not None and is_host(site)


def _split(host: str) -> tuple[str, str] | None:
    """Return the name without its final dot, and the port or ""; None if `host` is no host."""
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    name, port = match[1], match[2] or ""
    if name.endswith("."):
        name = name[:-1]
        if name.rpartition(".")[2].isdigit():  # an address has no final dot
            return None
    return name, port


class AllowedHosts:
    """The hosts that an operator named.

    Entries: `gpu.example.com` (at any port), `gpu.example.com:8443`, `*.cluster.local` (every name
    below it), `*.cluster.local:8443`, and a network of addresses, `10.0.0.0/8` or `fd00::/8`.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        """Raise ValueError for an entry of another form."""
        self._exact: set[str] = set()
        self._below: list[tuple[str, str]] = []
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in entries:
            if "/" in entry:
                self._networks.append(ip_network(entry, strict=False))
                continue
            parts = _split(entry.removeprefix("*.").lower())
            if parts is None:
                raise ValueError(f"{entry!r} is no host")
            name, port = parts
            if entry.startswith("*."):
                self._below.append((f".{name}", port))
            else:
                self._exact.add(f"{name}:{port}" if port else name)

    def allows(self, host: str) -> bool:
        """Return True if a client may use this `Host`."""
        parts = _split(host.lower())
        if parts is None:
            return False
        name, port = parts
        if name in self._exact or f"{name}:{port}" in self._exact:
            return True
        if any(name.endswith(end) and wanted in ("", port) for end, wanted in self._below):
            return True
        return bool(self._networks) and self._in_network(name.strip("[]"))

    def _in_network(self, name: str) -> bool:
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def is_same_site(origin: str, host: str) -> bool:
    """Return True if `origin` is a page that this `Host` itself has served."""
    return _site(origin) == host.lower()


def is_origin_allowed(origin: str, known: AllowedHosts) -> bool:
    """Return True if `origin` is a page of one of these hosts.

    Another port of this machine is another site: what runs there (a notebook, say) is not
    trusted here.
    """
    site = _site(origin)
    return site is not None and known.allows(site)


def _site(origin: str) -> str | None:
    match = _ORIGIN.fullmatch(origin.lower())
    return match[1] if match is not None else None
