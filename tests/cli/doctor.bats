#!/usr/bin/env bats
# blix doctor on hosts of the test's own making: programs in a PATH of its own, mounts in a namespace of its own, a
# daemon that is real or a script.
# shellcheck disable=SC2016 # programs of the test are written with single quotes

bats_require_minimum_version 1.5.0

setup() {
	load ../until.bash
	build=$(realpath "${BLIX_BUILD:-build/debug}")
	T=$(mktemp -d /tmp/blix.XXXXXX)
	PID=
	mkdir -p "$T/bin" "$T/state/vms" "$T/run/vms" "$T/microvms" "$T/gcroots"
	program nix 'case $1 in --version) echo "nix (Nix) 2.24.1" ;; *) echo true ;; esac'
	program qemu-system-x86_64 'echo READY toy'
	configure .
}

teardown() {
	[ -z "$PID" ] || { kill "$PID" && wait "$PID"; } 2>/dev/null || :
	rm -rf "$T"
}

program() { # NAME SCRIPT
	printf '#!/bin/sh\n%s\n' "$2" >"$T/bin/$1"
	chmod +x "$T/bin/$1"
}

configure() { # JQ-FILTER
	jq -n --arg t "$T" '{stateDir: "\($t)/state", runDir: "\($t)/run", socket: "\($t)/sock", group: "",
		microvmsDir: "\($t)/microvms", gcrootsDir: "\($t)/gcroots", path: "\($t)/bin", name: "host"}' |
		jq "$1" >"$T/blix.json"
}

doctor() { # [IN-NAMESPACE SCRIPT]: its JSON is in $output
	if [ $# -gt 0 ]; then
		unshare -m true 2>/dev/null || skip "needs the right to mount in a namespace of its own"
		run --separate-stderr unshare -m --propagation private sh -c "$1"' && shift && exec "$@"' sh x \
			"$build/bin/blix" doctor --config "$T/blix.json" -o json
	else
		run --separate-stderr "$build/bin/blix" doctor --config "$T/blix.json" -o json
	fi
	[ "$(jq '[.ok, .warn, .fail] | add == ($f | length)' --argjson f "$(jq .findings <<<"$output")" <<<"$output")" = true ]
	[ "$status" = "$(jq 'if .fail > 0 then 1 else 0 end' <<<"$output")" ]
}

found() { # CHECK LEVEL TEXT [FIX]: there is such a finding
	jq -e --arg c "$1" --arg l "$2" --arg t "$3" --arg f "${4:-}" \
		'any(.findings[]; .check == $c and .level == $l and (.message | contains($t)) and ((.fix // "") | contains($f)))' \
		<<<"$output" >/dev/null || { echo "no $1 $2 '$3' '${4:-}' in $output" >&2; return 1; }
}

start_daemon() {
	"$build/bin/blixd" --dev --state-dir "$T/dev" --config "$T/blix.json" </dev/null >"$T/log" 2>&1 3>&- &
	PID=$!
	until_true env BLIX_ENDPOINT="$T/sock" "$build/bin/blix" vm list
}

@test "each check has its say, and text for people says the same as JSON" {
	doctor
	[ "$(jq -c '[.findings[].check] | unique - ["permissions"]' <<<"$output")" = \
		'["acceleration","cgroups","clock","daemon","disk","leftovers","microvm","nix","runners","systemd"]' ]
	[ "$(jq -r '[.findings[] | select(.level != "ok" and (.fix // "") == "") | .message] | join("; ")' <<<"$output")" = "" ]
	run "$build/bin/blix" doctor --config "$T/blix.json"
	[[ $output == *"ok    acceleration"*"KVM boots a guest"* ]]
	[[ ${lines[-1]} == *" ok, "*" to look at, 0 failed" ]]
	[ "$(ls -A "$T/state")" = vms ] # nothing of it stays
}

@test "acceleration: a guest that boots, one that does not, no QEMU" {
	doctor
	found acceleration ok 'KVM boots a guest'
	program qemu-system-x86_64 'echo aborted; exit 1'
	doctor
	found acceleration warn 'emulated (TCG)'
	rm "$T/bin/qemu-system-x86_64"
	doctor
	found acceleration warn 'QEMU is not on the PATH' 'qemu-system-x86'
	[ "$status" = 0 ]
}

@test "nix: new, old, without flakes, none" {
	doctor
	found nix ok 2.24.1
	found nix ok 'with flakes'
	program nix 'case $1 in --version) echo "nix (Nix) 2.8.0" ;; *) echo "error: no such feature" >&2; exit 1 ;; esac'
	doctor
	found nix warn 2.8.0 'Nix 2.18'
	found nix fail 'no such feature' 'nix eval'
	[ "$status" = 1 ]
	rm "$T/bin/nix"
	doctor
	found nix fail 'nothing can be built' 'apt-get install'
}

@test "microvm: blix's own, another, one that is not there" {
	doctor
	found microvm ok 'comes with blix'
	program microvm true
	doctor
	found microvm ok "the host's own"
	configure '.microvm = "/nowhere/microvm"'
	doctor
	found microvm fail '/nowhere/microvm cannot be run' microvm
	configure '.libexecDir = "/nowhere"'
	doctor
	found microvm fail '/nowhere/blix-shim' libexecDir
}

@test "cgroups: none, version 2 without controllers, with them" {
	doctor 'mount -t tmpfs none /sys/fs/cgroup'
	found cgroups warn 'no control groups' unified_cgroup_hierarchy
	mount='umount -l /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup'
	level=warn

	unshare -m --propagation private sh -c "$mount"' && c=" $(cat /sys/fs/cgroup/cgroup.controllers) " &&
		case $c in *" cpu "*) case $c in *" memory "*) exit 0 ;; esac ;; esac; exit 1' && level=ok
	doctor "$mount"
	found cgroups "$level" 'version 2 at /sys/fs/cgroup'
}

@test "systemd: not there, without our unit, with it" {
	doctor 'mount -t tmpfs none /run'
	found systemd ok 'is not PID 1'
	doctor 'mount -t tmpfs none /run && mkdir -p /run/systemd/system'
	if [ ! -e /etc/systemd/system/blixd.service ]; then found systemd warn 'no unit blixd.service' 'make install'; fi
	doctor 'mount -t tmpfs none /run && mkdir -p /run/systemd/system && touch /run/systemd/system/blixd.service'
	found systemd ok 'is PID 1'
}

@test "disk: full, read-only, missing" {
	doctor
	found disk ok 'fsync' || found disk warn 'fsync'
	doctor "mount -t tmpfs -o size=1m none $T/state && { head -c 2M /dev/zero >$T/state/f 2>/dev/null; true; }"
	found disk fail 'left' nix-collect-garbage
	found disk fail 'cannot be written'
	doctor "mount -t tmpfs -o ro none $T/state"
	found disk fail 'Read-only file system'
	configure '.stateDir += "/none"'
	doctor
	found disk warn '/state/none'
}

@test "permissions: a group that is not there, a directory that everybody may write to" {
	configure '.group = "no-such-group"'
	doctor
	found permissions warn no-such-group 'groupadd --system no-such-group'
	chmod o+w "$T/microvms"
	doctor
	found permissions fail "$T/microvms" "chmod o-w $T/microvms"
	[ "$status" = 1 ]
}

@test "without a daemon nothing is called a leftover" {
	mkdir "$T/state/vms/gone"
	doctor
	found daemon warn 'does not answer' blixd
	found leftovers warn 'not looked for'
	[ "$(jq '[.findings[] | select(.check == "leftovers")] | length' <<<"$output")" = 1 ]
}

@test "the endpoint's daemon is asked, and its own directories are looked at" {
	start_daemon
	mkdir -p "$T/state/vms/gone"
	for way in "BLIX_ENDPOINT=unix:$T/sock blix doctor" "blix doctor --endpoint $T/sock"; do
		# shellcheck disable=SC2086
		run --separate-stderr env PATH="$build/bin:$PATH" $way -o json
		found daemon ok "$T/sock; its state is in $T/state"
		found disk "$(jq -r 'first(.findings[] | select(.check == "disk")).level' <<<"$output")" "$T/state has"
		found leftovers warn "$T/state/vms/gone"
		run ! grep -Eq '/var/lib/blix|/run/blix' <<<"$output"
	done
}

@test "runners: /dev/net/tun is there, or is not" {
	doctor '{ [ ! -d /dev/net ] || mount -t tmpfs none /dev/net; }'
	found runners warn 'No such file or directory): no VM with a tap' 'modprobe tun'
	[ -w /dev/net/tun ] || skip "taps: needs root, network namespaces and /dev/net/tun"
	doctor
	found runners ok 'taps can be made'
}

@test "runners: what one lists must be there, on this host too" {
	local runner=$T/microvms/kept/current
	start_daemon
	BLIX_ENDPOINT=$T/sock "$build/bin/blix" vm create kept --flake 'path:/nix/store/x?narHash=sha256-x' --stopped --no-wait -q >/dev/null
	mkdir -p "$runner/bin" "$runner/share/microvm/virtiofs/"{one,two,three} "$T/microvms/kept/near" "$T/run/vms/kept/virtiofsd"
	echo lo >"$runner/share/microvm/tap-interfaces"
	printf '%s\n' 'm0 02:00:00:00:00:01 lo bridge' 'm1 02:00:00:00:00:02 absent0 bridge' '../x 1 ../../../etc y' x \
		>"$runner/share/microvm/macvtap-interfaces"
	echo 0000:00:1f.7 >"$runner/share/microvm/pci-devices"
	echo near >"$runner/share/microvm/virtiofs/one/source"
	echo "$T/far" >"$runner/share/microvm/virtiofs/two/source"
	echo >"$runner/share/microvm/virtiofs/three/source"
	touch "$T/run/vms/kept/virtiofsd/exit.json"
	doctor
	for program in tap-up macvtap-up pci-setup virtiofsd-run; do
		found runners warn "has no bin/$program" 'blix vm update kept'
		touch "$runner/bin/$program" && chmod +x "$runner/bin/$program"
	done
	found runners warn 'macvtap m1 of VM kept needs the link absent0'
	found runners warn "VM kept shares $T/far, which is not there"
	found runners warn 'virtiofsd of VM kept has ended' 'blix vm restart --force kept'
	rm -r "$T/run/vms/kept/virtiofsd" "$runner/share/microvm/macvtap-interfaces"
	mkdir "$T/far"
	doctor
	[ "$(jq '[.findings[] | select(.check == "runners" and .level == "warn" and (.message | contains("kept")))] | length' <<<"$output")" = 0 ]
}

@test "leftovers: directories, a root, a link, a shim; what is foreign is left alone" {
	start_daemon
	doctor
	found daemon ok "$T/sock"
	found leftovers ok none
	BLIX_ENDPOINT=$T/sock "$build/bin/blix" vm create kept --flake 'path:/nix/store/x?narHash=sha256-x' --stopped --no-wait -q >/dev/null
	cluster=$(jq -r .cluster "$T/state/cluster.json")
	mkdir -p "$T"/{state/vms,run/vms,microvms}/{gone,kept} "$T/microvms/foreign"
	echo "{\"cluster\":\"$cluster\",\"uid\":9,\"epoch\":1}" | tee "$T/microvms/gone/.blix.json" >"$T/microvms/kept/.blix.json"
	echo '{"cluster":"another","uid":9,"epoch":1}' >"$T/microvms/foreign/.blix.json"
	mkdir -p "$T/microvms/gone/current/share/microvm"
	echo lo >"$T/microvms/gone/current/share/microvm/tap-interfaces" # an interface that every host has
	ln -s "$T/microvms/absent/current" "$T/gcroots/absent"
	ln -s "$T/microvms/gone/current" "$T/gcroots/gone"
	mkdir -p "$T/auto" # beside gcrootsDir: what Nix registers of a build whose folder is gone
	ln -s "$T/state/tmp/blix-1-2.aBcDeF/result" "$T/auto/x1"
	ln -s /elsewhere/result "$T/auto/x2"
	ln -s "$T/microvms/kept/booted" "$T/gcroots/booted-kept" # as it is while the VM is stopped
	doctor
	found leftovers warn "$T/state/vms/gone" "rm -r $T/state/vms/gone"
	found leftovers warn "$T/run/vms/gone"
	found leftovers warn "VM directory $T/microvms/gone"
	found leftovers warn 'link lo' 'ip link delete lo'
	found leftovers warn "root $T/gcroots/absent"
	found leftovers warn "root $T/gcroots/../auto/x1"
	[ "$(jq '[.findings[] | select(.check == "leftovers")] | length' <<<"$output")" = 6 ]
	run ! grep -Eq 'foreign|kept' <<<"$output"
}

@test "leftovers: a control group that blix made for a VM that is gone" {
	root=/sys/fs/cgroup
	[ -e $root/cgroup.controllers ] || root=/sys/fs/cgroup/unified
	[ -w $root/cgroup.procs ] || skip "needs the right to make control groups"
	start_daemon
	BLIX_ENDPOINT=$T/sock "$build/bin/blix" vm create kept --flake 'path:/nix/store/x?narHash=sha256-x' --stopped --no-wait -q >/dev/null
	uid=$(BLIX_ENDPOINT=$T/sock "$build/bin/blix" vm show kept -o json | jq -r .metadata.uid)
	cat >"$T/sum.c" <<-'END'
		#include <stdio.h>
		#include <string.h>
		#include <xxhash.h>
		int main(int argc, char **argv) { return argc != 2 || printf("%08x\n", (unsigned)XXH3_64bits(argv[1], strlen(argv[1]))) < 0; }
	END
	"${CC:-cc}" -o "$T/sum" "$T/sum.c" -lxxhash
	group=$root/blix/vm-$("$T/sum" "$(jq -r .cluster "$T/state/cluster.json") $T/run")
	mkdir -p "$group-987654321-1" "$group-$uid-1" "$root/blix/vm-00000000-987654321-1"
	doctor
	rmdir "$group-987654321-1" "$group-$uid-1" "$root/blix/vm-00000000-987654321-1"
	rmdir "$root/blix" || : # others may have groups there
	found leftovers warn "control group $group-987654321-1" "rmdir $group-987654321-1"
	[ "$(jq '[.findings[] | select(.check == "leftovers")] | length' <<<"$output")" = 1 ]
}

@test "leftovers: a shim of a VM that is not the cluster's" {
	start_daemon
	program blix-shim 'read -r x' # the interpreter is argv[0]: not taken for a shim
	mkfifo "$T/fifo"
	bash -c 'exec -a "$1/blix-shim" cat "$1/fifo" "$1/run/vms/stray"' x "$T" 3>&- &
	shim=$!
	until_true grep -q blix-shim "/proc/$shim/cmdline"
	doctor
	kill "$shim"
	found leftovers warn "shim $shim stands by stray" "kill $shim"
}

@test "the daemon's view: a clock that jumped, a version that is not the installed one, no quorum" {
	"${CC:-cc}" -D_GNU_SOURCE -O1 -o "$T/fake_blixd" tests/cli/fake_blixd.c
	mkdir "$T/answers"
	printf '200\nContent-Type: application/json\n\n{"version":"0.0.1"}' >"$T/answers/1"
	printf '200\nContent-Type: application/json\n\n{"cluster":"c","stale":true,"clockJumpMs":60000}' >"$T/answers/2"
	printf '200\nContent-Type: application/json\n\n{"items":[]}' >"$T/answers/3"
	"$T/fake_blixd" "$T/sock" "$T/answers" 3>&- &
	PID=$!
	until_true [ -S "$T/sock" ]
	doctor
	found daemon fail 'no quorum' 'cluster status'
	found daemon warn 'version 0.0.1' 'restart blixd'
	found clock warn 'jump by 60000 ms'
	[ "$status" = 1 ]
}

@test "a configuration that is not valid is said as blixd says it" {
	echo '{"nonsense": 1}' >"$T/blix.json"
	run --separate-stderr "$build/bin/blix" doctor --config "$T/blix.json"
	[ "$status" = 78 ]
	[[ $stderr == *nonsense* ]]
}
