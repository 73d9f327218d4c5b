#!/usr/bin/env bats
# Servers as they are run, with stand-ins for nix, microvm and the hypervisor: what was acknowledged exists once and
# becomes what was wanted, whoever is killed.
# shellcheck disable=SC2034 # PIDS and INSIDE are of helpers.bash

bats_require_minimum_version 1.5.0

setup() {
	load helpers.bash
	servers_setup
}

teardown() {
	servers_teardown
}

create_many() { # SERVER PREFIX COUNT: acknowledged names go to $T/acked
	local i name
	for ((i = 1; i <= $3; i++)); do
		name=$2-$i
		# Each call is a client of its own; a leader that dies in the middle is its business, not ours.
		if on "$1" vm create "$name" --flake "$BASE#demo" --no-wait --timeout 60s >/dev/null 2>>"$T/client.log"; then
			echo "$name" >>"$T/acked.$2"
		fi
	done
}

names() { # N...: of the VM directories on these servers
	local n
	for n; do find "$T/n$n/microvms" -mindepth 1 -maxdepth 1 ! -name '.*' -printf '%f\n'; done
}

runners() { # all that work in some VM's directory, recorded or not
	find /proc/[0-9]*/cwd -maxdepth 0 -lname "$T/n*/microvms/*" 2>/dev/null || true
}

@test "100 VMs through three servers, the leader killed in the middle: each exists once, runs, and leaves nothing" {
	local leader survivors=() clients=() name n i
	cluster_up 3 '.buildsMax = 8 | .capacity.cpus = 10' # four VMs a CPU: no server can take all
	leader=$(leader_of 1)
	for n in 1 2 3; do [ "$n" = "$leader" ] || survivors+=("$n"); done

	# Four clients through the two that stay, one through the leader: it loses its server with it.
	for i in 1 2 3 4; do
		create_many "${survivors[i % 2]}" "c$i" 20 3>&- &
		clients+=($!)
	done
	create_many "$leader" c5 20 3>&- &
	clients+=($!)
	until_true eval '[ "$(cat "$T"/acked.* 2>/dev/null | wc -l)" -ge 30 ]'
	server_kill "$leader"
	wait "${clients[@]}"

	# What the lost client could not bring in is created now: 100 in all.
	for i in {1..20}; do
		grep -qx "c5-$i" "$T/acked.c5" || on "${survivors[0]}" vm show "c5-$i" >/dev/null 2>&1 ||
			on "${survivors[0]}" vm create "c5-$i" --flake "$BASE#demo" --no-wait >/dev/null
	done
	[ "$(cat "$T"/acked.c{1,2,3,4} | sort -u | wc -l)" -eq 80 ]
	sort "$T"/acked.* >"$T/acked"
	on "${survivors[0]}" vm list -o name | sort >"$T/listed"
	[ "$(sort -u "$T/listed" | wc -l)" -eq 100 ]
	[ "$(wc -l <"$T/listed")" -eq 100 ]
	[ -z "$(comm -23 "$T/acked" "$T/listed")" ]

	# The leader's VMs ran on without it, and are adopted: the same processes before and after.
	vm_processes_alive >"$T/before"
	server_start "$leader"
	WITHIN=60 until_true all_are "$leader" 100 Running
	WITHIN=60 until_true agree 1 2 3
	vm_processes_alive >"$T/after"
	[ -z "$(comm -23 "$T/before" "$T/after")" ]

	# Exactly once: a directory, a shim and a runner for each name, on one node only.
	diff <(names 1 2 3 | sort) "$T/listed"
	[ "$(wc -l <"$T/after")" -eq 200 ]
	[ "$(runners | wc -l)" -eq 100 ]

	# Every command line, byte for byte. The killed server may have had to begin some of its builds again.
	for n in 1 2 3; do
		[ "$(grep -c '|' "$T/n$n/microvms/.fake/log" || true)" -eq 0 ]
		names "$n" | while read -r name; do
			printf '%s|-f|path:%s|-c|%s|\n' "$FAKE/microvm" "$T/n$n/state/vms/$name/flake" "$name"
		done | sort >"$T/want"
		tr '\0' '|' <"$T/n$n/microvms/.fake/log" | grep -aF '|-c|' | sort >"$T/got"
		[ "$n" != "$leader" ] || sort -u -o "$T/got" "$T/got"
		diff "$T/want" "$T/got"
		[ "$n" = "$leader" ] || [ "$(grep -acF -- '-u' "$T/n$n/microvms/.fake/log")" -eq 0 ]
	done

	on "${survivors[1]}" vm delete --all --yes --no-wait >/dev/null
	WITHIN=60 until_true eval '[ -z "$(on 1 vm list -o name)" ]'
	until_true agree 1 2 3
	[ -z "$(vm_processes_alive)" ]
	[ -z "$(remains)" ]
	server_stop 1 2 3
}

@test "a daemon that is killed leaves its VMs running, and its successor takes them over" {
	local before
	cluster_up 1
	on 1 vm create a b c --flake "$BASE#demo" --timeout 30s
	before=$(vm_processes_alive)
	[ "$(wc -l <<<"$before")" -eq 6 ]
	server_kill 1
	[ "$(vm_processes_alive)" = "$before" ]
	server_start 1
	until_true all_are 1 3 Running
	until_true grep -q 'event=vm.adopted vm=c ' "$T/n1/log"
	[ "$(vm_processes_alive)" = "$before" ]
	[ "$(tr '\0' ' ' <"$T/n1/microvms/.fake/log" | grep -ac -- ' -c ')" -eq 3 ]
	# It can still be stopped, and what died while nobody looked is noticed.
	on 1 vm stop a --timeout 30s
	server_kill 1
	kill -9 "$(jq .pid "$T/n1/run/vms/b/status.json")"
	server_start 1
	until_true eval '[ "$(on 1 vm show b -o json | jq -r .status.restarts)" = 1 ]'
	until_true all_run 1 b c
	on 1 vm delete a b c --timeout 30s
	[ -z "$(vm_processes_alive)" ]
	[ -z "$(remains)" ]
	server_stop 1
}

all_run() { # N NAME...
	local n=$1 name
	shift
	for name; do [ "$(on "$n" vm show "$name" -o json | jq -r .status.phase)" = Running ] || return 1; done
}

@test "a guest of crosvm is asked by its runner's own microvm-shutdown, in the VM's directory" {
	cp -r "$FAKE" "$T/fake"
	FAKE=$T/fake
	echo crosvm >"$FAKE/store/share/microvm/hypervisor"
	cat >"$FAKE/store/bin/microvm-shutdown" <<-'END'
		#!/bin/sh
		pwd >asked
		for p in /proc/[0-9]*; do
			[ "$(readlink "$p/cwd")" = "$PWD" ] && grep -q microvm-run "$p/cmdline" && ! grep -q blix-shim "$p/cmdline" && kill "${p#/proc/}"
		done
		true
	END
	chmod +x "$FAKE/store/bin/microvm-shutdown"
	cluster_up 1
	on 1 vm create web --flake "$BASE#demo" >/dev/null
	on 1 vm stop web --grace 60s
	[ "$(cat "$T/n1/microvms/web/asked")" = "$T/n1/microvms/web" ]
	on 1 vm show web -o json | jq -e '.status.phase == "Stopped" and .status.exitCode == 0'
}

@test "metrics: well formed on every server, and each operation counted once in the cluster" {
	local n m
	cluster_up 3
	for n in 1 2 3; do on 1 vm create "m$n" --flake "$BASE#demo" --node "n$n" >/dev/null; done
	on 1 vm restart m1 --force >/dev/null
	for n in 1 2 3; do
		"$BATS_TEST_DIRNAME/request" "$T/n$n/sock" GET /metrics | tail -n +2 >"$T/metrics.$n"
		"$BATS_TEST_DIRNAME/exposition" <"$T/metrics.$n"
		grep -qx 'blix_vms{phase="Running"} 3' "$T/metrics.$n"
		[ "$(grep -c '^blix_raft_role{.*} 1$' "$T/metrics.$n")" = 1 ]
		grep -Eq '^process_resident_memory_bytes [1-9][0-9]{6,}$' "$T/metrics.$n"
	done
	[ "$(cat "$T"/metrics.? | grep -c '^blix_raft_role{role="leader"} 1$')" = 1 ]
	total() { cat "$T"/metrics.? | sed -nE "s/^blix_operation_step_duration_seconds_count\{operation=\"$1\",step=\"$2\"\} //p" | paste -sd+ | bc; }
	[ "$(total create build)" = 3 ]
	[ "$(total create start)" = 3 ]
	[ "$(total restart start)" = 1 ]

	# What has ended uses nothing, at once.
	on 2 vm metrics m2 >/dev/null
	"$BATS_TEST_DIRNAME/request" "$T/n2/sock" GET /metrics | grep -q 'blix_vm_memory_bytes{vm="m2"}'
	on 2 vm stop m2 --force >/dev/null
	run ! grep -q 'vm="m2"' <("$BATS_TEST_DIRNAME/request" "$T/n2/sock" GET /metrics)
	on 2 vm show m2 -o json | jq -e '.status | has("usage") | not'
	on 2 vm start m2 >/dev/null

	# A successor does not count again what stands in its log.
	server_kill 1
	server_start 1
	WITHIN=60 until_true all_are 1 3 Running
	"$BATS_TEST_DIRNAME/request" "$T/n1/sock" GET /metrics | tail -n +2 >"$T/metrics.1"
	"$BATS_TEST_DIRNAME/exposition" <"$T/metrics.1"
	run ! grep -q '_duration_seconds_count' "$T/metrics.1"
	until_true eval '"$BATS_TEST_DIRNAME/request" "$T/n1/sock" GET /metrics | grep -Eq "^blix_vm_memory_bytes\{vm=\"m1\"\} [1-9]"'
}

@test "what a VM uses is asked of its node, from any server; a node that is gone is said" {
	local n
	cluster_up 3
	for n in 1 2 3; do on 1 vm create "m$n" --flake "$BASE#demo" --node "n$n" >/dev/null; done
	for n in 1 2 3; do
		on "$n" vm metrics m1 m2 m3 -o json | jq -e '[.items[].status.usage | .cpuMs >= 0 and .memoryBytes > 0] == [true, true, true]'
		on "$n" vm show m2 -o json | jq -e '.status.usage.memoryBytes > 0'
	done
	on 1 vm list -o json | jq -e '[.items[].status | has("usage")] | any | not' # never part of what is replicated
	on 1 vm create off --flake "$BASE#demo" --stopped >/dev/null
	run on 1 vm metrics off
	[ "$status" = 5 ]
	[[ $output == *'does not run'* ]]
	n=$(leader_of 1)
	n=$((n % 3 + 1)) # a follower
	server_kill "$n"
	run on $((n % 3 + 1)) vm metrics m1 m2 m3 -o jsonl
	[ "$status" = 69 ]
	[[ $output == *"m$n: its node does not answer"* ]]
	[ "$(grep -c '"kind":"Usage"' <<<"$output")" = 2 ]
	on $((n % 3 + 1)) vm show "m$n" -o json | jq -e '.status | has("usage") | not'
}

@test "a follower forwards a write, and its answer can be read there; a second hop is refused" {
	local leader one
	cluster_up 3
	leader=$(leader_of 1)
	one=$(follower "$leader")
	on "$one" vm create web --flake "$BASE#demo" --stopped --no-wait >/dev/null
	[ "$(on "$one" vm list -o name)" = web ]
	until_true agree 1 2 3
	[ "$(on "$leader" vm list -o name)" = web ]
	run "$BATS_TEST_DIRNAME/request" "$T/n$one/sock" POST /v1/internal/propose <<<x
	[ "${lines[0]}" = 503 ]
	[[ $output == *'"no-leader"'* ]]
	run "$BATS_TEST_DIRNAME/request" "$T/n$leader/sock" POST /v1/internal/propose <<<x
	[ "${lines[0]}" = 400 ]
	server_stop 1 2 3
}

@test "one name from three servers at once: one is created, the others hear that it exists" {
	local n codes=() clients=() rc
	cluster_up 3
	for n in 1 2 3; do
		on "$n" vm create web --flake "$BASE#demo" --no-wait --timeout 30s >"$T/out.$n" 2>&1 3>&- &
		clients+=($!)
	done
	for n in "${clients[@]}"; do
		rc=0
		wait "$n" || rc=$?
		codes+=("$rc")
	done
	[ "$(printf '%s\n' "${codes[@]}" | sort | tr '\n' ' ')" = "0 4 4 " ]
	[ "$(on 1 vm list -o name)" = web ]
	WITHIN=30 until_true all_run 1 web
	on 2 vm delete web --timeout 30s
	server_stop 1 2 3
}

@test "a repeated request number gives the first answer again, whichever server hears it" {
	local leader one body first second
	cluster_up 3
	leader=$(leader_of 1)
	one=$(follower "$leader")
	body='{"metadata":{"name":"web"},"spec":{"flake":"'$BASE'","attr":"demo","powerState":"Stopped"}}'
	first=$("$BATS_TEST_DIRNAME/request" "$T/n$leader/sock" POST /v1/vms 'Blix-Session: 77' 'Blix-Request: 1' <<<"$body")
	second=$("$BATS_TEST_DIRNAME/request" "$T/n$one/sock" POST /v1/vms 'Blix-Session: 77' 'Blix-Request: 1' <<<"$body")
	[ "$(head -n 1 <<<"$first")" = 201 ]
	[ "$(head -n 1 <<<"$second")" = 201 ]
	[ "$(sed 1d <<<"$first" | jq -r .metadata.uid)" = "$(sed 1d <<<"$second" | jq -r .metadata.uid)" ]
	# The same request under the next number is a new one.
	second=$("$BATS_TEST_DIRNAME/request" "$T/n$one/sock" POST /v1/vms 'Blix-Session: 77' 'Blix-Request: 2' <<<"$body")
	[ "$(head -n 1 <<<"$second")" = 409 ]
	server_stop 1 2 3
}

@test "a server that is behind a revision waits for it before it calls a VM missing" {
	local ahead n
	cluster_up 1
	ahead=$(($(cluster 1 .revision) + 20)) # further than the cluster moves by itself until the VM is there
	run "$BATS_TEST_DIRNAME/request" "$T/n1/sock" GET "/v1/vms/web?revision=$((ahead + 1000))&wait=1ms"
	[ "${lines[0]}" = 503 ]
	"$BATS_TEST_DIRNAME/request" "$T/n1/sock" GET "/v1/vms/web?revision=$ahead&wait=30s" >"$T/answer" &
	on 1 vm create web --flake "$BASE#demo" --stopped --timeout 30s
	for n in {1..20}; do on 1 vm set web --label "n=$n" --timeout 30s; done
	wait $!
	[ "$(head -n 1 "$T/answer")" = 200 ]
	[ "$(sed 1d "$T/answer" | jq -r .metadata.name)" = web ]
	run "$BATS_TEST_DIRNAME/request" "$T/n1/sock" GET "/v1/vms/other?revision=1&wait=30s"
	[ "${lines[0]}" = 404 ]
}

@test "without a quorum: writes fail with 69 in time and say so, the list still works and is marked stale" {
	local left others began
	cluster_up 3
	on 1 vm create web --flake "$BASE#demo" --node n2 --timeout 30s
	left=$(follower "$(leader_of 1)")
	mapfile -t others < <(for n in 1 2 3; do [ "$n" = "$left" ] || echo "$n"; done)
	server_kill "${others[@]}"
	until_true eval 'on $left vm list -o json | jq -e .stale'
	[ "$(on "$left" vm list -o name)" = web ]
	[ "$(on "$left" vm list -o json | jq '.stalenessMs > 0')" = true ]
	run --separate-stderr on "$left" vm list
	[ "$status" -eq 0 ]
	[[ $stderr == "note: stale, as n$left knew it "*" ms ago" ]]
	[[ $output == *web*Running* || $output == *web*Unknown* ]]
	began=$SECONDS
	run --separate-stderr on "$left" vm create more --flake "$BASE#demo" --timeout 3s
	[ "$status" -eq 69 ]
	[ $((SECONDS - began)) -le 8 ]
	[[ ${stderr_lines[0]} == "blix: vm more: "* ]]
	[[ $stderr == *"a majority of the servers must run"* ]]
	run --separate-stderr on "$left" vm stop web --timeout 2s -o json
	[ "$status" -eq 69 ]
	[ "$(jq -r '.code + " " + (.definite | tostring)' <<<"$stderr")" = "no-leader true" ]
	[ "$(on "$left" cluster status -o json | jq .quorum)" = false ]
	# One more server is a majority again, and nothing of what was refused has happened.
	server_start "${others[0]}"
	until_true agree "$left" "${others[0]}"
	[ "$(on "$left" vm list -o name)" = web ]
	on "$left" vm list -o json | jq -e '.stale == false'
	server_start "${others[1]}"
	until_true agree 1 2 3
	on "$left" vm delete web --timeout 30s
	[ -z "$(remains)" ]
	server_stop 1 2 3
}

@test "a leader that lost its followers steps down, and its list says that it is stale" {
	local leader
	cluster_up 3
	leader=$(leader_of 1)
	for n in 1 2 3; do [ "$n" = "$leader" ] || server_kill "$n"; done
	run --separate-stderr on "$leader" vm create web --flake "$BASE#demo" --no-wait --timeout 3s
	[ "$status" -eq 69 ]
	until_true eval 'on $leader vm list -o json | jq -e .stale'
	[ "$(on "$leader" cluster status -o json | jq .quorum)" = false ]
	server_stop "$leader"
}

@test "three servers that all stop, or are all killed, come back with the same VMs" {
	local before listed
	cluster_up 3
	on 1 vm create a b c d e f --flake "$BASE#demo" --timeout 30s
	on 2 vm create g --flake "$BASE#demo" --stopped --label tier=cold --timeout 30s
	until_true agree 1 2 3
	before=$(vm_processes_alive)
	listed=$(on 1 vm list --columns name,phase,node,uid)
	server_stop 1 2 3
	[ "$(vm_processes_alive)" = "$before" ]
	server_start 1 2 3
	until_true agree 1 2 3
	[ "$(on 3 vm list --columns name,phase,node,uid)" = "$listed" ]
	[ "$(on 3 vm list -l tier=cold -o name)" = g ]
	server_kill 1 2 3
	server_start 1 2 3
	until_true agree 1 2 3
	[ "$(on 2 vm list --columns name,phase,node,uid)" = "$listed" ]
	[ "$(vm_processes_alive)" = "$before" ]
	on 2 vm delete --all --yes --timeout 60s
	[ -z "$(vm_processes_alive)" ]
	[ -z "$(remains)" ]
	server_stop 1 2 3
}

@test "no room: 6 at once, why names each node, and a VM that leaves makes room by itself" {
	cluster_up 3 '.capacity = {cpus: 8, memoryBytes: 1073741824}'
	run --separate-stderr on 1 vm create big --flake "$BASE#demo" --memory 3GiB --timeout 30s
	[ "$status" -eq 6 ]
	[[ ${stderr_lines[*]} == *"blix: vm big: "* ]]
	run on 1 vm why big
	[ "$status" -eq 0 ]
	for n in n1 n2 n3; do [[ $output == *"$n"* ]]; done
	on 1 vm why big -o json | jq -e '.placeable == false and (.nodes | length) == 3 and all(.nodes[]; .need > .have)'
	on 2 vm delete big --timeout 30s
	# 700 MiB on each of three nodes: the fourth waits, and is placed when one goes.
	on 1 vm create a b c --flake "$BASE#demo" --memory 700MiB --timeout 30s
	[ "$(on 1 vm list --columns node --no-headers | sort -u | wc -l)" -eq 3 ]
	run on 1 vm create d --flake "$BASE#demo" --memory 700MiB --timeout 30s
	[ "$status" -eq 6 ]
	on 1 vm delete a --timeout 30s
	until_true all_run 1 d
	on 1 vm delete --all --yes --timeout 30s
	[ -z "$(remains)" ]
	server_stop 1 2 3
}

@test "a full disk: what was acknowledged stays, what is refused says why, space heals it" {
	local holder i value labels=()
	unshare -m true 2>/dev/null || skip "needs the right to mount in a namespace of its own"
	configure 1
	mkdir "$T/n1/state"
	# Room for the log, its reserve, and a little.
	unshare -m --propagation private sh -c "mount -t tmpfs -o size=56m none '$T/n1/state' && echo >'$T/mounted' && exec sleep infinity" 3>&- &
	holder=$!
	PIDS[9]=$holder
	until_true [ -e "$T/mounted" ]
	INSIDE=(nsenter -m -t "$holder")
	server_start 1
	until_true agree 1
	on 1 vm create web --flake "$BASE#demo" --timeout 30s

	value=$(printf 'v%.0s' {1..63})
	for i in {10..41}; do labels+=(--label "$(printf 'k%.0s' {1..60})$i=$value"); done
	for i in {1..40}; do
		status=0
		on 1 vm create $(seq -f "x$i-%g" 100) --flake "$BASE#demo" --stopped --no-wait --timeout 5s \
			"${labels[@]}" -o jsonl >>"$T/created" 2>"$T/refused" || status=$?
		[ "$status" = 0 ] || break
	done
	[ "$status" -eq 75 ]
	jq -es 'map(select(.code == "disk-full" and .retryable and .definite)) | length > 0' "$T/refused"
	[ "$(on 1 vm list -o name | grep -cx web)" -eq 1 ] # it goes on answering

	grep -q 'event=raft.disk.full' "$T/n1/log"

	nsenter -m -t "$holder" mount -o remount,size=200m "$T/n1/state"
	until_true grep -q 'event=raft.disk.roomy' "$T/n1/log" # by itself
	on 1 vm create more --flake "$BASE#demo" --timeout 30s
	server_stop 1
	server_start 1
	until_true agree 1
	on 1 vm list -o name | sort >"$T/listed"
	jq -r .metadata.name "$T/created" | sort >"$T/acked"
	[ "$(wc -l <"$T/acked")" -ge 100 ]
	[ -z "$(comm -23 "$T/acked" "$T/listed")" ]
	until_true all_run 1 web more
	on 1 vm delete web more --timeout 30s
	server_stop 1
}
