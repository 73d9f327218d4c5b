#!/usr/bin/env bats
# blixd from the outside: what it says, and how it ends, when it cannot start.

bats_require_minimum_version 1.5.0

setup() {
	DIR=$(mktemp -d)
	blixd_pid=''
}

teardown() {
	if [ -n "$blixd_pid" ]; then
		kill "$blixd_pid" 2>/dev/null || :
		wait "$blixd_pid" || :
	fi
	rm -rf "$DIR"
}

await() { # COMMAND...: until it succeeds
	local until=$((SECONDS + 30))
	until "$@" >/dev/null 2>&1; do
		if [ "$SECONDS" -ge "$until" ]; then
			echo "never true: $*" >&2
			return 1
		fi
		read -r -t 0.05 <> <(:) || :
	done
}

@test "a configuration that cannot be read is a bad configuration: 78" {
	run --separate-stderr blixd --config "$DIR/none.json" --check
	[ "$status" = 78 ]
	[[ $stderr == *"$DIR/none.json: No such file or directory"* ]]
	run --separate-stderr blixd --config "$DIR" --check
	[ "$status" = 78 ]
	[[ $stderr == *"$DIR: Is a directory"* ]]
	: >"$DIR/empty.json"
	run --separate-stderr blixd --config "$DIR/empty.json" --check
	[ "$status" = 78 ]
	[ "$stderr" = "blixd: $DIR/empty.json: JSON is empty" ]
}

@test "an unknown key is named, with its file: 78" {
	echo '{"stateDirr":"/x"}' >"$DIR/blix.json"
	run --separate-stderr blixd --config "$DIR/blix.json" --check
	[ "$status" = 78 ]
	[[ ${stderr_lines[0]} == "blixd: $DIR/blix.json: unknown key 'stateDirr'" ]]
}

@test "a second blixd on a state directory is refused: 75; a relative one is the same directory" {
	cd "$DIR"
	blixd --dev --state-dir s </dev/null >log 2>&1 3>&- &
	blixd_pid=$!
	await test -S "$DIR/s/blix.sock"
	run --separate-stderr blixd --dev --state-dir "$DIR/s"
	[ "$status" = 75 ]
	[[ $stderr == *"hint: another blixd uses this state directory" ]]
	kill "$blixd_pid"
	wait "$blixd_pid" # with 0: nothing leaks, in a build that looks for it
	blixd_pid=''
	run ! test -e "$DIR/s/blix.sock"
}

@test "usage errors are 64" {
	run --separate-stderr blixd --dev
	[ "$status" = 64 ]
	run --separate-stderr blixd --state-dir "$DIR/s"
	[ "$status" = 64 ]
	run --separate-stderr blixd --bogus
	[ "$status" = 64 ]
	run --separate-stderr blixd word
	[ "$status" = 64 ]
}
