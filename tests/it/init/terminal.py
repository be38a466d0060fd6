"""Runs a command on a pseudo-terminal: for each pair of the JSON on standard input it waits for the
first text and types the second. Prints what the terminal showed, and ends as the command does."""

import json
import os
import pty
import select
import sys
import time

dialogue = json.load(sys.stdin)
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])

shown, seen = "", 0
deadline = time.monotonic() + 60


def read():
    global shown
    if time.monotonic() > deadline:
        sys.exit(f"nothing more came after 60 s:\n{shown}")
    if not select.select([terminal], [], [], 0.2)[0]:
        return True
    try:
        data = os.read(terminal, 65536)
    except OSError:  # the command has ended
        return False
    shown += data.decode(errors="replace")
    return bool(data)


for waited, typed in dialogue:
    while waited not in " ".join(shown[seen:].split()):
        if not read():
            sys.exit(f"it ended before it said {waited!r}:\n{shown}")
    seen = len(shown)
    os.write(terminal, typed.encode())
while read():
    pass
print(shown.replace("\r\n", "\n"))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
