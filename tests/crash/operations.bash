# The host of one run in $T, and the operations that are crashed. Sourced by enumerate and churn, after
# tests/cluster/helpers.bash, inside tests/crash/apart.
#
# The runner has a tap and, but for `term` and `escalate`, a control socket on which it hears the power button. With
# GUEST=toy it is QEMU with the toy kernel. With SUPERVISION=systemd the host has microvm@.service and a stand-in for
# systemctl.
# shellcheck disable=SC2034 # used by those who source it

SUPERVISION=${SUPERVISION:-shim}
WITHIN=60

# Programs of a build with sanitizers take their time to start: fewer of them than the other tiers need.
until_true() {
	local until=$((SECONDS + WITHIN))
	until "$@"; do
		if [ "$SECONDS" -ge "$until" ]; then
			echo "not true within $WITHIN s: $*" >&2
			return 1
		fi
		sleep 0.05
	done
}

program() { # PATH, its text on standard input
	mkdir -p "$(dirname "$1")"
	rm -f "$1"
	cat >"$1"
	chmod +x "$1"
}

# As upstream's: the second tap-down finds nothing and fails.
make_taps() { # STORE
	echo t-web >"$1/share/microvm/tap-interfaces"
	program "$1/bin/tap-up" <<-'END'
		#!/bin/sh
		exec ip tuntap add name t-web mode tap
	END
	program "$1/bin/tap-down" <<-'END'
		#!/bin/sh
		exec ip link delete t-web
	END
}

make_virtiofsd() { # STORE
	mkdir -p "$1/share/microvm/virtiofs/ro"
	echo host-virtiofs-ro.sock >"$1/share/microvm/virtiofs/ro/socket"
	program "$1/bin/virtiofsd-run" <<-'END'
		#!/usr/bin/perl
		use IO::Socket::UNIX;
		unlink 'host-virtiofs-ro.sock';
		my $s = IO::Socket::UNIX->new(Type => SOCK_STREAM(), Local => 'host-virtiofs-ro.sock', Listen => 1) or die;
		sleep 1 while 1;
	END
}

runner_of() { # STORE
	case ${GUEST:-} in
	toy) program "$1/bin/microvm-run" <<-END ;;
		#!/bin/sh
		exec qemu-system-x86_64 -M microvm,accel=tcg -cpu qemu64 -m 16 -nodefaults -no-user-config -display none -serial stdio \
			-kernel $BUILD/libexec/toy.elf
	END
	*) program "$1/bin/microvm-run" <<-END ;;
		#!/bin/sh
		$PWD/tests/fake/vmm "\${PWD##*/}.sock" guest \$\$ >/dev/null &
		exec $FAKE/runner
	END
	esac
}

# The stand-ins, as programs of this host: what is made by them differs from run to run.
make_programs() {
	local store
	cp -a "$FAKE" "$T/fake"
	FAKE=$T/fake
	for store in "$FAKE"/store{,-2,-3}; do # store-4 stays as it is
		make_taps "$store"
		case "${WHO:-} ${OPERATION:-}" in virtiofsd* | *share) make_virtiofsd "$store" ;; esac
		case ${OPERATION:-} in term | escalate) ;; *) runner_of "$store" ;; esac
	done
	mkdir -p "$T/libexec"
	ln -s "$BUILD/libexec/"* "$T/libexec/"
}

# A VM that is not ours, beside it all; where there are units, it runs.
make_foreign() {
	mkdir -p "$T/n1/microvms/foreign" "$T/n1/gcroots/microvm"
	echo theirs >"$T/n1/microvms/foreign/disk.img"
	ln -s "$FAKE/store-4" "$T/n1/microvms/foreign/current"
	ln -s "$T/n1/microvms/foreign/current" "$T/n1/gcroots/microvm/foreign"
	[ "$SUPERVISION" != systemd ] ||
		MICROVM_STATE_DIR=$T/n1/microvms "$FAKE/systemctl" start -- microvm@foreign.service
}
unit_pid() { head -n 1 "$T/n1/microvms/.fake/units/microvm@$1.service"; }

# All of the foreign VM, to the byte and the moment, and whether it is still the same process.
foreign() {
	(cd "$T/n1" && find microvms/foreign gcroots/microvm/foreign -printf '%p %y %l %m %T@\n' | sort && sha256sum microvms/foreign/disk.img)
	[ "$SUPERVISION" != systemd ] || { unit_pid foreign && ended "$(unit_pid foreign)" && echo "it has ended"; }
}

make_host() { # [JQ-FILTER]
	make_programs
	configure 1 '.retryMs = 20 | .generations = {keep: 2} | .libexecDir = "'"$T"'/libexec" | .supervision = "'"$SUPERVISION"'" |
		.systemdDir = "'"$T"'/n1/systemd" | '"${1:-.}"
	: >"$T/n1/microvms/.fake/witness"
	if [ "$SUPERVISION" = systemd ]; then
		mkdir "$T/n1/systemd"
		: >"$T/n1/systemd/microvm@.service"
	fi
	make_foreign
	FOREIGN=$(foreign)
}

get() { "$BATS_TEST_DIRNAME/request" "$T/n1/sock" GET "/v1/$1" 2>/dev/null; }
answers() { [[ $(get nodes) == 200*'"phase":"Ready"'* ]]; }
phase_is() { [[ $(get vms/web) == 200*'"phase":"'"$1"'"'* ]]; }
# Its stand-in for a hypervisor is a process beside the runner, and listens when it comes to it.
listens() { [ -n "${GUEST:-}" ] || [[ $OPERATION == @(term|escalate) ]] || [ -S "$T/n1/microvms/web/web.sock" ]; }
runs() { phase_is Running && listens; }
is_gone() { [[ $(get vms/web) == 404* ]]; }
base() { echo "path:/nix/store/00000000000000000000000000000000-gen$1-volume-source?narHash=sha256-fake"; }

make_web() {
	on 1 vm create web --flake "$(base 1)#web" "$@" --timeout 60s -q >/dev/null || return 1
	until_true listens && echo data >"$T/n1/microvms/web/data.img"
}
stop_web() { on 1 vm stop web --force --timeout 60s -q >/dev/null; }

# before_X makes what X begins with; begin_X asks for it, twice without harm; end_X is true when it is over.
before_create() { :; }
begin_create() { [[ $(get vms/web) == 200* ]] || on 1 vm create web --flake "$(base 1)#web" --no-wait; }
end_create() { runs; }
# From a flake on the client's disk, which is sent first.
before_source() {
	mkdir -p "$T/flake" && echo '{ outputs = { self }: { }; }' >"$T/flake/flake.nix"
}
begin_source() { [[ $(get vms/web) == 200* ]] || on 1 vm create web --flake "$T/flake#web" --no-wait; }
end_source() { runs; }
before_start() { make_web && stop_web; }
begin_start() { on 1 vm start web --no-wait; }
end_start() { runs || { [ "$WHO" = shim ] && phase_is Unknown; }; }
# With a virtiofsd beside it.
before_share() { before_start; }
begin_share() { begin_start; }
end_share() { runs; }
before_unshare() { make_web; }
begin_unshare() { begin_stop; }
end_unshare() { end_stop; }
# By the power button.
before_stop() { make_web; }
begin_stop() { on 1 vm stop web --no-wait; }
end_stop() { phase_is Stopped; }
# By SIGTERM: there is no control socket.
before_term() { make_web; }
begin_term() { begin_stop; }
end_term() { end_stop; }
# By SIGKILL, since it does not hear SIGTERM.
before_escalate() { echo stubborn >"$T/n1/microvms/.fake/web" && make_web; }
begin_escalate() { begin_stop; }
end_escalate() { end_stop; }
before_kill() { make_web; }
begin_kill() { on 1 vm stop web --force --no-wait; }
end_kill() { phase_is Stopped; }
update_to() { # GENERATION OPTION...
	on 1 vm update web --flake "$(base "$1")#web" --force "${@:2}"
}
before_update() { make_web; }
begin_update() { update_to 2 --no-wait; }
end_update() { [[ $(get vms/web) == 200*'"phase":"Running"'*'"desired":2,"current":2,"booted":2'* ]] && listens; }
# A VM waits for a value, which comes. Its names alone are in the log, as a client leaves them that dies in between.
waits_for_secrets() { [[ $(get vms/web) == 200*'"reason":"waits-for-secrets"'* ]]; }
before_secret() {
	"$BATS_TEST_DIRNAME/request" "$T/n1/sock" POST /v1/vms >/dev/null \
		<<<'{"metadata":{"name":"web"},"spec":{"flake":"'"$(base 1)"'","attr":"web","secrets":["db"]}}' &&
		until_true waits_for_secrets
}
begin_secret() { phase_is Running || on 1 vm set web --secret db=- <<<value; }
end_secret() { runs; }
# With more generations than are kept.
before_prune() { make_web && update_to 2 --timeout 60s -q >/dev/null; }
begin_prune() { update_to 3 --no-wait; }
end_prune() { [[ $(get vms/web) == 200*'"phase":"Running"'*'"desired":3,"current":3,"booted":3'* ]] && listens && [ ! -L "$T/n1/gcroots/microvm/web.1" ]; }
before_delete() { make_web; }
begin_delete() { is_gone || on 1 vm delete web --yes --no-wait; }
end_delete() { is_gone; }
# What `microvm -c` left, with a disk, becomes a VM.
before_adopt() {
	env -i PATH="$PATH" MICROVM_STATE_DIR="$T/n1/microvms" MICROVM_GCROOTS_DIR="$T/n1/gcroots/microvm" \
		"$FAKE/microvm" -f "$(base 1)" -c web
	echo data >"$T/n1/microvms/web/data.img"
}
begin_adopt() { [[ $(get vms/web) == 200* ]] || on 1 vm adopt web --node n1 --no-wait; }
end_adopt() { phase_is Stopped && [ -s "$T/n1/microvms/web/.blix.json" ] && grep -q gen1 "$T/n1/microvms/web/.blix-flake"; }
