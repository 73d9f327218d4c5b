#!/usr/bin/env bats
# The whole way for real: blix, blixd, Nix, the microvm command, the shim, QEMU and a Linux guest. The daemon gives its
# children an environment of their own, so this uses the machine's Nix store; roots and directories are the test's.

bats_require_minimum_version 1.5.0

load host.bash

setup_file() {
	host_stage 3m
	host_start
}

teardown_file() { host_remove; }

@test "create waits until the guest is ready, with the memory that was asked for" {
	run --separate-stderr blix vm create web --flake "$work/guest#demo" --memory 200MiB --ready 'console:blix: ready'
	[ "$status" = 0 ]
	[[ $stderr == *'Running and ready on host'* ]]
	[ "$(field web '[.status.phase, .status.ready, .status.resolved.memoryBytes] | @csv')" = '"Running",true,209715200' ]
	kb=$(blix vm logs web | tr -d '\r' | sed -nE 's/^MemTotal: +([0-9]+) kB$/\1/p')
	[ "$kb" -gt $((128 * 1024)) ] # more than the flake's own 128 MiB
	[ "$kb" -lt $((200 * 1024)) ]
	[ "$(field web '.status.timings | has("resolveMs") and has("startMs") and has("readyMs")')" = true ]
	kill -0 "$(field web .status.pid)"
}

@test "what a guest uses moves when it works" {
	blix vm create busy --flake "$work/guest#demo" --no-wait
	await blix wait vm/busy --for=running
	early=$(blix vm metrics busy -o json | jq -c ".items[0].status.usage")
	await eval 'blix vm logs busy | grep -q "blix: ready"' # booting is work
	late=$(blix vm metrics busy -o json | jq -c ".items[0].status.usage")
	jq -n --argjson a "$early" --argjson b "$late" \
		-e '$b.cpuMs >= $a.cpuMs + 500 and $b.memoryBytes > $a.memoryBytes and $b.sampledAt > $a.sampledAt'
	[ "$(jq 'has("diskReadBytes") and (has("netRxBytes") | not)' <<<"$late")" = true ] # QEMU was asked; no tap
	[ "$(field busy '.status.usage.cpuMs >= 500')" = true ]
	blix vm delete busy --force
}

@test "microvm-status agrees, and asks QEMU itself" {
	run microvm-status --state-dir "$work/s/microvms" --run-dir "$work/s/run/vms" web
	[ "$status" = 0 ]
	[ "$(jq -r '.items[0] | [.state, .supervision, .control.status, .stale] | @csv' <<<"$output")" = '"running","shim","running",false' ]
}

@test "kill -9 of the daemon leaves the VM alone; the next one adopts it" {
	pid=$(field web .status.pid)
	host_kill
	kill -0 "$pid"
	host_start
	await grep -q "vm.adopted vm=web pid=$pid" "$work/log"
	[ "$(field web '[.status.phase, .status.pid, .status.restarts] | @csv')" = "\"Running\",$pid,0" ]
}

@test "pause holds the guest, a new daemon knows it, resume lets it go on" {
	pid=$(field web .status.pid)
	blix vm pause web
	[ "$(field web '[.status.phase, .spec.powerState, .status.pid] | @csv')" = "\"Paused\",\"Paused\",$pid" ]
	# Its own word for it, and what QEMU says.
	run microvm-status --state-dir "$work/s/microvms" --run-dir "$work/s/run/vms" web
	[ "$(jq -r '.items[0].control.status' <<<"$output")" = paused ]
	host_kill
	host_start
	await grep -q "vm.adopted vm=web pid=$pid" "$work/log"
	[ "$(field web .status.phase)" = Paused ]
	blix vm resume web
	[ "$(field web '[.status.phase, .status.ready, .status.pid, .status.restarts] | @csv')" = "\"Running\",true,$pid,0" ]
	blix vm pause web # and so it is stopped, gracefully: below
}

@test "stop asks the guest, which says goodbye" {
	pid=$(field web .status.pid)
	blix vm stop web
	[ "$(field web '[.status.phase, .status.exitCode] | @csv')" = '"Stopped",0' ]
	blix vm logs web | grep -q 'blix: powering off'
	run ! kill -0 "$pid"
}

@test "start runs it again on the same build, and a forced restart is another process" {
	runner=$(field web .status.runner)
	blix vm start web
	[ "$(field web .status.runner)" = "$runner" ]
	pid=$(field web .status.pid)
	blix vm restart web --force
	[ "$(field web .status.phase)" = Running ]
	[ "$(field web .status.pid)" != "$pid" ]
}

@test "a guest that powers itself off is Stopped, and stays so" {
	blix vm create bye --flake "$work/guest#demo" --ready 'console:blix: ready'
	pid=$(field bye .status.pid)
	kill -TERM "$pid" # QEMU's own clean end: exit code 0
	await blix wait vm/bye --for=stopped
	[ "$(field bye '[.status.reason, .spec.powerState] | @csv')" = '"guest-shutdown","Running"' ]
}

@test "a build that fails shows its last words and ends with 8" {
	run --separate-stderr blix vm create bad --flake "$work/guest#broken"
	[ "$status" = 8 ]
	[[ $stderr == *hint:* ]]
	[ "$(field bad '[.status.phase, .status.code] | @csv')" = '"Failed","image-failed"' ]
}

@test "a runner that ends at once is a crash loop after the third time, and ends with 9" {
	# Until it is ready, which it never is: a busy machine may well see it run.
	run --separate-stderr blix vm create gone --flake "$work/guest#exits" --ready 'console:blix: ready'
	echo "$status: $stderr" >&2
	[ "$status" = 9 ]
	[[ $stderr == *'crash loop: ended '*' times in a row'* ]]
	[ "$(field gone '.status.crashes.count >= 3')" = true ]
	blix vm why gone | grep -q runner-exited
}

@test "a guest that never says so is not ready: 10, and it runs on" {
	run --separate-stderr blix vm create mute --flake "$work/guest#mute" --ready 'console:blix: ready' --timeout 5s
	[ "$status" = 10 ]
	[ "$(field mute '[.status.phase, .status.ready] | @csv')" = '"Running",false' ]
}

memory_of() { blix vm logs "$1" | tr -d '\r' | sed -nE 's/^MemTotal: +([0-9]+) kB$/\1/p' | tail -n 1; }

@test "set gives a guest more memory at its restart, and until then says that it is stale" {
	blix vm create grow --flake "$work/guest#demo" --memory 192MiB --ready 'console:blix: ready'
	local before
	before=$(memory_of grow)
	blix vm set grow --memory 320MiB
	[ "$(field grow .status.stale)" = true ]
	[ "$(field grow .status.phase)" = Running ]
	blix vm restart grow
	blix wait vm/grow --for=ready
	[ "$(field grow .status.stale)" != true ]
	[ "$(memory_of grow)" -gt $((before + 100000)) ]
	blix vm delete grow
}

@test "delete leaves nothing" {
	blix vm delete --all --force --yes
	[ -z "$(blix vm list -o name)" ]
	[ -z "$(ls -A "$work/s/microvms")" ]
	[ -z "$(ls -A "$work/s/vms")" ]
	[ -z "$(ls -A "$work/s/run/vms")" ]
	[ -z "$(ls -A "/nix/var/nix/gcroots/${work##*/}" 2>/dev/null)" ]
	[ -z "$(find /nix/var/nix/gcroots/auto -lname "$work/*")" ]
	run ! pgrep -f "$work/s/microvms"
}
