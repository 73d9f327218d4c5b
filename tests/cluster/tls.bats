#!/usr/bin/env bats
# Servers that reach each other's API by TLS only, and clients that have a certificate instead of a socket.

bats_require_minimum_version 1.5.0

CLUSTER=00112233445566778899aabbccddeeff

setup() {
	load helpers.bash
	servers_setup
	# An address of loopback for each test: nobody else has these ports.
	NET=127.$((1 + $$ % 250)).$((1 + BATS_TEST_NUMBER))
	unset BLIX_CA BLIX_CERT BLIX_KEY
	for n in 1 2 3; do mkdir -p "$T/n$n/state"; done
	certify server:1:"$T/n1/state" server:2:"$T/n2/state" server:3:"$T/n3/state" admin:adam operator:olga viewer:vera
}

teardown() { servers_teardown; }

certify() { "$BUILD/tests/cluster/certificates" $CLUSTER "$T" "$@"; }

tls_up() {
	cluster_up 3 '.cluster = "'$CLUSTER'" | .listen = ["'"$NET"'.\(.id):7443"] |
		.servers |= map(.api = "'"$NET"'.\(.id):7443")'
}

# as NAME N ARGUMENT...: blix with the certificate of NAME, asking server N by TLS
as() {
	local name=$1 n=$2
	shift 2
	BLIX_CA=$T/ca.pem BLIX_CERT=$T/$name.pem BLIX_KEY=$T/$name.key blix --endpoint "https://$NET.$n:7443" "$@"
}

@test "blix by TLS: what a role may, from any server, and who asked is known on the leader" {
	tls_up
	for n in 1 2 3; do
		as olga $n vm create "web-$n" --flake "$BASE#demo" --node n2 2>/dev/null
		as vera $n vm list --no-headers | grep -q "^web-$n "
	done
	run --separate-stderr as vera 1 vm delete web-1 --force
	[ "$status" = 77 ]
	[[ "${stderr_lines[0]}" == *'user:vera may not do this' ]]
	# The console log is on n2: n1 and n3 ask it by TLS, in the name of vera.
	for n in 1 2 3; do until_true eval "as vera $n vm logs web-1 2>/dev/null | grep -q ."; done
	as adam 3 vm delete web-3 --force 2>/dev/null
	as vera 1 node list --no-headers | grep -q ' Ready '
	server_stop 1 2 3
}

@test "blix by TLS: a flake on the client's disk is sent, and the servers fetch it from each other" {
	tls_up
	mkdir "$T/flake"
	echo '{ outputs = { self }: { }; }' >"$T/flake/flake.nix"
	head -c 5000000 /dev/urandom >"$T/flake/data" # more than the server writes at once
	run --separate-stderr as vera 1 vm create web --flake "$T/flake#web" -q
	[ "$status" = 77 ]
	as olga 1 vm create web --flake "$T/flake#web" --node n2 -q
	name=$(nix-store --dump "$T/flake" | sha256sum | cut -d' ' -f1)
	has_it() { [ "$(ls "$T/n$1/state/sources")" = "$name.nar" ]; }
	for n in 1 2 3; do
		until_true has_it $n
		[ "$(sha256sum <"$T/n$n/state/sources/$name.nar")" = "$name  -" ]
	done
	# It is for servers: no user gets it, whatever the role.
	for who in vera olga adam; do
		[ "$(curl -s -o "$T/got" -w '%{http_code}' --connect-to "::$NET.1:7443" --cacert "$T/ca.pem" --cert "$T/$who.pem" \
			--key "$T/$who.key" --insecure "https://x/v1/sources/$name")" = 403 ]
	done
	server_stop 1 2 3
}

# More than a record of TLS, and no more than the sockets hold: what a client does not take at once is not kept for it.
@test "blix by TLS: a console of a VM on another node, both ways" {
	tls_up
	echo shell >"$T/n2/microvms/.fake/web"
	as olga 1 vm create web --flake "$BASE#demo" --node n2 2>/dev/null
	for n in 1 2 3; do
		as olga $n vm console web <<<"echo at-$n-\$((40 + $n)); exec 2>&-; head -c 20000 /dev/zero | tr '\\0' x; echo; echo end-$n" \
			>"$T/out" 2>"$T/err" &
		PIDS[9]=$!
		until_true grep -q "^end-$n" "$T/out"
		kill "${PIDS[9]}" 2>/dev/null || true
		wait "${PIDS[9]}" || true
		PIDS[9]=
		grep -q "^at-$n-4$n" "$T/out"
		[ "$(tr -cd x <"$T/out" | wc -c)" -ge 20000 ]
	done
	run --separate-stderr as vera 3 vm console web </dev/null
	[ "$status" = 77 ]
	server_stop 1 2 3
}

@test "blix by TLS: who is not let in, and whom blix does not believe" {
	tls_up
	certify viewer:expired-vera
	mkdir "$T/else"
	"$BUILD/tests/cluster/certificates" $CLUSTER "$T/else" admin:adam
	run --separate-stderr as expired-vera 1 vm list
	[ "$status" = 77 ]
	[ "${stderr_lines[0]}" = 'blix: the certificate of expired-vera has expired' ]
	# Another CA's certificates: neither side takes the other.
	run --separate-stderr env BLIX_CA="$T/else/ca.pem" BLIX_CERT="$T/else/adam.pem" BLIX_KEY="$T/else/adam.key" \
		blix --endpoint "https://$NET.1:7443" vm list
	[ "$status" = 77 ]
	[ "${stderr_lines[0]}" = "blix: $NET.1:7443: its certificate is not of this cluster" ]
	run --separate-stderr env BLIX_CA="$T/ca.pem" BLIX_CERT="$T/else/adam.pem" BLIX_KEY="$T/else/adam.key" \
		blix --endpoint "https://$NET.1:7443" vm list
	[ "$status" != 0 ]
	# Nothing to show.
	run --separate-stderr blix --endpoint "https://$NET.1:7443" vm list
	[ "$status" = 78 ]
	[[ "${stderr_lines[1]}" == "hint: set BLIX_CA, BLIX_CERT and BLIX_KEY"* ]]
	# The environment of a user sends blix nowhere else.
	HTTPS_PROXY=http://127.0.0.1:9 ALL_PROXY=http://127.0.0.1:9 as vera 1 vm list
	# A user's certificate is no server's, though the same CA has signed it.
	mkdir -p "$T/impostor"
	openssl s_server -quiet -accept "$NET.9:7443" -cert "$T/vera.pem" -key "$T/vera.key" -tls1_3 </dev/null >"$T/heard" 2>&1 3>&- &
	PIDS[9]=$!
	until_true eval "(: </dev/tcp/$NET.9/7443) 2>/dev/null"
	run --separate-stderr as adam 9 vm list
	[ "$status" = 77 ]
	[ "${stderr_lines[0]}" = "blix: $NET.9:7443: it shows the certificate of the user vera" ]
	run --separate-stderr as adam 9 vm console x
	[ "$status" = 77 ]
	run ! grep -q GET "$T/heard"
	server_stop 1 2 3
}

@test "a renewed certificate needs no restart" {
	tls_up
	serial() { openssl s_client -connect "$NET.1:7443" -tls1_3 </dev/null 2>/dev/null | openssl x509 -noout -serial; }
	before=$(serial)
	[ -n "$before" ]
	[ "$(serial)" = "$before" ]
	certify server:1:"$T/n1/state"
	kill -HUP "${PIDS[1]}"
	until_true grep -q 'event=node.certificate.renewed' "$T/n1/log"
	[ "$(serial)" != "$before" ]
	as vera 1 vm list
	as olga 2 vm create web --flake "$BASE#demo" --node n1 2>/dev/null
	until_true eval 'as vera 3 vm logs web 2>/dev/null | grep -q .'
	# What does not hold is refused, and the old one stays.
	echo nonsense >"$T/n1/state/tls/node.pem"
	kill -HUP "${PIDS[1]}"
	until_true grep -q 'event=node.certificate.refused' "$T/n1/log"
	as vera 1 vm list
	server_stop 1 2 3
}
