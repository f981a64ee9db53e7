#!/bin/sh
# Ray 2.60.0: a driver that asked for no logs still prints what the cluster reports on its standard output.
# Expected: with ray.init(log_to_driver=False, logging_level=ERROR) a program's stdout is its own, or reports go to
#   stderr; so that a command which prints JSON stays readable by machines when a worker is lost and replaced.
# Seen: when an actor's process is lost and Ray restarts it, and all goes well, a report of several lines stands on
#   stdout before the program's own.
# Way round: redirect stdout to stderr (contextlib.redirect_stdout) while Ray works, and print results afterwards.
# Exits 0 while this is so, 1 once it changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0
cat > "$folder/driver.py" <<'PYTHON'
import logging
import os
import time

import ray

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


@ray.remote(max_restarts=1, max_task_retries=1)
class Worker:
    def identify(self) -> int:
        return os.getpid()


worker = Worker.remote()
first = ray.get(worker.identify.remote())
os.kill(first, 9)
second = ray.get(worker.identify.remote())
time.sleep(5)
assert first != second
ray.shutdown()
print('{"restarted": true}')
PYTHON
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" "$folder/driver.py" > "$folder/stdout" 2> "$folder/stderr"
lines=$(grep -cv restarted "$folder/stdout" || true)
echo "stdout holds $lines lines besides the program's own:"
head -c 400 "$folder/stdout"
[ "$lines" -gt 0 ]
