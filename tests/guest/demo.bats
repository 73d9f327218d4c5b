#!/usr/bin/env bats
# The README's first command. It checks its own claims; here it must end well, and clean up when it is interrupted.

bats_require_minimum_version 1.5.0

setup() {
	demo=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)/scripts/demo
	T=$(mktemp -d /tmp/blix.XXXXXX)
	# make gives its own flags to what it runs; the demo builds for itself.
	unset MAKEFLAGS MFLAGS MAKELEVEL MODE
}

teardown() {
	rm -rf "$T"
}

left() { # DIR: processes that work in it or name it
	{
		find /proc/[0-9]*/cwd -maxdepth 0 -lname "$1*"
		grep -lF -- "$1/" /proc/[0-9]*/cmdline
	} 2>/dev/null || true
}

@test "the demo shows what it promises and leaves nothing" {
	run "$demo" </dev/null
	echo "$output"
	[ "$status" = 0 ]
	[[ $output == *"Running and ready on n"* ]]
	[[ $output == *"ms after the kill, from n"* ]]
	[[ $output == *"blix: powering off"* ]]
	[[ $output == *"Everything was as it should be, and nothing is left."* ]]
}

@test "Ctrl-C in the middle cleans up" {
	local pid work rc=0 end=$((SECONDS + 120))
	# As a terminal does it: a group of its own, to which the signal goes, and which does not ignore it.
	setsid env --default-signal=INT "$demo" </dev/null >"$T/out" 2>&1 3>&- &
	pid=$!
	until grep -q 'vm web: Building' "$T/out"; do
		[ "$SECONDS" -lt "$end" ]
		kill -0 "$pid"
		read -r -t 0.1 <> <(:) || :
	done
	work=$(sed -nE 's/.*Start three servers in (.*)/\1/p' "$T/out")
	[ -d "$work" ]
	kill -INT -- "-$pid"
	wait "$pid" || rc=$?
	cat "$T/out"
	[ "$rc" = 130 ]
	[ ! -e "$work" ]
	[ -z "$(left "$work")" ]
}
