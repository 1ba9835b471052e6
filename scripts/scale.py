"""Measures one folder with very many files; called by scripts/scale.

Method. A kegd on loopback, two members, one directory. Alice makes the files through her mount, from two processes,
each file created, written and closed; everything is uploaded; Bob's client, which has seen nothing, catches up. Then
what a user of such a folder does is measured: mounting again with the replica that is there, `stat` of files chosen at
random, `ls -f`, removing a hundred files. "First" means that the mount has not been asked for that file since
it was made, and the kernel knows nothing; "warm" is the second time. Then, with the server stopped, changes are made
that wait in the journal, the client is killed (SIGKILL), and mounts again. Memory is VmHWM of the client's process.
Every bound is printed with what was measured; one that is missed makes the exit code 1.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import KegFS, describe_disk, describe_machine, drop_caches, log, peak_mib, reset_peak, run, wait_for

FILES = 1_000_000
STATS = 5_000
MAKERS = 2
# Seconds, and MiB of one client process: what the project promises for 1,000,000 files.
MOUNT_MAX_S = 2.0
STAT_MAX_S = 0.001
LIST_MAX_S = 5.0
MEMORY_MAX_MIB = 600

MAKE = """
import os, sys
root, first, count, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for n in range(first, count, step):
    fd = os.open(f"{root}/file-{n:07}.txt", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, b"%d\\n" % n)
    os.close(fd)
"""


class Member(KegFS):
    """A member with a mount. The second (`other` is the first) is in the folder and on the server of the first."""

    def __init__(self, work, options, name, other=None):
        super().__init__(work, options)
        self.person, self.other = name, other
        self.root = work / f"{name}.mount"
        self.profile = work / f"{name}.profile"
        if other:
            self.passphrase, self.kegd, self.data = other.passphrase, other.kegd, other.data

    def account(self):
        return json.loads(self.kegfs("account", "show", "--json"))

    def join(self):
        """Makes the account and becomes an editor."""
        self.root.mkdir()
        create = ["account", "create", "--server", self.other.account()["server"], "--name", self.person]
        invite = (self.data / "invite-code").read_text().strip()
        self.kegfs(*create, "--device", "bench", "--invite", invite, "--passphrase-file", self.passphrase)
        add = ["member", "add", "bench", self.account()["id"], "--role", "editor"]
        self.other.kegfs(*add, "--passphrase-file", self.passphrase)

    def end(self):
        """Unmounts; where something still uses the mount, by force."""
        try:
            self.unmount()
        except (RuntimeError, OSError, subprocess.SubprocessError):
            self.kill()

    def kill(self):
        """Ends the client as a crash would; the dead mount is detached, as a user would."""
        os.kill(self.pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{self.pid}/fd").exists() or not os.listdir(f"/proc/{self.pid}/fd"), "the end of the client")
        run("umount", "-l", self.root)
        self.mounted, self.pid = False, None


class Results:
    """What was measured, and whether it is within bounds."""

    def __init__(self):
        self.lines, self.missed = [], []

    def note(self, what, value, unit, bound=None):
        text = f"{value:.2f} {unit}" if unit == "s" else f"{value:.3f} {unit}" if unit == "ms" else f"{value:.0f} {unit}"
        ok = bound is None or value <= bound
        shown = "" if bound is None else f"{bound:g} {unit}" + ("" if ok else " **missed**")
        self.lines.append(f"| {what} | {text} | {shown} |")
        log(f"{what}: {text}" + (f" (bound {shown})" if shown else ""))
        if not ok:
            self.missed.append(what)


@contextlib.contextmanager
def timed(results, what, bound=None):
    begin = time.monotonic()
    yield
    results.note(what, time.monotonic() - begin, "s", bound)


def stat_all(paths):
    """Seconds of each stat(2), ascending."""
    times = []
    for path in paths:
        begin = time.perf_counter()
        os.stat(path)
        times.append(time.perf_counter() - begin)
    return sorted(times)


def note_stats(results, what, times, rare_bound):
    """The bound is on the median; on the 99th percentile where `rare_bound` is given."""
    results.note(f"{what}, median", times[len(times) // 2] * 1000, "ms", STAT_MAX_S * 1000)
    results.note(f"{what}, 99th percentile", times[len(times) * 99 // 100] * 1000, "ms", rare_bound)


def make(alice, directory, options, results):
    begin = time.monotonic()
    makers = [
        subprocess.Popen([sys.executable, "-c", MAKE, directory, str(first), str(options.files), str(MAKERS)])
        for first in range(MAKERS)
    ]
    while any(maker.poll() is None for maker in makers):
        time.sleep(10 if options.files > 200_000 else 1)
        log(f"  {time.monotonic() - begin:6.0f} s, client at most {peak_mib(alice.pid):.0f} MiB, "
            f"kegd {peak_mib(alice.server()):.0f} MiB")
    if any(maker.returncode for maker in makers):
        raise RuntimeError("a maker failed")
    results.note(f"making {options.files} files through the mount", time.monotonic() - begin, "s")
    with timed(results, "until all were on the server"):
        alice.settle()
    results.note("memory of the client that made them", peak_mib(alice.pid), "MiB", options.memory)


def catch_up(bob, options, results):
    begin = time.monotonic()
    bob.mount()
    directory = bob.root / "many"
    # The link count of the directory does not tell; that the last name is there does.
    last = f"file-{options.files - 1:07}.txt"
    other = f"file-{options.files - 2:07}.txt"
    wait_for(lambda: os.path.exists(directory / last) and os.path.exists(directory / other), "all files", 3600)
    results.note("a new member's client, until the last file is there", time.monotonic() - begin, "s")
    results.note("memory of that client", peak_mib(bob.pid), "MiB", options.memory)
    counted = int(run("sh", "-c", 'ls -f "$0" | wc -l', directory)) - 2
    if counted != options.files:
        raise RuntimeError(f"the second member lists {counted} of {options.files} files")


def use(member, options, results):
    """What a user does with the folder, in a fresh mount of a replica that is there."""
    member.unmount()
    if options.cold:
        drop_caches()
    begin = time.monotonic()
    member.mount()
    os.stat(member.root / "many")
    results.note("mounting again, until the mount answers", time.monotonic() - begin, "s", MOUNT_MAX_S)
    reset_peak(member.pid)
    chosen = random.Random(1).sample(range(options.files), min(STATS, options.files // 2))
    paths = [member.root / "many" / f"file-{n:07}.txt" for n in chosen]
    note_stats(results, "stat of a random file, first", stat_all(paths), None)
    note_stats(results, "stat of a random file, warm", stat_all(paths), STAT_MAX_S * 1000)
    directory = member.root / "many"
    with timed(results, "ls -f, first", options.list_max):
        run("sh", "-c", 'ls -f "$0" >/dev/null', directory)
    with timed(results, "ls -f, again", options.list_max):
        run("sh", "-c", 'ls -f "$0" >/dev/null', directory)
    results.note("memory of the client after all that", peak_mib(member.pid), "MiB", options.memory)
    with timed(results, "removing 100 of the files"):
        for path in paths[:100]:
            path.unlink()
    member.settle()


def offline(alice, options, results):
    """Pending work: memory, and the time to mount again after a crash."""
    pending = options.pending
    os.kill(alice.server(), signal.SIGSTOP)
    try:
        reset_peak(alice.pid)
        (alice.root / "offline").mkdir()
        begin = time.monotonic()
        run(sys.executable, "-c", MAKE, alice.root / "offline", "0", str(pending), "1")
        descriptor = os.open(alice.root / "offline", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        results.note(f"making {pending} files while the server is away", time.monotonic() - begin, "s")
        results.note("memory of the client that holds them", peak_mib(alice.pid), "MiB", options.memory)
        alice.kill()
        begin = time.monotonic()
        alice.mount()
        listed = int(run("sh", "-c", 'ls -f "$0" | wc -l', alice.root / "offline")) - 2
        results.note("mounting again after a crash, until they are listed", time.monotonic() - begin, "s")
        if listed != pending:
            raise RuntimeError(f"{listed} of {pending} files came back after the crash")
        results.note("memory of the client after that", peak_mib(alice.pid), "MiB", options.memory)
    finally:
        os.kill(alice.server(), signal.SIGCONT)
    with timed(results, "until they were on the server"):
        alice.settle()


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/scale", description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=FILES, help=f"files in the directory ({FILES})")
    parser.add_argument("--pending", type=int, default=100_000, help="files made while the server is away (100000)")
    parser.add_argument("--memory", type=int, default=MEMORY_MAX_MIB, help=f"bound of a client's memory in MiB ({MEMORY_MAX_MIB})")
    parser.add_argument("--cold", action="store_true", help="drop the disk's caches before mounting again")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where to work (/var/tmp)")
    parser.add_argument("--binaries", type=Path, default=Path("target/release"), help="where kegfs and kegd are (set by scripts/scale)")
    options = parser.parse_args()
    options.binaries = options.binaries.resolve()
    options.list_max = LIST_MAX_S * max(options.files / FILES, 0.1)
    return options


def main():
    options = arguments()
    # A plain kill shall clean up as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(tempfile.mkdtemp(prefix="kegfs-scale-", dir=options.dir))
    results = Results()
    alice, bob = Member(work, options, "alice"), None
    try:
        alice.start()
        directory = alice.root / "many"
        directory.mkdir()
        make(alice, directory, options, results)
        bob = Member(work, options, "bob", alice)
        bob.join()
        catch_up(bob, options, results)
        use(bob, options, results)
        offline(alice, options, results)
    finally:
        for member in (bob, alice):
            with contextlib.suppress(RuntimeError, OSError, subprocess.SubprocessError):
                if member:
                    member.end()
        if alice.kegd:
            alice.kegd.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                alice.kegd.wait(30)
        # Never delete through a mount that is still there.
        if any(member and os.path.ismount(member.root) for member in (alice, bob)):
            log(f"something is still mounted below {work}: not removed")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{options.files} files; {describe_machine()}; disk: {describe_disk(options.dir)}.\n")
    print("| what | measured | bound |\n|---|---:|---:|")
    print("\n".join(results.lines))
    if results.missed:
        sys.exit(f"bounds missed: {', '.join(results.missed)}")


if __name__ == "__main__":
    main()
