# shellcheck shell=sh
# Run a command, with another home where HOME is not writable. What HOME is only the container can say: it comes
# from the image, from the user's entry in the image's list of accounts, or is "/".
[ -w "$HOME" ] || export HOME=/kbatch-home
# A command that does not exist is said apart: the exit code alone may be that of a command within it.
case "$1" in
  */*) [ -e "$1" ] ;;
  *) command -v -- "$1" >/dev/null 2>&1 ;;
esac || {
  echo "kbatch: the command was not found" >/dev/termination-log
  exit 127
}
exec "$@"
