#!/usr/bin/env bats
# A flake on the client's disk travels: packed by the client, kept by the servers, brought into the Nix of the node that
# builds. Stand-ins where Nix does not matter; the last tests have real Nix, and a store for each node.

bats_require_minimum_version 1.5.0

load helpers

setup() {
	servers_setup
	mkdir -p "$T/flake/sub"
	echo '{ outputs = { self }: { }; }' >"$T/flake/flake.nix"
	echo one >"$T/flake/sub/file"
}

teardown() { servers_teardown; }

field() { on 1 vm show "$1" -o json | jq -r "$2"; }
request() { "$BATS_TEST_DIRNAME/request" "$@"; }

# The files of server N, and the source that VM NAME is made of.
kept() { ls "$T/n$1/state/sources"; }
source_of() { field "$1" .spec.flake | sed 's/%2B/+/g; s/%2F/\//g; s/%3D/=/g; s/.*sha256-//' | base64 -d | od -An -tx1 | tr -d ' \n'; }
have() { # SOURCE N...: all of them have it, and nothing else
	local n
	for n in "${@:2}"; do [ "$(kept "$n")" = "$1.nar" ] || return 1; done
}
# Packed as Nix does it.
pack() { # DIRECTORY
	nix-store --dump "$1" >"$T/packed" && sha256sum <"$T/packed" | cut -d' ' -f1
}
fake_calls() { tr '\0' ' ' <"$T/n$1/microvms/.fake/log" | grep -c "nix-store --$2" || true; }

@test "what a client has on its disk is on every server, under the hash that Nix gives it, and runs anywhere" {
	cluster_up 3
	on 1 vm create web --flake "$T/flake#web" --node n3 2>"$T/said"
	grep -q "^packed $T/flake: 2 files, " "$T/said"
	[ "$(field web .status.phase)" = Running ]
	name=$(pack "$T/flake")
	[ "$(source_of web)" = "$name" ]
	until_true have "$name" 1 2 3
	cmp "$T/packed" "$T/n2/state/sources/$name.nar"
	# Each node that evaluates or builds brings it into its own Nix, once.
	on 2 vm create other --flake "$T/flake#other" --node n3 -q
	[ "$(fake_calls 3 add)" = 1 ]
	[ "$(grep -h "node.source.kept.*$name" "$T"/n?/log | wc -l)" = 3 ] # and it was sent once
	[[ $(field web '[.status.operation.steps[].name] | join(" ")') == *fetch*build* ]]
	on 1 vm delete web other --yes -q
	[ "$(remains)" = "" ]
	server_stop 1 2 3
}

@test "blix run .#test from a checkout runs on each node, asked through any server, and leaves no VM" {
	cluster_up 3
	for n in 1 2 3; do echo agent >"$T/n$n/microvms/.fake/default"; done
	git -C "$T" init -q flake
	git -C "$T/flake" add .
	cd "$T/flake"
	for n in 1 2 3; do
		[ "$(on $((n % 3 + 1)) run .#test --node "n$n" -q -- sh -c 'echo tested; exit 7' 2>&1; echo $?)" = $'tested\n7' ]
		[ "$(fake_calls "$n" add)" = 1 ]
	done
	[ "$(remains)" = "" ]
}

@test "an edit of the directory changes nothing until an update names it" {
	cluster_up 1
	on 1 vm create web --flake "$T/flake#web" -q
	before=$(source_of web)
	echo two >"$T/flake/sub/file"
	on 1 vm restart web --force -q
	[ "$(source_of web)" = "$before" ]
	on 1 vm update web --force -q
	[ "$(source_of web)" = "$before" ]
	[ "$(field web .status.update.outcome)" = unchanged ]
	on 1 vm update web --flake "$T/flake#web" --force -q
	[ "$(source_of web)" != "$before" ]
	[ "$(kept 1 | wc -l)" = 2 ]
}

@test "in a git checkout what git tracks travels, as it is now; with path: everything" {
	cluster_up 1
	git -C "$T" init -q flake
	printf '*.log\n' >"$T/flake/.gitignore"
	echo noise >"$T/flake/build.log"
	echo new >"$T/flake/untracked"
	run --separate-stderr on 1 vm create web --flake "$T/flake#web" -o json
	[ "$status" = 8 ]
	[ "$(grep '^{' <<<"$stderr" | jq -r .reason)" = flake-untracked ]
	git -C "$T/flake" add flake.nix sub .gitignore
	echo changed >"$T/flake/sub/file"
	on 1 vm create web --flake "$T/flake#web" -q
	mkdir "$T/plain"
	(cd "$T/flake" && cp -r flake.nix sub .gitignore "$T/plain")
	[ "$(source_of web)" = "$(pack "$T/plain")" ]
	on 1 vm create all --flake "path:$T/flake#web" -q
	[ "$(source_of all)" = "$(pack "$T/flake")" ]
	mkdir "$T/empty"
	run --separate-stderr env PATH="$T/empty" "$BUILD/bin/blix" --endpoint "unix:$T/n1/sock" vm create no --flake "$T/flake#web" -o json
	[ "$status" = 8 ]
	[ "$(grep '^{' <<<"$stderr" | jq -r .reason)" = git-missing ]
}

@test "an upload is kept only when it is what its name says, and whole" {
	cluster_up 1
	name=$(pack "$T/flake")
	run request "$T/n1/sock" PUT "/v1/sources/$name" <<<'something else'
	[ "${lines[0]}" = 400 ]
	[[ ${lines[1]} == *'"reason":"source-mismatch"'* ]]
	run request "$T/n1/sock" PUT "/v1/sources/$name" </dev/null
	[[ ${lines[0]} == 400 && ${lines[1]} == *'"reason":"source-mismatch"'* ]]
	run request "$T/n1/sock" PUT "/v1/sources/${name^^}" <"$T/packed"
	[ "${lines[0]}" = 400 ]
	run request "$T/n1/sock" PUT "/v1/sources/..%2f..%2fjournal" <"$T/packed"
	[ "${lines[0]}" = 400 ]
	CUT=200 run request "$T/n1/sock" PUT "/v1/sources/$name" <"$T/packed"
	[ -z "$(kept 1)" ]
	run request "$T/n1/sock" GET "/v1/sources/$name"
	[[ ${lines[0]} == 404 && ${lines[1]} == *'"reason":"source-missing"'* ]]
	run request "$T/n1/sock" PUT "/v1/sources/$name" <"$T/packed"
	[ "${lines[0]}" = 201 ]
	run request "$T/n1/sock" PUT "/v1/sources/$name" <"$T/packed"
	[ "${lines[0]}" = 200 ]
	[ "$(kept 1)" = "$name.nar" ]
	request "$T/n1/sock" GET "/v1/sources/$name" >"$T/got"
	cmp <(tail -n +2 "$T/got") "$T/packed"
	printf 'PUT /v1/sources/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n' "${name/?/0}" >"$T/raw"
	RAW=1 run request "$T/n1/sock" PUT - <"$T/raw"
	[ "${lines[0]}" = 400 ]
	server_stop 1
}

@test "too large a flake is refused by the client, who names its largest file, and by the server" {
	cluster_up 1
	truncate -s 300M "$T/flake/sub/video.bin"
	run --separate-stderr on 1 vm create web --flake "$T/flake#web"
	[ "$status" = 64 ]
	[[ ${stderr_lines[0]} == *'its largest file is sub/video.bin (300 MiB)' ]]
	printf 'PUT /v1/sources/%064d HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 268435457\r\n\r\n' 0 >"$T/raw"
	RAW=1 run request "$T/n1/sock" PUT - <"$T/raw"
	[ "${lines[0]}" = 413 ]
	[ -z "$(kept 1)" ]
}

@test "sources that no VM names go after a while; while there is no room a new one is refused: 507" {
	cluster_up 1 '.sources = {maxBytes: 300000, graceMs: 300}'
	head -c 200000 /dev/urandom >"$T/flake/sub/file"
	on 1 vm create web --flake "$T/flake#web" -q
	first=$(source_of web)
	head -c 200000 /dev/urandom >"$T/flake/sub/file"
	run --separate-stderr on 1 vm create other --flake "$T/flake#web" -o json
	[ "$status" = 75 ]
	[ "$(grep '^{' <<<"$stderr" | jq -r '[.code, .reason] | @csv')" = '"disk-full","sources-full"' ]
	[ "$(kept 1)" = "$first.nar" ]
	on 1 vm delete web --yes -q
	nothing_is_kept() { [ -z "$(kept 1)" ]; }
	until_true nothing_is_kept
	on 1 vm create other --flake "$T/flake#web" -q
	[ "$(source_of other)" != "$first" ]
}

@test "a full disk refuses the upload, and leaves nothing" {
	configure 1
	mkdir -p "$T/n1/state/sources"
	# shellcheck disable=SC2034 # read by server_start
	INSIDE=(unshare --mount --propagation private sh -c 'mount -t tmpfs -o size=1m none "$0" && exec "$@"' "$T/n1/state/sources")
	server_start 1
	until_true nodes_are_ready 1 1
	head -c 3000000 /dev/urandom >"$T/flake/sub/file"
	run --separate-stderr on 1 vm create web --flake "$T/flake#web" -o json
	[ "$status" = 75 ]
	[ "$(grep '^{' <<<"$stderr" | jq -r .code)" = disk-full ]
	rm "$T/flake/sub/file"
	on 1 vm create web --flake "$T/flake#web" -q
	[ "$(field web .status.phase)" = Running ]
}

# Sends all but the end, and stays.
half_an_upload() { # NAME
	perl -MIO::Socket::UNIX -e '
		my ($path, $name, $file) = @ARGV;
		my $s = IO::Socket::UNIX->new(Type => SOCK_STREAM(), Peer => $path) or die;
		open my $in, "<", $file; binmode $in; local $/; my $body = <$in>;
		$s->print("PUT /v1/sources/$name HTTP/1.1\r\nHost: x\r\nContent-Length: ", length $body, "\r\n\r\n", substr($body, 0, -1));
		$s->flush;
		sysread $s, my $end, 1' "$T/n1/sock" "$1" "$T/packed"
}
open_files() { find "/proc/${PIDS[1]}/fd" -lname "$T/n1/state/sources/*" 2>/dev/null | grep -q .; }

@test "a server that dies in the middle of an upload leaves nothing, and takes it again" {
	cluster_up 1
	head -c 3000000 /dev/urandom >"$T/flake/sub/file"
	name=$(pack "$T/flake")
	half_an_upload "$name" 3>&- &
	client=$!
	until_true open_files
	server_kill 1
	wait "$client" || true
	[ -z "$(kept 1)" ]
	touch "$T/n1/state/sources/$name.nar.7" # as one that was killed between two names
	server_start 1
	until_true nodes_are_ready 1 1
	[ -z "$(kept 1)" ]
	on 1 vm create web --flake "$T/flake#web" -q
	[ "$(kept 1)" = "$name.nar" ]
	# And one that is told to end while it waits for more, ends.
	echo more >"$T/flake/more"
	half_an_upload "$(pack "$T/flake")" 3>&- &
	until_true open_files
	server_stop 1
	wait
	[ "$(kept 1)" = "$name.nar" ]
}

@test "an altered copy is dropped and fetched from another server; one that nobody has is told by name" {
	cluster_up 3 '.retryMs = 20'
	on 1 vm create web --flake "$T/flake#web" --node n1 -q
	name=$(source_of web)
	flake=$(field web .spec.flake)
	until_true have "$name" 1 2 3
	printf X | dd of="$T/n2/state/sources/$name.nar" bs=1 seek=300 conv=notrunc status=none
	on 1 vm create second --flake "$T/flake#web" --node n2 -q
	grep -q "node.source.corrupt.*$name" "$T/n2/log"
	until_true have "$name" 2
	cmp "$T/n1/state/sources/$name.nar" "$T/n2/state/sources/$name.nar"
	# A server that was away takes what it missed.
	server_stop 3
	rm "$T/n3/state/sources/$name.nar"
	server_start 3
	until_true have "$name" 3
	# Altered everywhere.
	for n in 1 2 3; do printf X | dd of="$T/n$n/state/sources/$name.nar" bs=1 seek=300 conv=notrunc status=none; done
	rm -f "$T/n3/microvms/.fake/added-"*
	run --separate-stderr on 1 vm create third --flake "$flake#web" --node n3 -o json
	[ "$status" = 8 ]
	[ "$(field third '[.status.phase, .status.reason, .status.class] | @csv')" = '"Failed","source-corrupt","image"' ]
	# Nowhere.
	for n in 1 2 3; do rm -f "$T/n$n/state/sources/$name.nar"; done
	on 1 vm delete third --yes -q
	run --separate-stderr on 1 vm create third --flake "$flake#web" --node n3 -o json
	[ "$status" = 8 ]
	[ "$(field third '[.status.phase, .status.reason, .status.class] | @csv')" = '"Failed","source-missing","image"' ]
	run on 1 vm why third
	[[ $output == *'source-missing'*'no server has it'* ]]
	# Sending it again mends it.
	on 1 vm delete third --yes -q
	on 1 vm create third --flake "$T/flake#web" --node n3 -q
}

@test "while a server that may have it is away it is fetch-failed, and mends when that is back" {
	cluster_up 3 '.retryMs = 20'
	on 1 vm create web --flake "$T/flake#web" --node n1 -q
	name=$(source_of web)
	flake=$(field web .spec.flake)
	until_true have "$name" 1 2 3
	server_kill 1
	rm "$T/n2/state/sources/$name.nar" "$T/n3/state/sources/$name.nar"
	run --separate-stderr on 2 vm create third --flake "$flake#web" --node n3 -o json
	[ "$status" = 8 ]
	third() { on 2 vm show third -o json | jq -r "$1"; }
	[ "$(third '[.status.phase, .status.reason, .status.class] | @csv')" = '"Failed","fetch-failed","network"' ]
	server_start 1
	until_true agree 1 2 3
	until_true have "$name" 1 2 3
	on 2 vm start third -q
	[ "$(third .status.phase)" = Running ]
}

@test "what Nix says when it does not take a source is told" {
	cluster_up 1 '.retryMs = 20'
	printf 'writing file: No space left on device' >"$T/n1/microvms/.fake/refuse"
	run --separate-stderr on 1 vm create web --flake "$T/flake#web" --node n1 -o json
	[ "$status" = 75 ]
	[ "$(field web .status.reason)" = disk-full ]
	printf 'this is no archive' >"$T/n1/microvms/.fake/refuse"
	on 1 vm delete web --yes -q
	run --separate-stderr on 1 vm create web --flake "$T/flake#web" --node n1 -o json
	[ "$status" = 8 ]
	[ "$(field web '[.status.reason, .status.class] | @csv')" = '"source-import-failed","node"' ]
	[[ $(field web .status.message) == *'this is no archive'* ]]
}

# Servers with a Nix of their own: /nix is another directory for each. The runner is a shell that waits.
real_nix() { # COUNT
	local n
	configure "$1" '.path = "/usr/sbin:/usr/bin:/sbin:/bin" | del(.microvm) | .nix = {extraConfig: "substituters ="} |
		.gcrootsDir = "/nix/var/nix/gcroots/microvm"'
	for ((n = 1; n <= $1; n++)); do
		mkdir "$T/n$n/nix"
		# shellcheck disable=SC2034 # read by server_start
		INSIDE=(unshare --mount --propagation private sh -c 'mount --bind "$0" /nix && exec "$@"' "$T/n$n/nix")
		server_start "$n"
	done
	until_true agree 1 2
	until_true nodes_are_ready 1 "$1"
	cat >"$T/flake/flake.nix" <<-'NIX'
		{
		  outputs = { self }: let
		    runner = derivation {
		      name = "microvm-qemu-web";
		      system = builtins.currentSystem or "x86_64-linux";
		      builder = "/bin/sh";
		      args = [ "-c" ''
		        PATH=/usr/bin:/bin
		        mkdir -p $out/bin $out/share/microvm
		        echo qemu >$out/share/microvm/hypervisor
		        printf '#!/bin/sh\necho %s\nexec sleep 1000\n' "$(cat ${./sub/file})" >$out/bin/microvm-run
		        chmod +x $out/bin/microvm-run
		      '' ];
		    };
		  in {
		    nixosConfigurations.web.config = {
		      networking.hostName = "web";
		      system.build.toplevel = runner;
		      microvm = { vcpu = 1; mem = 64; hypervisor = "qemu"; declaredRunner = runner; };
		    };
		  };
		}
	NIX
	git -C "$T" init -q flake
	echo '*.log' >"$T/flake/.gitignore"
	echo noise >"$T/flake/build.log"
	git -C "$T/flake" add .
}
teardown_nix() { chmod -R u+w "$T"/n?/nix 2>/dev/null || true; }

@test "real Nix, a store for each node: what the client packs is evaluated on one, built on another, and stays as it was" {
	export WITHIN=90
	real_nix 2
	on 1 vm create web --flake "$T/flake#web" --plain --node n2 -q --timeout 90s
	[ "$(field web '[.status.phase, .status.node] | @csv')" = '"Running","n2"' ]
	path=$(field web .spec.flake)
	path=${path#path:}
	path=${path%%\?*}
	[ -d "$T/n2$path" ]
	[ ! -e "$T/n2$path/build.log" ]
	[ "$(cat "$T/n2$path/sub/file")" = one ]
	runner=$(field web .status.runner)
	[ -x "$T/n2$runner/bin/microvm-run" ]
	echo two >"$T/flake/sub/file"
	on 1 vm create same --flake "$T/flake#web" --plain --node n1 -q --timeout 90s
	on 2 vm restart web --force -q --timeout 90s
	[ "$(field web .status.runner)" = "$runner" ]
	on 1 vm update web --flake "$T/flake#web" --force -q --timeout 90s
	[ "$(field web .status.runner)" = "$(field same .status.runner)" ]
	[ -x "$T/n1$(field same .status.runner)/bin/microvm-run" ]
	says() { on 1 vm logs "$1" | grep -qx "$2"; }
	until_true says web two
	teardown_nix
}
