#!/usr/bin/env bats
# A cluster is hurt while clients ask it; what they saw must be what one correct copy would have shown (check.h). And the
# harness finds the bugs that are put into blixd for it: it has teeth.

bats_require_minimum_version 1.5.0

setup() { load chaos; }

@test "killed, alone, half-deaf, without room: 0 violations" { passes --seed 1 --nemeses kill,one,oneway,disk; }

@test "stopped, suspended, in two parts, in a ring, without power: 0 violations" {
	passes --seed 2 --nemeses stop,pause,majority,ring,blackout
}

@test "finds that a request sent again is executed again" { finds no-dedup --seed 1; }

@test "finds that a write is acknowledged before a majority has it" { finds ack-before-commit --seed 3; }

@test "finds that a read does not ask whether its server still leads" { finds read-without-barrier --seed 1; }
