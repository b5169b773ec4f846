"""Cuts the power of a machine in the middle of an operation, and looks at what its disk holds: `make power-cut`.

    python -m tests.crash.power_cut [CUTS of each operation] [OPERATION…]

The machine is a user-mode Linux (package user-mode-linux, as for tests/uml), whose kernel is a process: SIGKILL takes its page cache away, and its
disk, a file with ext4, keeps what was written to it until then. ext4 is mounted with `noauto_da_alloc`: it does not make up for a forgotten fsync.
The cut comes at counted changes (`points`); the next machine judges what is left (`power_guest`) before it is cut itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.points import HALTED

REPOSITORY = Path(__file__).parent.parent.parent
OPERATIONS = ("pull", "load", "commit", "rmi", "system-prune")
MODULES = "overlay bridge veth nf_tables nft_ct nft_masq nft_redir"
BOOT_SECONDS = 240


@dataclass
class Tally:
    points: int = 0
    cuts: int = 0
    states: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Machine:
    def __init__(self, work: Path) -> None:
        self.work = work
        (work / "tmp").mkdir()
        (work / "uml").mkdir()
        disk = work / "disk"
        with disk.open("wb") as file:
            file.truncate(192 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)

    def run(self, *words: str) -> bool:
        """Boots, and lets the guest's half work. → whether the power was cut. RuntimeError when the guest failed."""
        (self.work / "status").unlink(missing_ok=True)
        (self.work / "command").write_text(
            f"cd {REPOSITORY}\n"
            "mkdir -p $TMPDIR/lib $TMPDIR/disk\nln -s /usr/lib/uml/modules $TMPDIR/lib/modules\n"
            f"for module in {MODULES}; do modprobe -d $TMPDIR $module; done\n"
            "mount -t ext4 -o noauto_da_alloc /dev/ubda $TMPDIR/disk\n"
            f"PYTHONPATH={REPOSITORY}:{REPOSITORY}/src {sys.executable} -m tests.crash.power_guest {self.work} {' '.join(words)}\n"
        )
        command = [
            "linux.uml",
            "mem=384M",
            f"umid=cut{os.getpid()}",
            f"uml_dir={self.work}/uml/",
            f"ubd0={self.work}/disk",
        ]
        command += ["rootfstype=hostfs", "rootflags=/", "rw", "quiet", "loglevel=0", "con=null", "con0=fd:0,fd:1"]
        command += [f"init={REPOSITORY}/tests/uml/init", f"WHERRY_UML={self.work}"]
        machine = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        said: list[str] = []
        cut = False
        assert machine.stdout is not None
        watchdog = threading.Timer(BOOT_SECONDS, os.killpg, (machine.pid, signal.SIGKILL))  # its output ends then
        watchdog.start()
        try:
            for line in machine.stdout:
                said.append(line.decode(errors="replace").rstrip())
                if cut := HALTED in said[-1]:
                    break
        finally:
            watchdog.cancel()
            watchdog.join()
            os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()
            machine.stdout.close()
        if not cut and ((self.work / "status").read_text().strip() if (self.work / "status").exists() else "1") != "0":
            raise RuntimeError("the guest failed:\n" + "\n".join(said[-40:]))
        return cut


def main(cuts: int, names: list[str]) -> int:
    work = Path(tempfile.mkdtemp(prefix="wherry-cut.", dir="/var/tmp"))
    try:
        return _main(work, cuts, names)
    finally:
        shutil.rmtree(work)


def _main(work: Path, cuts: int, names: list[str]) -> int:
    machine = Machine(work)
    machine.run("measure", *names)
    notes = json.loads((work / "notes").read_bytes())
    tallies = {}
    for name in names:
        tally = tallies[name] = Tally(
            notes[name]["points"], wrong=[f"undisturbed: {one}" for one in notes[name]["problems"]]
        )
        last = ""
        chosen = sorted({1 + step * tally.points // cuts for step in range(cuts)})
        for point in [*chosen, None]:
            try:
                cut = machine.run("cut", name, str(point or 1 << 30))
            except RuntimeError as error:
                tally.wrong.append(f"point {point}: {error}")
                break
            verdict = work / "verdict"
            if verdict.exists():  # of the cut before this one
                found = json.loads(verdict.read_bytes())
                verdict.unlink()
                tally.states.append(found["state"])
                tally.wrong += [f"{last}: {one}" for one in found["wrong"]]
                print(f"{name}, cut at {last} of {tally.points}: {found['state']} {found['wrong'] or ''}", flush=True)
            tally.cuts += cut
            last = f"point {point}"
        if tally.cuts < len(chosen) * 4 // 5:  # the order of threads is not ours: some points are not reached
            tally.wrong.append(f"only {tally.cuts} of {len(chosen)} cuts")
    print(f"{'OPERATION':16}{'POINTS':>8}{'CUTS':>8}{'OLD':>8}{'NEW':>8}{'BETWEEN':>9}{'WRONG':>8}")
    for name, tally in tallies.items():
        states = [tally.states.count(state) for state in ("old", "new", "between")]
        print(f"{name:16}{tally.points:8}{tally.cuts:8}{states[0]:8}{states[1]:8}{states[2]:9}{len(tally.wrong):8}")
    wrong = [f"{name}, {one}" for name, tally in tallies.items() for one in tally.wrong]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, sys.argv[2:] or list(OPERATIONS)))
