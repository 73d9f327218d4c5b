#!/usr/bin/env bats
# scripts/microvm against a fake nix that records its arguments, and against the real one with a flake without inputs.

bats_require_minimum_version 1.5.0

setup() {
	load nix.bash
	work=$(mktemp -d)
	root=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
	microvm=$root/scripts/microvm
	export MICROVM_STATE_DIR=$work/microvms MICROVM_GCROOTS_DIR=$work/gcroots NIX_STATE_DIR=$work/nix/var
	mkdir -p "$work/fake"
	PATH=$work/fake:$PATH
	cat >"$work/fake/systemctl" <<-'SH'
		#!/bin/bash
		echo "systemctl $*" >>"$(dirname "$0")/calls"
		[ "$1" = restart ]
	SH
	cp "$BATS_TEST_DIRNAME/fake-nix" "$work/fake/nix"
	chmod +x "$work/fake/systemctl" "$work/fake/nix"
}

teardown() {
	nix_forget "$work"
}

plain() { # without colours
	sed 's/\x1b\[[0-9;]*m//g' <<<"$output"
}

# The flock of a script is a child of it.
waits_for_lock() { # PID
	local child
	for child in $(cat "/proc/$1/task/$1/children"); do
		if [ "$(cat "/proc/$child/comm" 2>/dev/null)" = flock ] && grep -q "^State:.S" "/proc/$child/status"; then return 0; fi
	done
	return 1
}

# Makes what a runner package is to the command.
runner() { # NAME
	mkdir -p "$work/store/$1/bin" "$work/store/$1/share/microvm"
	printf '#!/bin/sh\necho "run in $PWD"\nexit 7\n' >"$work/store/$1/bin/microvm-run"
	chmod +x "$work/store/$1/bin/microvm-run"
	ln -sfn "$work/store/aaa-system-$1" "$work/store/$1/share/microvm/system"
	ln -sfn "$work/store/$1" "$work/fake/result"
	echo "$work/store/aaa-system-$1" >"$work/fake/evaluated"
}

@test "no action, an unknown flag and a missing argument print help, rc 0" {
	for words in "" "-Z" "-h" "-c" "-f" "-C x"; do
		# shellcheck disable=SC2086
		run "$microvm" $words
		[ "$status" -eq 0 ]
		[ "${lines[0]}" = "Help:" ]
	done
}

@test "create makes the directory, both roots and nothing else" {
	runner one
	run --separate-stderr "$microvm" -f path:/base -c web
	[ "$status" -eq 0 ]
	[ "$output" = $'\e[0;32mCreated MicroVM web.\e[0m Start with: \e[1;36msystemctl start microvm@web.service\e[0m' ]
	[ "$(cat "$MICROVM_STATE_DIR/web/flake"; echo .)" = "path:/base." ]
	[ "$(readlink "$MICROVM_STATE_DIR/web/current")" = "$work/store/one" ]
	[ "$(stat -c %a "$MICROVM_STATE_DIR/web")" = 775 ]
	[ "$(readlink "$MICROVM_GCROOTS_DIR/web")" = "$MICROVM_STATE_DIR/web/current" ]
	[ "$(readlink "$MICROVM_GCROOTS_DIR/booted-web")" = "$MICROVM_STATE_DIR/web/booted" ]
	[ "$(ls -A "$MICROVM_STATE_DIR")" = web ]
	[ -z "$(ls -A "$NIX_STATE_DIR/gcroots/auto")" ]
	[[ "$(cat "$work/fake/calls")" == *"path:/base#nixosConfigurations.web.config.microvm.declaredRunner" ]]
}

@test "flakes are enabled, besides what the caller's NIX_CONFIG says" {
	runner one
	NIX_CONFIG='cores = 1' "$microvm" -f path:/base -c web
	[ "$(cat "$work/fake/config")" = $'cores = 1\nextra-experimental-features = nix-command flakes' ]
	env -u NIX_CONFIG "$microvm" -u web
	[ "$(cat "$work/fake/config")" = 'extra-experimental-features = nix-command flakes' ]
}

@test "create refuses an existing name before it builds" {
	runner one
	mkdir -p "$MICROVM_STATE_DIR/web"
	run "$microvm" -f path:/base -c web
	[ "$status" -eq 1 ]
	[ "$output" = "$MICROVM_STATE_DIR/web already exists." ]
	[ ! -e "$work/fake/calls" ]
	[ "$(ls -A "$MICROVM_STATE_DIR")" = web ]
}

@test "create refuses names that would leave the state directory or the attribute" {
	for name in ../x a.b -x x- _x 'a b' '$(id)' '' "$(printf 'a%.0s' {1..64})"; do
		run "$microvm" -f path:/base -c "$name"
		[ "$status" -eq 1 ]
		[[ "$output" == *"cannot be a MicroVM's name"* ]]
	done
	[ ! -e "$work/fake/calls" ]
}

@test "a failed build leaves nothing" {
	touch "$work/fake/fail"
	run --separate-stderr "$microvm" -f path:/base -c web
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"error: builder failed"* ]]
	[ -z "$(ls -A "$MICROVM_STATE_DIR")" ]
	[ -z "$(ls -A "$MICROVM_GCROOTS_DIR" 2>/dev/null)" ]
}

@test "a signal ends the build and leaves nothing" {
	runner one
	mkfifo "$work/fake/hang" "$work/fake/go"
	"$microvm" -f path:/base -c web 3>&- &
	pid=$!
	read -r builder <"$work/fake/hang"
	kill -TERM "$pid"
	status=0
	wait "$pid" || status=$?
	[ "$status" -eq 143 ]
	[ ! -e "/proc/$builder" ]
	[ -z "$(ls -A "$MICROVM_STATE_DIR")" ]
}

@test "two creations of one name: one wins, the other says so" {
	runner one
	mkfifo "$work/fake/hang" "$work/fake/go"
	"$microvm" -f path:/base -c web >"$work/first" 3>&- &
	first=$!
	read -r _ <"$work/fake/hang"
	rm "$work/fake/hang"
	"$microvm" -f path:/base -c web >"$work/second" 3>&- &
	second=$!
	until waits_for_lock "$second"; do kill -0 "$second"; done
	echo >"$work/fake/go"
	wait "$first"
	status=0
	wait "$second" || status=$?
	[ "$status" -eq 1 ]
	[[ "$(cat "$work/first")" == *"Created MicroVM web."* ]]
	[ "$(cat "$work/second")" = "$MICROVM_STATE_DIR/web already exists." ]
	[ "$(ls -A "$MICROVM_STATE_DIR")" = web ]
}

@test "update: unchanged, changed, restarted" {
	runner one
	"$microvm" -f path:/base -c web
	run --separate-stderr "$microvm" -u web
	[ "$status" -eq 0 ]
	[ -z "$output" ]
	ln -s "$work/store/one" "$MICROVM_STATE_DIR/web/booted"
	run --separate-stderr "$microvm" -u web
	[ "$output" = "No reboot of MicroVM web required." ]
	runner two
	run --separate-stderr "$microvm" -u web
	[ "$status" -eq 0 ]
	[ "${lines[0]}" = "closures $work/store/one $work/store/two" ]
	[ "${lines[1]}" = "Reboot MicroVM web for the new profile: systemctl restart microvm@web.service" ]
	[ "$(readlink "$MICROVM_STATE_DIR/web/current")" = "$work/store/two" ]
	run --separate-stderr "$microvm" -R -u web
	[ "$output" = "Rebooting MicroVM web" ]
	grep -qx "systemctl restart microvm@web.service" "$work/fake/calls"
	rm "$MICROVM_STATE_DIR/web/booted"
	run --separate-stderr "$microvm" -Ru web
	[ "$output" = "Booting MicroVM web" ]
	[ "$(ls -A "$MICROVM_STATE_DIR")" = web ]
}

@test "update survives an old build that is gone" {
	runner one
	"$microvm" -f path:/base -c web
	rm -r "$work/store/one"
	runner two
	run --separate-stderr "$microvm" -u web
	[ "$status" -eq 0 ]
	[ "$(readlink "$MICROVM_STATE_DIR/web/current")" = "$work/store/two" ]
}

@test "update: no names is nothing to do, an unknown one fails but not the others" {
	run "$microvm" -u
	[ "$status" -eq 0 ]
	[ -z "$output" ]
	runner one
	"$microvm" -f path:/base -c web
	runner two
	run --separate-stderr "$microvm" -u nope web
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"$MICROVM_STATE_DIR/nope: No such file or directory"* ]]
	[ "$(readlink "$MICROVM_STATE_DIR/web/current")" = "$work/store/two" ]
}

@test "update leaves a declarative VM alone" {
	mkdir -p "$MICROVM_STATE_DIR/web"
	touch "$MICROVM_STATE_DIR/web/toplevel"
	run "$microvm" -u web
	[ "$status" -eq 1 ]
	[ "$output" = $'\e[0;31mThis MicroVM is managed fully declaratively and cannot be updated manually!\e[0m' ]
	[ ! -e "$work/fake/calls" ]
}

@test "run becomes the runner, in the VM's directory" {
	runner one
	"$microvm" -f path:/base -c web
	run "$microvm" -r web
	[ "$status" -eq 7 ]
	[ "$output" = "run in $MICROVM_STATE_DIR/web" ]
	run "$microvm" -r nope
	[ "$status" -eq 1 ]
	mkdir "$MICROVM_STATE_DIR/empty"
	run -127 "$microvm" -r empty
}

@test "list: the four statuses" {
	runner one
	"$microvm" -f path:/base -c web
	run "$microvm" -l
	[ "$(plain)" = "web: current(system-one), not booted: systemctl start microvm@web.service" ]
	[[ "$output" == $'\e[1;31mweb\e[0m'* ]]
	ln -s "$work/store/one" "$MICROVM_STATE_DIR/web/booted"
	run "$microvm" -l
	[ "$(plain)" = "web: current(system-one)" ]
	[[ "$output" == $'\e[1;33mweb\e[0m'* ]]
	runner two
	run "$microvm" -l
	[ "$(plain)" = "web: outdated(system-one), rebuild(system-two) and reboot: microvm -Ru web" ]
	"$microvm" -u web
	run "$microvm" -l
	[ "$(plain)" = "web: stale(system-one), reboot(system-two): systemctl restart microvm@web.service" ]
	rm "$work/fake/evaluated"
	run --separate-stderr "$microvm" -l
	[ "$status" -eq 0 ]
	[ "$(plain)" = "web: outdated(system-two), rebuild(error) and reboot: microvm -Ru web" ]
}

@test "list goes on after VMs without a runner or without a system link" {
	runner one
	for name in a b c; do "$microvm" -f path:/base -c "$name"; done
	ln -sfn /nowhere/at/all "$MICROVM_STATE_DIR/a/current"
	rm "$work/store/one/share/microvm/system"
	echo "$work/store/one" >"$work/fake/evaluated"
	mkdir "$MICROVM_STATE_DIR/no-current"
	run "$microvm" -l
	[ "$status" -eq 0 ]
	[ "$(plain | wc -l)" -eq 3 ]
	[ "$(plain | sed -n 1p)" = "a: broken(/nowhere/at/all), no runner there: microvm -u a" ]
	[[ "$(plain | sed -n 3p)" == "c: current("*"), not booted: "* ]]
}

@test "list of nothing is empty, rc 0" {
	run "$microvm" -l
	[ "$status" -eq 0 ]
	[ -z "$output" ]
}

@test "list as JSON is microvm-status" {
	printf '#!/bin/sh\necho "status $*"\n' >"$work/fake/microvm-status"
	chmod +x "$work/fake/microvm-status"
	for words in "-l -j" "-j -l" "-lj"; do
		# shellcheck disable=SC2086
		MICROVM_STATUS=$work/fake/microvm-status run "$microvm" $words
		[ "$output" = "status --state-dir $MICROVM_STATE_DIR" ]
	done
	MICROVM_STATUS=/nowhere run "$microvm" -l -j
	[ "$output" = "status --state-dir $MICROVM_STATE_DIR" ]
}

@test "ssh: unknown, stopped, without vsock" {
	run "$microvm" -s nope
	[ "$status" -eq 1 ]
	[[ "$output" == *"MicroVM nope not found"* ]]
	runner one
	"$microvm" -f path:/base -c web
	run "$microvm" -s web
	[ "$status" -eq 1 ]
	[[ "$output" == *"MicroVM web is not running"* ]]
	printf '#!/bin/sh\n[ "$1" = is-active ]\n' >"$work/fake/systemctl"
	run "$microvm" -s web
	[ "$status" -eq 1 ]
	[[ "$output" == *"MicroVM web does not have VSOCK enabled"* ]]
	echo 12 >"$work/store/one/share/microvm/vsock-cid"
	printf '#!/bin/sh\necho "ssh $*"\n' >"$work/fake/ssh"
	chmod +x "$work/fake/ssh"
	run "$microvm" -s web uptime
	[ "$output" = "ssh -l root vsock/12 uptime" ]
	run "$microvm" -s web -- -l me
	[ "$output" = "ssh vsock/12 -l me" ]
}

@test "real nix: create, refuse, update, list, fail" {
	rm "$work/fake/nix"
	nix_isolated "$work"
	mkdir "$work/flake"
	cp "$BATS_TEST_DIRNAME/mini.nix" "$work/flake/flake.nix"
	run --separate-stderr "$microvm" -f "path:$work/flake" -c mini
	[ "$status" -eq 0 ]
	first=$(readlink "$MICROVM_STATE_DIR/mini/current")
	[ -x "$first/bin/microvm-run" ]
	[ -z "$(find "$NIX_STATE_DIR/gcroots/auto" -type l)" ]
	run "$microvm" -r mini
	[ "$output" = "one" ]
	run --separate-stderr "$microvm" -l
	[ "$(plain)" = "mini: current(mini-system), not booted: systemctl start microvm@mini.service" ]
	ln -s "$first" "$MICROVM_STATE_DIR/mini/booted"
	sed -i 's/"one"/"two"/' "$work/flake/flake.nix"
	run --separate-stderr "$microvm" -u mini
	[ "$status" -eq 0 ]
	[[ "${lines[-1]}" == "Reboot MicroVM mini for the new profile: "* ]]
	[ "$(readlink "$MICROVM_STATE_DIR/mini/current")" != "$first" ]
	run --separate-stderr "$microvm" -f "path:$work/flake" -c nope
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"does not provide attribute"* ]]
	run --separate-stderr "$microvm" -f "path:$work/flake" -c fails
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"> it cannot be built"* ]]
	[ "$(ls -A "$MICROVM_STATE_DIR")" = mini ]
}
