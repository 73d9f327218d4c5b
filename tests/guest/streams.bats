#!/usr/bin/env bats
# Real Linux guests reached by the command line: exec, copies, console and its end, blix run.

bats_require_minimum_version 1.5.0

load host.bash

setup_file() {
	host_stage 3m
	sed -i 's|^        demo = .*|&\n        net = system "demo" [ { microvm.interfaces = [ { type = "user"; id = "net0"; mac = "02:00:00:00:00:05"; } ]; } ];|' \
		"$work/guest/flake.nix"
	host_start
	blix vm create web --flake "$work/guest#demo" --memory 256MiB --ready agent
}

teardown_file() { host_remove; }

setup() {
	load ../until.bash
	export WITHIN=60
	cd "$work" || exit 1
	TMUX_SERVER=
}

teardown() {
	[ -z "$TMUX_SERVER" ] || tmux -S "$TMUX_SERVER" kill-server 2>/dev/null || true
}

@test "exec in a real guest ends as the command does" {
	run --separate-stderr blix vm exec web -- cat /proc/sys/kernel/hostname
	[ "$status" = 0 ]
	[ "$output" = web ]
	run blix vm exec web -- sh -c 'exit 1'
	[ "$status" = 1 ]
	run -127 blix vm exec web -- no-such-command
	run blix vm exec web -- sh -c 'kill -15 $$'
	[ "$status" = 143 ]
}

@test "secrets are files in the guest's memory, and nowhere on the host; each boot has them" {
	local value=/tmp/${work##*/}.value
	printf 'canary-%s' "$RANDOM$RANDOM$RANDOM" >"$value"
	blix vm create keeper --flake "$work/guest#demo" --memory 256MiB --ready agent --secret "db=$value"
	[ "$(blix vm exec keeper -- cat /run/secrets/db)" = "$(<"$value")" ]
	[ "$(blix vm exec keeper -- stat -c '%a %u' /run/secrets/db)" = '400 0' ]
	[[ $(blix vm exec keeper -- stat -f -c %T /run/secrets) =~ ^(tmpfs|ramfs)$ ]]
	run grep -rlaFf "$value" "$work"
	[ -z "$output" ]
	run eval 'cat /proc/[0-9]*/cmdline 2>/dev/null | grep -caFf "$value"'
	[ "$output" = 0 ]
	blix vm restart keeper
	await eval '[ "$(blix vm exec keeper -- cat /run/secrets/db)" = "$(<"'"$value"'")" ]'
	printf other >"$value"
	blix vm set keeper --secret "db=$value"
	await eval '[ "$(blix vm exec keeper -- cat /run/secrets/db)" = other ]'
	blix vm delete keeper --force
	run ls "$work/s/secrets"
	[ -z "$output" ]
	rm "$value"
}

@test "100 MB through exec and cp, with equal hashes" {
	local sum
	head -c 100000000 /dev/urandom >"$work/big"
	sum=$(sha256sum <"$work/big")
	blix vm exec web -i -- sha256sum <"$work/big" >"$work/sum"
	[ "$(cat "$work/sum")" = "$sum" ]
	blix vm exec web -- mount -t tmpfs -o size=120m none /mnt
	blix vm cp "$work/big" web:/mnt/big
	[ "$(blix vm exec web -- sha256sum /mnt/big | cut -c1-64)" = "${sum:0:64}" ]
	blix vm cp web:/mnt/big "$work/back"
	[ "$(sha256sum <"$work/back")" = "$sum" ]
	blix vm exec web -- umount /mnt
}

@test "ssh goes to the address that the guest's DHCP gave" {
	mkdir -p ssh-bin
	printf '#!/bin/sh\necho "ssh $*"\nexit 7\n' >ssh-bin/ssh
	chmod +x ssh-bin/ssh
	blix vm create net --flake "$work/guest#net" --ready agent
	until_true eval 'PATH=$work/ssh-bin:$PATH blix vm ssh net -- uptime >out 2>err; [ "$?" = 7 ]'
	[ "$(cat out)" = 'ssh 10.0.2.15 -l root uptime' ] # as QEMU's own network has it
	blix vm delete net
}

@test "a terminal in a real guest, and logs -f that ends with it" {
	keys() { tmux -S "$TMUX_SERVER" send-keys "$@"; }
	shows() { tmux -S "$TMUX_SERVER" capture-pane -p | sed 's/^\([$#] \)*//; s/\r//' | grep -qxF -- "$1"; }
	TMUX_SERVER=$work/tmux
	env -u TMUX tmux -S "$TMUX_SERVER" -f /dev/null new-session -d -x 91 -y 27 sh 3>&-
	tmux -S "$TMUX_SERVER" set-option -g status off
	keys 'blix vm exec web -it -- sh' Enter
	until_true eval 'keys "stty size" Enter; shows "27 91"'
	tmux -S "$TMUX_SERVER" resize-window -x 80 -y 20
	until_true eval 'keys "stty size" Enter; shows "20 80"'
	keys 'exit 5' Enter
	until_true eval 'keys "echo code \$?" Enter; shows "code 5" || shows "code 0"'
	blix vm logs web -f >"$work/followed" 2>&1 &
	echo $! >"$work/follow"
	until_true grep -q 'blix: ready web' "$work/followed"
	blix vm stop web
	wait "$(cat "$work/follow")"
	cmp <(blix vm logs web) "$work/followed"
}

@test "blix run end to end: a suite that passes, one that fails, a guest that goes away, one that is interrupted" {
	mkdir -p suite
	printf '#!/bin/sh\necho "kernel $(uname -s)"\necho done >/tmp/log\nexit "$1"\n' >suite/run
	chmod +x suite/run
	run --separate-stderr blix run "$work/guest#demo" --memory 256MiB --copy "$work/suite:/tmp" \
		--copy-out "/tmp/log:$work/out" -- /tmp/suite/run 0
	[ "$status" = 0 ]
	[ "$output" = 'kernel Linux' ]
	[ "$(cat "$work/out")" = "done" ]
	run --separate-stderr blix run "$work/guest#demo" --memory 256MiB --copy "$work/suite:/tmp" -- /tmp/suite/run 42
	[ "$status" = 42 ]
	run --separate-stderr blix run "$work/guest#demo" --memory 256MiB -- sh -c 'echo up; poweroff -f; sleep 1000'
	[ "$status" = 9 ]
	[[ $stderr == *'it shut down while the command ran'* ]]
	blix run "$work/guest#demo" --memory 256MiB -- sh -c 'echo up; sleep 1000' >"$work/up" 2>&1 &
	echo $! >"$work/run"
	until_true grep -q up "$work/up"
	kill -INT "$(cat "$work/run")"
	status=0
	wait "$(cat "$work/run")" || status=$?
	[ "$status" = 130 ]
	[ "$(blix vm list -o name)" = web ]
	[ "$(ls "$work/s/microvms")" = web ]
}
