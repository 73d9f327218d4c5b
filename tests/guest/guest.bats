#!/usr/bin/env bats
# The example guest for real: staged from Debian, built by Nix through the wrapper that blix renders, booted by QEMU.
# One boot of Linux takes about 4 s here. The kernel package is fetched once and kept in the user's cache.

bats_require_minimum_version 1.5.0

setup_file() {
	load nix.bash
	# Short: the control socket's path has 107 bytes.
	export work
	work=$(mktemp -d)
	root=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
	export root
	"$root/examples/debian/stage" "$work/guest"
	nix_isolated "$work"
	export MICROVM_STATE_DIR=$work/vms MICROVM_GCROOTS_DIR=$work/gcroots BLIX_ACCEL=tcg
	base=$(base_url "$work/guest")
	export base
}

teardown_file() {
	nix_forget "$work"
}

setup() {
	load nix.bash
	vm_pid=
}

teardown() {
	if [ -n "$vm_pid" ] && kill -0 "$vm_pid" 2>/dev/null; then
		kill -KILL "$vm_pid"
		wait "$vm_pid" || :
	fi
}

# Polls a condition until it holds; fails when the VM ends before or after 60 s, with what the VM said.
await() { # COMMAND...
	local until=$((SECONDS + 60))
	until "$@"; do
		if [ "$SECONDS" -ge "$until" ] || ! kill -0 "$vm_pid" 2>/dev/null; then
			"$@" && return
			cat "$console" "$console.err" >&2
			return 1
		fi
		read -r -t 0.05 <> <(:) || :
	done
}

create() { # NAME ATTR OPTIONS-JSON
	wrapper "$work/$1" "$base" "$1" "$2" "$3"
	nix flake lock "path:$work/$1" 2>/dev/null
	"$root/scripts/microvm" -f "path:$work/$1" -c "$1"
}

start() { # NAME: as a supervisor does
	console=$work/$1.console
	"$root/scripts/microvm" -r "$1" </dev/null >"$console" 2>"$console.err" 3>&- &
	vm_pid=$!
}

ended() { # sets rc
	rc=0
	wait "$vm_pid" || rc=$?
	vm_pid=
}

qmp() { # SOCKET COMMAND: prints the answer to COMMAND
	perl -MIO::Socket::UNIX -e '
		my $qmp = IO::Socket::UNIX->new($ARGV[0]) or die "$ARGV[0]: $!\n";
		$qmp->autoflush(1);
		<$qmp>;
		for my $command (q("qmp_capabilities"), $ARGV[1]) {
			print {$qmp} qq({"execute":$command}\n);
			do { $answer = <$qmp> // exit 1 } until $answer =~ /^\{"(return|error)"/;
		}
		print $answer' "$1" "$2"
}

has() { # TEXT
	grep -q "$1" "$console"
}

@test "staging refuses a directory with other files" {
	mkdir "$work/mine"
	touch "$work/mine/letter"
	run "$root/examples/debian/stage" "$work/mine"
	[ "$status" -eq 1 ]
	[[ "$output" == *"holds other files"* ]]
	[ "$(ls "$work/mine")" = letter ]
}

@test "an unstaged flake says what to do" {
	mkdir "$work/bare"
	cp "$root"/examples/debian/flake.nix "$root"/examples/debian/microvm-* "$work/bare"
	run nix build --no-link "path:$work/bare#nixosConfigurations.demo.config.microvm.declaredRunner"
	[ "$status" -eq 1 ]
	[[ "$output" == *"run examples/debian/stage DIR"* ]]
}

@test "the runner has the layout of the contract" {
	create shape demo '{"interfaces":[{"type":"tap","id":"t0","mac":"02:00:00:00:00:01"},
		{"type":"macvtap","id":"m0","mac":"02:00:00:00:00:02","macvtap":{"link":"eth9","mode":"bridge"}}],
		"shares":[{"tag":"s","source":"/srv"}]}'
	cd "$MICROVM_STATE_DIR/shape/current"
	for name in run shutdown balloon; do [ -x "bin/microvm-$name" ]; done
	for name in tap-up tap-down macvtap-up macvtap-down virtiofsd-run; do [ -x "bin/$name" ]; done
	[ "$(cat share/microvm/hypervisor)" = qemu ]
	[ "$(cat share/microvm/tap-flags)" = vnet_hdr ]
	[ "$(cat share/microvm/tap-interfaces)" = t0 ]
	[ "$(cat share/microvm/macvtap-interfaces)" = 'm0 02:00:00:00:00:02 eth9 bridge' ]
	[ "$(cat share/microvm/virtiofs/s/source)" = /srv ]
	[ -e share/microvm/system/kernel ]
	for script in bin/*; do [[ "$(head -n 1 "$script")" == "#!/"*perl ]] || bash -n "$script"; done
}

@test "the wrapper's lock depends on the base alone and does not change" {
	wrapper "$work/lock1" "$base" one demo '{"mem":256}'
	wrapper "$work/lock2" "$base" two toy '{}'
	nix flake lock "path:$work/lock1"
	nix flake lock "path:$work/lock2"
	cmp "$work/lock1/flake.lock" "$work/lock2/flake.lock"
	before=$(stat -c %y%i "$work/lock1/flake.lock")
	run --separate-stderr nix eval --no-update-lock-file --json "path:$work/lock1#nixosConfigurations.one.config.microvm.mem"
	[ "$output" = 256 ]
	[ "$(stat -c %y%i "$work/lock1/flake.lock")" = "$before" ]
}

@test "equal decisions give one runner under any name, others another" {
	create same1 demo '{"mem":200}'
	create same2 demo '{"mem":200}'
	create other demo '{"mem":201}'
	runner_of() { readlink "$MICROVM_STATE_DIR/$1/current"; }
	[ "$(runner_of same1)" = "$(runner_of same2)" ]
	[ "$(runner_of same1)" != "$(runner_of other)" ]
}

@test "an option the guest does not have, and a value it cannot do, are errors" {
	run --separate-stderr create odd demo '{"colour":"red"}'
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"The option \`microvm.colour' does not exist"* ]]
	run --separate-stderr create small demo '{"mem":64}'
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"needs 96 MiB or more"* ]]
	run --separate-stderr create fire demo '{"hypervisor":"firecracker"}'
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"only qemu runs this guest"* ]]
	run --separate-stderr create fixed demo '{"shares":[{"tag":"s","source":"/srv","readOnly":true}]}'
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"virtiofsd knows no readOnly"* ]]
}

@test "a build that fails shows its log" {
	run --separate-stderr create bad broken '{}'
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"> guest.c:7: error: this guest is broken on purpose"* ]]
	[ ! -e "$MICROVM_STATE_DIR/bad" ]
}

@test "a runner that ends at once" {
	create gone exits '{}'
	run --separate-stderr "$root/scripts/microvm" -r gone
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"ends at once on purpose"* ]]
}

@test "toy: speaks at once, ends by SIGTERM with 0 and leaves no socket" {
	create toy toy '{}'
	start toy
	await has "READY toy"
	[ -S "$MICROVM_STATE_DIR/toy/toy.sock" ]
	[ "$(tr '\0' '\n' <"/proc/$vm_pid/cmdline" | head -n 1)" = "microvm@toy" ]
	kill -TERM "$vm_pid"
	ended
	[ "$rc" -eq 0 ]
	[ ! -e "$MICROVM_STATE_DIR/toy/toy.sock" ]
}

@test "acceleration is what the toy kernel proves, and a bad choice is refused" {
	create accel toy '{}'
	BLIX_ACCEL=magic run "$root/scripts/microvm" -r accel
	[ "$status" -eq 1 ]
	[[ "$output" == *"neither kvm nor tcg"* ]]
	# A QEMU on which KVM opens and then runs nothing: the probe must end by itself, and leave nothing running.
	cat >"$work/qemu" <<-'SH'
		#!/bin/bash
		case $* in
		*accel=kvm*) echo $$ >"$0.probe"; exec tail -f /dev/null ;;
		*) printf '%s\n' "$*" ;;
		esac
	SH
	chmod +x "$work/qemu"
	BLIX_ACCEL='' QEMU=$work/qemu run "$root/scripts/microvm" -r accel
	[ "$status" -eq 0 ]
	[[ "$output" == *"accel=tcg"*"tsc_early_khz="* ]]
	[ ! -e "/proc/$(cat "$work/qemu.probe")" ]
	# And one on which it works.
	sed -i 's/\*accel=kvm\*) .*/*"-m 16 "*) echo "READY toy"; exec tail -f \/dev\/null ;;/' "$work/qemu"
	BLIX_ACCEL='' QEMU=$work/qemu run "$root/scripts/microvm" -r accel
	[[ "$output" == *"accel=kvm"*"-cpu host"* ]]
	[[ "$output" != *tsc_early_khz* ]]
	# And the real one, whatever this machine can do.
	BLIX_ACCEL='' start accel
	await has "READY toy"
	kill -TERM "$vm_pid"
	ended
	[ "$rc" -eq 0 ]
}

@test "demo: boots with the memory, cpus and disk asked for, answers QMP, powers off on the button" {
	create web demo '{"mem":256,"vcpu":2,"volumes":[{"image":"data.img","size":16,"mountPoint":"/data"}]}'
	start web
	await has "blix: ready web"
	has "blix: hostname web"
	has "blix: cpus 2"
	memory=$(sed -n 's/^MemTotal: *\([0-9]*\) kB.*/\1/p' "$console")
	[ "$memory" -gt $((192 * 1024)) ]
	[ "$memory" -le $((256 * 1024)) ]
	run ! has "did not"
	[ "$(stat -c %s "$MICROVM_STATE_DIR/web/data.img")" -eq $((16 * 1024 * 1024)) ]
	[[ "$(qmp "$MICROVM_STATE_DIR/web/demo.sock" '"query-status"')" == *'"running": true'* ]]
	qmp "$MICROVM_STATE_DIR/web/demo.sock" '"system_powerdown"'
	ended
	[ "$rc" -eq 0 ]
	has "blix: powering off"
	[ ! -e "$MICROVM_STATE_DIR/web/demo.sock" ]
}

@test "demo: 96 MiB are enough, microvm-shutdown waits for the end" {
	create little demo '{"mem":96}'
	start little
	await has "blix: ready little"
	memory=$(sed -n 's/^MemTotal: *\([0-9]*\) kB.*/\1/p' "$console")
	[ "$memory" -le $((96 * 1024)) ]
	cd "$MICROVM_STATE_DIR/little"
	current/bin/microvm-shutdown </dev/null
	ended
	[ "$rc" -eq 0 ]
	has "blix: powering off"
	run current/bin/microvm-shutdown
	[ "$status" -eq 1 ]
	[[ "$output" == *"demo.sock"* ]]
}

@test "mute: boots, says nothing of ready, powers off on Ctrl-Alt-Del" {
	create quiet mute '{}'
	start quiet
	await has "blix: cpus"
	sock=$MICROVM_STATE_DIR/quiet/mute.sock
	keys='"input-send-event","arguments":{"events":[
		{"type":"key","data":{"down":true,"key":{"type":"qcode","data":"ctrl"}}},
		{"type":"key","data":{"down":true,"key":{"type":"qcode","data":"alt"}}},
		{"type":"key","data":{"down":true,"key":{"type":"qcode","data":"delete"}}}]}'
	qmp "$sock" "${keys//$'\n'/ }"
	ended
	[ "$rc" -eq 0 ]
	has "blix: powering off"
	run ! has "blix: ready"
}
