#!/usr/bin/env bats
# A host with systemd whose blix.json says that shims stand by the VMs: blixd's unit needs a drop-in then.

load helpers.bash

setup_file() {
	box_setup
	in_box sed -i 's/^{/{ "supervision": "shim",/' /etc/blix/blix.json
	write /opt/fake/store/bin/tap-up 0755 <<<$'#!/bin/sh\nip tuntap add t-web mode tap'
	write /opt/fake/store/bin/tap-down 0755 <<<$'#!/bin/sh\nip link delete t-web'
	daemon_start
}
teardown_file() { box_teardown; }

@test "shim in a unit: without its drop-in blixd may make no tap, and says so" {
	run create web
	[ "$status" -ne 0 ]
	[ "$(vm web '"\(.status.phase) \(.status.reason)"')" = "Failed tap-up-failed" ]
	vm web .status.message | grep -qi 'not permitted\|No such file'
	in_box blix vm delete web --yes --quiet
	until_true has_no_traces web
}

@test "shim in a unit: with its drop-in a VM runs in a group of its own, and outlives the daemon" {
	in_box mkdir -p /etc/systemd/system/blixd.service.d
	in_box ln -s /usr/local/share/blix/blixd-shim.conf /etc/systemd/system/blixd.service.d/
	in_box systemctl daemon-reload
	in_box systemctl restart blixd
	until_true node_is_ready
	create web
	until_true is_running web
	tap_is_there web
	[ "$(seen web .supervision)" = shim ]
	[[ $(seen web .process.cgroup) == /sys/fs/cgroup/blix/* ]]
	pid=$(main_pid web)
	in_box systemctl restart blixd
	until_true node_is_ready
	until_true is_running web
	[ "$(main_pid web)" = "$pid" ]
	runners_are 1
	in_box blix vm delete web --yes --quiet
	until_true has_no_traces web
}

@test "blixd.service: exposed no more than it is known to be" {
	in_box rm -r /etc/systemd/system/blixd.service.d
	in_box rm -r /etc/systemd/system/service.d # the box's own, for all its services
	in_box systemctl daemon-reload
	in_box systemd-analyze security --threshold=30 --no-pager blixd.service >/dev/null
}
