# A guest that any Nix with flakes builds offline: no inputs, no nixpkgs, plain derivations.
# `stage` puts kernel, initramfs and toy kernel beside this file; docs/guest-contract.md says what it keeps.
{
  description = "Debian's cloud kernel and a busybox initramfs as microVMs";

  outputs = { self }:
    let
      inherit (builtins)
        all any attrNames concatLists concatMap concatStringsSep elem filter foldl' hasAttr hashString head
        isAttrs isFunction isList map mapAttrs pathExists readFile replaceStrings substring toJSON;

      # Named through the flake, so that evaluating never hashes the kernel again.
      staged = name:
        if pathExists (./. + "/${name}") then
          "${self}/${name}"
        else
          throw "${name} is missing here: run examples/debian/stage DIR, then use the flake in DIR";
      quote = value: "'${replaceStrings [ "'" ] [ "'\\''" ] (text value)}'";
      text = value: if value == null then "" else if value == true then "1" else toString value;
      lines = concatMapLines (line: line);
      concatMapLines = each: list: concatStringsSep "" (map (one: each one + "\n") list);

      # --- a module system just large enough for what a cluster decides ---

      defaults = hostName: {
        vcpu = 1;
        mem = 128;
        hypervisor = "qemu";
        socket = "${hostName}.sock";
        machineId = substring 0 32 (hashString "sha256" hostName);
        volumes = [ ];
        shares = [ ];
        devices = [ ];
        interfaces = [ ];
        extraArgsScript = null;
        balloon = false;
        hotplugMem = 0;
        storeOnDisk = false;
        vsock = { cid = null; };
      };

      override = priority: content: { _type = "override"; inherit priority content; };
      lib = {
        mkOverride = override;
        mkForce = override 50;
        mkDefault = override 1000;
      };

      # lib.mkIf
      given = value: if value._type or null != "if" then [ value ] else if value.condition then [ value.content ] else [ ];

      # As in NixOS: the lowest priority wins, a plain value has 100; winning lists are joined.
      merge = option: values:
        let
          priced = map (value: if value._type or null == "override" then value else override 100 value) values;
          lowest = foldl' (low: one: if one.priority < low then one.priority else low) (head priced).priority priced;
          winners = map (one: one.content) (filter (one: one.priority == lowest) priced);
        in
        if isList (head winners) then
          concatLists winners
        else if all (one: one == head winners) winners then
          head winners
        else
          throw "${option} is defined twice: ${toJSON winners}";

      configure = name: loads: modules: config:
        let
          unfold = module:
            let plain = if isFunction module then module { inherit config lib; } else module;
            in concatMap unfold (plain.imports or [ ]) ++ [ (plain.config or plain) ];
          parts = concatMap unfold modules;
          hostName = merge "networking.hostName"
            ([ (override 1500 name) ] ++ concatMap (part: if part ? networking.hostName then [ part.networking.hostName ] else [ ]) parts);
          options = defaults hostName;
          unknown = filter (option: !(hasAttr option options || option == "qemu" && loads)) (concatMap (part: attrNames (part.microvm or { })) parts);
          defined = part: option: if hasAttr option (part.microvm or { }) then [ part.microvm.${option} ] else [ ];
          values = option: concatMap (part: concatMap inside (defined part option)) parts;
          inside = value: if value ? cid then map (cid: { inherit cid; }) (given value.cid) else [ value ];
          services = concatMap (part: if part ? systemd.services.blix-agent then given part.systemd.services.blix-agent else [ ]) parts;
          extraArgs = concatMap (part: if part ? microvm.qemu.extraArgs then given part.microvm.qemu.extraArgs else [ ]) parts;
        in
        {
          inherit hostName;
          microvm =
            if unknown != [ ] then
              throw "The option `microvm.${head unknown}' does not exist: this guest has ${concatStringsSep " " (attrNames options)}"
            else
              mapAttrs (option: value: merge "microvm.${option}" ([ (override 1500 value) ] ++ values option)) options
              // { qemu = { machine = "microvm"; extraArgs = concatLists extraArgs; }; };
          loader = if services == [ ] then null else (head services).script;
        };

      # --- what QEMU's microvm machine and this kernel cannot do ---

      checked = hostName: m:
        let
          refuse = reason: throw "guest ${hostName}: ${reason}";
          strange = filter (one: !(elem one.type [ "user" "tap" "macvtap" ])) m.interfaces;
        in
        if m.hypervisor != "qemu" then refuse "microvm.hypervisor = ${m.hypervisor}: only qemu runs this guest"
        else if m.mem < 96 then refuse "microvm.mem = ${toString m.mem}: Debian's kernel needs 96 MiB or more"
        else if m.devices != [ ] then refuse "microvm.devices: the microvm machine has no bus to pass a device to"
        else if strange != [ ] then refuse "microvm.interfaces: type ${(head strange).type} is none of user, tap, macvtap"
        else if any (one: one.proto or "virtiofs" != "virtiofs") m.shares then refuse "microvm.shares: this kernel has virtiofs only"
        else if any (one: one.readOnly or false) m.shares then refuse "microvm.shares: Debian 12's virtiofsd knows no readOnly"
        else m;

      # --- derivations ---

      build = name: environment: script: derivation (environment // {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        PATH = "/usr/bin:/bin";
        args = [ "-euc" script ];
      });

      shareSocket = hostName: share:
        if share.socket or null != null then share.socket else "${hostName}-virtiofs-${share.tag}.sock";
      point = one: if one.mountPoint or null == null then "" else one.mountPoint;

      # The agent's port. A guest that loads its agent has none of its own: blix brings it.
      agentPort = [
        "-device" "virtio-serial-device"
        "-chardev" "socket,id=blix-agent,path=blix.agent,server=on,wait=off"
        "-device" "virtserialport,chardev=blix-agent,name=blix.agent.0"
      ];

      # What boots: the initramfs, and the agent or the script that loads it.
      initrd = hostName: loads: loader:
        if !loads then
          build "guest-initrd-${hostName}" { parts = [ (staged "initrd") (staged "agent") ]; } "cat $parts > $out"
        else
          build "guest-initrd-${hostName}" { base = staged "initrd"; inherit loader; } (lines [
            "mkdir -p root/etc"
            "printf %s \"$loader\" > root/etc/blix-loader"
            "find root -exec touch -h -d @0 {} +"
            "{ cat $base; (cd root && find . | LC_ALL=C sort | cpio --quiet -o -H newc --owner=0:0 --reproducible | gzip -9n); } > $out"
          ]);

      # The head of microvm-run: everything Nix knows, as shell words.
      settings = kind: hostName: m: initrd: lines (
        [
          "#!/bin/bash"
          "host=${quote hostName}"
          "vcpu=${quote m.vcpu}"
          "mem=${quote m.mem}"
          "socket=${quote m.socket}"
          "balloon=${quote m.balloon}"
          "extra_args_script=${quote m.extraArgsScript}"
          "toy=${quote (staged "toy.elf")}"
          "kernel=${quote (staged (if kind == "toy" then "toy.elf" else "vmlinuz"))}"
          "initrd=${quote (if kind == "toy" then "" else initrd)}"
          "more=(${concatStringsSep " " (map quote (if kind == "loaded" then m.qemu.extraArgs else agentPort))})"
          "words=${quote (if kind == "mute" then " blix.mute=1" else if kind == "loaded" then " hostname=unnamed" else "")}"
          "attach() {"
          "\t:"
        ]
        ++ map (one: "\tvolume ${quote one.image} ${quote (one.size or 0)} ${quote (one.readOnly or false)} ${quote (point one)}") m.volumes
        ++ map (one: "\tinterface ${quote one.type} ${quote one.id} ${quote one.mac}") m.interfaces
        ++ map (one: "\tshare ${quote one.tag} ${quote (shareSocket hostName one)} ${quote (point one)}") m.shares
        ++ [ "}" ]
      );

      # Up: what an earlier run left goes first. Both kinds belong to the user that runs QEMU, where it is not root.
      linksUp = links: add: lines ([ "#!/bin/bash" "set -e" ] ++ concatMap (one: [
        "if [ -e /sys/class/net/${one.id} ]; then ip link delete ${quote one.id}; fi"
      ] ++ add one ++ [
        "ip link set ${quote one.id} up"
      ]) links);
      tapUp = one: [
        "ip tuntap add name ${quote one.id} mode tap $(id -u microvm >/dev/null 2>&1 && echo user microvm) vnet_hdr"
      ];
      macvtapUp = one: [
        "ip link add link ${quote one.macvtap.link} name ${quote one.id} address ${quote one.mac} type macvtap mode ${quote one.macvtap.mode}"
        "if id -u microvm >/dev/null 2>&1; then chown microvm /dev/tap$(</sys/class/net/${one.id}/ifindex); fi"
      ];
      linksDown = links: lines ([ "#!/bin/sh" ] ++ map (one: "ip link delete ${quote one.id}") links);

      # One virtiofsd for each share: the first to end, or a signal, takes the others along.
      virtiofsd = hostName: shares: lines (
        [
          "#!/bin/bash"
          "for daemon in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd ''; do [ ! -x \"$daemon\" ] || break; done"
          "[ -n \"$daemon\" ] || { echo 'virtiofsd is missing; apt-get install virtiofsd, on Debian 12 qemu-system-common' >&2; exit 1; }"
          "trap 'kill $(jobs -p) 2>/dev/null' EXIT"
        ]
        ++ map (one: "\"$daemon\" --socket-path=${quote (shareSocket hostName one)} -o source=${quote one.source} &") shares
        ++ [
          "if [ -n \"\${NOTIFY_SOCKET-}\" ]; then"
          "\tuntil [ -S ${concatStringsSep " ] && [ -S " (map (one: quote (shareSocket hostName one)) shares)} ]; do sleep 0.02; done"
          "\tsystemd-notify --ready"
          "fi"
          "wait -n"
        ]
      );

      runner = kind: hostName: m: toplevel: initrd:
        let
          ofType = type: filter (one: one.type == type) m.interfaces;
          taps = ofType "tap";
          macvtaps = ofType "macvtap";
          executable = name: "chmod 755 $out/bin/${name}";
          file = name: variable: "printf %s \"\$${variable}\" > $out/${name}";
        in
        build "microvm-qemu-${hostName}" {
          run = if kind == "exits" then readFile ./exits else settings kind hostName m initrd + readFile ./microvm-run;
          qmp = "#!/usr/bin/perl\nmy $path = ${quote m.socket};\n" + readFile ./microvm-qmp;
          up = linksUp taps tapUp;
          down = linksDown taps;
          macUp = linksUp macvtaps macvtapUp;
          macDown = linksDown macvtaps;
          daemons = virtiofsd hostName m.shares;
          tapInterfaces = concatMapLines (one: one.id) taps;
          macvtapInterfaces = concatMapLines (one: "${one.id} ${one.mac} ${one.macvtap.link} ${one.macvtap.mode}") macvtaps;
          inherit toplevel;
        } (lines (
          (if kind == "broken" then [
            "echo 'compiling the guest'"
            "echo 'guest.c:7: error: this guest is broken on purpose' >&2"
            "exit 3"
          ] else [ ])
          ++ [
            "mkdir -p $out/bin $out/share/microvm"
            (file "bin/microvm-run" "run")
            (file "bin/microvm-shutdown" "qmp")
            (file "bin/microvm-balloon" "qmp")
            "echo qemu > $out/share/microvm/hypervisor"
            "echo vnet_hdr > $out/share/microvm/tap-flags"
            "ln -s $toplevel $out/share/microvm/system"
          ]
          ++ (if taps == [ ] then [ ] else [
            (file "bin/tap-up" "up")
            (file "bin/tap-down" "down")
            (file "share/microvm/tap-interfaces" "tapInterfaces")
          ])
          ++ (if macvtaps == [ ] then [ ] else [
            (file "bin/macvtap-up" "macUp")
            (file "bin/macvtap-down" "macDown")
            (file "share/microvm/macvtap-interfaces" "macvtapInterfaces")
          ])
          ++ (if m.shares == [ ] then [ ] else [ (file "bin/virtiofsd-run" "daemons") ])
          ++ concatMap (one: [
            "mkdir -p $out/share/microvm/virtiofs/${one.tag}"
            "echo ${quote (shareSocket hostName one)} > $out/share/microvm/virtiofs/${one.tag}/socket"
            "echo ${quote one.source} > $out/share/microvm/virtiofs/${one.tag}/source"
          ]) m.shares
          ++ (if m.vsock.cid == null then [ ] else [ "echo ${quote m.vsock.cid} > $out/share/microvm/vsock-cid" ])
          ++ [ "chmod 755 $out/bin/*" ]
        )) // {
          canShutdown = true;
          supportsNotifySocket = false;
          tapMultiQueue = false;
          hypervisor = "qemu";
          registerWithMachined = false;
          inherit (m) machineId;
        };

      # --- systems ---

      system = kind: defined:
        let
          loads = kind == "loaded";
          configured = configure kind loads defined config;
          inherit (configured) hostName;
          microvm = checked hostName configured.microvm;
          toplevel = build "guest-system-${hostName}" {
            kernel = staged "vmlinuz";
            initrd = booted;
          } "mkdir $out; ln -s $kernel $out/kernel; ln -s $initrd $out/initrd";
          booted = initrd hostName loads configured.loader;
          config = {
            networking = { inherit hostName; };
            system.build = { inherit toplevel; };
            microvm = microvm // { declaredRunner = runner kind hostName microvm toplevel booted; };
          };
        in
        {
          inherit config;
          options = if loads then { systemd.services = { }; } else { };
          extendModules = { modules ? [ ] }: system kind (defined ++ modules);
        };
    in
    {
      nixosConfigurations = {
        demo = system "demo" [ ];
        loaded = system "loaded" [ ]; # like demo, but blix gives it its agent, as it does to NixOS
        toy = system "toy" [ ]; # 9 KB of kernel: says READY toy after 0.05 s and halts
        mute = system "mute" [ ]; # boots, but never says that it is ready
        exits = system "exits" [ ]; # its runner ends at once, rc 1
        broken = system "broken" [ ]; # its build fails
      };
    };
}
