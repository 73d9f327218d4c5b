#!/usr/bin/env bats
# What a start would run is looked at first: missing or altered, it is repaired, and said so. Nix is a stand-in;
# tests/guest does the same with a real store.

bats_require_minimum_version 1.5.0

setup() {
	load helpers
	servers_setup
	cp -r "$FAKE" "$T/fake" # its store is to be damaged
	FAKE=$T/fake
	cluster_up 1 '.retryMs = 20'
}

teardown() {
	servers_teardown
}

get() { # NAME FILTER
	on 1 vm show "$1" -o json | jq -r "$2"
}

wrong() { # WHAT
	echo "$1" >"$T/n1/microvms/.fake/verify"
}

asked() { # WORDS: how often nix-store was called so
	tr '\0' ' ' <"$T/n1/microvms/.fake/log" | grep -c -- "^nix-store $1" || true
}

repaired() { # NAME: what the last event of it says
	on 1 vm events "$1" -o json | jq -r '[.items[] | select(.reason == "vm-image-repaired")][-1].message'
}

stopped() {
	on 1 vm create web --flake "$BASE"
	on 1 vm stop web
}

@test "each start looks at the runner alone, once" {
	stopped
	[ "$(asked --verify-path)" = 1 ]
	on 1 vm start web
	[ "$(asked --verify-path)" = 2 ]
	[ "$(asked '--query\|^nix-store --repair')" = 0 ]
}

@test "an altered runner is repaired before it runs" {
	stopped
	wrong modified
	on 1 vm start web
	[ "$(get web .status.phase)" = Running ]
	[ "$(get web .status.restarts)" = 0 ]
	[ "$(repaired web)" = "image-corrupt: $FAKE/store" ]
	[ "$(asked --repair-path)" = 1 ]
	grep -q 'event=vm.image.damaged vm=web reason=image-corrupt' "$T/n1/log"
}

@test "a runner that is gone is repaired; one that Nix does not know is built again" {
	stopped
	wrong gone
	on 1 vm start web
	[ "$(repaired web)" = "image-missing: $FAKE/store" ]
	on 1 vm stop web
	wrong invalid
	on 1 vm start web
	[ "$(get web .status.phase)" = Running ]
	[ "$(asked --repair-path)" = 1 ]
	[ "$(on 1 vm events web -o json | jq '[.items[] | select(.reason == "vm-image-repaired")] | length')" = 2 ]
}

@test "a current link that leads nowhere is no runner" {
	stopped
	mv "$FAKE/store/bin/microvm-run" "$T/aside"
	run --separate-stderr on 1 vm start web
	mv "$T/aside" "$FAKE/store/bin/microvm-run"
	[ "$status" = 8 ]
	[ "$(get web '[.status.phase, .status.code, .status.reason, .status.class] | @csv')" = \
		'"Failed","image-failed","image-missing","image"' ]
	on 1 vm start web
	[ "$(get web .status.phase)" = Running ]
}

@test "what cannot be repaired fails with its reason: 8" {
	stopped
	wrong modified
	touch "$T/n1/microvms/.fake/hopeless"
	run --separate-stderr on 1 vm start web
	[ "$status" = 8 ]
	[[ $stderr == *'altered, and could not be repaired'* ]]
	[[ $stderr == *'cannot repair path'* ]]
	[ "$(get web '[.status.phase, .status.reason, .status.class] | @csv')" = '"Failed","image-corrupt","image"' ]
	on 1 vm why web | grep -q image-corrupt
}

@test "an altered kernel is found when the VM crashes, once in a row of crashes" {
	stopped
	wrong kernel
	echo exit1 >"$T/n1/microvms/.fake/web"
	run --separate-stderr on 1 vm start web

	[ "$status" = 9 ]
	until_true test "$(repaired web)" = "image-corrupt: $FAKE/store"
	[ "$(asked --query)" -le 2 ] # a look, and one after the repair
	echo ok >"$T/n1/microvms/.fake/web"
	on 1 vm restart web
	[ "$(get web .status.phase)" = Running ]
}

@test "a Nix that cannot look keeps nothing from starting" {
	stopped
	wrong broken
	on 1 vm start web
	[ "$(get web .status.phase)" = Running ]
	grep -q 'event=vm.image.unverified vm=web' "$T/n1/log"
}
