#!/usr/bin/env bats
# Clusters by init, token and join alone, over mutual TLS on loopback: who gets in and who does not, who votes, and that members may go and
# come, all of them in turn, while nothing is lost.

# shellcheck disable=SC2034,SC2154 # PIDS is of helpers.bash; stderr is set by run

bats_require_minimum_version 1.5.0

setup() {
	load helpers.bash
	load members.bash
	servers_setup
	members_setup
}

teardown() {
	servers_teardown
}

@test "a blixd that is of no cluster waits: it says so, and what helps, to all but version, init and join" {
	hosts 1
	run --separate-stderr on 1 vm list
	[ "$status" = 5 ]
	[[ $stderr == *"no cluster yet"*"blix node init"* ]]
	run --separate-stderr on 1 vm create web --flake "$BASE#demo"
	[ "$status" = 5 ]
	[[ $(on 1 version) == *blixd* ]]
	[ ! -e "$T/n1/state/identity.json" ]
	server_stop 1
}

@test "three by init, token and join: a VM through any of them, the leader killed, all of them restarted" {
	local leader other n
	members_up 3
	[ "$(on 2 node list -o json | jq -r '[.items[].metadata.name] | join(" ")')" = "n1 n2 n3" ]
	[ "$(on 2 node list -o json | jq '[.items[].metadata.id] | unique | length')" = 3 ]
	cluster 3 ".cluster == \"$(cluster_id 1)\" and .caFingerprint != null and .featureLevel == 2" >/dev/null
	[ "$(stat -c %a "$T/n3/state/tls/ca.key" "$T/n3/state/tls/node.key" "$T/n3/state/identity.json" | sort -u)" = 600 ]

	leader=$(leader_of 1)
	other=$(follower "$leader")
	on "$other" vm create web --flake "$BASE#demo" --quiet
	for n in 1 2 3; do [ "$(on "$n" vm list -o name)" = web ]; done

	server_kill "$leader"
	until_true has_other_leader "$other" "$leader"
	on "$other" vm create db --flake "$BASE#demo" --no-wait --timeout 60s >/dev/null
	server_start "$leader"
	until_true agree 1 2 3
	[ "$(on "$leader" vm list -o name | sort | paste -sd' ')" = "db web" ]

	server_stop 1 2 3
	server_start 1 2 3
	until_true agree 1 2 3
	[ "$(jq -r .log "$T"/n*/state/identity.json | sort -u)" = kept ]
	WITHIN=60 until_true all_are 1 2 Running
	server_stop 1 2 3
}

@test "a token: once, by one, for as long as it lives; a joiner that lost its answer gets it again" {
	local id
	hosts 4
	init 1

	# As if n2 had died after the log took its token, before the answer was on its disk: its key is there.
	on 1 node token n2 >"$T/token.2"
	mkdir -m 700 "$T/n2/state/tls"
	(umask 077 && openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$T/n2/state/tls/node.key")
	openssl req -new -key "$T/n2/state/tls/node.key" -out "$T/csr" -subj /CN=x
	jq -n --rawfile csr "$T/csr" --arg secret "$(secret_of "$T/token.2")" --arg address "$(address 2)" --arg raft "127.0.0.1:$((PORT + 5))" \
		'{secret: $secret, name: "n2", request: $csr, address: $address, raft: $raft, zone: "", version: "x", features: 2}' >"$T/body"
	[ "$(ask 1 none POST /v1/join -H 'Content-Type: application/json' -d "@$T/body")" = 200 ]
	id=$(jq .node "$T/answer")
	on 2 node join "$(address 1)" --token-file "$T/token.2" --listen "$(address 2)" --timeout 60s
	[ "$(node_id 2)" = "$id" ]
	[ "$(on 1 node list -o json | jq '.items | length')" = 2 ]
	[ "$(jq -r .certificate "$T/answer")" != "$(<"$T/n2/state/tls/node.pem")" ]

	# The same token with another key.
	run --separate-stderr on 3 node join --token-file "$T/token.2" --listen "$(address 3)"
	[ "$status" = 77 ]
	[[ $stderr == *"used by another node"* ]]
	[ ! -e "$T/n3/state/identity.json" ]

	# One that has expired, and one that a person took back.
	on 1 node token n3 --ttl 1ms >"$T/token"
	run --separate-stderr on 3 node join --token-file "$T/token" --listen "$(address 3)"
	[ "$status" = 77 ]
	[[ $stderr == *expired* ]]
	# A name is taken, a role is not there, a line is cut.
	run --separate-stderr on 1 node token n2
	[ "$status" = 4 ]
	on 2 node token n3 >"$T/token"
	head -c 100 "$T/token" >"$T/cut"
	run --separate-stderr on 3 node join --token-file "$T/cut" --listen "$(address 3)"
	[ "$status" = 64 ]
	grep -q 'event=node.join.refused .*reason=token-used' "$T/n1/log"
	# Made by one server, used at another.
	on 3 node join "$(address 1)" --token-file "$T/token" --listen "$(address 3)" --timeout 60s
	until_true voters_are 1 3
	# No secret of a token is in any log, nor in what is replicated.
	run ! grep -rlF "$(<"$T/token")" "$T"/n*/log "$T"/n*/state
	server_stop 1 2 3 4
}

@test "the secret does not leave for a server of another CA: a trap, and another cluster" {
	local trap
	hosts 3
	init 1
	init 3 # another cluster
	on 1 node token n2 >"$T/token"
	server_kill 1 # so that the token's own address does not answer
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$T/trap.key" -out "$T/trap.pem" \
		-subj "/O=blix:server/CN=n1" -addext "subjectAltName=DNS:n$(node_id 1).$(cluster_id 1).blix" 2>/dev/null
	openssl s_server -accept "$((PORT + 30))" -key "$T/trap.key" -cert "$T/trap.pem" -tls1_3 -quiet </dev/zero >"$T/got" 2>"$T/trap.log" 3>&- &
	trap=$!
	PIDS[9]=$trap
	until_true eval '[ -n "$(ss -Hltn "sport = :$((PORT + 30))")" ]'

	run --separate-stderr on 2 node join "127.0.0.1:$((PORT + 30))" --token-file "$T/token" --listen "$(address 2)"
	[ "$status" != 0 ]
	run --separate-stderr on 2 node join "$(address 3)" --token-file "$T/token" --listen "$(address 2)"
	[ "$status" != 0 ]
	[ ! -s "$T/got" ] # not one byte came through the session
	run ! grep -q 'event=node.join' "$T/n3/log"
	[ ! -e "$T/n2/state/identity.json" ]

	# Asked first at the wrong address, it goes on to one that the token names.
	server_start 1
	until_true nodes_are_ready 1 1
	on 2 node join "127.0.0.1:$((PORT + 30))" --token-file "$T/token" --listen "$(address 2)" --timeout 60s
	[ "$(cluster_id 2)" = "$(cluster_id 1)" ]
	[ ! -s "$T/got" ]
	server_stop 1 2 3
}

@test "five failures a minute: then an address has to wait" {
	local i
	hosts 1
	init 1
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$T/key" -out "$T/csr" -subj /CN=x 2>/dev/null
	jq -n --rawfile csr "$T/csr" '{secret: ("0" * 64), name: "n2", request: $csr, address: "127.0.0.1:1",
		raft: "127.0.0.1:2", zone: "", version: "x", features: 2}' >"$T/body"
	for i in 1 2 3 4 5; do
		[ "$(ask 1 none POST /v1/join -H 'Content-Type: application/json' -d "@$T/body")" = 403 ]
		[ "$(jq -r .reason "$T/answer")" = token-unknown ]
	done
	[ "$(ask 1 none POST /v1/join -H 'Content-Type: application/json' -d "@$T/body")" = 503 ]
	[ "$(jq -r .reason "$T/answer")" = too-many-tries ]
	server_stop 1
}

@test "certificates: none, another cluster's, a node's own, one that has left" {
	hosts 4
	init 1
	join 2 1
	init 4
	[ "$(ask 1 none GET /v1/vms)" = 403 ]
	[ "$(ask 1 "$T/n4/state/tls" GET /v1/vms | cut -c1-3)" = 000 ]
	# A node is no person: it may not ask for VMs, nor for what an admin may.
	[ "$(ask 1 "$T/n2/state/tls" GET /v1/vms)" = 403 ]
	[ "$(ask 1 "$T/n2/state/tls" POST /v1/tokens -d '{}')" = 403 ]
	[ "$(ask 1 "$T/n2/state/tls" POST /v1/internal/propose -d x)" = 400 ] # it is a server, and that is no command
	on 1 node remove n2 --timeout 60s
	[ "$(ask 1 "$T/n2/state/tls" POST /v1/internal/propose -d x)" = 403 ]
	[ "$(on 1 node list -o name)" = n1 ]
	until_true grep -q 'event=node.left' "$T/n2/log"
	# Nothing brings it back but a new token: a restart does not.
	server_stop 2
	server_start 2
	until_true on 2 version
	on 1 vm create web --flake "$BASE#demo" --node n1 --quiet
	[ "$(on 1 node list -o name)" = n1 ]
	server_stop 1 2 4
}

@test "all three replaced in turn under load: what was acknowledged is there, once" {
	local n old client
	members_up 3
	for n in 1 2 3; do old+=" $(node_id "$n")"; done
	(
		i=0
		until [ -e "$T/enough" ]; do
			i=$((i + 1))
			blix --endpoint "unix:$T/n1/sock,unix:$T/n2/sock,unix:$T/n3/sock" vm create "vm-$i" --flake "$BASE#demo" --stopped --no-wait \
				--timeout 60s >/dev/null 2>>"$T/client.log" && echo "vm-$i" >>"$T/acked"
		done
	) 3>&- &
	client=$!
	until_true test -s "$T/acked"
	for n in 1 2 3; do
		local by=$((n % 3 + 1)) before
		before=$(wc -l <"$T/acked")
		on "$by" node remove "n$n" --timeout 60s
		server_stop "$n"
		forget "$n"
		rm -rf "$T/n$n/microvms/"*
		server_start "$n"
		until_true waits "$n"
		join "$n" "$by"
		until_true voters_are "$by" 3
		until_true eval "[ \$(wc -l <'$T/acked') -gt $before ]"
	done
	touch "$T/enough"
	wait "$client"
	until_true agree 1 2 3
	for n in 1 2 3; do [[ " $old " != *" $(node_id "$n") "* ]]; done
	[ "$(on 2 node list -o json | jq '.items | length')" = 3 ]
	on 3 vm list -o name | sort >"$T/listed"
	[ -z "$(sort "$T/acked" | comm -23 - "$T/listed")" ]
	[ -z "$(uniq -d "$T/listed")" ]
	[ "$(sort "$T/acked" | uniq -d | wc -l)" = 0 ]
	server_stop 1 2 3
}

@test "promote, demote, transfer, maintenance, cordon: who votes, who leads, who gets VMs" {
	local leader other
	members_up 4
	[ "$(on 1 node list -o json | jq -r '[.items[] | select(.status.raft.vote == "standby") | .metadata.name] | join(" ")')" = n4 ]
	on 2 node promote n4 --timeout 60s
	until_true voters_are 1 3
	on 2 node demote n4 --timeout 60s
	until_true voters_are 1 3

	leader=$(leader_of 1)
	other=$(follower "$leader" 4)
	on "$other" cluster transfer-leader "n$other"
	until_true eval "[ \"\$(leader_of 1)\" = $other ]"
	# The leader itself loses its vote: it hands over first, and another votes in its place.
	on 1 node promote n4 --timeout 60s
	on "$other" node demote "n$other" --timeout 60s
	until_true has_other_leader "$other" "$other"
	until_true voters_are 1 3

	on 1 node cordon n1 n2 n3
	on 1 vm create web --flake "$BASE#demo" --quiet
	[ "$(on 1 vm show web -o json | jq -r .status.node)" = n4 ]
	on 1 node uncordon n1 n2 n3
	on 1 node maintenance n4 on --timeout 60s
	on 1 vm create db --flake "$BASE#demo" --quiet
	[ "$(on 1 vm show db -o json | jq -r .status.node)" != n4 ]
	[ "$(on 1 vm show web -o json | jq -r .status.phase)" = Running ]
	run --separate-stderr on 1 node remove n4
	[ "$status" = 5 ]
	[[ $stderr == *"VMs on it"* ]]
	on 1 node maintenance n4 off --timeout 60s
	run --separate-stderr on 1 node remove n9
	[ "$status" = 3 ]
	server_stop 1 2 3 4
}

@test "a certificate is renewed without a restart, and the cluster knows it" {
	local before
	members_up 2
	before=$(node_of 1 n2 .status.certificateSerial)
	on 2 node renew
	[ "$(node_of 1 n2 .status.certificateSerial)" != "$before" ]
	openssl x509 -in "$T/n2/state/tls/node.pem" -noout -serial | grep -qi "$(node_of 1 n2 .status.certificateSerial)"
	# Connections that begin now show the new one, in both directions.
	openssl s_client -connect "$(address 2)" -CAfile "$T/n1/state/tls/ca.pem" </dev/null 2>/dev/null | openssl x509 -noout -serial |
		grep -qi "$(node_of 1 n2 .status.certificateSerial)"
	on 2 vm create web --flake "$BASE#demo" --quiet
	server_stop 1 2
}

@test "an identity is not contradicted by the configuration, nor is a log forgotten" {
	local key
	hosts 1
	init 1
	server_stop 1
	for key in '.cluster = "x"' '.servers = [{id: 1, name: "n1", raft: "/x", api: "/y"}] | .id = 1 | .cluster = "x"' '.name = "other"'; do
		jq "$key" "$T/n1/blix.json" >"$T/other.json"
		run --separate-stderr blixd --config "$T/other.json" --check
		[ "$status" = 78 ]
		[[ $stderr == *"contradicts"*"remove '"* ]]
	done
	server_start 1
	until_true nodes_are_ready 1 1
	until_true eval "[ \"\$(jq -r .log '$T/n1/state/identity.json')\" = kept ]"
	server_stop 1
	rm -rf "$T/n1/state/raft"
	run --separate-stderr blixd --config "$T/n1/blix.json" --check
	[ "$status" != 0 ]
	[[ $stderr == *"is gone"*"join this host anew"* ]]
}
