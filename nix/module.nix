# services.blix: runs blixd from the unit that the package itself ships, so that Debian and NixOS
# have one unit. The settings become /etc/blix/blix.json, which blixd checks strictly: an unknown
# key stops it with the key's name, so a mistake is seen here by type or there by name.
self:
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkOption mkEnableOption mkIf types;
  cfg = config.services.blix;

  optional =
    type: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description;
    };

  # Options left at null are absent in the file: blixd's own defaults hold.
  prune =
    value:
    if builtins.isAttrs value then
      lib.filterAttrs (_: v: v != null && v != { }) (lib.mapAttrs (_: prune) value)
    else if builtins.isList value then
      map prune value
    else
      value;

  section = description: options: mkOption {
    type = types.submodule { inherit options; };
    default = { };
    inherit description;
  };

  server = types.submodule {
    options = {
      id = mkOption {
        type = types.ints.positive;
        description = "Number of the server in the raft group, never used twice.";
      };
      name = mkOption {
        type = types.strMatching "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
        description = "Name of the node.";
      };
      raft = mkOption {
        type = types.str;
        description = "Where its raft peers reach it: the path of a Unix socket.";
      };
      api = mkOption {
        type = types.str;
        description = "Where requests are forwarded to: the path of a Unix socket.";
      };
    };
  };
in
{
  options.services.blix = {
    enable = mkEnableOption "blixd, the daemon of a blix cluster";

    package = mkOption {
      type = types.package;
      default = self.packages.${pkgs.stdenv.hostPlatform.system}.blix;
      description = "The blix to run.";
    };

    settings = section "What /etc/blix/blix.json holds; see blix.json(5)." {
      id = optional types.ints.positive "Which of `servers` this host is.";
      name = optional (types.strMatching "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") "Name of this node; its host name if unset.";
      cluster = optional types.str "Name of the cluster, the same on all servers.";
      stateDir = optional types.path "Where blixd keeps its log and state.";
      runDir = optional types.path "Where sockets are.";
      socket = optional types.path "The API's socket.";
      microvmsDir = optional types.path "Where microVMs live.";
      microvm = optional types.path "The microvm command to drive.";
      supervision = optional (types.enum [ "auto" "systemd" "shim" ]) "Who stands by the VMs' processes.";
      electionTimeoutMs = optional types.ints.positive "How long without a leader before an election.";
      heartbeatMs = optional types.ints.positive "How often the leader is heard of.";
      buildsMax = optional types.ints.positive "How many builds may run at once.";
      sources = section "Packed flakes of clients that this node keeps." {
        maxBytes = optional types.ints.positive "How many bytes of them.";
        graceMs = optional types.ints.positive "How long one stays that no VM names.";
      };
      overcommit = section "How many times its capacity this node may promise." {
        cpu = optional types.number "Factor for CPUs.";
        memory = optional types.number "Factor for memory.";
      };
      reserved = section "What the host keeps for itself." {
        cpus = optional types.ints.unsigned "CPUs.";
        memoryBytes = optional types.ints.unsigned "Memory in bytes.";
      };
      capacity = section "What this node has, if not what the kernel says." {
        cpus = optional types.ints.positive "CPUs.";
        memoryBytes = optional types.ints.positive "Memory in bytes.";
      };
      nix = section "How nix is called." {
        extraConfig = optional types.lines "Lines added to NIX_CONFIG of every build.";
      };
      servers = optional (types.listOf server) "All servers of the cluster, this one included.";
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.settings.servers == null || builtins.any (s: s.id == cfg.settings.id) cfg.settings.servers;
        message = "services.blix.settings.id must be the id of one of services.blix.settings.servers";
      }
    ];

    environment.systemPackages = [ cfg.package ];
    environment.etc."blix/blix.json".text = builtins.toJSON (prune cfg.settings);

    systemd.packages = [ cfg.package ];
    systemd.services.blixd = {
      wantedBy = [ "multi-user.target" ];
      path = [
        config.nix.package
        pkgs.iproute2
        pkgs.util-linux
      ];
      restartTriggers = [ config.environment.etc."blix/blix.json".text ];
      # The same as scripts/install/blixd-shim.conf, which says why.
      serviceConfig = mkIf (cfg.settings.supervision == "shim") {
        Delegate = true;
        ProtectControlGroups = false;
        DeviceAllow = [
          "/dev/net/tun rw"
          "/dev/vhost-net rw"
          "/dev/vhost-vsock rw"
          "char-pts rw"
          "char-vfio rw"
        ];
        RestrictAddressFamilies = [ "AF_VSOCK" ];
        RestrictNamespaces = "user mnt pid net ipc uts";
        SystemCallFilter = [ "@mount" ];
        CapabilityBoundingSet = "CAP_IPC_LOCK CAP_MKNOD CAP_NET_ADMIN CAP_SETGID CAP_SETUID CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SYS_NICE CAP_SYS_RESOURCE";
      };
    };
    systemd.tmpfiles.rules = [
      "d /var/lib/blix 0700 root blix -"
      "d /run/blix 0750 root blix -"
      "d /var/lib/microvms 0775 microvm kvm -"
    ];

    users.groups.blix = { };
    users.users.blix = {
      isSystemUser = true;
      group = "blix";
      home = "/var/lib/blix";
    };
    # The same user as microvm.nix's host module makes; both may be there.
    users.users.microvm = {
      isSystemUser = true;
      group = "kvm";
    };
    nix.settings.experimental-features = [
      "nix-command"
      "flakes"
    ];
  };
}
