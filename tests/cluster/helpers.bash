# Servers for tests: the real blixd and blix of $BLIX_BUILD, with the stand-ins for nix, microvm and a runner.
# Everything of a test is under $T; server N has $T/nN/{blix.json,sock,state,run,microvms,gcroots,log}.
# shellcheck disable=SC2034 # used by the tests

load ../until.bash

BUILD=$(realpath "${BLIX_BUILD:-$BATS_TEST_DIRNAME/../../build/asan}")
FAKE=$BUILD/tests/fake
export PATH; PATH=$BUILD/bin:$BUILD/libexec:$PATH
# A base that needs no locking by the client.
BASE='path:/nix/store/00000000000000000000000000000000-source?narHash=sha256-fake'

servers_setup() {
	T=$(mktemp -d /tmp/blix.XXXXXX) # short: a socket's path has 107 bytes
	PIDS=() SERVERS=0
	INSIDE=() # what starts a server inside something
	[ -x "$FAKE/microvm" ] || { echo "$FAKE is not built: make fakes" >&2; return 1; }
	export XDG_CONFIG_HOME=$T/config HOME=$T
	unset BLIX_ENDPOINT BLIX_OUTPUT BLIX_TIMEOUT NIX_CONFIG
}

# configure COUNT [JQ-FILTER]: writes the configuration of COUNT servers; the filter may change each.
configure() {
	local n m list=''
	SERVERS=$1
	for ((n = 1; n <= SERVERS; n++)); do
		list+=${list:+,}'{"id":'$n',"name":"n'$n'","raft":"'$T/n$n/raft'","api":"'$T/n$n/sock'"}'
	done
	for ((m = 1; m <= SERVERS; m++)); do
		mkdir -p "$T/n$m/microvms/.fake" "$T/n$m/gcroots/auto"
		jq -n --arg d "$T/n$m" --argjson id "$m" --argjson servers "[$list]" --arg fake "$FAKE" '{
			cluster: "test", id: $id, servers: $servers, group: "", stateDir: "\($d)/state", runDir: "\($d)/run",
			socket: "\($d)/sock", microvmsDir: "\($d)/microvms", gcrootsDir: "\($d)/gcroots/microvm",
			microvm: "\($fake)/microvm", path: "\($fake):/usr/sbin:/usr/bin:/sbin:/bin",
			electionTimeoutMs: 500, heartbeatMs: 50, retryMs: 50, buildsMax: 4,
			capacity: {cpus: 64, memoryBytes: 68719476736}, reserved: {cpus: 0, memoryBytes: 0} }' |
			jq "${2:-.}" >"$T/n$m/blix.json"
	done
}

server_start() { # N...
	local n
	for n; do
		"${INSIDE[@]}" blixd --config "$T/n$n/blix.json" </dev/null >>"$T/n$n/log" 2>&1 3>&- &
		PIDS[n]=$!
	done
}

server_kill() { # N...: as a power cut would
	local n
	for n; do
		kill -9 "${PIDS[n]}"
		wait "${PIDS[n]}" 2>/dev/null || true
		PIDS[n]=''
	done
}

server_stop() { # N...: with its own leave, and without a leak
	local n rc
	for n; do
		kill -TERM "${PIDS[n]}"
		rc=0
		wait "${PIDS[n]}" || rc=$?
		PIDS[n]=''
		if [ "$rc" != 0 ]; then
			echo "server $n ended with $rc" >&2
			tail -n 40 "$T/n$n/log" >&2
			return 1
		fi
	done
}

# on N ARGUMENT...: blix, asking server N
on() {
	local n=$1
	shift
	blix --endpoint "unix:$T/n$n/sock" "$@"
}

cluster() { # N FILTER
	local status
	status=$(on "$1" cluster status -o json 2>/dev/null) && jq -er "$2" <<<"$status"
}

# One leader, known to all of them, and equal states at an equal revision.
agree() { # N...
	local n one all=''
	for n; do
		one=$(cluster "$n" 'select(.leader != "" and .quorum) | "\(.leader) \(.revision) \(.stateHash)"') || return 1
		[ -z "$all" ] || [ "$one" = "$all" ] || return 1
		all=$one
	done
}

nodes_are_ready() { # N COUNT
	[ "$(on "$1" node list -o json 2>/dev/null | jq '[.items[] | select(.status.phase == "Ready")] | length')" = "$2" ]
}

# cluster_up COUNT [JQ-FILTER]: configured, started, agreed, all nodes known
cluster_up() {
	local all n
	configure "$@"
	mapfile -t all < <(seq "$1")
	server_start "${all[@]}"
	until_true agree "${all[@]}"
	until_true nodes_are_ready 1 "$1"
	for n in "${all[@]}"; do until_true nodes_are_ready "$n" "$1"; done
}

# Prints the number of the leader as server N knows it.
leader_of() { # N
	cluster "$1" 'select(.quorum) | .leader | ltrimstr("n") | select(. != "")'
}

# Prints a server that does not lead, other than those given.
follower() { # LEADER [N...]
	local n
	for ((n = 1; n <= SERVERS; n++)); do
		case " $* " in *" $n "*) continue ;; esac
		echo "$n"
		return
	done
}

has_other_leader() { # N OLD
	local now
	now=$(leader_of "$1") && [ "$now" != "$2" ]
}

phases() { # N: "COUNT PHASE" of all VMs
	on "$1" vm list --columns phase --no-headers | sort | uniq -c | sed 's/^ *//'
}

all_are() { # N COUNT PHASE
	[ "$(phases "$1")" = "$2 $3" ]
}

# The processes of VMs by the shims' records: "PID STARTTIME NAME", sorted.
vm_processes() {
	find "$T"/*/run/vms -name status.json -print0 2>/dev/null | xargs -r0 jq -r '(input_filename | split("/")[-2]) as $name |
		"\(.pid) \(.startTime) \($name)", "\(.shimPid) \(.shimStartTime) \($name)"' 2>/dev/null | sort
}

# Those of them that run.
vm_processes_alive() {
	local pid start name stat
	while read -r pid start name; do
		read -r stat 2>/dev/null <"/proc/$pid/stat" || continue
		read -ra stat <<<"${stat##*) }"
		[ "${stat[19]}" != "$start" ] || echo "$pid $start $name"
	done < <(vm_processes)
}

# What VMs leave on a host, as paths; nothing when all of them were deleted.
remains() {
	find "$T"/*/microvms "$T"/*/run/vms "$T"/*/state/{vms,tmp,orphans,secrets} "$T"/*/gcroots -mindepth 1 \
		! -name .fake ! -path '*/.fake/*' ! -path '*/gcroots/auto' ! -path '*/gcroots/microvm' 2>/dev/null || true
}

servers_teardown() {
	local pid start name
	for pid in "${PIDS[@]}"; do
		[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
		[ -z "$pid" ] || wait "$pid" 2>/dev/null || true
	done
	while read -r pid start name; do
		kill -9 "$pid" 2>/dev/null || true
	done < <(vm_processes_alive)
	if [ "${BATS_TEST_COMPLETED:-}" != 1 ]; then tail -n 25 "$T"/n*/log 2>/dev/null || true; fi
	rm -rf "$T"
}
