"""Which addresses may be asked at all. A list of links comes from strangers, and so does every redirect."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
SCHEMES = ("http", "https")
# Where clouds give credentials to whoever asks from inside: link-local, and the two that are not.
METADATA = tuple(map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32")))
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def parsed(host: str) -> Address | None:
    """An address in figures, seen through its IPv6 wrappings; None for a name."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        return inner or (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else address)
    return address


def is_public(address: Address) -> bool:
    """Reachable from everywhere: neither loopback, private, link-local nor multicast."""
    return address.is_global and not address.is_multicast


@dataclass(frozen=True)
class Policy:
    """Own links may point anywhere but to metadata services; a redirect from a public host may only lead to public ones."""

    is_public: Callable[[Address], bool] = is_public

    def problem(self, address: Address, public_only: bool) -> str:
        """Why this address may not be asked, or ''."""
        if any(address in network for network in METADATA if network.version == address.version):
            return f"{address} belongs to a cloud's metadata service"
        if public_only and not self.is_public(address):
            return f"{address} is not public, but the host that redirects there is"
        return ""

    def url_problem(self, url: str, public_only: bool) -> str:
        """The same for a URL, as far as it can be told without asking anybody: scheme, user, address in figures."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            return f"no URL: {error}"
        if parts.scheme not in SCHEMES:
            return f"scheme {parts.scheme or 'none'} is not http or https"
        if not host:
            return "no host"
        if parts.username is not None or parts.password is not None:
            return "user and password stand in the URL: credentials belong in the environment"
        address = parsed(host)
        if address is None and public_only and (host == "localhost" or host.endswith((".localhost", ".internal", ".local"))):
            return f"{host} is not public, but the host that redirects there is"
        return self.problem(address, public_only) if address else ""


def shown(url: str) -> str:
    """A URL for logs and tables: without user, query and fragment, where secrets stand."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"[:300]
    except ValueError:
        return "(no URL)"
