#!/usr/bin/env bats
# Systems that change, for real: two variants of the example guest, built by Nix, booted by QEMU. One boot takes about
# 5 s. The machine's Nix store is used; roots and directories are the test's.

bats_require_minimum_version 1.5.0

load host.bash

setup_file() {
	host_stage 3m
	cp -r "$work/guest" "$work/guest2"
	sed -i 's/hostname=unnamed" else ""/hostname=unnamed" else " blix.variant=two"/' "$work/guest2/flake.nix"
	grep -q blix.variant=two "$work/guest2/flake.nix"
	host_start
}

teardown_file() {
	host_remove
}

says() { # NAME TEXT: on the console of this run
	blix vm logs "$1" | tr -d '\r' | grep -q "$2"
}

# What the kernel of its guest was started with.
variant() { # NAME
	tr '\0' ' ' <"/proc/$(field "$1" .status.pid)/cmdline"
}

@test "an update builds the new system beside the old one, and boots it" {
	blix vm create web --flake "$work/guest#demo" --memory 200MiB --ready 'console:blix: ready'
	field web .status.runner >"$work/first"
	says web 'blix: ready web'
	run --separate-stderr blix vm update web --flake "$work/guest2#demo"
	echo "$stderr"
	[ "$status" = 0 ]
	[ "$(field web '[.status.generation.booted, .status.ready, .status.update.outcome] | @csv')" = '2,true,"updated"' ]
	says web 'blix: ready'
	variant web | grep -q 'blix.variant=two'
	[ "$(field web .status.runner)" != "$(cat "$work/first")" ]
	grep -q 'blix: powering off' "$work/s/vms/web/console.log.1" # the old one was asked, and had its last words
	[ "$(field web .status.resolved.memoryBytes)" = 209715200 ]
}

@test "what is on the disk already is no news" {
	run --separate-stderr blix vm update web --flake "$work/guest2#demo"
	[ "$status" = 0 ]
	[[ $stderr == *'unchanged, generation 2'* ]]
	[ "$(blix vm history web -o name | xargs)" = '2 1' ]
}

@test "each generation is rooted: Nix would not collect the old one" {
	nix-store --query --roots "$(cat "$work/first")" | grep -q "$roots/web.1"
	nix-store --query --roots "$(field web .status.runner)" | grep -q "$roots/web.2"
}

@test "rollback brings the old system really back" {
	blix vm rollback web
	[ "$(field web .status.runner)" = "$(cat "$work/first")" ]
	says web 'blix: ready web'
	[ "$(field web '[.status.generation.desired, .status.generation.booted] | @csv')" = 1,1 ]
	run ! grep -q blix.variant <(variant web)
}

@test "what was rolled back to has its own lock, and the memory that the VM was created with" {
	lock=$(blix vm history web -o json | jq -r '.items[] | select(.number == 1).lock')
	[ "$(blix vm history web -o json | jq -r '.items[] | select(.desired).lock')" = "$lock" ]
	kb=$(blix vm logs web | tr -d '\r' | sed -nE 's/^MemTotal: +([0-9]+) kB$/\1/p')
	[ "$kb" -gt $((150 * 1024)) ]
}

@test "a system that never says that it is ready is rolled back in time: 10, the old one is back and ready" {
	run --separate-stderr blix vm update web --flake "$work/guest#mute" --auto-rollback --deadline 12s
	echo "$stderr"
	[ "$status" = 10 ]
	[[ $stderr == *'rolled back'* ]]
	await blix wait vm/web --for=ready
	[ "$(field web '[.status.runner, .status.update.outcome] | @csv')" = "\"$(cat "$work/first")\",\"rolled-back\"" ]
	says web 'blix: ready web'
}

@test "a system that ends at once is rolled back: 9; one that does not build changes nothing: 8" {
	run --separate-stderr blix vm update web --flake "$work/guest#exits" --auto-rollback
	[ "$status" = 9 ]
	await blix wait vm/web --for=ready
	pid=$(field web .status.pid)
	run --separate-stderr blix vm update web --flake "$work/guest#broken"
	[ "$status" = 8 ]
	[[ $stderr == *'broken on purpose'* ]]
	[ "$(field web .status.pid)" = "$pid" ]
}

@test "delete leaves no root of any generation" {
	blix vm delete web --force
	[ -z "$(ls -A "$roots")" ]
	[ -z "$(find /nix/var/nix/gcroots/auto -lname "$work/*")" ]
}
