# What `make check` needs beyond the build.
{
  mkShell,
  blix,
  clang,
  clang-tools,
  cppcheck,
  shellcheck,
  bats,
  jq,
  cpio,
  strace,
  busybox,
  qemu,
  nix,
}:

mkShell {
  inputsFrom = [ blix ];
  packages = [
    clang
    clang-tools
    cppcheck
    shellcheck
    bats
    jq
    cpio
    strace
    busybox
    qemu
    nix
  ];
}
