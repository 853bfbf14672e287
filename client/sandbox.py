"""Walls around a process that reads what strangers send, put up by the process itself and never taken down.

Landlock (Linux 5.13 on) leaves it the files that are named and, from 6.7 on, the TCP ports; seccomp takes
away what Landlock does not know: other programs, other processes' memory, the kernel's key store, and Unix
sockets, by which it would reach the vault's owner, a keyring, or a service manager that starts programs
outside of these walls. Neither needs an administrator. What a kernel lacks is said, and never silently.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # landlock's system calls, the same everywhere
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE, _MAKE_DIR, _MAKE = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_TRUNCATE = 1 << 14
_LOOK = _READ | _LIST | _EXECUTE
_CHANGE = _READ | _LIST | _WRITE | _TRUNCATE | _REMOVE_DIR | _REMOVE | _MAKE_DIR | _MAKE
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE  # what a rule on a file, and no folder, may say
_KNOWN = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # rights by version
_BIND, _CONNECT = 1 << 0, 1 << 1
_NO_NEW_PRIVS, _SECCOMP_FILTER, _ALL_THREADS = 38, 1, 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000  # or-ed with an errno

# (architecture as the kernel names it, seccomp's own number, the calls that are refused)
_CALLS = {
    "x86_64": (
        0xC000003E,
        317,
        41,
        {"execve": 59, "execveat": 322, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311}
        | {"pidfd_getfd": 438, "process_madvise": 440, "kcmp": 312, "add_key": 248, "request_key": 249}
        | {"keyctl": 250, "io_uring_setup": 425, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323}
        | {"unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161}
        | {"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "kexec_load": 246}
        | {"kexec_file_load": 320, "init_module": 175, "finit_module": 313, "delete_module": 176}
        | {"open_by_handle_at": 304, "reboot": 169, "swapon": 167, "personality": 135},
    ),
    "aarch64": (
        0xC00000B7,
        277,
        198,
        {"execve": 221, "execveat": 281, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271}
        | {"pidfd_getfd": 438, "process_madvise": 440, "kcmp": 272, "add_key": 217, "request_key": 218}
        | {"keyctl": 219, "io_uring_setup": 425, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282}
        | {"unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51}
        | {"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "kexec_load": 104}
        | {"kexec_file_load": 294, "init_module": 105, "finit_module": 273, "delete_module": 106}
        | {"open_by_handle_at": 265, "reboot": 142, "swapon": 224, "personality": 92},
    ),
}
_NETLINK = 16  # which the resolver asks which addresses there are


@dataclass(frozen=True)
class Walls:
    """What is left to a process.

    Attributes:
        read: files and folders that it reads, and whose code it may map.
        write: folders in which it makes, changes and removes files.
        connect: TCP ports that it may connect to, on any host.
        listen: TCP ports that it may listen on.
        datagrams: whether it may ask for names over the network.
    """

    read: tuple[Path, ...]
    write: tuple[Path, ...] = ()
    connect: tuple[int, ...] = ()
    listen: tuple[int, ...] = ()
    datagrams: bool = False


@dataclass(frozen=True)
class Confined:
    """Which walls stand.

    Attributes:
        landlock: version of the kernel's Landlock; 0 where it has none.
        seccomp: whether the filter is in force.
    """

    landlock: int
    seccomp: bool

    @property
    def whole(self) -> bool:
        """Whether no file, no socket and no process of its person is within reach."""
        return self.landlock > 0 and self.seccomp

    @property
    def words(self) -> str:
        """One line."""
        if self.whole:
            ports = "" if self.landlock >= 4 else "; this kernel's Landlock does not restrict ports"
            return f"confined by Landlock {self.landlock} and seccomp{ports}"
        lacking = [name for name, has in (("Landlock", self.landlock), ("seccomp", self.seccomp)) if not has]
        return f"not confined: this system has no {' and no '.join(lacking)}"


def landlock_version() -> int:
    """The version of Landlock that this kernel has; 0 for none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def knows_seccomp() -> bool:
    """Whether this system takes a filter, and its calls are known here."""
    if sys.platform != "linux" or platform.machine() not in _CALLS or struct.calcsize("P") != 8:
        return False
    return bool(_libc().prctl(21, 0, 0, 0, 0) >= 0)  # PR_GET_SECCOMP: an error where the kernel has none


def confine(walls: Walls) -> Confined:
    """Put up what this kernel has of `walls`, around this process and all that it starts.

    To be called before the first thread is started: Landlock holds the calling thread and its descendants.
    """
    if sys.platform != "linux":
        return Confined(0, False)
    _libc().prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    version = landlock_version()
    if version and not _landlock(walls, version):
        version = 0
    return Confined(version, _seccomp(walls))


def _landlock(walls: Walls, version: int) -> bool:
    files = _KNOWN[max(known for known in _KNOWN if known <= version)]
    ports = _BIND | _CONNECT if version >= 4 else 0
    scopes = 3 if version >= 6 else 0  # abstract Unix sockets, and signals to processes outside
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = struct.pack("QQQ", files, ports, scopes)[:size]
    rules = int(_libc().syscall(_CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)))
    if rules < 0:
        return False
    try:
        for paths, rights in ((walls.read, _LOOK), (walls.write, _CHANGE)):
            for path in paths:
                _allow(rules, path, rights & files)
        if ports:
            for numbers, right in ((walls.connect, _CONNECT), (walls.listen, _BIND)):
                for number in numbers:
                    rule = struct.pack("QQ", right, number)
                    _libc().syscall(_ADD, rules, ctypes.c_int(2), rule, ctypes.c_uint32(0))
        return bool(_libc().syscall(_RESTRICT, rules, ctypes.c_uint32(0)) == 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there need not be allowed
    try:
        if not path.is_dir():
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, handle)
        _libc().syscall(_ADD, rules, ctypes.c_int(1), rule, ctypes.c_uint32(0))
    finally:
        os.close(handle)


def _seccomp(walls: Walls) -> bool:
    if not knows_seccomp():
        return False
    known = _CALLS[platform.machine()]
    number = known[1]
    program = _filter(known, walls.datagrams)
    code = ctypes.create_string_buffer(program, len(program))
    whole = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    return bool(_libc().syscall(number, _SECCOMP_FILTER, _ALL_THREADS, whole) == 0)


def _filter(known: tuple[int, int, int, dict[str, int]], datagrams: bool) -> bytes:
    """The filter as the kernel reads it: 8 bytes an instruction, one after the other, jumps forward only."""
    architecture, _, opens_socket, refused = known
    refuse = _step(0x06, _REFUSE | errno.EPERM)
    allow = _step(0x06, _ALLOW)
    steps = [
        _step(0x20, 4),  # the architecture
        _step(0x15, architecture, 1, 0),
        refuse,
        _step(0x20, 0),  # the number of the call
        _step(0x35, 0x40000000, 0, 1),  # x32, by which x86-64 has every call twice
        refuse,
    ]
    for call in sorted(refused.values()):
        steps += [_step(0x15, call, 0, 1), refuse]
    steps += [
        _step(0x15, opens_socket, 1, 0),
        allow,
        _step(0x20, 16),  # the family
        _step(0x15, _NETLINK, 0, 1),
        allow,
        _step(0x15, int(socket.AF_INET), 2, 0),
        _step(0x15, int(socket.AF_INET6), 1, 0),
        refuse,
    ]
    if not datagrams:
        steps += [
            _step(0x20, 24),  # the type, without its flags
            _step(0x54, 0xF),
            _step(0x15, int(socket.SOCK_STREAM), 1, 0),
            refuse,
        ]
    return b"".join([*steps, allow])


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value & 0xFFFFFFFF)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def within(path: Path, places: Iterable[Path]) -> bool:
    """Whether a path lies in one of some folders, or is one of them."""
    return any(path == place or place in path.parents for place in places)


def code_of(modules: Sequence[str], secret: Path) -> tuple[Path, ...]:
    """What Python, its libraries and this package are read from; never a folder that holds `secret`.

    Args:
        modules: packages of ours that are imported.
        secret: a folder that must stay out of reach.
    """
    from importlib.util import find_spec

    found = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent]
    found += [Path(place) for place in sys.path if place]
    for name in modules:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            found += [Path(spec.origin).parent, Path(spec.origin).resolve().parent]
    found += [Path(place) for place in ("/usr", "/lib", "/lib64", "/proc/self", "/proc/sys", *_SYSTEM)]
    secret = secret.resolve()
    return tuple(
        dict.fromkeys(place for place in found if place.exists() and not within(secret, [place.resolve()]))
    )


_SYSTEM = (
    *("/sys/devices/system", "/sys/fs/cgroup", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/dev/null"),
    *("/dev/urandom", "/dev/random", "/dev/zero", "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"),
    *("/etc/host.conf", "/etc/gai.conf", "/etc/ssl", "/etc/ca-certificates", "/etc/pki", "/etc/localtime"),
    *("/etc/passwd", "/etc/group", "/etc/ld.so.cache", "/etc/mime.types", "/etc/alternatives"),
    *("/etc/os-release", "/run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/resolv.conf"),
)
