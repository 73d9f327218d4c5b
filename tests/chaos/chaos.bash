# What the tests of the chaos harness share.

BUILD=$(realpath "${BLIX_BUILD:-$BATS_TEST_DIRNAME/../../build/debug}")
RUN=$BATS_TEST_DIRNAME/../chaos/run

passes() { # ARGUMENT...
	run "$RUN" "$@"
	echo "$output"
	[ "$status" = 0 ]
	[[ ${lines[-1]} =~ ": 0 violations"$ ]]
	echo "# ${lines[-1]}" >&3
}

# What shows each mutant, in a few seconds.
declare -gA SHOWN_BY=(
	[no-dedup]="--nemeses kill --seconds 5"
	[read-without-barrier]="--nemeses pause --seconds 20"
	[ack-before-commit]="--nemeses one --seconds 20 --clients 16"
)

finds() { # MUTANT ARGUMENT...: by a violation, not by any other failure
	local mutant=$1
	shift
	# shellcheck disable=SC2086 # several
	run "$RUN" --mutant "$mutant" ${SHOWN_BY[$mutant]} "$@"
	echo "$output"
	[ "$status" = 1 ]
	[[ ${lines[-1]} =~ ": "([0-9]+)" violations"$ ]]
	[ "${BASH_REMATCH[1]}" -gt 0 ]
	echo "# $mutant: ${lines[-1]}" >&3
}
