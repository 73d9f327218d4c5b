#!/usr/bin/env bats
# What changes a host finds its INTENT in the node's journal: each program that blixd starts for that is wrapped, and reads
# the journal before it does anything. What needs no program is seen by the order of the crash points.
# shellcheck disable=SC2034 # INSIDE is of helpers.bash

bats_require_minimum_version 1.5.0

setup() {
	load helpers
	servers_setup
	JOURNAL=$T/n1/state/journal
	# The fakes find what they build beside themselves.
	cp -r "$FAKE" "$T/fake"
	FAKE=$T/fake
	mkdir -p "$T/wrap"
	WRAPPED='.microvm = "'$T'/wrap/microvm" | .path = "'$T'/wrap:" + .path | .retryMs = 20'
	: >"$T/noted"
	wrap microvm "$FAKE/microvm"
}

teardown() {
	cat "$T/noted"
	servers_teardown
}

# wrap NAME PROGRAM [DIR]: DIR/NAME notes what the journal says, and is PROGRAM.
wrap() {
	cat >"${3:-$T/wrap}/$1" <<-END
		#!/bin/sh
		steps=\$("$BUILD/tests/crash/journal_open" "$JOURNAL" | sed -n 's/^open: \([a-z-]*\) of web,.*/\1/p')
		echo $1 "\$1": \$steps. >>"$T/noted"
		exec $2 "\$@"
	END
	chmod +x "${3:-$T/wrap}/$1"
}

# noted WORDS STEP...: each time it was called so, these steps were open, and it was called so.
noted() {
	local words=$1 step line n=0
	shift
	while read -r line; do
		n=$((n + 1))
		for step; do
			[[ "${line#*:} " == *" $step"[\ .]* ]] || {
				echo "without $step: $line" >&2
				return 1
			}
		done
	done < <(grep "^$words *:" "$T/noted")
	[ "$n" -gt 0 ] || echo "not called: $words" >&2
	[ "$n" -gt 0 ]
}

@test "builds, repairs, starts and what stands around a run have an INTENT when they happen" {
	wrap tap-up true "$FAKE/store/bin"
	wrap tap-down true "$FAKE/store/bin"
	wrap microvm-run "$BUILD/tests/fake/runner" "$FAKE/store/bin"
	wrap nix-store "$FAKE/nix-store"
	cluster_up 1 "$WRAPPED"
	on 1 vm create web --flake "$BASE"
	noted "microvm -f" claim wrapper create
	noted tap-up mark booted console setup start
	noted "microvm -r" setup start
	on 1 vm stop web
	noted tap-down teardown
	echo modified >"$T/n1/microvms/.fake/verify"
	on 1 vm start web
	noted "nix-store --repair-path" repair
	on 1 vm update web --flake "path:/nix/store/00000000000000000000000000000000-gen2-source?narHash=sha256-fake"
	noted "microvm -u" claim wrapper update
	on 1 vm delete web
	server_stop 1
	[ -z "$("$BUILD/tests/crash/journal_open" "$JOURNAL")" ]
}

@test "a run with nothing around it says nothing of that" {
	cluster_up 1 "$WRAPPED"
	on 1 vm create web --flake "$BASE"
	noted "microvm -r" start
	run ! grep setup "$T/noted"
	server_stop 1
}

@test "drop-ins of units have an INTENT when they are made and when they go" {
	mkdir -p "$T/n1/systemd"
	touch "$T/n1/systemd/microvm@.service"
	wrap systemctl "$FAKE/systemctl"
	cluster_up 1 "$WRAPPED"' | .supervision = "systemd" | .systemdDir = "'"$T"'/n1/systemd"'
	echo ok >"$T/n1/microvms/.fake/systemctl"
	on 1 vm create web --flake "$BASE"
	noted "systemctl start" start drop-in
	: >"$T/noted"
	on 1 vm delete web --force
	grep '^systemctl stop:.* unit\.' "$T/noted"
	[ ! -e "$T/n1/systemd/microvm@web.service.d" ]
	server_stop 1
	[ -z "$("$BUILD/tests/crash/journal_open" "$JOURNAL")" ]
}

@test "an adoption touches nothing before its INTENT is durable" {
	cluster_up 1 "$WRAPPED"
	env -i PATH="$PATH" MICROVM_STATE_DIR="$T/n1/microvms" MICROVM_GCROOTS_DIR="$T/n1/gcroots/microvm" \
		"$FAKE/microvm" -f "$BASE" -c web
	server_stop 1
	INSIDE=(env "BLIX_CRASH_LOG=$T/points")
	server_start 1
	until_true nodes_are_ready 1 1
	: >"$T/points"
	on 1 vm adopt web --node n1
	until_true grep -q ' adopt$' "$T/points"
	# INTENT, synced; .blix-flake and the claim, each synced; the marker; DONE.
	run sed -n '/ journal-before-intent$/,/ adopt$/s/^[0-9]* //p' "$T/points"
	echo "$output"
	[[ "$output" == journal-before-intent*journal-after-intent*file-written*file-renamed*file-written*file-renamed*adopt ]]
	server_stop 1
}
