# shellcheck shell=busybox
# Note what was unpacked: what is there later and not in this list, with its size and time, is a result.

list_workdir >/kbatch/lists/before 2>/dev/null
