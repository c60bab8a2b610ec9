"""Where a webhook may go: which URLs are taken at submission, and which addresses a connection may lead to.

Own lists of addresses: what Python's `is_global` says differs from version to version, and leaves out multicast, 6to4
and addresses of IPv4 inside IPv6. Leaves out resolving and connecting (`workers.outbound`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx

if TYPE_CHECKING:
    from shared.settings import Settings

_LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)+")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_INSIDE: Final = (".localhost", ".local", ".internal", ".home.arpa", ".onion")
_PORTS: Final = {"http": 80, "https": 443}
# The registries of special-purpose addresses, and one public address that leads inside a cloud (Azure's).
_NO_PUBLIC_V4: Final = tuple(
    map(
        ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
_GLOBAL_V6: Final = ip_network("2000::/3")
# Teredo and other protocols' own, documentation, 6to4.
_NO_PUBLIC_V6: Final = tuple(map(ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_NAT64: Final = ip_network("64:ff9b::/96")
_PRIVATE: Final = tuple(map(ip_network, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))


class Receiver(NamedTuple):
    """Who a webhook goes to: host without brackets or a final dot, and what is asked of it (path and query)."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def name(self) -> str:
        """Host and port: what deliveries wait for together."""
        return f"{self.host}:{self.port}"

    @property
    def host_header(self) -> str:
        """As HTTP names it: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is global unicast, also inside: an IPv4 address mapped or translated into IPv6 counts as
    itself, one in any other form is never public."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NO_PUBLIC_V4)
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(IPv4Address(address.packed[-4:]))
    return address in _GLOBAL_V6 and not any(address in network for network in _NO_PUBLIC_V6)


@dataclass(frozen=True, slots=True)
class WebhookRules:
    """What this farm lets webhooks reach: everything public by https, and what its settings add."""

    allow_loopback: bool = False
    allowed_hosts: frozenset[str] = frozenset()

    @classmethod
    def from_settings(cls, settings: Settings) -> WebhookRules:
        """The rules that the settings give."""
        hosts = (one.strip().lower().strip("[]").rstrip(".") for one in settings.webhook_allowed_hosts.split(","))
        return cls(settings.webhook_allow_loopback, frozenset(one for one in hosts if one))

    def receiver(self, url: str) -> Receiver:
        """Who a URL names. Raises ValueError with what is wrong, as far as that can be told without asking anybody."""
        try:
            parsed = httpx.URL(url)
            # What is sent is ASCII: an international name in its encoded form.
            host = parsed.raw_host.decode("ascii").removesuffix(".")
            port = _PORTS.get(parsed.scheme, 0) if parsed.port is None else parsed.port
        except (httpx.InvalidURL, ValueError):
            raise ValueError("is no URL") from None
        if reason := self._reason_against(parsed, url, host, port):
            raise ValueError(reason)
        return Receiver(parsed.scheme, host, port, parsed.raw_path.decode("ascii"))

    def _reason_against(self, parsed: httpx.URL, url: str, host: str, port: int) -> str | None:
        is_loopback = host in _LOOPBACK_HOSTS
        reasons = {
            "must be an https URL": parsed.scheme != "https" and not (is_loopback and parsed.scheme == "http"),
            "must name a host": not host,
            "must have no user name or password": "@" in url.partition("://")[2].partition("/")[0],
            "must have no fragment (#…)": "#" in url,
            "must have a port from 1 to 65535": not 0 < port < 65_536,
            "must not lead to this machine": is_loopback and not self.allow_loopback,
        }
        for reason, is_so in reasons.items():
            if is_so:
                return reason
        return None if is_loopback or host in self.allowed_hosts else _reason_against_host(host)

    def may_connect(self, host: str, address: str) -> bool:
        """Whether a connection for this host may go to an address that its name stands for."""
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        if host in _LOOPBACK_HOSTS:
            return self.allow_loopback and ip.is_loopback
        return is_public(ip) or (host in self.allowed_hosts and any(ip in network for network in _PRIVATE))


def _reason_against_host(host: str) -> str | None:
    try:
        address = ip_address(host)
    except ValueError:
        pass
    else:
        return None if is_public(address) else "must lead to a public address"
    if ":" in host or "%" in host:
        return "must name a host"
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # Resolvers take 2130706433, 0x7f.1 and 0177.0.0.1 for addresses.
        return "must have an address as four decimal numbers without leading zeros, or a name"
    if "." not in host or host.endswith(_INSIDE):
        return "must name a public host"
    return None if _NAME.fullmatch(host) and len(host) <= 253 else "must name a host"
