#!/usr/bin/env bats
# The systems of a VM: update, history, rollback, the trial of a new one, and what of them is kept. Real servers; nix,
# microvm and the runner are stand-ins: a base whose URL holds "-genN-" builds the runner store-N.

bats_require_minimum_version 1.5.0

setup() {
	load helpers
	servers_setup
}

teardown() {
	servers_teardown
}

base() { # N
	echo "path:/nix/store/00000000000000000000000000000000-gen$1-source?narHash=sha256-fake"
}

get() { # NAME FILTER
	on 1 vm show "$1" -o json | jq -r "$2"
}

numbers() { # NAME: wanted, built, booted
	get "$1" '.status.generation | "\(.desired) \(.current) \(.booted)"'
}

kept() { # NAME: the numbers in its history, newest first
	on 1 vm history "$1" -o name | xargs
}

roots() { # NAME: those on server 1
	(cd "$T/n1/gcroots/microvm" && find . -name "$1.*" -printf '%P ' | xargs -n1 | sort | xargs)
}

has() { # VALUE COMMAND...
	[ "$("${@:2}")" = "$1" ]
}

mode() { # WHO MODE
	echo "$2" >"$T/n1/microvms/.fake/$1"
}

asked() { # WORD: how often microvm was called with it
	tr '\0' ' ' <"$T/n1/microvms/.fake/log" | grep -c -- "fake/microvm $1" || true
}

left_build() { # NAME: the build that a killed daemon left
	local dir
	for dir in /proc/[0-9]*; do
		if grep -qzx "MICROVM_STATE_DIR=$T/n1/microvms" "$dir/environ" 2>/dev/null &&
			[[ $(tr '\0' ' ' <"$dir/cmdline") == *"microvm -u $1 " ]]; then
			echo "${dir#/proc/}"
		fi
	done
}

@test "an update makes a new generation and boots it; the same lock again is no news" {
	cluster_up 1
	on 1 vm create web --flake "$BASE"
	has '1 1 1' numbers web
	pid=$(get web .status.pid)
	run --separate-stderr on 1 vm update web
	[ "$status" = 0 ]
	[[ $stderr == *'unchanged, generation 1'* ]]
	[ "$(get web .status.pid)" = "$pid" ]
	run --separate-stderr on 1 vm update web --flake "$(base 2)#web"
	echo "$stderr"
	[ "$status" = 0 ]
	[[ $stderr == *'generation 2'* ]]
	has '2 2 2' numbers web
	[ "$(get web .status.pid)" != "$pid" ]
	[ "$(get web .status.runner)" = "$FAKE/store-2" ]
	[ "$(get web '.spec.flake')" = "$(base 2)" ]
	[ "$(kept web)" = '2 1' ]
	on 1 vm history web
	[ "$(on 1 vm history web -o json | jq -c '[.items[] | [.number, .desired, .booted, .by]]')" = \
		'[[2,true,true,"uid:0"],[1,false,false,"uid:0"]]' ]
}

@test "a reference that moved on is news, and its lock is asked for again" {
	cluster_up 1
	on 1 vm create web --flake github:me/vms
	has '1 1 1' numbers web
	echo gen2 >"$T/n1/microvms/.fake/rev"
	on 1 vm update web
	has '2 2 2' numbers web
	tr '\0' ' ' <"$T/n1/microvms/.fake/log" | grep -q 'metadata --json --refresh github:me/vms'
}

@test "--restart=no builds beside what runs: Stale until a restart" {
	cluster_up 1
	on 1 vm create web --flake "$BASE"
	pid=$(get web .status.pid)
	on 1 vm update web --flake "$(base 2)" --restart=no
	has '2 2 1' numbers web
	[ "$(get web .status.pid)" = "$pid" ]
	[ "$(get web '[.status.stale, .status.conditions[0].type, .status.conditions[0].status] | @csv')" = 'true,"Stale","True"' ]
	[ "$(on 1 vm list --columns name,stale --no-headers | xargs)" = 'web yes' ]
	[ "$(readlink "$T/n1/microvms/web/current")" = "$FAKE/store-2" ]
	[ "$(readlink "$T/n1/microvms/web/booted")" = "$FAKE/store" ]
	on 1 vm restart web
	has '2 2 2' numbers web
	[ "$(get web .status.stale)" = null ]
}

@test "rollback brings the older system back, whatever its number; one that is not kept is refused" {
	cluster_up 1
	on 1 vm create web --flake "$BASE"
	on 1 vm update web --flake "$(base 2)"
	on 1 vm update web --flake "$(base 3)"
	[ "$(kept web)" = '3 2 1' ]
	on 1 vm rollback web
	has '2 2 2' numbers web
	[ "$(get web '[.status.runner, .spec.flake] | @csv')" = "\"$FAKE/store-2\",\"$(base 2)\"" ]
	on 1 vm rollback web 3
	has '3 3 3' numbers web
	on 1 vm rollback web 1
	[ "$(get web .status.runner)" = "$FAKE/store" ]
	run --separate-stderr on 1 vm rollback web
	[ "$status" = 5 ]
	run --separate-stderr on 1 vm rollback web 9
	[ "$status" = 3 ]
	on 1 vm update web --flake "$(base 4)"
	[ "$(kept web)" = '4 3 2 1' ] # a number is never used again
}

@test "a stopped VM is updated without a start" {
	cluster_up 1
	on 1 vm create web --flake "$BASE"
	on 1 vm stop web
	on 1 vm update web --flake "$(base 2)"
	[ "$(get web '[.status.phase, .status.generation.desired] | @csv')" = '"Stopped",2' ]
	on 1 vm start web
	has '2 2 2' numbers web
}

@test "what cannot be resolved or built changes nothing" {
	cluster_up 1
	on 1 vm create web --flake "$BASE"
	pid=$(get web .status.pid)
	run --separate-stderr on 1 vm update web --flake 'path:/nix/store/x-evalfail-gen2-source?narHash=sha256-fake'
	[ "$status" = 8 ]
	mode web fail
	run --separate-stderr on 1 vm update web --flake "$(base 2)"
	[ "$status" = 8 ]
	[[ $stderr == *'told to fail'* ]]
	has '1 1 1' numbers web
	[ "$(kept web)" = 1 ]
	[ "$(get web '[.status.phase, .status.pid, .status.update.outcome] | @csv')" = "\"Running\",$pid,\"failed\"" ]
	mode web ok
	on 1 vm update web --flake "$(base 2)"
	[ "$(kept web)" = '3 1' ]
}

@test "a new system that fails is rolled back: 9, though the client is gone" {
	cluster_up 1
	on 1 vm create web --flake "$BASE"
	mode store-2 exit1
	run --separate-stderr on 1 vm update web --flake "$(base 2)" --auto-rollback
	echo "$stderr"
	[ "$status" = 9 ]
	[[ $stderr == *'rolled back'* ]]
	[ "$(get web '[.status.phase, .status.runner, .status.update.outcome, .status.update.reason] | @csv')" = \
		"\"Running\",\"$FAKE/store\",\"rolled-back\",\"runner-exited\"" ]
	has '1 1 1' numbers web
	[ "$(kept web)" = '2 1' ] # it was built: to look at
	mode store-3 exit1
	on 1 vm update web --flake "$(base 3)" --auto-rollback --no-wait
	until_true has rolled-back get web .status.update.outcome
	has '1 1 1' numbers web
	on 1 vm events web | grep -q vm-rolled-back
	on 1 vm why web | grep -q 'the last update was rolled back'
}

@test "an update ends a crash loop" {
	cluster_up 1
	mode web exit1
	run --separate-stderr on 1 vm create web --flake "$BASE"
	[ "$status" = 9 ]
	[ "$(get web .status.phase)" = CrashLoop ]
	mode store-2 ok
	on 1 vm update web --flake "$(base 2)"
	[ "$(get web '[.status.phase, .status.update.outcome] | @csv')" = '"Running","updated"' ]
	has '2 2 2' numbers web
}

@test "a new system that is not ready in time is rolled back by the cluster's clock: 10" {
	cluster_up 3
	on 1 vm create web --flake "$BASE" --ready 'console:fake: ready' --node n1
	mode store-2 silent
	on 1 vm update web --flake "$(base 2)" --auto-rollback --deadline 8s --no-wait # long enough to be seen, and to lose a leader in
	until_true has 2 get web .status.generation.booted
	leader=$(leader_of 1) # who has seen the trial begin is not who ends it
	if [ "$leader" != 1 ]; then
		server_kill "$leader"
		until_true has_other_leader 1 "$leader"
	fi
	run --separate-stderr on 1 wait vm/web --for=updated
	[ "$status" = 10 ]
	until_true has 'true,"rolled-back","not-ready"' get web '[.status.ready, .status.update.outcome, .status.update.reason] | @csv'
	has '1 1 1' numbers web
	mode store-2 ok
	on 1 vm update web --flake "$(base 2)" --auto-rollback --deadline 30s
	until_true has 'true,"updated"' get web '[.status.ready, .status.update.outcome] | @csv'
	has '3 3 3' numbers web
}

@test "a trial without readiness is over when it has run for a while" {
	cluster_up 1
	on 1 vm create web --flake "$BASE"
	on 1 vm update web --flake "$(base 2)" --auto-rollback --deadline 2s
	[ "$(get web .status.update.outcome)" = updated ]
	has '2 2 2' numbers web
}

@test "more generations than are to be kept go, roots and entries together; those in use stay" {
	cluster_up 1 '.generations = {keep: 2}'
	on 1 vm create web --flake "$BASE"
	[ "$(roots web)" = 'web.1 web.1-source' ]
	on 1 vm update web --flake "$(base 2)"
	[ "$(roots web)" = 'web.1 web.1-source web.2 web.2-source' ]
	on 1 vm rollback web 1
	on 1 vm update web --flake "$(base 3)" --restart=no
	until_true has '3 1' kept web # 2 is older than 3, and 1 runs
	until_true has 'web.1 web.1-source web.3 web.3-source' roots web
	ln -s "$T/n1/microvms/web/gone" "$T/n1/gcroots/auto/dangling"
	ln -s "$T/n1/microvms/web/current" "$T/n1/gcroots/auto/alive"
	ln -s /elsewhere/gone "$T/n1/gcroots/auto/foreign"
	on 1 vm restart web
	on 1 vm update web --flake "$(base 4)"
	until_true has '4 3' kept web
	until_true has 'web.3 web.3-source web.4 web.4-source' roots web
	[ "$(readlink "$T/n1/gcroots/microvm/web.4")" = "$FAKE/store-4" ]
	[ "$(cd "$T/n1/gcroots/auto" && echo *)" = 'alive foreign' ]
	rm "$T/n1/gcroots/auto"/*
	on 1 vm delete web
	[ -z "$(remains)" ]
}

@test "a daemon that is killed in the middle of an update ends it when it is back" {
	cluster_up 1
	on 1 vm create web --flake "$BASE"
	mode web hang
	on 1 vm update web --flake "$(base 2)" --no-wait
	until_true has build get web .status.update.step
	server_kill 1
	local left
	left=$(left_build web)
	[ -d "/proc/$left" ]
	mode web ok
	server_start 1
	until_true ended "$left"
	until_true agree 1
	until_true has updated get web .status.update.outcome
	has '2 2 2' numbers web
}
