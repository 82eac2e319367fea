"""The guest's script at work, with a record of what it had flushed when: what a power cut would have left.

`sync` and `skopeo` are the real programs. A wrapper of each writes when it begins and ends, and what the state files
say at that moment, into the log that takes the script's own lines too: the log's order is the order of things.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

from suites.harness.prestaged import Guest

EXTRACTED = re.compile(r"\[\d+/\d+\] extracted (\S+)")
WRAPPER = r"""#!PYTHON -IS
import json, os, shutil, subprocess, sys, time

log, state, cut = (os.environ[f"RECORDED_{name}"] for name in ("LOG", "STATE", "CUT"))
program, argv = os.path.basename(sys.argv[0]), sys.argv[1:]
kinds = {"-f": "store flush", state: "folder flush", f"{state}/begun": "begun flush", f"{state}/finished": "mark flush"}
if program == "skopeo":
    kind = next((verb for verb in ("copy", "delete") if verb in argv), "other")
else:
    kind = kinds.get(argv[0], "other")


def references(name):
    with open(f"{state}/{name}") as file:
        return [line.split()[0] for line in file if line.endswith(" .\n")]


def tell(moment, code=0):
    names = {name: references(name) if os.path.exists(f"{state}/{name}") else [] for name in ("begun", "finished")}
    event = {"event": f"{kind} {moment}", "of": argv[-1].partition(":")[2], "code": code, **names}
    with open(log, "a+") as file:
        file.write(json.dumps(event) + "\n")
        file.flush()
        file.seek(0)
        told = sum(f'"event": "{kind} {moment}"' in line for line in file)
    if cut == f"{kind} {moment} {told}":
        open(f"{log}.cut", "w").close()
        time.sleep(600)


tell("begins")
code = subprocess.run(["REAL", *argv]).returncode
for name, flushed in (("begun", "begun flush"), ("finished", "mark flush")):
    if kind in (flushed, "folder flush") and os.path.exists(f"{state}/{name}"):
        shutil.copy(f"{state}/{name}", f"{log}.{name}")
tell("ends", code)
sys.exit(code)
"""


class RecordedGuest(Guest):
    """A guest whose power may be cut at a recorded moment: `cut` is an event and which one of its kind it is."""

    def __init__(self, root):
        super().__init__(root)
        self.log = root / "log"
        (root / "bin").mkdir()
        for name in ("sync", "skopeo"):
            text = WRAPPER.replace("PYTHON", sys.executable).replace("REAL", shutil.which(name))
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)

    def start_recorded(self, folder, *options, cut="", **more):
        """The script at work; its lines and the record go into the log, which begins anew."""
        settings = {"LOG": self.log, "STATE": self.state, "CUT": cut}
        variables = [f"RECORDED_{name}={value}" for name, value in settings.items()]
        script = self.script(folder, *options, **more)
        command = self.command("env", f"PATH={self.root / 'bin'}:{os.environ['PATH']}", *variables, *script)
        self.log.write_text("")
        with self.log.open("a") as log:
            return subprocess.Popen(**command, stdout=log, stderr=log, start_new_session=True)

    def events(self):
        """What the log tells, in its order: events, and what the script said was extracted."""
        found = []
        for line in self.log.read_text().splitlines():
            if line.startswith("{"):
                found.append(json.loads(line))
            elif said := EXTRACTED.match(line):
                found.append({"event": "said", "of": said[1]})
        return found

    def extract_until_cut(self, folder, cut):
        """Run until that moment, and leave what a power cut then leaves in the worst case."""
        process = self.start_recorded(folder, cut=cut)
        frozen = self.log.with_name("log.cut")
        while not frozen.exists():
            assert process.poll() is None, f"it ended before {cut}:\n{self.log.read_text()}"
            time.sleep(0.01)
        frozen.unlink()
        process.kill()
        process.wait()
        self.kill_jobs()
        self._lose_what_was_not_flushed()

    def _lose_what_was_not_flushed(self):
        """State files as they were last flushed; files of images without a marker empty, every second record gone."""
        for name in ("begun", "finished"):
            (self.state / name).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"{self.log}.{name}", self.state / name)
        marks = self.state / "finished"
        vouched = [line.split()[0] for line in marks.read_text().splitlines()] if marks.exists() else []
        named = [image["names"] for image in self.images() if image.get("names")]
        lost = [names for names in named if not set(vouched) & set(names)]
        for names in lost[::2]:
            self.forget_image(names[0])
        self.empty_layers_without(*vouched)


def violations(events):
    """What of a first run's record would not have survived a power cut at some moment, in words."""
    wrong = []
    noted, copied, flushed, marked = set(), set(), set(), set()
    flushing = {}  # what the flush under way covers, by its kind
    for event in events:
        kind, _, moment = event["event"].rpartition(" ")
        of = event["of"]
        wrong += [f"{mark} is marked before it is flushed" for mark in set(event.get("finished", ())) - flushed]
        if event["event"] == "said" and of not in marked:
            wrong.append(f"{of} is said to be extracted before its marker is flushed")
        elif event["event"] == "copy begins" and of not in noted:
            wrong.append(f"{of} is copied before it is noted as begun")
        elif event["event"] == "copy ends" and event["code"] == 0:
            copied.add(of)
        elif moment == "begins":
            covers = {"store flush": copied, "begun flush": event["begun"], "mark flush": event["finished"]}
            flushing[kind] = set(covers.get(kind, ()))
        elif moment == "ends" and event["code"] == 0:
            whole = {"store flush": flushed, "begun flush": noted, "mark flush": marked}.get(kind, set())
            whole |= flushing[kind]
    return wrong
