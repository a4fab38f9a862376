"""Names of hosts, as they stand in `Host`, in `Origin` and in the operator's allowlist.

Only the plain forms are read: `name`, `name:port`, `[v6]`, `[v6]:port`. Whatever else a URL
may hold (user names, paths, trailing dots) is a way to look like a name that is allowed.
"""

import re
from collections.abc import Collection

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"https?://(.*)")


def is_host(text: str) -> bool:
    """Whether `text` is a lower-case host, with or without a port."""
    return _HOST.fullmatch(text) is not None


def allowed(host: str, known: Collection[str]) -> bool:
    """Whether this `Host` is known: by name, at any port, or as exactly `name:port`."""
    host = host.lower()
    found = _HOST.fullmatch(host)
    return found is not None and (found[1] in known or host in known)


def origin_allowed(origin: str, host: str, known: Collection[str]) -> bool:
    """Whether a page of this `Origin` may send requests to this `Host`.

    The service's own pages may, and pages of the hosts that the operator named. Another port
    of this machine is another site: what runs there (a notebook, say) is not trusted here.
    """
    found = _ORIGIN.fullmatch(origin.lower())
    return found is not None and (found[1] == host.lower() or allowed(found[1], known))
