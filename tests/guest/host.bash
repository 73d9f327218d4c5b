# A blixd of one host for tests with real guests: its own roots and directories, the machine's Nix store. The file that
# loads it calls host_stage, host_start and host_remove from its setup_file and teardown_file.

host_stage() { # TIMEOUT
	export work build roots
	build=$(realpath "${BLIX_BUILD:-$BATS_TEST_DIRNAME/../../build/debug}")
	work=$(mktemp -d /tmp/blix.XXXXXX)
	roots=/nix/var/nix/gcroots/${work##*/}
	export BLIX_ENDPOINT=$work/s/blix.sock BLIX_TIMEOUT=$1
	"$BATS_TEST_DIRNAME/../../examples/debian/stage" "$work/guest"
	jq -n --arg roots "$roots" \
		'{gcrootsDir: $roots, retryMs: 100, nix: {extraConfig: "sandbox = false\nsubstituters ="}}' >"$work/blix.json"
}

host_start() { # COMMAND...: what the daemon is started by, if anything
	"$@" "$build/bin/blixd" --dev --state-dir "$work/s" --config "$work/blix.json" --name host \
		</dev/null >>"$work/log" 2>&1 3>&- &
	echo $! >"$work/pid"
	await blix vm list
}

# Its lock goes with the last of the process, which is a little after the signal.
host_kill() {
	local pid
	pid=$(cat "$work/pid")
	kill -9 "$pid"
	await host_ended "$pid"
}

# PID: gone, or a zombie that nobody has waited for yet and whose other threads are gone: they hold its files, and
# so its lock, until they end.
host_ended() {
	local tasks=("/proc/$1/task/"*)
	[ ! -d "/proc/$1" ] || { grep -q '^State:.Z' "/proc/$1/status" && [ "${#tasks[@]}" = 1 ]; }
}

field() { # NAME JQ
	blix vm show "$1" -o json | jq -r "$2"
}

# Ends the daemon and the VMs that outlive it; their directories go.
host_remove() {
	local pid
	kill -9 "$(cat "$work/pid")" 2>/dev/null || :
	for pid in $(jq -r '.shimPid, .pid' "$work"/s/run/vms/*/status.json 2>/dev/null); do
		kill -9 "$pid" 2>/dev/null || :
	done
	rm -rf "$work" "$roots"
}

await() { # COMMAND...: until it succeeds
	local until=$((SECONDS + 90))
	until "$@" >/dev/null 2>&1; do
		if [ "$SECONDS" -ge "$until" ]; then
			cat "$work/log" >&2
			echo "never true: $*" >&2
			return 1
		fi
		read -r -t 0.05 <> <(:) || :
	done
}
