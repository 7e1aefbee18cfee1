"""What is promised about runs and their files, counted: each promise is broken on purpose as often as it takes.

    python benchmarks/reliability.py [--kills 200] [--steps 40] [--signals 50] [--only kills,hostile]

kills      processes that save in a loop get SIGKILL at random moments: files unreadable, saves lost; and, beside it,
           the same with torch.save in place
hostile    files with code in every disguise, and headers and configs made to do harm: what ran, what was accepted
flips      each bit of a small file is flipped in turn: what was accepted
resume     a run (batch norm, dropout, AdamW, augmentation, shuffling) is stopped at each of its steps and taken up:
           how many ended bit for bit as the unbroken run
signals    SIGTERM and SIGINT at random moments of a run: exit status, and the same end after taking it up
processes  two processes (Gloo) that share each batch against one that has it whole

The same functions as in the test suite, with the full counts: about five minutes on two cores. Writes
data/results/reliability.json where all parts ran with the full counts, and ends with 1 where a promise was broken.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results" / "reliability.json"
TESTS = ROOT / "tests"
FULL = {"kills": 200, "steps": 40, "signals": 50}
PARTS = {  # name: (program and its arguments before the folder, the option that counts and its amount)
    "kills": (["kills.py"], ("--kills", "kills")),
    "kills in place": (["kills.py", "--in-place"], ("--kills", "kills")),
    "hostile": (["hostile.py"], None),
    "flips": (["hostile.py", "--flips"], None),
    "resume": (["resumes.py", "steps"], ("--count", "steps")),
    "signals": (["resumes.py", "signals"], ("--count", "signals")),
    "processes": (["resumes.py", "processes"], None),
}
CLOSE = 1e-5  # two processes against one: sums are added in another order


def counted(part: str, counts: dict[str, int]) -> dict:
    """What the part's program prints, in a folder of its own."""
    (program, *arguments), option = PARTS[part]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(TESTS / program), *arguments, folder]
        command += [option[0], str(counts[option[1]])] if option else []
        seen = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(seen.stdout)
    if part == "hostile":
        slowest = max(row["seconds"] for row in found)
        found = {"files": len(found), "ran": sum(row["ran"] for row in found),
                 "accepted": sum(row["said"] is None for row in found), "slowest seconds": round(slowest, 1)}
    return found


def kept(part: str, found: dict) -> bool:
    """Whether the promise was kept; for what is there to compare with: whether it shows what can go wrong."""
    if part == "kills":
        return found["during"] > 0 and not (found["unreadable"] or found["lost"] or found["left over"])
    if part == "kills in place":
        return found["unreadable"] > 0
    if part in ("hostile", "flips"):
        return found["accepted"] == 0 and not found.get("ran")
    if part == "resume":
        return found["exact"] == found["stops"] > 0
    if part == "signals":
        return found["exact"] == found["status"] == found["signals"] > 0
    return found["counts"] and max(found["loss"], found["weights"]) < CLOSE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, count in FULL.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    given = parser.parse_args()
    counts, parts = {name: getattr(given, name) for name in FULL}, given.only.split(",")
    results = {
        "date": datetime.date.today().isoformat(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "safetensors", "numpy")},
        "parts": {},
    }
    for part in parts:
        print(f"{part} ...", flush=True)
        start = time.perf_counter()
        found = counted(part, counts)
        results["parts"][part] = found | {"kept": kept(part, found), "seconds": round(time.perf_counter() - start)}
        print(f"    {results['parts'][part]}", flush=True)
    if parts == list(PARTS) and counts == FULL:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    broken = [part for part, found in results["parts"].items() if not found["kept"]]
    sys.exit(f"NOT kept: {', '.join(broken)}" if broken else None)


if __name__ == "__main__":
    main()
