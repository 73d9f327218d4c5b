#!/usr/bin/env bats
# A microVM that the real `microvm` command made with the real Nix is adopted and run. Its guest is the toy.

bats_require_minimum_version 1.5.0

setup_file() {
	export work build
	build=$(realpath "${BLIX_BUILD:-$BATS_TEST_DIRNAME/../../build/debug}")
	work=$(mktemp -d /tmp/blix.XXXXXX)
	export roots=/nix/var/nix/gcroots/${work##*/}
	export BLIX_ENDPOINT=$work/s/blix.sock BLIX_TIMEOUT=2m
	"$BATS_TEST_DIRNAME/../../examples/debian/stage" "$work/guest"
	jq -n --arg roots "$roots" \
		'{gcrootsDir: $roots, retryMs: 100, nix: {extraConfig: "sandbox = false\nsubstituters ="}}' >"$work/blix.json"
	"$build/bin/blixd" --dev --state-dir "$work/s" --config "$work/blix.json" --name host \
		</dev/null >>"$work/log" 2>&1 3>&- &
	echo $! >"$work/pid"
	await blix vm list
}

teardown_file() {
	local pid
	kill -9 "$(cat "$work/pid")" 2>/dev/null || :
	for pid in $(jq -r '.shimPid, .pid' "$work"/s/run/vms/*/status.json 2>/dev/null); do
		kill -9 "$pid" 2>/dev/null || :
	done
	rm -rf "$work" "$roots"
}

await() { # COMMAND...: until it succeeds
	local until=$((SECONDS + 60))
	until "$@" >/dev/null 2>&1; do
		if [ "$SECONDS" -ge "$until" ]; then
			cat "$work/log" >&2
			echo "never true: $*" >&2
			return 1
		fi
		read -r -t 0.05 <> <(:) || :
	done
}

field() { # JQ
	blix vm show toy -o json | jq -r "$1"
}

@test "what microvm -c made is adopted with its runner, started, and deleted with its roots" {
	MICROVM_STATE_DIR=$work/s/microvms MICROVM_GCROOTS_DIR=$roots NIX_CONFIG=$'sandbox = false\nbuild-users-group =\nsubstituters =' \
		"$build/libexec/microvm" -f "path:$work/guest" -c toy
	runner=$(readlink "$work/s/microvms/toy/current")
	blix vm adopt toy --node host
	[ "$(field '[.status.phase, .status.adopted, .status.resolved.outPath] | @csv')" = "\"Stopped\",true,\"$runner\"" ]
	blix vm start toy
	[ "$(field '[.status.phase, .status.runner] | @csv')" = "\"Running\",\"$runner\"" ]
	await grep -q 'READY toy' "$work/s/vms/toy/console.log"
	[ "$(cat "$work/s/microvms/toy/.blix-flake")" = "path:$work/guest" ]
	nix-store --query --roots "$runner" | grep -q "$roots/toy.1"
	blix vm delete toy --force
	[ ! -e "$work/s/microvms/toy" ]
	[ -z "$(ls -A "$roots")" ]
}
