#!/usr/bin/env bats
# blixd is killed at random times (ROUNDS, 200) where a stand-in for systemd supervises, beside a foreign unit. Fails about one
# time in three of 40 kills, which docs/testing.md keeps as an open defect; `make check` has the same under blix-shim.

bats_require_minimum_version 1.5.0

@test "blixd is killed at random times under systemd: 0 stopped, 0 doubled, 0 lost, 0 left over" {
	export SUPERVISION=systemd ROUNDS=${ROUNDS:-200}
	run "$BATS_TEST_DIRNAME/../crash/churn"
	echo "$output"
	[ "$status" = 0 ]
	[[ ${lines[-1]} == "churn: $ROUNDS kills, "*"0 stopped, 0 doubled, 0 lost, 0 left over" ]]
	echo "# ${lines[-1]}" >&3
}
