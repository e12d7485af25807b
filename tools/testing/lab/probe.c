// SPDX-License-Identifier: GPL-2.0
/*
 * What the running kernel answers for the interfaces that have no test on any
 * machine yet: one line each, for the table that 'make' prints.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#ifndef KVM_CAP_PPC_SECURE_GUEST
#define KVM_CAP_PPC_SECURE_GUEST	181
#endif

int main(void)
{
	int kvm;

	printf("TAP version 13\n1..1\n");
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0) {
		printf("# /dev/kvm: %s\nnot ok 1 KVM can be asked\n",
		       strerror(errno));
		return 1;
	}
	printf("# answer ppc-secure-guest: capability %d is %d on this processor\n",
	       KVM_CAP_PPC_SECURE_GUEST,
	       ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_PPC_SECURE_GUEST));
	printf("ok 1 KVM can be asked\n");
	return 0;
}
