"""Networks of their own for the processes of one machine (Linux, root): a center, hospitals that reach it and nobody else, and
none at all. And a way to start processes there as other users, without any right of root's."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CENTER, ELSEWHERE = "10.83.0.1", "198.51.100.7"  # the latter (TEST-NET-2) stands for any other machine of the world
UPLINK = "uplink"  # a hospital's one interface besides loopback
ROOT = Path(__file__).parents[1]
_NO_RIGHTS = "--clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
_CAPTURE = """\
import socket, struct, sys
stream = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
stream.bind((sys.argv[1], 0))
print("capturing", flush=True)
while True:
    frame, (_, _, kind, *_) = stream.recvfrom(65535)
    way = "out" if kind == 4 else "in"
    number = struct.unpack("!H", frame[12:14])[0]
    if number != 0x0800:
        print(way, "arp" if number == 0x0806 else hex(number), flush=True)
        continue
    head = 14 + 4 * (frame[14] & 15)
    if frame[23] != 6:
        print(way, "ip protocol", frame[23], flush=True)
        continue
    ports, flags = struct.unpack("!HH", frame[head:head + 4]), frame[head + 13]
    source, target = (socket.inet_ntoa(frame[at:at + 4]) for at in (26, 30))
    print(way, "tcp", f"{source}:{ports[0]}", f"{target}:{ports[1]}", "SYN" if flags & 18 == 2 else "-", flush=True)
"""


def missing() -> str:
    """What this machine lacks for namespaces, in words; "" if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    if absent := [name for name in ("ip", "ss", "unshare", "setpriv", "nginx") if shutil.which(name) is None]:
        return f"needs {', '.join(absent)}"
    name = f"cs{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return "" if made.returncode == 0 else f"this machine allows no network namespaces: {made.stderr.strip()}"


@dataclass
class Networks:
    """Namespaces by what is in them: ``center``, one for each hospital's relay, and one without a network for its worker."""

    names: dict[str, str] = field(default_factory=dict)

    def add(self, name: str) -> None:
        self.names[name] = f"cs{os.getpid()}-{name}"
        _ip("netns", "add", self.names[name])

    def command(self, name: str, *, user: int, folder: Path | None = None) -> list[str]:
        """What to put before a command that is to run in the namespace ``name`` as ``user``, who has a group of the same
        number and no rights besides."""
        enter = ["ip", "netns", "exec", self.names[name], "unshare", "--mount", "--propagation", "private"]
        steps = [*_open_ways(sys.base_prefix, sys.prefix, ROOT), f"cd {shlex.quote(str(folder or '/'))}"]
        script = "\n".join(["set -e", *steps, f'exec setpriv --reuid={user} --regid={user} {_NO_RIGHTS} "$@"'])
        return [*enter, "sh", "-c", script, "sh"]

    def look(self, name: str, *command: str) -> list[str]:
        """Lines that ``command`` prints in the namespace."""
        whole = ["ip", "netns", "exec", self.names[name], *command]
        return subprocess.run(whole, capture_output=True, text=True, check=True).stdout.splitlines()

    def set(self, name: str, setting: str, value: int) -> None:
        """Set a kernel parameter of the namespace, where this kernel has it."""
        path = f"/proc/sys/net/{setting}"
        self.look(name, "sh", "-c", f"if [ -e {path} ]; then echo {value} > {path}; fi")

    def capture(self, name: str, log: Path) -> "subprocess.Popen[bytes]":
        """Write a line for each frame on the uplink of ``name`` to ``log``, from the return of this on."""
        command = ["ip", "netns", "exec", self.names[name], sys.executable, "-I", "-S", "-c", _CAPTURE, UPLINK]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None and b"capturing" not in log.read_bytes():
            pass
        return process


@contextmanager
def networks(hospitals: Sequence[str]) -> Iterator[Networks]:
    """A center at ``CENTER``, and for each hospital a cable to it that leads no further. The machine ``ELSEWHERE``
    is one that the center knows and no hospital has a way to."""
    made = Networks()
    try:
        made.add("center")
        center = made.names["center"]
        _ip("-n", center, "link", "set", "lo", "up")
        for address in (CENTER, ELSEWHERE):
            _ip("-n", center, "address", "add", f"{address}/32", "dev", "lo")
        made.set("center", "ipv4/ip_unprivileged_port_start", 0)
        for number, hospital in enumerate(hospitals, start=1):
            made.add(hospital)
            made.add(f"{hospital}-worker")  # as it is made: loopback is there, and down
            name, cable = made.names[hospital], f"cable{number}"
            _ip("link", "add", UPLINK, "netns", name, "type", "veth", "peer", "name", cable, "netns", center)
            for end, interface in ((hospital, UPLINK), ("center", cable)):
                made.set(end, f"ipv6/conf/{interface}/disable_ipv6", 1)
            _ip("-n", center, "address", "add", f"10.83.{number}.1/30", "dev", cable)
            _ip("-n", center, "link", "set", cable, "up")
            _ip("-n", name, "address", "add", f"10.83.{number}.2/30", "dev", UPLINK)
            for interface in ("lo", UPLINK):
                _ip("-n", name, "link", "set", interface, "up")
            _ip("-n", name, "route", "add", CENTER, "via", f"10.83.{number}.1")
        yield made
    finally:
        for name in made.names.values():
            _ip("netns", "delete", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _open_ways(*needed: str | Path) -> list[str]:
    """Shell commands that let every user reach the folders ``needed``, in this mount namespace only: a folder on the way that
    is closed to others is covered by an empty one that holds nothing but them."""
    covers: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(Path(folder).resolve() for folder in needed):
        closed = [parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001]
        if closed:
            covers.setdefault(closed[0], []).append(path)
    steps = []
    for cover, paths in covers.items():
        steps.append("mount -t tmpfs -o mode=755 none /mnt")
        steps += [f"mkdir /mnt/{n} && mount --bind {shlex.quote(str(path))} /mnt/{n}" for n, path in enumerate(paths)]
        steps.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(str(cover))}")
        for n, path in enumerate(paths):
            steps.append(f"mkdir -p {shlex.quote(str(path))} && mount --move /mnt/{n} {shlex.quote(str(path))}")
        steps.append("umount /mnt")
    return steps
