#!/usr/bin/env bats
# Chaos with fresh seeds: CHAOS_RUNS (50) runs of 3 and 5 servers by turns, and CHAOS_HUNTS (5) for each bug that is put into
# blixd. A seed that failed is printed, with the line that repeats its run.

bats_require_minimum_version 1.5.0

setup() { load ../chaos/chaos; }

fresh() { echo $((RANDOM * 32768 + RANDOM + 1)); }

@test "fresh seeds: 0 violations" {
	local i
	for ((i = 1; i <= ${CHAOS_RUNS:-50}; i++)); do passes --seed "$(fresh)" --servers $((3 + i % 2 * 2)); done
}

@test "fresh seeds: each bug is found" {
	local i mutant
	for mutant in "${!SHOWN_BY[@]}"; do
		for ((i = 1; i <= ${CHAOS_HUNTS:-5}; i++)); do finds "$mutant" --seed "$(fresh)"; done
	done
}
