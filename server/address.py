"""Where a server is: `host:port`."""

from __future__ import annotations

from commonground.errors import InputError


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of `host:port`; raises `InputError`."""
    host, colon, port = address.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InputError(
            f"address is {address!r}; accepted: HOST:PORT, an IPv6 address in brackets", hint="[::1]:8443"
        )
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or any(c.isspace() or c in "/;{}\"'$\\" for c in host) or not port.isascii():
        raise InputError(f"address is {address!r}; accepted: HOST:PORT")
    if not host.isascii():  # no certificate can hold it
        raise InputError(
            f"address is {address!r}; accepted: HOST in ASCII letters",
            hint=f"write a name in another script as the network does, such as {_network_name(host)}",
        )
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise InputError(f"address is {address!r}; accepted: HOST:PORT with a port from 1 to 65535")
    return host, int(port)


def _network_name(host: str) -> str:
    """A name as it is looked up."""
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return "xn--..."
