#!/usr/bin/env bats
# blix-shim: one program, its record, its log, its end; and every way in which it can go wrong.
# $BLIX_BUILD holds the programs under test.

bats_require_minimum_version 1.5.0

setup() {
	load ../until.bash
	BUILD=$(realpath "${BLIX_BUILD:-$BATS_TEST_DIRNAME/../../build/debug}")
	PATH=$BUILD/bin:$BUILD/libexec:$BATS_TEST_DIRNAME:$PATH
	T=$(mktemp -d)
	cd "$T" || exit 1
	RUN=$T/run
}

teardown() {
	local pid

	for pid in $(jq -r '.shimPid, .pid' "$T"/*/status.json 2>/dev/null); do
		kill -9 "$pid" 2>/dev/null || true
	done
	[ -z "${GROUP:-}" ] || until_true remove_group
	cd / && rm -rf "$T"
}

# What a test that failed left in the groups dies with them.
remove_group() {
	[ -d "${GROUP%/*}" ] || return 0
	[ ! -e "$GROUP/cgroup.kill" ] || echo 1 >"$GROUP/cgroup.kill"
	find "${GROUP%/*}" -depth -type d -exec rmdir {} + 2>/dev/null
}

# Names a control group that does not exist yet, in one of the test's own.
group() {
	local root=/sys/fs/cgroup

	[ -e $root/cgroup.procs ] || root=$root/unified
	[ -w $root/cgroup.procs ] || skip "cgroup2: no cgroup v2 that may be written"
	GROUP=$root/blixtest-$$-$BATS_TEST_NUMBER/vm-17-3
}

ask() { # REQUEST
	shim_client "$RUN" "$1" </dev/null
}

shim() {
	blix-shim --run "$RUN" --console "$T/console.log" "$@"
}

lives() {
	if ended "$1"; then return 1; fi
}

status() {
	jq -r ".$1" "$RUN/status.json"
}

start_time() {
	sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f20
}

@test "status.json is there when the shim returns, and is true" {
	shim --uid u-17 --epoch 3 -- sleep 1000
	[ "$(status uid)" = u-17 ]
	[ "$(status epoch)" = 3 ]
	[ "$(status program)" = sleep ]
	[ "$(status bootId)" = "$(cat /proc/sys/kernel/random/boot_id)" ]
	[ "$(status startTime)" = "$(start_time "$(status pid)")" ]
	[ "$(status shimStartTime)" = "$(start_time "$(status shimPid)")" ]
	[ "$(cat "/proc/$(status pid)/comm")" = sleep ]
	[ "$(cat "/proc/$(status shimPid)/comm")" = blix-shim ]
	[ ! -e "$RUN/exit.json" ]
}

@test "the exit code and the end of the output are kept" {
	shim -- sh -c 'echo out; echo err >&2; exit 7'
	until_true [ -e "$RUN/exit.json" ]
	[ "$(jq -c 'del(.endedAt)' "$RUN/exit.json")" = '{"exitCode":7}' ]
	[ "$(jq '.endedAt > 1600000000000' "$RUN/exit.json")" = true ]
	[ "$(cat console.log)" = $'out\nerr' ]
	until_true ended "$(status shimPid)"
}

@test "a signal is kept as a signal, and SIGTERM is passed on" {
	shim -- sleep 1000
	kill "$(status shimPid)"
	until_true [ -e "$RUN/exit.json" ]
	[ "$(jq -c 'del(.endedAt)' "$RUN/exit.json")" = '{"signal":15}' ]
	until_true ended "$(status shimPid)"
}

@test "a second shim is busy and starts nothing" {
	shim -- sleep 1000
	first=$(status pid)
	run shim -- touch "$T/second"
	[ "$status" -eq 75 ]
	[[ "$output" == *busy* ]]
	[ "$(status pid)" = "$first" ]
	[ ! -e "$T/second" ]
}

@test "of ten shims at once exactly one starts its program" {
	local i pids=() ok=0

	for i in 1 2 3 4 5 6 7 8 9 10; do
		shim -- sh -c 'echo started; exec sleep 1000' 2>/dev/null &
		pids+=($!)
	done
	for i in "${pids[@]}"; do
		if wait "$i"; then ok=$((ok + 1)); fi
	done
	[ "$ok" -eq 1 ]
	until_true [ -s console.log ]
	[ "$(cat console.log)" = started ]
}

@test "a program that outlived its shim keeps a new shim from starting" {
	shim -- sleep 1000
	kill -9 "$(status shimPid)"
	until_true ended "$(status shimPid)"
	lives "$(status pid)"
	run shim -- touch "$T/second"
	[ "$status" -eq 75 ]
	[[ "$output" == *outlived* ]]
	[ ! -e "$T/second" ]
	kill -9 "$(status pid)"
	until_true ended "$(status pid)"
	shim -- sleep 1001
	[ "$(tr '\0' ' ' <"/proc/$(status pid)/cmdline")" = "sleep 1001 " ]
}

@test "a missing program: 127, one line, nothing left" {
	run -127 shim -- "$T/absent"
	[ "${#lines[@]}" -eq 1 ]
	[[ "$output" == "blix-shim: run $T/absent: "* ]]
	[ ! -e "$RUN/status.json" ]
	[ ! -e "$RUN/exit.json" ]
	shim -- true
}

@test "a program that cannot be run, or a missing directory: 126" {
	echo text >file
	run shim -- "$T/file"
	[ "$status" -eq 126 ]
	run shim --chdir "$T/absent" -- true
	[ "$status" -eq 126 ]
	[[ "$output" == *"enter $T/absent"* ]]
	[ ! -e "$RUN/status.json" ]
}

@test "the program gets clean signals, no descriptors, its directory and the environment" {
	mkdir vm
	exec 7>"$T/seven"
	(
		trap '' INT HUP PIPE USR1
		# shellcheck disable=SC2016
		MARK=yes shim --chdir vm -- sh -c \
			'pwd; echo $MARK; ls /proc/self/fd | tr "\n" " "; echo; grep -E "Sig(Blk|Ign)" /proc/self/status'
	)
	exec 7>&-
	until_true [ -e "$RUN/exit.json" ]
	mapfile -t got <console.log
	[ "${got[0]}" = "$T/vm" ]
	[ "${got[1]}" = yes ]
	[ "${got[2]}" = "0 1 2 3 " ] # 3 is ls, reading
	[ "${got[3]##*	}" = 0000000000000000 ]
	# Signals 32 and 33 are libc's own: its posix_spawn leaves them ignored, nothing can reset them.
	[ $((0x${got[4]##*	} & ~0x180000000)) -eq 0 ]
}

@test "standard input never ends" {
	shim -- sh -c 'cat; echo ended'
	until_true [ -e "$RUN/status.json" ]
	until_true grep -q S "/proc/$(status pid)/stat"
	[ ! -s console.log ]
	lives "$(status pid)"
}

@test "the shim holds no pipe of its caller" {
	out=$(shim -- sleep 1000 2>&1) # would hang if it did
	[ -z "$out" ]
	run ls -l "/proc/$(status shimPid)/fd"
	[ "$(grep -c /dev/null <<<"$output")" -eq 3 ]
	[ "$(readlink "/proc/$(status shimPid)/cwd")" = / ]
}

@test "the console log stays below its maximum and keeps the end" {
	shim --console-max 65536 -- sh -c 'seq 100000'
	until_true [ -e "$RUN/exit.json" ]
	[ "$(stat -c %s console.log)" -le 32768 ]
	[ "$(stat -c %s console.log.1)" -le 32768 ]
	[ "$(tail -n 1 console.log)" = 100000 ]
	cat console.log.1 console.log | tail -n 5000 | cmp - <(seq 95001 100000)
}

@test "a log that cannot be written drops output, and the program ends well" {
	mkdir full
	mkdir full/console.log.1 # cannot be renamed over
	touch full/console.log
	chmod 0555 full
	blix-shim --run "$RUN" --console full/console.log --console-max 1024 -- seq 100000
	until_true [ -e "$RUN/exit.json" ]
	[ "$(jq .exitCode "$RUN/exit.json")" = 0 ]
	[ "$(stat -c %s full/console.log)" -le 1024 ]
}

@test "a full disk drops output, and the program ends well" {
	(
		ulimit -f 1 # writes past 1 KiB fail
		shim -- sh -c 'seq 100000; echo end'
	)
	until_true [ -e "$RUN/exit.json" ]
	[ "$(jq .exitCode "$RUN/exit.json")" = 0 ]
	[ "$(stat -c %s console.log)" -eq 1024 ]
}

@test "a console that is not a file is refused" {
	mkfifo fifo
	run timeout 5 blix-shim --run "$RUN" --console fifo -- true
	[ "$status" -eq 1 ]
	[ ! -e "$RUN/status.json" ]
	run shim --console "$T/absent/log" -- true
	[ "$status" -eq 3 ]
}

@test "a program that closes its output costs nothing while it lives" {
	shim -- sh -c 'exec sleep 1000 >&- 2>&-'
	until_true grep -q sleep "/proc/$(status pid)/comm"
	pid=$(status shimPid)
	until_true grep -q '^State:.*sleeping' "/proc/$pid/status"
	before=$(awk '/^voluntary/ { print $2 }' "/proc/$pid/status")
	sleep 0.3
	[ "$(awk '/^voluntary/ { print $2 }' "/proc/$pid/status")" = "$before" ]
}

@test "what the program leaves in its process group ends with it" {
	shim -- sh -c 'sleep 1000 & echo $! >child; exit 3'
	until_true [ -e "$RUN/exit.json" ]
	until_true ended "$(cat child)"
	[ "$(jq .exitCode "$RUN/exit.json")" = 3 ]
	until_true ended "$(status shimPid)"
}

@test "shim and program stand in control groups, which go with them" {
	group
	shim --cgroup "$GROUP" -- sleep 1000
	[ "$(status cgroup)" = "$GROUP" ]
	[ "$(cat "$GROUP/cgroup.procs")" = "$(status shimPid)" ]
	[ "$(cat "$GROUP/program/cgroup.procs")" = "$(status pid)" ]
	kill "$(status pid)"
	until_true ended "$(status shimPid)"
	[ ! -e "$GROUP" ]
	[ -d "${GROUP%/*}" ]
}

@test "whatever the program started ends with it, wherever it fled to" {
	group
	# shellcheck disable=SC2016
	shim --cgroup "$GROUP" -- sh -c 'setsid sh -c "trap \"\" TERM HUP; echo \$\$ >child; while :; do sleep 1; done" &
		until [ -s child ]; do :; done; exit 3'
	until_true ended "$(status shimPid)"
	ended "$(cat child)"
	[ "$(jq .exitCode "$RUN/exit.json")" = 3 ]
	[ ! -e "$GROUP" ]
}

@test "a group that cannot be had is done without, and the record says so" {
	shim --cgroup "$T/no/group" -- sleep 1000
	[ "$(status cgroup)" = null ]
	[[ "$(status cgroupError)" == *"no cgroup v2"* ]]
	[ ! -e "$T/no" ]
}

@test "processes that an earlier run left in the group keep a new shim from starting" {
	group
	shim --cgroup "$GROUP" -- sh -c 'setsid sleep 1000 & exec sleep 1001'
	until_true [ "$(wc -l <"$GROUP/program/cgroup.procs")" = 2 ]
	kill -9 "$(status shimPid)"
	until_true ended "$(status shimPid)"
	kill -9 "$(status pid)"
	until_true ended "$(status pid)"
	run shim --cgroup "$GROUP" -- touch "$T/second"
	[ "$status" -eq 75 ]
	[[ "$output" == *"processes of an earlier run"* ]]
	[ ! -e "$T/second" ]
}

@test "a failed start leaves no group and no socket" {
	group
	run -127 shim --cgroup "$GROUP" -- "$T/absent"
	[ ! -e "$GROUP" ]
	[ ! -e "$RUN/shim.sock" ]
}

@test "the program has a raw terminal, which is nobody's controlling terminal" {
	shim -- sh -c 'test -t 0 && test -t 1 && test -t 2 && stty -a; (: </dev/tty) 2>/dev/null || echo none'
	until_true [ -e "$RUN/exit.json" ]
	grep -q -- '-icanon.*-echo\|-echo.*-icanon' <(tr '\n' ' ' <console.log)
	[ "$(tail -n 1 console.log)" = none ]
	[ "$(grep -c $'\r' console.log)" -eq 0 ]
}

@test "attached clients type to the program and see what it prints; all see the same" {
	mkfifo keys
	shim -- sh -c 'while read -r line; do echo "got $line"; done'
	exec 8<>keys
	shim_client "$RUN" '{"do":"attach"}' <keys >one &
	shim_client "$RUN" '{ "do" : "attach", "rows": 33, "cols": 101 }' </dev/null >two &
	until_true [ -s one ]
	until_true [ -s two ]
	echo hello >&8
	until_true grep -q 'got hello' one
	until_true grep -q 'got hello' two
	[ "$(head -n 1 one)" = '{"offset":0}' ]
	[ "$(cat console.log)" = 'got hello' ]
	[ "$(stty -F "/proc/$(status pid)/fd/0" size)" = "33 101" ]
	[ "$(ask '{"do":"resize","rows":10,"cols":20}')" = '{}' ]
	[ "$(stty -F "/proc/$(status pid)/fd/0" size)" = "10 20" ]
	kill "$(status pid)"
	wait # both clients see the end
	exec 8>&-
}

@test "attach says where in the log it begins" {
	shim -- sh -c 'echo first; read -r line; echo second'
	until_true [ -s console.log ]
	echo go | shim_client "$RUN" '{"do":"attach"}' >out
	[ "$(cat out)" = $'{"offset":6}\nsecond' ]
}

@test "what follows the request in the same packet reaches the program" {
	shim -- sh -c 'read -r line; echo "got $line"'
	[ "$(ask $'{"do":"attach"}\ntyped' | tail -n 1)" = "got typed" ]
}

@test "a client that takes nothing holds nobody up" {
	mkfifo hold
	exec 8<>hold
	shim -- sh -c 'read -r line; seq 200000; echo end'
	shim_client "$RUN" '{"do":"attach"}' deaf <hold 8>&- >deaf &
	until_true grep -q deaf deaf
	echo go | shim_client "$RUN" '{"do":"attach"}' >seen
	until_true [ -e "$RUN/exit.json" ]
	[ "$(tail -n 1 console.log)" = end ]
	[ "$(jq .exitCode "$RUN/exit.json")" = 0 ]
	exec 8>&-
	wait
}

@test "a program that takes no input holds no client up, and costs nothing" {
	shim -- sleep 1000
	head -c 100000 /dev/zero | tr '\0' x >much
	shim_client "$RUN" '{"do":"attach"}' <much >out &
	until_true [ -s out ]
	kill "$!"
	wait "$!" || true
	pid=$(status shimPid)
	until_true grep -q '^State:.*sleeping' "/proc/$pid/status"
	before=$(awk '/^voluntary/ { print $2 }' "/proc/$pid/status")
	sleep 0.3
	[ "$(awk '/^voluntary/ { print $2 }' "/proc/$pid/status")" = "$before" ]
	[ "$(ask '{"do":"stop"}')" = '{}' ]
	until_true ended "$pid"
}

@test "stop is SIGTERM, kill is the end of all, wait tells how" {
	group
	shim --cgroup "$GROUP" -- sh -c 'trap "echo no" TERM; setsid sleep 1000 & while :; do read -r _; done'
	shim_client "$RUN" '{"do":"wait"}' </dev/null >end &
	until_true grep -q S "/proc/$(status pid)/stat"
	[ "$(ask '{"do":"stop"}')" = '{}' ]
	until_true grep -q no console.log
	lives "$(status pid)"
	[ "$(ask '{"do":"status"}')" = "$(cat "$RUN/status.json")" ]
	[ "$(ask '{"do":"kill"}')" = '{}' ]
	until_true ended "$(status shimPid)"
	wait
	[ "$(jq .signal end)" = 9 ]
	cmp end "$RUN/exit.json"
	[ ! -e "$RUN/shim.sock" ]
	[ ! -e "$GROUP" ]
}

@test "the socket is its owner's, and nonsense gets an error" {
	local bad

	shim -- sleep 1000
	[ "$(stat -c %a "$RUN/shim.sock")" = 600 ]
	for bad in '' '{}' 'attach' '{"do":"explode"}' '{"do":"attach"' '{"do":"attach","rows":99999}' \
		'{"do":"attach","x":1}' '{"do":"attach"}{}' "{\"do\":\"$(printf 'a%.0s' {1..300})\"}"; do
		[ "$(ask "$bad")" = '{"error":"not a request"}' ]
	done
	lives "$(status pid)"
	if [ "$(id -u)" -eq 0 ]; then # past the mode of the file
		chmod 0666 "$RUN/shim.sock" && chmod 0755 "$T" "$RUN"
		cp "$(command -v shim_client)" .
		run setpriv --reuid 65534 --clear-groups ./shim_client "$RUN" '{"do":"kill"}' </dev/null
		[[ "$output" == *"not permitted"* ]]
		lives "$(status pid)"
	fi
}

@test "the number of clients is bounded; those who say nothing make room" {
	local i clients=()

	mkfifo hold
	exec 8<>hold
	shim -- sleep 1000
	for i in {1..16}; do
		shim_client "$RUN" '{"do":"attach"}' <hold 8>&- >"c$i" &
		clients+=($!)
	done
	for i in {1..16}; do until_true [ -s "c$i" ]; done
	[[ "$(ask '{"do":"status"}')" == *"too many"* ]]
	kill "${clients[0]}"
	until_true ended "${clients[0]}"
	[[ "$(ask '{"do":"status"}')" == *'"uid"'* ]]
	ask '' >/dev/null
	exec 8>&-
	kill "$(status pid)"
	wait
}

@test "a flood from a process that left the group does not keep the shim" {
	shim -- sh -c 'setsid yes & echo $! >child; until [ -s console.log ]; do :; done; exit 0'
	until_true [ -e "$RUN/exit.json" ]
	until_true ended "$(status shimPid)"
	kill -9 "$(cat child)" 2>/dev/null || true
}

@test "an old exit.json goes at the start" {
	shim -- false
	until_true [ -e "$RUN/exit.json" ]
	until_true ended "$(status shimPid)"
	shim -- sleep 1000
	[ ! -e "$RUN/exit.json" ]
}

@test "names with quotes, controls and bytes that are not UTF-8 leave the record valid" {
	name=$'a"b\\c\nd\xff"pid":1,'
	cp "$(command -v sleep)" "$name"
	shim --uid 'u"pid":1,' -- "./$name" 1000
	[ "$(jq -r .uid "$RUN/status.json")" = 'u"pid":1,' ]
	[ "$(jq -r .pid "$RUN/status.json")" -gt 1 ]
	kill -9 "$(status shimPid)"
	until_true ended "$(status shimPid)"
	run shim -- true
	[ "$status" -eq 75 ]
}

@test "usage errors are 64, help and version 0" {
	run blix-shim --console x -- true
	[ "$status" -eq 64 ]
	run blix-shim --run "$RUN" -- true
	[ "$status" -eq 64 ]
	run shim
	[ "$status" -eq 64 ]
	run shim --console-max 10 -- true
	[ "$status" -eq 64 ]
	run shim --epoch x -- true
	[ "$status" -eq 64 ]
	run shim --nonsense -- true
	[ "$status" -eq 64 ]
	[ ! -e "$RUN" ]
	run blix-shim --help
	[ "$status" -eq 0 ]
	run blix-shim --version
	[ "$status" -eq 0 ]
	[[ "$output" == blix-shim\ * ]]
}

@test "--hold: a terminal for somebody else's program: log, attach, and the last words when it is told to end" {
	local holder

	mkdir run
	shim --hold
	holder=$(pgrep -f "blix-shim --run $RUN .*--hold")
	[ -c run/terminal ]
	(
		echo one
		read -r line
		echo "got $line"
	) <>run/terminal >&0 2>&0 3>&- &
	until_true grep -q one console.log
	shim_client run '{"do":"attach"}' <<<hello >seen 3>&- &
	until_true grep -q 'got hello' seen
	kill $!
	grep -q 'got hello' console.log
	[[ $(ask '{"do":"stop"}') == *"systemd stands by it"* ]]
	lives "$holder"
	echo last >run/terminal
	kill "$holder"
	until_true ended "$holder"
	[ "$(tail -n 1 console.log)" = last ]
	[ "$(readlink run/terminal)" = /dev/null ]
	[ ! -e run/shim.sock ] && [ ! -e run/exit.json ] && [ ! -e run/alive ]
	run shim --hold -- true
	[ "$status" = 64 ]
}
