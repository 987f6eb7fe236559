"""What native execution runs in a container's shell: nothing but builtins of a POSIX shell.

`RUN` starts a command and says on both outputs, behind a word that is new each time, when it ended and how: what comes
before is the whole output, which the daemon's own stream does not tell from a connection that broke. `KILL` finds a
command's tree as the agent does: by session, parents, and the marker in the environment.
"""

from __future__ import annotations

from aviato.engines.docker.stage import TOKEN_VARIABLE

MARKER = "AVIATO_EXEC_ID"

RUN = f"""\
_nonce=$1 _dir=$2
shift 2
unset {TOKEN_VARIABLE}
exec 3>&2 2>/dev/null
trap : HUP INT QUIT TERM USR1 USR2 ALRM
(
 exec 2>&3 3>&-
 read -r _pid _ </proc/self/stat
 cd "$_dir" 2>/dev/null || {{
  _state=13
  [ -d "$_dir" ] || _state=20
  [ -e "$_dir" ] || _state=2
  echo "$_nonce cwd $_state"
  exit 1
 }}
 _state=127 _found=
 case $1 in
 */*)
  [ ! -e "$1" ] || _state=126
  [ ! -f "$1" ] || [ ! -x "$1" ] || _found=$1
  ;;
 *)
  IFS=:
  set -f
  for _d in $PATH; do
   [ -f "${{_d:-.}}/$1" ] || continue
   _state=126
   [ -x "${{_d:-.}}/$1" ] || continue
   _found=${{_d:-.}}/$1
   break
  done
  unset IFS
  set +f
  ;;
 esac
 [ "$_found" ] || {{
  echo "$_nonce $_state"
  exit "$_state"
 }}
 case $1 in -*)
  shift
  set -- "$_found" "$@"
  ;;
 esac
 unset _nonce _dir _state _found _d OLDPWD
 echo "$0 $_pid $$"
 exec "$@"
)
_code=$?
echo "$_nonce $_code"
echo "$_nonce $_code" >&3
"""
"""Its arguments: the new word, the directory, the command. The first line is the word and two process ids, or a word
and why nothing was started; `$0` is the word again, since a variable of that name could be one of the command's."""

SIGNAL = 'kill -"$1" "$2" 2>/dev/null; echo "$? aviato"'

KILL = """\
sig=$1 top=$2 lead=$3 mark=$4
round=0 told=' '
marked() {
 while IFS= read -r x || [ "$x" ]; do
  case $x in *"$mark"*) return 0 ;; esac
 done <"$1/environ"
 return 1
}
tree() {
 found=' ' more=1 first=1
 while [ "$more" ]; do
  more=
  for d in /proc/[0-9]*; do
   p=${d#/proc/}
   case $found in *" $p "*) continue ;; esac
   [ "$p" != "$lead" ] && [ "$p" != $$ ] && read -r s <"$d/stat" || continue
   set -- ${s##*) }
   case $1 in [ZX]) continue ;; esac
   [ "$p" = "$top" ] || [ "$4" = "$lead" ] || case $found in *" $2 "*) ;; *) false ;; esac ||
    { [ "$first" ] && marked "$d"; } || continue
   found="$found$p " more=1
  done
  first=
 done
}
while [ "$round" -lt 8 ]; do
 round=$((round + 1)) fresh=
 tree
 for p in $found; do
  case $told in *" $p "*) continue ;; esac
  kill -"$sig" "$p"
  told="$told$p " fresh=1
 done
 [ "$sig" = 9 ] && [ "$fresh" ] || break
done 2>/dev/null
echo "0 aviato"
"""
"""Its arguments: signal, the command's process, its session's first one, and the marker. SIGKILL looks again and again
for what was forked meanwhile."""

MOVE = """\
f() {
 [ ! -d "$2" ] || { echo 'is a directory'; return 21; }
 mv -f "$1" "$2" 2>&1
}
f "$@"
echo "$? aviato"
"""

REMOVE = 'rm -f "$1" 2>/dev/null; echo "$? aviato"'

HAS_MOVE = 'command -v mv >/dev/null && command -v rm >/dev/null; echo "$? aviato"'
