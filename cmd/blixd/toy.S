/* The smallest guest: a PVH kernel that writes one line to the first serial port and halts.
 * blixd boots it to learn whether accel=kvm can run anything: a /dev/kvm that opens proves nothing.
 * About 0.05 s and 18 MB of host memory. By hand:
 *   qemu-system-x86_64 -M microvm,accel=tcg -cpu qemu64 -m 16 -nodefaults -no-user-config \
 *     -display none -serial stdio -kernel build/debug/libexec/toy.elf
 */
	.code32
	.section .note.PVH, "a"
	.align	4
	.long	4, 4, 18		/* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.long	_start
	.text
	.global	_start
_start:	cli
	mov	$stack + 4096, %esp
	mov	$msg, %esi
next:	lodsb
	test	%al, %al
	jz	halt
	mov	%al, %bl
wait:	mov	$0x3fd, %dx		/* line status: transmitter empty? */
	inb	%dx, %al
	test	$0x20, %al
	jz	wait
	mov	$0x3f8, %dx
	mov	%bl, %al
	outb	%al, %dx
	jmp	next
halt:	hlt
	jmp	halt
	.data
msg:	.asciz	"READY toy\r\n"
	.bss
stack:	.skip	4096
