# A host of its own for each file: a box (tests/hostbox/hostbox) with blix installed from this tree,
# and the stand-ins for nix, microvm and a runner in /opt/fake. The runner has taps.
# shellcheck disable=SC2034 # used by the tests

load ../until.bash

ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
BUILD=$(realpath "${BLIX_BUILD:-$ROOT/build/asan}")
BASE='path:/nix/store/00000000000000000000000000000000-source?narHash=sha256-fake'
hostbox=$ROOT/tests/hostbox/hostbox

# A sanitizer's report would be lost in the box's journal, and units bind what it needs: what is
# installed is the plain build.
box_setup() {
	[ "$(id -u)" = 0 ] || { echo "needs root" >&2; return 1; }
	make -s -C "$ROOT" MODE=debug all fakes man >&2
	HOSTBOX_DIR=$(mktemp -d /tmp/blix.XXXXXX)
	BOX=b$RANDOM$RANDOM
	HOSTBOX_SHOW=$ROOT
	export HOSTBOX_DIR HOSTBOX_SHOW BOX
	"$hostbox" up "$BOX"
	in_box mkdir -p /etc/blix /opt
	in_box cp -r "$ROOT/build/debug/tests/fake" /opt/fake
	in_box rm /opt/fake/systemctl # there is a real one
	write /opt/fake/store/bin/tap-up 0755 <<-'END'
		#!/bin/bash
		ip tuntap add "t-$(basename "$PWD")" mode tap
	END
	write /opt/fake/store/bin/tap-down 0755 <<-'END'
		#!/bin/bash
		ip link delete "t-$(basename "$PWD")"
	END
	# Group and mode of a VM's directory are as upstream's command makes them.
	write /opt/fake/command 0755 <<-'END'
		#!/bin/bash
		[[ $* == *-c* ]] || exec /opt/fake/microvm "$@"
		/opt/fake/microvm "$@" && { chgrp kvm "$MICROVM_STATE_DIR/${*: -1}" && chmod 0775 "$MICROVM_STATE_DIR/${*: -1}"; }
	END
	write /etc/blix/blix.json 0644 <<-'END'
		{ "microvm": "/opt/fake/command", "path": "/opt/fake:/usr/sbin:/usr/bin:/sbin:/bin",
		  "electionTimeoutMs": 300, "heartbeatMs": 50, "retryMs": 50,
		  "capacity": {"cpus": 64, "memoryBytes": 68719476736}, "reserved": {"cpus": 0, "memoryBytes": 0} }
	END
	# A unit with mounts of its own would see the boot id of the machine, not that of the box.
	write /etc/systemd/system/service.d/boot-id.conf 0644 <<-'END'
		[Service]
		ProtectKernelTunables=no
		BindReadOnlyPaths=/run/boot_id:/proc/sys/kernel/random/boot_id
	END
	in_box make -s -C "$ROOT" MODE=debug install >&2
}

box_teardown() {
	[ -n "${BOX:-}" ] || return 0
	"$hostbox" down "$BOX"
	rmdir "$HOSTBOX_DIR"
}

in_box() { "$hostbox" exec "$BOX" "$@"; }

# write PATH MODE: standard input, to a file in the box
write() {
	in_box install -D -m "$2" /dev/stdin "$1"
}

# The units that the NixOS module of microvm.nix makes, with its settings.
nixos_units() {
	local dir=/etc/systemd/system vms=/var/lib/microvms
	write $dir/microvm@.service 0644 <<-END
		[Unit]
		Description=MicroVM '%i'
		Requires=microvm-set-booted@%i.service microvm-tap-interfaces@%i.service
		After=network.target microvm-set-booted@%i.service microvm-tap-interfaces@%i.service
		ConditionPathExists=$vms/%i/current/bin/microvm-run
		[Service]
		Type=simple
		WorkingDirectory=$vms/%i
		ExecStart=$vms/%i/current/bin/microvm-run
		Restart=always
		RestartSec=5s
		TimeoutSec=150
		SyslogIdentifier=microvm@%i
		User=microvm
		Group=kvm
		LimitNOFILE=1048576
		LimitMEMLOCK=infinity
		NotifyAccess=all
	END
	write $dir/microvm-set-booted@.service 0644 <<-END
		[Unit]
		Description=Set a booted system for MicroVM '%i'
		PartOf=microvm@%i.service
		[Service]
		Type=oneshot
		RemainAfterExit=yes
		WorkingDirectory=$vms/%i
		User=microvm
		Group=kvm
		ExecStart=/bin/sh -c 'ln -s "\$\$(readlink current)" booted'
		ExecStop=/bin/rm booted
	END
	write $dir/microvm-tap-interfaces@.service 0644 <<-END
		[Unit]
		Description=Setup MicroVM '%i' TAP interfaces
		PartOf=microvm@%i.service
		After=network.target microvm-set-booted@%i.service
		ConditionPathExists=$vms/%i/current/bin/tap-up
		[Service]
		Type=oneshot
		RemainAfterExit=yes
		WorkingDirectory=$vms/%i
		ExecStart=$vms/%i/current/bin/tap-up
		ExecStop=$vms/%i/booted/bin/tap-down
	END
	in_box systemctl daemon-reload
}

daemon_start() {
	in_box systemctl enable --quiet --now blixd
	in_box blix node init --quiet --listen 127.0.0.1:7443 --timeout 60s
	until_true node_is_ready
}
node_is_ready() { [ "$(in_box blix node list -o json 2>/dev/null | jq -r '.items[].status.phase')" = Ready ]; }

create() { # NAME
	in_box blix vm create "$1" --flake "$BASE#$1" --ready console:ready --quiet
}

# store-2 (the base with -gen2) becomes the example guest, Debian's kernel in a real QEMU; with
# "deaf" it has no port for an agent: only the power button reaches it.
GUEST=${BASE/-source/-gen2-source}
real_guest() { # [deaf]
	local staged=$ROOT/build/debug/tests/debian
	[ -e "$staged/.blix-example" ] || "$ROOT/examples/debian/stage" "$staged" >&2
	cat "$staged/initrd" "$staged/agent" >"$staged/initrd-agent"
	local port='-device virtio-serial-device -chardev socket,id=blix-agent,path=blix.agent,server=on,wait=off -device virtserialport,chardev=blix-agent,name=blix.agent.0'
	[ -z "${1-}" ] || port=''
	in_box rm -rf /opt/fake/store-2
	{
		printf '%s\n' '#!/bin/bash' host=guest vcpu=1 mem=256 socket=guest.sock balloon= extra_args_script= toy= \
			"kernel=$staged/vmlinuz" "initrd=$staged/initrd-agent" "words='${1:+ blix.mute=1}'" "more=($port)" 'attach() { :; }'
		cat "$ROOT/examples/debian/microvm-run"
	} | write /opt/fake/store-2/bin/microvm-run 0755
	write /opt/fake/store-2/share/microvm/hypervisor 0644 <<<qemu
}

# It is asked to stop, and does: nobody signals it, and its last words are in the log.
stops_gracefully() { # NAME READY_LINE
	in_box blix vm create "$1" --flake "$GUEST#$1" --ready "console:$2" --quiet
	in_box blix vm stop "$1" --quiet
	[ "$(vm "$1" '"\(.status.phase) \(.status.exitCode)"')" = "Stopped 0" ]
	in_box blix vm logs "$1" | grep -q 'blix: powering off'
	if in_box blix vm events "$1" | grep -E 'vm-(terminated|killed)'; then return 1; fi
	in_box blix vm delete "$1" --yes --quiet
	until_true has_no_traces "$1"
}

vm() { # NAME FILTER
	in_box blix vm show "$1" -o json | jq -r "$2"
}
is_running() { [ "$(vm "$1" '"\(.status.phase) \(.status.ready)"')" = "Running true" ]; }
is_running_anew() { # NAME PID
	local pid
	is_running "$1" && pid=$(main_pid "$1") && [ "$pid" != null ] && [ "$pid" != "$2" ]
}
seen() { in_box microvm-status "$1" | jq -r ".items[0] | $2"; } # NAME FILTER
main_pid() { seen "$1" .process.pid; }

# The daemon is told to stop some seconds after a reboot has begun: whoever ends meanwhile, it sees.
slow_shutdown() {
	write /etc/systemd/system/slow.service 0644 <<-'END'
		[Unit]
		After=blixd.service
		[Service]
		Type=oneshot
		RemainAfterExit=yes
		ExecStart=/bin/true
		ExecStop=/bin/sleep 3
	END
	in_box systemctl daemon-reload
	in_box systemctl start slow.service
}

# A runner that SIGTERM ends with 0 has not been shut down by its guest, and what its policy says of
# an end of its own does not matter.
runs_after_a_reboot() { # NAME
	local boot
	in_box blix vm set "$1" --restart never
	slow_shutdown
	boot=$(in_box systemctl show -P InvocationID slow.service)
	"$hostbox" reboot "$BOX"
	[ "$(in_box systemctl show -P InvocationID slow.service)" != "$boot" ]
	until_true node_is_ready
	until_true is_running "$1"
	runners_are 1
	tap_is_there "$1"
	in_box blix vm events "$1" | grep -q vm-host-restarted
	[ "$(in_box blix vm events "$1" | grep -cE 'vm-(guest-shutdown|failed)')" = 0 ]
	in_box blix vm set "$1" --restart on-failure
}

tap_is_there() { in_box ip link show "t-$1" >/dev/null 2>&1; }
tap_is_gone() { ! tap_is_there "$1"; }
# How many runners run; each fake runner is one process.
runners() { in_box pgrep -xc microvm-run || true; }
runners_are() { [ "$(runners)" = "$1" ]; }
# Everything that bears the name of a VM: links, units, files.
traces() { # NAME
	in_box bash -c '
		ip -o link show "t-$1" 2>/dev/null
		systemctl list-units --all --plain --no-legend "*$1.service" "*@$1.service"
		ls -d /run/systemd/system/*"$1".service.d /run/systemd/transient/*"$1"* /var/lib/microvms/"$1" /var/lib/blix/vms/"$1" \
			/run/blix/vms/"$1" /nix/var/nix/gcroots/microvm/*"$1" 2>/dev/null' traces "$1" || true
}
has_no_traces() {
	local all
	all=$(traces "$1")
	[ -z "$all" ] || { echo "$all"; return 1; }
}
