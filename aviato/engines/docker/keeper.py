"""The first process of a container whose image has no Python: a shell that keeps it alive and holds its time limits.

It starts the main command if there is one, ends with it, and ends everything at SIGTERM, or when the lifetime, the idle
time or the time without a client is over; then it says why, as the agent does (see `logs.last_words`). It asks nothing
of the image but a POSIX shell and `sleep`. Clients speak to it by lines on its standard input, behind the token that
only it knows; as long as one of them lives, it says so from time to time.
"""

from __future__ import annotations

from aviato.engines.base import SandboxSpec
from aviato.engines.docker.stage import TOKEN_VARIABLE

LEAST_ORPHAN_SECONDS = 2.0
"""The shortest time without a client: a busy daemon may hold a sign of life up for as long."""
LEAST_IDLE_SECONDS = 1.0
_SHORT = 2000
NO_SLEEP = "the image has no sleep"

KEEP = f"""\
_token=${TOKEN_VARIABLE} _life=$1 _idle=$2 _orphan=$3 _pace=$4
shift 4
unset {TOKEN_VARIABLE}
exec 3>&2
_reason=0 _code=-1 _main= _tick= _turn=0
_now() {{
 until read -r _t _ </proc/uptime; do :; done
 _f=${{_t#*.}} _t=${{_t%.*}}
 case $_f in ??) ;; *) _f=00 ;; esac
 _now=$((_t * 100 + ${{_f#0}}))
}}
gone() {{
 until [ ! -r "/proc/$1/stat" ] || read -r _s <"/proc/$1/stat"; do :; done 2>/dev/null
 [ -r "/proc/$1/stat" ] || return 0
 case ${{_s##*) }} in [ZX]*) return 0 ;; esac
 return 1
}}
child_ended() {{
 trap - CHLD
 trap '' USR1
 main_over
 trap : USR1
 trap child_ended CHLD
}}
main_over() {{
 [ "$_main" ] && gone "$_main" || return 0
 trap '' TERM USR1
 trap - CHLD
 _ended=$_main _main=
 reap "$_ended"
 finish 1
}}
reap() {{
 wait "$1" 2>/dev/null
 _code=$?
 for _n in 1 2 3 4 5 6 7 8; do
  [ "$_code" = 145 ] || break
  wait "$1" 2>/dev/null
  _turn=$?
  [ "$_turn" = 127 ] || _code=$_turn
 done
}}
finish() {{
 trap '' TERM USR1
 trap - CHLD
 [ "$_reason" -gt 0 ] || _reason=$1
 kill -KILL -1 2>/dev/null
 [ -z "$_main" ] || reap "$_main"
 echo "$_token $_reason $_code" >&3
 [ "$_code" -ge 0 ] || _code=0
 exec "$0" -c "exit $_code" 3>&-
 exit "$_code"
}}
alone() {{
 for _p in /proc/[0-9]*; do
  [ "$_p" = /proc/1 ] || gone "${{_p#/proc/}}" || return 1
 done
}}
stop() {{
 trap '' USR1
 trap - CHLD
 [ "$_reason" = 0 ] || finish 2
 _reason=$1
 trap 'finish 2' TERM
 [ -z "$_tick" ] || kill -KILL "$_tick" 2>/dev/null
 kill -TERM -1 2>/dev/null
 until alone; do
  _now
  [ -z "$2" ] || [ "$_now" -lt "$2" ] || break
  sleep 0.02 2>/dev/null || sleep 1
 done
 finish "$1"
}}
limits() {{
 main_over
 _now
 [ "$_now" -lt "$_end" ] || stop 4 $((_now + 100))
 [ "$_idle" = 0 ] || [ "$_now" -lt "$_rest" ] || stop 3 $((_now + 100))
 [ "$_orphan" = 0 ] || [ "$_now" -lt "$_lone" ] || stop 5 $((_now + 100))
 [ -z "$_tick" ] || ! gone "$_tick" || stop 4 $((_now + 100))
 _turn=$((_turn + 1))
 if [ "$_turn" -ge 5 ]; then
  _turn=0
  : &
  wait $!
 fi
}}
heard() {{
 case $1 in
 "$_token "*) set -- ${{1#* }} ;;
 *) return ;;
 esac
 _now
 _lone=$((_now + _orphan))
 case $1 in
 busy) _rest=$((_now + _idle)) ;;
 extend) _end=$((_end + $2)) ;;
 esac
}}
command -v sleep >/dev/null || {{
 echo 'aviato: {NO_SLEEP}' >&2
 exit 71
}}
_now
_end=$((_now + _life)) _rest=$((_now + _idle)) _lone=$((_now + _orphan))
trap 'stop 2' TERM
if [ "${{BASH_VERSION:-}}" ]; then _pace=0.3; else trap child_ended CHLD; fi
trap : USR1
if [ $# -gt 0 ]; then
 "$@" </dev/null 3>&- &
 _main=$!
fi
if ! (read -r -t 1 _x </dev/null || [ $? -lt 2 ]) 2>/dev/null; then
 (
  trap - TERM
  while sleep "$_pace"; do kill -USR1 1; done
 ) </dev/null >/dev/null 2>&1 3>&- &
 _tick=$!
fi
while :; do
 _now
 _began=$_now
 if [ "$_tick" ]; then read -r _line; else read -r -t "$_pace" _line; fi
 if [ $? = 0 ]; then heard "$_line"; else
  _now
  [ "$_now" -gt "$((_began + 5))" ] || sleep 0.1 2>/dev/null || sleep 1
 fi
 limits
done
"""
"""Where the shell's `read` has no time limit, a child of it wakes it up from time to time, and it ends with that.

A trap may run between any two commands, and what it interrupts is not to be believed: `read` is tried again, and who
waits for the main command lets no trap do so too. That wait itself may be told of SIGCHLD (145), more than once, and is
repeated then; a shell that has forgotten the command by now says 127.
Of a trap that interrupts another one, dash and BusyBox leave behind not the status of the command it came after but the
one from before the outer trap. So a trap that looks at a status first sees to it that none can follow, and SIGUSR1 does
nothing but end a `read`. One that ends at once, at signals without end or at the end of its input, is slowed down.
The last words have a descriptor of their own: a trap runs in the middle of whatever is redirected at that moment.
A bash that is called sh may lose a command's code when its wait is told of SIGCHLD, so there it looks by itself.
`$0` is the shell, which becomes another one to exit: one that exits in a trap gives another code, if it is bash."""


def arguments(spec: SandboxSpec, config: dict[str, int]) -> list[str]:
    """Return the script's arguments: limits in hundredths of a second, 0 for none, its pace, and the main command."""
    orphan = config["orphan_ms"] and max(config["orphan_ms"], LEAST_ORPHAN_SECONDS * 1000)
    idle = config["idle_ms"] and max(config["idle_ms"], LEAST_IDLE_SECONDS * 1000)
    limits = [round(item / 10) for item in (config["lifetime_ms"], idle, orphan)]
    shortest = min(item for item in limits if item)
    return [*map(str, limits), "1" if shortest < _SHORT else "5", *(spec.command or ())]
