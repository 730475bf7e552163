"""The script that fetches a job's code, checks it and unpacks it. Pure."""

from __future__ import annotations

from .sidecar import CODE_DIR

FETCH_EXIT_CODE, CHECKSUM_EXIT_CODE, UNZIP_EXIT_CODE, FOLDER_EXIT_CODE = 81, 82, 83, 84

FETCH_SECONDS = 900
"""Limit of one try to fetch the code."""

FETCH_SCRIPT = rf"""
# Fetch the ZIP, check it, unpack it. The URL is a secret: nothing that could hold it is ever printed.
# Not `wget -T`: busybox 1.35 of Debian 12 crashes on it.
fail() {{ printf '%s\n' "$2" | tee /dev/termination-log; exit "$1"; }}
cd {CODE_DIR} || fail {FETCH_EXIT_CODE} 'there is no folder {CODE_DIR}'
# what an earlier try left, which was broken off: unzip writes over no link
rm -rf ./* ./.[!.]* ./..?*
for pause in 1 2 4 8 0; do
  error=$(timeout {FETCH_SECONDS} wget -q -O .kbatch-code.zip "$KBATCH_CODE_URL" 2>&1) && break
  ended=$?
  answer=$(printf %s "$error" | sed -n 's/.*HTTP\/[0-9.]* //p')
  case $ended:$error in
    124:*|143:*) why='it took longer than {FETCH_SECONDS} seconds'; pause=0;;
    *HTTP/*) why="the service answered $answer";;
    *'No space'*) why='the disk of the node is full'; pause=0;;
    *efused*) why='the service refused the connection';;
    *'bad address'*) why='the host name of the service cannot be resolved';;
    *'timed out'*) why='the service did not respond in time';;
    *) why='the service could not be reached';;
  esac
  case $answer in 4??*) pause=0;; esac
  [ $pause = 0 ] && fail {FETCH_EXIT_CODE} "$why"
  sleep $pause
done
printf '%s  .kbatch-code.zip\n' "$KBATCH_CODE_SHA256" | sha256sum -c >/dev/null 2>&1 ||
  fail {CHECKSUM_EXIT_CODE} 'the SHA-256 of the ZIP differs from that of the upload'
unzip -q -o .kbatch-code.zip >/dev/null 2>&1 || fail {UNZIP_EXIT_CODE} 'the ZIP could not be unpacked'
rm -f .kbatch-code.zip
[ -d "./$KBATCH_WORKING_DIR" ] ||
  fail {FOLDER_EXIT_CODE} "the ZIP has no folder '$KBATCH_WORKING_DIR', which working_dir names"
# the job may run as another user than this container
chmod -R a+rwX . 2>/dev/null || true
""".lstrip()
"""For busybox; any image with sh, wget, timeout, sha256sum, unzip, sed and tee will do."""
