#!/usr/bin/env bats
# A microVM that the real `microvm` command made with the real Nix is adopted and run. Its guest is the toy.

bats_require_minimum_version 1.5.0

load host.bash

setup_file() {
	host_stage 2m
	host_start
}

teardown_file() {
	host_remove
}

field() { # JQ
	blix vm show toy -o json | jq -r "$1"
}

@test "what microvm -c made is adopted with its runner, started, and deleted with its roots" {
	MICROVM_STATE_DIR=$work/s/microvms MICROVM_GCROOTS_DIR=$roots NIX_CONFIG=$'sandbox = false\nbuild-users-group =\nsubstituters =' \
		"$build/libexec/microvm" -f "path:$work/guest" -c toy
	runner=$(readlink "$work/s/microvms/toy/current")
	blix vm adopt toy --node host
	[ "$(field '[.status.phase, .status.adopted, .status.resolved.outPath] | @csv')" = "\"Stopped\",true,\"$runner\"" ]
	blix vm start toy
	[ "$(field '[.status.phase, .status.runner] | @csv')" = "\"Running\",\"$runner\"" ]
	await grep -q 'READY toy' "$work/s/vms/toy/console.log"
	[ "$(cat "$work/s/microvms/toy/.blix-flake")" = "path:$work/guest" ]
	nix-store --query --roots "$runner" | grep -q "$roots/toy.1"
	blix vm delete toy --force
	[ ! -e "$work/s/microvms/toy" ]
	[ -z "$(ls -A "$roots")" ]
}
