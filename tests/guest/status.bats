#!/usr/bin/env bats
# A shim, microvm-status and QEMU's own monitor, with the toy guest that only says that it is ready.

bats_require_minimum_version 1.5.0

setup() {
	load ../until.bash
	BUILD=$(realpath "${BLIX_BUILD:-$BATS_TEST_DIRNAME/../../build/debug}")
	PATH=$BUILD/bin:$BUILD/libexec:$PATH
	T=$(realpath "$(mktemp -d)")
	cd "$T" || exit 1
	mkdir -p state/toy run runner/bin runner/share/microvm
	ln -s "$T/runner" state/toy/current
	echo qemu >runner/share/microvm/hypervisor
	cat >runner/bin/microvm-run <<-EOF
		#!/bin/bash
		exec -a microvm@toy qemu-system-x86_64 -M microvm,accel=tcg -cpu qemu64 -m 16 -nodefaults \\
			-no-user-config -display none -serial stdio -no-reboot \\
			-qmp unix:toy.sock,server,nowait -kernel $BUILD/libexec/toy.elf
	EOF
	chmod +x runner/bin/microvm-run
}

teardown() {
	for pid in ${pid:-} $(jq -r ".shimPid, .pid" run/toy/status.json 2>/dev/null); do
		kill -9 "$pid" 2>/dev/null || true
	done
	cd / && rm -rf "$T"
}

look() {
	microvm-status --state-dir state --run-dir run --systemd-dir none toy | jq -cr ".items[0] | $1"
}

looks_like() {
	[ "$(look "$1")" = "$2" ]
}

@test "a real QEMU is running, answers, outlives its shim, and ends" {
	blix-shim --run run/toy --console console.log --chdir state/toy -- current/bin/microvm-run
	until_true grep -q "READY toy" console.log
	until_true looks_like '[.state, .supervision, .control.status] | @csv' '"running","shim","running"'
	pid=$(look .process.pid)
	grep -q '^microvm@toy' "/proc/$pid/cmdline"
	kill -9 "$(look .process.shimPid)"
	until_true looks_like '[.state, .control.status] | @csv' '"unknown","running"'
	rm -r run/toy
	until_true looks_like '[.state, .supervision, .process.pid] | @csv' "\"running\",\"none\",$pid"
	kill "$pid"
	until_true looks_like .state stopped
}

@test "the end of a real QEMU is on record" {
	blix-shim --run run/toy --console console.log --chdir state/toy -- current/bin/microvm-run
	until_true grep -q "READY toy" console.log
	kill "$(look .process.shimPid)"
	until_true looks_like '[.state, .exit.exitCode] | @csv' '"stopped",0'
}
