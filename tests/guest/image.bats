#!/usr/bin/env bats
# Images that are damaged on the disk, for real: the toy guest's runner in the machine's Nix store is altered, removed
# and collected. Its flake is of this test alone, so nothing else uses these store paths.

bats_require_minimum_version 1.5.0

load host.bash

setup_file() {
	host_stage 2m
	sed -i "s/hostname=unnamed\" else \"\"/hostname=unnamed\" else \" blix.of=${work##*.}\"/" "$work/guest/flake.nix"
	grep -q "blix.of=${work##*.}" "$work/guest/flake.nix"
	rm "$work/guest/vmlinuz" "$work/guest/initrd" # small: this is about the toy
	touch "$work/guest/vmlinuz" "$work/guest/initrd"
	host_start
	blix vm create web --flake "$work/guest#toy" --ready 'console:READY toy'
	field .status.runner >"$work/runner"
}

teardown_file() {
	[ ! -e "$work/kernel" ] || cp "$work/toy.elf" "$(cat "$work/kernel")/toy.elf" # the store is whole again
	host_remove
}

setup() {
	runner=$(cat "$work/runner")
	[[ $runner == /nix/store/*-microvm-qemu-* ]]
	blix vm stop web --force
}

field() { # JQ
	blix vm show web -o json | jq -r "$1"
}

is_failed() {
	[ "$(field .status.phase)" = Failed ]
}

last_repair() {
	blix vm events web -o json | jq -r '[.items[] | select(.reason == "vm-image-repaired")][-1].message'
}

whole() {
	nix-store --verify-path "$runner"
}

@test "an altered runner is repaired, and the altered one never runs" {
	chmod -R u+w "$runner"
	printf '#!/bin/sh\necho altered\n' >"$runner/bin/microvm-run"
	run ! whole
	blix vm start web
	[ "$(last_repair)" = "image-corrupt: $runner" ]
	whole
	run ! grep -q altered <(blix vm logs web)
	[ "$(field .status.restarts)" = 0 ]
}

@test "a runner that was removed is made again" {
	chmod -R u+w "$runner"
	rm -rf "$runner"
	[ -L "$work/s/microvms/web/current" ]
	blix vm start web
	[ "$(last_repair)" = "image-missing: $runner" ]
	whole
}

@test "a runner that was collected is built again from its lock" {
	mkdir "$work/aside"
	mv "$roots"/* "$work/aside/"
	rm -f "$work/s/microvms/web/current" "$work/s/microvms/web/booted"
	nix-store --delete "$runner"
	[ ! -e "$runner" ]
	ln -s "$runner" "$work/s/microvms/web/current"
	blix vm start web
	[ "$(last_repair)" = "image-missing: $runner" ]
	whole
	mv "$work/aside"/* "$roots/"
}

@test "an altered kernel is found by the crash that it makes, and said" {
	kernel=$(nix-store --query --requisites "$runner" | grep -- '-source$')
	echo "$kernel" >"$work/kernel"
	cp "$kernel/toy.elf" "$work/toy.elf"
	chmod -R u+w "$kernel"
	echo "no kernel" >"$kernel/toy.elf"
	run blix vm start web --no-wait
	await is_failed
	[ "$(field '[.status.reason, .status.class] | @csv')" = '"image-corrupt","image"' ]
}
