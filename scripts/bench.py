"""Measures KegFS beside gocryptfs and a plain directory; called by scripts/bench.

Method. All subjects live in one directory of one disk. A round runs every row; a row runs on every subject before
the next row begins, and the order of subjects rotates from row to row and round to round, so that drift of the machine
meets all alike. "Cold" means: unmounted and mounted again (no cache in any process), everything synced, the kernel's
caches dropped. KegFS has sent everything to its server before the next subject is measured; the time that takes is a
row of its own. Reported are medians over the rounds. CPU seconds are user + system of the commands run, of the
file system's process and, apart, of kegd. Peak memory is VmHWM of the file system's process, reset before each row.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path

MIB = 1 << 20
TREE_FILES = 20_000
TREE_BYTES = 200 * MIB
# Larger ones (generated code, databases) are not what a source tree is made of.
TREE_LARGEST = 192 * 1024
RANDOM_READS = 20_000
MOUNT_TIMEOUT_S = 60
SETTLE_TIMEOUT_S = 1800
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def log(text):
    print(text, file=sys.stderr, flush=True)


def run(*command, **options):
    """Runs a command; what it prints is shown only when it fails."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, **options)
    if done.returncode != 0:
        output = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}: {output}")
    return done.stdout.decode(errors="replace")


def as_root(script):
    command = ["sh", "-c", script]
    run(*(command if os.geteuid() == 0 else ["sudo", *command]))


def drop_caches():
    os.sync()
    as_root("echo 3 > /proc/sys/vm/drop_caches")


def cpu_seconds(pid):
    """User + system time of a process, 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def reset_peak(pid):
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid):
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found.group(1)) / 1024 if found else 0.0


def children_cpu():
    times = os.times()
    return times.children_user + times.children_system


def wait_for(condition, what, timeout_s=MOUNT_TIMEOUT_S):
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {timeout_s} s")
        time.sleep(0.02)


# --- subjects -----------------------------------------------------------------------------------------------------


class Plain:
    """A directory of the disk itself: what the other two stand on."""

    def __init__(self, work, _options):
        self.root = work / "plain"

    name = property(lambda self: "disk")

    def start(self):
        self.root.mkdir()

    def mount(self):
        pass

    def unmount(self):
        pass

    def forget_local(self):
        """Drops local copies of what is elsewhere; here nothing is elsewhere."""

    def settle(self):
        """Waits until background work is done."""

    def daemon(self):
        """The process that serves the mount."""
        return None

    def server(self):
        return None

    def stop(self):
        pass


class Gocryptfs(Plain):
    """gocryptfs with the cipher that KegFS uses."""

    name = property(lambda self: "gocryptfs")

    def __init__(self, work, _options):
        self.root = work / "gocryptfs"
        self.cipher = work / "gocryptfs.cipher"
        self.passfile = work / "gocryptfs.pass"
        self.process = None

    def start(self):
        self.root.mkdir()
        self.cipher.mkdir()
        self.passfile.write_text(secrets.token_hex(16))
        run("gocryptfs", "-q", "-init", "-xchacha", "-passfile", self.passfile, self.cipher)
        self.mount()

    def mount(self):
        # In the foreground, so that the process is known.
        command = ["gocryptfs", "-q", "-fg", "-passfile", str(self.passfile), str(self.cipher), str(self.root)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        wait_for(lambda: os.path.ismount(self.root), "gocryptfs mount")

    def unmount(self):
        if self.process:
            run("fusermount3", "-u", self.root)
            self.process.wait(MOUNT_TIMEOUT_S)
            self.process = None

    def daemon(self):
        return self.process.pid if self.process else None

    def stop(self):
        self.unmount()


class KegFS(Plain):
    """KegFS against a kegd on loopback, both with their data on the same disk."""

    name = property(lambda self: "KegFS")

    def __init__(self, work, options):
        self.root = work / "kegfs"
        self.profile = work / "kegfs.profile"
        self.data = work / "kegd.data"
        self.passphrase = work / "kegfs.pass"
        self.kegfs_program = options.binaries / "kegfs"
        self.kegd_program = options.binaries / "kegd"
        self.kegd = None
        self.mounted = False
        self.pid = None

    def kegfs(self, *arguments, **options):
        return run(self.kegfs_program, "--profile", self.profile, *arguments, **options)

    def start(self):
        self.root.mkdir()
        self.data.mkdir()
        self.passphrase.touch(0o600)
        self.passphrase.write_text(secrets.token_hex(16))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            url = f"127.0.0.1:{probe.getsockname()[1]}"
        log_file = open(self.data.parent / "kegd.log", "wb")
        command = [str(self.kegd_program), "--data", str(self.data), "--listen", url]
        self.kegd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file)

        def healthy():
            if self.kegd.poll() is not None:
                raise RuntimeError(f"kegd ended: {(self.data.parent / 'kegd.log').read_text()}")
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"http://{url}/healthz", timeout=1).status == 200

        wait_for(healthy, "kegd")
        invite = (self.data / "invite-code").read_text().strip()
        create = ["account", "create", "--server", f"http://{url}", "--name", "bench", "--device", "bench"]
        self.kegfs(*create, "--invite", invite, "--passphrase-file", self.passphrase)
        self.kegfs("folder", "create", "bench", "--passphrase-file", self.passphrase)
        self.mount()

    def mount(self):
        self.kegfs("mount", "bench", self.root, "--passphrase-file", self.passphrase)
        self.mounted = True
        wait_for(lambda: os.path.ismount(self.root), "kegfs mount")
        self.pid = self.find_daemon()

    def find_daemon(self):
        """The background process of the profile: the kegfs whose arguments or environment name the profile."""
        needle = os.fsencode(self.profile)
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.path.samefile(entry / "exe", self.kegfs_program):
                    if needle in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                        return int(entry.name)
        raise RuntimeError("the background process of the profile was not found")

    def unmount(self):
        if self.mounted:
            pid = self.pid
            self.kegfs("unmount", self.root)
            self.kegfs("lock")
            self.mounted = False
            # A process that stays has no keys and no mount; what it still holds must not count as warm.
            with contextlib.suppress(RuntimeError):
                wait_for(lambda: not Path(f"/proc/{pid}").exists(), "end of the profile's process", 10)
            self.pid = None

    def forget_local(self):
        self.kegfs("cache", "clear", "--passphrase-file", self.passphrase)

    def settle(self):
        self.kegfs("sync", "--wait", "--passphrase-file", self.passphrase, timeout=SETTLE_TIMEOUT_S)

    def daemon(self):
        return self.pid

    def server(self):
        return self.kegd.pid if self.kegd else None

    def stop(self):
        try:
            self.unmount()
        finally:
            if self.kegd:
                self.kegd.terminate()
                try:
                    self.kegd.wait(30)
                except subprocess.TimeoutExpired:
                    self.kegd.kill()


SUBJECTS = {"disk": Plain, "gocryptfs": Gocryptfs, "kegfs": KegFS}

# --- rows ---------------------------------------------------------------------------------------------------------


class Bench:
    """The rows. `prepare_x` is not measured, `run_x` is; a row may return its own seconds."""

    ROWS = {
        "write": "1 GiB sequential write, fsync",
        "read_server": "sequential read, cold, from the server",
        "read_local": "sequential read, cold, from local ciphertext",
        "read_warm": "sequential read, warm",
        "random": "4K random read, cold, the first reads",
        "random_all": "4K random read, cold, all of the file",
        "untar": "untar a source tree",
        "ls": "ls -lR of it, cold",
        "md5": "md5sum of all its files, cold",
        "rm": "rm -rf of it",
    }

    def __init__(self, work, options):
        self.work = work
        self.size = options.size
        self.reads = options.reads
        self.payload = work / "payload"
        self.tar = work / "tree.tar"
        self.tree_files = self.tree_bytes = 0
        self.digests = None

    def cold(self, subject):
        subject.settle()
        subject.unmount()
        subject.mount()
        drop_caches()

    @staticmethod
    def warm_source(path):
        with open(path, "rb", buffering=0) as source:
            while source.read(4 * MIB):
                pass

    def title(self, row):
        size = f"{self.size // MIB} MiB" if self.size != 1024 * MIB else "1 GiB"
        return self.ROWS[row].replace("1 GiB", size)

    # The file.

    def ensure_file(self, subject):
        if not (subject.root / "big").exists():
            self.prepare_write(subject)
            self.run_write(subject)

    def prepare_write(self, subject):
        with contextlib.suppress(FileNotFoundError):
            (subject.root / "big").unlink()
        subject.settle()
        os.sync()
        self.warm_source(self.payload)

    def run_write(self, subject):
        run("dd", f"if={self.payload}", f"of={subject.root / 'big'}", "bs=1M", "conv=fsync")

    def prepare_read_server(self, subject):
        self.ensure_file(subject)
        subject.settle()
        subject.forget_local()
        self.cold(subject)

    def run_read_server(self, subject):
        run("dd", f"if={subject.root / 'big'}", "of=/dev/null", "bs=1M")

    def prepare_read_local(self, subject):
        self.ensure_file(subject)
        self.cold(subject)

    run_read_local = run_read_server

    def prepare_read_warm(self, subject):
        self.ensure_file(subject)
        self.run_read_warm(subject)

    run_read_warm = run_read_server

    prepare_random = prepare_random_all = prepare_read_local

    def run_random(self, subject):
        return self.read_at_random(subject, self.reads)

    def run_random_all(self, subject):
        return self.read_at_random(subject, self.size // 4096)

    @staticmethod
    def read_at_random(subject, reads):
        """No block twice; the same order for everybody."""
        job = ["--name=random", "--ioengine=psync", "--rw=randread", "--bs=4k", "--randseed=1", "--readonly"]
        extent = [f"--filename={subject.root / 'big'}", f"--number_ios={reads}"]
        result = json.loads(run("fio", *job, *extent, "--allrandrepeat=1", "--output-format=json"))
        # fio's own start takes as long as a thousand reads.
        return result["jobs"][0]["read"]["runtime"] / 1000

    # The tree.

    def remove_tree(self, subject):
        if (subject.root / "tree").exists():
            run("rm", "-rf", subject.root / "tree")

    def ensure_tree(self, subject):
        if not (subject.root / "tree").exists():
            self.run_untar(subject)

    def prepare_untar(self, subject):
        self.remove_tree(subject)
        subject.settle()
        os.sync()
        self.warm_source(self.tar)

    def run_untar(self, subject):
        run("tar", "-xf", self.tar, "-C", subject.root)

    def prepare_ls(self, subject):
        self.ensure_tree(subject)
        self.cold(subject)

    def run_ls(self, subject):
        run("sh", "-c", 'ls -lR "$0" >/dev/null', subject.root / "tree")

    prepare_md5 = prepare_ls

    def run_md5(self, subject):
        script = 'cd "$0" && LC_ALL=C find . -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum'
        digest = hashlib.sha256(run("sh", "-c", script, subject.root / "tree").encode()).hexdigest()
        if self.digests not in (None, digest):
            raise RuntimeError(f"{subject.name}: the files differ from those of the other subjects")
        self.digests = digest

    def prepare_rm(self, subject):
        self.ensure_tree(subject)
        subject.settle()
        os.sync()

    def run_rm(self, subject):
        run("rm", "-rf", subject.root / "tree")

    # What the rows work on.

    def make_payload(self):
        # Random bytes, so that nothing can be left out or compressed.
        with open(self.payload, "wb") as out:
            for _ in range(self.size // MIB):
                out.write(os.urandom(MIB))

    def make_tree(self, files, size):
        """A tar of unpacked crates in the order of their names, repeated under another name until it is large enough."""
        home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
        locked = re.findall(r'name = "(.+)"\nversion = "(.+)"', (Path(__file__).parent.parent / "Cargo.lock").read_text())
        sources = [path for name, version in sorted(locked) for path in home.glob(f"registry/src/*/{name}-{version}")]
        if not sources:
            raise RuntimeError(f"no unpacked crates in {home}/registry/src: run cargo fetch")
        with tarfile.open(self.tar, "w", format=tarfile.GNU_FORMAT) as tar:
            copy = 0
            while True:
                copy += 1
                for crate in sources:
                    for path in sorted(crate.rglob("*")):
                        info = tar.gettarinfo(path, f"tree/{copy}/{crate.name}/{path.relative_to(crate)}")
                        if info is None or (info.isreg() and info.size > TREE_LARGEST):
                            continue
                        if info.islnk():
                            info.type, info.size = tarfile.REGTYPE, path.stat().st_size
                        info.uid, info.gid, info.uname, info.gname, info.mtime = os.getuid(), os.getgid(), "", "", 1e9
                        if not info.isreg():
                            tar.addfile(info)
                            continue
                        with open(path, "rb") as content:
                            tar.addfile(info, content)
                        self.tree_files += 1
                        self.tree_bytes += info.size
                        if self.tree_files >= files or self.tree_bytes >= size:
                            return


def measure(bench, row, subject):
    """Runs one row on one subject; returns its numbers."""
    getattr(bench, f"prepare_{row}")(subject)
    daemon, server = subject.daemon(), subject.server()
    reset_peak(daemon)
    before = (children_cpu(), cpu_seconds(daemon), cpu_seconds(server))
    begin = time.monotonic()
    own_seconds = getattr(bench, f"run_{row}")(subject)
    seconds = time.monotonic() - begin
    middle = (children_cpu(), cpu_seconds(daemon), cpu_seconds(server))
    begin = time.monotonic()
    subject.settle()
    settle = time.monotonic() - begin
    after = (children_cpu(), cpu_seconds(daemon), cpu_seconds(server))
    return {
        "seconds": own_seconds or seconds,
        "cpu_command": middle[0] - before[0],
        "cpu_daemon": middle[1] - before[1],
        "cpu_server": middle[2] - before[2],
        "settle_seconds": settle,
        "settle_cpu_daemon": after[1] - middle[1],
        "settle_cpu_server": after[2] - middle[2],
        "peak_mib": peak_mib(daemon),
    }


# --- report -------------------------------------------------------------------------------------------------------


def medians(samples):
    keys = samples[0].keys()
    return {key: statistics.median(sample[key] for sample in samples) for key in keys}


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(results, row, other):
    """How many times faster KegFS is: above 1 is faster."""
    mine, theirs = results[row].get("KegFS"), results[row].get(other)
    return theirs["seconds"] / mine["seconds"] if mine and theirs else None


def markdown(report):
    subjects, results = report["subjects"], report["rows"]
    lines = [
        f"{report['rounds']} rounds, medians; {report['machine']}; disk: {report['disk']}; "
        f"tree: {report['tree_files']} files, {report['tree_bytes'] / MIB:.0f} MiB; "
        f"random: {report['random_reads']} reads; commit {report['commit']}.",
        "",
    ]
    with_kegfs = "KegFS" in subjects
    head = ["seconds"] + subjects
    if with_kegfs:
        head += [f"× {name}" for name in subjects if name != "KegFS"]
    lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row, by_subject in results.items():
        cells = [report["titles"][row]] + [number(by_subject[name]["seconds"]) for name in subjects]
        if with_kegfs:
            cells += [f"{ratio(results, row, name):.2f}" for name in subjects if name != "KegFS"]
        lines.append("| " + " | ".join(cells) + " |")
    if with_kegfs:
        lines += ["", "`× name`: how many times faster KegFS is than that (below 1: slower)."]
        settled = [(report["titles"][row], by["KegFS"]) for row, by in results.items() if row in ("write", "untar", "rm")]
        for title, mine in settled:
            lines.append(f"After “{title}”, {number(mine['settle_seconds'])} s until all was on the server.")

    served = [name for name in subjects if name != "disk"]
    head = ["CPU seconds; peak MiB"] + [f"{name}: commands" for name in subjects] + [f"{name}: process" for name in served]
    head += ["kegd"] * with_kegfs + [f"{name}: peak" for name in served]
    lines += ["", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row, by_subject in results.items():
        cells = [report["titles"][row]] + [number(by_subject[name]["cpu_command"]) for name in subjects]
        cells += [number(by_subject[name]["cpu_daemon"]) for name in served]
        if with_kegfs:
            cells.append(number(by_subject["KegFS"]["cpu_server"]))
        cells += [f"{by_subject[name]['peak_mib']:.0f}" for name in served]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def describe_machine():
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} cores ({model.group(1) if model else platform.machine()}), Linux {platform.release()}"


def describe_disk(work):
    return run("findmnt", "-n", "-o", "FSTYPE", "-T", work).strip()


def commit():
    try:
        root = Path(__file__).parent.parent
        return run("git", "-C", root, "describe", "--always", "--dirty").strip()
    except (RuntimeError, OSError):
        return "unknown"


def parse_size(text):
    found = re.fullmatch(r"(\d+)([KMG]?)(?:iB)?", text)
    if not found:
        raise argparse.ArgumentTypeError("a number with K, M or G, such as 512M")
    size = int(found.group(1)) << {"": 0, "K": 10, "M": 20, "G": 30}[found.group(2)]
    if size < MIB:
        raise argparse.ArgumentTypeError("at least 1M")
    return size // MIB * MIB


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--size", type=parse_size, default=1024 * MIB, help="size of the large file (1G)")
    parser.add_argument("--quick", action="store_true", help="one round, small sizes: does it run, is anything absurd")
    parser.add_argument("--rows", default=",".join(Bench.ROWS), help="rows, separated by commas: " + ", ".join(Bench.ROWS))
    parser.add_argument("--subjects", default=",".join(SUBJECTS), help="subjects, separated by commas: " + ", ".join(SUBJECTS))
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where to work: the disk that is measured (/var/tmp)")
    parser.add_argument("--json", type=Path, help="write all samples and medians to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file as well")
    parser.add_argument("--floor", type=float, help="fail where KegFS is not this many times as fast as gocryptfs")
    parser.add_argument("--binaries", type=Path, default=Path("target/release"), help="where kegfs and kegd are (set by scripts/bench)")
    options = parser.parse_args()
    options.rows = options.rows.split(",")
    options.subjects = options.subjects.split(",")
    for row in options.rows:
        if row not in Bench.ROWS:
            parser.error(f"no such row: {row}")
    for subject in options.subjects:
        if subject not in SUBJECTS:
            parser.error(f"no such subject: {subject}")
    options.binaries = options.binaries.resolve()
    options.reads = RANDOM_READS
    options.tree = (TREE_FILES, TREE_BYTES)
    if options.quick:
        options.rounds, options.reads, options.tree = 1, 2_000, (2_000, TREE_BYTES // 10)
        options.size = min(options.size, 128 * MIB)
    return options


def main():
    options = arguments()
    # A plain kill shall clean up as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(tempfile.mkdtemp(prefix="kegfs-bench-", dir=options.dir))
    subjects = []
    try:
        bench = Bench(work, options)
        log("preparing the file and the tree")
        bench.make_payload()
        bench.make_tree(*options.tree)
        for name in options.subjects:
            subject = SUBJECTS[name](work, options)
            subjects.append(subject)
            subject.start()

        samples = {row: {subject.name: [] for subject in subjects} for row in options.rows}
        turn = 0
        for round_number in range(options.rounds):
            for row in options.rows:
                turn += 1
                at = turn % len(subjects)
                for subject in subjects[at:] + subjects[:at]:
                    sample = measure(bench, row, subject)
                    samples[row][subject.name].append(sample)
                    log(f"round {round_number + 1} {row:12} {subject.name:10} {sample['seconds']:8.2f} s")

        report = {
            "commit": commit(),
            "machine": describe_machine(),
            "disk": describe_disk(work),
            "rounds": options.rounds,
            "size": options.size,
            "random_reads": options.reads,
            "tree_files": bench.tree_files,
            "tree_bytes": bench.tree_bytes,
            "subjects": [subject.name for subject in subjects],
            "titles": {row: bench.title(row) for row in options.rows},
            "rows": {row: {name: medians(found) for name, found in by.items()} for row, by in samples.items()},
            "samples": samples,
        }
    finally:
        for subject in subjects:
            try:
                subject.stop()
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                log(f"while stopping {subject.name}: {error}")
        # Never delete through a mount that is still there.
        if any(os.path.ismount(subject.root) for subject in subjects):
            log(f"something is still mounted below {work}: not removed")
        else:
            shutil.rmtree(work, ignore_errors=True)

    table = markdown(report)
    print(table)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    if options.markdown:
        options.markdown.write_text(table)
    if options.floor is not None:
        ratios = {row: ratio(report["rows"], row, "gocryptfs") for row in options.rows}
        slow = [f"{row} ({value:.2f})" for row, value in ratios.items() if value is not None and value < options.floor]
        if slow:
            sys.exit(f"below {options.floor} × gocryptfs: {', '.join(slow)}")


if __name__ == "__main__":
    main()
