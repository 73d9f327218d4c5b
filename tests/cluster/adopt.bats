#!/usr/bin/env bats
# Taking over microVMs that blix did not make; and leaving alone, to the last byte, those that it cannot take.

bats_require_minimum_version 1.5.0

setup() {
	load helpers
	servers_setup
	keeper=
}

teardown() {
	[ -z "$keeper" ] || kill "$keeper" 2>/dev/null || true
	servers_teardown
}

get() { # NAME FILTER
	on 1 vm show "$1" -o json | jq -r "$2"
}

# What `microvm -c` leaves on server N, with a disk.
foreign() { # N NAME FLAKE
	env -i PATH="$PATH" MICROVM_STATE_DIR="$T/n$1/microvms" MICROVM_GCROOTS_DIR="$T/n$1/gcroots/microvm" \
		"$FAKE/microvm" -f "$3" -c "$2"
	echo data >"$T/n$1/microvms/$2/disk.img"
	: >"$T/n$1/microvms/.fake/log"
}

listing() { # DIR: everything in it, with times and contents
	(cd "$1" && find . -printf '%p %y %m %T@ %C@ %l\n' | sort && find . -type f -exec cat {} +)
}

built() { # how often microvm built something on server N
	tr '\0' ' ' <"$T/n$1/microvms/.fake/log" | grep -cE '/microvm (-f|-u)' || true
}

has() { # VALUE COMMAND...
	[ "$("${@:2}" 2>/dev/null)" = "$1" ]
}

# REASON CODE ARGUMENT...: is refused so, and nothing of the directory changes
refused() {
	local before
	before=$(listing "$T/n1/microvms/old" 2>/dev/null) || true
	run --separate-stderr on 1 vm adopt "${@:3}" -o json
	echo "$stderr"
	[ "$status" = "$2" ]
	[ "$(jq -r .reason <<<"$stderr")" = "$1" ]
	[ "$(listing "$T/n1/microvms/old" 2>/dev/null)" = "$before" ]
	run on 1 vm show old
	[ "$status" = 3 ]
}

@test "a stopped microVM is adopted as it is, started without a build, and updated" {
	cluster_up 3
	foreign 1 old "$BASE"
	on 2 vm adopt old --node n1 # whoever is asked
	until_true has Stopped get old .status.phase # server 1 may be a little behind
	[ "$(get old '[.status.phase, .status.node, .status.adopted, .spec.flake] | @csv')" = "\"Stopped\",\"n1\",true,\"$BASE\"" ]
	until_true test -s "$T/n1/microvms/old/.blix.json"
	[ "$(cat "$T/n1/microvms/old/.blix-flake")" = "$BASE" ]
	on 1 vm start old
	[ "$(get old '[.status.phase, .status.node, .status.runner] | @csv')" = "\"Running\",\"n1\",\"$FAKE/store\"" ]
	[ "$(built 1)" = 0 ]
	[ "$(cat "$T/n1/microvms/old/disk.img")" = data ]
	[ -L "$T/n1/gcroots/microvm/old.1" ]
	on 1 vm update old --flake 'path:/nix/store/00000000000000000000000000000000-gen2-source?narHash=sha256-fake'
	[ "$(get old .status.runner)" = "$FAKE/store-2" ]
	on 1 vm rollback old
	[ "$(get old .status.runner)" = "$FAKE/store" ]
	on 1 vm delete old
	[ "$(cat "$T"/n1/state/orphans/old-*/disk.img)" = data ]
	[ ! -e "$T/n1/microvms/old" ]
	[ -z "$(find "$T/n1/gcroots/microvm" -name 'old*')" ]
}

@test "what cannot be taken is refused with its reason, and not touched" {
	cluster_up 1
	refused no-directory 3 old --node n1
	refused node-missing 3 old --node n9
	foreign 1 old "$BASE"
	ln -s /nix/store/toplevel "$T/n1/microvms/old/toplevel"
	refused declarative 5 old --node n1
	rm "$T/n1/microvms/old/toplevel"
	echo '{"cluster":"another","uid":3,"epoch":1}' >"$T/n1/microvms/old/.blix.json"
	refused marked 5 old --node n1
	rm "$T/n1/microvms/old/.blix.json"
	mv "$T/n1/microvms/old/flake" "$T/flake"
	refused no-flake 5 old --node n1
	echo 'nixpkgs' >"$T/n1/microvms/old/flake"
	refused flake-unusable 5 old --node n1
	mv "$T/flake" "$T/n1/microvms/old/flake"
	(cd "$T/n1/microvms/old" && exec -a microvm@old sleep 1000) &
	keeper=$!
	refused foreign-running 5 old --node n1
	kill "$keeper"
	wait "$keeper" || true
	on 1 vm adopt old --node n1
	run --separate-stderr on 1 vm adopt old --node n1
	[ "$status" = 4 ]
}

@test "one whose flake does not evaluate stays foreign, also when its VM is deleted" {
	cluster_up 1
	foreign 1 old 'path:/nix/store/x-evalfail-source?narHash=sha256-fake'
	before=$(listing "$T/n1/microvms/old")
	run --separate-stderr on 1 vm adopt old --node n1
	[ "$status" = 8 ]
	[ "$(listing "$T/n1/microvms/old")" = "$before" ]
	on 1 vm delete old
	[ "$(listing "$T/n1/microvms/old")" = "$before" ]
}

@test "a daemon that is killed in an adoption ends it when it is back" {
	cluster_up 1
	foreign 1 old "$BASE"
	on 1 vm adopt old --node n1 --no-wait
	server_kill 1
	server_start 1
	until_true agree 1
	until_true test -s "$T/n1/microvms/old/.blix.json"
	on 1 vm start old
	[ "$(get old .status.phase)" = Running ]
}
