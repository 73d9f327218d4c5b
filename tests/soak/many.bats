#!/usr/bin/env bats
# Many real guests at once, of the small kernel that tests/soak/kernel builds: SOAK_GUESTS of them (20) come up and go
# down gracefully ROUNDS times (3), blixd killed under each wave; afterwards none is lost, doubled or left over.

bats_require_minimum_version 1.5.0

setup_file() {
	load ../guest/host.bash
	local kernel
	kernel=$(realpath "${BLIX_BUILD:-$BATS_TEST_DIRNAME/../../build/debug}/..")/soak/bzImage
	mkdir -p "${kernel%/*}"
	"$BATS_TEST_DIRNAME/kernel" "$kernel"
	host_stage 10m
	cp "$kernel" "$work/guest/vmlinuz"
	host_start
}
teardown_file() {
	load ../guest/host.bash
	host_remove
}
setup() {
	load ../until.bash
	load ../guest/host.bash
	export WITHIN=300
}

names() { seq -f 'g%g' "${SOAK_GUESTS:-20}"; }

# Names of the VMs of which a QEMU runs, one for each QEMU.
running() {
	local cwd
	for cwd in /proc/[0-9]*/cwd; do
		case "$(readlink "$cwd") $(readlink "${cwd%cwd}exe")" in "$work/s/microvms/"*/qemu-system*) basename "$(readlink "$cwd")" ;; esac
	done | sort -V
}

all_are() { # JQ: true for each VM
	blix vm list -o json | jq -e --argjson n "${SOAK_GUESTS:-20}" "[.items[] | select($1)] | length == \$n"
}

restarted() { # blixd, as after a crash
	host_kill
	host_start
}

@test "many guests of a small kernel come up, answer, and go down gracefully, a killed blixd or not" {
	local round name pids
	# shellcheck disable=SC2046 # names are words
	blix vm create $(names) --flake "$work/guest#demo" --memory 96MiB --ready agent --no-wait --quiet
	restarted
	for ((round = 1; round <= ${ROUNDS:-3}; round++)); do
		until_true all_are '.status.ready'
		[ "$(running)" = "$(names)" ]
		pids=$(blix vm list -o json | jq '[.items[].status.pid] | sort')
		restarted
		until_true all_are '.status.ready'
		[ "$(blix vm list -o json | jq '[.items[].status.pid] | sort')" = "$pids" ]
		for name in $(names); do
			until_true blix vm exec "$name" -- true # its agent is found anew by the new blixd
			[ "$(blix vm exec "$name" -- hostname)" = "$name" ]
		done
		blix vm stop --all --grace 120s --no-wait --quiet
		restarted
		until_true all_are '.status.phase == "Stopped"'
		for name in $(names); do blix vm logs "$name" | grep -q '^blix: powering off'; done
		[ -z "$(running)" ]
		blix vm start --all --no-wait --quiet
		echo "# round $round: ${SOAK_GUESTS:-20} guests up and down" >&3
	done
	until_true all_are '.status.ready'
	blix vm delete --all --yes --quiet
	[ -z "$(running)" ]
	[ -z "$(find "$work/s"/{microvms,run/vms} -name 'g[0-9]*')" ]
	[ -z "$(find "$roots" -name '*g[0-9]*' 2>/dev/null)" ]
}
