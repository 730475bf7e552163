# shellcheck shell=busybox
# Fetch the ZIP, check it, unpack it. The URL is a secret: nothing that could hold it is ever printed.
# Not `wget -T`: busybox 1.35 of Debian 12 crashes on it.
fail() { printf '%s\n' "$2" | tee /dev/termination-log; exit "$1"; }
cd /code || fail 81 'there is no folder /code'
# what an earlier try left, which was broken off: unzip writes over no link
rm -rf ./* ./.[!.]* ./..?*
left=5 pause=1 last=$(($(date +%s) + 900))
while :; do
  error=$(timeout 900 wget -q -O .kbatch-code.zip "$KBATCH_CODE_URL" 2>&1) && break
  ended=$?
  answer=$(printf %s "$error" | sed -n 's/.*HTTP\/[0-9.]* //p')
  case $ended:$error in
    124:*|143:*) why='it took longer than 900 seconds'; left=1;;
    *HTTP/*) why="the service answered $answer";;
    *'No space'*) why='the disk of the node is full'; left=1;;
    *efused*) why='the service refused the connection';;
    *'bad address'*) why='the host name of the service cannot be resolved';;
    *'timed out'*) why='the service did not respond in time';;
    *) why='the service could not be reached';;
  esac
  case $answer in
    # it has to wait, for example while many other jobs of its user fetch their code
    408*|429*|503*) [ "$(date +%s)" -lt $last ] || left=0;;
    4??*) left=0;;
    *) left=$((left - 1));;
  esac
  [ $left = 0 ] && fail 81 "$why"
  sleep $pause
  [ $pause -lt 16 ] && pause=$((pause * 2))
done
printf '%s  .kbatch-code.zip\n' "$KBATCH_CODE_SHA256" | sha256sum -c >/dev/null 2>&1 ||
  fail 82 'the SHA-256 of the ZIP differs from that of the upload'
unzip -q -o .kbatch-code.zip >/dev/null 2>&1 || fail 83 'the ZIP could not be unpacked'
rm -f .kbatch-code.zip
[ -d "./$KBATCH_WORKING_DIR" ] ||
  fail 84 "the ZIP has no folder '$KBATCH_WORKING_DIR' (working_dir)"
# the job may run as another user than this container
chmod -R a+rwX . 2>/dev/null || true
