#!/usr/bin/env bats
# A real guest that has no agent loads it: the service that the wrapper flake puts into NixOS, its text run by the shell
# of another guest, over QEMU's virtio-serial port. It is loaded again when it ends, when the daemon dies in the middle,
# and when it comes late.

bats_require_minimum_version 1.5.0

setup_file() {
	load host.bash
	host_stage 3m
	# The same guest with one driver more: vsock inside of one machine.
	mkdir -p "$work/src/examples"
	cp -r "$BATS_TEST_DIRNAME/../../examples/debian" "$work/src/examples/"
	ln -s "$(realpath "$BATS_TEST_DIRNAME/../..")"/{lib,cmd} "$work/src/"
	sed -i "s/^drivers='/&vsock_loopback /" "$work/src/examples/debian/stage"
	"$work/src/examples/debian/stage" "$work/guest"
	# The agent is the example's, large enough to be caught on its way.
	export libexec=$work/libexec
	mkdir "$libexec"
	ln -s "$build"/libexec/* "$libexec/"
	gzip -dc "$work/guest/agent" | (cd "$work" && cpio --quiet -id bin/blix-agent)
	rm -f "$libexec/blix-agent"
	{ cat "$work/bin/blix-agent" && head -c 6000000 /dev/urandom; } >"$libexec/blix-agent"
	jq --arg dir "$libexec" '.libexecDir = $dir' "$work/blix.json" >"$work/new" && mv "$work/new" "$work/blix.json"
	host_start
}

teardown_file() {
	load host.bash
	host_remove
}

setup() {
	load host.bash
	load ../until.bash
	export WITHIN=90
}

loads() { # NAME: how often it was given the agent
	grep -c "vm.agent.loaded vm=$1" "$work/log" || :
}

runs() { # NAME
	[ "$(blix vm exec "$1" -- echo here 2>/dev/null)" = here ]
}

loading() { [ "$(loads "$1")" -gt "$2" ]; }

kill_daemon() {
	kill -9 "$(cat "$work/pid")"
	until_true ended "$(cat "$work/pid")"
}

@test "a guest without an agent is given this node's, and is ready by it" {
	blix vm create web --flake "$work/guest#loaded" --memory 256MiB --ready agent
	[ "$(blix vm exec web -- sh -c 'uname -s; ls /bin/blix-agent 2>&1; exit 3'; echo "$?")" = "$(printf '%s\n' Linux 'ls: /bin/blix-agent: No such file or directory' 3)" ]
	[ "$(loads web)" = 1 ]
	sum=$(sha256sum <"$libexec/blix-agent")
	[ "$(blix vm exec web -- sh -c 'sha256sum </run/blix/blix-agent; umask')" = "$sum"$'\n0022' ]
	[ "$(blix vm show web -o json | jq -r '[.status.agent.connected, .status.agent.ready] | @csv')" = true,true ]
}

# who NAME: what it calls itself, inside and as shown
who() {
	blix vm exec "$1" -- sh -c 'hostname; cat /etc/machine-id'
	blix vm show "$1" -o json | jq -r '.status.agent | .hostname, .machineId'
}

@test "it is told its name and machine id, once per boot" {
	id=$(blix vm exec web -- cat /etc/machine-id)
	[[ $id =~ ^[0-9a-f]{32}$ ]]
	[ "$(who web)" = "$(printf '%s\n' web "$id" web "$id")" ]
	[ "$(grep -c 'vm.identity.set vm=web' "$work/log")" = 1 ]
	blix vm exec web -- hostname other
	kill_daemon
	host_start
	until_true runs web
	[ "$(blix vm exec web -- hostname)" = other ]
	blix vm restart web
	until_true runs web
	[ "$(who web)" = "$(printf '%s\n' web "$id" web "$id")" ]
	[ "$(grep -c 'vm.identity.set vm=web' "$work/log")" = 2 ]
}

@test "over vsock an agent serves its host alone, and the host's last connection" {
	(cd "$BATS_TEST_DIRNAME/../.." && "${CC:-cc}" -D_GNU_SOURCE -std=gnu11 -O1 -static -Ilib -o "$work/agent_host" \
		tests/cli/agent_host.c lib/base/{frame,buf,alloc,error}.c)
	blix vm cp "$work/agent_host" web:/tmp/agent_host
	# In the guest the peer is 1, not 2: that one is told to take it for the host, the other not.
	blix vm exec web -- sh -c 'cd /tmp; agent=/run/blix/blix-agent
		$agent --vsock 2549 --vsock-host 1 --run /run/one </dev/null >/dev/null 2>&1 &
		$agent --vsock 2550 --run /run/two </dev/null >/dev/null 2>&1 &
		until [ -e /run/one/agent.sock ] && [ -e /run/two/agent.sock ]; do sleep 0.1; done'
	over() { # PORT REQUEST: as the host would ask, its frames in /tmp/frames
		blix vm exec web -- timeout 60 sh -c '/tmp/agent_host --connect "vsock:1:$1" "$2" </dev/null 3>/tmp/frames' over "$@"
	}
	answers() { [ "$(over 2549 '{"kind":"exec","argv":["echo","over vsock"]}' 2>/dev/null)" = "over vsock" ]; }
	until_true answers
	[[ $(blix vm exec web -- cat /tmp/frames) == *'EXIT {"exitCode":0}'* ]]
	[ "$(over 2549 '{"kind":"exec","argv":["sh","-c","head -c 3000000 /dev/zero | sha256sum"]}')" = \
		"$(head -c 3000000 /dev/zero | sha256sum)" ]
	blix vm exec web -- rm /tmp/frames
	run over 2550 '{"kind":"exec","argv":["echo","over vsock"]}'
	[ "$status" = 2 ] # the connection ended, without a frame
	frames=$(blix vm exec web -- cat /tmp/frames)
	[ "${frames:-END}" = END ]
}

@test "an agent that ends is loaded again" {
	before=$(loads web)
	blix vm exec web -- sh -c 'kill -9 $PPID' || :
	until_true loading web "$before"
	until_true runs web
}

@test "a daemon that dies in the middle of the load: the next one gives it whole" {
	before=$(loads web)
	blix vm exec web -- sh -c 'kill -9 $PPID' || :
	until_true loading web "$before"
	kill_daemon
	host_start
	until_true runs web
	[ "$(loads web)" -ge $((before + 2)) ]
	[ "$(blix vm show web -o json | jq .status.restarts)" = 0 ]
}

@test "a node without the agent says so everywhere, and gives it once it is there" {
	mv "$libexec/blix-agent" "$work/kept"
	blix vm create none --flake "$work/guest#loaded" --memory 256MiB
	words="this node has no agent for the guest to load: $libexec/blix-agent"
	told() { grep -qF "vm.agent.refused vm=none error=\"$words\"" "$work/log"; }
	until_true told
	run --separate-stderr blix vm exec none -- true
	[ "$status" = 125 ]
	[[ ${stderr_lines[0]} == "blix: vm none: no agent answers in the guest: $words" ]]
	[[ $(blix vm show none) == *"agent "*"$words"* ]]
	[ "$(blix vm show none -o json | jq -r '[.status.agent.connected, .status.agent.message] | @tsv')" = "false"$'\t'"$words" ]
	run blix doctor
	[[ $output == *"$libexec/blix-agent is not there"* ]]
	runs web
	mv "$work/kept" "$libexec/blix-agent"
	until_true runs none
	[ "$(blix vm show none -o json | jq .status.agent.message)" = null ]
	blix vm delete none --force
}

@test "a plain VM is not touched: nobody gives it an agent" {
	blix vm create plain --flake "$work/guest#loaded" --plain
	[ ! -e "$work/s/microvms/plain/blix.agent" ]
	run --separate-stderr blix vm exec plain -- true
	[ "$status" = 125 ]
	[[ $stderr == *"created with --plain"* ]]
	blix vm delete plain --force
}

# evaluate DIR ATTR...: of the wrapper in DIR
evaluate() {
	NIX_CONFIG=$'experimental-features = nix-command flakes\nsubstituters =' nix eval --json "path:$1#nixosConfigurations.web.$2"
}

@test "the wrapper puts the service into NixOS, by the way that its hypervisor has" {
	mkdir "$work/nixos"
	cat >"$work/nixos/flake.nix" <<-'NIX'
		{ # What NixOS is to the wrapper; shows the modules that came.
		  outputs = { self }:
		    let
		      system = hypervisor: machine: rec {
		        options.systemd.services = { };
		        config.microvm = { inherit hypervisor; qemu = { inherit machine; }; };
		        extendModules = { modules }: {
		          seen = map (m: if builtins.isFunction m then m { inherit config; } else m) modules;
		        };
		      };
		    in {
		      nixosConfigurations = {
		        small = system "qemu" "microvm";
		        pc = system "qemu" "q35";
		        fire = system "firecracker" "microvm";
		        cloud = system "cloud-hypervisor" "microvm";
		        crosvm = system "crosvm" "microvm";
		        other = removeAttrs (system "qemu" "microvm") [ "options" ];
		      };
		    };
		}
	NIX
	seen() { # ATTR: what the wrapper of a VM adds to it
		rm -rf "$work/wrapper"
		cp -r "$work/s/vms/web/flake" "$work/wrapper"
		rm -f "$work/wrapper/flake.lock"
		sed -i "s|inputs.base.url = .*|inputs.base.url = \"path:$work/nixos\";|" "$work/wrapper/flake.nix"
		jq --arg attr "$1" '.attr = $attr' "$work/s/vms/web/flake/spec.json" >"$work/wrapper/spec.json"
		evaluate "$work/wrapper" seen
	}
	port='.[1] | .microvm.qemu.extraArgs.condition, .microvm.qemu.extraArgs.content[1], .systemd.services["blix-agent"].condition'
	vsock='.[1].systemd | .sockets["blix-agent"].condition, .services["blix-agent@"].condition'
	[ "$(seen small | jq -c "[$port]")" = '[true,"virtio-serial-device",true]' ]
	[ "$(seen pc | jq -c "[$port]")" = '[true,"virtio-serial-pci",true]' ]
	[ "$(seen small | jq -r '.[1].systemd.services["blix-agent"].content.script')" = "$(cat "$work/s/vms/web/flake/blix-loader")" ]
	for attr in fire cloud; do
		[ "$(seen "$attr" | jq -c "[$vsock]")" = '[true,true]' ]
		[ "$(seen "$attr" | jq -c '.[1] | [.microvm.vsock.cid.content.content, .systemd.sockets["blix-agent"].content.listenStreams]')" = '[3,["vsock::2549"]]' ]
		[ "$(seen "$attr" | jq -c "[$port] | [.[0, 2]]")" = '[false,false]' ]
	done
	[ "$(seen crosvm | jq -c "[($port), ($vsock)] | [.[0, 2, 3, 4]]")" = '[false,false,false,false]' ]
	[ "$(seen other | jq length)" = 1 ]
}

@test "two nodes make the same of one VM, and --plain another" {
	cp -r "$work/s/vms/web/flake" "$work/elsewhere"
	here=$(evaluate "$work/s/vms/web/flake" config.microvm.declaredRunner.drvPath)
	[[ $here == *.drv\" ]]
	[ "$(evaluate "$work/elsewhere" config.microvm.declaredRunner.drvPath)" = "$here" ]
	jq '.plain = true' "$work/s/vms/web/flake/spec.json" >"$work/elsewhere/spec.json"
	[ "$(evaluate "$work/elsewhere" config.microvm.declaredRunner.drvPath)" != "$here" ]
	[ "$(blix vm exec web -- sha256sum </dev/null /etc/blix-loader | cut -d' ' -f1)" = "$(sha256sum <"$work/s/vms/web/flake/blix-loader" | cut -d' ' -f1)" ]
}

@test "it goes down by its agent" {
	blix vm stop web
	[ "$(blix vm show web -o json | jq -r '[.status.phase, .status.exitCode] | @csv')" = '"Stopped",0' ]
	[[ $(blix vm logs web) == *'blix: powering off'* ]]
	blix vm delete web
}
