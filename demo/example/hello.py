"""A small job: it says what it was given, works for a moment, leaves a result, and reports."""

import os
import sys
import time

print(f"Hello from {os.environ['KBATCH_JOB_ID']}, run for {os.environ['JUPYTERHUB_USER']}", flush=True)
print(f"My code is in {os.getcwd()}: {sorted(os.listdir())}", flush=True)
with open(os.path.expanduser("~/notes.txt")) as file:
    print(f"A note in my home: {file.read().strip()}", flush=True)
total = 0
for step in range(1, 6):
    total += sum(n * n for n in range(step * 10_000))
    print(f"step {step} of 5: the sum so far is {total}", flush=True)
    time.sleep(0.3)
with open(os.path.join(os.environ["KBATCH_OUTPUT_DIR"], "sums.csv"), "w") as file:
    file.write(f"steps,sum\n5,{total}\n")
print(f"{os.environ.get('GREETING', 'Goodbye')}, with Python {sys.version.split()[0]}")
