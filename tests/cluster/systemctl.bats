#!/usr/bin/env bats
# A systemd that fails: every failure has its own reason, nothing runs twice, and all is well once it
# works again. The stand-in for systemctl refuses what it does not know.

load helpers.bash

setup() {
	servers_setup
	configure 1 '.supervision = "systemd" | .systemdDir = "'"$T"'/n1/systemd"'
	mkdir -p "$T/n1/systemd"
	touch "$T/n1/systemd/microvm@.service"
	goes ok
	server_start 1
	until_true nodes_are_ready 1 1
}
# Whoever the last daemon has asked may still be at it: the units and their keepers, and who starts one.
units_are_gone() {
	local environ=()
	mapfile -t environ < <(grep -lsF "MICROVM_STATE_DIR=$T/" /proc/[0-9]*/environ)
	[ "${#environ[@]}" = 0 ] || kill -9 "${environ[@]//[!0-9]/}" 2>/dev/null || true
	[ "${#environ[@]}" = 0 ]
}
teardown() {
	kill -9 "${PIDS[1]}" 2>/dev/null || true
	wait "${PIDS[1]}" 2>/dev/null || true
	until_true units_are_gone
	servers_teardown
}

goes() { echo "$*" >"$T/n1/microvms/.fake/systemctl"; }
create() { on 1 vm create web --flake "$BASE#web" --quiet --no-wait; }
reasons() { on 1 vm events web -o json | jq -r '[.items[] | select(.reason == "vm-retry" or .reason == "vm-failed") | .message] | join("\n")'; }
reason_is() { [ "$(on 1 vm show web -o json | jq -r .status.reason)" = "$1" ]; }
is_running() { [ "$(on 1 vm show web -o json | jq -r .status.phase)" = Running ]; }
runners() {
	local link n=0
	for link in /proc/[0-9]*/cwd; do
		[ "$(readlink "$link" 2>/dev/null)" != "$T/n1/microvms/web" ] || n=$((n + 1))
	done
	echo "$n"
}
runners_are() { [ "$(runners)" = "$1" ]; }
asked() { tr '\0' ' ' <"$T/n1/microvms/.fake/log" | grep -c "^systemctl $1" || true; } # VERB
mends() {
	goes ok
	on 1 vm start web --quiet >/dev/null 2>&1 || true
	until_true is_running
	runners_are 1
}

@test "systemctl: a start, a crash and a delete use the words it knows, and leave no drop-in" {
	create
	until_true is_running
	runners_are 1
	grep -q '^Restart=no$' "$T/n1/systemd/microvm@web.service.d/50-blix.conf"
	on 1 node list -o json | jq -e '.items[0].status.supervision == "systemd"'
	[ "$(asked daemon-reload)" = 0 ]
	on 1 vm delete web --yes --force --quiet
	[ ! -e "$T/n1/systemd/microvm@web.service.d" ]
	runners_are 0
}

@test "systemctl: what fails has a reason of its own, and starts nothing" {
	while read -r mode reason; do
		goes "${mode/-/ }"
		create
		until_true reason_is "$reason"
		runners_are 0
		goes ok
		on 1 vm delete web --yes --force --quiet
	done <<-END
		show-fail systemd-failed
		show-garbage systemd-garbled
		show-foreign foreign-unit
		show-masked unit-missing
		show-deaf drop-in-ignored
		start-fail start-failed
		stop-fail systemd-failed
	END
}

@test "systemctl: one that hangs is given up, and the VM starts when it answers again" {
	goes show hang
	create
	WITHIN=60 until_true reason_is systemd-silent
	runners_are 0
	mends
}

@test "systemctl: a start that worked and was called a failure runs nothing twice" {
	goes start lie
	create
	until_true is_running
	runners_are 1
	[ "$(asked start)" = 1 ]
}

@test "systemctl: a unit that is lost in between is started again, once" {
	goes start lose
	create
	until_true runners_are 0
	until_true reason_is runner-lost
	mends
}

@test "systemctl: a start that does nothing is no VM" {
	goes start nothing
	create
	until_true reason_is runner-lost
	runners_are 0
	mends
}

@test "systemctl: an adoption that fails is undone, and the unit runs on; it is made when all is well" {
	local reason
	env -i PATH="$PATH" MICROVM_STATE_DIR="$T/n1/microvms" MICROVM_GCROOTS_DIR="$T/n1/gcroots/microvm" \
		"$FAKE/microvm" -f "$BASE" -c web
	env -i PATH="$PATH" MICROVM_STATE_DIR="$T/n1/microvms" "$FAKE/systemctl" start -- microvm@web.service 3>&-
	goes show fail
	run on 1 vm adopt web --node n1
	[ "$status" = 5 ]
	for reason in drop-in-ignored systemd-failed; do
		case $reason in
		drop-in-ignored) goes show deaf ;;
		*) goes daemon-reload fail ;;
		esac
		on 1 vm adopt web --node n1 --no-wait
		until_true reason_is "$reason"
		[ ! -e "$T/n1/systemd/microvm@web.service.d" ]
		[ ! -e "$T/n1/microvms/web/.blix.json" ]
		on 1 vm delete web --yes --quiet
		runners_are 1
		goes ok
	done
	on 1 vm adopt web --node n1
	is_running
	runners_are 1
	[ "$(asked stop)" = 0 ]
}
