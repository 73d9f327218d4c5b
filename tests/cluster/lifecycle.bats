#!/usr/bin/env bats
# One server as it is run, and what follows when its VMs end: restart policies, crash loops, a host that was
# restarted. The runner is the stand-in: it does what $T/n1/microvms/.fake/NAME says.
# shellcheck disable=SC2034 # PIDS and INSIDE are of helpers.bash

bats_require_minimum_version 1.5.0

setup() {
	load helpers.bash
	servers_setup
}

teardown() {
	servers_teardown
}

mode() { echo -n "$2" >"$T/n1/microvms/.fake/$1"; } # NAME MODE
field() { on 1 vm show "$1" -o json | jq -r "$2"; } # NAME FILTER
field_is() { [ "$(field "$1" "$2")" = "$3" ]; }     # NAME FILTER VALUE

# A boot id of its own: as after a restart of the host.
another_boot() {
	[ -s "$T/boot_id" ] || cat /proc/sys/kernel/random/uuid >"$T/boot_id"
	local user=(--user --map-root-user)
	# Root sees the processes of others as they are: another test's hypervisor stays a stranger.
	[ "$(id -u)" != 0 ] || user=()
	INSIDE=(unshare "${user[@]}" --mount sh -c
		'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"' sh "$T/boot_id")
}

@test "a runner that ends at once is a crash loop: 9 with its last words; a start ends the pause" {
	cluster_up 1
	mode web exit1
	run --separate-stderr on 1 vm create web --flake "$BASE#demo"
	[ "$status" = 9 ]
	[[ $stderr == *'crash loop: ended 3 times in a row, last with exit code 1'*'fake: cannot start'* ]]
	[ "$(field web '[.status.reason, .status.code] | @csv')" = '"runner-exited","start-failed"' ]
	run on 1 vm why web
	[[ $output == *CrashLoop* || $output == *Starting* ]]
	[[ $output == *crash-loop*'in a row, last with exit code 1'* ]]
	run --separate-stderr on 1 wait vm/web --for=running
	[ "$status" = 9 ]
	mode web ok
	on 1 vm start web
	field_is web .status.phase Running
	field_is web '.status.crashes // "none"' none
	mode web exit1
	run --separate-stderr on 1 vm restart web --force
	[ "$status" = 9 ]
	on 1 vm stop web
	field_is web .status.phase Stopped
	on 1 vm events web -o json | jq -e '[.items[].reason] | index("vm-crash-loop")'
	on 1 vm delete web
}

@test "always, on-failure and never, each after a clean end and after a kill" {
	local policy pid
	cluster_up 1
	for policy in always on-failure never; do
		on 1 vm create "$policy" --flake "$BASE#demo" --restart "$policy" --ready 'console:fake: ready'
		field_is "$policy" .spec.restartPolicy "$policy"
	done
	for policy in always on-failure never; do
		pid=$(field "$policy" .status.pid)
		kill -TERM "$pid" # the stand-in's clean end
	done
	until_true field_is on-failure .status.reason guest-shutdown
	until_true field_is never .status.reason guest-shutdown
	until_true field_is always .status.restarts 1
	until_true field_is always .status.ready true
	field_is on-failure '.status.phase + .spec.powerState' StoppedRunning
	field_is never .status.phase Stopped

	on 1 vm start on-failure never
	for policy in always on-failure never; do
		pid=$(field "$policy" .status.pid)
		kill -KILL "$pid"
	done
	until_true field_is never .status.phase Failed
	until_true field_is always .status.restarts 2
	until_true field_is on-failure .status.restarts 1
	until_true field_is on-failure .status.phase Running
	field_is never '[.status.reason, .status.exitCode] | @csv' '"runner-killed",137'
	run --separate-stderr on 1 vm create bad --flake "$BASE#demo" --restart sometimes
	[ "$status" = 64 ]
	[[ $stderr == *"'sometimes' is none of always, on-failure and never"* ]]
	on 1 vm delete --all --yes --force
}

@test "after a restart of the host what should run is started again, whatever its policy, and nothing else" {
	local name pid pids=() before
	cluster_up 1
	for name in web never off loop; do
		on 1 vm create "$name" --flake "$BASE#demo" --restart "$([ "$name" = never ] && echo never || echo on-failure)"
	done
	on 1 vm stop off
	mode loop exit1
	run on 1 vm restart loop --force
	[ "$status" = 9 ]
	before=$(field web .status.pid)
	server_kill 1
	mode loop ok
	for name in web never; do # the power goes: keeper first, so that it cannot tell
		for pid in $(jq -r '.shimPid, .pid' "$T/n1/run/vms/$name/status.json"); do
			kill -9 "$pid" && pids+=("$pid")
		done
	done
	for pid in "${pids[@]}"; do until_true ended "$pid"; done

	another_boot
	server_start 1
	for name in web never loop; do
		until_true field_is "$name" .status.phase Running
		on 1 vm events "$name" -o json | jq -e '[.items[].reason] | index("vm-host-restarted")'
		field_is "$name" '.status.crashes // "none"' none
	done
	[ "$(field web .status.pid)" != "$before" ]
	field_is web .status.restarts 0
	field_is off .status.phase Stopped

	# The same boot again: the daemon alone was restarted, and nothing is started anew.
	before=$(field web .status.pid)
	server_kill 1
	server_start 1
	until_true field_is web .status.phase Running
	[ "$(field web .status.pid)" = "$before" ]
	on 1 vm delete --all --yes --force
}

@test "delete keeps volume images in orphans, and with --volumes nothing at all" {
	cluster_up 1
	local uid
	on 1 vm create web --flake "${BASE/-source/-volume}#demo"
	echo precious >"$T/n1/microvms/web/data.img"
	uid=$(field web .metadata.uid)
	[ "$(field web .status.pinned)" = true ]
	on 1 vm why web | grep -q 'pinned.*data in its directory ties it to n1'
	on 1 vm delete web
	[ "$(cat "$T/n1/state/orphans/web-$uid/data.img")" = precious ]
	rm -r "$T/n1/state/orphans"
	on 1 vm create web --flake "${BASE/-source/-volume}#demo"
	echo scratch >"$T/n1/microvms/web/data.img"
	on 1 vm delete web --volumes
	[ ! -e "$T/n1/microvms/web" ]
	[ ! -e "$T/n1/state/orphans" ]
}

# The steps of the last operation, in a line.
steps() { field "$1" '.status.operation | [.verb, .steps[].name] | join(" ")'; }

@test "each step of a stop is in its operation: asked, terminated, killed; by force within a second" {
	cluster_up 1
	local begin
	on 1 vm create web --flake "$BASE#demo"
	[ "$(steps web)" = 'create resolve place build start run' ]
	on 1 vm stop web --grace 1s
	[[ $(steps web) == 'stop '*'term end' ]]
	on 1 vm events web | grep -q vm-terminated
	echo stubborn >"$T/n1/microvms/.fake/web"
	on 1 vm start web
	[[ $(steps web) == 'start place '*'start run' ]]
	on 1 vm stop web --grace 200ms --timeout 60s
	[[ $(steps web) == 'stop '*'term kill end' ]]
	on 1 vm events web | grep -q vm-killed
	on 1 vm show web | grep -qE '^ *operation +stop [0-9]+: .*term .*, kill .*, end '
	on 1 vm start web
	begin=${EPOCHREALTIME/./}
	on 1 vm stop web --force
	[ $((${EPOCHREALTIME/./} - begin)) -lt 1000000 ]
	[ "$(steps web)" = 'stop kill end' ]
	on 1 vm delete web
}

@test "a pause that cannot be is refused before it is in the log, or undone with its reason" {
	local before
	mkdir "$T/bin"
	ln -s /bin/false "$T/bin/crosvm"
	cluster_up 1 ".path = \"$T/bin:\" + .path"
	on 1 vm create other --flake 'path:/nix/store/00000000000000000000000000000000-crosvm?narHash=sha256-fake#demo'
	before=$(field other .metadata.revision)
	run --separate-stderr on 1 vm pause other
	[ "$status" = 5 ]
	[ "${stderr_lines[0]}" = "blix: vm other: crosvm cannot pause: its socket speaks a protocol that only its own program knows" ]
	field_is other .metadata.revision "$before"

	on 1 vm create web --flake "$BASE#demo"
	run --separate-stderr on 1 vm pause web # the stand-in has no socket
	[ "$status" = 5 ]
	[[ $stderr == *'no control socket in'* ]]
	field_is web '[.status.phase, .spec.powerState, .status.reason] | @csv' '"Running","Running","no-socket"'
	run --separate-stderr on 1 wait vm/web --for=running
	[ "$status" = 0 ]
	on 1 vm stop web --force
	run --separate-stderr on 1 vm resume web
	[ "$status" = 5 ]
	[[ $stderr == *'it does not run'*"hint: 'blix vm start' starts it"* ]]
	on 1 vm delete --all --yes --force
}

@test "set: labels at once; resources admitted again, built beside the VM, in force at its restart" {
	cluster_up 1
	local pid
	on 1 vm create web --flake "$BASE#demo" --cpus 1 --memory 64MiB
	pid=$(field web .status.pid)
	on 1 vm set web --label tier=front --restart never
	[ "$(field web '[.metadata.labels.tier, .spec.restartPolicy, .metadata.version] | @csv')" = '"front","never",2' ]
	[ "$(field web .status.stale)" != true ]
	on 1 vm set web --cpus 3 --memory 128MiB
	[ "$(field web '[.spec.cpus, .spec.memoryBytes, .status.resolved.cpus, .status.generation.desired] | @csv')" = '3,134217728,3,1' ]
	[ "$(field web .status.pid)" = "$pid" ] # it runs on
	[ "$(on 1 node show n1 -o json | jq '.status.committed.cpus')" = 3 ]
	on 1 vm restart web --force
	[ "$(field web .status.stale)" != true ]
	# Less is committed only once it is in force.
	on 1 vm set web --cpus 1
	run --separate-stderr on 1 vm set web --memory 1TiB
	[ "$status" = 6 ]
	[[ $stderr == *'no room'* ]]
	[ "$(field web .spec.memoryBytes)" = 134217728 ]
	run --separate-stderr on 1 vm set web
	[ "$status" = 64 ]
	run --separate-stderr on 1 vm set nobody --cpus 2
	[ "$status" = 3 ]
	[ "$(curl -s -o /dev/null -w '%{http_code}' --unix-socket "$T/n1/sock" -d '{"cpus":2}' "http://x/v1/vms/web/set?ifVersion=1")" = 409 ]
	# One that is stopped has the new resources at its next start.
	on 1 vm stop web --force
	on 1 vm set web --cpus 2
	on 1 vm start web
	[ "$(field web .status.resolved.cpus)" = 2 ]
	on 1 vm delete web
}

@test "set: resources that the flake does not take are undone, and the VM builds as before" {
	cluster_up 1
	on 1 vm create web --flake 'path:/nix/store/x-fewcpus-source?narHash=sha256-fake#demo' --cpus 2
	run --separate-stderr on 1 vm set web --cpus 3
	[ "$status" = 8 ]
	[[ $stderr == *'the edit was undone'*'so many CPUs'* ]]
	[ "$(field web '[.spec.cpus, .status.resolved.cpus, .status.phase] | @csv')" = '2,2,"Running"' ]
	[ "$(field web .status.stale)" != true ]
	[ "$(on 1 node show n1 -o json | jq '.status.committed.cpus')" = 2 ]
	rm "$T/n1/microvms/web/current" # so that it has to be built again
	on 1 vm restart web --force
	field_is web .status.phase Running
	on 1 vm delete web
}

unknown() { field_is web .status.phase Unknown; }
is_phase() { field_is web .status.phase "$1"; }

@test "a stop that is asked while a VM is Unknown holds when its process is gone: nothing starts it again" {
	local shim pid
	cluster_up 1
	on 1 vm create web --flake "$BASE#demo"
	shim=$(jq .shimPid "$T/n1/run/vms/web/status.json")
	pid=$(field web .status.pid)
	kill -9 "$shim"
	until_true unknown
	on 1 vm stop web --no-wait
	until_true unknown # the node looked, and cannot tell either
	kill -9 "$pid"
	until_true is_phase Stopped
	[ "$(field web .spec.powerState)" = Stopped ]
	[ "$(on 1 vm events web | grep -cE 'vm-retry|vm-failed')" = 0 ]
	on 1 vm start web
	field_is web .status.phase Running
	on 1 vm delete web
}
