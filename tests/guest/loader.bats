#!/usr/bin/env bats
# A real guest that has no agent loads it: the service that the wrapper flake puts into NixOS, its text run by the shell
# of another guest, over QEMU's virtio-serial port. It is loaded again when it ends, when the daemon dies in the middle,
# and when it comes late.

bats_require_minimum_version 1.5.0

setup_file() {
	load host.bash
	host_stage 3m
	# The agent is the example's, large enough to be caught on its way.
	export libexec=$work/libexec
	mkdir "$libexec"
	ln -s "$build"/libexec/* "$libexec/"
	gzip -dc "$work/guest/agent" | (cd "$work" && cpio --quiet -id bin/blix-agent)
	rm -f "$libexec/blix-agent"
	{ cat "$work/bin/blix-agent" && head -c 6000000 /dev/urandom; } >"$libexec/blix-agent"
	jq --arg dir "$libexec" '.libexecDir = $dir' "$work/blix.json" >"$work/new" && mv "$work/new" "$work/blix.json"
	host_start
}

teardown_file() {
	load host.bash
	host_remove
}

setup() {
	load host.bash
	load ../until.bash
	export WITHIN=90
}

loads() { # NAME: how often it was given the agent
	grep -c "vm.agent.loaded vm=$1" "$work/log" || :
}

runs() { # NAME
	[ "$(blix vm exec "$1" -- echo here 2>/dev/null)" = here ]
}

loading() { [ "$(loads "$1")" -gt "$2" ]; }

kill_daemon() {
	kill -9 "$(cat "$work/pid")"
	until_true ended "$(cat "$work/pid")"
}

@test "a guest without an agent is given this node's, and is ready by it" {
	blix vm create web --flake "$work/guest#loaded" --memory 256MiB --ready agent
	[ "$(blix vm exec web -- sh -c 'uname -s; ls /bin/blix-agent 2>&1; exit 3'; echo "$?")" = "$(printf '%s\n' Linux 'ls: /bin/blix-agent: No such file or directory' 3)" ]
	[ "$(loads web)" = 1 ]
	sum=$(sha256sum <"$libexec/blix-agent")
	[ "$(blix vm exec web -- sh -c 'sha256sum </run/blix/blix-agent; umask')" = "$sum"$'\n0022' ]
	[ "$(blix vm show web -o json | jq -r '[.status.agent.connected, .status.agent.ready] | @csv')" = true,true ]
}

# who NAME: what it calls itself, inside and as shown
who() {
	blix vm exec "$1" -- sh -c 'hostname; cat /etc/machine-id'
	blix vm show "$1" -o json | jq -r '.status.agent | .hostname, .machineId'
}

@test "it is told its name and machine id, once per boot" {
	id=$(blix vm exec web -- cat /etc/machine-id)
	[[ $id =~ ^[0-9a-f]{32}$ ]]
	[ "$(who web)" = "$(printf '%s\n' web "$id" web "$id")" ]
	[ "$(grep -c 'vm.identity.set vm=web' "$work/log")" = 1 ]
	blix vm exec web -- hostname other
	kill_daemon
	host_start
	until_true runs web
	[ "$(blix vm exec web -- hostname)" = other ]
	blix vm restart web
	until_true runs web
	[ "$(who web)" = "$(printf '%s\n' web "$id" web "$id")" ]
	[ "$(grep -c 'vm.identity.set vm=web' "$work/log")" = 2 ]
}

@test "an agent that ends is loaded again" {
	before=$(loads web)
	blix vm exec web -- sh -c 'kill -9 $PPID' || :
	until_true loading web "$before"
	until_true runs web
}

@test "a daemon that dies in the middle of the load: the next one gives it whole" {
	before=$(loads web)
	blix vm exec web -- sh -c 'kill -9 $PPID' || :
	until_true loading web "$before"
	kill_daemon
	host_start
	until_true runs web
	[ "$(loads web)" -ge $((before + 2)) ]
	[ "$(blix vm show web -o json | jq .status.restarts)" = 0 ]
}

@test "a node without the agent says so everywhere, and gives it once it is there" {
	mv "$libexec/blix-agent" "$work/kept"
	blix vm create none --flake "$work/guest#loaded" --memory 256MiB
	words="this node has no agent for the guest to load: $libexec/blix-agent"
	told() { grep -qF "vm.agent.refused vm=none error=\"$words\"" "$work/log"; }
	until_true told
	run --separate-stderr blix vm exec none -- true
	[ "$status" = 125 ]
	[[ ${stderr_lines[0]} == "blix: vm none: no agent answers in the guest: $words" ]]
	[[ $(blix vm show none) == *"agent "*"$words"* ]]
	[ "$(blix vm show none -o json | jq -r '[.status.agent.connected, .status.agent.message] | @tsv')" = "false"$'\t'"$words" ]
	run blix doctor
	[[ $output == *"$libexec/blix-agent is not there"* ]]
	runs web
	mv "$work/kept" "$libexec/blix-agent"
	until_true runs none
	[ "$(blix vm show none -o json | jq .status.agent.message)" = null ]
	blix vm delete none --force
}

@test "a plain VM is not touched: nobody gives it an agent" {
	blix vm create plain --flake "$work/guest#loaded" --plain
	[ ! -e "$work/s/microvms/plain/blix.agent" ]
	run --separate-stderr blix vm exec plain -- true
	[ "$status" = 125 ]
	[[ $stderr == *"created with --plain"* ]]
	blix vm delete plain --force
}

@test "it goes down by its agent" {
	blix vm stop web
	[ "$(blix vm show web -o json | jq -r '[.status.phase, .status.exitCode] | @csv')" = '"Stopped",0' ]
	[[ $(blix vm logs web) == *'blix: powering off'* ]]
	blix vm delete web
}
