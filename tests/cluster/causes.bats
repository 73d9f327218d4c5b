#!/usr/bin/env bats
# The five classes of failure on the real programs: each has its reason, class, words, event and exit code.

bats_require_minimum_version 1.5.0

setup() {
	load helpers.bash
	servers_setup
}
teardown() { servers_teardown; }

create() { # NAME FLAKE [ARGUMENT...]: prints nothing, returns blix's exit code
	local name=$1 flake=$2
	shift 2
	on 1 vm create "$name" --flake "$flake" "$@" >/dev/null 2>"$T/stderr"
}

# failed NAME EXIT FLAKE REASON CLASS WORDS
failed() {
	local status
	run -"$2" create "$1" "$3"
	grep -qF -- "$6" "$T/stderr" || { cat "$T/stderr" >&2; return 1; }
	status=$(on 1 vm show "$1" -o json | jq -r '.status | "\(.phase) \(.reason) \(.class)"')
	[[ $status == @(Failed|CrashLoop|Scheduled|Starting)" $4 $5" ]] || { echo "$1: $status" >&2; return 1; }
	on 1 vm why "$1" | grep -qE "^ *$4 +$5: "
	on 1 vm why "$1" -o json | jq -e --arg reason "$4" --arg class "$5" '.chain[1] | .reason == $reason and .class == $class' >/dev/null
	on 1 vm events "$1" | grep -qE 'vm-(failed|resolve-failed|crash-loop)'
}

nothing_runs() { [ -z "$(vm_processes_alive)" ]; }

mode() { echo "$2" >"$T/n1/microvms/.fake/$1"; }

@test "each failure of a VM has its own reason, class, words and exit code" {
	cluster_up 1
	mode memory "end 1 qemu-system-x86_64: cannot set up guest memory 'ram': Cannot allocate memory"
	failed memory 75 "$BASE#demo" out-of-memory resources 'lower --memory'
	mode fds "end 1 qemu-system-x86_64: event notifier: Too many open files"
	failed fds 75 "$BASE#demo" out-of-fds resources LimitNOFILE
	failed net 8 'github:me/offline#demo' fetch-failed network 'unable to download'
	mode ends "end 3 the guest has had enough"
	failed ends 9 "$BASE#demo" runner-exited start 'the guest has had enough'
	mode bad 'end 126 microvm-run: Permission denied'
	failed bad 9 "$BASE#demo" runner-bad start 'Permission denied'
	mode locked 'end 1 qemu-system-x86_64: Failed to get "write" lock'
	failed locked 9 "$BASE#demo" disk-locked start 'another process uses the image'
	mode broken fail
	failed broken 8 "$BASE#demo" build-failed image 'told to fail'
	until_true nothing_runs
}

waits_for_build() {
	on 1 vm why second -o json | jq -e '.chain[1] | .reason == "waits-for-build" and .class == "resources" and (.message | startswith("1 of 1 builds"))' >/dev/null
}

is_phase() { [ "$(on 1 vm show "$1" -o json | jq -r .status.phase)" = "$2" ]; }

@test "a VM that waits for a place to build says so, and builds when one is free" {
	cluster_up 1 '.buildsMax = 1'
	mode first hang
	on 1 vm create second --flake "$BASE#demo" --stopped --no-wait
	until_true is_phase second Stopped
	on 1 vm create first --flake "$BASE#demo" --no-wait
	until_true is_phase first Building
	on 1 vm start second --no-wait
	until_true waits_for_build
	on 1 vm delete first
	until_true is_phase second Running
}

other_node_builds() {
	on "$1" vm show web -o json | jq -e --arg node "n$2" '.status | .phase == "Building" and .node == $node' >/dev/null
}

is_lost() {
	on "$1" vm show web -o json | jq -e '.status | .phase == "Unknown" and .reason == "node-offline" and .class == "node"' >/dev/null
}

@test "a node that fails in the middle of a build: why says so, and the build goes on when it is back" {
	cluster_up 3
	local leader other
	leader=$(leader_of 1)
	other=$(follower "$leader")
	echo hang >"$T/n$other/microvms/.fake/web"
	on "$leader" vm create web --flake "$BASE#demo" --node "n$other" --no-wait
	until_true other_node_builds "$leader" "$other"
	local left
	left=$(pgrep -f "$T/n$other/state/vms/web/flake")
	server_kill "$other"
	[ "$(pgrep -f "$T/n$other/state/vms/web/flake")" = "$left" ] # what it had started outlives it
	until_true is_lost "$leader"
	on "$leader" vm why web | grep -qE '^ *node-offline +node: n'
	echo ok >"$T/n$other/microvms/.fake/web"
	server_start "$other"
	until_true ended "$left"
	until_true running_on "$leader" "$other"
	grep -q 'node.strays.ended node=n'"$other"' processes=1' "$T/n$other/log"
	[ "$(vm_processes_alive | wc -l)" = 2 ] # the runner and its shim
}

running_on() {
	on "$1" vm show web -o json | jq -e --arg node "n$2" '.status | .phase == "Running" and .node == $node' >/dev/null
}
