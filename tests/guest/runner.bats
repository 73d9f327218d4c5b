#!/usr/bin/env bats
# What stands around a run, with the programs that are really used: virtiofsd, a tap and a macvtap, and a Linux guest
# on the other end of each. All in a network namespace of the file's own, with a view of /sys that fits it.

bats_require_minimum_version 1.5.0

load host.bash

needs='needs root, network namespaces and /dev/net/tun'

setup_file() {
	[ "$(id -u)" -eq 0 ] && [ -c /dev/net/tun ] || skip "taps: $needs"
	host_stage 3m
	export NET=${work##*/} # what this file makes is named like its folder
	mkdir "$work/shared"
	echo 'of the host' >"$work/shared/letter"
	guest
	ip netns add "$NET"
	ip -n "$NET" link set lo up
	ip -n "$NET" link add lower type veth peer name upper
	ip -n "$NET" address add 10.77.2.1/24 dev upper
	ip -n "$NET" link set lower up
	ip -n "$NET" link set upper up
	daemon_start
	blix vm create web --flake "$work/guest#around" --memory 256MiB --ready agent
}

teardown_file() {
	[ -z "${work-}" ] || host_remove
	[ -z "${NET-}" ] || ip netns delete "$NET"
}

setup() { load ../until.bash; }

# The example's guest with a share and both kinds of links, as a flake of a user would define it.
guest() {
	local links='{ type = "tap"; id = "t-web"; mac = "02:00:00:00:77:01"; }'
	if macvtap_works; then
		links+=' { type = "macvtap"; id = "m-web"; mac = "02:00:00:00:77:02"; macvtap = { link = "lower"; mode = "bridge"; }; }'
	fi
	cat >"$work/around" <<-NIX
		around = system "demo" [ { microvm = {
		  shares = [ { tag = "files"; source = "$work/shared"; mountPoint = "/mnt/files"; } ];
		  interfaces = [ $links ];
		}; } ];
	NIX
	sed -i "/demo = system \"demo\" /r $work/around" "$work/guest/flake.nix"
}

macvtap_works() {
	local rc=0
	ip netns add "$NET-try"
	ip -n "$NET-try" link add lower type veth peer name upper
	ip -n "$NET-try" link add link lower name m type macvtap mode bridge 2>/dev/null || rc=1
	ip netns delete "$NET-try"
	return "$rc"
}

daemon_start() {
	# shellcheck disable=SC2016 # for the inner shell
	host_start nsenter --net="/run/netns/$NET" unshare --mount --propagation private sh -c '
		mount -t sysfs sysfs /sys && mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec "$@"' sh
}

daemon_kill() {
	local pid
	pid=$(cat "$work/pid")
	kill -9 "$pid"
	until_true ended "$pid"
}

# PID: gone, or a zombie that nobody has waited for yet and that holds no file any more.
ended() {
	[ ! -d "/proc/$1" ] || { grep -q '^State:.Z' "/proc/$1/status" && [ "$(ls "/proc/$1/task" | wc -l)" = 1 ]; }
}

status() { # FILTER
	blix vm show web -o json | jq -r "$1"
}
is_ready() { [ "$(status '"\(.status.phase) \(.status.ready)"')" = "Running true" ]; }
phase_is() { [ "$(status .status.phase)" = "$1" ]; }

link_is_there() { ip -n "$NET" link show "$1" >/dev/null 2>&1; }

# Daemons that serve the folder, virtiofsd's own children too.
virtiofsd() { pgrep -f -- "--socket-path=.*source=$work/shared" || true; }
hypervisor() { jq .pid "$work/s/run/vms/web/status.json"; }

serves() {
	echo "$RANDOM" >"$work/shared/number"
	[ "$(blix vm exec web -- cat /mnt/files/number)" = "$(cat "$work/shared/number")" ]
}

# Prints what a run left; nothing, when it is well.
leftovers() {
	local one
	virtiofsd
	for one in t-web m-web; do
		if link_is_there "$one"; then echo "$one"; fi
	done
	find "$work/s/run/vms/web" -name setup -o -name virtiofsd
	find "$work/s/microvms/web" -name '*virtiofs*' -o -name booted # sockets of a killed QEMU are the next one's
	find /sys/fs/cgroup -type d -path "*$NET*"
}

nothing_is_left() {
	local left
	left=$(leftovers)
	[ -z "$left" ] || { echo "$left"; return 1; }
}

@test "virtiofsd: a guest reads and writes a folder of the host" {
	[ "$(blix vm exec web -- cat /mnt/files/letter)" = 'of the host' ]
	blix vm exec web -- sh -c 'echo of the guest >/mnt/files/answer'
	[ "$(cat "$work/shared/answer")" = 'of the guest' ]
	[ "$(microvm-status --state-dir "$work/s/microvms" --run-dir "$work/s/run/vms" web |
		jq -r '.items[0].virtiofsd')" = running ]
}

@test "tap: a guest reaches the host" {
	ip -n "$NET" address add 10.77.1.1/24 dev t-web
	blix vm exec web -- ip address add 10.77.1.2/24 dev eth0
	blix vm exec web -- ping -c 3 -W 5 10.77.1.1
}

@test "macvtap: a guest reaches what is behind the lower link" {
	link_is_there m-web || skip "macvtap: needs a kernel with macvtap"
	blix vm exec web -- ip address add 10.77.2.2/24 dev eth1
	blix vm exec web -- ping -c 3 -W 5 10.77.2.1
}

@test "kill -9 of the daemon: share and links go on, under the same processes" {
	local before
	before="$(virtiofsd) $(hypervisor)"
	daemon_kill
	[ "$(virtiofsd) $(hypervisor)" = "$before" ]
	daemon_start
	until_true blix vm exec web -- true # the VM was ready all the while, but the agent is found anew
	[ "$(virtiofsd) $(hypervisor)" = "$before" ]
	serves
	link_is_there t-web
}

@test "a stop ends virtiofsd and takes the links away, and the next start makes them anew" {
	[ -n "$(virtiofsd)" ]
	blix vm stop web
	nothing_is_left
	blix vm logs web | grep 'blix: powering off'
	blix vm start web
	until_true is_ready
	serves
	link_is_there t-web
}

@test "virtiofsd killed: the VM runs on without its share, the doctor says it, a restart mends it" {
	doctor_says() { blix doctor -o json | jq -r '.findings[].message' | grep -F "$1"; }
	run ! doctor_says 'virtiofsd of VM web'
	# shellcheck disable=SC2046 # a list
	kill -9 $(virtiofsd)
	until_true doctor_says 'virtiofsd of VM web has ended before the VM'
	is_ready
	blix vm restart web --force
	until_true is_ready
	serves
	run ! doctor_says 'virtiofsd of VM web'
}

@test "daemon and hypervisor killed: the next daemon ends virtiofsd and takes the links away" {
	blix vm set web --restart never
	[ -n "$(virtiofsd)" ]
	daemon_kill
	kill -9 "$(hypervisor)"
	daemon_start
	until_true phase_is Failed
	nothing_is_left
}
