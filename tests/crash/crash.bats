#!/usr/bin/env bats
# blixd dies at every crash point of every operation, and at random times: afterwards the host looks as if it had not.
# CRASH_TWICE=N tries every N-th point with a second crash during the recovery as well, CRASH_BUILD=N every N-th of what
# builds under systemd, which is the same as under blix-shim; ROUNDS kills in the churn.

bats_require_minimum_version 1.5.0

tried() { # WHO OPERATION [FIRST STEP]
	run "$BATS_TEST_DIRNAME/enumerate" "$@"
	echo "$output"
	[ "$status" = 0 ]
	[[ ${lines[-1]} =~ ^"$1 $2: "([0-9]+)" points, "([0-9]+)" tried, 0 ended otherwise"$ ]]
	echo "# ${lines[-1]}" >&3
}

@test "create: blixd dies at each point" { tried blixd create; }
@test "create from a flake on the client's disk: blixd dies at each point" { tried blixd source; }
@test "start: blixd dies at each point" { tried blixd start; }
@test "stop by the power button: blixd dies at each point" { tried blixd stop; }
@test "stop by SIGTERM: blixd dies at each point" { tried blixd term; }
@test "stop of one that is deaf to SIGTERM: blixd dies at each point" { tried blixd escalate; }
@test "stop --force: blixd dies at each point" { tried blixd kill; }
@test "update: blixd dies at each point" { tried blixd update; }
@test "delete: blixd dies at each point" { tried blixd delete; }
@test "a secret that is waited for: blixd dies at each point" { tried blixd secret; }
@test "adopt: blixd dies at each point" { tried blixd adopt; }
@test "start and stop with a virtiofsd: blixd dies at each point" {
	tried blixd share 1 2
	tried blixd unshare
}
@test "an update that leaves a generation behind: blixd dies where its roots go, and after" { tried blixd prune 26 4; }

@test "blix-shim dies at each point of a start, of each kind of stop, and of a delete" {
	local operation
	for operation in start stop term kill delete; do tried shim "$operation"; done
}

@test "the shim of virtiofsd dies at each point of a start, a stop and a delete" {
	local operation
	for operation in start stop delete; do tried virtiofsd "$operation"; done
}

@test "under systemd: blixd dies at each point" {
	local operation
	export SUPERVISION=systemd
	for operation in start term kill delete; do tried blixd "$operation"; done
	for operation in create update; do tried blixd "$operation" 1 "${CRASH_BUILD:-6}"; done
}

@test "real guests: blixd dies at some points, QEMU and its guest do not" {
	command -v qemu-system-x86_64
	export GUEST=toy JOBS=3
	tried blixd start 2 5
	tried blixd kill 1 2
	tried blixd update 37 4
}

@test "a second crash during the recovery" {
	local operation
	for operation in create start update delete; do
		tried twice "$operation" 3 "${CRASH_TWICE:-17}"
	done
}

killed() {
	run "$BATS_TEST_DIRNAME/churn"
	echo "$output"
	[ "$status" = 0 ]
	[[ ${lines[-1]} == "churn: ${ROUNDS:-40} kills, "*"0 stopped, 0 doubled, 0 lost, 0 left over" ]]
	echo "# ${lines[-1]}" >&3
}

@test "blixd is killed at random times while VMs start and stop: 0 stopped, 0 doubled, 0 lost, 0 left over" { killed; }

@test "under systemd, beside a foreign unit: blixd is killed at random times" {
	export SUPERVISION=systemd
	killed
}
