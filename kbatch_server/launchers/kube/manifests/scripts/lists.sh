# shellcheck shell=busybox
# Hidden files, and what Python and npm keep, are no results. A name with a line break is in no list. A link
# has "l" for its size: where it leads decides whether it is a result, so it takes no place of a file's.
mark_links() {
  sed 's/^a... [0-9]* /l /; t; s/^[^ ]* //'
}
list_workdir() {
  find . -name '.?*' -prune -o -name __pycache__ -prune -o -name node_modules -prune -o \
    \( -type f -o -type l \) ! -path '*
*' -exec stat -c '%f %s %y %n' {} + | mark_links
}
