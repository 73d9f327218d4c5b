#!/usr/bin/env bats
# microvm-status on state directories made by hand: what is ours, what runs, and that nothing that
# is broken or silent keeps it from telling about the rest.

# Each @test is a subshell, and has its own list of what it started.
# shellcheck disable=SC2030,SC2031

bats_require_minimum_version 1.5.0

setup() {
	load ../until.bash
	BUILD=$(realpath "${BLIX_BUILD:-$BATS_TEST_DIRNAME/../../build/debug}")
	FAKE=$(realpath "$BATS_TEST_DIRNAME/../fake")
	PATH=$BUILD/bin:$BUILD/libexec:$PATH
	T=$(realpath "$(mktemp -d)")
	cd "$T" || exit 1
	mkdir state run
	started=()
}

teardown() {
	local pid

	for pid in "${started[@]}" $(jq -r '.shimPid, .pid' "$T"/run/*/status.json 2>/dev/null); do
		kill -9 "$pid" 2>/dev/null || true
	done
	[ -z "${GROUP:-}" ] || until_true remove_group
	cd / && rm -rf "$T"
}

remove_group() {
	[ -d "${GROUP%/*}" ] || return 0
	find "${GROUP%/*}" -depth -type d -exec rmdir {} + 2>/dev/null
}

# The list is printed, whatever the exit code; `got FILTER` looks into it.
look() {
	microvm-status --state-dir "$T/state" --run-dir "$T/run" --systemd-dir "$T/systemd" \
		--timeout 2000 "$@" >out
}

got() {
	jq -cr "$1" out
}

# vm NAME [HYPERVISOR]: a directory with a runner.
vm() {
	local runner=$T/store/$1

	mkdir -p "state/$1" "$runner/share/microvm" "$runner/bin"
	echo "${2:-qemu}" >"$runner/share/microvm/hypervisor"
	ln -s "$runner" "state/$1/current"
}

ours() {
	echo "{\"cluster\":\"c1\",\"uid\":\"$2\",\"epoch\":3}" >"state/$1/.blix.json"
}

# fake_vmm SOCKET MODE [ARG]
fake_vmm() {
	mkfifo ready
	"$FAKE/vmm" "$@" >ready 3>&- &
	started+=($!)
	read -r _ <ready
	rm ready
}

shim() {
	local name=$1

	shift
	blix-shim --run "run/$name" --console console.log --chdir "state/$name" "$@"
}

recorded() {
	jq -r ".$2" "run/$1/status.json"
}

@test "no state directory, an empty one: an empty list" {
	look
	[ "$(got '[.apiVersion, .kind, (.items | length)] | @csv')" = '"blix/v1","MicrovmList",0' ]
	[ "$(got .bootId)" = "$(cat /proc/sys/kernel/random/boot_id)" ]
	rmdir state
	look
	[ "$(got .items)" = '[]' ]
}

@test "an unknown name is 3 and an item with an error; the others are told" {
	vm web
	run -3 look nobody web ../web . ''
	[ "$(got '[.items[].name]')" = '["nobody","web","../web",".",null]' ]
	[ "$(got '.items[0].error')" = "no microVM of this name" ]
	[ "$(got '.items[1].state')" = stopped ]
	[ "$(got '.items[2] | has("state")')" = false ]
}

@test "a stopped VM: runner, booted, stale, volumes, taps" {
	vm web
	ours web u-1
	ln -s "$T/store/other" state/web/booted
	truncate -s 1M state/web/data.img
	printf 'lo\nvm-nope\n' >store/web/share/microvm/tap-interfaces
	look web
	[ "$(got '.items[0] | [.ours.uid, .ours.epoch, .ours.cluster] | @csv')" = '"u-1",3,"c1"' ]
	[ "$(got '.items[0] | [.hypervisor, .runner, .stale] | @csv')" = "\"qemu\",\"$T/store/web\",true" ]
	[ "$(got '.items[0].booted')" = "$T/store/other" ]
	[ "$(got '.items[0] | [.state, .supervision] | @csv')" = '"stopped","none"' ]
	[ "$(got '.items[0].volumes')" = '[{"image":"data.img","sizeBytes":1048576,"allocatedBytes":0}]' ]
	[ "$(got '.items[0].taps')" = '[{"name":"lo","up":true},{"name":"vm-nope","up":false}]' ]
	[ "$(got '.items[0] | has("error") or has("foreign") or has("process")')" = false ]
	ln -sfn "$T/store/web" state/web/booted
	look web
	[ "$(got '.items[0].stale')" = false ]
}

@test "ours is only what a whole and plain marker says" {
	local bad

	vm web
	look web
	[ "$(got '.items[0] | [.foreign, has("ours"), has("error")]')" = '[true,false,false]' ]
	for bad in '' '{' '[]' '{"cluster":"c","uid":"u"}' '{"cluster":"","uid":"u","epoch":1}' \
		'{"cluster":"c","uid":"u","epoch":-1}' '{"cluster":"c","uid":"u","epoch":1,"x":1}' \
		'{"cluster":"c","uid":[],"epoch":1}' '{"cluster":"c","uid":"u","epoch":1}{}' \
		'{"cluster":"c","uid":"u","uid":"v","epoch":1}'; do
		printf '%s' "$bad" >state/web/.blix.json
		look web
		[ "$(got '.items[0] | [.foreign, has("ours"), has("error")]')" = '[true,false,true]' ]
	done
	rm state/web/.blix.json
	echo '{"cluster":"c","uid":"u","epoch":1}' >elsewhere.json
	ln -s "$T/elsewhere.json" state/web/.blix.json
	look web
	[ "$(got '.items[0] | [.foreign, has("ours"), has("error")]')" = '[true,false,true]' ]
	rm state/web/.blix.json
	mkfifo state/web/.blix.json
	look web
	[ "$(got '.items[0] | [.foreign, has("ours"), has("error")]')" = '[true,false,true]' ]
	rm state/web/.blix.json
	echo '{"cluster":"c","uid":7,"epoch":1}' >state/web/.blix.json
	look web
	[ "$(got '.items[0].ours')" = '{"cluster":"c","uid":7,"epoch":1}' ]
	ln -s web state/linked
	look linked
	[ "$(got '.items[0] | [.foreign, has("ours")]')" = '[true,false]' ]
}

@test "under a shim: running, then stopped with its exit code" {
	vm web
	ours web u-1
	shim web --uid u-1 -- sleep 1000
	fake_vmm state/web/web.sock qmp running
	look web
	[ "$(got '.items[0] | [.state, .supervision, .control.status] | @csv')" = '"running","shim","running"' ]
	[ "$(got '.items[0].process.pid')" = "$(recorded web pid)" ]
	[ "$(got '.items[0].process.startTime')" = "$(recorded web startTime)" ]
	[ "$(got '.items[0].process.shimPid')" = "$(recorded web shimPid)" ]
	[ "$(got '.items[0].process.shimStartTime')" = "$(recorded web shimStartTime)" ]
	[[ "$(got '.items[0].process.startedAt')" == 20*T*Z ]]
	[ "$(got '.items[0] | has("exit") or has("error")')" = false ]
	kill "${started[@]}"
	kill -9 "$(recorded web pid)"
	until_true ended "$(recorded web shimPid)"
	look web
	[ "$(got '.items[0] | [.state, .supervision, .control.reason] | @csv')" = '"stopped","none","refused"' ]
	[ "$(got '.items[0].exit.signal')" = 9 ]
	[[ "$(got '.items[0].exit.endedAt')" == 20*T*Z ]]
}

@test "a process that outlived its shim: unknown, and said so" {
	vm web
	shim web -- sleep 1000
	kill -9 "$(recorded web shimPid)"
	until_true ended "$(recorded web shimPid)"
	look web
	[ "$(got '.items[0].state')" = unknown ]
	[[ "$(got '.items[0].error')" == *"outlived its shim"* ]]
	[ "$(got '.items[0].process.pid')" = "$(recorded web pid)" ]
}

@test "a record of another boot, or of a pid that was reused, is no process" {
	vm web
	mkdir run/web
	sleep 1000 3>&- &
	started+=($!)
	echo "{\"pid\":$!,\"startTime\":1,\"bootId\":\"$(cat /proc/sys/kernel/random/boot_id)\"}" >run/web/status.json
	look web
	[ "$(got '.items[0] | [.state, has("process")] | @csv')" = '"stopped",false' ]
	ticks=$(sed 's/.*) //' "/proc/$!/stat" | cut -d' ' -f20)
	echo "{\"pid\":$!,\"startTime\":$ticks,\"bootId\":\"00000000-0000-0000-0000-000000000000\"}" >run/web/status.json
	look web
	[ "$(got '.items[0] | [.state, has("process")] | @csv')" = '"stopped",false' ]
	echo "{\"pid\":$!,\"startTime\":$ticks,\"bootId\":\"$(cat /proc/sys/kernel/random/boot_id)\"}" >run/web/status.json
	look web
	[ "$(got '.items[0] | [.state, has("process")] | @csv')" = '"unknown",true' ]
}

# Names a control group that does not exist yet, in one of the test's own.
group() {
	local root=/sys/fs/cgroup

	[ -e $root/cgroup.procs ] || root=$root/unified
	[ -w $root/cgroup.procs ] || skip "cgroup2: no cgroup v2 that may be written"
	GROUP=$root/blixtest-$$-$BATS_TEST_NUMBER/vm-17-3
}

@test "under a shim in a control group: the group is told, and is part of who it is" {
	group
	vm web
	shim web --cgroup "$GROUP" -- sleep 1000
	look web
	[ "$(got '.items[0] | [.state, .process.cgroup] | @csv')" = "\"running\",\"$GROUP\"" ]
	echo "$(recorded web pid)" >"${GROUP%/*}/cgroup.procs"
	look web
	[ "$(got '.items[0].state')" = unknown ]
	[[ "$(got '.items[0].error')" == *"is not in $GROUP"* ]]
	kill -9 "$(recorded web pid)"
	until_true ended "$(recorded web shimPid)"
	look web
	[ "$(got '.items[0].state')" = stopped ]
	[ ! -e "$GROUP" ]
}

@test "what a program left behind without its shim is unknown until it is gone" {
	group
	vm web
	shim web --cgroup "$GROUP" -- sh -c 'setsid sleep 1000 & echo $! >"$0"; exec sleep 1000' "$T/left"
	until_true [ -s left ]
	kill -9 "$(recorded web shimPid)" "$(recorded web pid)"
	until_true ended "$(recorded web pid)"
	look web
	[ "$(got '.items[0].state')" = unknown ]
	[[ "$(got '.items[0].error')" == *"are left in $GROUP"* ]]
	kill -9 "$(cat left)"
	until_true ended "$(cat left)"
	look web
	[ "$(got '.items[0].state')" = stopped ]
}

@test "a pid that the kernel gave to somebody else is no process, and no obstacle" {
	vm web
	# The processes of a namespace of its own get the numbers that the test wants.
	cat >inside <<-'EOF'
		set -eu
		shim() { blix-shim --run run/web --console console.log "$@"; }
		shim -- sleep 1000
		pid=$(jq .pid run/web/status.json)
		kill -9 "$(jq .shimPid run/web/status.json)" "$pid"
		while [ -d "/proc/$pid" ]; do sleep 0.02; done
		stranger=0
		until [ "$stranger" = "$pid" ]; do
			echo $((pid - 1)) >/proc/sys/kernel/ns_last_pid
			sleep 1000 &
			stranger=$!
			[ "$stranger" = "$pid" ] || kill -9 $stranger
		done
		microvm-status --state-dir state --run-dir run --systemd-dir none web >out
		shim -- sleep 1001
		kill -0 "$stranger"
		echo "$stranger $pid" >same
		kill -9 "$(jq .pid run/web/status.json)" $stranger
	EOF
	run timeout 20 unshare --pid --fork --mount-proc --kill-child bash inside
	[ "$status" -eq 0 ]
	[ "$(cut -d' ' -f1 same)" = "$(cut -d' ' -f2 same)" ]
	[ "$(got '.items[0] | [.state, has("process")] | @csv')" = '"stopped",false' ]
}

@test "the run directory of an earlier VM of this name is not taken for its own" {
	vm web
	ours web u-2
	shim web --uid u-1 -- false
	until_true [ -e run/web/exit.json ]
	until_true ended "$(recorded web shimPid)"
	look web
	[ "$(got '.items[0] | [.state, has("exit")] | @csv')" = '"stopped",false' ]
	shim web --uid u-1 -- sleep 1000
	look web
	[[ "$(got '.items[0].error')" == *"uid u-1"* ]]
}

@test "damaged records are an error of that VM only" {
	vm bad
	vm good
	mkdir run/bad
	echo '{"pid":' >run/bad/status.json
	mkdir run/bad/exit.json
	look
	[[ "$(got '.items[0].error')" == *status.json*exit.json* ]]
	[ "$(got '.items[1] | [.name, has("error")] | @csv')" = '"good",false' ]
}

@test "found in /proc: a process named microvm@ in the VM's directory, by microvm -r" {
	vm web
	(cd state/web && exec -a microvm@web sleep 1000) 3>&- &
	started+=($!)
	until_true grep -q microvm@ "/proc/$!/cmdline"
	look web
	[ "$(got '.items[0] | [.state, .supervision, .process.pid] | @csv')" = "\"running\",\"none\",$!" ]
	(cd state/web && exec -a microvm@web sleep 1000) 3>&- &
	started+=($!)
	until_true grep -q microvm@ "/proc/$!/cmdline"
	look web
	[[ "$(got '.items[0].error')" == *"2 hypervisors"* ]]
}

@test "what else runs in the directory is no VM" {
	vm web
	(cd state/web && exec sleep 1000) 3>&- &
	started+=($!)
	until_true grep -q sleep "/proc/$!/cmdline"
	look web
	[ "$(got '.items[0].state')" = stopped ]
}

# fake_systemctl TEXT: records its arguments, prints TEXT.
fake_systemctl() {
	mkdir -p bin systemd
	printf '%s\n' "$1" >units
	cat >bin/systemctl <<-EOF
		#!/bin/sh
		printf '%s\n' "\$@" >$T/argv
		cat $T/units
	EOF
	chmod +x bin/systemctl
	PATH=$T/bin:$PATH
}

@test "under systemd: unit, main process, and whose directory it is" {
	vm web
	vm other
	sleep 1000 3>&- &
	started+=($!)
	fake_systemctl "Id=microvm@web.service
ActiveState=active
SubState=running
MainPID=$!
WorkingDirectory=$T/state/web

Id=microvm@other.service
ActiveState=active
SubState=running
MainPID=$!
WorkingDirectory=/var/lib/microvms/other"
	look
	[ "$(got '.items[1] | [.state, .supervision, .process.pid] | @csv')" = "\"running\",\"systemd\",$!" ]
	[ "$(got '.items[1].unit')" = "{\"name\":\"microvm@web.service\",\"activeState\":\"active\",\"subState\":\"running\",\"mainPid\":$!}" ]
	[ "$(got '.items[0] | [.state, has("unit")] | @csv')" = '"stopped",false' ]
	[ "$(tail -n 2 argv)" = $'microvm@*.service\nblix-vm-*.service' ]
	look web
	[ "$(tail -n 3 argv)" = $'--\nmicrovm@web.service\nblix-vm-web.service' ]
	kill -9 "$!"
	wait "$!" || true
	look web
	[ "$(got '.items[0] | [.state, .supervision] | @csv')" = '"unknown","systemd"' ]
	sed -i 's/ActiveState=active/ActiveState=failed/' units
	look web
	[ "$(got '.items[0] | [.state, .unit.activeState] | @csv')" = '"stopped","failed"' ]
}

@test "a systemctl that hangs, floods or fails is given up" {
	vm web
	fake_systemctl ''
	printf '#!/bin/sh\nexec sleep 1000\n' >bin/systemctl
	run -0 timeout 10 microvm-status --state-dir state --run-dir run --systemd-dir systemd --timeout 50 web
	[[ "$output" == *'"state":"unknown"'*"systemctl did not answer"* ]] ||
		[[ "$output" == *"systemctl did not answer"*'"state":"unknown"'* ]]
	printf '#!/bin/sh\nexec yes\n' >bin/systemctl
	look web
	[ "$(got '.items[0].state')" = unknown ]
	printf '#!/bin/sh\nexit 1\n' >bin/systemctl
	look web
	[ "$(got '.items[0].state')" = unknown ]
}

@test "systemd is not asked where it does not run, nor for a VM under a shim" {
	vm web
	fake_systemctl ''
	rmdir systemd
	look web
	[ ! -e argv ]
	mkdir systemd
	shim web -- sleep 1000
	look web
	[ "$(got '.items[0].state')" = running ]
	[ ! -e argv ]
}

@test "control sockets: each hypervisor in its own tongue" {
	vm qemu
	vm cloud cloud-hypervisor
	vm fire firecracker
	vm cros crosvm
	vm strange nonsense
	fake_vmm state/qemu/host-name.sock qmp paused
	fake_vmm state/cloud/cloud.sock http '{"config":{},"state":"Running"}'
	fake_vmm state/fire/fire.sock http '{"id":"a","state":"Not started"}'
	fake_vmm state/cros/cros.sock silent
	fake_vmm state/strange/strange.sock silent
	look qemu cloud fire cros strange
	[ "$(got '[.items[].control | .status // .reason]')" = \
		'["paused","running","not-started","unsupported","unsupported"]' ]
	[ "$(got '.items[0].control.socket')" = host-name.sock ]
	[ "$(got '.items[4] | has("hypervisor")')" = false ]
	# No process is behind these sockets: that is said, not guessed away.
	[ "$(got '.items[0].state')" = unknown ]
}

@test "only the control socket is asked" {
	vm web
	fake_vmm state/web/web.sock qmp running
	for name in a-virtiofs-ro.sock b-gpu.sock notify.vsock; do
		fake_vmm "state/web/$name" silent
	done
	mkfifo state/web/0.sock
	mkdir state/web/1.sock
	fake_vmm state/web/2.sock silent
	look web
	[ "$(got '.items[0].control | [.socket, .status] | @csv')" = '"web.sock","running"' ]
}

@test "silent sockets cost one deadline, together, and spoil nothing" {
	local i start

	for i in 1 2 3 4 5; do
		vm "vm$i"
		fake_vmm "state/vm$i/s.sock" silent
	done
	vm good
	fake_vmm state/good/good.sock qmp running
	start=$EPOCHREALTIME
	microvm-status --state-dir state --run-dir run --systemd-dir none --timeout 400 >out
	[ "$(((${EPOCHREALTIME/./} - ${start/./}) / 1000))" -lt 1600 ]
	[ "$(got '[.items[].control | .status // .reason] | @csv')" = '"running","timeout","timeout","timeout","timeout","timeout"' ]
}

@test "a list survives every kind of broken directory" {
	vm ok
	mkdir state/empty state/.hidden
	touch state/file
	mkfifo state/fifo
	ln -s nowhere state/dangling
	mkdir state/loop && ln -s current state/loop/current
	mkdir state/plain && touch state/plain/current
	mkdir state/gone && ln -s "$T/store/gone" state/gone/current
	vm pipe && rm store/pipe/share/microvm/hypervisor && mkfifo store/pipe/share/microvm/hypervisor
	vm taps && seq 100000 >store/taps/share/microvm/tap-interfaces
	vm names && echo '../../etc' >store/names/share/microvm/tap-interfaces
	mkdir "state/$(printf 'b\377d')"
	vm img && mkfifo state/img/a.img && ln -s /dev/zero state/img/b.img && mkdir state/img/c.img
	mkdir run/ok && chmod 0 run/ok
	ln -s /nowhere run/img
	run -0 timeout 10 microvm-status --state-dir state --run-dir run --systemd-dir none
	echo "$output" >out
	[ "$(got '[.items[] | [.name, has("error")] | join(":")] | join(" ")')" = \
		'b?d:false empty:false gone:true img:true loop:true names:true ok:false pipe:true plain:true taps:true' ]
	[ "$(got '.items[] | select(.name == "img") | .volumes')" = '[]' ]
}

@test "a hypervisor file that points elsewhere prints nothing of it" {
	vm web
	echo "qemu and a secret" >secret
	ln -sf "$T/secret" store/web/share/microvm/hypervisor
	echo "hunter2 is a secret" >secret2
	ln -sf "$T/secret2" store/web/share/microvm/tap-interfaces
	look web
	run ! grep -q -e secret -e hunter out
}

@test "usage errors are 64, unreadable places have a message, a full output is 1" {
	run -64 microvm-status --nonsense
	run -64 microvm-status --timeout 0
	run -64 microvm-status --timeout 1e9
	run -64 microvm-status --timeout 3600000
	run -0 microvm-status --help
	run -0 microvm-status --version
	[[ "$output" == microvm-status\ * ]]
	touch plain
	run -1 microvm-status --state-dir plain
	[[ "$output" == "microvm-status: open "*plain* ]]
	run -1 bash -c 'microvm-status --state-dir state >/dev/full'
}
