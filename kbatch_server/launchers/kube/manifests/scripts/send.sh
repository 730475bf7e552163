# shellcheck shell=busybox disable=SC2016  # programs of awk, and scripts for another shell, are texts here
# Wait for the command's end (then TERM comes), pack what it wrote, send it. The URL is a secret: nothing
# prints it. Not `wget --post-file`, which sends up to the first NUL. Our half of the connection stays open
# until the answer came: closed, it looks like a client that has gone.
export root=/kbatch log=/dev/termination-log
newline='
'

list_outputs() {
  find outputs \( -type f -o -type l \) ! -path '*
*' -exec stat -c '%f %s %n' {} + | mark_links
}
# Print the path below workdir that a link leads to, if there is one. In the job, the folders have other names.
find_target() {
  at=$1 hops=0
  while [ -L "$at" ]; do
    hops=$((hops + 1))
    [ $hops -le 40 ] || return
    to=$(readlink "$at")
    case $to in
      /code/*) at=workdir/${to#/code/} ;;
      /kbatch-outputs/*) at=outputs/${to#/kbatch-outputs/} ;;
      /*) return ;;
      *) at=${at%/*}/$to ;;
    esac
  done
  at=$(readlink -f "$at")
  at=${at#"$root"/}
  case $at/ in
    *"$newline"* | */.?*/* | */__pycache__/* | */node_modules/*) ;;
    workdir/?*) printf '%s\n' "$at" ;;
  esac
}
# Results include the files that new links lead to. The unchanged ones are not in lists/changed: make a link to each
# below lists/linked, which the job cannot write to, and print "SIZE FOLDER/PATH". Of entries with the same path, the
# first by FOLDER counts: linked (a link in outputs), outputs, target (a link in workdir), workdir.
list_linked() {
  { cat lists/changed; list_outputs; } | sed -n 's/^l //p' | head -n 1000 | while IFS= read -r link; do
    target=$(find_target "$link")
    [ -z "$target" ] || find "$target" -name '.?*' -prune -o -name __pycache__ -prune -o \
      -name node_modules -prune -o -type f ! -path '*
*' -exec stat -c '%s %n' {} + | link=$link target=$target awk '{
      path = substr($0, length($1) + 2)
      print $1 " " ENVIRON["link"] substr(path, length(ENVIRON["target"]) + 1)
      print path
    }'
  done | awk '
    FILENAME == ARGV[1] { sub(/^[^ ]* /, ""); changed[$0]; next }
    FNR % 2 { shown = $0; next }
    !($0 in changed) && files++ < 1000 { print shown; print }
  ' lists/changed - | while IFS= read -r shown && IFS= read -r target; do
    at=${shown#* }
    mkdir -p "lists/linked/${at%/*}" && ln -sf "$root/$target" "lists/linked/$at" && printf '%s\n' "$shown"
  done | sed 's,^\([0-9]* \)outputs/,\1linked/,; s,^\([0-9]* \)workdir/,\1target/,'
}
# Say in lists/chosen what is sent beside all of outputs ($whole), or in its place where that is too much:
# then the first that fit, by path. Of two files of one path that of outputs counts.
choose() {
  cd "$root" || return
  : >lists/changed
  if [ -d workdir ]; then
    [ -e lists/before ] || : >lists/before
    (cd workdir && list_workdir) | awk '
      FILENAME == ARGV[1] { before[$0]; next }
      !($0 in before) { size = $1; sub(/^[^ ]+ [^ ]+ [^ ]+ [^ ]+ \.\//, ""); print size " workdir/" $0 }
    ' lists/before - >lists/changed
    list_linked >lists/targets
    cat lists/targets >>lists/changed
  fi
  sum='{ files += $1 != "l"; bytes += $1 } END { printf "%.0f %.0f\n", files, bytes }'
  all=$({ list_outputs; cat lists/changed; } | awk "$sum")
  entries=$({ find outputs; cat lists/changed; } | wc -l)
  export whole=outputs
  sed 's/^[0-9l]* //' lists/changed >lists/chosen
  [ "$entries" -le "$KBATCH_MAX_FILES" ] && [ "${all#* }" -le "$KBATCH_MAX_BYTES" ] && return
  whole=
  : >lists/named
  { list_outputs; cat lists/changed; } | head -n $((10 * KBATCH_MAX_FILES + 100)) | awk '{
    path = substr($0, length($1) + 2)
    at = index(path, "/")
    print substr(path, at + 1) "\001" substr(path, 1, at - 1) "\001" $1
  }' | sort | awk -v all="$all" -v max_files="$KBATCH_MAX_FILES" -v max_bytes="$KBATCH_MAX_BYTES" '
    BEGIN { FS = "\001"; split(all, left, " "); room = 250000 }
    {
      size = $NF; folder = $(NF - 1)
      path = substr($0, 1, length($0) - length(size) - length(folder) - 2)
      if (NR > 1 && path == last) { left[1] -= size != "l"; left[2] -= size; next }
      last = path
      if (size == "l") { print folder "/" path; next }
      if (files < max_files && bytes + size <= max_bytes) {
        files++; bytes += size
        print folder "/" path
      } else if (named < 1000 && room > 0) {
        named++; room -= length(path) + 24
        print size " " path >"lists/named"
      }
    }
    END { printf "%.0f %.0f\n", left[1] - files, left[2] - bytes >"lists/omitted" }
  ' >lists/chosen
  cat lists/named >>lists/omitted
}
export pack='
cd "$root"
[ -z "$whole" ] || tar c outputs
sed "/^linked\//d; /^target\//d" lists/chosen | tr "\n" "\0" | xargs -0 -r tar c --
[ ! -d lists/linked ] || (
  cd lists/linked
  sed -n "s/^linked/outputs/p; s/^target/workdir/p" ../chosen | tr "\n" "\0" | xargs -0 -r tar c -h --
)
[ ! -s lists/omitted ] || tar c lists/omitted
'
export exchange='
request() {
  printf "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-tar\r\n" "$path" "$host"
  printf "Content-Length: %s\r\nX-Kbatch-Pod: %s\r\n" "$size" "$HOSTNAME"
  printf "X-Kbatch-Unreadable: %s\r\nX-Kbatch-Folders: %s\r\n" "$unreadable" "$KBATCH_FOLDERS"
  [ "$scheme" = https ] || printf "Expect: 100-continue\r\n"
  printf "Connection: close\r\n\r\n"
}
answer() {
  while read -r -t 300 version code rest; do
    case $version$code in HTTP/*100) ;; HTTP/*) echo "$code" >"$log"; exit;; esac
  done
}
if [ "$scheme" = https ]; then
  exec 9<&0
  { request; eval "$pack"; } 2>/dev/null | ssl_client -s 9 $sni 2>/dev/null | answer
  exit
fi
request
read -r -t 10 version code rest
case $code in 100) read -r blank;; ?*) echo "$code" >"$log"; exit;; esac
(eval "$pack") 2>/dev/null
answer
'
# If outputs is a folder of the user's home, what is new or changed in workdir belongs there, too. It is copied after it
# was sent, as it would be sent twice.
copy_home() {
  [ -n "$KBATCH_TO_HOME" ] || return
  sed -n 's,^workdir/,,p' "$root/lists/chosen" | while IFS= read -r file; do
    [ -e "$root/outputs/$file" ] || [ -L "$root/outputs/$file" ] || printf '%s\0' "$file"
  done | (cd "$root/workdir" && xargs -0 -r tar c --) 2>/dev/null | tar x -o -C "$root/outputs" 2>/dev/null
}
send() {
  export scheme=${KBATCH_OUTPUTS_URL%%://*} path=/ sni=
  rest=${KBATCH_OUTPUTS_URL#*://}
  export host=${rest%%/*}
  path=/${rest#*/}
  port=80; [ "$scheme" = https ] && port=443
  name=$host
  case $host in
    \[*\]) ;;
    *:*) name=${host%:*} port=${host##*:};;
  esac
  name=${name#\[} name=${name%\]}
  case $name in *[!0-9.:a-f]*) sni="-n $name";; esac
  choose 2>/dev/null
  # how many bytes the tar has, and how many complaints about what may not be read
  eval "$({ { (eval "$pack") 2>&1 >&3 | sed -n '$=' | sed 's/^/unreadable=/' >&4; } 3>&1 |
    wc -c | sed 's/^/size=/'; } 4>&1)"
  export size unreadable=${unreadable:-0}
  pause=1
  while :; do
    : >"$log"
    timeout $((60 + size / 1000000)) nc -w 10 "$name" "$port" -e sh -c "$exchange" 2>/dev/null
    read -r code <"$log"
    case $code in
      2??) copy_home; : >"$log"; exit 0;;
      408|429|5??) why="the service answered $code";;
      ???) echo "the service answered $code" >"$log"; exit 1;;
      *) why='the service could not be reached, or did not answer';;
    esac
    echo "$why" >"$log"
    sleep $pause
    [ $pause -lt 16 ] && pause=$((pause * 2))
  done
}
trap send TERM
while :; do sleep 3600 & wait $!; done
