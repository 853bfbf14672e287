"""The front door: the only part of a study that the network reaches. nginx ends TLS and passes on a list.

    POST /enrol                  to the enrolment service
    GET, HEAD /parts             to the same: the public parts of the model, one file, the same to everybody
    POST /v1/fleet/...           to the SuperLink, the paths that a device needs, each by its name
    anything else                404

Flower's Control and Runtime APIs share the SuperLink's port and have no authentication of their own, so
nothing of what a client writes as a path is ever passed on: each location names the one address behind it.
Bodies are bounded by what an honest reply needs, and kept in memory. What is refused is a line of
`run/front_door.jsonl`, which is bounded and holds nothing that a client wrote: no stranger fills the disk.
"""

from __future__ import annotations

import ipaddress
import json
import os
import resource
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from commonground.errors import InputError
from commonground.files import write_atomically
from commonground.server.address import split_address
from commonground.server.limits import OTHER, Limits
from commonground.server.state import Study
from commonground.study.enrolment import MOST, PATH
from commonground.study.public_parts import PATH as PARTS

REFUSED = "front_door.jsonl"
EACH = 512  # connections of one address
HEAD = 10  # seconds for a handshake, and for a request's head
CONNECTIONS = 16_384  # of a worker, where the system lets it open so many files
PACKED = "front door: a packed request"
CROWD = "front door: more connections of one address than devices need"
PIECE, LARGEST = 1 << 20, 50_000_000  # bytes of it that are read at once, and that it has at most
SPARE = 256  # files of a worker beside its connections
ESTABLISHED = "01"  # as the kernel lists it
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
FLOOD = "front door: more refusals than can be counted"
FLEET = (
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run",
    "get-fab", "push-object", "pull-object", "confirm-message-received",
)  # fmt: skip
# 503 and not 429: a SuperNode tries again after the former and ends after the latter.
TOO_MANY = 503
_CONFIG = """\
daemon off;
pid "{run}/nginx.pid";
error_log "{log}/front_door.log" warn;
worker_processes 2;
worker_rlimit_nofile {files};
events {{ worker_connections {connections}; }}
http {{
  server_tokens off;
  default_type application/octet-stream;
  map $uri $door {{ default "-"; {doors} }}
  log_format refused escape=json '{{"status":$status,"path":"$door","inside":"$upstream_status"}}';
  map $status $refused {{ ~^[123] 0; 499 0; default 1; }}
  access_log "{run}/{refused}" refused if=$refused;
{temporary}
  client_header_timeout {head}s; client_body_timeout 30s; send_timeout 60s; keepalive_timeout 65s;
  large_client_header_buffers 4 8k;
  # An IPv4 address, or the first 64 bits of an IPv6 one: whoever has one has all that begin with them.
  map $binary_remote_addr $client {{
    default $binary_remote_addr; "~(?s)^(?<network>.{{8}}).{{8}}$" $network;
  }}
  limit_req_zone $client zone=enrol:2m rate=60r/m;
  limit_req_zone $client zone=fleet:10m rate=300r/s;
  limit_req_zone $client zone=parts:2m rate=60r/m;
  limit_req_zone $client zone=closed:2m rate=10r/s;
  limit_conn_zone $client zone=each:10m;
  limit_conn_zone $client zone=taking:2m;
  limit_req_status {too_many}; limit_conn_status {too_many};
  limit_req_log_level info; limit_conn_log_level info;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host localhost;
  proxy_set_header Accept-Encoding "";
  proxy_connect_timeout 5s; proxy_read_timeout 60s; proxy_send_timeout 60s;
  proxy_max_temp_file_size 0;
  upstream superlink {{ server 127.0.0.1:{superlink}; keepalive 32; }}
  server {{
    listen {listen} ssl;
    ssl_certificate "{folder}/server.crt";
    ssl_certificate_key "{folder}/server.key";
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:2m;
    limit_conn each {each};
    reset_timedout_connection on;
    if ($http_content_encoding) {{ return 415; }}  # what is packed may be a thousand times as large
    set $args "";
    client_max_body_size {other};
    client_body_buffer_size {other};
    proxy_ssl_verify on;
    proxy_ssl_trusted_certificate "{folder}/ca.crt";
    proxy_ssl_name localhost;
    proxy_ssl_session_reuse on;
{fleet}
    location = {enrol_path} {{
      limit_req zone=enrol burst=20 nodelay;
      client_max_body_size {enrol_bytes};
      if ($request_method != POST) {{ return 404; }}
      proxy_pass http://127.0.0.1:{enrol}{enrol_path};
    }}
    location = {parts_path} {{
      limit_req zone=parts burst=20 nodelay;
      limit_conn each {each}; limit_conn taking 16;
      client_max_body_size 1;
      if ($request_method !~ ^(GET|HEAD)$) {{ return 404; }}
      proxy_pass http://127.0.0.1:{enrol}{parts_path};
    }}
    location / {{
      limit_req zone=closed burst=20 nodelay;
      root /nonexistent; try_files /nothing =404;  # return would come before the limit
    }}
  }}
}}
"""
_LOCATION = """\
    location = /v1/fleet/{name} {{
      limit_req zone=fleet burst=600 nodelay;
      client_max_body_size {most};
      client_body_buffer_size {most};
      if ($request_method != POST) {{ return 404; }}
      proxy_pass https://superlink/v1/fleet/{name};
    }}"""


def nginx() -> str:
    """Where nginx is; raises `InputError` where it is not."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise InputError(
            "nginx is not installed: it is the front door",
            hint="apt-get install nginx-light (or your system's)",
        )
    return found


def listens_at(address: str, bind: str = "") -> str:
    """What the front door listens on, as nginx writes it.

    Args:
        address: host:port that devices are told.
        bind: an IP address of this machine; "" takes the address itself where it is one, else all.
    """
    host, port = split_address(address)
    try:
        found = ipaddress.ip_address(bind or ("127.0.0.1" if host == "localhost" else host))
    except ValueError as error:
        if bind:
            raise InputError(f"--bind is {bind!r}; accepted: an IP address of this machine") from error
        return f"0.0.0.0:{port}"
    return f"[{found}]:{port}" if found.version == 6 else f"{found}:{port}"


def write_config(study: Study, superlink: int, enrol: int, bounds: Limits, bind: str = "") -> Path:
    """Write nginx's configuration; returns its path.

    Args:
        study: its folder.
        superlink: its port on loopback.
        enrol: that of the service of enrolment and public parts.
        bounds: of an honest reply.
        bind: see `listens_at`.
    """
    if any(c in '"$\\' or not c.isprintable() for c in str(study.folder)):
        raise InputError(
            f"the path {str(study.folder)!r} holds a character that nginx cannot take: a quote, $ or \\",
            hint="move the study's folder, or rename it",
        )
    files, connections = room()
    most = {"push-object": bounds.object_bytes + OTHER, "push-messages": bounds.tree_bytes + OTHER}
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    text = _CONFIG.format(
        run=study.run,
        log=study.log,
        folder=study.folder,
        refused=REFUSED,
        temporary="\n".join(f'  {kind}_temp_path "{study.run}/nginx-{kind}";' for kind in kinds),
        too_many=TOO_MANY,
        doors=" ".join(f"{path} {path};" for path in (PATH, PARTS, *(f"/v1/fleet/{name}" for name in FLEET))),
        superlink=superlink,
        enrol=enrol,
        enrol_path=PATH,
        enrol_bytes=MOST,
        parts_path=PARTS,
        other=OTHER,
        listen=listens_at(study.settings.address, bind),
        each=EACH,
        head=HEAD,
        files=files,
        connections=connections,
        fleet="\n".join(_LOCATION.format(name=name, most=most.get(name, OTHER)) for name in FLEET),
    )
    path = study.run / "nginx.conf"
    write_atomically(path, text.encode())
    return path


def room() -> tuple[int, int]:
    """Files that a worker of nginx may open, and its connections: each may need a second one inside."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 2 * CONNECTIONS + SPARE if most == resource.RLIM_INFINITY else most
    files = max(2 * SPARE, min(most, 2 * CONNECTIONS + SPARE))
    return files, max(SPARE // 2, (files - SPARE) // 2)


def crowds(port: int, tables: Iterable[Path] = TABLES) -> dict[str, int]:
    """Addresses with more connections to a port of this machine than devices need, and how many they have.

    nginx counts a connection once a request has arrived in it. One that sends three bytes and waits is seen
    here, and by the firewall (docs/deploy.md).

    Args:
        port: the front door's.
        tables: the kernel's lists of connections.
    """
    found = Counter[str]()
    for table in tables:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:  # another system, or no IPv6
            continue
        for line in lines:
            _, here, there, state = line.split()[:4]
            if state == ESTABLISHED and int(here.rpartition(":")[2], 16) == port:
                found[network(there.rpartition(":")[0])] += 1
    return {name: count for name, count in found.items() if count > EACH}


def network(kernel: str) -> str:
    """An address as the kernel lists it, in 32-bit words; of IPv6 the first 64 bits."""
    words = [bytes.fromhex(kernel[i : i + 8]) for i in range(0, len(kernel), 8)]
    data = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    if len(data) == 4:
        return str(ipaddress.IPv4Address(data))
    address = ipaddress.IPv6Address(data)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def front_door_command(study: Study) -> list[str]:
    """nginx, in the foreground, on the configuration of `write_config`."""
    run = study.run
    return [nginx(), "-p", str(run), "-c", str(run / "nginx.conf"), "-e", str(study.log / "front_door.log")]


class Refusals:
    """Reads what the front door refused, from where it was read last.

    A flood of refusals is read piece by piece, so that whoever asks has time for other things, and once too
    much of it has come it is dropped, and that is counted.

    Args:
        study: its folder.
    """

    def __init__(self, study: Study) -> None:
        self._path = study.run / REFUSED
        self._at = self._path.stat().st_size if self._path.is_file() else 0

    def new(self) -> Iterator[str]:
        """The reason of each refusal since the last call."""
        if not self._path.is_file():
            return
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            file.seek(self._at)
            for line in file.read(PIECE).splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                reason = reason_of(line)
                if reason is not None:
                    yield reason
        if size > LARGEST:
            if self._at < size:
                yield FLOOD
            os.truncate(self._path, 0)  # nginx goes on writing at the end of the file
            self._at = 0


def reason_of(line: bytes) -> str | None:
    """The reason, a constant, of a line that the front door wrote; None for a fault of the inside."""
    try:
        values = json.loads(line)
        status, inside, path = int(values["status"]), str(values["inside"]), str(values["path"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "front door: request that cannot be read"
    if path == PATH and inside:
        return None  # enrolment counts its own
    if status == 415 and not inside:
        return PACKED
    if status == 413:
        return "front door: message too large"
    if status == TOO_MANY and not inside:
        return "front door: too many requests"
    if status == 404 and not inside:
        return "front door: closed path"
    if status == 403 and path.startswith("/v1/fleet/"):
        return None  # the guard of the Fleet API counts its own, by place
    if status in (401, 403):
        return "front door: node key is not enrolled"
    if path.endswith("/activate-node") and status < 500:
        return "front door: node key is not enrolled"
    if status < 500:
        return "front door: request that cannot be read"
    return None
