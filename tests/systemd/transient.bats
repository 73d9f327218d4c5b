#!/usr/bin/env bats
# A host with systemd and no units for microVMs: blix-vm-NAME.service.

load helpers.bash

setup_file() {
	box_setup
	share_files
	daemon_start
	create web
}
teardown_file() { box_teardown; }

# A share, served by the real virtiofsd, as the example's guest does it.
share_files() {
	in_box mkdir -p /srv/files /opt/fake/store/share/microvm/virtiofs/files
	write /opt/fake/store/share/microvm/virtiofs/files/socket 0644 <<<host-virtiofs-files.sock
	write /opt/fake/store/bin/virtiofsd-run 0755 <<-'END'
		#!/bin/bash
		[ ! -e host-virtiofs-files.sock ] || touch /srv/stale # it would pass for this run's
		for daemon in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd; do [ ! -x $daemon ] || break; done
		trap 'kill $(jobs -p)' EXIT
		$daemon --socket-path=host-virtiofs-files.sock -o source=/srv/files &
		until [ -S host-virtiofs-files.sock ]; do sleep 0.02; done
		systemd-notify --ready
		wait -n
	END
}

virtiofsd() { in_box pgrep -f -- --socket-path=host-virtiofs-files.sock || true; }
virtiofsd_is_gone() { [ -z "$(virtiofsd)" ]; }

@test "transient: a VM runs in a unit of its own, outside of the daemon" {
	[ "$(in_box blix node list -o json | jq -r '.items[].status.supervision')" = systemd ]
	until_true is_running web
	[ "$(seen web '[.state, .supervision, .unit.name, .unit.activeState] | @csv')" = '"running","systemd","blix-vm-web.service","active"' ]
	[ "$(seen web '.unit.mainPid == .process.shimPid')" = true ]
	[ "$(seen web .unit.invocationId)" = "$(in_box systemctl show -P InvocationID blix-vm-web.service)" ]
	[ "$(in_box cat "/proc/$(main_pid web)/cgroup" | grep ^0::)" = 0::/blix.slice/blix-vm-web.service ]
	tap_is_there web
	[ -n "$(virtiofsd)" ]
	[ "$(in_box systemctl is-active blix-virtiofsd-web.service)" = active ]
	[ "$(in_box blix vm logs web)" = "fake: ready" ]
}

@test "transient: kill -9 of the daemon disturbs nothing, and the VM is taken over" {
	pid=$(main_pid web) daemons=$(virtiofsd)
	daemon=$(in_box systemctl show -P MainPID blixd)
	in_box kill -9 "$daemon"
	until_true node_is_ready
	until_true is_running web
	[ "$(main_pid web)" = "$pid" ]
	[ "$(virtiofsd)" = "$daemons" ]
	runners_are 1
}

@test "transient: a crash takes tap and virtiofsd down, and the VM is started again, once" {
	pid=$(main_pid web) daemons=$(virtiofsd)
	in_box kill -9 "$pid"
	until_true is_running_anew web "$pid"
	runners_are 1
	tap_is_there web
	[ -n "$(virtiofsd)" ]
	[ "$(virtiofsd)" != "$daemons" ]
}

@test "transient: a shim that is killed takes its VM with it: none runs twice" {
	pid=$(main_pid web)
	in_box kill -9 "$(seen web .process.shimPid)"
	until_true is_running_anew web "$pid"
	runners_are 1
	tap_is_there web
}

@test "transient: a real guest with an agent is asked, and powers itself off" {
	real_guest
	stops_gracefully guest 'blix: ready'
}

@test "transient: a stop takes everything down" {
	in_box blix vm stop web --quiet
	[ "$(vm web .status.phase)" = Stopped ]
	runners_are 0
	tap_is_gone web
	until_true virtiofsd_is_gone
	[ "$(seen web '[.state, .exit.exitCode, has("booted"), has("unit")] | @csv')" = '"stopped",0,false,false' ]
}

only_virtiofsd() { # as a crash leaves it between the two units
	in_box ln -s /opt/fake/store /var/lib/microvms/web/booted
	in_box systemd-run --quiet --collect --unit=blix-virtiofsd-web.service sleep infinity
}
nothing_stands() {
	! in_box systemctl is-active --quiet blix-virtiofsd-web.service && ! in_box [ -L /var/lib/microvms/web/booted ]
}

@test "transient: what a start left that was cut off before the VM's unit is taken down, and is in no other's way" {
	only_virtiofsd
	in_box systemctl kill -s KILL blixd
	until_true node_is_ready
	until_true nothing_stands
	in_box systemd-run --quiet --collect --unit=blix-virtiofsd-web.service sleep infinity
	in_box blix vm start web --quiet
	until_true is_running web
	[ -n "$(virtiofsd)" ]
	in_box [ ! -e /srv/stale ]
}

@test "transient: a unit of somebody else is left alone" {
	in_box systemd-run --quiet --unit=blix-vm-mine.service sleep infinity
	pid=$(in_box systemctl show -P MainPID blix-vm-mine.service)
	run create mine
	[ "$status" -ne 0 ]
	[ "$(vm mine '"\(.status.phase) \(.status.reason)"')" = "Failed foreign-unit" ]
	in_box blix vm delete mine --yes --quiet
	[ "$(in_box systemctl show -P MainPID blix-vm-mine.service)" = "$pid" ]
	in_box systemctl stop blix-vm-mine.service
}

@test "transient: a reboot is no end of a VM: what should run runs again, whatever its policy" {
	runs_after_a_reboot web
}

@test "transient: power loss and boot: what should run runs, once" {
	in_box sync
	"$hostbox" kill "$BOX"
	"$hostbox" boot "$BOX"
	until_true node_is_ready
	until_true is_running web
	runners_are 1
	tap_is_there web
}

@test "transient: a deleted VM leaves nothing" {
	in_box blix vm delete web --yes --quiet
	until_true has_no_traces web
	until_true virtiofsd_is_gone
	[ "$(in_box systemctl list-units --all --plain --no-legend 'blix-*')" = "" ]
	runners_are 0
}

@test "transient: a real hypervisor: ready, adopted, stopped" {
	write /opt/fake/store/bin/microvm-run 0755 <<-'END'
		#!/bin/bash
		exec -a microvm@toy qemu-system-x86_64 -M microvm,accel=tcg -cpu qemu64 -m 16 -nodefaults -no-user-config -no-reboot \
			-display none -serial stdio -qmp unix:toy.sock,server=on,wait=off -kernel /usr/local/libexec/blix/toy.elf
	END
	in_box blix vm create toy --flake "$BASE#toy" --ready "console:READY toy" --quiet
	until_true is_running toy
	[ "$(seen toy '[.supervision, .control.status] | @csv')" = '"systemd","running"' ]
	pid=$(main_pid toy)
	in_box kill -9 "$(in_box systemctl show -P MainPID blixd)"
	until_true node_is_ready
	until_true is_running toy
	[ "$(main_pid toy)" = "$pid" ]
	in_box blix vm stop toy --force --quiet
	tap_is_gone toy
	in_box blix vm delete toy --yes --quiet
	has_no_traces toy
	in_box ln -sf ../../runner /opt/fake/store/bin/microvm-run
}

@test "transient: uninstall leaves nothing" {
	create last
	run in_box /usr/local/libexec/blix/uninstall --purge
	[ "$status" -ne 0 ]
	in_box /usr/local/libexec/blix/uninstall --stop-vms --purge
	has_no_traces last
	runners_are 0
	[ -z "$(in_box find /usr/local /etc/blix /etc/systemd /var/lib/blix /run/blix /var/cache/blix /run/systemd -name '*blix*' 2>/dev/null)" ]
}
