#!/usr/bin/env bats
# A host with the units of microvm.nix's NixOS module: microvm@NAME.service with blix's drop-in.

load helpers.bash

setup_file() {
	box_setup
	nixos_units
	daemon_start
	create web
}
teardown_file() { box_teardown; }

is_phase() { [ "$(vm "$1" .status.phase)" = "$2" ]; }
restarts() { in_box systemctl show -P NRestarts "microvm@$1.service"; }

@test "microvm@: the host's own unit runs the VM, as its own user" {
	[ "$(in_box blix node list -o json | jq -r '.items[].status.supervision')" = systemd ]
	until_true is_running web
	[ "$(seen web '[.state, .supervision, .unit.name, .unit.activeState] | @csv')" = '"running","systemd","microvm@web.service","active"' ]
	[ "$(seen web '.unit.mainPid == .process.pid')" = true ]
	[ "$(in_box ps -o user= -p "$(main_pid web)")" = microvm ]
	tap_is_there web
	[ "$(in_box blix vm logs web)" = "fake: ready" ]
	[ "$(in_box systemctl show -P NeedDaemonReload microvm@web.service)" = no ]
}

@test "microvm@: kill -9 of the daemon disturbs nothing, and the VM is taken over" {
	pid=$(main_pid web)
	in_box kill -9 "$(in_box systemctl show -P MainPID blixd)"
	until_true node_is_ready
	until_true is_running web
	[ "$(main_pid web)" = "$pid" ]
	runners_are 1
}

@test "microvm@: a crash is seen with its signal; blix starts it again, not systemd" {
	pid=$(main_pid web)
	in_box kill -9 "$pid"
	until_true is_running_anew web "$pid"
	runners_are 1
	[ "$(restarts web)" = 0 ]
	in_box blix vm events web | grep -q 'vm-retry .*signal 9'
}

# What the fake runner of a VM does. Units have no word for where modes are.
mode() { # NAME MODE
	write /etc/systemd/system/microvm@.service.d/fake.conf 0644 <<-END
		[Service]
		Environment=MICROVM_STATE_DIR=/var/lib/microvms
	END
	in_box systemctl daemon-reload
	write "/var/lib/microvms/.fake/$1" 0644 <<<"$2"
}
says() { in_box tail -n 2 "/var/lib/blix/vms/$1/console.log" | grep -q "$2"; } # NAME WORDS

@test "microvm@: the console is a terminal, kept to its size, also while blixd is away" {
	mode term shell
	in_box blix vm create term --flake "$BASE#term" --quiet
	[ "$(in_box timeout 30 blix vm console term <<<'echo $((40 + 2)); tty; exit' | grep -cE '^(42|/dev/pts/)')" = 2 ]
	until_true is_phase term Stopped
	in_box blix vm start term --quiet
	in_box systemctl stop blixd
	in_box timeout 2 "$ROOT/tests/cli/shim_client" /run/blix/vms/term '{"do":"attach"}' >/dev/null \
		<<<'yes 0123456789abcdef | head -c 20000000; echo end-of-$((1 + 1))' || true
	until_true says term end-of-2
	[ "$(in_box bash -c 'cat /var/lib/blix/vms/term/console.log* | wc -c')" -le 8388608 ]
	in_box systemctl start blixd
	until_true node_is_ready
	[ "$(vm term .status.phase) $(restarts term)" = "Running 0" ]
	in_box blix vm delete term --yes --force --quiet
	until_true has_no_traces term
}

@test "microvm@: the agent of a guest that runs as another user is reached" {
	mode talk agent
	in_box install -D /usr/local/libexec/blix/blix-agent /bin/blix-agent # where the fake seeks it
	in_box chmod 755 /root # where commands begin, and this guest's root is none
	in_box blix vm create talk --flake "$BASE#talk" --ready agent --quiet
	[ "$(in_box ps -o user= -p "$(main_pid talk)")" = microvm ]
	[ "$(in_box stat -c %U /var/lib/microvms/talk/blix.agent)" = microvm ]
	[ "$(in_box blix vm exec talk -- echo hello </dev/null)" = hello ]
	in_box blix vm delete talk --yes --force --quiet
	until_true has_no_traces talk
}

@test "microvm@: a stop is a stop" {
	in_box blix vm stop web --quiet
	tap_is_gone web # before the end is told
	[ "$(vm web .status.phase)" = Stopped ]
	[ "$(seen web '[.state, .exit.exitCode, has("booted")] | @csv')" = '"stopped",0,false' ]
	runners_are 0
	in_box blix vm start web --quiet
	until_true is_running web
}

@test "microvm@: a real guest without an agent hears the button, through the socket of another user" {
	real_guest deaf
	stops_gracefully guest 'blix: cpus'
}

@test "microvm@: one that was started by hand gets its drop-in, and stays stopped when it is" {
	in_box blix vm stop web --quiet
	in_box rm -r /run/systemd/system/microvm@web.service.d
	in_box systemctl daemon-reload
	in_box systemctl start microvm@web.service
	in_box systemctl restart blixd
	until_true node_is_ready
	until_true runners_are 0
	in_box test -e /run/systemd/system/microvm@web.service.d/50-blix.conf
	in_box blix vm start web --quiet
	until_true is_running web
	runners_are 1
}

@test "microvm@: a unit with another directory is left alone" {
	write /etc/systemd/system/microvm@mine.service 0644 <<-END
		[Service]
		WorkingDirectory=/srv
		ExecStart=/bin/sleep infinity
	END
	in_box systemctl daemon-reload
	in_box systemctl start microvm@mine.service
	pid=$(in_box systemctl show -P MainPID microvm@mine.service)
	run create mine
	[ "$status" -ne 0 ]
	[ "$(vm mine '"\(.status.phase) \(.status.reason)"')" = "Failed foreign-unit" ]
	in_box blix vm delete mine --yes --quiet
	[ "$(in_box systemctl show -P MainPID microvm@mine.service)" = "$pid" ]
	in_box systemctl stop microvm@mine.service
}

@test "microvm@: a tap that cannot be made is a failed start with systemd's words" {
	in_box ip tuntap add t-bad mode tap
	run create bad
	[ "$status" -ne 0 ]
	[ "$(vm bad '"\(.status.phase) \(.status.reason)"')" = "Failed start-failed" ]
	vm bad .status.message | grep -q dependency
	in_box blix vm delete bad --yes --quiet
	in_box ip link delete t-bad
}

# What `microvm -c` leaves, and what the host runs of it without blix.
foreign() { # NAME FLAKE
	in_box env PATH=/opt/fake:/usr/bin:/bin MICROVM_STATE_DIR=/var/lib/microvms MICROVM_GCROOTS_DIR=/nix/var/nix/gcroots/microvm \
		/opt/fake/command -f "$2" -c "$1"
	in_box systemctl start "microvm@$1.service"
}
run_of() { in_box systemctl show -P MainPID -P InvocationID "microvm@$1.service" | paste -sd' '; }
own_restart() { in_box systemctl show -P Restart "microvm@$1.service"; }

@test "microvm@: one that runs is adopted as it runs, and is a VM like any other from then on" {
	foreign old "$BASE"
	before=$(run_of old)
	[ "$(own_restart old)" = always ]
	in_box blix vm adopt old --node "$BOX"
	[ "$(vm old '"\(.status.phase) \(.spec.powerState) \(.status.adopted)"')" = "Running Running true" ]
	[ "$(run_of old)" = "$before" ]
	[ "$(own_restart old)" = no ]
	pid=$(main_pid old)
	[ "$pid" = "${before%% *}" ]
	in_box systemctl restart blixd
	until_true node_is_ready
	[ "$(run_of old)" = "$before" ]
	in_box kill -9 "$pid"
	until_true is_running_anew_unready old "$pid"
	[ "$(restarts old)" = 0 ]
	in_box blix vm stop old --quiet
	in_box blix vm delete old --yes --quiet
	until_true has_no_traces old
}
is_running_anew_unready() { # NAME PID
	[ "$(vm "$1" .status.phase)" = Running ] && [ "$(main_pid "$1")" != "$2" ]
}

@test "microvm@: a daemon that dies in an adoption ends it when it is back; the VM runs on" {
	foreign old "$BASE"
	before=$(run_of old)
	for pause in 0.02 0.1 0.3; do
		in_box blix vm adopt old --node "$BOX" --no-wait || [ "$pause" != 0.02 ]
		sleep "$pause"
		in_box kill -9 "$(in_box systemctl show -P MainPID blixd)"
		until_true node_is_ready
	done
	until_true is_phase old Running
	[ "$(run_of old)" = "$before" ]
	[ "$(own_restart old)" = no ]
	in_box test -s /var/lib/microvms/old/.blix.json
	in_box blix vm delete old --yes --quiet
	until_true has_no_traces old
}

@test "microvm@: one that cannot be adopted runs on under the host's own rules" {
	foreign bad 'path:/nix/store/x-evalfail-source?narHash=sha256-fake'
	before=$(run_of bad)
	run in_box blix vm adopt bad --node "$BOX"
	[ "$status" = 8 ]
	in_box blix vm delete bad --yes --quiet
	[ "$(run_of bad) $(own_restart bad)" = "$before always" ]
	in_box test ! -e /var/lib/microvms/bad/.blix.json
	in_box test ! -e /run/systemd/system/microvm@bad.service.d
	in_box systemctl stop microvm@bad.service
	# By hand, as microvm -r does it: no unit stands by it.
	in_box bash -c 'cd /var/lib/microvms/bad && exec setsid bash -c "exec -a microvm@bad sleep 1000" >/dev/null 2>&1 &'
	until_true by_hand bad
	run in_box blix vm adopt bad --node "$BOX" -o json
	[ "$status" = 5 ]
	[[ $output == *foreign-running* ]]
	in_box kill "$(main_pid bad)"
	in_box rm -r /var/lib/microvms/bad /nix/var/nix/gcroots/microvm/bad
}
by_hand() { [ "$(seen "$1" '.state + .supervision')" = runningnone ]; }

@test "microvm@: a reboot is no end of a VM: what should run runs again, whatever its policy" {
	runs_after_a_reboot web
}

@test "microvm@: power loss and boot: what should run runs, once" {
	in_box sync
	"$hostbox" kill "$BOX"
	"$hostbox" boot "$BOX"
	until_true node_is_ready
	until_true is_running web
	runners_are 1
	tap_is_there web
}

@test "microvm@: a deleted VM leaves nothing" {
	in_box blix vm delete web --yes --quiet
	until_true has_no_traces web
	runners_are 0
}

@test "microvm@: uninstall leaves nothing but the host's own units" {
	create last
	in_box /usr/local/libexec/blix/uninstall --stop-vms --purge
	until_true has_no_traces last
	runners_are 0
	[ -z "$(in_box find /usr/local /etc/blix /etc/systemd /var/lib/blix /run/blix /var/cache/blix /run/systemd -name '*blix*' 2>/dev/null)" ]
	in_box test -e /etc/systemd/system/microvm@.service
}
