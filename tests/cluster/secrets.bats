#!/usr/bin/env bats
# Secrets, from the client to the file in the guest, through real servers and the real blix-agent: where a value is, and
# where it is not. In these guests /run/secrets is the folder `secrets` of the VM's directory.
# shellcheck disable=SC2034 # PIDS is of helpers.bash

bats_require_minimum_version 1.5.0

VALUE=canary-7b1d6a0f93

setup() {
	load helpers.bash
	servers_setup
	printf '%s' "$VALUE" >"$T.value"
	head -c 65536 /dev/urandom >"$T.large"
}

teardown() {
	servers_teardown
	rm -f "$T".*
}

# agent_vm SERVER NODE NAME ARGUMENT...: a VM whose guest has the agent
agent_vm() {
	echo agent >"$T/n$2/microvms/.fake/$3"
	on "$1" vm create "$3" --flake "$BASE#demo" --node "n$2" "${@:4}"
}

vm() { on "$1" vm show "$2" -o json | jq -er "$3"; } # SERVER NAME FILTER

in_guest() { cat "$T/n$1/microvms/$2/secrets/$3"; } # NODE VM SECRET

# has SERVER NAME REASON: it waits for that reason
waits_for() { [ "$(vm "$1" "$2" '.status.phase + " " + (.status.reason // "")')" = "Scheduled $3" ]; }
is_given() { [ "$(vm "$1" "$2" .status.secretsGiven)" = true ]; }

# create_lost NAME: a client that dies before it sends anything: the names alone are in the log
create_lost() {
	echo agent >"$T/n1/microvms/.fake/$1"
	"$BATS_TEST_DIRNAME/request" "$T/n1/sock" POST /v1/vms >/dev/null \
		<<<'{"metadata":{"name":"'"$1"'"},"spec":{"flake":"'"$BASE"'","attr":"demo","secrets":["db"]}}'
}

# Every place where a value could have been left, but for the guest's own file. The pattern comes from a file, since grep
# has a command line too.
not_found() { # FILE
	! grep -rlaFf "$1" --exclude-dir=secrets "$T" || return 1
	! grep -rlaFf "$1" "$T"/n*/state "$T"/n*/run || return 1
	! cat /proc/[0-9]*/cmdline 2>/dev/null | grep -qaFf "$1"
}

@test "a value is in the guest's file, sealed on its node, and nowhere else; it goes with the VM" {
	cluster_up 3
	run --separate-stderr agent_vm 1 2 web --secret "db=$T.value" --secret "key.pem=$T.large" --ready agent
	[ "$status" = 0 ]
	[ "$(in_guest 2 web db)" = "$VALUE" ] # ready: so it was there before
	cmp "$T/n2/microvms/web/secrets/key.pem" "$T.large"
	[ "$(stat -c '%a' "$T/n2/microvms/web/secrets" "$T/n2/microvms/web/secrets/db" | xargs)" = '700 400' ]
	uid=$(vm 1 web .metadata.uid)
	[ "$(stat -c '%a' "$T/n2/state/secrets.key" "$T/n2/state/secrets/$uid" "$T/n2/state/secrets/$uid/db" | xargs)" = '600 700 600' ]
	[ ! -e "$T/n1/state/secrets" ]
	not_found "$T.value"
	[ "$(vm 3 web '.spec.secrets | join(" ")')" = 'db key.pem' ]
	until_true is_given 3 web
	[[ $(on 3 vm show web) == *'db, key.pem (the guest has them)'* ]]
	# A node that is not the VM's keeps nothing, whoever says that it is.
	[[ $("$BATS_TEST_DIRNAME/request" "$T/n1/sock" PUT '/v1/vms/web/secrets/db?here=true' <<<x) == 503*not-placed* ]]
	[ ! -e "$T/n1/state/secrets" ]
	# The log of events tells that, and no more.
	[[ $(on 1 vm events web --columns reason --no-headers) == *vm-secrets-given* ]]
	on 1 vm delete web 2>/dev/null
	[ -z "$(remains)" ]
	server_stop 1 2 3
}

@test "another value: the guest that runs has it at once; a restart and a new daemon give it again" {
	cluster_up 1
	printf first | agent_vm 1 1 web --secret db=- --ready agent 2>/dev/null
	[ "$(in_guest 1 web db)" = first ]
	on 1 vm set web --secret "db=$T.value" 2>/dev/null
	until_true grep -q "$VALUE" "$T/n1/microvms/web/secrets/db"
	rm "$T/n1/microvms/web/secrets/db"
	server_kill 1
	server_start 1
	until_true grep -qs "$VALUE" "$T/n1/microvms/web/secrets/db"
	rm "$T/n1/microvms/web/secrets/db"
	on 1 vm restart web 2>/dev/null
	until_true is_given 1 web
	[ "$(in_guest 1 web db)" = "$VALUE" ]
	server_stop 1
}

@test "without its values a VM waits and says how they are sent; kill -9 in between changes nothing" {
	cluster_up 1
	create_lost web
	until_true waits_for 1 web waits-for-secrets
	why=$(on 1 vm why web)
	[[ $why == *'its secret db is not on this node (n1)'* ]]
	[[ $why == *'blix vm set web --secret db=FILE'* ]]
	[ "$(on 1 vm why web -o json | jq -r '[.chain[] | select(.reason == "waits-for-secrets")][0].class')" = start ]
	server_kill 1
	server_start 1
	until_true agree 1
	until_true waits_for 1 web waits-for-secrets
	on 1 vm set web --secret "db=$T.value" 2>/dev/null
	until_true is_given 1 web
	[ "$(in_guest 1 web db)" = "$VALUE" ]
	[ "$(vm 1 web '.status.reason // "none"')" = none ]
	# Told once, not again and again.
	[ "$(on 1 vm events web --columns reason --no-headers | grep -c vm-secrets-wait)" -le 2 ]
	server_stop 1
}

@test "a damaged value, one in another's place and a lost key are told apart from a missing one" {
	cluster_up 1
	agent_vm 1 1 web --secret "db=$T.value" --ready agent 2>/dev/null
	agent_vm 1 1 other --secret "db=$T.large" --ready agent 2>/dev/null
	dir=$T/n1/state/secrets/$(vm 1 web .metadata.uid)
	on 1 vm stop web 2>/dev/null
	cp "$dir/db" "$T/sound"
	printf X | dd of="$dir/db" bs=1 seek=40 conv=notrunc status=none
	on 1 vm start web --no-wait >/dev/null
	until_true waits_for 1 web secret-unreadable
	[[ $(on 1 vm why web) == *'does not open: damaged, or of another key'* ]]
	[ "$(on 1 vm why web -o json | jq -r '[.chain[] | select(.reason == "secret-unreadable")][0].class')" = node ]
	on 1 vm stop web 2>/dev/null
	cp "$T/n1/state/secrets/$(vm 1 other .metadata.uid)/db" "$dir/db"
	on 1 vm start web --no-wait >/dev/null
	until_true waits_for 1 web secret-unreadable
	on 1 vm stop web 2>/dev/null
	cp "$T/sound" "$dir/db"
	mv "$T/n1/state/secrets.key" "$T/key"
	on 1 vm start web --no-wait >/dev/null
	until_true waits_for 1 web secret-unreadable
	on 1 vm set web --secret "db=$T.value" 2>/dev/null
	until_true is_given 1 web
	[ "$(in_guest 1 web db)" = "$VALUE" ]
	server_stop 1
}

@test "a guest without an agent runs, is not ready, and vm why says that nobody took its secrets" {
	cluster_up 1
	run on 1 vm create web --flake "$BASE#demo" --secret "db=$T.value"
	[ "$status" = 0 ]
	[ "$(vm 1 web .status.secretsGiven)" = false ]
	[[ $(on 1 vm why web) == *'no agent in its guest has taken its secrets yet'* ]]
	server_stop 1
}

@test "a VM that comes to another node is sent its values again by who waits, and the old node keeps none" {
	cluster_up 3
	for n in 1 3; do echo exit1 >"$T/n$n/microvms/.fake/web"; done
	echo agent >"$T/n2/microvms/.fake/web"
	on 1 vm create web --flake "$BASE#demo" --secret "db=$T.value" --ready agent 2>/dev/null
	[ "$(vm 1 web .status.node)" = n2 ]
	[ "$(vm 1 web .status.epoch)" -ge 2 ]
	[ "$(in_guest 2 web db)" = "$VALUE" ]
	released() { [ -z "$(find "$T"/n[13]/state/secrets -mindepth 1)" ]; }
	until_true released
	grep -q event=vm.secret.kept "$T/n1/log" "$T/n3/log" # one of them had it
	server_stop 1 2 3
}

@test "what is left of a VM that is no more goes with the next start of its daemon" {
	cluster_up 1
	agent_vm 1 1 web --secret "db=$T.value" --ready agent 2>/dev/null
	dir=$T/n1/state/secrets
	cp -r "$dir/$(vm 1 web .metadata.uid)" "$dir/1" # no VM has the revision of a node for its id
	server_kill 1
	run on 1 doctor --config "$T/n1/blix.json"
	[[ $output != *secrets/1* ]] # without a daemon nothing is called a leftover
	server_start 1
	gone() { [ ! -e "$dir/1" ]; }
	until_true gone
	[ -e "$dir/$(vm 1 web .metadata.uid)/db" ]
	cp -r "$dir/$(vm 1 web .metadata.uid)" "$dir/1"
	run on 1 doctor --config "$T/n1/blix.json"
	[[ $output == *"$dir/1 belongs to no VM of the cluster"* ]]
	server_stop 1
}

@test "a secret that cannot be, and one sent to the wrong VM, are refused" {
	cluster_up 1
	refused() { # TEXT ARGUMENT...
		run on 1 vm create web --flake "$BASE#demo" "${@:2}"
		[ "$status" = 64 ] || { echo "$status: $output" >&2; return 1; }
		[[ $output == *"$1"* ]]
	}
	: >"$T/empty"
	head -c 65537 /dev/zero >"$T/huge"
	refused 'NAME=FILE' --secret db
	refused 'name of a secret' --secret "../db=$T.value"
	refused 'name of a secret' --secret ".db=$T.value"
	refused 'named twice' --secret "db=$T.value" --secret "db=$T.value"
	refused 'one secret only' --secret a=- --secret b=-
	refused 'it is empty' --secret "db=$T/empty"
	refused 'larger than 65536 bytes' --secret "db=$T/huge"
	refused 'plain VM cannot have secrets' --plain --secret "db=$T.value"
	refused '--secret with --stopped' --stopped --secret "db=$T.value"
	run on 1 vm create web --flake "$BASE#demo" --secret "db=$T/missing"
	[ "$status" = 3 ]
	run on 1 vm show web
	[ "$status" = 3 ]
	agent_vm 1 1 web --secret "db=$T.value" --ready agent 2>/dev/null
	put() { "$BATS_TEST_DIRNAME/request" "$T/n1/sock" PUT "/v1/vms/$1" < <(printf '%s' "$2"); }
	[[ $(put web/secrets/other x) == *secret-unknown* ]]
	[[ $(put nobody/secrets/db x) == *vm-missing* ]]
	[[ $(put 'web/secrets/db?uid=9999' x) == *'another has its name now'* ]]
	[[ $(put web/secrets/db '') == *'not empty'* ]]
	[[ $("$BATS_TEST_DIRNAME/request" "$T/n1/sock" PUT /v1/vms/web/secrets/db <"$T/huge") == 413* ]]
	CUT=3 "$BATS_TEST_DIRNAME/request" "$T/n1/sock" PUT /v1/vms/web/secrets/db <<<'cut off' >/dev/null
	[ "$(in_guest 1 web db)" = "$VALUE" ]
	server_stop 1
}

@test "blix run --secret and --env: the command has them, /proc never shows them, nothing stays" {
	cluster_up 1
	printf '%s-two' "$VALUE" >"$T.two"
	echo agent >"$T/n1/microvms/.fake/job"
	mkfifo "$T/go"
	HIDDEN=$(<"$T.value") blix --endpoint "unix:$T/n1/sock" run "$BASE#demo" --name job --secret "db=$T.value" \
		--env HIDDEN --env "OPEN=$VALUE-two" --env NOT_SET -i -- \
		sh -c 'cat "$0"; echo " $HIDDEN $OPEN ${NOT_SET-none}"; echo up >&2; read -r go' "$T/n1/microvms/job/secrets/db" <"$T/go" >"$T.out" 2>"$T/err" &
	PIDS[9]=$!
	exec 8>"$T/go"
	until_true grep -q up "$T/err"
	cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -q '^OPEN=' # it is looked at the right place
	not_found "$T.value"
	echo go >&8
	exec 8>&-
	wait "${PIDS[9]}"
	PIDS[9]=
	[ "$(<"$T.out")" = "$VALUE $VALUE $VALUE-two none" ]
	[ -z "$(remains)" ]
	server_stop 1
}
