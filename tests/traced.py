"""What a process and its children do to the world, by strace: addresses they speak to, and files they write."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

NETWORK = "connect,sendto,sendmsg,sendmmsg"
FILES = "open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
PEER = re.compile(r'sa_family=AF_INET6?, sin6?_port=htons\((\d+)\).*?inet_(?:addr\(|pton\(AF_INET6, )"([^"]+)"')
SOCKET = re.compile(r'connect\(.*sa_family=AF_UNIX, sun_path=(@?"[^"]+")')
OPENED = re.compile(r"\b(?:open|openat|openat2|creat)\(.* = \d+<([^>]+)>$")
NAMED = re.compile(r"\b(mkdir|rename|link|symlink)\w*\(.*\) = 0$")
PAYLOAD = re.compile(r'"((?:[^"\\]|\\.)*)"')
QUERY = re.compile(
    rb"..\x01[\x00\x20]\x00\x01\x00\x00\x00\x00\x00[\x00\x01]((?:[\x01-\x3f][\w.-]+)+)\x00\x00[\x01\x1c]", re.DOTALL
)
QUOTED = re.compile(r'(?:AT_FDCWD<([^>]*)>, |\d+<([^>]*)>, )?"([^"]*)"')
OPENS_TO_WRITE = ("O_WRONLY", "O_RDWR", "O_CREAT", "creat(")
# The kernel's own, nothing that stays: terminals, shared memory, pseudo files of processes.
SYSTEM = ("/dev/", "/proc/", "/sys/", "/memfd:", "pipe:", "socket:", "anon_inode:")


@dataclass
class Traces:
    """`peers`: (address, port) of all that was spoken to; `names`: what DNS was asked for; `sockets`: paths of Unix
    sockets; `written`: paths of files and folders that were opened to be written, or made.
    """

    peers: set[tuple[str, int]] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    sockets: set[str] = field(default_factory=set)
    written: set[Path] = field(default_factory=set)


def command(log: Path, *words: object) -> list[str]:
    """The command line of `words` under strace, whose records go to files that begin with `log`."""
    assert shutil.which("strace"), "strace is missing: apt-get install strace"
    options = ["-ff", "-qq", "-y", "-s", "4096", "--seccomp-bpf", "--signal=none", "-e", f"trace={NETWORK},{FILES}"]
    return ["strace", *options, "-o", str(log), *map(str, words)]


def bare_environment(home: Path, temporary: Path) -> dict[str, str]:
    """The environment of somebody who has configured nothing: above all no CI, in which packages keep quiet."""
    passed_on = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    return {**passed_on, "HOME": str(home), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}


def traces(log: Path, cwd: Path) -> Traces:
    """What the records of all threads and children say of a command that ran in the folder `cwd`."""
    files = list(log.parent.glob(f"{log.name}.*"))
    assert files, "strace has recorded nothing"
    collected = Traces()
    for file in files:
        for line in file.read_text(errors="replace").splitlines():
            _read(line, cwd, collected)
    return collected


def run(log: Path, *words: object, env: dict[str, str], cwd: Path) -> Traces:
    """What a command did, which must succeed."""
    done = subprocess.run(command(log, *words), env=env, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return traces(log, cwd)


def terminate(process: subprocess.Popen[bytes]) -> None:
    """End a command that runs under strace, which itself takes no notice of SIGTERM, and wait for the records."""
    if process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGTERM)
        process.wait(60)


def _read(line: str, cwd: Path, collected: Traces) -> None:
    for port, host in PEER.findall(line):
        collected.peers.add((host.removeprefix("::ffff:"), int(port)))
    if line.startswith("send"):
        collected.names |= {name for text in PAYLOAD.findall(line) if (name := _name_asked(text))}
    elif path := SOCKET.search(line):
        collected.sockets.add(path[1].strip('"'))
    elif opened := OPENED.search(line):
        if any(flag in line for flag in OPENS_TO_WRITE):
            _add(opened[1], collected)
    elif NAMED.search(line):
        *_, (near, folder, name) = QUOTED.findall(line)
        _add(str(cwd / (near or folder) / name), collected)


def _name_asked(text: str) -> str:
    """The name that a message asks DNS for, nothing where it is no such message; `text` as strace prints it."""
    content = text.encode("latin-1", "replace").decode("unicode_escape").encode("latin-1", "replace")
    query = QUERY.match(content)
    if query is None:
        return ""
    labels, at = [], 0
    while at < len(query[1]):
        end = at + 1 + query[1][at]
        labels.append(query[1][at + 1 : end].decode("latin-1"))
        at = end
    return ".".join(labels)


def _add(path: str, collected: Traces) -> None:
    if not path.startswith(SYSTEM):
        collected.written.add(Path(path.removesuffix(" (deleted)")))
