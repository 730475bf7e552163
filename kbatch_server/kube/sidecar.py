"""Make the container beside a job's own that sends what the job wrote, once its command has ended. Pure.

A native sidecar: https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Manifest = dict[str, Any]

KEEP_CONTAINER = "keep-outputs"
CODE_DIR = "/code"
CODE_VOLUME = "kbatch-code"
OUTPUT_DIR = "/kbatch-outputs"
OUTPUT_VOLUME = "kbatch-outputs"
OUTPUT_VARIABLE = "KBATCH_OUTPUT_DIR"
OUTPUTS_URL_KEY = "outputs-url"

MAX_SAID_LENGTH = 200
"""Characters of the sidecar's last word that are passed on."""

SEND_SCRIPT = rf"""
# Wait for the command's end (then TERM comes), pack what it wrote, send it. The URL is a secret: nothing
# prints it. Not `wget --post-file`, which sends up to the first NUL. Our half of the connection stays open
# until the answer came: closed, it looks like a client that has gone.
export dir={OUTPUT_DIR} log=/dev/termination-log
export exchange='
request() {{
  printf "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-tar\r\n" "$path" "$host"
  printf "Content-Length: %s\r\nX-Kbatch-Pod: %s\r\n" "$size" "$HOSTNAME"
  printf "X-Kbatch-Unreadable: %s\r\n" "$unreadable"
  [ "$scheme" = https ] || printf "Expect: 100-continue\r\n"
  printf "Connection: close\r\n\r\n"
}}
answer() {{
  while read -r -t 300 version code rest; do
    case $version$code in HTTP/*100) ;; HTTP/*) echo "$code" >"$log"; exit;; esac
  done
}}
if [ "$scheme" = https ]; then
  exec 9<&0
  {{ request; tar c -C "$dir" .; }} 2>/dev/null | ssl_client -s 9 $sni 2>/dev/null | answer
  exit
fi
request
read -r -t 10 version code rest
case $code in 100) read -r blank;; ?*) echo "$code" >"$log"; exit;; esac
tar c -C "$dir" . 2>/dev/null
answer
'
send() {{
  export scheme=${{KBATCH_OUTPUTS_URL%%://*}} path=/ sni=
  rest=${{KBATCH_OUTPUTS_URL#*://}}
  export host=${{rest%%/*}}
  path=/${{rest#*/}}
  port=80; [ "$scheme" = https ] && port=443
  name=$host
  case $host in
    \[*\]) ;;
    *:*) name=${{host%:*}} port=${{host##*:}};;
  esac
  name=${{name#\[}} name=${{name%\]}}
  case $name in *[!0-9.:a-f]*) sni="-n $name";; esac
  # how many bytes the tar has, and how many complaints about what may not be read
  eval "$({{ {{ tar c -C "$dir" . 2>&1 >&3 | sed -n '$=' | sed 's/^/unreadable=/' >&4; }} 3>&1 |
    wc -c | sed 's/^/size=/'; }} 4>&1)"
  export size unreadable=${{unreadable:-0}}
  pause=1
  while :; do
    : >"$log"
    timeout $((60 + size / 1000000)) nc -w 10 "$name" "$port" -e sh -c "$exchange" 2>/dev/null
    read -r code <"$log"
    case $code in
      2??) : >"$log"; exit 0;;
      408|429|5??) why="the service answered $code";;
      ???) echo "the service answered $code" >"$log"; exit 1;;
      *) why='the service could not be reached, or did not answer';;
    esac
    echo "$why" >"$log"
    sleep $pause
    [ $pause -lt 16 ] && pause=$((pause * 2))
  done
}}
trap send TERM
while :; do sleep 3600 & wait $!; done
""".lstrip()
"""For busybox; any image with sh, nc (with -e), tar, timeout, sed, wc and, for https, ssl_client will do."""


def make_sidecar(*, image: str, url: Manifest, resources: Manifest, security_context: Manifest) -> Manifest:
    """Return the container; ``url`` is the variable ``KBATCH_OUTPUTS_URL``, which comes from the Secret."""
    return {
        "name": KEEP_CONTAINER,
        "image": image,
        "restartPolicy": "Always",
        "command": ["sh", "-c", SEND_SCRIPT],
        "env": [url],
        "resources": resources,
        "securityContext": security_context,
        "volumeMounts": [{"name": OUTPUT_VOLUME, "mountPath": OUTPUT_DIR, "readOnly": True}],
    }


def explain_unsent(pods: Sequence[Manifest]) -> str:
    """Return why nothing was sent, from what the newest pod's sidecar said last; ``pods`` oldest first."""
    said = ""
    for pod in pods:
        for each in pod["status"].get("initContainerStatuses") or []:
            if each["name"] == KEEP_CONTAINER:
                said = ((each.get("state") or {}).get("terminated") or {}).get("message") or ""
    why = " ".join(said.split())[:MAX_SAID_LENGTH]
    return f"They were not sent before its pod ended{': ' if why else ''}{why}."
