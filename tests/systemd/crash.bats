#!/usr/bin/env bats
# blixd dies at some of its crash points on hosts with systemd as PID 1, beside a foreign directory and a foreign unit that
# runs: afterwards the host looks as if it had not died. All points are tried in tests/crash, with a stand-in for systemd.

load helpers.bash

setup() {
	box_setup
	crashable
}
teardown() { box_teardown; }

# The next start of blixd dies at the point that is named in a file, the one after it does not.
crashable() {
	write /usr/local/bin/blixd-at 0755 <<-'END'
		#!/bin/sh
		cd /var/lib/blix || exit 1
		export BLIX_CRASH_LOG=$PWD/points BLIX_CRASH_AT=$(cat crash-at)
		rm -f points crash-at
		exec /usr/local/bin/blixd
	END
	write /etc/systemd/system/blixd.service.d/crash.conf 0644 <<-'END'
		[Service]
		RestartSec=100ms
		ExecStart=
		ExecStart=/usr/local/bin/blixd-at
	END
	in_box systemctl daemon-reload
}

begin_start() { in_box blix vm start web --no-wait; }
end_start() { is_running web; }
begin_stop() { in_box blix vm stop web --no-wait; }
end_stop() { [ "$(vm web .status.phase)" = Stopped ]; }
begin_delete() { ! in_box blix vm show web || in_box blix vm delete web --yes --no-wait; }
end_delete() { node_is_ready && ! in_box blix vm show web; }

before() { # OPERATION
	case $1 in
	start) in_box blix vm stop web --quiet ;;
	stop) in_box blix vm start web --quiet ;;
	delete)
		! in_box blix vm show web >/dev/null 2>&1 || in_box blix vm delete web --yes --quiet
		create web
		;;
	esac
}

daemon() { in_box systemctl show -P MainPID blixd; }
daemon_is_another() { node_is_ready && [ "$(daemon)" != "$1" ]; } # PID

# Begins it, by a blixd that dies at point AT, and waits until all is over.
operate() { # OPERATION AT
	local pid
	in_box sh -c 'echo "$1" >/var/lib/blix/crash-at && systemctl restart blixd' crash "$2"
	until_true node_is_ready
	pid=$(daemon)
	until_true "begin_$1" >/dev/null 2>&1
	until_true "end_$1" 2>/dev/null
	[ "$2" = 0 ] || until_true daemon_is_another "$pid"
}

# All that is on the host, in words that do not depend on the run: files, links, units, control groups, mounts, processes.
host() {
	in_box bash -c '
		find /var/lib/microvms /var/lib/blix /run/blix /nix/var/nix/gcroots /run/systemd/{system,transient} -mindepth 1 \
			-name "raft*" -prune -o ! -name journal ! -name points ! -name exit.json -printf "%p %y %l\n" 2>/dev/null | sort
		ls /sys/class/net
		systemctl list-units --all --plain --no-legend "*microvm*" "*blix*" | awk "{ print \$1, \$2, \$3, \$4 }" | sort
		find /sys/fs/cgroup -type d \( -path "*microvm*" -o -path "*blix*" \) | sort
		cut -d" " -f5 /proc/self/mountinfo | sort
		ps -eo comm= | grep -E "microvm|blix|tap" | sort' | sed -E 's/[0-9]+/N/g'
}

foreign() { # UNIT
	in_box sh -c 'cd /var/lib/microvms/foreign && find . -printf "%p %y %l %m %T@\n" | sort && sha256sum disk.img &&
		systemctl show -P InvocationID -P MainPID -P ActiveState "$1"' foreign "$1"
}

make_foreign() {
	in_box sh -c 'mkdir -p /var/lib/microvms/foreign && cd /var/lib/microvms/foreign && echo theirs >disk.img &&
		ln -s /opt/fake/store current && chown -R microvm:kvm .'
}

# The first, a middle and the last point of each operation.
sample() { # UNIT of the foreign VM
	local operation at points want got theirs tried=0
	theirs=$(foreign "$1")
	[[ $theirs == *active* ]]
	before start
	before stop # from now on there is the console of the run before
	for operation in stop start delete; do
		before "$operation"
		operate "$operation" 0
		want=$(host)
		points=$(in_box grep -c . /var/lib/blix/points)
		for at in 1 $((points / 2)) "$points"; do
			before "$operation"
			operate "$operation" "$at"
			got=$(host)
			echo "$operation, point $at of $points"
			diff -u <(echo "$want") <(echo "$got")
			[ "$(foreign "$1")" = "$theirs" ]
			tried=$((tried + 1))
		done
	done
	echo "# $tried points of stop, start and delete: 0 ended otherwise" >&3
}

@test "microvm@: blixd dies in the middle of a stop, a start and a delete" {
	nixos_units
	make_foreign
	in_box systemctl start microvm@foreign.service
	daemon_start
	create web
	sample microvm@foreign.service
}

@test "transient: blixd dies in the middle of a stop, a start and a delete" {
	make_foreign
	in_box systemd-run --quiet --unit=blix-vm-foreign.service --working-directory=/var/lib/microvms/foreign sleep infinity
	daemon_start
	create web
	sample blix-vm-foreign.service
}
