# shellcheck shell=sh
# Run a command, with another home where HOME is not writable. What HOME is only the container can say: it comes
# from the image, from the user's entry in the image's list of accounts, or is "/".
[ -w "$HOME" ] || {
  export HOME=/kbatch-home
  # Programs look at these before HOME. The image made their folders for the user that it knows.
  unset_unwritable() {
    [ -d "$2" ] || mkdir -p -- "$2" 2>/dev/null
    [ -w "$2" ] || unset "$1"
  }
  unset_unwritable XDG_CACHE_HOME "$XDG_CACHE_HOME"
  unset_unwritable XDG_CONFIG_HOME "$XDG_CONFIG_HOME"
  unset_unwritable XDG_DATA_HOME "$XDG_DATA_HOME"
  unset_unwritable XDG_STATE_HOME "$XDG_STATE_HOME"
}
# A command that does not exist is said apart: the exit code alone may be that of a command within it.
case "$1" in
  */*) [ -e "$1" ] ;;
  *) command -v -- "$1" >/dev/null 2>&1 ;;
esac || {
  echo "kbatch: the command was not found" >/dev/termination-log
  exit 127
}
exec "$@"
