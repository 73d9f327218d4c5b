#!/usr/bin/env bats
# blixd dies in the middle of a start, a stop and a delete of a real guest: Debian's kernel, booted by QEMU, with its agent.
# Afterwards the guest is up once, or down, and the host looks as if blixd had not died. CRASH_GUEST points of each (3).

bats_require_minimum_version 1.5.0

setup_file() {
	load ../guest/host.bash
	host_stage 3m
	host_start
}
teardown_file() {
	load ../guest/host.bash
	host_remove
}
setup() {
	load ../until.bash
	load ../guest/host.bash
	export WITHIN=120
}

# Another daemon; it dies at point AT.
daemon_at() { # AT
	kill -9 "$(cat "$work/pid")" 2>/dev/null || :
	until_true ended "$(cat "$work/pid")"
	rm -f "$work/points"
	host_start env BLIX_CRASH_LOG="$work/points" BLIX_CRASH_AT="$1"
}

show() { blix vm show web -o json | jq -r "$1"; }
create() { blix vm create web --flake "$work/guest#demo" --memory 128MiB --ready agent --quiet; }

begin_stop() { blix vm stop web --no-wait; }
end_stop() { [ "$(show .status.phase)" = Stopped ]; }
begin_start() { blix vm start web --no-wait; }
end_start() { [ "$(show '"\(.status.phase) \(.status.agent.ready)"')" = 'Running true' ]; }
begin_delete() { ! blix vm show web || blix vm delete web --yes --no-wait; }
end_delete() { blix vm list && ! blix vm show web; }

died_or() { ended "$(cat "$work/pid")" || "$@"; }

# By a blixd that dies at point AT, or when all is over before it comes there, and then by one that does not.
operate() { # OPERATION AT
	daemon_at "$2"
	{
		until_true died_or "begin_$1"
		until_true died_or "end_$1"
		if [ "$2" != 0 ]; then
			daemon_at 0
			until_true eval "end_$1 || { begin_$1; false; }"
		fi
	} >/dev/null 2>&1
}

guests() {
	local cwd
	for cwd in /proc/[0-9]*/cwd; do
		[ "$(readlink "$cwd")" != "$work/s/microvms/web" ] || basename "$(readlink "${cwd%cwd}exe")"
	done
}

# There is the console of the run before or not, as there was a run.
host() {
	find "$work/s"/{microvms,run,vms} "$roots" -mindepth 1 ! -name 'raft*' ! -name console.log.1 -printf '%p %y %l\n' 2>/dev/null | sort |
		sed -E "s|$work|T|g; s/[0-9]+/N/g"
	guests
	jq -c 'del(.endedAt)' "$work/s/run/vms/web/exit.json" 2>/dev/null || :
}

# The point to die at in round K, of all that the run before reached.
reached() { grep -c . "$work/points"; }
point() { echo $((1 + (2 * $2 + 1) * $1 / (2 * rounds))); } # REACHED K

compare() { # OPERATION K WANT
	echo "$1, round $2"
	diff -u <(echo "$3") <(host)
}

@test "a guest of Debian's kernel: blixd dies in the middle of its stop, its start and its delete" {
	local stops starts deletes stopped running gone k rounds=${CRASH_GUEST:-3}
	command -v qemu-system-x86_64
	create
	operate stop 0
	stopped=$(host) stops=$(reached)
	operate start 0
	running=$(host) starts=$(reached)
	[ "$(guests)" = qemu-system-x86_64 ]
	for ((k = 0; k < rounds; k++)); do
		operate stop "$(point "$stops" "$k")"
		compare stop "$k" "$stopped"
		operate start "$(point "$starts" "$k")"
		compare start "$k" "$running"
		[ "$(blix vm exec web -- uname -s)" = Linux ]
	done
	operate delete 0
	gone=$(host) deletes=$(reached)
	[ -z "$(guests)" ]
	for ((k = 0; k < rounds; k++)); do
		create
		operate delete "$(point "$deletes" "$k")"
		compare delete "$k" "$gone"
	done
	echo "# $rounds points each of stop ($stops), start ($starts) and delete ($deletes) with Debian's kernel: 0 ended otherwise" >&3
}
