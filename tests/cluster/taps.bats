#!/usr/bin/env bats
# What stands around a run: real taps in a network namespace of the test's own, and a virtiofsd that
# is not one, by the real daemon and shims. Whoever dies how, none of it outlives the hypervisor.
# shellcheck disable=SC2034 # PIDS and INSIDE are of helpers.bash

bats_require_minimum_version 1.5.0

setup() {
	load helpers.bash
	servers_setup
	NET=blixtest-$$-$BATS_TEST_NUMBER
	[ "$(id -u)" -eq 0 ] && [ -c /dev/net/tun ] && ip netns add "$NET" ||
		skip "taps: needs root, network namespaces and /dev/net/tun"
	INSIDE=(ip netns exec "$NET")
	make_runner
}

teardown() {
	servers_teardown
	ip netns del "$NET" 2>/dev/null || true
}

program() { # NAME, its text on standard input
	cat >"$FAKE/store/bin/$1"
	chmod +x "$FAKE/store/bin/$1"
}

make_runner() {
	local from=$FAKE

	FAKE=$T/fake
	mkdir -p "$FAKE/store/bin" "$FAKE/store/share/microvm/virtiofs/ro"
	cp "$from/nix" "$from/microvm" "$FAKE"
	cp "$from/runner" "$FAKE/store/bin/microvm-run"
	echo qemu >"$FAKE/store/share/microvm/hypervisor"
	echo blixtap >"$FAKE/store/share/microvm/tap-interfaces"
	echo host-virtiofs-ro.sock >"$FAKE/store/share/microvm/virtiofs/ro/socket"
	program tap-up <<-'END'
		#!/bin/sh
		exec ip tuntap add name blixtap mode tap
	END
	program tap-down <<-'END'
		#!/bin/sh
		exec ip link delete blixtap
	END
	program virtiofsd-run <<-'END'
		#!/usr/bin/perl
		use IO::Socket::UNIX;
		my $s = IO::Socket::UNIX->new(Type => SOCK_STREAM(), Local => 'host-virtiofs-ro.sock', Listen => 1) or die;
		print "serving\n";
		sleep 1 while 1;
	END
}

tap_is_there() { ip netns exec "$NET" test -e /sys/class/net/blixtap; }

recorded() { # KEY, of virtiofsd
	jq ".$1" "$T/n1/run/vms/web/virtiofsd/status.json"
}

phase_is() { # PHASE
	[ "$(on 1 vm show web -o json | jq -r .status.phase)" = "$1" ]
}

nothing_is_left() {
	! tap_is_there && [ ! -e "$T/n1/run/vms/web/setup" ] && [ ! -e "$T/n1/run/vms/web/virtiofsd" ] &&
		[ ! -e "$T/n1/microvms/web/host-virtiofs-ro.sock" ] && [ ! -L "$T/n1/microvms/web/booted" ] && [ -z "$(pgrep -f "$T/n1/microvms/web" || true)" ]
}

@test "taps and virtiofsd are there while the VM runs, and gone when it is told that it stopped" {
	local pid

	cluster_up 1
	on 1 vm create web --flake "$BASE#demo" >/dev/null
	tap_is_there
	[ -L "$T/n1/microvms/web/booted" ]
	[ -S "$T/n1/microvms/web/host-virtiofs-ro.sock" ]
	pid=$(recorded pid)
	[ "$(microvm-status --state-dir "$T/n1/microvms" --run-dir "$T/n1/run/vms" web |
		jq -r '.items[0].virtiofsd')" = running ]
	on 1 vm stop web >/dev/null
	nothing_is_left
	ended "$pid"
	on 1 vm start web >/dev/null # a second time as the first
	tap_is_there
	on 1 vm delete web --yes >/dev/null
	nothing_is_left
	server_stop 1
}

@test "a hypervisor that is killed leaves nothing" {
	cluster_up 1
	on 1 vm create web --flake "$BASE#demo" --restart never >/dev/null
	tap_is_there
	kill -9 "$(jq .pid "$T/n1/run/vms/web/status.json")"
	until_true phase_is Failed
	nothing_is_left
	server_stop 1
}

@test "daemon, shims, hypervisor and virtiofsd killed together leave nothing" {
	local pids groups

	cluster_up 1
	on 1 vm create web --flake "$BASE#demo" --restart never >/dev/null
	pids=$(jq '.pid, .shimPid' "$T/n1/run/vms/web/status.json" "$T/n1/run/vms/web/virtiofsd/status.json")
	groups=$(jq -r '.cgroup // "/nonexistent"' "$T/n1/run/vms/web/status.json" "$T/n1/run/vms/web/virtiofsd/status.json")
	server_kill 1
	# shellcheck disable=SC2086 # a list
	kill -9 $pids
	tap_is_there
	server_start 1
	until_true phase_is Failed
	nothing_is_left
	# shellcheck disable=SC2086 # a list
	[ -z "$(ls -d $groups 2>/dev/null)" ]
	server_stop 1
}

@test "the daemon and the hypervisor killed: virtiofsd is ended, too" {
	local pid

	cluster_up 1
	on 1 vm create web --flake "$BASE#demo" --restart never >/dev/null
	pid=$(recorded pid)
	server_kill 1
	kill -9 "$(jq .pid "$T/n1/run/vms/web/status.json")"
	[ "$(sed 's/.*) //;s/ .*//' "/proc/$pid/stat")" = S ]
	server_start 1
	until_true phase_is Failed
	nothing_is_left
	ended "$pid"
	server_stop 1
}

@test "the daemon killed while tap-up works: it makes no tap behind the next daemon's back" {
	local up
	program tap-up <<-END
		#!/bin/sh
		echo \$\$ >"$T/up"
		while [ ! -e "$T/go" ]; do sleep 0.02; done
		exec ip tuntap add name blixtap mode tap
	END
	cluster_up 1
	on 1 vm create web --flake "$BASE#demo" --no-wait
	until_true test -s "$T/up"
	up=$(cat "$T/up")
	server_kill 1
	[ -d "/proc/$up" ]
	program tap-up <<-'END'
		#!/bin/sh
		exit 1
	END
	server_start 1
	until_true test ! -d "/proc/$up"
	: >"$T/go"
	until_true phase_is Failed
	until_true nothing_is_left
	on 1 vm delete web
	server_stop 1
}

@test "a step that fails is the reason, and takes down what stood before it" {
	cluster_up 1
	program virtiofsd-run <<-'END'
		#!/bin/sh
		echo no such share
		exit 3
	END
	run on 1 vm create web --flake "$BASE#demo" --timeout 30s
	[ "$status" -ne 0 ]
	until_true phase_is Failed
	[ "$(on 1 vm show web -o json | jq -r .status.reason)" = virtiofsd-failed ]
	[[ "$(on 1 vm show web -o json | jq -r .status.message)" == *"no such share"* ]]
	nothing_is_left
	[ ! -e "$T/n1/run/vms/web/status.json" ]
	program tap-up <<-'END'
		#!/bin/sh
		echo tap: busy >&2
		exit 1
	END
	run on 1 vm start web --timeout 30s
	until_true eval '[ "$(on 1 vm show web -o json | jq -r .status.reason)" = tap-up-failed ]'
	until_true phase_is Failed
	nothing_is_left
	server_stop 1
}

# A macvtap goes with the link below it, whoever removes that. A tap stands for it: not all kernels have macvtap.
@test "a link that went away while the VM ran is none that must be taken down" {
	program macvtap-up <<-'END'
		#!/bin/sh
		exec ip tuntap add name blixmac mode tap
	END
	program macvtap-down <<-'END'
		#!/bin/sh
		exec ip link delete blixmac
	END
	echo 'blixmac 02:00:00:00:00:01 lower bridge' >"$FAKE/store/share/microvm/macvtap-interfaces"
	cluster_up 1
	on 1 vm create web --flake "$BASE#demo" >/dev/null
	ip -n "$NET" link delete blixmac
	on 1 vm stop web >/dev/null
	nothing_is_left
	server_stop 1
}

@test "a macvtap without its lower link, a PCI device that is not there: told in the words of the program" {
	local message

	cluster_up 1
	program macvtap-up <<-'END'
		#!/bin/sh
		exec ip link add link blixlower name blixmac type macvtap mode bridge
	END
	run on 1 vm create web --flake "$BASE#demo" --timeout 30s
	until_true phase_is Failed
	[ "$(on 1 vm show web -o json | jq -r .status.reason)" = macvtap-up-failed ]
	message=$(on 1 vm show web -o json | jq -r .status.message)
	[[ "$message" == *'Cannot find device "blixlower"'* ]]
	nothing_is_left
	rm "$FAKE/store/bin/macvtap-up"
	# As microvm.nix does it, but for modprobe, which would change the machine.
	program pci-setup <<-'END'
		#!/bin/bash
		set -eou pipefail
		cd /sys/bus/pci/devices/ffff:ff:1f.7
		if [ -e driver ]; then
			echo ffff:ff:1f.7 >driver/unbind
		fi
		echo vfio-pci >driver_override
		echo ffff:ff:1f.7 >/sys/bus/pci/drivers_probe
	END
	run on 1 vm start web --timeout 30s
	until_true eval '[ "$(on 1 vm show web -o json | jq -r .status.reason)" = pci-setup-failed ]'
	until_true phase_is Failed
	message=$(on 1 vm show web -o json | jq -r .status.message)
	[[ "$message" == *'/sys/bus/pci/devices/ffff:ff:1f.7: No such file or directory'* ]]
	nothing_is_left
	server_stop 1
}

teardown_fails() { grep -c 'event=vm.teardown.failed' "$T/n1/log"; }
failed_more_than() { [ "$(teardown_fails)" -gt "$1" ]; }
is_stopped() { [ "$(on 1 vm show web -o json | jq -r .status.phase)" = Stopped ]; }
tap_is_gone() { ! tap_is_there; }
has_no_setup() { [ ! -e "$T/n1/run/vms/web/setup" ]; }
doctor_says() { blix --endpoint "unix:$T/n1/sock" doctor | grep -F 'web: what was set up for its run'; }

@test "a tap that cannot be taken down holds no stop up, and is not forgotten: it goes when it can" {
	cluster_up 1 '.retryMs = 20'
	on 1 vm create web --flake "$BASE#demo"
	program tap-down <<-'END'
		#!/bin/sh
		echo 'the link is busy' >&2
		exit 1
	END
	on 1 vm stop web
	tap_is_there
	until_true failed_more_than 4 # three of them before the stop was told
	is_stopped
	[[ $(doctor_says) == *tap-up* ]]
	program tap-down <<-'END'
		#!/bin/sh
		exec ip link delete blixtap
	END
	until_true tap_is_gone
	until_true has_no_setup
	is_stopped
	run doctor_says
	[ "$status" != 0 ]
	on 1 vm start web
	tap_is_there
	on 1 vm delete web
}
