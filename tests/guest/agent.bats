#!/usr/bin/env bats
# blix-agent in a real Linux guest, over QEMU's virtio-serial port: ready, found again, exec, copies, freeze, and a stop
# that needs no button. While the daemon is away, the tests speak to the agent themselves (tests/cli/agent_host.c).

bats_require_minimum_version 1.5.0

load host.bash

setup_file() {
	export HOST=$BATS_FILE_TMPDIR/agent_host
	host_stage 3m
	(cd "$BATS_TEST_DIRNAME/../.." && "${CC:-cc}" -D_GNU_SOURCE -std=gnu11 -O1 -Ilib -o "$HOST" tests/cli/agent_host.c \
		lib/base/{frame,buf,alloc,error}.c)
	sed -i 's|^        demo = .*|&\n        disk = system "demo" [ { microvm.volumes = [ { image = "data.img"; size = 32; mountPoint = "/data"; } ]; } ];|' \
		"$work/guest/flake.nix"
	host_start
}

teardown_file() { host_remove; }

setup() {
	load ../until.bash
	export WITHIN=60
	cd "$work" || exit 1
}

connected() { # NAME
	[ "$(field "$1" .status.agent.connected)" = true ]
}

# host NAME ARGUMENT...: the guest's agent, while the daemon is away.
host() {
	timeout 120 "$HOST" --connect "$work/s/microvms/$1/blix.agent" --session "$RANDOM$RANDOM" "${@:2}" 3>frames
}

last() { # FIELD of EXIT or ERROR
	grep -E '^(EXIT|ERROR) ' frames | cut -d' ' -f2- | jq -c ".$1"
}

@test "a guest is ready when its agent says so, and shown as it says" {
	run --separate-stderr blix vm create web --flake "$work/guest#disk" --memory 256MiB --ready agent
	[ "$status" = 0 ]
	[[ $stderr == *'Running and ready on host'* ]]
	[ "$(field web '[.status.agent.connected, .status.agent.ready, .status.agent.hostname] | @csv')" = 'true,true,"web"' ]
	[[ $(field web .status.agent.version) == [0-9]* ]]
	[[ $(field web .status.agent.bootId) == *-*-*-*-* ]]
	blix vm show web | grep -qE '^  agent +[0-9.]*, ready'
	grep -q 'vm.agent.connected vm=web' "$work/log"
}

@test "a guest without an agent is said to have none" {
	blix vm create toy --flake "$work/guest#toy"
	[ "$(field toy .status.agent.connected)" = false ]
	blix vm show toy | grep -qE '^  agent +none answers'
	blix vm delete toy --force
}

@test "commands in the guest return 0, 1, 126, 127 and their signal" {
	host_kill
	host web '{"kind":"exec","argv":["true"]}' </dev/null
	[ "$(last exitCode)" = 0 ]
	host web '{"kind":"exec","argv":["false"]}' </dev/null
	[ "$(last exitCode)" = 1 ]
	host web '{"kind":"exec","argv":["/init/x"]}' </dev/null
	[ "$(last exitCode)" = 126 ]
	host web '{"kind":"exec","argv":["no-such-command"]}' </dev/null
	[ "$(last exitCode)" = 127 ]
	host web '{"kind":"exec","argv":["sh","-c","kill -15 $$"]}' </dev/null
	[ "$(last signal)" = 15 ]
	out=$(host web '{"kind":"exec","argv":["sh","-c","uname -s; echo $A; echo no >&2; cat"],"env":{"A":"b"}}' 2>err <<<word)
	[ "$out" = $'Linux\nb\nword' ]
	[ "$(cat err)" = no ]
}

@test "a terminal in the guest" {
	out=$(host web '{"kind":"exec","argv":["sh","-c","test -t 0 && stty size"],"tty":true,"rows":33,"cols":99}' </dev/null)
	[ "$out" = $'33 99\r' ]
}

@test "100 MB into the guest and out of it have equal hashes" {
	head -c 100000000 /dev/urandom >data
	sum=$(sha256sum <data)
	out=$(host web '{"kind":"exec","argv":["sha256sum"]}' <data)
	[ "$out" = "$sum" ]
	host web '{"kind":"exec","argv":["sh","-c","mount -t tmpfs -o size=180m none /mnt"]}' </dev/null
	mkdir -p tree && mv data tree/data && chmod 640 tree/data
	blix-agent --port "$work/local" --run "$work/agent" 3>&- &
	local=$!
	"$HOST" --listen "$work/local" '{"kind":"copy-out","path":"'"$work/tree"'"}' 3>/dev/null </dev/null >stream
	kill $local
	host web '{"kind":"copy-in","path":"/mnt/tree"}' <stream
	[ "$(last bytes)" = 100000000 ]
	host web '{"kind":"copy-out","path":"/mnt/tree"}' </dev/null >back
	cmp stream back
	out=$(host web '{"kind":"exec","argv":["sh","-c","stat -c %a /mnt/tree/data; umount /mnt"]}' </dev/null)
	[ "$out" = 640 ]
	rm -rf tree stream back
}

@test "filesystems freeze, and thaw by themselves" {
	out=$(host web '{"kind":"freeze","timeoutMs":1000}' </dev/null)
	grep OPENED frames | grep -q '"/data"'
	[ "$(last thawed)" = 1 ]
	[ "$(last reason)" = '"asked"' ]
	host web --linger "$work/never" '{"kind":"freeze","timeoutMs":1000}' </dev/null
	[ "$(last reason)" = '"timeout"' ]
	host web '{"kind":"exec","argv":["sh","-c","echo thawed >/data/x && sync"]}' </dev/null
	[ "$(last exitCode)" = 0 ]
}

@test "a command whose host is gone is ended, and the daemon finds the agent again" {
	"$HOST" --connect "$work/s/microvms/web/blix.agent" --session gone \
		'{"kind":"exec","argv":["sh","-c","echo begun; exec sleep 7777"]}' </dev/null 3>/dev/null >out &
	until_true grep -q begun out
	kill -9 $!
	host_start
	until_true connected web
	[ "$(field web '[.status.phase, .status.ready, .status.restarts] | @csv')" = '"Running",true,0' ]
	host_kill
	no_sleeper() {
		host web '{"kind":"exec","argv":["sh","-c","ps | grep -v grep | grep -q \"sleep 7777\""]}' </dev/null
		[ "$(last exitCode)" = 1 ]
	}
	until_true no_sleeper
	host_start
	until_true connected web
}

@test "stop goes by the agent: no button is needed" {
	rm "$work/s/microvms/web/"*.sock
	blix vm stop web
	[ "$(field web '[.status.phase, .status.exitCode] | @csv')" = '"Stopped",0' ]
	blix vm logs web | grep -q 'blix: powering off'
	run ! grep -q 'vm.stop.failed vm=web' "$work/log"
	blix vm delete web
}
